"""A network's outputs against the labels, each on its own grid (see `heads`).

nnU-Net's data hold the labels on the patch's grid alone; they become coarser here, beside the loss, as nnU-Net's own
augmentation makes them. So whatever an output's grid is, no part of nnU-Net has to know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from composer.nnunet.heads import Head


class Maps:
    """A forward hook: what nnU-Net is given of all that a network gives, in training the maps of the heads, at
    evaluation the main one. The module stays a `Network`, and its weights keep their names."""

    def __init__(self, heads: Sequence[Head]):
        self.places = [h.place for h in heads]

    def __call__(self, network: nn.Module, inputs: Any, outputs: Any) -> Any:
        found = [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]
        if network.training and len(self.places) > 1:
            return [found[p] for p in self.places]
        return found[0]


class Supervised(nn.Module):
    """A loss of (outputs, labels) over several outputs: (maps, labels (B, K, *patch)) -> the weighted sum.

    A single map, as at evaluation, is the loss of it alone."""

    def __init__(self, loss: nn.Module, heads: Sequence[Head]):
        super().__init__()
        self.loss, self.heads = loss, tuple(heads)

    def forward(self, outputs: Any, labels: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            alone: Tensor = self.loss(outputs, labels)
            return alone
        weighed = [(h.weight, o) for h, o in zip(self.heads, outputs, strict=True) if h.weight]
        return torch.stack([w * self.loss(o, coarser(labels, o.shape[2:])) for w, o in weighed]).sum()


def coarser(labels: Tensor, grid: Sequence[int]) -> Tensor:
    """Labels on another grid, nearest neighbour; their dtype stays."""
    if labels.shape[2:] == tuple(grid):
        return labels
    return functional.interpolate(labels.float(), size=tuple(grid), mode="nearest-exact").to(labels.dtype)
