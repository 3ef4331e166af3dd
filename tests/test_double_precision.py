"""Gradients of the goldens whose float32 gradient hangs on a number near a kink, in double precision.

`parity.compare_gradients` runs in float32. Where the input of a ReLU or the winner of a max pool is nearer to a tie than
float32 can say, two right programs send the gradient different ways. The tolerances here are the goldens' own.
"""

from __future__ import annotations

import pytest
import torch
from goldens import Case, stored
from parity import Comparison
from torch.nn import functional


def doubled(model: str) -> Comparison:
    comparison = Comparison(Case(model, "tiny"))
    comparison.network.double()
    return comparison


@pytest.mark.parametrize("model", ["nonlocal_unet", "unetr"])
def test_gradients_are_within_the_tolerance_of_the_golden(model: str) -> None:
    comparison = doubled(model)
    data, tolerance = comparison.case.data, comparison.case.data["tolerance"]
    x = comparison.case.inputs()[0].double().requires_grad_()
    (y,) = comparison.run([x])
    (y * comparison.case.cotangent(0)).sum().backward()
    wanted, ours = stored(data["grad_input"], x.grad)
    torch.testing.assert_close(ours.float(), wanted, atol=tolerance["grad_input_atol"], rtol=tolerance["rtol"])
    gradients = {name: p.grad for name, p in comparison.network.named_parameters()}
    for key, norm in data["grad_norm"].items():
        parts = [gradients[a].flatten() for a in comparison.__dict__["plan"].moves[key].addresses]
        torch.testing.assert_close(
            torch.cat(parts).norm().item(), norm, rtol=tolerance["grad_norm_rtol"], atol=1e-6, msg=key
        )


def seen(model: str, address: str) -> torch.Tensor:
    """The input of a module in double precision."""
    comparison, found = doubled(model), []
    comparison.network.get_submodule(address).register_forward_hook(lambda m, i, o: found.append(i[0]))
    with torch.no_grad():
        comparison.network(comparison.case.inputs()[0].double())
    return found[0]


def test_the_pool_after_a_nonlocal_block_has_near_ties() -> None:
    """Where the ReLU before the block is 0, only the smooth attention tells neighbours apart: the two largest of a
    window differ by less than a float32 of their size can say."""
    planes = seen("nonlocal_unet", "down.2.pool").permute(0, 4, 1, 2, 3).flatten(0, 1)
    windows = functional.unfold(planes, 2, stride=2).unflatten(1, (-1, 4)).sort(2).values
    gaps = windows[:, :, 3] - windows[:, :, 2]
    assert gaps.min() < torch.finfo(torch.float32).eps * planes.abs().max()


def test_the_last_activation_of_unetr_is_met_near_its_kink() -> None:
    """Nearer than the difference between float32 and float64 that the golden states for its output."""
    x = seen("unetr", "decoder.3.block.block.act")
    assert x.abs().min() < Case("unetr", "tiny").data["noise"]["outputs"][0]
