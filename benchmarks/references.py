"""Every reference that is installed beside its blueprint, in one table: `make bench`.

    python benchmarks/references.py --rounds 5 --only swin --only vnet

Weights are equal, times are taken in turn in one process, memory in processes of their own; once with glibc's allocator
as it is, once with its thresholds tuned for both sides. Ratios are how many times as long the reference takes; peaks
are of tensors alive beside weights and inputs, ours over the reference's. Below a ratio that falls short of its goal
stands why, from a profile. The last lines are geometric means.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from composer.bench import Case
from composer.bench.processes import fresh
from composer.bench.report import Found, geometric, milliseconds

DETECTOR = ("dropout=0",)
NETWORKS: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[int, ...]]]] = {
    "vit": ("vit", (), {"image": (1, 3, 224, 224)}),
    "swin": ("swin", ("drop_path=0",), {"image": (1, 3, 224, 224)}),
    "segformer": (
        "segformer:b2",
        ("size=[256,256]", "eps=1e-5", "drop_path=0", "head_dropout=0"),
        {"image": (1, 3, 256, 256)},
    ),
    "detr": ("detr", ("size=[256,320]", *DETECTOR), {"image": (1, 3, 256, 320)}),
    "deformable_detr": ("deformable_detr", ("size=[256,320]", *DETECTOR), {"image": (1, 3, 256, 320)}),
    "transformer": ("transformer:torch", ("dropout=0",), {"source": (1, 512, 128), "target": (1, 512, 128)}),
    "unetr": ("unetr", ("size=[64,64,64]",), {"image": (1, 1, 64, 64, 64)}),
    "swin_unetr": ("swin_unetr:f24", ("size=[64,64,64]",), {"image": (1, 1, 64, 64, 64)}),
    "vnet": ("vnet", ("size=[64,64,32]",), {"image": (1, 1, 64, 64, 32)}),
    "attention_unet_monai": ("attention_unet_monai", ("size=[96,96,96]",), {"image": (1, 1, 96, 96, 96)}),
    "unet": ("unet", ("size=[224,224]", "widths=[32,32,64,128,256]"), {"image": (1, 1, 224, 224)}),
}
"""Published networks, volumes at sizes that two cores compute in a second.

Where a training step stays below 1.1, from profiles, both sides alike:

vit          84 % is products of matrices, 4 % fused attention
transformer  79 % is products of matrices, 5 % fused attention
detr         65 % is torch's convolution, forward and backward, 9 % products of matrices. The heads of all six layers
             are computed for the losses, theirs of the last one
unetr        49 % is torch's convolution, 16 % products of matrices, 8 % batch norm
vnet         92 % is torch's convolution

The ratios of these lie between 0.97 and 1.03, which is how far two runs of the same network are apart.

A plan of buffers laid out before the run is not built: what it could save is page faults, and the tuned allocator that
`composer run` and `train` set for themselves saves these already (a step of `attention_unet_monai` 2639 -> 1656 ms).
"""

GOALS = {False: 1.0, True: 1.1}
"""Ratios that every network should have at least, at evaluation and in training."""

ROW = "{:<22}{:<15}{:<11}{:>8}{:>9}{:>7}{:>12}{:>9}{:>9}{:>7}{:>9}{:>10}{:>10}".format
HEAD = (
    "model",
    "input",
    "allocator",
    "ours",
    "theirs",
    "ratio",
    "spread",
    "peak",
    "theirs",
    "ratio",
    "resident",
    "outputs",
    "gradients",
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    network: str
    shape: tuple[int, ...]
    found: Found

    def __str__(self) -> str:
        times, ours, theirs = self.found.times, self.found.ours, self.found.theirs
        assert ours is not None
        assert theirs is not None
        grown = f"{ours.resident / theirs.resident:.2f}" if ours.resident and theirs.resident else "-"
        spread = f"{times.ratios[0]:.2f}-{times.ratios[-1]:.2f}"
        off = [f"{d:.0e}" if d is not None else "-" for d in (times.apart.outputs, times.apart.gradients)]
        return ROW(
            self.network, "x".join(map(str, self.shape)), self.found.allocator, f"{milliseconds(times.ours):.0f}",
            f"{milliseconds(times.theirs):.0f}", f"{times.ratio:.2f}", spread, f"{ours.tensors / 2**20:.0f}",
            f"{theirs.tensors / 2**20:.0f}", f"{self.found.memory:.2f}", grown, *off,
        )  # fmt: skip


def rows(case: Case, name: str) -> Iterator[Row]:
    """Both allocators. What is alive is the same under both, so that memory is measured once."""
    from composer.bench.peaks import peak
    from composer.bench.times import timed

    peaks = [fresh(peak, case, ours) for ours in (True, False)]
    shape = next(iter(case.shapes.values()))
    for allocator in ("default", "tuned"):
        times = fresh(timed, case, tuned=allocator == "tuned")
        yield Row(name, shape, Found(allocator, times, *peaks))


def mode(train: bool, base: Case, names: list[str]) -> list[Row]:
    """A table, printed as it grows, and its geometric means."""
    print(f"\n{'a training step' if train else 'inference'}; milliseconds, MiB")
    print(ROW(*HEAD), flush=True)
    found = []
    for name in names:
        blueprint, overrides, shapes = NETWORKS[name]
        case = replace(base, blueprint=blueprint, overrides=overrides, shapes=shapes, train=train)
        for row in rows(case, name):
            print(row, flush=True)
            found.append(row)
        if min(r.found.times.ratio for r in found[-2:]) < GOALS[train]:
            from composer.bench.profiling import profiled, reason

            print(f"  {reason(fresh(profiled, case))}", flush=True)
    return found


def means(found: list[Row]) -> Iterator[str]:
    """Of ratios and of peaks."""
    for allocator in ("default", "tuned"):
        mine = [r.found for r in found if r.found.allocator == allocator]
        ratio, peak = geometric(f.times.ratio for f in mine), geometric(f.memory or 1 for f in mine)
        low = min(mine, key=lambda f: f.times.ratio).times
        yield f"  {allocator:<9} ratio {ratio:.2f} (lowest {low.ratio:.2f}), peak {peak:.2f}, over {len(mine)} networks"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NETWORKS, help="one network, repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--mode", choices=("inference", "training", "both"), default="both")
    options = parser.parse_args()
    os.environ.pop("COMPOSER_PLUGINS", None)
    base, names = Case("", rounds=options.rounds, threads=options.threads), options.only or list(NETWORKS)
    start = time.time()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f} before; {options.rounds} rounds in turn")
    tables = {
        train: mode(train, base, names)
        for train in (False, True)
        if options.mode != ("inference", "training")[not train]
    }
    for train, found in tables.items():
        print(f"\ngeometric means, {'a training step' if train else 'inference'}")
        print("\n".join(means(found)))
    print(f"\n{time.time() - start:.0f} seconds, load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
