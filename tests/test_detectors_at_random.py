"""Detectors of random configurations against transformers, so that every argument that changes the network meets others.

Seeds are fixed: a failure names the one that brings it back.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import test_deformable_detr
import test_detr
import torch
from test_deformable_detr import LEARNED, aux_of
from test_detr import batch, ours
from torch import Tensor, nn

Options = dict[str, Any]


def few(count: int, fast: int) -> list[Any]:
    """Seeds, of which the first are fast tests."""
    return [k if k < fast else pytest.param(k, marks=pytest.mark.slow) for k in range(count)]


def drawn(random: Random, multiple: int) -> Options:
    """What both architectures have; the width is a multiple of a number and of the heads of both halves."""
    heads, decoder_heads = random.choice([1, 2, 4]), random.choice([1, 2, 4, 8])
    return dict(
        channels=random.choice([1, 2, 3, 4]),
        classes=random.randint(1, 7),
        size=[random.randint(33, 100), random.randint(33, 100)],
        depths=[random.randint(1, 2) for _ in range(4)],
        stem=random.choice([4, 6, 8]),
        widths=[4 * random.randint(1, 6) for _ in range(4)],
        dim=multiple * random.randint(1, 3),
        queries=random.randint(1, 9),
        layers=random.randint(1, 3),
        decoder_layers=random.randint(1, 3),
        heads=heads,
        decoder_heads=decoder_heads,
        hidden=random.randint(5, 40),
        decoder_hidden=random.randint(5, 40),
        act=random.choice(["relu", "gelu"]),
    )


def theirs_of(y: Any, network: nn.Module) -> list[Tensor]:
    """Class logits and boxes: of the last layer, of Deformable DETR's other layers and proposals too."""
    made = [y.logits, y.pred_boxes]
    if hasattr(y, "init_reference_points"):
        made += aux_of(network, y)  # type: ignore[arg-type]
        made += [] if y.enc_outputs_class is None else [y.enc_outputs_class, y.enc_outputs_coord_logits.sigmoid()]
    return made


def ours_of(y: Any, layers: bool) -> list[Tensor]:
    """The same in the same order."""
    said = [y, *y["aux"], *(y[k] for k in ("proposals",) if k in y)] if layers else [y]
    return [t for part in said for t in (part["logits"], part["boxes"])]


def compare(theirs: nn.Module, network: nn.Module, image: Tensor, mask: Tensor | None) -> None:
    """Outputs and the gradient of the image."""
    results = []
    for run in (theirs, network):
        x = image.clone().requires_grad_()
        if run is theirs:
            flat = theirs_of(run(pixel_values=x, **({} if mask is None else {"pixel_mask": mask[:, 0].long()})), run)
        else:
            flat = ours_of(run(x) if mask is None else run(x, mask), len(results[0]) > 3)
        (gradient,) = torch.autograd.grad(sum((t * t.cos()).sum() for t in flat), x)
        results.append([*flat, gradient])
    assert len(results[0]) == len(results[1])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("seed", few(6, 2))
def test_a_detr_equals_transformers(seed: int) -> None:
    random = Random(seed)
    options, learned = drawn(random, 8), random.random() < 0.4
    masked = not learned and random.random() < 0.6
    theirs = test_detr.reference(options, **({"position_embedding_type": "learned"} if learned else {}))
    compare(theirs, ours("detr:learned" if learned else "detr", options, theirs), *batch(options, masked))


@pytest.mark.parametrize("seed", few(18, 6))
def test_a_deformable_detr_equals_transformers(seed: int) -> None:
    random = Random(seed)
    options, stages = drawn(random, 32), random.randint(1, 3)
    options |= dict(
        dim=random.choice([32, 64]),  # transformers warns of heads whose width is no power of 2,
        decoder_layers=random.randint(2, 3),  # and cannot tie the head of a single layer
        stages=[f"backbone.c{k}" for k in range(6 - stages, 6)],
        extra=random.randint(0, 3),
        points=random.randint(1, 4),
        decoder_points=random.randint(1, 4),
    )
    preset = ["", ":refine", ":two_stage"][seed % 3]
    more: Options = {}
    if preset == ":two_stage":
        options["queries"] = min(options["queries"], 2)  # the smallest images have as many cells
        more |= dict(two_stage=True, two_stage_num_proposals=options["queries"])
    learned = random.random() < 0.3
    if learned:
        more["position_embedding_type"] = "learned"
    theirs = test_deformable_detr.reference(options, bool(preset), **more)
    network = ours(f"deformable_detr{preset}", options | (LEARNED if learned else {}), theirs)
    compare(theirs, network, *batch(options, random.random() < 0.6))
