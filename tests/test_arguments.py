"""Every argument of the official constructors, and the parameter of the blueprint that says it.

A table for each official class: argument -> parameters, or in brackets why there is none. The tables of installed references are
complete by their signatures, the others by what the goldens and the published code name. For each class without an installed
reference a second network has every one of these parameters changed; what it must weigh is computed here from the descriptions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import pytest
import torch
from goldens import golden
from parity import CASES

import composer

Table = dict[str, str]

RATES = dict(drop_rate="dropout", attn_drop_rate="attention_dropout", drop_path_rate="drop_path")
QKV = dict(mlp_ratio="mlp_ratio", qkv_bias="qkv_bias", qk_scale="scale")
COMMON = dict(depths="depths", num_heads="heads", patch_size="patch", use_checkpoint="[memory, not values]")

TRANSUNET: Table = dict(
    img_size="size", in_channels="channels", encoder="[a preset]", hidden_size="dim", mlp_dim="hidden",
    num_heads="heads", num_layers="layers", resnet_units="units", width_factor="width", decoder_channels="decoder",
    n_classes="classes", n_skip="n_skip", grid="patch", patch_size="patch", head_channels="neck",
    skip_channels="[follow from width and n_skip]", attention_dropout_rate="attention_dropout",
    dropout_rate="dropout", classifier="[how a checkpoint's table is read: a rule of weights]",
    representation_size="[never read]", activation="[never read]", vis="[returns attention maps]",
    zero_head="[initial values]", num_classes="[never read]",
)  # fmt: skip
SWIN_UNET: Table = COMMON | RATES | QKV | dict(
    img_size="size", pretrain_img_size="size", in_channels="channels", in_chans="channels", embed_dim="dim",
    window_size="window", ape="position", patch_norm="patch_norm", norm_layer="norm", num_classes="classes",
    depths_decoder="[never read]", final_upsample="[only expand_first makes a map]",
)  # fmt: skip
NNFORMER: Table = COMMON | RATES | QKV | dict(
    crop_size="size", embedding_dim="dim", input_channels="channels", num_classes="classes", window_size="windows",
    deep_supervision="levels", norm_layer="norm", patch_norm="patch_norm", conv_op="[never read]",
    down_stride="[the sizes that follow from patch and acdc's strides]", out_indices="[all four or no decoder]",
)  # fmt: skip
GLAM_NNFORMER: Table = NNFORMER | dict(
    imsize="size", in_channels="channels", embed_dim="dim", decoder_depths="decoder_depths", gt_num="tokens",
    ape="[fails]", frozen_stages="[training]",
)  # fmt: skip
SETR: Table = COMMON | RATES | QKV | dict(
    img_size="size", in_chans="channels", embed_dim="dim", depth="depth", num_classes="classes",
    layer_norm_eps="eps", norm_layer="eps", norm="norm", norm_cfg="norm", align_corners="align_corners",
    head_width="width", channels_of_unused_conv_seg="inherited", in_index="tap", auxiliary_in_index="taps",
    num_upsampe_layer="rise", conv3x3_conv1x1="kernel", auxiliary_num_upsampe_layer="aux_rise",
    auxiliary_conv3x3_conv1x1="aux_kernel", num_conv="[4 is the preset pup]", auxiliary_num_conv="[only 2]",
    dropout_ratio="[never applied]", hybrid_backbone="[an edit of `patches`]", model_name="[a checkpoint]",
    pos_embed_interp="[a checkpoint]", random_init="[a checkpoint]",
)  # fmt: skip
del SETR["depths"]
NNUNET: Table = dict(
    input_channels="channels", n_stages="[the length of widths]", features_per_stage="widths",
    conv_op="[the length of size]", kernel_sizes="kernels", strides="strides", n_conv_per_stage="blocks",
    n_blocks_per_stage="blocks", num_classes="classes", n_conv_per_stage_decoder="decoder_convs", conv_bias="bias",
    norm_op="norm", norm_op_kwargs="norm", dropout_op="drop", dropout_op_kwargs="drop", nonlin="act",
    nonlin_kwargs="act", deep_supervision="[an output while training]", nonlin_first="order",
)  # fmt: skip
RESENC: Table = NNUNET | dict(
    block="middles", bottleneck_channels="middles", stem_channels="stem", stochastic_depth_p="drop_path",
    squeeze_excitation="squeeze", squeeze_excitation_reduction_ratio="squeeze", nonlin_first="[plain only]",
)  # fmt: skip
OKTAY: Table = dict(
    feature_scale="widths", n_classes="classes", in_channels="channels", attention_dsample="gate_stride",
    nonlocal_mode="gate_act squash", is_batchnorm="norm", is_deconv="[never read]",
)  # fmt: skip

OFFICIAL: dict[str, tuple[str, Table]] = {
    "transunet": ("transunet", TRANSUNET),
    "transunet_vit": ("transunet:vit_b16", TRANSUNET),
    "mt_transunet": ("mt_transunet", TRANSUNET | dict(
        cls_classes="categories", deep_supervision_classes="coarse", distance_map_channels="distances")),
    "swin_unet": ("swin_unet", SWIN_UNET),
    "glam_swin_unet": ("glam_swin_unet", SWIN_UNET | dict(gt_num="tokens")),
    "nnformer": ("nnformer", NNFORMER),
    "nnformer_tumor": ("nnformer:tumor", NNFORMER),
    "nnformer_acdc": ("nnformer:acdc", NNFORMER),
    "glam_nnformer": ("glam_nnformer", GLAM_NNFORMER),
    "fine": ("fine", GLAM_NNFORMER | dict(
        vt_map="cells", vt_num="per_cell", max_imsize="volume", clip="clamp", dataset="[sets the others]")),
    "cotr": ("cotr", dict(
        in_channels="channels", widths="widths", ffn_dim="hidden", num_heads="heads", num_layers="layers",
        num_points="points", num_levels="[two: those that `context` joins]", blocks="blocks", norm_cfg="norm",
        activation_cfg="act", weight_std="standardize", num_classes="classes", img_size="size",
        deep_supervision="[an output while training]")),
    "setr_naive": ("setr", SETR),
    "setr_pup": ("setr:pup", SETR),
    "setr_mla": ("setr_mla", {k: v for k, v in SETR.items() if v not in ("kernel", "rise", "aux_kernel", "aux_rise")}
                 | dict(mla_channels="width", mlahead_channels="side", mla_index="mla", in_index="[all of them]")),
    "nnunet_plainconv": ("nnunet", NNUNET),
    "nnunet_resenc": ("nnunet:resenc", RESENC),
    "attention_unet_oktay": ("attention_unet", OKTAY),
    "nonlocal_unet": ("nonlocal_unet", dict(
        feature_scale="widths", n_classes="classes", in_channels="channels", is_batchnorm="norm",
        nonlocal_mode="score normalize pool_queries", nonlocal_sf="pool", is_deconv="[the preset resized]")),
}  # fmt: skip
"""Golden -> blueprint, and the arguments of its official class."""

MONAI = dict(in_channels="channels", out_channels="classes", spatial_dims="[the length of size]")
INSTALLED: dict[str, tuple[str, Table]] = {
    "monai.UNETR": ("unetr", MONAI | dict(
        img_size="size", feature_size="width", hidden_size="dim", mlp_dim="hidden", num_heads="heads",
        proj_type="[how a checkpoint's patches lie: a rule of weights]", norm_name="norm", conv_block="blocks",
        res_block="residual", dropout_rate="dropout", qkv_bias="qkv_bias", save_attn="[keeps attention maps]")),
    "monai.SwinUNETR": ("swin_unetr", MONAI | dict(
        patch_size="patch", depths="depths", num_heads="heads", window_size="window", qkv_bias="qkv_bias",
        mlp_ratio="mlp_ratio", feature_size="dim", norm_name="norm", drop_rate="dropout",
        attn_drop_rate="attention_dropout", dropout_path_rate="drop_path", normalize="normalize",
        norm_layer="layer_norm", patch_norm="patch_norm", use_checkpoint="[memory, not values]",
        downsample="downsample", use_v2="v2", use_flash_attention="[speed, not values]")),
    "monai.VNet": ("vnet", MONAI | dict(
        act="act", dropout_prob="dropout", dropout_prob_down="dropout", dropout_prob_up="up_dropout skip_dropout",
        dropout_dim="drop_channels", bias="bias")),
    "monai.AttentionUnet": ("attention_unet_monai", MONAI | dict(
        channels="widths", strides="strides", kernel_size="kernel", up_kernel_size="up_kernel", dropout="dropout")),
    "torch.Transformer": ("transformer", dict(
        d_model="dim", nhead="heads", num_encoder_layers="encoder_layers", num_decoder_layers="decoder_layers",
        dim_feedforward="hidden", dropout="dropout", activation="act", layer_norm_eps="eps", norm_first="order",
        bias="bias", custom_encoder="[an edit of `encoder`]", custom_decoder="[an edit of `decoder`]",
        batch_first="[how values lie]", device="[not the network]", dtype="[not the network]")),
    "transformers.ViTConfig": ("vit", dict(
        hidden_size="dim", num_hidden_layers="depth", num_attention_heads="heads", intermediate_size="hidden",
        hidden_act="act", hidden_dropout_prob="dropout inner_dropout", layer_norm_eps="eps", image_size="size",
        attention_probs_dropout_prob="attention_dropout", patch_size="patch", num_channels="channels",
        qkv_bias="qkv_bias", initializer_range="[initial values]", encoder_stride="[masked images, another head]",
        pooler_output_size="[not of the classifier]", pooler_act="[not of the classifier]")),
    "transformers.SwinConfig": ("swin", dict(
        image_size="size", patch_size="patch", num_channels="channels", embed_dim="dim", depths="depths",
        num_heads="heads", window_size="window", mlp_ratio="mlp_ratio", qkv_bias="qkv_bias",
        hidden_dropout_prob="dropout inner_dropout", attention_probs_dropout_prob="attention_dropout",
        drop_path_rate="drop_path", hidden_act="act", use_absolute_embeddings="position", layer_norm_eps="eps",
        initializer_range="[initial values]", encoder_stride="[masked images, another head]",
        _out_features="[a backbone's outputs]", _out_indices="[a backbone's outputs]")),
    "transformers.SegformerConfig": ("segformer", dict(
        num_channels="channels", num_encoder_blocks="[the length of dims]", depths="depths", sr_ratios="reduce",
        hidden_sizes="dims", patch_sizes="patches", strides="strides", num_attention_heads="heads",
        mlp_ratios="ratios", hidden_act="act", hidden_dropout_prob="dropout", drop_path_rate="drop_path",
        attention_probs_dropout_prob="attention_dropout", classifier_dropout_prob="head_dropout",
        layer_norm_eps="[never read, see `eps`]", decoder_hidden_size="width", initializer_range="[initial values]",
        semantic_loss_ignore_index="[a loss]", reshape_last_stage="[false fails but for squares, which it reshapes]")),
    "transformers.ResNetConfig": ("resnet", dict(
        num_channels="channels", embedding_size="stem", hidden_sizes="widths", depths="depths", layer_type="unit",
        hidden_act="act inner_act", downsample_in_first_stage="strides", downsample_in_bottleneck="early")),
    "transformers.DetrConfig": ("detr", dict(
        backbone_config="depths widths stem unit early backbone_act strides", num_channels="channels",
        num_queries="queries", encoder_layers="layers", encoder_ffn_dim="hidden", encoder_attention_heads="heads",
        decoder_layers="decoder_layers", decoder_ffn_dim="decoder_hidden", decoder_attention_heads="decoder_heads",
        encoder_layerdrop="layer_drop", decoder_layerdrop="decoder_layer_drop", activation_function="act",
        d_model="dim", dropout="dropout input_dropout", attention_dropout="attention_dropout",
        activation_dropout="inner_dropout", auxiliary_loss="[the preset auxiliary]",
        position_embedding_type="[the preset learned]", dilation="dilations")),
    "transformers.DeformableDetrConfig": ("deformable_detr", dict(
        backbone_config="depths widths stem unit early backbone_act strides stages", num_channels="channels",
        num_queries="queries", two_stage_num_proposals="queries", encoder_layers="layers", encoder_ffn_dim="hidden",
        encoder_attention_heads="heads", decoder_layers="decoder_layers", decoder_ffn_dim="decoder_hidden",
        decoder_attention_heads="decoder_heads", encoder_layerdrop="layer_drop", activation_function="act",
        d_model="dim", dropout="dropout input_dropout", attention_dropout="attention_dropout",
        activation_dropout="inner_dropout", position_embedding_type="[the preset single_learned]",
        num_feature_levels="stages extra", encoder_n_points="points", decoder_n_points="decoder_points",
        with_box_refine="[the preset refine]", two_stage="[the preset two_stage]", dilation="dilations",
        auxiliary_loss="[an output while training]", return_intermediate="[an output]",
        disable_custom_kernels="[speed, not values]", max_position_embeddings="[never read]",
        tie_word_embeddings="[not the network]")),
}  # fmt: skip
"""Installed references, whose numbers are compared in `test_configurations`."""

ELSEWHERE = ("is_encoder_decoder", "init_", "_cost", "_coefficient", "focal_alpha", "hyena")
"""What begins or ends so is about losses or initial values, or is refused with a reason (`swin_unetr`)."""


def arguments(name: str) -> set[str]:
    """The arguments of an installed class, without those that every configuration of its library has."""
    package, _, kind = name.partition(".")
    if package == "monai":
        from monai.networks import nets

        return set(inspect.signature(getattr(nets, kind)).parameters)
    if package == "torch":
        return set(inspect.signature(torch.nn.Transformer).parameters)
    import transformers

    return set(getattr(transformers, kind).__annotations__) - {"model_type", "layer_types", "sub_configs_defaults"}


@pytest.mark.parametrize("name", INSTALLED)
def test_every_argument_of_an_installed_reference_has_its_parameter(name: str) -> None:
    blueprint, table = INSTALLED[name]
    known = {a for a in arguments(name) if not a.startswith(ELSEWHERE) and not a.endswith(ELSEWHERE)}
    known -= {"keys_to_ignore_at_inference", "attribute_map"}
    assert known == set(table)
    assert named(table) <= set(composer.load(blueprint).params)


def named(table: Table) -> set[str]:
    return {p for words in table.values() if not words.startswith("[") for p in words.split()}


@pytest.mark.parametrize("model", OFFICIAL)
def test_every_argument_of_an_official_code_has_its_parameter(model: str) -> None:
    blueprint, table = OFFICIAL[model]
    assert {key for case in golden(model)["cases"] for key in case["config"]} <= set(table)
    assert named(table) <= set(composer.load(blueprint).params)


def test_every_golden_has_a_table() -> None:
    assert set(CASES) == set(OFFICIAL) | {"fine_depth3", "unetr", "swin_unetr", "vnet", "attention_unet"}


# ---------------------------------------------------------------- second networks


def conv(inside: int, out: int, kernel: int | list[int] = 1, bias: bool = True, norm: bool = False) -> int:
    """A convolution of a kernel's volume, or a linear map; and a norm that has a scale and a shift."""
    return inside * out * (prod(kernel) if isinstance(kernel, list) else kernel) + bias * out + 2 * out * norm


def mlp(dim: int, hidden: int) -> int:
    return conv(dim, hidden) + conv(hidden, dim)


def attention(dim: int, bias: bool = True, query: bool = True) -> int:
    return (2 + query) * conv(dim, dim, bias=bias) + conv(dim, dim)


def layer(dim: int, hidden: int, bias: bool = True, norm: int = 2, query: bool = True) -> int:
    """A layer of a transformer whose norms have so many numbers a channel."""
    return 2 * norm * dim + attention(dim, bias, query) + mlp(dim, hidden)


def transunet(p: dict[str, Any]) -> int:
    w, cnn, d, inside = p["width"], p["patch"] < 8, p["dim"], p["width"]
    total = conv(3, w, 49, False, True) * cnn
    for s, units in enumerate(p["units"] if cnn else []):
        middle = w * 2**s
        for u in range(units):
            total += conv(inside, middle, 1, False, True) + conv(middle, middle, 9, False, True)
            total += conv(middle, 4 * middle, 1, False, True)
            total += conv(inside, 4 * middle, 1, False, True) * (u == 0)
            inside = 4 * middle
    tokens = prod(n // (16 * p["patch"] if cnn else p["patch"]) for n in p["size"])
    total += conv(inside if cnn else 3, d, p["patch"] ** 2) + tokens * d
    total += p["layers"] * layer(d, p["hidden"]) + 2 * d + conv(d, p["neck"], 9, False, True)
    before, skips = p["neck"], [8 * w, 4 * w, w][: p["n_skip"]] + [0] * 4
    for out, skip in zip(p["decoder"], skips, strict=False):
        total += conv(before + skip, out, 9, False, True) + conv(out, out, 9, False, True)
        before = out
    return total + conv(before, p["classes"], 9)


def mt_transunet(p: dict[str, Any]) -> int:
    heads = conv(p["decoder"][-1], p["distances"], 9) + conv(p["dim"], p["categories"])
    return transunet(p) + 2 * p["dim"] + heads + conv(p["dim"], p["coarse"], 9)


def swin_unet(p: dict[str, Any], memory: bool = False) -> int:
    """Norms of one number a channel: a layer norm without bias."""
    d, heads, w, levels = p["dim"], p["heads"], p["window"], len(p["depths"])
    grid = [n // p["patch"] for n in p["size"]]

    def stage(i: int) -> int:
        dim = d * 2**i
        window = min(w, *(n // 2**i for n in grid))
        hidden = int(dim * p["mlp_ratio"])
        own = layer(dim, hidden, p["qkv_bias"], 1) + (2 * window - 1) ** 2 * heads[i]
        tokens = p["tokens"] * dim + (45 * p["tokens"] // 2**i) ** 2 * dim if memory else 0
        return p["depths"][i] * (own + attention(dim, p["qkv_bias"]) * memory) + tokens

    total = conv(p["channels"], d, p["patch"] ** 2) + prod(grid) * d  # a position table, and no norm of patches
    total += sum(stage(i) for i in range(levels)) + d * 2 ** (levels - 1)
    for i in range(levels - 1):
        dim = d * 2**i
        total += 4 * dim + conv(4 * dim, 2 * dim, bias=False)  # merging
        total += conv(2 * dim, 4 * dim, bias=False) + dim + conv(2 * dim, dim) + stage(i)
    return total + d + conv(d, 16 * d, bias=False) + 2 * d + conv(d, p["classes"], bias=False)


def nnformer(p: dict[str, Any], memory: bool = False, volume: bool = False) -> int:
    d, levels = p["dim"], len(p["depths"])
    grid = [n // s for n, s in zip(p["size"], p["patch"], strict=True)]

    def stage(i: int, depth: int, heads: int, decoder: bool) -> int:
        dim, w = d * 2**i, p["windows"][i]
        window = min(w, *(n // 2**i for n in grid))
        own = layer(dim, int(dim * p["mlp_ratio"]), p["qkv_bias"], 1) + (2 * window - 1) ** 3 * heads
        total = depth * (own + attention(dim, p["qkv_bias"]) * (memory + volume))
        if not memory:
            return total - conv(dim, dim, bias=p["qkv_bias"]) * decoder  # the first asks with the map itself
        rows = (32 // w * p["tokens"] // 2**i) ** 3
        if volume and not decoder:
            rows = prod(n // 2**i // w for n in grid) * p["tokens"] ** 3
        cells = prod(p["cells"]) * p["per_cell"] if volume else 0
        return total + (p["tokens"] + rows + cells) * dim

    half = d // 2
    total = conv(p["channels"], half, 27, norm=True) + conv(half, half, 27, norm=True) + conv(half, d, 27, norm=True)
    total += conv(d, d, 27)  # without a norm of patches
    for i in range(levels):
        total += stage(i, p["depths"][i], p["heads"][i], False) + d * 2**i
        if i < levels - 1 or memory:
            total += d * 2**i + conv(d * 2**i, d * 2 ** (i + 1), 8 if memory else 27)
    for i in range(levels - 1):
        total += 2 * d * 2**i + conv(2 * d * 2**i, d * 2**i, 8)
        total += stage(i, p["decoder_depths"][i], p["decoder_heads"][i], True)
    heads = range(p["levels"])
    return total + sum(conv(d * 2**i, p["classes"], 64 if memory and i else prod(p["patch"])) for i in heads)


def cotr(p: dict[str, Any]) -> int:
    w, d, levels = p["widths"], p["widths"][3], 2
    total = conv(p["channels"], w[0], 343, False, True)
    for i, blocks in enumerate(p["blocks"]):
        total += conv(w[i], w[i + 1], 27, False, True) + (blocks - 1) * conv(w[i + 1], w[i + 1], 27, False, True)
        total += conv(w[i], w[i + 1], 1, False, True)
    samples = p["heads"] * p["points"] * levels
    places = conv(d, 3 * samples) + conv(d, samples) + 2 * conv(d, d)
    total += levels * d + p["layers"] * (places + 4 * d + mlp(d, p["hidden"]))
    for i in (2, 1, 0):
        total += conv(w[i + 1], w[i], 8, False) + 2 * conv(w[i], w[i], 27, False, True) + conv(w[i], p["classes"])
    return total + conv(w[0], p["classes"])


def setr(p: dict[str, Any], body: int = 0, heads: int = 3) -> int:
    d, tokens = p["dim"], prod(n // p["patch"] for n in p["size"])
    total = conv(p["channels"], d, p["patch"] ** 2) + d + (tokens + 1) * d
    total += p["depth"] * layer(d, int(d * p["mlp_ratio"]), p["qkv_bias"])
    if body:
        return total + body
    unread, w = conv(p["inherited"], p["classes"]), p["width"]
    read = 2 * d + conv(w, p["classes"]) + unread
    return (
        total + heads * read + conv(d, w, p["kernel"] ** 2, norm=True) + 2 * conv(d, w, p["aux_kernel"] ** 2, norm=True)
    )


def setr_mla(p: dict[str, Any]) -> int:
    w, s, k, unread = p["width"], p["side"], p["classes"], conv(p["inherited"], p["classes"])
    lateral = 2 * p["dim"] + conv(p["dim"], w, 1, False, True) + conv(w, w, 9, False, True)
    side = conv(w, s, 9, False, True) + conv(s, s, 9, False, True)
    return setr(p, 4 * (lateral + side) + conv(4 * s, k, 9) + unread + len(p["taps"]) * (conv(w, k, 1, False) + unread))


def nnunet(p: dict[str, Any], residual: bool = False) -> int:
    w, kernels, bias = p["widths"], [k if isinstance(k, list) else [k] * 2 for k in p["kernels"]], p["bias"]
    total, inside = 0, p["channels"]
    if residual:
        total, inside = conv(inside, p["stem"], kernels[0], bias, True), p["stem"]
    for i, out in enumerate(w):
        for _ in range(p["blocks"][i]):
            if not residual:
                total += conv(inside, out, kernels[i], bias, True)
            else:
                middle, narrow = p["middles"][i], max(8, int(out / p["squeeze"] + 4) // 8 * 8)
                total += conv(inside, middle, 1, bias, True) + conv(middle, middle, kernels[i], bias, True)
                total += conv(middle, out, 1, bias, True) + conv(out, narrow) + conv(narrow, out)
                total += conv(inside, out, 1, False, True) * (inside != out)
            inside = out
    for i in reversed(range(len(w) - 1)):
        stride = p["strides"][i + 1]
        total += conv(w[i + 1], w[i], stride if isinstance(stride, list) else [stride] * 2, bias)
        total += conv(2 * w[i], w[i], kernels[i], bias, True) + conv(w[i], p["classes"])
        total += (p["decoder_convs"][len(w) - 2 - i] - 1) * conv(w[i], w[i], kernels[i], bias, True)
    return total


def twice(inside: int, out: int, kernel: int) -> int:
    """Two convolutions of a U-Net without norms."""
    return conv(inside, out, kernel) + conv(out, out, kernel)


def oktay(p: dict[str, Any]) -> int:
    w, k = p["widths"], p["classes"]
    total = twice(p["channels"], w[0], 27) + sum(twice(a, b, 27) for a, b in pairwise(w))
    total += conv(w[-1], w[-1])
    for i in reversed(range(len(w) - 1)):
        total += twice(w[i + 1] + w[i], w[i], 27) + conv(w[i], k)
        if i:
            gate = conv(w[i], w[i], p["gate_stride"], False) + conv(w[i + 1], w[i]) + conv(w[i], 1)
            total += 2 * (gate + conv(w[i], w[i], norm=True)) + conv(2 * w[i], w[i], norm=True)
    return total + conv((len(w) - 1) * k, k)


def nonlocal_unet(p: dict[str, Any]) -> int:
    w = p["widths"]
    total = twice(p["channels"], w[0], 9) + sum(twice(a, b, 9) for a, b in pairwise(w))
    for i in reversed(range(len(w) - 1)):
        total += conv(w[i + 1], w[i], 16) + twice(2 * w[i], w[i], 9)
    for width in (w[1], w[2]):
        inner = width // 4
        total += 3 * conv(width, inner) + conv(inner, width, norm=True) + conv(inner, 1)
    return total + conv(w[0], p["classes"])


@dataclass(frozen=True)
class Second:
    """A network with other arguments, and what it weighs."""

    blueprint: str
    params: dict[str, Any]
    count: Callable[[dict[str, Any]], int]


SCALED = dict(qkv_bias=False, scale=0.3, mlp_ratio=3.0, dropout=0.2, attention_dropout=0.1, drop_path=0.4)
NO_BIAS = {"use": "norm.layer", "bias": False}
VIT = dict(dim=24, hidden=36, heads=3, layers=2, decoder=[12, 10, 8, 6], neck=16, classes=5, channels=3, size=[64, 64],
           dropout=0.2, attention_dropout=0.1)  # fmt: skip
SWIN = SCALED | dict(size=[48, 48], channels=4, classes=3, patch=3, dim=8, depths=[1, 3, 2], heads=[2, 1, 4], window=4,
                     norm=NO_BIAS, patch_norm=None, position=True)  # fmt: skip
NN = SCALED | dict(size=[32, 64, 64], channels=2, classes=3, dim=12, depths=[1, 2, 3], heads=[1, 2, 4],
                   windows=[2, 4, 2], patch=[4, 4, 4], levels=2, norm=NO_BIAS, patch_norm=None,
                   decoder_depths=[2, 1], decoder_heads=[2, 4])  # fmt: skip
VISION = SCALED | dict(size=[32, 48], channels=2, classes=5, patch=8, dim=24, depth=3, heads=2, eps=1e-5,
                       align_corners=True, width=10, inherited=7, norm={"use": "norm.group", "groups": 2})  # fmt: skip
UNET = dict(size=[16, 32], channels=2, classes=3, widths=[6, 8, 12], strides=[1, [1, 2], 2], kernels=[[3, 1], 3, 5],
            blocks=[1, 3, 2], decoder_convs=[2, 1], bias=False, norm="batch", act="relu",
            drop={"use": "dropout", "rate": 0.2})  # fmt: skip
SECOND: dict[str, Second] = {
    "transunet": Second("transunet", VIT | dict(width=32, units=[1, 2, 1], n_skip=0, patch=2), transunet),
    "transunet skips": Second(
        "transunet", VIT | dict(width=32, units=[1, 2, 1], n_skip=2, patch=1), transunet),
    "transunet_vit": Second(
        "transunet:vit_b16", VIT | dict(width=32, units=[1, 1, 1], n_skip=0, patch=8), transunet),
    "mt_transunet": Second(
        "mt_transunet", VIT | dict(width=32, units=[1, 2, 1], n_skip=0, patch=2, channels=1, categories=4, coarse=5,
                                   distances=2), mt_transunet),
    "swin_unet": Second("swin_unet", SWIN, swin_unet),
    "glam_swin_unet": Second("glam_swin_unet", SWIN | dict(tokens=2), lambda p: swin_unet(p, True)),
    "nnformer": Second("nnformer", NN | dict(strides=[[2, 2, 2], [2, 2, 2]]), nnformer),
    "glam_nnformer": Second("glam_nnformer", NN | dict(tokens=2), lambda p: nnformer(p, True)),
    "fine": Second("fine", NN | dict(tokens=2, cells=[3, 2], per_cell=2, volume=[60, 200, 150], clamp=1),
                   lambda p: nnformer(p, True, True)),
    "cotr": Second("cotr", dict(
        channels=2, classes=3, size=[16, 32, 32], widths=[4, 8, 12, 12], hidden=20, heads=2, layers=1, points=2,
        blocks=[1, 3, 2], norm={"use": "norm.group", "groups": 2}, act="relu", standardize="unbiased"), cotr),
    "setr": Second("setr", VISION | dict(taps=["blocks.0", "blocks.1"], tap="blocks.1", kernel=3, rise=4, aux_kernel=3,
                                         aux_rise=2), setr),
    "setr_mla": Second("setr_mla", VISION | dict(mla=[2, 1, 1, 0], side=6, taps=["smooth.3", "smooth.1"]), setr_mla),
    "nnunet": Second("nnunet", UNET | dict(order="conv drop act norm"), nnunet),
    "nnunet_resenc": Second("nnunet:resenc", UNET | dict(stem=5, middles=[3, 4, 6], squeeze=2, drop_path=0.2),
                            lambda p: nnunet(p, True)),
    "attention_unet": Second("attention_unet", dict(
        size=[32, 16, 16], channels=2, classes=3, widths=[4, 6, 8, 10], gate_stride=1, gate_act="softplus",
        squash={"use": "act.softmax", "over": "grid"}, norm=None), oktay),
    "nonlocal_unet": Second("nonlocal_unet", dict(
        size=[32, 32, 8], channels=2, classes=3, widths=[4, 8, 12, 16], pool=2, norm=None, score="perceptron",
        normalize="mean", pool_queries=True), nonlocal_unet),
}  # fmt: skip


@pytest.mark.parametrize("name", SECOND)
def test_a_second_network_has_every_argument_changed(name: str) -> None:
    second = SECOND[name]
    blueprint = composer.load(second.blueprint, **second.params)
    network = blueprint.build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == second.count(second.params)
    x = [torch.empty(2, second.params["channels"], *second.params["size"], device="meta")]
    y = network.eval()(*x, *([torch.empty(2, 3, device="meta")] if name == "fine" else []))
    assert (y["logits"] if isinstance(y, dict) else y).shape[:2] == (2, second.params["classes"])


@pytest.mark.parametrize("name", sorted({name.partition(":")[0] for name, _ in OFFICIAL.values()}))
def test_no_argument_is_left_out_of_the_second_networks(name: str) -> None:
    plain, wanted = composer.load(name).params, set()
    for blueprint, table in OFFICIAL.values():
        wanted |= named(table) if blueprint.partition(":")[0] == name else set()
    for second in SECOND.values():
        if second.blueprint.partition(":")[0] == name:
            wanted -= {k for k, value in second.params.items() if value != plain[k].value}
    assert not wanted
