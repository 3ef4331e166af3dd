"""Functions that an ejected file may hold beside those of its blocks; they are taken along as those are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from composer.fitting import part, reflected


def parted(x: Tensor, grids: list[tuple[int, ...]]) -> list[Tensor]:
    """A sequence (B, N, C) of several grids -> the map of each, [(B, *grid, C)]."""
    pieces = torch.split(x, [prod(grid) for grid in grids], 1)
    return [piece.reshape(x.shape[0], *grid, x.shape[-1]) for piece, grid in zip(pieces, grids, strict=True)]


Rules = Sequence[tuple[tuple[str, ...], list[Callable[..., bool]]]]


def nearest(fed: dict[str, int], rules: Rules, up: bool) -> dict[str, int]:
    """The valid sizes nearest to those fed, none smaller if `up`, else none larger; those fed where there are none."""
    found = dict(fed)
    for axes, asked in rules:
        sizes = [fed[a] for a in axes]
        for reach in (32, 128, 512, 2048):
            around = [range(n, n + reach + 1) if up else range(max(1, n - reach), n + 1) for n in sizes]
            fits = (c for c in product(*around) if all(rule(*c) for rule in asked))
            changes = ((sum(abs(n - m) for n, m in zip(c, sizes, strict=True)), max(c), c) for c in fits)
            best = min(changes, default=None)
            if best is not None and (best[0] <= reach or reach == 2048):
                found |= dict(zip(axes, best[2], strict=True))
                break
        else:
            return dict(fed)
    return found


def fitted(x: Tensor, axes: Sequence[str], fed: dict[str, int], runs: dict[str, int], reflect: bool = False) -> Tensor:
    """(B, C, *fed) -> (B, C, *runs): what is added or cut off stands half before, the rest behind."""
    change = [runs[a] - fed[a] for a in axes]
    before = [n // 2 if n > 0 else -(-n // 2) for n in change]
    sides = list(zip(before, [n - b for n, b in zip(change, before, strict=True)], strict=True))
    if not any(change):
        return x
    if not reflect or max(change) <= 0:
        return functional.pad(x, [n for pair in reversed(sides) for n in pair])
    for axis, pair in enumerate(sides, 2):
        x = x.index_select(axis, reflected(x.shape[axis], *pair).to(x.device))
    return x


def cropped(y: Tensor, shares: dict[int, tuple[str, Fraction]], fed: dict[str, int], runs: dict[str, int]) -> Tensor:
    """The part of a map that belongs to what was fed; `shares` are cells of each axis for each cell of an input's."""
    if all(runs[a] <= fed[a] for a in runs):
        return y
    for axis, (name, share) in shares.items():
        start, length = part(y.shape[axis], share, fed[name], runs[name])
        y = y.narrow(axis, start, length)
    return y
