"""The published initialization of every kind of tensor, tensor by tensor.

A row of a scheme says how the tensors whose names fit were published to begin; the first that fits wins, and every
parameter must have one. What a scheme promises is computed here anew from shapes, not read from `init:`.
"""

from __future__ import annotations

from fnmatch import fnmatch
from math import cos, pi, prod, sin, sqrt
from typing import Any

import pytest
import torch
from parity import CASES
from test_monai import PAIRS
from torch import Tensor, nn

import composer
from composer.blueprint import published
from composer.weights import convert

Scheme = dict[str, str]

NORMS = {"*norm*.weight": "ones", "*norm*.bias": "zeros"}
NOISY_NORMS = {"*norm*.weight": "normal 0.02 1", "*norm*.bias": "zeros"}
TABLES = {"*.bias.table": "normal 0.02"}
MEMORY = {"*.tokens": "normal 1", "*.memory.position": "normal 0.02"}
REST = {"*.weight": "default", "*.bias": "default"}
HE = {"*.weight": "kaiming 0", "*.bias": "zeros"}
SMALL_LINEAR = {"*.weight": "normal 0.02", "*.bias": "zeros"}
STACKED = {f"*attention.{p}.weight": f"xavier {sqrt(0.5)}" for p in ("query", "key", "value")}
"""nn.MultiheadAttention draws the three as one matrix, three times as high, hence in a narrower range."""
DEFORMABLE = {
    "*attention.weights.*": "zeros",
    "*attention.offsets.weight": "zeros",
    "*attention.offsets.bias": "rays",
    "*attention.value.weight": "xavier 1",
    "*attention.project.weight": "xavier 1",
    "*attention.*.bias": "zeros",
}
SWIN = NORMS | TABLES | {"embedded.table": "normal 0.02", "patches.*": "default"}
SETR = NORMS | {"cls.token": "normal 0.02", "position.table": "normal 0.02", "blocks.*.weight": "normal 0.02"}
SETR |= {"blocks.*.bias": "zeros"} | REST
TRANSUNET = NORMS | {"position.table": "zeros", "drop.position.table": "zeros", "cls.token": "zeros"}
TRANSUNET |= {"places.table": "zeros"}
TRANSUNET |= {"blocks.*.mlp.*.weight": "xavier 1", "blocks.*.mlp.*.bias": "normal 1e-6"} | REST
ATTENTION_UNET = NOISY_NORMS | {"*.weight": "kaiming 0", "*.bias": "default"}
DETECTOR = {"backbone.*": "kaiming_fan_out"} | NORMS

VIT_SMALL = dict(size=[32, 32], patch=16, dim=48, depth=2, heads=3, channels=2, classes=5)
SWIN_SMALL = dict(size=[64, 64], dim=16, depths=[2, 2], heads=[2, 4], window=4, classes=5, position=True)
BACKBONE = dict(depths=[1, 1, 1, 1], stem=8, widths=[16, 32, 48, 64], size=[64, 64])
DETR_SMALL = BACKBONE | dict(dim=32, heads=4, layers=2, queries=20, hidden=48, classes=5)
MONAI = NORMS | TABLES | {"position.table": "normal 0.02", "*.act.weight": "constant 0.25"} | REST

DETR = DETECTOR | STACKED | {"*attention.project.weight": "xavier 1", "*attention.*.bias": "zeros"}
DETR |= {"[ed]*coder.*.mlp.*.weight": "xavier 1", "queries.token": "normal 1"} | REST

DEFORMABLE_DETR = (
    DETECTOR
    | {k.replace("*", "decoder.*.layer.", 1): rule for k, rule in STACKED.items()}
    | DEFORMABLE
    | {"[ed]*coder.*.boxes.mlp.fc3.weight": "zeros", "decoder.0.boxes.mlp.fc3.bias": "values 0 0 -2 -2"}
    | {"decoder.*.boxes.mlp.fc3.bias": "zeros", "decoder.*.classify.bias": "constant -4.59511985"}
    | {"decoder.*.boxes.*": "default", "[ed]*coder.*.mlp.*.weight": "xavier 1"}
    | {"reference.linear.weight": "xavier 1", "reference.linear.bias": "zeros"}
    | {"queries.token": "normal 1", "target.token": "normal 1", "tokens.level": "normal 1"}
    | {"level.*.weight": "xavier 1", "more.*.weight": "xavier 1", "level.*.bias": "zeros", "more.*.bias": "zeros"}
    | REST
)

PROPOSALS = {"proposals.*norm.weight": "ones", "proposals.*norm.bias": "zeros", "proposals.mixed.weight": "ones"}
PROPOSALS |= {
    "proposals.mixed.bias": "zeros",
    "proposals.linear.weight": "xavier 1",
    "proposals.mix.weight": "xavier 1",
}
PROPOSALS |= {"proposals.classify.bias": "constant -4.59511985", "proposals.box.mlp.fc3.*": "zeros"}
PROPOSALS |= {"proposals.*": "default", "decoder.*.boxes.mlp.fc3.bias": "zeros"}
"""With two stages no box begins smaller than another: Deformable DETR's -2 is for those that start at a point."""

SCHEMES: dict[str, tuple[dict[str, Any], Scheme]] = {
    "vit": (
        VIT_SMALL,
        NORMS | {"cls.token": "normal 1e-6", "position.table": "normal 0.02", "patches.*": "default"} | SMALL_LINEAR,
    ),
    "vit_mae": (
        {k: v for k, v in VIT_SMALL.items() if k != "classes"} | dict(decoder_dim=48, decoder_depth=1, decoder_heads=3),
        NORMS
        | {"cls.token": "normal 0.02", "reconstruct.unmask.token": "normal 0.02", "*position.table": "sine"}
        | {"patches.weight": "xavier_flat 1", "*.weight": "xavier 1", "*.bias": "zeros"},
    ),
    "swin": (SWIN_SMALL, SWIN | SMALL_LINEAR),
    "swin_unet": (CASES["swin_unet"][1] | dict(position=True), SWIN | {"head.weight": "default"} | SMALL_LINEAR),
    "glam_swin_unet": (CASES["glam_swin_unet"][1], SWIN | MEMORY | {"head.weight": "default"} | SMALL_LINEAR),
    "nnformer": (CASES["nnformer"][1], NORMS | TABLES | REST),
    "nnformer:acdc": (CASES["nnformer_acdc"][1], NORMS | TABLES | REST),
    "glam_nnformer": (CASES["glam_nnformer"][1], NORMS | TABLES | MEMORY | REST),
    "fine": (CASES["fine"][1], NORMS | TABLES | MEMORY | {"*.volume.tokens": "normal 1"} | REST),
    "unet": (dict(size=[32, 32], widths=[8, 16, 24]), NORMS | HE),
    "unet3d": (dict(size=[32, 32, 32], widths=[8, 16, 24]), NORMS | HE),
    "glam_unet": (
        dict(size=[32, 32], widths=[8, 16, 24], window=4, heads=2, tokens=2),
        NORMS | TABLES | MEMORY | {"*.context.*": "default"} | HE,
    ),
    "nnunet": (CASES["nnunet_plainconv"][1], NORMS | {"*.weight": "kaiming 0.01", "*.bias": "zeros"}),
    "nnunet:resenc": (
        CASES["nnunet_resenc"][1],
        {"encoder.*.body.1.norm.*": "zeros"} | NORMS | {"*.weight": "kaiming 0.01", "*.bias": "zeros"},
    ),
    "nnunet:resenc bottlenecks": (
        CASES["nnunet_resenc"][1] | dict(middles=[2, 4, 4, 6], squeeze=2, stem=5),
        {"encoder.*.body.2.norm.*": "zeros"} | NORMS | {"*.weight": "kaiming 0.01", "*.bias": "zeros"},
    ),
    "attention_unet": (CASES["attention_unet_oktay"][1], ATTENTION_UNET),
    "attention_unet:single": (CASES["attention_unet_oktay"][1], ATTENTION_UNET),
    "nonlocal_unet:concatenation": (CASES["nonlocal_unet"][1], ATTENTION_UNET),
    "nonlocal_unet:concat_proper": (CASES["nonlocal_unet"][1], ATTENTION_UNET),
    "nonlocal_unet": (CASES["nonlocal_unet"][1], ATTENTION_UNET),
    "nonlocal_unet:fixed": (CASES["nonlocal_unet"][1], {"down.*.nonlocal.body.norm.*": "zeros"} | ATTENTION_UNET),
    "cotr": (
        CASES["cotr"][1],
        NORMS
        | DEFORMABLE
        | {"*.mlp.*.weight": "xavier 1", "*.mlp.*.bias": "default", "*.level": "normal 1"}
        | {"*.weight": "kaiming_fan_out", "*.bias": "default"},
    ),
    "cotr:no_detrans": (CASES["cotr"][1], NORMS | {"*.weight": "kaiming_fan_out", "*.bias": "default"}),
    "cotr:aspp": (
        CASES["cotr"][1] | dict(widths=[8, 16, 32, 32]),
        NORMS | {"*.weight": "kaiming_fan_out", "*.bias": "default"},
    ),
    "transunet": (CASES["transunet"][1], TRANSUNET),
    "mt_transunet:fixed": (CASES["mt_transunet"][1], TRANSUNET),
    "transunet:vit_b16": (CASES["transunet_vit"][1], TRANSUNET),
    "mt_transunet": (CASES["mt_transunet"][1], TRANSUNET),
    "setr": (CASES["setr_naive"][1], SETR),
    "setr:pup": (CASES["setr_pup"][1], SETR),
    "setr_mla": (CASES["setr_mla"][1], SETR),
    "segformer": (
        dict(size=[64, 64], dims=[16, 32, 40, 64], classes=5, width=32),
        NORMS
        | {"stage.*.middle.weight": "normal 0.4714", "stage.*.patches.weight": "kaiming_fan_out"}
        | {"stage.*.reduce.conv.weight": "kaiming_fan_out", "stage.*.weight": "normal 0.02", "stage.*.bias": "zeros"}
        | REST,
    ),
    "unetr": (CASES["unetr"][1], MONAI),
    "swin_unetr": (CASES["swin_unetr"][1], MONAI),
    "vnet": (CASES["vnet"][1], MONAI),
    "attention_unet_monai": (CASES["attention_unet"][1], MONAI),
    "u_transformer": (dict(size=[32, 32], widths=[8, 16, 24], heads=2), NORMS | REST),
    "resnet": (BACKBONE, {"*": "kaiming_fan_out"}),
    "detr": (DETR_SMALL, DETR),
    "detr:auxiliary": (DETR_SMALL, DETR),
    "detr:learned": (DETR_SMALL, {"code.tables.*": "uniform"} | DETR),
    "detr:r18": (DETR_SMALL, DETR),
    "deformable_detr": (DETR_SMALL, DEFORMABLE_DETR),
    "deformable_detr:single_learned": (DETR_SMALL, {"tokens.position.tables.*": "uniform"} | DEFORMABLE_DETR),
    "deformable_detr:refine_original": (DETR_SMALL, DEFORMABLE_DETR),
    "deformable_detr:two_stage": (DETR_SMALL, PROPOSALS | DEFORMABLE_DETR),
    "transformer": (
        dict(dim=32, hidden=48, heads=4, encoder_layers=2, decoder_layers=2),
        NORMS | STACKED | {"*attention.*.bias": "zeros", "*.weight": "xavier 1", "*.bias": "default"},
    ),
}


def fans(shape: torch.Size) -> tuple[int, int]:
    """How many numbers one number of a linear map or convolution reads, and how many read it."""
    return shape[1] * prod(shape[2:]), shape[0] * prod(shape[2:])


def promised(rule: str, tensor: Tensor, weight: Tensor) -> tuple[float, float, bool]:
    """Mean, standard deviation, and whether the distribution is uniform; `weight` is that of the same module."""
    word, *numbers = rule.split()
    values = [float(n) for n in numbers]
    if word == "default":  # PyTorch: weights and biases between ± 1 / sqrt(fan in)
        return 0, 1 / sqrt(3 * fans(weight.shape)[0]), True
    if word == "uniform":  # between 0 and 1
        return 0.5, 1 / sqrt(12), True
    if word == "xavier_flat":
        return 0, values[0] * sqrt(2 / sum(tensor.flatten(1).shape)), True
    if word == "xavier":
        return 0, values[0] * sqrt(2 / sum(fans(tensor.shape))), True
    if word == "kaiming":
        return 0, sqrt(2 / (1 + values[0] ** 2) / fans(tensor.shape)[0]), False
    if word == "kaiming_fan_out":
        return 0, sqrt(2 / fans(tensor.shape)[1]), False
    assert word == "normal"
    return values[1] if values[1:] else 0, values[0], False


def constant(rule: str, tensor: Tensor) -> Tensor | None:
    """The exact values, of rules that promise them."""
    word, *numbers = rule.split()
    if word == "sine":  # held against transformers where weights are
        return tensor
    if word in ("zeros", "ones", "constant"):
        return torch.full_like(tensor, {"zeros": 0.0, "ones": 1.0}.get(word) or float((numbers or [0])[0]))
    if word == "values":
        return torch.tensor([float(n) for n in numbers])
    return rays(tensor, heads=3 if tensor.numel() % 9 == 0 else 4) if word == "rays" else None


def rays(bias: Tensor, heads: int) -> Tensor:
    """Head m of M looks in the direction 2 π m / M, its point k is k cells away, at every level alike."""
    rank = 3 if heads == 3 else 2
    points = 4
    made = torch.empty(heads, bias.numel() // (heads * points * rank), points, rank)
    for m in range(heads):
        c, s = cos(2 * pi * m / heads), sin(2 * pi * m / heads)
        direction = torch.tensor([c, s] if rank == 2 else [c, s * c, s * s])
        for k in range(points):
            made[m, :, k] = direction / direction.abs().max() * (k + 1)
    return made.flatten()


def complaint(name: str, tensor: Tensor, rule: str, owner: nn.Module) -> str:
    """What is wrong with a tensor; nothing when it is as promised, up to six standard errors."""
    exact = constant(rule, tensor)
    if exact is not None:
        off = (tensor - exact).abs().max().item()
        return f"{name}: {rule}, but {off:.1e} off" if off > 1e-5 else ""
    mean, std, uniform = promised(rule, tensor, getattr(owner, "weight", tensor))
    z, n = (tensor.double() - mean) / std, tensor.numel()
    spread, largest = z.pow(2).mean().sqrt().item(), z.abs().max().item()
    good = abs(z.mean()) < 6 / sqrt(n) and abs(spread - 1) < 6 * sqrt(0.5 / n)
    good = good and (largest <= sqrt(3) + 1e-5 if uniform else n < 500 or largest > 2)
    return (
        "" if good else f"{name} {tuple(tensor.shape)}: not {rule}: mean {z.mean():.2f}, std {spread:.2f} of promised"
    )


def complaints(network: nn.Module, scheme: Scheme) -> list[str]:
    found = []
    for name, tensor in network.named_parameters():
        rule = next((rule for pattern, rule in scheme.items() if fnmatch(name, pattern)), None)
        owner = network.get_submodule(name.rpartition(".")[0])
        found.append(f"{name}: no rule" if rule is None else complaint(name, tensor.detach(), rule, owner))
    return [c for c in found if c]


@pytest.mark.parametrize("name", SCHEMES)
def test_every_tensor_begins_as_published(name: str) -> None:
    params, scheme = SCHEMES[name]
    torch.manual_seed(0)
    assert complaints(composer.load(name.split()[0], **params).build(), scheme) == []


def test_every_blueprint_has_a_scheme() -> None:
    assert {name.split(":")[0] for name in SCHEMES} >= {n for n in published() if "." not in n}


def test_another_scheme_would_be_seen() -> None:
    torch.manual_seed(0)
    network = composer.load("unet", **SCHEMES["unet"][0]).build()
    assert complaints(network, NORMS | {"*.weight": "kaiming_fan_out", "*.bias": "zeros"})
    assert complaints(network, NORMS | REST)
    assert complaints(network, NOISY_NORMS | HE)


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair.ours != "unet"])
def test_networks_of_monai_begin_as_in_monai(name: str) -> None:
    """Tensor by tensor against the library's own; its BasicUNet begins otherwise than the U-Net of the paper."""
    from monai.networks import nets

    pair = PAIRS[name]
    torch.manual_seed(0)
    model = getattr(nets, pair.theirs)(**pair.arguments)
    blueprint = composer.load(pair.ours, **pair.params)
    network = blueprint.build()
    tensors, _ = convert(model.state_dict(), blueprint.weights[pair.rules], network.state_dict())
    for address, ours in network.named_parameters():
        theirs = tensors[address]
        if theirs.unique().numel() == 1 and theirs.numel() > 1:
            assert torch.equal(ours, theirs), address
        elif ours.numel() >= 64:
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.25), address


def test_the_transformer_begins_as_in_torch() -> None:
    torch.manual_seed(0)
    theirs = nn.Transformer(96, 4, 1, 1, 200, batch_first=True).decoder.layers[0].multihead_attn
    ours = composer.load("transformer", dim=96, hidden=200, heads=4, encoder_layers=1, decoder_layers=1).build()
    for name, weight in zip(("query", "key", "value"), theirs.in_proj_weight.chunk(3), strict=True):
        begun = ours.get_parameter(f"decoder.0.cross_attention.{name}.weight")
        assert begun.std().item() == pytest.approx(weight.std().item(), rel=0.02)
        assert begun.abs().max().item() == pytest.approx(weight.abs().max().item(), rel=0.02)
