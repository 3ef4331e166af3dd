"""Every defect of an official code that the references name has a preset `fixed`, and the preset changes what it should.

Each row gives the official network and the mended one the same weights, as far as both have them, and says what differs:
nothing (what was mended was never read), the values, or only where the defect shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import CASES
from torch import Tensor, nn

import composer
from composer.blueprint import published


def pair(name: str, params: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The official network with weights that are not small, and the mended one with the same."""
    torch.manual_seed(0)
    official, mended = (composer.load(n, **params).build().eval() for n in (name, f"{name}:fixed"))
    with torch.no_grad():
        for tensor in official.parameters():
            tensor.normal_(0, 0.3 if tensor.dim() > 1 else 0.5)
    state = official.state_dict()
    if name == "setr_mla":  # officially the first row is that of a token which is dropped
        state["position.table"] = state["position.table"][1:]
    kept = {k: v for k, v in state.items() if k in mended.state_dict() and v.shape == mended.state_dict()[k].shape}
    mended.load_state_dict(mended.state_dict() | kept)
    return official, mended


def inputs(name: str, params: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(1)
    made = [torch.randn(1, params.get("channels", CHANNELS.get(name, 1)), *params["size"])]
    return [*made, torch.tensor([[3.0, -20, 200]])] if name == "fine" else made


CHANNELS = {"mt_transunet": 3, "setr": 3, "setr_mla": 3, "glam_swin_unet": 3}


def main(y: Any) -> Tensor:
    return y if isinstance(y, Tensor) else y["logits"]


def weight(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


SWIN_UNETR = dict(size=[32, 32], dim=4, heads=[1, 1, 1, 1], window=4, norm="batch")
NONLOCAL = dict(size=[16, 16, 4], widths=[4, 8, 12], pool=2)
FIXED: dict[str, tuple[dict[str, Any], bool, Callable[[dict[str, Any]], int]]] = {
    "transunet": (CASES["transunet"][1], True, lambda p: 0),
    "mt_transunet": (CASES["mt_transunet"][1], True, lambda p: 0),
    "swin_unet": (CASES["swin_unet"][1], False, lambda p: 0),
    "setr": (CASES["setr_naive"][1], False, lambda p: 3 * (p["inherited"] + 1) * p["classes"]),
    "setr_mla": (CASES["setr_mla"][1], False, lambda p: 5 * (p["inherited"] + 1) * p["classes"] + 2 * p["dim"]),
    "unetr": (CASES["unetr"][1], False, lambda p: 12 * 2 * p["dim"]),
    "swin_unetr": (SWIN_UNETR, True, lambda p: 0),
    "attention_unet_monai": (CASES["attention_unet"][1], True, lambda p: 3 - 2 * sum(p["widths"][:-1])),
    "vnet": (CASES["vnet"][1], False, lambda p: 0),
    "nonlocal_unet": (NONLOCAL, False, lambda p: 0),
    "nnformer": (CASES["nnformer"][1], True, lambda p: 0),
    "cotr": (CASES["cotr"][1], True, lambda p: 0),
    "glam_swin_unet": (CASES["glam_swin_unet"][1], False, lambda p: GLAM_DEAD),
    "glam_nnformer": (CASES["glam_nnformer"][1], True, lambda p: -1),
    "fine": (CASES["fine"][1], True, lambda p: -1),
}
"""Blueprint -> its small parameters; whether the same weights give other values; parameters that the mended one lacks (-1:
see `test_memory`)."""
GLAM_DEAD = 2 * (4 * 8 * 8 + 4 * 8) + 2 * (4 * 16 * 16 + 4 * 16) + 2 * (4 * 32 * 32 + 4 * 32) + 4 * 64 * 64 + 4 * 64
"""The last attention of the tokens in seven stages of widths 8, 16, 32 and 64."""


def test_every_mended_blueprint_is_here() -> None:
    assert {n for n in published() if "." not in n and "fixed" in composer.load(n).presets} == set(FIXED)


@pytest.mark.parametrize("name", FIXED)
def test_a_mended_network_changes_what_it_should(name: str) -> None:
    params, differs, lacks = FIXED[name]
    official, mended = pair(name, params)
    missing = weight(official) - weight(mended)
    assert missing == lacks(params) if lacks(params) >= 0 or name == "attention_unet_monai" else missing > 0
    with torch.no_grad():
        a, b = (main(network(*inputs(name, params))) for network in (official, mended))
    assert (not torch.allclose(a, b, atol=1e-3)) == differs


def test_the_blueprint_says_what_is_mended() -> None:
    for name in FIXED:
        text = composer.blueprint.shipped()[name].read_text()
        comment = text[: text.index("blueprint: 1")]
        assert "`fixed`" in comment, name


def test_a_padded_pool_needs_no_padded_skip() -> None:
    """All maps of the mended TransUNet have half the side of the one before."""
    sides = []
    network = composer.load("transunet:fixed", **CASES["transunet"][1]).build(without="all").eval()
    for stage in ("root.act", "body.0.1.act", "body.1.0.act", "body.2.0.act"):
        network.get_submodule(stage).register_forward_hook(lambda m, i, o: sides.append(o.shape[-1]))
    with torch.no_grad():
        network(torch.randn(1, 1, 64, 64))
    assert sides == [32, 16, 8, 4]


def test_nnformer_reads_a_row_for_each_offset_when_mended() -> None:
    """115 of the 343 rows of a window of 4³ are read officially."""
    read = {}
    for name in ("nnformer", "nnformer:fixed"):
        network = composer.load(name, **CASES["nnformer"][1]).build().train()
        x = torch.randn(1, 1, 16, 64, 32)
        main(network(x)).square().mean().backward()
        table = network.get_parameter("encoder.0.blocks.0.attention.bias.table")
        read[name] = int(table.grad.any(1).sum())
    assert read == {"nnformer": 115, "nnformer:fixed": 343}


def test_a_mended_swin_unet_gives_the_size_of_its_image() -> None:
    small: dict[str, Any] = dict(size=[32, 32], patch=2, dim=8, heads=[1, 1, 2, 2], window=4)
    for name, side in (("swin_unet", 64), ("swin_unet:fixed", 32)):
        network = composer.load(name, **small).build(device="meta")
        assert network(torch.empty(1, 1, 32, 32, device="meta")).shape[2:] == (side, side)


def test_a_mended_vnet_drops_its_fine_skips_as_it_is_told() -> None:
    for name, rates in (("vnet", [0.1, 0.1, 0.5, 0.5]), ("vnet:fixed", [0.1] * 4)):
        network = composer.load(name, skip_dropout=0.1).build(device="meta")
        assert [network.get_submodule(f"up.{k}.fuse.drop").p for k in range(4)] == rates


def test_a_mended_merge_of_monai_is_batch_norm_and_relu() -> None:
    network = composer.load("attention_unet_monai:fixed").build(device="meta")
    kinds = {type(m).__name__ for m in network.modules()}
    assert not kinds & {"PReLU", "InstanceNorm3d"}


def test_frequencies_of_cotr_are_those_of_pairs_when_mended() -> None:
    """A sine and a cosine of one frequency square to one; officially neighbours have different frequencies."""
    small = CASES["cotr"][1]
    for name, pairs in (("cotr", False), ("cotr:fixed", True)):
        network = composer.load(name, **small).build().eval()
        codes: list[Tensor] = []
        network.get_submodule("context.tokens.position").register_forward_hook(lambda m, i, o, c=codes: c.append(o))
        with torch.no_grad():
            network(torch.randn(1, 1, *small["size"]))
        code = codes[0].movedim(1, -1) if codes[0].shape[1] == 24 else codes[0]
        squares = code.reshape(-1, 12, 2).square().sum(-1)
        assert torch.allclose(squares, torch.ones_like(squares), atol=1e-5) == pairs
