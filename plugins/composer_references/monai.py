"""Networks of MONAI, each from the parameters of its blueprint. The library is imported when one is made."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from composer import Reference

Values = Mapping[str, Any]


def named(value: Any, known: Mapping[str, Any], what: str) -> Any:
    """What MONAI calls a norm or an activation, which is a name with its options."""
    spec = dict(value) if isinstance(value, Mapping) else {"use": value}
    name = str(spec.pop("use")).partition(".")[2] or str(value)
    if name not in known:
        raise ValueError(f"it has no {what} like {value}")
    theirs, options = known[name]
    if not set(spec) <= set(options):
        raise ValueError(f"it has no {what} like {value}")
    return theirs, {options[key]: option for key, option in spec.items()}


NORMS = {
    "instance": ("instance", {"affine": "affine", "eps": "eps"}),
    "batch": ("batch", {"eps": "eps"}),
    "group": ("group", {"groups": "num_groups"}),
}
ACTS = {
    "elu": ("elu", {}),
    "relu": ("relu", {}),
    "gelu": ("gelu", {}),
    "leaky_relu": ("leakyrelu", {"slope": "negative_slope"}),
}


def norm(value: Any) -> Any:
    """An instance norm of ours has weights unless it says otherwise, one of MONAI's has none."""
    theirs, options = named(value, NORMS, "norm")
    return theirs, {"affine": True, **options} if theirs == "instance" else options


def same(v: Values, **wanted: Any) -> None:
    """Refuse other values than those that MONAI has."""
    for name, value in wanted.items():
        if v[name] != value:
            raise ValueError(f"its `{name}` is {value}, here it is {v[name]}")


def unet(v: Values) -> Any:
    """BasicUNet, which has five levels."""
    from monai.networks.nets.basic_unet import BasicUNet

    if len(v["widths"]) != 5:
        raise ValueError(f"it has five levels, here are {len(v['widths'])}")
    widths = tuple(v["widths"])
    if widths[0] != widths[1] or any(2 * a != b for a, b in pairwise(widths[1:])):
        raise ValueError("its widths double from the second level on, as in widths=[32,32,64,128,256]")
    return BasicUNet(
        len(v["size"]), v["channels"], v["classes"], (*widths, widths[0]), act=named(v["act"], ACTS, "activation"),
        norm=norm(v["norm"]), bias=True,
    )  # fmt: skip


def unetr(v: Values) -> Any:
    """UNETR, whose transformer has twelve blocks."""
    from monai.networks.nets.unetr import UNETR

    same(v, depth=12, taps=[3, 6, 9], patch=16)
    return UNETR(
        v["channels"], v["classes"], list(v["size"]), v["width"], v["dim"], v["hidden"], v["heads"],
        norm_name=norm(v["norm"]), conv_block=v["blocks"], res_block=v["residual"], qkv_bias=v["qkv_bias"],
        spatial_dims=len(v["size"]), dropout_rate=v["dropout"],
    )  # fmt: skip


def swin_unetr(v: Values) -> Any:
    """SwinUNETR."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    if v["downsample"] == "duplicated":
        raise ValueError("it merges neighbours in the mended order: `downsample=merging`")
    same(v, patch=2)
    return SwinUNETR(
        v["channels"], v["classes"], depths=list(v["depths"]), num_heads=list(v["heads"]), window_size=v["window"],
        qkv_bias=v["qkv_bias"], mlp_ratio=v["mlp_ratio"], feature_size=v["dim"], norm_name=norm(v["norm"]),
        drop_rate=v["dropout"], attn_drop_rate=v["attention_dropout"], dropout_path_rate=v["drop_path"],
        normalize=v["normalize"], patch_norm=bool(v["patch_norm"]), spatial_dims=len(v["size"]),
        downsample=v["downsample"], use_v2=v["v2"],
    )  # fmt: skip


def vnet(v: Values) -> Any:
    """Dropout of the two finest skips is 0.5 in both, whatever the parameters say."""
    from monai.networks.nets.vnet import VNet

    same(v, width=16, kernel=5, down_convs=[1, 2, 3, 2], up_convs=[2, 2, 1, 1], norm="batch")
    return VNet(
        len(v["size"]), v["channels"], v["classes"], named(v["act"], ACTS, "activation"), bias=v["bias"],
        dropout_prob_down=v["dropout"], dropout_prob_up=(v["up_dropout"], v["skip_dropout"]),
    )  # fmt: skip


def attention_unet(v: Values) -> Any:
    """AttentionUnet."""
    from monai.networks.nets.attentionunet import AttentionUnet

    return AttentionUnet(
        len(v["size"]), v["channels"], v["classes"], list(v["widths"]), list(v["strides"]), v["kernel"],
        v["up_kernel"], v["dropout"],
    )  # fmt: skip


MAKERS = {"unetr": unetr, "swin_unetr": swin_unetr, "vnet": vnet, "attention_unet_monai": attention_unet}
REFERENCES = [
    *(Reference(name, "monai", make, rules="official", package="monai") for name, make in MAKERS.items()),
    Reference("unet", "monai", unet, rules="monai", package="monai"),
]
