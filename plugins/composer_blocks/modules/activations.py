"""Activations that torch has not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GridSoftmax(nn.Module):
    """exp(x) over its sum along the cells of a map (B, C, *grid), in each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.unflatten(x.flatten(2).softmax(-1), -1, x.shape[2:])
