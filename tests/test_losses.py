"""DETR's set loss against transformers, in value and gradient, and against every assignment by force."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composer_blocks.losses import SetLoss, corners, overlap
from torch import Tensor
from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

CLASSES, QUERIES = 6, 9


def predictions(extra: int, layers: int = 3) -> list[dict[str, Tensor]]:
    """The predictions of each layer, the last one last."""
    torch.manual_seed(3)
    return [
        {
            "logits": torch.randn(3, QUERIES, CLASSES + extra).requires_grad_(),
            "boxes": (torch.rand(3, QUERIES, 4) * 0.4 + 0.2).requires_grad_(),
        }
        for _ in range(layers)
    ]


def objects(counts: tuple[int, ...]) -> list[dict[str, Tensor]]:
    torch.manual_seed(4)
    return [{"labels": torch.randint(CLASSES, (n,)), "boxes": torch.rand(n, 4) * 0.4 + 0.2} for n in counts]


def theirs(kind: str, layers: list[dict[str, Tensor]], targets: list[dict[str, Tensor]], aux: bool) -> Any:
    config = SimpleNamespace(
        class_cost=1, bbox_cost=5, giou_cost=2, bbox_loss_coefficient=5, giou_loss_coefficient=2, num_labels=CLASSES,
        eos_coefficient=0.1, focal_alpha=0.25, auxiliary_loss=aux, decoder_layers=len(layers), two_stage=False,
    )  # fmt: skip
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    run = {"softmax": ForObjectDetectionLoss, "focal": DeformableDetrForObjectDetectionLoss}[kind]
    stacked = [torch.stack([x[k] for x in layers]) for k in ("logits", "boxes")]
    return run(layers[-1]["logits"], labels, "cpu", layers[-1]["boxes"], config, *(stacked if aux else ()))


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("counts", [(3, 1, 9), (0, 2, 4), (0, 0, 0)])
@pytest.mark.parametrize("kind", ["softmax", "focal"])
def test_the_loss_equals_that_of_transformers(kind: Any, counts: tuple[int, ...], aux: bool) -> None:
    targets, results = objects(counts), []
    for mine in (False, True):
        layers = predictions(int(kind == "softmax"))
        if mine:
            outputs: dict[str, Any] = {**layers[-1], "aux": layers[:-1] if aux else []}
            loss, parts = SetLoss(kind)(outputs, targets), SetLoss(kind).parts(outputs, targets)
        else:
            loss, parts, _ = theirs(kind, layers, targets, aux)
        loss.backward()
        flat = [t for x in layers for t in x.values()]
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in flat]
        results.append((loss, parts, grads))
    (wanted, their_parts, their_grads), (found, parts, grads) = results
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    for name, part in parts.items():
        layer = name.partition(".")[2]
        key = {"classes": "loss_ce", "boxes": "loss_bbox", "overlap": "loss_giou"}[name.split(".")[0]]
        torch.testing.assert_close(part, their_parts[key + (f"_{layer}" if layer else "")], atol=1e-6, rtol=1e-6)
    for ours, other in zip(grads, their_grads, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=1e-5)


def test_the_match_is_the_best_of_all() -> None:
    layers, targets = predictions(1, 1), objects((2, 3, 1))
    loss = SetLoss()
    for b, (rows, columns) in enumerate(loss.match(layers[0], targets)):
        logits, boxes = (layers[0][k][b].detach() for k in ("logits", "boxes"))
        n = len(targets[b]["labels"])
        best, found = float("inf"), []
        for choice in itertools.permutations(range(QUERIES), n):
            cost = 0.0
            for o, q in enumerate(choice):
                wanted = targets[b]["boxes"][o]
                cost -= float(logits[q].softmax(0)[targets[b]["labels"][o]])
                cost += 5 * float((boxes[q] - wanted).abs().sum()) - 2 * slow_overlap(boxes[q], wanted)
            if cost < best:
                best, found = cost, sorted((q, o) for o, q in enumerate(choice))
        assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == found


def slow_overlap(a: Tensor, b: Tensor) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.tolist(), b.tolist()
    width = max(0.0, min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2))
    height = max(0.0, min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2))
    union = aw * ah + bw * bh - width * height
    hull = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    hull *= max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    return width * height / union - (hull - union) / hull


def test_overlap_in_any_rank() -> None:
    a, b = torch.rand(5, 4) + 0.1, torch.rand(5, 4) + 0.1
    found = overlap(corners(a), corners(b))
    for k in range(5):
        assert found[k].item() == pytest.approx(slow_overlap(a[k], b[k]), abs=1e-5)
    cube = torch.tensor([0.0, 0, 0, 2, 2, 2])
    moved = torch.tensor([1.0, 0, 0, 2, 2, 2])
    assert overlap(corners(cube), corners(cube)).item() == 1
    assert overlap(corners(cube), corners(moved)).item() == pytest.approx(4 / 12)


def test_predictions_that_are_not_numbers_are_matched_last() -> None:
    layers, targets = predictions(1, 1), objects((2, 2, 2))
    with torch.no_grad():
        layers[0]["logits"][:, 0] = float("nan")
    assert all(0 not in rows for rows, _ in SetLoss().match(layers[0], targets))
