"""`nonlocal_unet` in double precision: the tiny golden holds near-ties of a max pool that float32 cannot resolve."""

from __future__ import annotations

import torch
from goldens import Case, stored
from parity import Comparison
from torch.nn import functional


def doubled() -> Comparison:
    comparison = Comparison(Case("nonlocal_unet", "tiny"))
    comparison.network.double()
    return comparison


def test_gradients_in_double_precision_are_within_the_tolerance_of_the_golden() -> None:
    """The same comparison as `parity.compare_gradients`, which runs in float32, with the same tolerances."""
    comparison = doubled()
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


def test_the_pool_after_a_nonlocal_block_has_near_ties() -> None:
    """Where the ReLU before the block is 0, only the smooth attention tells neighbours apart: two windows of
    `down.2.pool` differ by less than a float32 of their size can say, so its gradient goes to either."""
    comparison = doubled()
    pooled: list[torch.Tensor] = []
    comparison.network.get_submodule("down.2.pool").register_forward_hook(lambda m, i, o: pooled.append(i[0]))
    with torch.no_grad():
        comparison.network(comparison.case.inputs()[0].double())
    planes = pooled[0].permute(0, 4, 1, 2, 3).flatten(0, 1)
    windows = functional.unfold(planes, 2, stride=2).unflatten(1, (-1, 4)).sort(2).values
    gaps = windows[:, :, 3] - windows[:, :, 2]
    assert gaps.min() < torch.finfo(torch.float32).eps * planes.abs().max()
