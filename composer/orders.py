"""The order of a map's numbers in memory: channels first, as torch makes them, or channels last."""

from __future__ import annotations

import torch
from torch import Tensor

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the axes of (B, C, *grid)."""


def channels_last(tensor: Tensor) -> Tensor:
    """A copy of (B, C, *grid) with the channels last in memory, whose strides say so also for one channel."""
    return torch.empty_like(tensor, memory_format=LAST[tensor.dim()]).copy_(tensor)


def is_channels_last(x: Tensor) -> bool:
    """Whether (B, C, *grid) has its channels last in memory and not first."""
    return x.dim() in LAST and not x.is_contiguous() and x.is_contiguous(memory_format=LAST[x.dim()])
