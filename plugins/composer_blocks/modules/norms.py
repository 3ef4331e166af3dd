"""Normalizations by rank, and batch norm with constant statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from composer import make

BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def batch_norm(rank: int, channels: int, eps: float, momentum: float, affine: bool, frozen: bool) -> nn.Module:
    """Batch norm for (B, C, *grid)."""
    if frozen:
        return FrozenBatchNorm(channels, eps)
    return make(BATCH[rank], channels, eps=eps, momentum=momentum, affine=affine)


class FrozenBatchNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) · weight + bias with all four constant buffers; x (B, C, *grid)."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return x * scale.view(shape) + (self.bias - self.running_mean * scale).view(shape)
