"""Networks of transformers, each from the parameters of its blueprint. The library is imported when one is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer import Reference

Values = Mapping[str, Any]

ACTS = {name: name for name in ("gelu", "relu", "tanh", "sigmoid", "leaky_relu", "silu")}
"""Activations that have one name in both."""


def act(value: Any) -> str:
    """The name that transformers has for an activation."""
    if isinstance(value, Mapping) and dict(value) == {"use": "act.gelu", "approximate": True}:
        return "gelu_pytorch_tanh"
    name = str(value.get("use") if isinstance(value, Mapping) and len(value) == 1 else value).removeprefix("act.")
    if name not in ACTS:
        raise ValueError(f"it has no activation like {value}")
    return ACTS[name]


def vit(v: Values) -> Any:
    """ViTForImageClassification."""
    from transformers import ViTConfig, ViTForImageClassification

    config: dict[str, Any] = dict(
        image_size=list(v["size"]), patch_size=v["patch"], num_channels=v["channels"], hidden_size=v["dim"],
        num_hidden_layers=v["depth"], num_attention_heads=v["heads"], intermediate_size=v["hidden"],
        hidden_act=act(v["act"]), layer_norm_eps=v["eps"], qkv_bias=v["qkv_bias"], num_labels=v["classes"],
        hidden_dropout_prob=v["dropout"], attention_probs_dropout_prob=v["attention_dropout"],
    )  # fmt: skip
    return ViTForImageClassification(ViTConfig(**config))


def swin(v: Values) -> Any:
    """It pads whatever does not fit, as the preset `padded`: where all fits, both are the same."""
    from transformers import SwinConfig, SwinForImageClassification

    fits = {v["pad"], v["odd"], v["remainder"], v["pad_order"]} <= {"none", "high", "refuse", "pad", "pad roll"}
    if not fits or not v["patch_norm"]:
        raise ValueError("it pads on the high side before it rolls, and normalizes patches")
    config: dict[str, Any] = dict(
        image_size=list(v["size"]), patch_size=v["patch"], num_channels=v["channels"], embed_dim=v["dim"],
        depths=list(v["depths"]), num_heads=list(v["heads"]), window_size=v["window"], mlp_ratio=v["mlp_ratio"],
        qkv_bias=v["qkv_bias"], hidden_act=act(v["act"]), use_absolute_embeddings=v["position"],
        layer_norm_eps=v["eps"], num_labels=v["classes"], hidden_dropout_prob=v["dropout"],
        attention_probs_dropout_prob=v["attention_dropout"], drop_path_rate=v["drop_path"],
    )  # fmt: skip
    return SwinForImageClassification(SwinConfig(**config))


def segformer(v: Values) -> Any:
    """Its norms have eps 1e-5 whatever the configuration says: `eps=1e-5` is the same network."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    v["size"], v["eps"]  # any; 1e-6 as in the authors' code changes the seventh digit, and is no reason not to measure
    config: dict[str, Any] = dict(
        num_channels=v["channels"], num_encoder_blocks=len(v["dims"]), depths=list(v["depths"]),
        sr_ratios=list(v["reduce"]), hidden_sizes=list(v["dims"]), patch_sizes=list(v["patches"]),
        strides=list(v["strides"]), num_attention_heads=list(v["heads"]), mlp_ratios=list(v["ratios"]),
        hidden_act=act(v["act"]), decoder_hidden_size=v["width"], num_labels=v["classes"],
        hidden_dropout_prob=v["dropout"], attention_probs_dropout_prob=v["attention_dropout"],
        classifier_dropout_prob=v["head_dropout"], drop_path_rate=v["drop_path"],
    )  # fmt: skip
    return SegformerForSemanticSegmentation(SegformerConfig(**config))


def backbone(v: Values, *stages: str) -> Any:
    """The ResNet of the detectors, which gives the maps of these stages."""
    from transformers import ResNetConfig

    if list(v["strides"]) != [1, 2, 2, 2] or list(v["dilations"]) != [1, 1, 1, 1]:
        raise ValueError("its ResNet is not dilated")
    config: dict[str, Any] = dict(
        num_channels=v["channels"], embedding_size=v["stem"], hidden_sizes=list(v["widths"]),
        depths=list(v["depths"]), layer_type="bottleneck", out_features=list(stages),
    )  # fmt: skip
    return ResNetConfig(**config)


def shared(v: Values) -> dict[str, Any]:
    """What the configurations of both detectors have in common."""
    return dict(
        use_timm_backbone=False, num_channels=v["channels"], num_labels=v["classes"], d_model=v["dim"],
        num_queries=v["queries"], encoder_layers=v["layers"], decoder_layers=v["decoder_layers"],
        encoder_attention_heads=v["heads"], decoder_attention_heads=v["decoder_heads"], encoder_ffn_dim=v["hidden"],
        decoder_ffn_dim=v["decoder_hidden"], activation_function=act(v["act"]), dropout=v["dropout"],
        attention_dropout=v["attention_dropout"], activation_dropout=v["inner_dropout"],
    )  # fmt: skip


def detr(v: Values) -> Any:
    """DetrForObjectDetection on its own ResNet."""
    from transformers import DetrConfig, DetrForObjectDetection

    if v["order"] != "post":
        raise ValueError("its layers normalize after each sum")
    v["size"]  # any
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone(v, "stage4"), **shared(v)))


STAGES = {f"backbone.c{n + 1}": f"stage{n}" for n in range(1, 5)}


def deformable_detr(v: Values) -> Any:
    """DeformableDetrForObjectDetection, by its plain PyTorch code."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    v["size"]  # any
    config = DeformableDetrConfig(
        backbone_config=backbone(v, *(STAGES[s] for s in v["stages"])), **shared(v), encoder_n_points=v["points"],
        decoder_n_points=v["decoder_points"], num_feature_levels=len(v["stages"]) + v["extra"],
        disable_custom_kernels=True,
    )  # fmt: skip
    return DeformableDetrForObjectDetection(config)


def logits(network: Any, inputs: Mapping[str, Any]) -> Any:
    """Of classifiers and segmenters."""
    return network(inputs["image"]).logits


def boxes(network: Any, inputs: Mapping[str, Any]) -> Any:
    """Of detectors, as the blueprints name them."""
    mask = {"pixel_mask": inputs["mask"][:, 0].long()} if "mask" in inputs else {}
    found = network(pixel_values=inputs["image"], **mask)
    return {"logits": found.logits, "boxes": found.pred_boxes}


REFERENCES = [
    Reference(make.__name__, "transformers", make, call, package="transformers")
    for make, call in ((vit, logits), (swin, logits), (segformer, logits), (detr, boxes), (deformable_detr, boxes))
]
