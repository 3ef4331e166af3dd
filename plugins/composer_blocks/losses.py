"""Losses that belong to a network's output, not to the pixels: DETR's between two sets of boxes.

A loss is no block: it is no part of what a blueprint computes. This module imports torch, so the package does not
import it; `from composer_blocks.losses import SetLoss`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Matches = list[tuple[Tensor, Tensor]]
"""For each image the numbers of some predictions, and of the objects that these are for."""


class SetLoss(nn.Module):
    """The loss between a set of predictions and the objects of an image (Carion et al., 2020, arXiv:2005.12872).

    Predictions are assigned to objects one to one so that the sum of the costs is least; a prediction without an object
    should say so. With the outputs of a network, `{logits: (B, N, K), boxes: (B, N, 4), aux: […]}`, and for each image
    `{labels: (n,), boxes: (n, 4)}`, boxes as centre and size from 0 to 1, the result is the weighted sum over the last
    layer and those in `aux`, if there are any; each is matched by itself. `parts` are the losses one by one.

    classes   softmax: the last of the K classes is no object, which counts `none_weight` (DETR). focal: each class by
              itself, as Deformable DETR has it (Zhu et al., 2021, arXiv:2010.04159), which weights and costs it 2
    costs     of a match: class, distance (L1) and overlap (generalized IoU) of the boxes
    weights   of the same three in the sum
    """

    def __init__(
        self,
        classes: Literal["softmax", "focal"] = "softmax",
        costs: tuple[float, float, float] = (1, 5, 2),
        weights: tuple[float, float, float] = (1, 5, 2),
        none_weight: float = 0.1,
        alpha: float = 0.25,
        gamma: float = 2,
    ):
        super().__init__()
        self.classes, self.costs, self.none_weight = classes, costs, none_weight
        self.weights = dict(zip(("classes", "boxes", "overlap"), weights, strict=True))
        self.alpha, self.gamma = alpha, gamma

    def forward(self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        parts = self.parts(outputs, targets)
        return torch.stack([loss * self.weights[name.split(".")[0]] for name, loss in parts.items()]).sum()

    def parts(self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """`classes`, `boxes` and `overlap`, not weighted; `classes.0` and so on for the layers in `aux`."""
        count = self._count(outputs["logits"], targets)
        found = self._of(outputs, targets, count)
        for k, layer in enumerate(outputs.get("aux") or ()):
            found |= {f"{name}.{k}": loss for name, loss in self._of(layer, targets, count).items()}
        return found

    @torch.no_grad()
    def match(self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]) -> Matches:
        """The assignment of least cost, image by image (Kuhn, 1955: the Hungarian method)."""
        from scipy.optimize import linear_sum_assignment

        matches = []
        for logits, boxes, target in zip(outputs["logits"], outputs["boxes"], targets, strict=True):
            cost = self._cost(logits.float(), boxes.float(), target)
            rows, columns = linear_sum_assignment(torch.nan_to_num(cost, nan=torch.finfo(cost.dtype).max).cpu().numpy())
            matches.append((torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)))
        return matches

    def _cost(self, logits: Tensor, boxes: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """(N, K), (N, 4) -> (N, n)."""
        labels, wanted = target["labels"], target["boxes"].float()
        if self.classes == "softmax":
            likely = -logits.softmax(-1)[:, labels]
        else:
            p = logits.sigmoid()[:, labels]
            yes = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
            likely = yes - (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        distance = (boxes[:, None] - wanted).abs().sum(-1)
        a, b, c = self.costs
        return a * likely + b * distance - c * overlap(corners(boxes)[:, None], corners(wanted))

    def _count(self, logits: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The objects of the batch, on average over all processes; at least 1."""
        count = logits.new_tensor(float(sum(len(t["labels"]) for t in targets)))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
        return count.clamp(min=1)

    def _of(
        self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]], count: Tensor
    ) -> dict[str, Tensor]:
        """The losses of one layer."""
        matches = self.match(outputs, targets)
        boxes = torch.cat([b[rows] for b, (rows, _) in zip(outputs["boxes"], matches, strict=True)])
        wanted = torch.cat([t["boxes"][columns] for t, (_, columns) in zip(targets, matches, strict=True)]).to(boxes)
        return {
            "classes": self._class_loss(outputs["logits"], targets, matches, count),
            "boxes": functional.l1_loss(boxes, wanted, reduction="sum") / count,
            "overlap": (1 - overlap(corners(boxes), corners(wanted))).sum() / count,
        }

    def _class_loss(
        self, logits: Tensor, targets: Sequence[Mapping[str, Tensor]], matches: Matches, count: Tensor
    ) -> Tensor:
        none = logits.shape[-1] - (self.classes == "softmax")
        labels = torch.full(logits.shape[:2], none, device=logits.device)
        for row, target, (rows, columns) in zip(labels, targets, matches, strict=True):
            row[rows] = target["labels"][columns]
        if self.classes == "softmax":
            weight = logits.new_ones(logits.shape[-1])
            weight[none] = self.none_weight
            return functional.cross_entropy(logits.transpose(1, 2), labels, weight)
        wanted = functional.one_hot(labels, none + 1)[..., :none].to(logits)
        return focal(logits, wanted, self.alpha, self.gamma).sum() / count

    def extra_repr(self) -> str:
        return f"classes={self.classes}, costs={self.costs}, weights={tuple(self.weights.values())}"


def focal(logits: Tensor, wanted: Tensor, alpha: float, gamma: float) -> Tensor:
    """The focal loss of each number (Lin et al., 2017, arXiv:1708.02002); `wanted` is 0 or 1."""
    p = logits.sigmoid()
    right = p * wanted + (1 - p) * (1 - wanted)
    share = alpha * wanted + (1 - alpha) * (1 - wanted)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return share * (1 - right) ** gamma * entropy


def corners(boxes: Tensor) -> Tensor:
    """(…, 2·rank): centre and size -> the low corner and the high one."""
    centre, size = boxes.chunk(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Generalized intersection over union (Rezatofighi et al., 2019, arXiv:1902.09630) of boxes by their corners."""
    (a_low, a_high), (b_low, b_high) = a.chunk(2, -1), b.chunk(2, -1)
    both = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(-1)
    union = (a_high - a_low).prod(-1) + (b_high - b_low).prod(-1) - both
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(-1)
    return both / union - (hull - union) / hull
