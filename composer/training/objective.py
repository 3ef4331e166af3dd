"""The loss over everything a segmentation network gives in training.

Cross-entropy plus soft Dice (MONAI), on each output that is a map of classes. A coarser one is held against the labels
of its own grid, nearest neighbour, and counts half as much for each halving of the grid, the weights summing to one
(deep supervision as in nnU-Net: Isensee et al., 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional


class Objective(nn.Module):
    """outputs (a tensor, or tensors in mappings and lists) and labels (B, 1, *grid) -> the loss.

    `classes` weigh as `weights` say. Outputs of another number of channels are not the labels' and do not count.
    """

    def __init__(self, classes: int, weights: Sequence[float] = ()):
        super().__init__()
        self.classes = classes
        weight = torch.tensor(list(weights)) if weights else None
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, weight=weight)

    def forward(self, outputs: Any, labels: Tensor) -> Tensor:
        maps = [m for m in leaves(outputs) if m.dim() == labels.dim() and m.shape[1] == self.classes]
        shares = [(m[0, 0].numel() / labels[0].numel()) ** (1 / (m.dim() - 2)) for m in maps]
        losses = [s * self.loss(m.float(), _on(labels, m)) for s, m in zip(shares, maps, strict=True)]
        total: Tensor = torch.stack(losses).sum() / sum(shares)
        return total


def leaves(outputs: Any) -> Iterator[Tensor]:
    """The tensors of an output, the main one first."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from leaves(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from leaves(value)


def _on(labels: Tensor, like: Tensor) -> Tensor:
    """Labels on the grid of an output: its own voxels, or the centre of the image where convolutions are unpadded."""
    grid, size = like.shape[2:], labels.shape[2:]
    if grid == size:
        return labels
    if any(s % g for g, s in zip(grid, size, strict=True)):
        cut = tuple(slice((s - g) // 2, (s - g) // 2 + g) for g, s in zip(grid, size, strict=True))
        return labels[(slice(None), slice(None), *cut)]
    return functional.interpolate(labels.float(), size=tuple(grid), mode="nearest-exact")


@torch.no_grad()
def begin_with_frequencies(network: nn.Module, address: str, counts: Sequence[int]) -> bool:
    """Set the bias of the head at an address to the logarithm of each class's share, so that the first steps need not
    learn how rare a class is. False where the head has no bias of that many classes."""
    inside = [
        p for name, p in network.named_parameters() if f"{name}.".startswith(f"{address}.") and name.endswith("bias")
    ]
    fitting = [p for p in inside if tuple(p.shape) == (len(counts),)]
    if not fitting:
        return False
    shares = torch.tensor(counts, dtype=torch.float64).clamp(min=1) / max(1, sum(counts))
    fitting[-1].copy_(shares.log())
    return True
