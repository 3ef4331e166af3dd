"""Multi-scale deformable attention."""

from __future__ import annotations

from math import pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def offsets(channels: int, heads: int, levels: int, points: int, rank: int) -> nn.Linear:
    """Offsets that do not depend on the query yet: head m looks along its own direction, its points 1, 2, … cells far.

    Directions lie on a circle (x, y), in three dimensions on a curve around it, and touch the unit cube.
    """
    made = nn.Linear(channels, heads * levels * points * rank)
    angle = torch.arange(heads, dtype=torch.float32) * (2 * pi / heads)
    circle = [angle.cos(), angle.sin()]
    ray = torch.stack(circle if rank == 2 else [circle[0], circle[1] * circle[0], circle[1] * circle[1]], -1)
    ray = ray / ray.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, points + 1, dtype=torch.float32).view(points, 1)
    with torch.no_grad():
        made.weight.zero_()
        made.bias.copy_((ray[:, None, None] * steps).expand(-1, levels, -1, -1).reshape(-1))
    return made


def order(axes: str, rank: int) -> list[int]:
    """Which axis of the grid each number of a place stands for."""
    return [0, 2, 1] if axes == "dwh_as_xyz" else list(range(rank))[::-1]


def precise(x: Tensor) -> torch.dtype:
    """Places are computed in 32 bits at least: with fewer they would be off by whole cells."""
    return torch.promote_types(x.dtype, torch.float32)


def valid_parts(masks: list[Tensor], axes: list[int], dtype: torch.dtype) -> Tensor:
    """The valid share of each axis of each scale, measured along the edges: masks [(B, *grid, 1)] -> (B, L, rank)."""
    return torch.stack([torch.stack([_edge(m.squeeze(-1), a).to(dtype).mean(1) for a in axes], -1) for m in masks], 1)


def _edge(mask: Tensor, axis: int) -> Tensor:
    """mask (B, *grid) -> its first row along an axis, (B, n)."""
    return mask[(slice(None), *(slice(None) if k == axis else 0 for k in range(mask.dim() - 1)))]


class Centres(nn.Module):
    """Maps [(B, *grid, C)], masks [(B, *grid, 1)] -> the places of their cells, 0 to 1: (B, N, rank)."""

    def __init__(self, rank: int, axes: str):
        super().__init__()
        self.axes = order(axes, rank)

    def forward(self, x: list[Tensor], mask: list[Tensor] | None = None) -> Tensor:
        masks = [None] * len(x) if mask is None else mask
        levels = [self._cells(m) / self._counts(m, v) for m, v in zip(x, masks, strict=True)]
        return torch.cat(levels, 1).expand(x[0].shape[0], -1, -1)

    def _cells(self, x: Tensor) -> Tensor:
        """Where cells stand, counted in cells: (1, n, rank)."""
        lines = [torch.arange(n, device=x.device, dtype=precise(x)) + 0.5 for n in x.shape[1:-1]]
        places = torch.meshgrid(*lines, indexing="ij")
        return torch.stack([places[a].flatten() for a in self.axes], -1)[None]

    def _counts(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """How many cells of each axis are valid: (1 or B, 1, rank)."""
        if mask is None:
            return torch.tensor([x.shape[1:-1][a] for a in self.axes], device=x.device, dtype=precise(x)).view(1, 1, -1)
        edges = [_edge(mask.squeeze(-1), a) for a in self.axes]
        return torch.stack([e.to(precise(x)).sum(1) for e in edges], -1)[:, None]


class Sample(nn.Module):
    """offsets (B, N, heads·L·points·rank), weights (B, N, heads·L·points), reference (B, N, rank or 2·rank), maps
    [(B, *grid, C)] and masks [(B, *grid, 1)] of L scales -> (B, N, C). The weights of a head's samples become 1 in sum.

    With `need_weights` also {"weights": (B, heads, N, L·points), "places": (B, heads, N, L·points, rank)}: where each
    sample is taken, 0 to 1 along the axes of the grid in their order, scale by scale; beyond are zeros. Where it is the
    numbers (R,) of some queries, those of these.
    """

    def __init__(self, heads: int, points: int, rank: int, axes: str):
        super().__init__()
        self.heads, self.points, self.rank, self.axes = heads, points, rank, order(axes, rank)

    def forward(
        self,
        offsets: Tensor,
        weights: Tensor,
        reference: Tensor,
        maps: list[Tensor],
        mask: list[Tensor] | None = None,
        need_weights: bool | Tensor = False,
    ) -> Any:
        offsets = torch.unflatten(offsets, -1, (self.heads, len(maps), self.points, self.rank))
        weights = torch.unflatten(weights, -1, (self.heads, -1)).softmax(-1)
        weights = torch.unflatten(weights, -1, (len(maps), self.points))
        reference, offsets = reference.to(precise(reference)), offsets.to(precise(offsets))
        valid = None if mask is None else valid_parts(mask, self.axes, reference.dtype)
        found: list[tuple[Tensor, Tensor]] = []
        places = []
        for k, x in enumerate(maps):
            at = reference
            if valid is not None:
                at = reference * valid[:, k, None].repeat(1, 1, reference.shape[-1] // self.rank)
            x = x if mask is None else x * mask[k].to(x.dtype)
            places.append(self._places(at, offsets[:, :, :, k], x.shape[1:-1]))
            found += zip(self._samples(x, places[-1]), weights[:, :, :, k].unbind(3), strict=True)
        y = self._mean(found)
        if need_weights is False:
            return y
        at = torch.cat(places, 3).transpose(1, 2).flip(-1)  # sampling reads them as x, y, z, whatever they stand for
        weights = weights.flatten(3).transpose(1, 2)
        if isinstance(need_weights, Tensor):
            weights, at = weights[:, :, need_weights], at[:, :, need_weights]
        return y, {"weights": weights, "places": at}

    def _places(self, reference: Tensor, offsets: Tensor, grid: torch.Size) -> Tensor:
        """offsets (B, N, heads, points, rank) -> places 0 to 1 of the same shape."""
        centre, size = reference[:, :, None, None, : self.rank], reference[:, :, None, None, self.rank :]
        if size.shape[-1]:
            return centre + offsets / self.points * size * 0.5
        return centre + offsets / offsets.new_tensor([grid[a] for a in self.axes])

    def _mean(self, found: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Samples (B, heads, C / heads, N) with their weights (B, N, heads) -> (B, N, C).

        Point by point: all weighted samples together are 16 times as many numbers as their means.
        """
        pairs = ((samples, weights.transpose(1, 2)[:, :, None]) for samples, weights in found)
        y = torch.mul(*next(pairs))
        for samples, weights in pairs:
            y = y.addcmul(samples, weights)
        return y.flatten(1, 2).transpose(1, 2)

    def _samples(self, x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        """x (B, *grid, C), places (B, N, heads, points, rank) -> of each point (B, heads, C / heads, N), zeros
        outside."""
        maps = torch.unflatten(x, -1, (self.heads, -1)).movedim(-2, 1).movedim(-1, 2).flatten(0, 1)
        grid = (2 * places - 1).movedim(1, 3).flatten(0, 1)
        grid = grid if self.rank == 2 else grid[:, :, :, None]
        found = functional.grid_sample(
            maps.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        return torch.unflatten(found.to(x.dtype).flatten(3), 0, (-1, self.heads)).unbind(3)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, points={self.points}"
