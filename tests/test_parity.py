"""Published networks against their official code: forward, gradient of the input, gradient norm of every parameter."""

from __future__ import annotations

import pytest
import torch
from goldens import Case, stored

import composer
from composer import keymap
from composer.weights import convert, load_into

TINY = {
    "swin_unet": ("swin_unet", dict(size=[128, 128], classes=4, dim=16, heads=[1, 2, 4, 8], window=4, mlp_ratio=2.0)),
}


def network_of(case: Case) -> tuple[torch.nn.Module, keymap.Plan]:
    """Our network with the official weights, through the blueprint's `weights:` rules."""
    name, params = TINY[case.model]
    blueprint = composer.load(name, **(params if case.size == "tiny" else {}))
    network = blueprint.build().eval()
    tensors, plan = convert(case.weights(), blueprint.weights["official"], network.state_dict())
    load_into(network, tensors)
    return network, plan


@pytest.mark.parametrize("model", TINY)
@pytest.mark.parametrize("size", ["tiny", "published"])
def test_forward_equals_the_official_code(model: str, size: str) -> None:
    case = Case(model, size)
    network, plan = network_of(case)
    assert plan.complete
    assert sum(p.numel() for p in network.parameters()) == case.data["params"]
    with torch.no_grad():
        outputs = [network(*case.inputs())]
    tolerance = case.data["tolerance"]
    for output, entry, atol in zip(outputs, case.data["outputs"], tolerance["atol"], strict=True):
        wanted, ours = stored(entry, output)
        print(f"{model} {size}: largest difference {(ours - wanted).abs().max():.2e}, tolerance {atol:.0e}")
        torch.testing.assert_close(ours, wanted, atol=atol, rtol=tolerance["rtol"])


@pytest.mark.parametrize("model", TINY)
def test_gradients_equal_the_official_code(model: str) -> None:
    case = Case(model, "tiny")
    network, plan = network_of(case)
    inputs = [x.requires_grad_() for x in case.inputs()]
    output = network(*inputs)
    (output * case.cotangent(0)).sum().backward()
    tolerance, data = case.data["tolerance"], case.data
    wanted, ours = stored(data["grad_input"], inputs[0].grad)
    torch.testing.assert_close(ours, wanted, atol=tolerance["grad_input_atol"], rtol=tolerance["rtol"])
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert set(data["grad_norm"]) <= set(plan.moves)
    for key, norm in data["grad_norm"].items():
        parts = torch.cat([gradients[a].flatten() for a in plan.moves[key].addresses])
        torch.testing.assert_close(parts.norm().item(), norm, rtol=tolerance["grad_norm_rtol"], atol=1e-6, msg=key)


def test_a_wrong_quirk_would_be_seen() -> None:
    """The textbook order of the skip in the fusion moves the output far beyond the tolerance."""
    case = Case("swin_unet", "tiny")
    name, params = TINY["swin_unet"]
    blueprint = composer.load(name, **params, **{"decoder.*.fuse.join.order": "skip x"})
    network = blueprint.build().eval()
    load_into(network, convert(case.weights(), blueprint.weights["official"], network.state_dict())[0])
    with torch.no_grad():
        wanted, ours = stored(case.data["outputs"][0], network(*case.inputs()))
    assert (ours - wanted).abs().max() > 0.01
