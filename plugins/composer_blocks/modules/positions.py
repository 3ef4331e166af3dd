"""Position tables."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from composer_blocks.modules.derived import Derived


class Learned(nn.Module):
    """x (B, N, C) -> x + table, or the table as (B, N, C)."""

    def __init__(self, rows: int, channels: int, std: float, add: bool):
        super().__init__()
        self.add = add
        self.table = nn.Parameter(torch.zeros(rows, channels))
        if std:
            nn.init.trunc_normal_(self.table, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table if self.add else self.table.expand(x.shape[0], -1, -1)


class Relative(Derived):
    """() -> (heads, n, n) for a window of n cells."""

    index: Tensor

    def __init__(
        self, window: tuple[int, ...], table: tuple[int, ...], heads: int, index: str, clamped: str, std: float
    ):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(prod(2 * n - 1 for n in table), heads))
        nn.init.trunc_normal_(self.table, std=std)
        self.options = (window if clamped == "rebuild" else table, table, index)
        self.count = prod(window)
        self.derive()

    def derived(self) -> dict[str, Tensor]:
        return {"index": offsets(*self.options)[: self.count, : self.count].reshape(-1)}

    def forward(self, x: None = None, full: None = None) -> Tensor:
        return self.table[self.index].view(self.count, self.count, -1).permute(2, 0, 1)


def offsets(cells: tuple[int, ...], table: tuple[int, ...], index: str) -> Tensor:
    """Row of the table for each pair of cells: (n, n).

    The device is named because a network may be made on `meta`, where an index would have no values.
    """
    axes = [torch.arange(n, device="cpu") for n in cells]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(cells))
    steps = grid[:, None] - grid[None] + torch.tensor([n - 1 for n in table], device="cpu")
    if index == "nnformer" and len(table) == 3:
        weights = [3 * table[1] - 1, 2 * table[1] - 1, 1]
    else:
        weights = [prod(2 * n - 1 for n in table[k + 1 :]) for k in range(len(table))]
    return (steps * torch.tensor(weights, device="cpu")).sum(-1)
