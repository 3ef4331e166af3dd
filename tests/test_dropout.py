"""Dropout and drop-path of every blueprint: without rates training is evaluation, with a rate of one the branches are
gone, and the rates are the published ramps. Where single dropouts stand, the tests of each model say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from parity import CASES
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

import composer
from composer.blueprint import published

VIT = dict(size=[32, 32], patch=16, dim=12, depth=2, heads=3, channels=2, classes=5)
SWIN = dict(size=[32, 32], patch=2, dim=8, depths=[2, 2], heads=[1, 2], window=4, classes=5)
SEGFORMER = dict(size=[64, 64], dims=[4, 8, 10, 16], classes=5, width=8)
BACKBONE = dict(depths=[1, 1, 1, 1], stem=4, widths=[8, 8, 8, 16], size=[64, 64])
DETECTOR = ["dropout", "inner_dropout", "attention_dropout", "input_dropout", "layer_drop"]
TRANSFORMER = dict(dim=16, hidden=24, heads=4, encoder_layers=2, decoder_layers=2)
DETR = BACKBONE | dict(dim=32, heads=4, layers=2, queries=5, hidden=16, classes=5)

RATES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "vit": (VIT, ["dropout", "inner_dropout", "attention_dropout", "drop_path"]),
    "swin": (SWIN, ["dropout", "inner_dropout", "attention_dropout", "drop_path"]),
    "segformer": (SEGFORMER, ["dropout", "attention_dropout", "head_dropout", "drop_path"]),
    "swin_unet": (CASES["swin_unet"][1], ["dropout", "attention_dropout", "drop_path"]),
    "glam_swin_unet": (CASES["glam_swin_unet"][1], ["dropout", "attention_dropout", "drop_path"]),
    "nnformer": (CASES["nnformer"][1], ["dropout", "attention_dropout", "drop_path"]),
    "glam_nnformer": (CASES["glam_nnformer"][1], ["dropout", "attention_dropout", "drop_path"]),
    "fine": (CASES["fine"][1], ["dropout", "attention_dropout", "drop_path"]),
    "cotr": (CASES["cotr"][1], ["dropout"]),
    "transunet": (CASES["transunet"][1], ["dropout", "attention_dropout"]),
    "mt_transunet": (CASES["mt_transunet"][1], ["dropout", "attention_dropout"]),
    "mt_transunet:fixed": (CASES["mt_transunet"][1], ["dropout", "attention_dropout"]),
    "setr": (CASES["setr_naive"][1], ["dropout", "attention_dropout", "drop_path"]),
    "setr_mla": (CASES["setr_mla"][1], ["dropout", "attention_dropout", "drop_path"]),
    "unetr": (CASES["unetr"][1], ["dropout"]),
    "swin_unetr": (CASES["swin_unetr"][1], ["dropout", "attention_dropout", "drop_path"]),
    "attention_unet_monai": (CASES["attention_unet"][1], ["dropout"]),
    "nnunet": (CASES["nnunet_plainconv"][1], ["dropout"]),
    "nnunet:resenc": (CASES["nnunet_resenc"][1], ["dropout", "drop_path"]),
    "detr": (DETR, [*DETECTOR, "decoder_layer_drop"]),
    "deformable_detr": (DETR, DETECTOR),
    "transformer": (TRANSFORMER, ["dropout", "input_dropout"]),
}
"""Small parameters, and the parameters that are rates. Not vnet, two of whose rates are not parameters (test_monai),
nor vit_mae, which has those of vit and draws a mask."""

BLOCK_RATES = [name for name, (_, rates) in RATES.items() if "drop_path" in rates and name != "nnunet:resenc"]


def loaded(name: str, **rates: float) -> composer.Blueprint:
    params, known = RATES[name]
    return composer.load(name, **params | dict.fromkeys(known, 0.0) | rates)


def without_batch_statistics(network: nn.Module) -> nn.Module:
    """Training, but for the norms that then look at the batch, and for what counts its steps (FINE's cells)."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm) or hasattr(module, "visits"):
            module.eval()
    return network


def inputs(blueprint: composer.Blueprint) -> list[Tensor]:
    torch.manual_seed(3)
    if blueprint.name == "transformer":
        return [torch.randn(2, 16, 5), torch.randn(2, 16, 4)]
    size = blueprint.params["size"].value
    made = [torch.randn(2, blueprint.params["channels"].value, *size)]
    return [*made, torch.zeros(2, 3)] if blueprint.name == "fine" else made


def main(y: Any) -> Tensor:
    """The first output, which both modes have."""
    return y if isinstance(y, Tensor) else next(iter(y.values()))


def rates_of(network: nn.Module) -> Iterator[tuple[str, float]]:
    for name, module in network.named_modules():
        rate = getattr(module, "rate", getattr(module, "dropout", getattr(module, "p", None)))
        if isinstance(rate, float | int):
            yield name, float(rate)


def drop_paths(network: nn.Module) -> dict[str, float]:
    return {n: m.rate for n, m in network.named_modules() if type(m).__name__ == "DropPath"}


def test_every_blueprint_with_rates_is_here() -> None:
    named = {n for n in published() if "." not in n and any("drop" in p for p in composer.load(n).params)}
    assert named == {n.split(":")[0] for n in RATES} | {"vnet", "vit_mae"}
    for name, (_, known) in RATES.items():
        found = {p for p in composer.load(name).params if "drop" in p} - {"drop"}
        assert set(known) == (found - {"drop_path"} if name == "nnunet" else found), name  # of resenc only


@pytest.mark.parametrize("name", RATES)
def test_without_rates_training_is_evaluation(name: str) -> None:
    blueprint = loaded(name)
    network = without_batch_statistics(blueprint.build(without="all"))  # passes are equal to rounding only
    assert not any(rate for _, rate in rates_of(network))
    x = inputs(blueprint)
    with torch.no_grad():
        trained = main(network(*x))
        torch.testing.assert_close(trained, main(network.eval()(*x)), atol=0, rtol=0)


@pytest.mark.parametrize(("name", "rate"), [(n, r) for n, (_, rates) in RATES.items() for r in rates])
def test_every_rate_reaches_the_network(name: str, rate: str) -> None:
    """Each alone changes training, and evaluation never."""
    blueprint = loaded(name, **{rate: 0.4})
    network = without_batch_statistics(blueprint.build())
    assert max(r for _, r in rates_of(network)) == pytest.approx(0.4)
    x = inputs(blueprint)
    with torch.no_grad():
        for key, tensor in network.named_parameters():
            if key.endswith("norm.weight") and not tensor.any():  # a branch that begins as zero
                tensor.fill_(1)
        trained = main(network(*x))
        network.eval()
        assert torch.equal(main(network(*x)), main(network(*x)))
        assert not torch.equal(trained, main(network(*x)))


@pytest.mark.parametrize("name", BLOCK_RATES)
def test_a_drop_path_of_one_makes_the_branches_vanish(name: str) -> None:
    """What stands in a branch that is always dropped gets no gradient, what stands in no such branch does."""
    blueprint = loaded(name, drop_path=1.0)
    network = without_batch_statistics(blueprint.build())
    gone = [n for n, rate in drop_paths(network).items() if rate == 1]
    assert gone
    main(network(*inputs(blueprint))).square().sum().backward()
    for place in gone:
        block, branch = place.rsplit(".", 1)
        part = "mlp" if branch.startswith("mlp") else "attention"
        inside = network.get_submodule(f"{block}.{part}").parameters()
        assert not any(p.grad is not None and p.grad.any() for p in inside), place
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    assert first.weight.grad.any()


def ramp(last: float, n: int) -> list[float]:
    return [last * k / (n - 1) for k in range(n)]


def per_block(network: nn.Module, start: str) -> list[float]:
    """The rates of the blocks below an address, in order; where there is none the block has no drop-path."""
    blocks = [n for n, m in network.named_modules() if n.startswith(start) and n.rpartition(".")[2] in ("norm1",)]
    found = drop_paths(network)
    return [found.get(f"{b.removesuffix('.norm1')}.mlp_drop_path", 0.0) for b in blocks]


def whole(name: str) -> nn.Module:
    return composer.load(name).build(device="meta")


def test_swin_unet_mirrors_slices_but_does_not_reverse_them() -> None:
    network, rates = whole("swin_unet"), ramp(0.2, 8)
    assert per_block(network, "encoder") == pytest.approx(rates)
    assert [round(r, 4) for r in per_block(network, "decoder")] == [0.1143, 0.1429, 0.0571, 0.0857, 0, 0.0286]


def test_glam_swin_unet_does_as_its_parent() -> None:
    network, rates = whole("glam_swin_unet"), ramp(0.3, 12)
    assert per_block(network, "encoder") == pytest.approx(rates)
    assert per_block(network, "decoder") == pytest.approx([*rates[4:10], *rates[2:4], *rates[:2]])


@pytest.mark.parametrize(("name", "deep"), [("nnformer", 8), ("nnformer:acdc", 8), ("glam_nnformer", 8), ("fine", 8)])
def test_nnformer_has_a_ramp_of_its_own_in_the_decoder(name: str, deep: int) -> None:
    """The finest stage, the last, has the largest rates."""
    network = whole(name)
    assert per_block(network, "encoder") == pytest.approx(ramp(0.2, deep))
    assert per_block(network, "decoder") == pytest.approx(ramp(0.2, deep - 2))


@pytest.mark.parametrize(
    ("name", "last", "deep"),
    [("segformer", 0.1, 8), ("segformer:b2", 0.1, 16), ("swin", 0.2, 12), ("swin:small", 0.3, 24)],
)
def test_encoders_have_one_ramp_over_all_stages(name: str, last: float, deep: int) -> None:
    assert per_block(whole(name), "stage") == pytest.approx(ramp(last, deep))


@pytest.mark.parametrize("name", ["vit", "setr", "swin_unetr", "unetr"])
def test_these_are_published_without_drop_path(name: str) -> None:
    assert not drop_paths(whole(name))


def test_tokens_of_the_memory_are_dropped_with_the_pixels() -> None:
    """As in GLAM-nnFormer, whose token residuals have the rate of the block."""
    found = drop_paths(whole("glam_nnformer"))
    block = {n.rpartition(".")[2]: r for n, r in found.items() if n.startswith("encoder.3.blocks.0.")}
    assert set(block) == {"attention_drop_path", "mlp_drop_path", "tokens_attention_drop_path", "tokens_mlp_drop_path"}
    assert len(set(block.values())) == 1


def test_swin_unet_drops_after_its_embedding_and_after_both_branches() -> None:
    network = loaded("swin_unet", dropout=0.25).build(device="meta")
    dropped = {n for n, m in network.named_modules() if isinstance(m, _DropoutNd)}
    blocks = [n for n, m in network.named_modules() if hasattr(m, "mlp") and hasattr(m, "attention")]
    places = ("attention.out_drop", "mlp.drop1", "mlp.drop2")
    assert len(blocks) == 14
    assert dropped == {"drop"} | {f"{b}.{p}" for b in blocks for p in places}
