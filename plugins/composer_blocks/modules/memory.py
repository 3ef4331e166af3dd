"""Tokens of windows and of volumes. What all samples have in common, the first tokens, comes without a batch axis."""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def spread(x: Tensor, tokens: Tensor) -> Tensor:
    """tokens (count, C) for every window of x (B, windows·count, C)."""
    return tokens.repeat(x.shape[1] // tokens.shape[0], 1).expand_as(x)


def each(table: Tensor, like: Tensor) -> Tensor:
    """table (count, C) for every sample of `like`; what is (B, count, C) already stays."""
    return table.expand(like.shape[0], -1, -1)


def middle_rows(x: Tensor, table: Tensor) -> Tensor:
    """x (B, N, C) + the middle N rows of the table (rows, C)."""
    if not torch.compiler.is_compiling() and x.shape[1] > table.shape[0]:
        raise ValueError(f"{x.shape[1]} tokens have no positions in a table of {table.shape[0]} rows")
    start = table.shape[0] // 2 - x.shape[1] // 2
    return x + table[start : start + x.shape[1]]


def join(x: Tensor, front: Tensor) -> Tensor:
    """(B, N, C), (B, extra, C) -> (B, extra + N, C)."""
    return torch.cat([front, x], 1)


class Split:
    """(B, extra + N, C) -> extra (B, extra, C), x (B, N, C)."""

    def __init__(self, extra: int):
        self.extra = extra

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        return {"extra": x[:, : self.extra], "x": x[:, self.extra :]}


def clamp(limit: float) -> Any:
    """Cuts to ±limit."""
    return partial(functional.hardtanh, min_val=-limit, max_val=limit)


class Rows:
    """The rows of each sample in a table (count, C) or (B, count, C), as indices into (B·count, C)."""

    def __init__(self, official: bool):
        self.official = official

    def flat(self, table: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """(B·count, C), and the indices (B, 4); officially later samples are one cell further on, or not at all."""
        batch, count = cell.shape[0], table.shape[-2]
        steps = count * torch.arange(batch, device=cell.device)
        if self.official:
            many = torch.full((), batch, device=cell.device) > 2  # a tensor: an exported network's batch is open
            own = steps // count * (cell.shape[1] // 4) if table.dim() == 3 else steps
            steps = torch.where(many, 0, own)
        return table.expand(batch, -1, -1).flatten(0, 1), cell.long() + steps[:, None]


class Read(Rows):
    """The rows of the cells: (B, 4, C)."""

    def __call__(self, table: Tensor, cell: Tensor) -> Tensor:
        flat, rows = self.flat(table, cell)
        return flat[rows]


class Write(Rows):
    """The table with `tokens` (B, 4, C) added to the rows of the cells: (B, count, C)."""

    def __call__(self, table: Tensor, cell: Tensor, tokens: Tensor) -> Tensor:
        flat, rows = self.flat(table, cell)
        return torch.unflatten(flat.index_put((rows,), flat[rows] + tokens), 0, (cell.shape[0], -1))


class Cells(nn.Module):
    """position (B, axes) -> cell (B, 4·per_cell), seen (B, cells·per_cell, 1), by the last two axes; numbers as any
    other value's."""

    visits: Tensor

    def __init__(
        self,
        grid: tuple[int, ...],
        crop: tuple[int, ...],
        volume: tuple[int, ...],
        last: bool,
        per_cell: int = 1,
        official: bool = False,
    ):
        super().__init__()
        self.grid, self.crop, self.volume, self.last = grid, crop, volume, last
        self.per_cell, self.official = per_cell, official
        self.register_buffer("visits", torch.zeros(grid[0] * grid[1], 1))

    def forward(self, position: Tensor) -> dict[str, Tensor]:
        (a, b), (c, d) = (self._cells(position[:, axis - 2], axis) for axis in (0, 1))
        cell = torch.stack([i * self.grid[1] + j for j in (c, d) for i in (a, b)], 1)
        with torch.no_grad():
            shown = torch.zeros_like(self.visits).index_fill(0, cell.flatten(), 1)
            self.visits += shown
        seen = (self.visits >= 1).float()
        if self.official:
            seen = functional.pad(seen, (0, 0, 0, len(seen) * (self.per_cell - 1)))
        else:
            seen = seen.repeat_interleave(self.per_cell, 0)
        own = torch.arange(self.per_cell, device=cell.device)
        cell = (cell[..., None] * self.per_cell + own).flatten(1)
        return {"cell": cell.float(), "seen": seen.expand(position.shape[0], -1, -1)}

    def _cells(self, position: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """The cell of the centre along an axis, and its neighbour."""
        count, side, whole = self.grid[axis], self.crop[axis], self.volume[axis]
        place = position.float() + whole // 2 - ceil((whole - side * count) / 2)
        first = ((place - side // 2) / side).floor().long().clamp(min=0)
        first = first.clamp(max=count - 1) if self.last else torch.where(place >= count * side, 0, first)
        return first, torch.where(first + 1 < count, first + 1, first - 1)

    def extra_repr(self) -> str:
        return f"grid={self.grid}, crop={self.crop}, volume={self.volume}"
