"""Position tables."""

from __future__ import annotations

from math import pi, prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from composer_blocks.modules.derived import Derived


def begin(table: Tensor, std: float) -> None:
    """A normal distribution cut at ±2, as published. torch draws nothing beyond 6 deviations, so that of a narrow one
    there is nothing to cut, and looking for it takes longer than drawing."""
    if std < 0.2:
        nn.init.normal_(table, std=std)
    else:
        nn.init.trunc_normal_(table, std=std)


class Learned(nn.Module):
    """x (B, N, C) -> x + table, or the table as (B, N, C)."""

    def __init__(self, rows: int, channels: int, std: float, add: bool):
        super().__init__()
        self.add = add
        self.table = nn.Parameter(torch.zeros(rows, channels))
        if std:
            begin(self.table, std)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table if self.add else self.table.expand(x.shape[0], -1, -1)


class Resized(Learned):
    """x (B, extra + N, C), like (B, *grid, C) -> x + table, the table's grid interpolated to that of `like`."""

    def __init__(self, rows: int, channels: int, std: float, add: bool, grid: tuple[int, ...]):
        super().__init__(rows, channels, std, add)
        self.grid, self.extra = grid, rows - prod(grid)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        assert like is not None
        table = self.resized(like.shape[1:-1])
        return x + table if self.add else table.expand(x.shape[0], -1, -1)

    def resized(self, grid: torch.Size) -> Tensor:
        """The table for another grid: (extra + N, C)."""
        if tuple(grid) == self.grid:
            return self.table
        mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(self.grid)]
        cells = torch.unflatten(self.table[self.extra :].T, 1, self.grid)[None]
        rows = functional.interpolate(cells, tuple(grid), mode=mode, align_corners=False)[0].flatten(1).T
        return torch.cat([self.table[: self.extra], rows])

    def extra_repr(self) -> str:
        return f"grid={self.grid}, extra={self.extra}"


def waving(made: Learned, grid: tuple[int, ...]) -> Learned:
    """A table of waves that is not learned; rows of extra tokens are zeros."""
    rows, channels = made.table.shape
    rank = len(grid)
    part = channels // (2 * rank) * 2
    widths = [channels - (rank - 1) * part, *[part] * (rank - 1)]
    waves = Sine(
        widths, add=False, origin=0, normalize=False, group=2, arrange="halves", axes="reversed", temperature=10000
    )
    with torch.no_grad():
        code = waves(torch.zeros(1, *grid, channels, dtype=torch.float64, device=made.table.device)).flatten(0, -2)
        made.table.copy_(torch.cat([code.new_zeros(rows - len(code), channels), code]))
    made.table.requires_grad_(False)
    return made


class PerAxis(nn.Module):
    """x (B, *grid, C) -> x + code or the code, the tables (rows, C / rank) of the axes side by side, the last first."""

    def __init__(self, rows: int, width: int, rank: int, add: bool):
        super().__init__()
        self.add = add
        self.tables = nn.ParameterList(nn.Parameter(torch.rand(rows, width)) for _ in range(rank))

    def forward(self, x: Tensor) -> Tensor:
        grid, rank = x.shape[1:-1], len(self.tables)
        shapes = [[n if a == axis else 1 for a, n in enumerate(grid)] for axis in range(rank)]
        parts = [t[:n].view(*s, -1).expand(*grid, -1) for t, n, s in zip(self.tables, grid, shapes, strict=True)]
        code = torch.cat(parts[::-1], -1)
        return x + code if self.add else code.expand_as(x)

    def extra_repr(self) -> str:
        return f"add={self.add}"


class Sine(nn.Module):
    """x (B, *grid, C), mask (B, *grid, 1) -> the code of x, or x and its code; computed in 32 bits at least."""

    def __init__(
        self,
        widths: list[int],
        *,
        add: bool,
        origin: float,
        normalize: bool,
        group: int,
        arrange: str,
        axes: str,
        temperature: float,
    ):
        super().__init__()
        self.add, self.origin, self.normalize = add, origin, normalize
        self.waves = Waves(widths, group, arrange, temperature)
        self.order = range(len(widths)) if axes == "spatial" else range(len(widths) - 1, -1, -1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        valid = x.new_ones((1, *x.shape[1:-1]), dtype=dtype) if mask is None else mask.squeeze(-1).to(dtype)
        parts = [self.waves.of(self.positions(valid, a + 1), a) for a in self.order]
        code = torch.cat(parts, -1).to(x.dtype)
        return x + code if self.add else code.expand_as(x)

    def positions(self, valid: Tensor, axis: int) -> Tensor:
        """Where each cell stands along an axis; valid, result (B, *grid)."""
        counted = valid.cumsum(axis)
        at = counted - 1 + self.origin
        return at / (counted.narrow(axis, -1, 1) + 1e-6) * (2 * pi) if self.normalize else at

    def extra_repr(self) -> str:
        return f"add={self.add}, origin={self.origin}, normalize={self.normalize}, arrange={self.waves.arrange}"


class Waves:
    """Sines and cosines of falling frequency, of as many channels for each axis as `widths` says."""

    def __init__(self, widths: list[int], group: int, arrange: str, temperature: float):
        self.widths, self.group, self.arrange, self.temperature = widths, group, arrange, temperature

    def of(self, at: Tensor, axis: int) -> Tensor:
        """at (B, …) -> (B, …, the axis's width)."""
        width = self.widths[axis]
        channel = torch.arange(width, device=at.device)
        if self.arrange == "halves":
            channel = torch.cat([channel[::2], channel[1::2]])
        exponent = self.group * torch.div(channel, self.group, rounding_mode="floor").to(at.dtype) / width
        angle = at[..., None] / self.temperature**exponent
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class SineOfPlaces(nn.Module):
    """Places (B, N, n) -> their code (B, N, n·width), computed in 32 bits at least."""

    def __init__(self, count: int, width: int, normalize: bool, group: int, arrange: str, temperature: float):
        super().__init__()
        self.waves = Waves([width] * count, group, arrange, temperature)
        self.scale = 2 * pi if normalize else 1

    def forward(self, x: Tensor) -> Tensor:
        at = x.to(torch.promote_types(x.dtype, torch.float32)) * self.scale
        parts = [self.waves.of(v, k) for k, v in enumerate(at.unbind(-1))]
        return torch.cat(parts, -1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"width={self.waves.widths[0]}, arrange={self.waves.arrange}"


class Relative(Derived):
    """() -> (heads, n, n) for a window of n cells."""

    index: Tensor

    def __init__(
        self, window: tuple[int, ...], table: tuple[int, ...], heads: int, index: str, clamped: str, std: float
    ):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(prod(2 * n - 1 for n in table), heads))
        begin(self.table, std)
        self.options = (window if clamped == "rebuild" else table, table, index)
        self.count = prod(window)
        self.derive()

    def derived(self) -> dict[str, Tensor]:
        return {"index": offsets(*self.options)[: self.count, : self.count].reshape(-1)}

    def forward(self, x: None = None, full: None = None) -> Tensor:
        return self.table[self.index].view(self.count, self.count, -1).permute(2, 0, 1)


def offsets(cells: tuple[int, ...], table: tuple[int, ...], index: str) -> Tensor:
    """Row of the table for each pair of cells: (n, n). The steps between two cells are weighed and summed, which is the
    difference of two sums: no step stands by itself.

    The device is named because a network may be made on `meta`, where an index would have no values.
    """
    if index == "nnformer" and len(table) == 3:
        weights = [3 * table[1] - 1, 2 * table[1] - 1, 1]
    else:
        weights = [prod(2 * n - 1 for n in table[k + 1 :]) for k in range(len(table))]
    place = torch.zeros(1, dtype=torch.long, device="cpu")
    for n, weight in zip(cells, weights, strict=True):
        place = (place[:, None] + weight * torch.arange(n, device="cpu")).reshape(-1)
    first = sum(weight * (n - 1) for n, weight in zip(table, weights, strict=True))
    return (place + first)[:, None] - place[None]
