"""The order of a map's numbers in memory: channels first, as torch makes them, or channels last."""

from __future__ import annotations

import torch
from torch import Tensor

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the axes of (B, C, *grid)."""


def channels_last(x: Tensor) -> Tensor:
    """(B, C, *grid) with the channels last in memory. For one channel the strides say so too, and nothing is copied."""
    if x.shape[1] == 1 and x.is_contiguous():
        batch, _, *grid = x.stride()
        return x.as_strided(x.shape, (batch, 1, *grid))
    return x.contiguous(memory_format=LAST[x.dim()])


def is_channels_last(x: Tensor) -> bool:
    """Whether (B, C, *grid) has its channels last in memory and not first."""
    return x.dim() in LAST and not x.is_contiguous() and x.is_contiguous(memory_format=LAST[x.dim()])
