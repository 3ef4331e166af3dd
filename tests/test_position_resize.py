"""Learned position tables that are interpolated when asked: every blueprint that has one takes other sizes then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

import composer

SMALL = dict(dim=16, depth=2, heads=2, hidden=32, classes=3)
CASES: dict[str, tuple[str, dict[str, Any], str, tuple[int, ...]]] = {
    "vit": ("vit", {**SMALL, "size": [16, 16], "patch": 4}, "position", (12, 24)),
    "vit 3-D": ("vit", {**SMALL, "size": [8, 8, 8], "patch": 2}, "position", (6, 8, 10)),
    "transunet": ("transunet", dict(size=[32, 32], width=8, units=[1, 1, 1], dim=16, hidden=16, layers=1, heads=2,
        neck=8, decoder=[8, 8, 8, 8], classes=3, norm={"use": "norm.group", "groups": 2}), "position", (48, 32)),
    "transunet vit": ("transunet:vit_b16", dict(size=[32, 32], dim=16, hidden=16, layers=1, heads=2, neck=8,
        decoder=[8, 8, 8, 8], classes=3), "position", (48, 32)),
    "mt_transunet": ("mt_transunet:fixed", dict(size=[32, 32], width=8, units=[1, 1, 1], dim=16, hidden=16, layers=1,
        heads=2, neck=8, decoder=[8, 8, 8, 8], norm={"use": "norm.group", "groups": 2}), "places", (32, 48)),
    "setr": ("setr", dict(size=[32, 32], patch=8, dim=16, depth=2, heads=2, width=8, inherited=8, classes=3,
        taps=["blocks.0"]), "position", (24, 40)),
    "setr_mla": ("setr_mla", dict(size=[32, 32], patch=8, dim=16, depth=4, heads=2, width=8, inherited=8, classes=3,
        mla=[3, 2, 1, 0]), "position", (24, 40)),
    "unetr": ("unetr", dict(size=[32, 32, 32], dim=12, heads=2, hidden=24, depth=12, width=4), "position",
        (32, 48, 16)),
    "swin": ("swin", dict(size=[32, 32], position=True, dim=8, depths=[1, 1], heads=[1, 2], window=4, classes=3),
        "embedded", (64, 32)),
    "swin_unet": ("swin_unet", dict(size=[32, 32], position=True, dim=8, depths=[1, 1], heads=[1, 2], window=4,
        classes=3), "embedded", (64, 32)),
}  # fmt: skip


def made(case: str, resize: bool) -> tuple[Any, str, tuple[int, ...]]:
    name, params, address, other = CASES[case]
    params = {**params, f"{address}.resize": True} if resize else params
    torch.manual_seed(0)
    network = composer.load(name, **params).build().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network, address, other


def image(network: Any, size: Any) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, network.inputs[0].type.channels, *size)


def first(output: Any) -> torch.Tensor:
    return next(iter(output.values())) if isinstance(output, dict) else output


@pytest.mark.parametrize("case", CASES)
def test_nothing_changes_at_the_size_it_is_built_for(case: str) -> None:
    (plain, _, other), (resizing, *_) = made(case, False), made(case, True)
    resizing.load_state_dict(plain.state_dict())
    x = image(plain, CASES[case][1]["size"])
    assert torch.equal(first(plain(x)), first(resizing(x)))
    with pytest.raises(composer.BlueprintError, match="BP501"):
        plain(image(plain, other))


@pytest.mark.parametrize("case", CASES)
def test_another_size_is_that_of_a_network_with_the_table_interpolated_by_hand(case: str) -> None:
    network, address, other = made(case, True)
    x = image(network, other)
    output = first(network(x))
    state, table = network.state_dict(), network.get_submodule(address).table
    built = network.get_submodule(address).grid
    name, params, _, _ = CASES[case]
    there = composer.load(name, **{**params, "size": list(other)}).infer()
    grid = next(s for s in there.steps if s.module == address).types["x"].at(there.built).grid
    extra = len(table) - torch.Size(built).numel()
    by_hand = functional.interpolate(
        table[extra:].reshape(*built, -1).movedim(-1, 0)[None], grid,
        mode="bicubic" if len(grid) == 2 else "trilinear",
    )[0]  # fmt: skip
    rows = torch.cat([table[:extra], by_hand.movedim(0, -1).reshape(-1, table.shape[1])])
    built_there, *_ = (composer.load(name, **{**params, "size": list(other)}).build().eval(), None)
    built_there.load_state_dict({**state, f"{address}.table": rows})
    torch.testing.assert_close(output, first(built_there(x)), rtol=1e-5, atol=1e-5)
    output.sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum() > 0
