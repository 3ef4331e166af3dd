"""Every segmentation network, small, learns the lobes of one brain: `make learning`.

    rows.yaml -> a blueprint of each row -> steps of training -> a line of learning/rows.csv -> docs/learning.md

All see as many steps of the same recipe from the same seed, each in a process of its own on one thread. Rows that the
CSV has are not run again, so it goes on where it was stopped; one that failed says why, and is tried again.

Measured are the Dice over all held-out slices together (mean of the lobes and the deep nuclei; and of grey matter,
which takes no context), HD95 within the three slabs, processor seconds and the growth of the process in training.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import held_out
import numpy as np
import torch
import yaml

import composer
from composer import imaging
from composer.bench import peaks
from composer.files import write_text
from composer.training import cases, demonstration, scoring, store

ROWS = Path(__file__).parent / "lobes" / "rows.yaml"
LIMIT = 1200
"""Seconds after which a row is given up."""


@dataclass(frozen=True)
class Row:
    """What a network came to. `why` says what went wrong, where something did."""

    name: str
    seed: int
    steps: int
    sees: str = ""
    parameters: int = 0
    region: float = nan
    matter: float = nan
    found: int = 0
    hd95: float = nan
    loss: float = nan
    seconds: float = nan
    megabytes: float = nan
    why: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; 1 where a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="names of rows.yaml; all without")
    parser.add_argument("--out", type=Path, default=Path("learning"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="write the table as Markdown, too")
    parser.add_argument("--alone", action="store_true", help="one row in this process, as JSON")
    given = parser.parse_args(arguments)
    if given.alone:
        print(json.dumps(asdict(learned(given.rows[0], given.out, given.steps, given.seed))))
        return 0
    demonstration.write(given.out / "lobes")
    table, done = given.out / "rows.csv", read(given.out / "rows.csv")
    for name in given.rows or blueprints():
        key = (name, given.seed, given.steps)
        if done.get(key) is None or done[key].why:
            done[key] = apart(name, given)
            write_text(table, as_csv(done.values()))
            print(said(done[key]), flush=True)
    if given.page:
        write_text(given.page, page([r for r in done.values() if r.steps == given.steps]))
    return int(any(r.why for r in done.values()))


def blueprints() -> dict[str, Any]:
    """The documents of all rows by name."""
    return dict(yaml.safe_load(ROWS.read_text()))


def blueprint(name: str) -> composer.Blueprint:
    """The network of a row, for one channel and the classes of the lobes."""
    document = blueprints()[name]
    if str(document["extends"]).endswith(".yaml"):
        return composer.load(ROWS.parent / document["extends"])
    document["params"] |= {"channels": 1, "classes": len(demonstration.CLASSES)}
    return composer.Blueprint.parse(json.dumps({"blueprint": 1, "name": name, "summary": name, **document}), name=name)


def apart(name: str, given: argparse.Namespace) -> Row:
    """A row in a process of its own."""
    words = [name, "--alone", "--out", str(given.out), "--steps", str(given.steps), "--seed", str(given.seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), *words]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Row(name, given.seed, given.steps, why=f"not done after {LIMIT} s")
    if done.returncode:
        return Row(name, given.seed, given.steps, why=_reason(done.stderr) or f"exit status {done.returncode}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def _reason(stderr: str) -> str:
    """What went wrong: the first error with a code, or the last line of a traceback."""
    lines = [x.strip() for x in stderr.splitlines() if x.strip()]
    coded = [x for x in lines if "error[" in x or "BlueprintError" in x]
    return (coded or lines[-1:] or [""])[0][:160]


def learned(name: str, out: Path, steps: int, seed: int) -> Row:
    """Train the network of a row, and segment what was held out."""
    from composer.lightning import Segmentation
    from composer.segmenting import head_of
    from composer.training.engine import Data, Machine, learn
    from composer.training.objective import begin_with_frequencies
    from composer.training.runs import Run
    from composer.training.suiting import view_of

    torch.set_num_threads(1)
    made = blueprint(name)
    view, dataset = view_of(made), cases.read(out / "lobes")
    dataset = replace(dataset, parts={"training": dataset.parts["training"]})
    scaling = store.scalings(dataset, 1)
    examples = store.prepare(dataset, view, scaling, out / f"prepared_{view.rank}d")
    run = Run(out / "runs" / f"{name}_{seed}")
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    torch.manual_seed(seed)
    network, data = made.build(), Data(examples, view, flip=False)
    counts = [sum(e.counts[k] for e in data.part("training")) for k in range(view.classes)]
    begin_with_frequencies(network, head_of(made.check()), counts)
    module = Segmentation(network, recipe(made, steps, seed, view.rank), dataset.labels, view.size)
    before, start = peaks.status("VmRSS") if peaks.forget() else None, time.process_time()
    rows = learn(module, data, run, Machine(accelerator="cpu"))
    took, most = time.process_time() - start, peaks.status("VmHWM")
    grown = nan if before is None or most is None else (most - before) / 2**20
    tested = scored(network, view, held_out.brain(out / "lobes"), dataset.labels)
    size = sum(p.numel() for p in network.parameters())
    sees = "×".join(map(str, view.size))
    return Row(name, seed, steps, sees, size, **tested, loss=rows[-1]["loss"], seconds=took, megabytes=grown)


def recipe(made: composer.Blueprint, steps: int, seed: int, rank: int) -> Any:
    """That of the demonstration for all of them, in one epoch. What attends, and what stands around it in its block,
    learns half as fast. A batch is four slices, or one piece of eight: the same change of all of them counts as one."""
    from composer.taps import attentions
    from composer.training.recipe import recipe as recipe_of

    own = composer.load(ROWS.parent / "short_unet.yaml").source["training"]
    nodes = {a.address.rpartition(".")[0] or a.address for a in attentions(made.check())}
    asked = {"epochs": 1, "steps": steps, "seed": seed, "slower": dict.fromkeys(sorted(nodes), 0.5), "prior": False}
    return recipe_of(own, asked, {"batch": 4 if rank == 2 else 1})


def scored(network: Any, view: store.View, brain: held_out.Brain, labels: Sequence[str]) -> dict[str, Any]:
    """The scores of a row."""
    position = any(i.name == "position" for i in network.inputs)
    found = imaging.segment(
        network, brain.volume, size=view.size, classes=view.classes, axis=view.axis, overlap=0.25, position=position
    )
    pairs = brain.pairs(found)
    matter = [tuple(((a >= 3) & (a < len(labels) - 1)).astype(np.uint8) for a in pair) for pair in pairs]
    rows = [s for k, p in enumerate(pairs) for s in scoring.scores(str(k), *p, labels, brain.volume.spacing)]
    far = [s.hd95 for s in rows if s.label in held_out.REGIONS and not isnan(s.hd95)]
    shown = {int(k) for f, _ in pairs for k in np.unique(f)}
    return {
        "region": held_out.region(brain.dice(found)),
        "matter": scoring.pooled(matter, ("other", "grey matter"))["grey matter"],  # type: ignore[arg-type]
        "found": sum(k in shown for k in range(3, len(labels))),
        "hd95": fmean(far) if far else nan,
    }


def read(path: Path) -> dict[tuple[str, int, int], Row]:
    """The rows of a CSV that are known already."""
    if not path.is_file():
        return {}
    kinds = {f.name: {"int": int, "float": float}.get(str(f.type), str) for f in fields(Row)}
    rows = [Row(**{k: kinds[k](v) for k, v in r.items()}) for r in csv.DictReader(path.read_text().splitlines())]
    return {(r.name, r.seed, r.steps): r for r in rows}


def as_csv(rows: Iterable[Row]) -> str:
    """A line for each row."""
    with io.StringIO() as text:
        writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(r) for r in rows)
        return text.getvalue()


def said(row: Row) -> str:
    """A line for the screen."""
    if row.why:
        return f"{row.name:<28} {row.why}"
    return (
        f"{row.name:<28} region {row.region:.3f}  HD95 {row.hd95:5.1f} mm  {row.seconds:5.0f} s  {row.parameters:>9,}"
    )


HEAD = (
    "| network | sees | parameters | region Dice | grey matter | regions found | HD95 mm | loss | CPU s | memory MB |"
)


def page(rows: Sequence[Row]) -> str:
    """docs/learning.md."""
    good = sorted((r for r in rows if not r.why), key=lambda r: -r.region)
    bad = [r for r in rows if r.why] + [
        Row(n, 0, 0, why="not run") for n in blueprints() if n not in {r.name for r in rows}
    ]
    table = "\n".join([HEAD, "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", *map(_line, good)])
    missing = "".join(f"- `{r.name}`: {r.why}\n" for r in bad)
    ablation = {r.name: r for r in good if r.name in ABLATION}
    return (
        (ROWS.parent / "learning.md")
        .read_text()
        .format(
            steps=max((r.steps for r in rows), default=0),
            seeds=", ".join(map(str, sorted({r.seed for r in rows}))),
            table=table,
            ablation=_ablation(ablation),
            missing=f"\nWithout a figure:\n\n{missing}" if missing else "",
        )
    )


def _line(r: Row) -> str:
    found = f"{r.found} of {len(held_out.REGIONS)}"
    figures = (
        f"{r.region:.3f} | {r.matter:.3f} | {found} | {r.hd95:.1f} | {r.loss:.2f} | {r.seconds:.0f} | {r.megabytes:.0f}"
    )
    return f"| `{r.name}` | {r.sees} | {r.parameters:,} | {figures} |"


ABLATION: Mapping[str, tuple[str, str]] = {
    "ablation_none": ("neither (U-Net)", ""),
    "ablation_mhsa": ("self-attention at the bottom (MHSA)", "with"),
    "ablation_mhsa_no_position": ("self-attention at the bottom (MHSA)", "without"),
    "ablation_mhca": ("cross-attention in the skips (MHCA)", "with"),
    "ablation_mhca_no_position": ("cross-attention in the skips (MHCA)", "without"),
    "u_transformer": ("both (U-Transformer)", "with"),
    "u_transformer_no_position": ("both (U-Transformer)", "without"),
}


def _ablation(rows: Mapping[str, Row]) -> str:
    lines = [
        f"| {a} | {p or '–'} | {rows[n].region:.3f} | {rows[n].matter:.3f} |"
        for n, (a, p) in ABLATION.items()
        if n in rows
    ]
    return "\n".join(["| attention | position code | region Dice | grey matter |", "|---|---|---:|---:|", *lines])


if __name__ == "__main__":
    sys.exit(main())
