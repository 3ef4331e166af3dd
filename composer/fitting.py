"""Images of any size: padded to the nearest valid size and cropped back, as an input's `pad:` asks.

    auto   n -> the nearest valid size m >= n; half of the m - n cells go before, the rest behind
    crop   n -> the middle of the largest valid size m <= n; the outputs have that size
    error  what is not valid is refused

A valid size passes untouched. Under `auto` an output on a grid is cropped back to the part that belongs to the image:
where the output's cells are a share of the image's (`H/4`), to that share rounded up; where unpadded convolutions ate a
margin (572 -> 388), to that much less than the image. The image's centre stays where it was, so a second input that
says where this crop lies in a volume stays true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from composer.dims import Size, at, symbols_of
from composer.inference import ProgramInput
from composer.sizes import Constraint, nearest_valid

Sizes = Mapping[str, int]

MANY = 2**8 * 3**2 * 5 * 7
"""Cells that any stride in use divides."""


@dataclass(frozen=True)
class Fit:
    """The sizes of the axes as fed, and those that the network runs at."""

    fed: Sizes
    runs: Sizes

    @property
    def cut(self) -> bool:
        """Whether the input became smaller, so that nothing of an output is left to crop."""
        return all(self.runs[a] <= self.fed[a] for a in self.runs)

    def input(self, x: Tensor, spec: ProgramInput) -> Tensor:
        """(B, C, *fed) -> (B, C, *runs)."""
        if all(self.runs[a] == self.fed[a] for a in spec.axes):
            return x
        change = [self.runs[a] - self.fed[a] for a in spec.axes]
        before = [n // 2 if n > 0 else -(-n // 2) for n in change]
        sides = list(zip(before, [n - b for n, b in zip(change, before, strict=True)], strict=True))
        if spec.fill == "zero" or max(change) <= 0:  # a negative side is cut off
            return functional.pad(x, [n for pair in reversed(sides) for n in pair])
        for axis, pair in enumerate(sides, 2):
            x = x.index_select(axis, reflected(x.shape[axis], *pair).to(x.device))
        return x

    def output(self, y: Tensor, grid: Sequence[Size]) -> Tensor:
        """(B, C, *grid at `runs`) -> the part of it that belongs to what was fed."""
        for axis, size in enumerate(grid, 2):
            names = symbols_of(size)
            if len(names) == 1 and isinstance(y, Tensor):
                (name,) = names
                start, length = part(y.shape[axis], share(size, name), self.fed[name], self.runs[name])
                y = y.narrow(axis, start, length)
        return y


def share(size: Size, name: str) -> Fraction:
    """Cells of an output for each cell of the image: 1/4 for `H/4`, 1 for `H - 184`."""
    return Fraction(at(size, {name: 2 * MANY}) - at(size, {name: MANY}), MANY)


def part(cells: int, share: Fraction, fed: int, runs: int) -> tuple[int, int]:
    """Where the cells of the image begin among `cells` made of `runs`, and how many there are."""
    if fed >= runs:
        return 0, cells
    eaten = max(0, floor(share * runs) - cells)
    start = floor(share * ((runs - fed) // 2))
    length = min(ceil(share * fed) - eaten, cells - start)
    return (start, length) if length > 0 else (0, cells)


def reflected(length: int, before: int, behind: int) -> Tensor:
    """Indices of an axis that goes on by reflection, back and forth as often as needed."""
    places = torch.arange(-before, length + behind)
    if length == 1:
        return torch.zeros_like(places)
    places = places % (2 * length - 2)
    return torch.minimum(places, 2 * length - 2 - places)


def fit(inputs: Sequence[ProgramInput], constraints: Sequence[Constraint], fed: Sizes) -> Fit | None:
    """How a size that is not valid becomes one; None where it is valid already, or where no padding helps."""
    modes = {a: i.pad for i in inputs for a in i.axes if a in fed}
    if all(c.holds(fed) for c in constraints if c.symbols <= set(fed)):
        return None
    runs = nearest_valid(constraints, fed, up="auto" in modes.values())
    if runs is None or any(runs[a] != fed[a] for a, mode in modes.items() if mode == "error"):
        return None
    return Fit(dict(fed), runs)


def grids_of(values: Sequence[Any], ids: Sequence[int]) -> dict[int, tuple[Size, ...]]:
    """The grids of those outputs that are maps."""
    return {i: values[i].type.grid for i in ids if values[i].type.kind == "map"}


__all__ = ["Fit", "fit", "grids_of", "part", "reflected", "share"]
