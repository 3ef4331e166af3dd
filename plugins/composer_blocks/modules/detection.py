"""Boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-5
"""The inverse sigmoid stays finite this far from 0 and 1, as in the published code."""


def boxes(x: Tensor, reference: Tensor | None = None) -> Tensor:
    """x (B, N, 2·rank), reference (B, N, rank or 2·rank) -> sigmoid(x + inverse sigmoid of the reference)."""
    if reference is not None:
        at = inverse_sigmoid(reference)
        x = x + functional.pad(at, (0, x.shape[-1] - at.shape[-1]))
    return x.sigmoid()


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)), bounded."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=EPS) / (1 - x).clamp(min=EPS))
