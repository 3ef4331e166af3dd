"""Every argument of the official constructors, and the parameter of the blueprint that says it.

A table for each official class: argument -> parameters, or in brackets why there is none. The tables of installed references are
complete by their signatures, the others by what the goldens and the published code name. For each class without an installed
reference a second network has every one of these parameters changed; what it must weigh is computed here from the descriptions.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
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
                 | dict(mla_channels="width", mlahead_channels="side", mla_index="mla")),
    "nnunet_plainconv": ("nnunet", NNUNET),
    "nnunet_resenc": ("nnunet:resenc", RESENC),
    "attention_unet_oktay": ("attention_unet", OKTAY),
    "nonlocal_unet": ("nonlocal_unet", dict(
        feature_scale="widths", n_classes="classes", in_channels="channels", is_batchnorm="norm",
        nonlocal_mode="score weights pool_queries", nonlocal_sf="pool", is_deconv="[the preset resized]")),
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
