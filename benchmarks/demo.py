"""`make demo`: two small U-Nets learn the lobes of a real brain, left and right, side by side.

    python benchmarks/demo.py demo

One sees 48 mm; the other is the same U-Net with two attention blocks at its bottleneck, a few lines of YAML. The
template is its own mirror image, so what is left and what is right can only be known from far away. Each trains in a
process of its own, on one thread. Printed are the Dice of every class on slabs that were held out; written are a
picture and a page that needs nothing else.

It is one brain: this shows that composed networks learn, and that context changes what they can learn. It does not show
that attention is the only way: a deeper U-Net without any gets there too. The pair was chosen to show the effect.
"""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

import composer
from composer.files import whole, write_text
from composer.training import cases, demonstration, store
from composer.training.predicting import learned
from composer.training.scoring import Score, means, scores

HERE = Path(__file__).parent / "lobes"
NAMES = ("short_unet", "attentive_unet")
REGIONS = demonstration.CLASSES[3:]
HUES = (
    "#0072b2",
    "#7fbfe5",
    "#009e73",
    "#7fdfbf",
    "#b04a98",
    "#f2b0dd",
    "#d55e00",
    "#f8ae78",
    "#9c7500",
    "#fff07f",
    "#4b3fa8",
)
"""Of the regions, dark is left and light is right."""
WRONG_REGION, WRONG_TISSUE = "#e8001c", "#3db7ff"


@dataclass(frozen=True)
class Result:
    """What a network came to: its scores, and for each held-out slab image, truth and labels, as (X, Y, Z)."""

    name: str
    field: int
    scored: list[Score]
    slabs: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
    seconds: float

    @property
    def region(self) -> float:
        """Mean Dice of the lobes and the deep nuclei."""
        rows = means(self.scored)
        return float(np.mean([rows[n].dice for n in REGIONS]))


def main() -> None:
    """Train both, look at them, write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    listed = demonstration.write(given.out / "lobes")
    start = time.monotonic()
    runs = [trained(name, listed, given.out / name, given.epochs) for name in NAMES]
    done = [(run, run.wait(), time.monotonic() - start) for run in runs]
    if any(code for _, code, _ in done):
        raise SystemExit(1)
    results = [result(name, given.out / name, listed, s) for name, (_, _, s) in zip(NAMES, done, strict=True)]
    print(table(results))
    picture(results, given.out / "lobes.png")
    write_text(given.out / "report.html", report(results, given.out))
    print(f"\nThe picture: {given.out}/lobes.png   the report: {given.out}/report.html")


def trained(name: str, listed: Path, out: Path, epochs: int) -> subprocess.Popen[bytes]:
    """A network in training, in a process of its own; interrupted, the same goes on."""
    words = [
        str(HERE / f"{name}.yaml"),
        "--data",
        str(listed),
        "--out",
        str(out),
        "--epochs",
        str(epochs),
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-m", "composer.cli.main", "train", *words]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def result(name: str, folder: Path, listed: Path, seconds: float) -> Result:
    """The network on the slabs that were held out."""
    known, scored, slabs = learned([folder], "last"), [], []
    for case in cases.read(listed).parts["test"]:
        volume = known.seen(case)
        truth = store.classes_of(case, volume, known.view.classes)
        found = known.segment(volume)
        scored += scores(case.name, found, truth, known.labels, volume.spacing)
        slabs.append((store.volume_of(case, 1).data[0], truth, found))
    return Result(name, field_of_view(name), scored, slabs, seconds)


def field_of_view(name: str) -> int:
    """Pixels along an axis on which one output can depend; norms aside, which see the whole slice."""
    network = composer.load(HERE / f"{name}.yaml", norm=None).build().eval()
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    network(x)[0, :, 48, 48].sum().backward()
    return int((x.grad.abs().sum((0, 1, 2)) > 0).sum())  # type: ignore[union-attr]


def table(results: Sequence[Result]) -> str:
    """Dice of every class, and what the networks cost."""
    rows = [means(r.scored) for r in results]
    lines = [f"{'held-out Dice':<18}" + "".join(f"{r.name:>18}" for r in results)]
    for name in demonstration.CLASSES[1:]:
        lines.append(f"{name:<18}" + "".join(f"{row[name].dice:>18.3f}" for row in rows))
    lines.append(f"{'regions':<18}" + "".join(f"{r.region:>18.3f}" for r in results))
    costs = [composer.load(HERE / f"{r.name}.yaml").cost() for r in results]
    lines.append(f"{'field of view':<18}" + "".join(f"{f'{2 * r.field} mm':>18}" for r in results))
    lines.append(f"{'parameters':<18}" + "".join(f"{c.parameters:>18,}" for c in costs))
    lines.append(f"{'FLOPs of a slice':<18}" + "".join(f"{c.flops / 1e6:>16.0f} M" for c in costs))
    lines.append(f"{'trained for':<18}" + "".join(f"{r.seconds:>16.0f} s" for r in results))
    return "\n".join(lines)


def picture(results: Sequence[Result], path: Path) -> None:
    """A row for each held-out slab, its middle slice: image, truth, what each network says, where it is wrong."""
    figure = Figure(figsize=(13, 7.6), facecolor="white")
    FigureCanvasAgg(figure)
    heads = [
        "T1",
        "truth",
        *(f"{r.name}\nregion Dice {r.region:.2f}" for r in results),
        *(f"errors\n{r.name}" for r in results),
    ]
    grid = figure.subplots(len(results[0].slabs), len(heads), squeeze=False)
    for k, row in enumerate(grid):
        image, truth, _ = (a[:, :, a.shape[2] // 2] for a in results[0].slabs[k])
        said = [r.slabs[k][2][:, :, truth_depth(r, k)] for r in results]
        shown = [None, _coloured(truth), *map(_coloured, said), *(_errors(truth, s) for s in said)]
        for at, overlay in zip(row, shown, strict=True):
            _draw(at, image, overlay)
    for at, head in zip(grid[0], heads, strict=True):
        at.set_title(head, fontsize=10)
    keys = [Patch(color=c, label=n) for n, c in zip(REGIONS, HUES, strict=True)]
    keys += [
        Patch(color=WRONG_REGION, label="right tissue, wrong region"),
        Patch(color=WRONG_TISSUE, label="wrong tissue"),
    ]
    figure.legend(handles=keys, loc="lower center", ncols=7, frameon=False, fontsize=8.5)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.1, wspace=0.03, hspace=0.03)
    with whole(path) as draft:
        figure.savefig(draft, dpi=100)


def truth_depth(result: Result, k: int) -> int:
    """The middle slice of a slab."""
    return int(result.slabs[k][1].shape[2] // 2)


def _draw(at: Any, image: NDArray[Any], overlay: NDArray[Any] | None) -> None:
    """A slice with the patient's left on the left and the front on top."""
    at.imshow(image.T, cmap="gray", origin="lower")
    if overlay is not None:
        at.imshow(overlay.swapaxes(0, 1), origin="lower", interpolation="nearest")
    at.set_axis_off()


def _coloured(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Regions in their colours; tissue stays grey, as it is easy."""
    return _painted([(labels == 3 + k, hue, 0.75) for k, hue in enumerate(HUES)], labels.shape)


def _errors(truth: NDArray[Any], said: NDArray[Any]) -> NDArray[np.float32]:
    wrong, both = truth != said, (truth >= 3) & (said >= 3)
    dim = (np.ones(truth.shape, bool), "#000000", 0.45)
    return _painted([dim, (wrong & both, WRONG_REGION, 1.0), (wrong & ~both, WRONG_TISSUE, 1.0)], truth.shape)


def _painted(layers: Sequence[tuple[NDArray[Any], str, float]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    from matplotlib.colors import to_rgba

    picture = np.zeros((*shape, 4), np.float32)
    for mask, hue, alpha in layers:
        picture[mask] = to_rgba(hue, alpha)
    return picture


def report(results: Sequence[Result], folder: Path) -> str:
    """One page: what was changed, what came out, how it was learned, and the exact YAML."""
    blueprints = [composer.load(HERE / f"{r.name}.yaml") for r in results]
    parts = [
        ("What was done", f"<pre>{html.escape(str(__doc__).partition('One sees')[2])}</pre>"),
        ("Held out", f"<pre>{html.escape(table(results))}</pre>" + _image(folder / "lobes.png")),
        ("Learning", _curves(results, folder)),
        ("What differs", f"<pre>{html.escape(differing(*blueprints))}</pre>"),
        *((r.name, _text(HERE / f"{r.name}.yaml") + b._repr_html_()) for r, b in zip(results, blueprints, strict=True)),
    ]
    body = "\n".join(f"<h2>{html.escape(title)}</h2>\n{text}" for title, text in parts)
    return PAGE.format(body=body)


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Lobes of one brain</title><style>
body {{ font: 15px/1.5 system-ui; max-width: 1180px; margin: 2em auto; padding: 0 1em }}
pre {{ background: #f4f4f4; padding: 1em; overflow: auto }}
img, svg {{ max-width: 100% }}
</style></head>
<body><h1>Two U-Nets and the lobes of one brain</h1>
{body}
</body></html>
"""


def differing(one: composer.Blueprint, other: composer.Blueprint) -> str:
    """What `composer diff` says."""
    from composer.cli.changing import network
    from composer.diff import difference

    return difference(network(one), network(other)).text()


def _text(path: Path) -> str:
    return f"<pre>{html.escape(path.read_text())}</pre>"


def _image(path: Path) -> str:
    return f'<img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _curves(results: Sequence[Result], folder: Path) -> str:
    """The loss of every epoch."""
    figure = Figure(figsize=(7, 3))
    FigureCanvasAgg(figure)
    at = figure.subplots()
    for r in results:
        rows = list(csv.DictReader((folder / r.name / "metrics.csv").read_text().splitlines()))
        at.plot([int(float(x["epoch"])) for x in rows], [float(x["loss"]) for x in rows], marker="o", label=r.name)
    at.set(xlabel="epoch", ylabel="loss")
    at.legend(frameon=False)
    figure.tight_layout()
    with io.BytesIO() as held:
        figure.savefig(held, dpi=110)
        return f'<img alt="loss" src="data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}">'


if __name__ == "__main__":
    main()
