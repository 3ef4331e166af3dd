"""The cost of networks as predicted, beside what real runs on this machine take: `python benchmarks/cost.py`.

Each row is a network at its published size, for inference and for a step of training: bytes that are saved for the
backward pass and bytes at the peak, from `Blueprint.cost` and from a tracker of live storages in a real run on the CPU.
The last rows are a 3-D U-Net at 512 x 512 x 256, which no machine at hand could run; nothing of it is allocated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import composer
from composer.figures import number, size
from composer.testing import storages

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit", {}, 8),
    "3-D U-Net": ("unet:volume", {}, 1),
    "swin_unet": ("swin_unet", {}, 4),
    "cotr": ("cotr", dict(size=[24, 96, 96]), 1),
}
HEAD = ("network", "input", "pass", "FLOPs", "saved", "really", "peak", "really", "off", "seconds", "really", "where")
ROW = "{:<12}{:<22}{:<11}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}  {}"


def compared(label: str, name: str, params: dict[str, Any], batch: int, train: bool) -> Iterator[object]:
    """The cells of one row."""
    blueprint = composer.load(name, **params)
    start = time.perf_counter()
    found = blueprint.cost(train=train, batch=batch)
    predicting = time.perf_counter() - start
    network = blueprint.build()
    inputs = {n: torch.randn(s) for n, s in found.shapes.items()}
    start = time.perf_counter()
    real = storages.run(network, inputs, train)
    running = time.perf_counter() - start
    (shape,) = found.shapes.values()
    yield from (label, "x".join(map(str, shape)), "training" if train else "inference")
    yield from (number(found.flops + found.backward_flops), size(found.saved), size(real.saved))
    yield from (size(found.peak.bytes), size(real.peak), f"{found.peak.bytes / real.peak - 1:+.3%}")
    yield from (f"{predicting:.2f}", f"{running:.1f}", f"{found.peak.address} ({found.peak.phase})")


def lecture() -> None:
    """The figure to hold against "180 GB", with what it assumes."""
    print("\nunet3d at 512 x 512 x 256, batch 1, in training; gradients of parameters are made by the step")
    blueprint = composer.load("unet3d", size=[512, 512, 256])
    for options in ({}, {"optimizer": "adam"}, {"dtype": "bf16"}, {"checkpoint": "*.*"}):
        start = time.perf_counter()
        found = blueprint.cost(train=True, **options)
        took = time.perf_counter() - start
        said = ", ".join(f"{k} {v}" for k, v in options.items()) or "float32, nothing checkpointed, no optimizer"
        print(f"  {said:<46} saved {size(found.saved):>8}, peak {size(found.peak.bytes):>8}, counted in {took:.2f} s")
    print(f"  inference: peak {size(blueprint.cost(flops=False).peak.bytes)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="one network")
    options = parser.parse_args()
    composer.load("unet", size=[32, 32]).cost()  # imports
    print(ROW.format(*HEAD))
    for label, case in CASES.items():
        for train in (False, True) if options.only in (None, label) else ():
            print(ROW.format(*compared(label, *case, train)), flush=True)
    if options.only is None:
        lecture()


if __name__ == "__main__":
    main()
