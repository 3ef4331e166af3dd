"""Published networks against their official code: forward, gradient of the input, gradient norm of every parameter."""

from __future__ import annotations

import pytest
import torch
from goldens import FOLDER, Case, golden, stored
from parity import CASES, SLOW_FLOPS, cases, compare_forward, compare_gradients

import composer
from composer.weights import convert, load_into


def marked(model: str, size: str) -> object:
    case = next(c for c in golden(model)["cases"] if c["size"] == size)
    slow = size == "published" and case["flops"] > SLOW_FLOPS
    return pytest.param(model, size, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("model", "size"), [marked(*c) for c in cases()])
def test_forward_equals_the_official_code(model: str, size: str) -> None:
    for difference, tolerance in compare_forward(model, size):
        print(f"{model} {size}: largest difference {difference:.1e}, tolerance {tolerance:.0e}")


@pytest.mark.parametrize("model", [m for m, size in cases() if size == "tiny"])
def test_gradients_equal_the_official_code(model: str) -> None:
    compare_gradients(model)


def test_every_golden_has_its_case() -> None:
    assert {p.stem for p in FOLDER.glob("*.json")} == set(CASES)


def test_a_wrong_quirk_would_be_seen() -> None:
    """The textbook order of the skip in the fusion moves the output far beyond the tolerance."""
    case = Case("swin_unet", "tiny")
    name, params = CASES["swin_unet"]
    blueprint = composer.load(name, **params, **{"decoder.*.fuse.join.order": "skip x"})
    network = blueprint.build().eval()
    load_into(network, convert(case.weights(), blueprint.weights["official"], network.state_dict())[0])
    with torch.no_grad():
        wanted, ours = stored(case.data["outputs"][0], network(*case.inputs()))
    assert (ours - wanted).abs().max() > 0.01
