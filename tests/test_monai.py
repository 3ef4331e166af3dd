"""Shipped networks against MONAI's on random weights: output and gradient of the input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import composer
from composer.weights import convert, load_into


@dataclass(frozen=True)
class Pair:
    """A class of MONAI with its arguments, and the blueprint with the parameters that say the same."""

    theirs: str
    arguments: dict[str, Any]
    ours: str
    params: dict[str, Any]
    rules: str = "official"
    grid: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return (2, self.params.get("channels", 1), *(self.grid or self.params["size"]))


PRELU = {"use": "act.prelu", "shared": False}
LEAKY = {"use": "act.leaky_relu", "slope": 0.1}
INSTANCE = {"use": "norm.instance", "affine": False}
GROUPS = {"use": "norm.group", "groups": 2}

PAIRS = {
    "vnet 3-D": Pair(
        "VNet",
        dict(spatial_dims=3, in_channels=2, out_channels=3, act="prelu", bias=True),
        "vnet",
        dict(size=[32, 16, 32], channels=2, classes=3, act=PRELU, bias=True),
    ),
    "vnet 2-D": Pair(
        "VNet",
        dict(spatial_dims=2, in_channels=4, out_channels=1, act="relu", dropout_dim=2),
        "vnet",
        dict(size=[48, 32], channels=4, classes=1, act="relu"),
    ),
    "attention 2-D": Pair(
        "AttentionUnet",
        dict(spatial_dims=2, in_channels=3, out_channels=4, channels=[4, 6, 10], strides=[2, 4], kernel_size=5,
             up_kernel_size=5, dropout=0.3),
        "attention_unet_monai",
        dict(size=[16, 32], channels=3, classes=4, widths=[4, 6, 10], strides=[2, 4], kernel=5, up_kernel=5,
             dropout=0.3),
    ),
    "attention 3-D": Pair(
        "AttentionUnet",
        dict(spatial_dims=3, in_channels=1, out_channels=2, channels=[2, 4, 6, 8], strides=[2, 1, 3], up_kernel_size=3),
        "attention_unet_monai",
        dict(size=[12, 6, 12], classes=2, widths=[2, 4, 6, 8], strides=[2, 1, 3]),
    ),
    "unetr 3-D": Pair(
        "UNETR",
        dict(in_channels=2, out_channels=3, img_size=(32, 16, 48), feature_size=4, hidden_size=24, mlp_dim=40,
             num_heads=3, norm_name="batch", qkv_bias=True, dropout_rate=0.2),
        "unetr",
        dict(size=[32, 16, 48], channels=2, classes=3, width=4, dim=24, hidden=40, heads=3, norm="batch",
             qkv_bias=True, dropout=0.2),
    ),
    "unetr 2-D": Pair(
        "UNETR",
        dict(in_channels=4, out_channels=2, img_size=(48, 32), feature_size=4, hidden_size=20, mlp_dim=33, num_heads=5,
             conv_block=False, spatial_dims=2),
        "unetr",
        dict(size=[48, 32], channels=4, classes=2, width=4, dim=20, hidden=33, heads=5, blocks=False),
    ),
    "unetr basic": Pair(
        "UNETR",
        dict(in_channels=1, out_channels=2, img_size=32, feature_size=6, hidden_size=16, mlp_dim=8, num_heads=2,
             res_block=False, norm_name=("group", {"num_groups": 2}), spatial_dims=2),
        "unetr:basic",
        dict(size=[32, 32], classes=2, width=6, dim=16, hidden=8, heads=2, norm=GROUPS),
    ),
    "swin_unetr 3-D": Pair(
        "SwinUNETR",
        dict(in_channels=2, out_channels=3, depths=(1, 2, 2, 1), num_heads=(1, 2, 3, 4), window_size=(3, 4, 2),
             feature_size=12, mlp_ratio=2.0, qkv_bias=False, norm_name="batch", downsample="mergingv2",
             patch_norm=True, drop_rate=0.1, attn_drop_rate=0.1, dropout_path_rate=0.1),
        "swin_unetr",
        dict(size=[32, 64, 32], channels=2, classes=3, dim=12, depths=[1, 2, 2, 1], heads=[1, 2, 3, 4],
             window=[3, 4, 2], mlp_ratio=2.0, qkv_bias=False, norm="batch", downsample="mergingv2",
             patch_norm="layer", dropout=0.1, attention_dropout=0.1, drop_path=0.1),
    ),
    "swin_unetr 2-D": Pair(
        "SwinUNETR",
        dict(in_channels=1, out_channels=2, depths=(2, 1, 1, 2), num_heads=(2, 2, 4, 4), window_size=3, feature_size=12,
             spatial_dims=2, normalize=False),
        "swin_unetr",
        dict(size=[96, 64], classes=2, dim=12, depths=[2, 1, 1, 2], heads=[2, 2, 4, 4], window=3, normalize=False),
    ),
    "swin_unetr 2-D v2": Pair(
        "SwinUNETR",
        dict(in_channels=3, out_channels=1, num_heads=(1, 2, 4, 8), feature_size=24, spatial_dims=2, use_v2=True,
             downsample="mergingv2"),
        "swin_unetr",
        dict(size=[64, 64], channels=3, classes=1, dim=24, heads=[1, 2, 4, 8], downsample="mergingv2", v2=True),
    ),
    "unet 3-D": Pair(
        "BasicUNet",
        dict(spatial_dims=3, in_channels=2, out_channels=3, features=(4, 4, 8, 16, 32, 4)),
        "unet",
        dict(size=[32, 16, 32], channels=2, classes=3, widths=[4, 4, 8, 16, 32], norm="instance", act=LEAKY),
        "monai",
    ),
    "unet 2-D": Pair(
        "BasicUNet",
        dict(spatial_dims=2, in_channels=1, out_channels=2, features=(6, 6, 12, 24, 48, 6), act="gelu", norm="batch"),
        "unet",
        dict(size=[32, 48], widths=[6, 6, 12, 24, 48], act="gelu"),
        "monai",
    ),
}  # fmt: skip


def official(pair: Pair) -> nn.Module:
    """MONAI's network with weights and statistics that are not their usual first values."""
    from monai.networks import nets

    torch.manual_seed(7)
    model = getattr(nets, pair.theirs)(**pair.arguments).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.dim() < 2:
                tensor.uniform_(0.5, 1.5)
    return model


def loaded(pair: Pair, model: nn.Module) -> nn.Module:
    blueprint = composer.load(pair.ours, **pair.params)
    network = blueprint.build().eval()
    tensors, plan = convert(model.state_dict(), blueprint.weights[pair.rules], network.state_dict())
    assert plan.complete, plan
    load_into(network, tensors)
    return network


@pytest.mark.parametrize("name", PAIRS)
def test_equals_monai(name: str) -> None:
    pair = PAIRS[name]
    model = official(pair)
    network = loaded(pair, model)
    torch.manual_seed(3)
    x = torch.randn(pair.shape, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours, theirs = network(x), model(y)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    cotangent = torch.randn_like(theirs)
    (ours * cotangent).sum().backward()
    (theirs * cotangent).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_drops_where_monai_drops(name: str) -> None:
    """As many dropouts and drop-paths of the same rates are met on the way through."""
    pair = PAIRS[name]
    model = official(pair)
    x = torch.randn(pair.shape)
    assert rates(loaded(pair, model), x) == rates(model, x)


def rates(network: nn.Module, x: torch.Tensor) -> dict[float, int]:
    """How often a rate is met, in the order of the rates."""
    met: list[float] = []
    for module in [m for m in network.modules() if m is not network]:  # MONAI notes the rate on the whole, too
        values = [getattr(module, n, None) for n in ("p", "rate", "drop_prob", "dropout")]
        rate = next((v for v in values if isinstance(v, float) and v), None)
        if rate is not None:
            module.register_forward_hook(lambda m, i, o, rate=rate: met.append(round(rate, 6)))
    with torch.no_grad():
        network(x)
    return {rate: met.count(rate) for rate in sorted(set(met))}
