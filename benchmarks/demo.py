"""`make demo`: small U-Nets learn the lobes of a real brain, left and right.

    python benchmarks/demo.py demo

The template is its own mirror image, so what is left and what is right can only be known from far away. One network
sees 60 mm. Another is the same with two attention blocks at its bottleneck, a few lines of YAML, and sees everything.
A third has no attention but two levels more. Two train at a time, each in a process of its own, on one thread. Printed
are the Dice of every class on slabs that were held out; written are a picture and a page that needs nothing else.

It is one brain: this shows that composed networks learn, and that context changes what they can learn. It says nothing
about other brains, nor that attention is the only way: the deeper U-Net gets there too. The first pair was chosen to
show the effect; with a U-Net that sees farther there is little to gain.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import held_out
import lobes_figure
import lobes_report
import numpy as np
import torch
from numpy.typing import NDArray

import composer
from composer.attention_maps import Sight, as_seen
from composer.files import write_text
from composer.imaging import to_ras
from composer.taps import attentions
from composer.training import demonstration
from composer.training.predicting import learned

HERE = Path(__file__).parent / "lobes"
PAIR = ("short_unet", "attentive_unet")
NAMES = (*PAIR, "deep_unet")
LOOKING = ("temporal L", "temporal R", "frontal L", "occipital R")
"""Regions from which attention is shown."""


@dataclass(frozen=True)
class Result:
    """What a network came to: its labels (X, Y, Z) of the whole brain, the Dice of what was held out, pixels that it
    sees along an axis, seconds of training."""

    name: str
    found: NDArray[Any]
    dice: dict[str, float]
    field: int
    seconds: float

    @property
    def region(self) -> float:
        """Mean Dice of the lobes and the deep nuclei."""
        return held_out.region(self.dice)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train them, look at them, write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=45, help="of an epoch")
    given = parser.parse_args(arguments)
    budget = (given.epochs, given.steps)
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    listed = demonstration.write(given.out / "lobes")
    order = (PAIR[1], PAIR[0], NAMES[2])  # the one that takes longest first
    with ThreadPoolExecutor(2) as pool:
        took = dict(zip(order, pool.map(lambda n: trained(n, listed, given.out / n, *budget), order), strict=True))
    brain = held_out.brain(given.out / "lobes")
    results = [result(name, given.out / name, brain, took[name]) for name in NAMES]
    print(f"\n{table(results)}")
    shown = [lobes_figure.Shown(r.name.replace("_", " "), r.found, r.region, r.field) for r in results[:2]]
    lobes_figure.draw(brain, shown, looks(given.out / PAIR[1], brain), given.out / "lobes.png")
    page = lobes_report.page(__doc__ or "", [HERE / f"{n}.yaml" for n in NAMES], facts(results), given.out)
    write_text(given.out / "report.html", page)
    print(f"\nThe picture: {given.out}/lobes.png   the report: {given.out}/report.html")


def trained(name: str, listed: Path, out: Path, epochs: int, steps: int) -> float:
    """Train a network in a process of its own; its seconds. Interrupted, the same goes on."""
    blueprint = str(HERE / f"{name}.yaml")
    words = [blueprint, "--data", str(listed), "--out", str(out), "--device", "cpu"]
    words += ["--epochs", str(epochs), "--steps", str(steps)]
    command = [sys.executable, "-m", "composer.cli.main", "train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout or ():
            print(f"{name:<16}{line}", end="", flush=True)
    if running.returncode:
        raise SystemExit(running.returncode)
    return time.monotonic() - start


def result(name: str, folder: Path, brain: held_out.Brain, seconds: float) -> Result:
    """The network on the brain. A slice without any of it has no labels."""
    found = learned([folder], "last").segment(brain.volume)
    found[:, :, brain.image.max((0, 1)) == 0] = 0
    return Result(name, found, brain.dice(found), field_of_view(name), seconds)


def field_of_view(name: str) -> int:
    """Nominal: pixels along an axis that one output depends on by the network's structure. Norms are left aside, which
    see the mean of the whole slice; with no weight negative and nothing but sums, no dependence cancels."""
    plain = {"down.*.pool": {"use": "pool.average", "when": "${i > 0}"}}
    made = composer.load(HERE / f"{name}.yaml", norm=None, act=None, **plain)
    network = made.build().double()
    for parameter in network.parameters():
        parameter.data.abs_()
    count = 2 ** (len(made.values["widths"]) - 1)  # of places that pools treat differently
    x = torch.rand(count, 1, 96, 96, dtype=torch.double, requires_grad=True)
    at = torch.arange(count)
    network(x)[at, :, 48 + at, 48 + at].sum().backward()
    assert x.grad is not None
    return int((x.grad.abs().sum((1, 2)) > 0).sum(1).max())


def looks(folder: Path, brain: held_out.Brain) -> list[lobes_figure.Look]:
    """How the last attention of a network looks from a voxel in the middle of some regions, in a held-out slice."""
    known = learned([folder], "last")
    network: Any = known.network.networks[0]  # type: ignore[union-attr]
    z = (brain.slabs[1].start + brain.slabs[1].stop) // 2
    voxels = [(*_within(brain.truth[:, :, z] == held_out.CLASSES.index(name)), z) for name in LOOKING]
    axis = known.view.axis
    sight = Sight(network, brain.volume, known.view.size, axis)
    node = attentions(network.blueprint.check())[-1]
    gazes = sight.gazes([node], [as_seen(brain.volume, v, axis) for v in voxels])[0]
    maps = [to_ras(g.times, axis)[:, :, 0] for g in gazes if g.times is not None]
    return [lobes_figure.Look(n, g, m) for n, g, m in zip(LOOKING, gazes, maps, strict=True)]


def _within(mask: NDArray[Any]) -> tuple[int, int]:
    """The pixel of a region that is nearest to its centre."""
    inside = np.argwhere(mask)
    x, y = inside[((inside - inside.mean(0)) ** 2).sum(1).argmin()]
    return int(x), int(y)


def facts(results: Sequence[Result]) -> lobes_report.Table:
    """What the networks came to, as rows of words; the first names them."""
    costs = [composer.load(HERE / f"{r.name}.yaml").cost() for r in results]
    training = [composer.load(HERE / f"{r.name}.yaml").cost(image=(4, 1, 96, 96), train=True) for r in results]
    return [
        ["held-out Dice", *(r.name for r in results)],
        *([name, *(f"{r.dice[name]:.3f}" for r in results)] for name in held_out.CLASSES[1:]),
        ["regions", *(f"{r.region:.3f}" for r in results)],
        ["nominal field", *(_millimetres(r.field) for r in results)],
        ["parameters", *(f"{c.parameters:,}" for c in costs)],
        ["FLOPs of a slice", *(f"{c.flops / 1e6:.0f} M" for c in costs)],
        ["memory of a step", *(f"{c.peak.bytes / 2**20:.0f} MiB" for c in training)],
        ["trained for", *(f"{r.seconds:.0f} s" for r in results)],
    ]


def _millimetres(pixels: int) -> str:
    return "the whole slice" if pixels == demonstration.SIDE else f"{2 * pixels} mm"


def table(results: Sequence[Result]) -> str:
    """The same for the terminal."""
    return "\n".join(f"{row[0]:<18}" + "".join(f"{x:>18}" for x in row[1:]) for row in facts(results))


if __name__ == "__main__":
    main()
