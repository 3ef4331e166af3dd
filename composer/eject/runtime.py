"""Functions that an ejected file may hold beside those of its blocks."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


def parted(x: Tensor, grids: list[tuple[int, ...]]) -> list[Tensor]:
    """A sequence (B, N, C) of several grids -> the map of each, [(B, *grid, C)]."""
    pieces = torch.split(x, [prod(grid) for grid in grids], 1)
    return [piece.reshape(x.shape[0], *grid, x.shape[-1]) for piece, grid in zip(pieces, grids, strict=True)]
