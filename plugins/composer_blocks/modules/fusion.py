"""Joining maps."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from composer_blocks.modules.convolution import pad_high


class Fusion(nn.Module):
    """Brings a list of maps (B, C, *grid) to one grid."""

    def __init__(self, fit: str):
        super().__init__()
        self.fit = fit

    def items(self, x: Any, skip: Tensor | None) -> list[Tensor]:
        values = [*(x if isinstance(x, list) else [x]), *([skip] if skip is not None else [])]
        if self.fit == "none" or len(values) == 1:
            return values
        first, *rest = values
        self._look(first, rest)
        if self.fit == "crop_x":
            return [_corner(first, rest[0].shape[2:]), *rest]
        fit = pad_high if self.fit == "pad_skip" else _centre
        return [first, *(fit(r, first.shape[2:]) for r in rest)]

    def _look(self, x: Tensor, rest: list[Tensor]) -> None:
        """Refuses a map that would have to become larger by cropping, or smaller by padding."""
        if torch.compiler.is_compiling():
            return
        for skip in rest:
            low, high = (x, skip) if self.fit == "crop_skip" else (skip, x)
            if any(a > b for a, b in zip(low.shape[2:], high.shape[2:], strict=True)):
                text = f"`fit: {self.fit}` does not bring {tuple(skip.shape[2:])} and {tuple(x.shape[2:])} together"
                raise ValueError(text)

    def extra_repr(self) -> str:
        return f"fit={self.fit}"


class Concat(Fusion):
    """[(B, C1, *grid), (B, C2, *grid)] -> (B, C1 + C2, *grid), or channels last."""

    def __init__(self, fit: str, turned: bool, layout: str):
        super().__init__(fit)
        self.turned, self.axis = turned, 1 if layout == "first" else -1

    def forward(self, x: Any, skip: Tensor | None = None) -> Tensor:
        items = self.items(x, skip)
        return torch.cat(items[::-1] if self.turned else items, self.axis)


class Sum(Fusion):
    """The sum of maps of one type."""

    def forward(self, x: Any, skip: Tensor | None = None) -> Tensor:
        items = self.items(x, skip)
        _same_grids(items, slice(1, None))
        return reduce(torch.add, items)


class Product(Fusion):
    """The product of maps of one type, or of one with a single channel."""

    def __init__(self, fit: str, layout: str):
        super().__init__(fit)
        self.grid = slice(2, None) if layout == "first" else slice(1, -1)

    def forward(self, x: Any, skip: Tensor | None = None) -> Tensor:
        items = self.items(x, skip)
        _same_grids(items, self.grid)
        return reduce(torch.mul, items)


def _same_grids(items: list[Tensor], axes: slice) -> None:
    """Refuses what torch would broadcast: a grid of one cell beside a larger one."""
    if torch.compiler.is_compiling():
        return
    first = items[0].shape[axes]
    if any(item.shape[axes] != first for item in items):
        grids = " and ".join(str(tuple(item.shape[axes])) for item in items)
        raise ValueError(f"only equal grids are joined, not {grids}")


def _centre(x: Tensor, grid: Any) -> Tensor:
    """The centre of (B, C, *larger); an odd difference leaves the extra cell behind."""
    starts = [(n - m) // 2 for n, m in zip(x.shape[2:], grid, strict=True)]
    return x[(slice(None), slice(None), *(slice(s, s + m) for s, m in zip(starts, grid, strict=True)))]


def _corner(x: Tensor, grid: Any) -> Tensor:
    return x[(slice(None), slice(None), *(slice(0, m) for m in grid))]
