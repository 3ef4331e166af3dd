"""Shipped networks against their references in configurations drawn at random, every argument that changes a network among them.

Each draw says one network twice: in the arguments of the reference, and in the parameters of the blueprint. The tests of each
blueprint hold a few chosen configurations to its reference; these find the combinations that nobody chose.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from test_detr import randomize
from torch import Tensor, nn

import composer
from composer.weights import convert, load_into

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch's remark about its own fast path


@dataclass(frozen=True)
class Drawn:
    """A network of a reference, and the blueprint whose parameters say the same."""

    theirs: nn.Module
    blueprint: str
    params: dict[str, Any]
    inputs: list[Tensor]
    call: Callable[[nn.Module, list[Tensor]], list[Tensor]] = lambda network, x: [network(*x)]
    mine: Callable[[nn.Module, list[Tensor]], list[Tensor]] = lambda network, x: [network(*x)]
    rules: str = "transformers"
    constants: list[Tensor] = field(default_factory=list)


ACTS: dict[str, Any] = {
    "gelu": "gelu",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "leaky_relu": "leaky_relu",
    "silu": "silu",
    "gelu_pytorch_tanh": {"use": "act.gelu", "approximate": True},
}
"""The names of transformers, and what they are here."""


def pair(r: random.Random, low: int, high: int) -> list[int]:
    return [r.randint(low, high), r.randint(low, high)]


def image(r: random.Random, channels: int, size: list[int]) -> Tensor:
    return torch.randn(
        2, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(r.randrange(2**31))
    )


def vit(r: random.Random) -> Drawn:
    from transformers import ViTConfig, ViTForImageClassification

    square = r.random() < 0.5
    patch: Any = r.randint(1, 5) if square else pair(r, 1, 5)
    grid = pair(r, 1, 4)
    size = [g * p for g, p in zip(grid, [patch] * 2 if square else patch, strict=True)]
    heads, act = r.choice([1, 2, 3, 5]), r.choice(list(ACTS))
    dim, hidden, eps, qkv = heads * r.randint(1, 6), r.randint(1, 30), r.choice([1e-12, 1e-6, 0.1]), r.random() < 0.5
    depth, channels, classes = r.randint(1, 3), r.randint(1, 4), r.randint(1, 6)
    config = ViTConfig(
        hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=hidden, hidden_act=act,
        layer_norm_eps=eps, image_size=size, patch_size=patch, num_channels=channels, qkv_bias=qkv, num_labels=classes,
        attn_implementation="eager", encoder_stride=r.randint(1, 32),
    )  # fmt: skip
    params = dict(
        size=size, patch=patch, dim=dim, depth=depth, heads=heads, hidden=hidden, act=ACTS[act], eps=eps, qkv_bias=qkv,
        channels=channels, classes=classes,
    )  # fmt: skip
    return Drawn(ViTForImageClassification(config), "vit", params, [image(r, channels, size)], logits)


def logits(network: nn.Module, x: list[Tensor]) -> list[Tensor]:
    return [network(*x).logits]


def swin(r: random.Random) -> Drawn:
    """A window that is larger than a map makes the reference fail, so that the maps are large enough."""
    from transformers import SwinConfig, SwinForImageClassification

    stages, window = r.randint(1, 3), r.randint(2, 4)
    patch: Any = r.choice([1, 2, 3, pair(r, 1, 3)])
    least = window * 2 ** (stages - 1)
    sides = patch if isinstance(patch, list) else [patch] * 2
    size = [p * r.randint(least, least + 5) - r.randint(0, p - 1) for p in sides]
    depths, per_head = [r.randint(1, 3) for _ in range(stages)], r.choice([2, 4])
    heads = [r.choice([1, 2]) * 2**k for k in range(stages)]
    dim, act, eps = 2 * per_head, r.choice(list(ACTS)), r.choice([1e-5, 0.1])
    ratio, qkv, position = r.choice([1.0, 2.5, 4.0]), r.random() < 0.5, r.random() < 0.4
    if position and any(n % p for n, p in zip(size, sides, strict=True)):
        size = [n // p * p + p for n, p in zip(size, sides, strict=True)]
    channels, classes = r.randint(1, 3), r.randint(1, 5)
    config = SwinConfig(
        image_size=size, patch_size=patch, num_channels=channels, embed_dim=dim, depths=depths, num_heads=heads,
        window_size=window, mlp_ratio=ratio, qkv_bias=qkv, hidden_act=act, use_absolute_embeddings=position,
        layer_norm_eps=eps, num_labels=classes, attn_implementation="eager", drop_path_rate=r.choice([0.0, 0.3]),
    )  # fmt: skip
    params = dict(
        size=size, patch=patch, channels=channels, dim=dim, depths=depths, heads=heads, window=window, mlp_ratio=ratio,
        qkv_bias=qkv, act=ACTS[act], position=position, eps=eps, classes=classes,
    )  # fmt: skip
    return Drawn(SwinForImageClassification(config), "swin:padded", params, [image(r, channels, size)], logits)


def segformer(r: random.Random) -> Drawn:
    """`reshape_last_stage: false` makes the reference fail."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    stages = r.randint(1, 5)
    heads = [r.choice([1, 2, 3]) for _ in range(stages)]
    dims = [h * r.randint(4, 8) for h in heads]  # a norm over two channels magnifies rounding a thousandfold
    strides = [r.randint(1, 3) for _ in range(stages)]
    patches = [r.choice([3, 5, 7]) for _ in range(stages)]
    size = [r.randint(40, 64), r.randint(40, 64)] if stages < 4 else [r.randint(90, 120), r.randint(90, 120)]
    strides[0] = max(strides[0], 2)
    small, maps = min(size), []
    for s in strides:
        small = (small - 1) // s + 1
        maps.append(small)
    reduce = [r.randint(1, max(1, min(4, m))) for m in maps]
    depths, ratios = [r.randint(1, 2) for _ in range(stages)], [r.randint(1, 4) for _ in range(stages)]
    width, act, channels, classes = r.randint(1, 12), r.choice(list(ACTS)), r.randint(1, 3), r.randint(1, 5)
    config = SegformerConfig(
        num_channels=channels, num_encoder_blocks=stages, depths=depths, sr_ratios=reduce, hidden_sizes=dims,
        patch_sizes=patches, strides=strides, num_attention_heads=heads, mlp_ratios=ratios, hidden_act=act,
        layer_norm_eps=r.choice([1e-6, 0.1]), decoder_hidden_size=width, num_labels=classes,
        attn_implementation="eager",
    )  # fmt: skip
    params = dict(
        size=size, channels=channels, classes=classes, dims=dims, depths=depths, heads=heads, patches=patches,
        strides=strides, reduce=reduce, ratios=ratios, width=width, act=ACTS[act], eps=1e-5,
    )  # fmt: skip
    x = [image(r, channels, size)]
    return Drawn(SegformerForSemanticSegmentation(config), "segformer", params, x, logits)


def backbone(r: random.Random) -> tuple[Any, dict[str, Any]]:
    """A ResNet as the detectors have it."""
    from transformers import ResNetConfig

    stages, unit = r.choice([4, 4, r.randint(1, 5)]), r.choice(["bottleneck", "basic"])
    widths, depths = [4 * r.randint(1, 5) for _ in range(stages)], [r.randint(1, 2) for _ in range(stages)]
    channels, stem, act = r.randint(1, 3), r.randint(1, 9), r.choice(list(ACTS))
    first, early = r.random() < 0.3, r.random() < 0.5
    config = dict(num_channels=channels, embedding_size=stem, hidden_sizes=widths, depths=depths, layer_type=unit,
                  hidden_act=act, downsample_in_first_stage=first, downsample_in_bottleneck=early)  # fmt: skip
    ours = dict(channels=channels, stem=stem, widths=widths, depths=depths, unit=unit, early=early,
                backbone_act=ACTS[act], strides=[1 + first] + [2] * (stages - 1))  # fmt: skip
    return ResNetConfig(**config, out_features=[f"stage{stages}"]), ours


def detection(r: random.Random, per_head: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both detectors have of a transformer."""
    heads, other, act = r.choice([1, 2, 4]), r.choice([1, 2, 4]), r.choice(list(ACTS))
    dim, layers, decoder_layers = 4 * per_head, r.randint(1, 2), r.randint(1, 3)
    queries, hidden, decoder_hidden, classes = r.randint(1, 9), r.randint(1, 20), r.randint(1, 20), r.randint(1, 5)
    theirs = dict(
        d_model=dim, num_queries=queries, encoder_layers=layers, decoder_layers=decoder_layers, num_labels=classes,
        encoder_attention_heads=heads, decoder_attention_heads=other, encoder_ffn_dim=hidden,
        decoder_ffn_dim=decoder_hidden, activation_function=act, attn_implementation="eager", use_timm_backbone=False,
    )  # fmt: skip
    ours = dict(
        dim=dim, queries=queries, layers=layers, decoder_layers=decoder_layers, classes=classes, heads=heads,
        decoder_heads=other, hidden=hidden, decoder_hidden=decoder_hidden, act=ACTS[act],
    )  # fmt: skip
    return theirs, ours


def valid(r: random.Random, size: list[int]) -> Tensor:
    """The second of two images does not fill its frame."""
    mask = torch.ones(2, 1, *size)
    mask[1, :, size[0] * r.randint(5, 9) // 10 :] = 0
    mask[1, :, :, size[1] * r.randint(5, 9) // 10 :] = 0
    return mask


def seen(network: nn.Module, x: list[Tensor]) -> list[Tensor]:
    y = network(pixel_values=x[0], **({"pixel_mask": x[1][:, 0].long()} if len(x) > 1 else {}))
    return [y.logits, y.pred_boxes]


def found(network: nn.Module, x: list[Tensor]) -> list[Tensor]:
    y = network(*x)
    return [y["logits"], y["boxes"]]


LEARNED = {"use": "position.learned", "from": "project", "add": False, "axis_rows": 50}


def detr(r: random.Random) -> Drawn:
    from transformers import DetrConfig, DetrForObjectDetection

    (resnet, small), (theirs, ours) = backbone(r), detection(r, r.randint(1, 4))
    size, learned, chained = pair(r, 33, 130), r.random() < 0.3, r.random() < 0.4
    position = "learned" if learned else "sine"
    model = DetrForObjectDetection(
        DetrConfig(backbone_config=resnet, **theirs, num_channels=small["channels"],
                   position_embedding_type=position, auxiliary_loss=chained)
    )  # fmt: skip
    name = "detr:auxiliary" if chained else "detr"
    more = {"code": LEARNED} if learned else {}
    x = [image(r, small["channels"], size)]
    return Drawn(model, name, small | ours | dict(size=size) | more, x, seen, found,
                 constants=[valid(r, size)] * (not learned and r.random() < 0.5))  # fmt: skip


def deformable_detr(r: random.Random) -> Drawn:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    (resnet, small), (theirs, ours) = backbone(r), detection(r, 8 * r.randint(1, 2))
    theirs["decoder_layers"] = ours["decoder_layers"] = r.randint(2, 3)  # the reference fails to tie the heads of one
    size, stages = pair(r, 40, 130), len(small["depths"])
    taps, extra = r.randint(1, min(4, stages)), r.randint(0, 2)
    extra = extra if taps > 1 else 0
    resnet.out_features = [f"stage{k}" for k in range(stages - taps + 1, stages + 1)]
    points, decoder_points = r.randint(1, 3), r.randint(1, 3)
    refine = r.random() < 0.5
    model = DeformableDetrForObjectDetection(
        DeformableDetrConfig(backbone_config=resnet, **theirs, num_channels=small["channels"], encoder_n_points=points,
                             decoder_n_points=decoder_points, num_feature_levels=taps + extra, with_box_refine=refine,
                             auxiliary_loss=r.random() < 0.5, disable_custom_kernels=True)
    )  # fmt: skip
    ours |= dict(points=points, decoder_points=decoder_points, extra=extra, size=size)
    ours["stages"] = [f"backbone.c{k}" for k in range(6 - taps, 6)]
    name = "deformable_detr:refine" if refine else "deformable_detr"
    x = [image(r, small["channels"], size)]
    return Drawn(model, name, small | ours, x, seen, found, constants=[valid(r, size)] * (r.random() < 0.5))


def transformer(r: random.Random) -> Drawn:
    heads, act = r.choice([1, 2, 3]), r.choice(["relu", "gelu"])
    dim, hidden, eps, bias = heads * r.randint(1, 6), r.randint(1, 20), r.choice([1e-5, 0.1]), r.random() < 0.5
    layers, first, causal = pair(r, 1, 3), r.random() < 0.5, r.random() < 0.5
    model = nn.Transformer(dim, heads, *layers, hidden, 0.1, act, layer_norm_eps=eps, batch_first=True,
                           norm_first=first, bias=bias)  # fmt: skip
    n, m = pair(r, 1, 7)
    later = torch.ones(m, m, dtype=torch.bool).triu(1) if causal else None
    params = dict(dim=dim, heads=heads, encoder_layers=layers[0], decoder_layers=layers[1], hidden=hidden, act=act,
                  eps=eps, bias=bias, order="pre" if first else "post", causal=causal)  # fmt: skip
    x = [image(r, dim, [n]), image(r, dim, [m])]
    return Drawn(model, "transformer:torch", params, x, lambda net, x: [net(x[0].mT, x[1].mT, tgt_mask=later).mT],
                 rules="torch")  # fmt: skip


NORMS: dict[str, tuple[Any, Any]] = {
    "instance": ("instance", {"use": "norm.instance", "affine": False}),
    "affine": (("instance", {"affine": True}), {"use": "norm.instance", "affine": True}),
    "batch": ("batch", "batch"),
    "group": (("group", {"num_groups": 2}), {"use": "norm.group", "groups": 2}),
}


def unetr(r: random.Random) -> Drawn:
    from monai.networks.nets import UNETR

    rank = r.choice([2, 2, 3])
    size = [16 * r.randint(1, 2) for _ in range(rank)]
    size[0] = 32
    heads, width, norm = r.choice([1, 2, 3]), 2 * r.randint(1, 3), r.choice(list(NORMS))
    dim, hidden, qkv, channels, classes = heads * r.randint(1, 5), r.randint(1, 20), r.random() < 0.5, *pair(r, 1, 4)
    convs, residual, project = r.random() < 0.6, r.random() < 0.6, r.choice(["conv", "perceptron"])
    model = UNETR(channels, classes, size, width, dim, hidden, heads, proj_type=project, norm_name=NORMS[norm][0],
                  conv_block=convs, res_block=residual, qkv_bias=qkv, spatial_dims=rank,
                  dropout_rate=r.choice([0.0, 0.2]))  # fmt: skip
    params = dict(size=size, channels=channels, classes=classes, width=width, dim=dim, hidden=hidden, heads=heads,
                  norm=NORMS[norm][1], blocks=convs, qkv_bias=qkv)  # fmt: skip
    name = "unetr" if residual else "unetr:basic"
    return Drawn(model, name, params, [image(r, channels, size)], rules="official")


def swin_unetr(r: random.Random) -> Drawn:
    from monai.networks.nets import SwinUNETR

    rank = r.choice([2, 2, 2, 3])
    size = [32 * r.randint(1, 2 if rank == 2 else 1) for _ in range(rank)]
    size[0] = 64
    heads = [r.choice([1, 2, 3]) for _ in range(4)]
    window: Any = r.choice([2, 3, 5, 7, 9, [r.randint(2, 5) for _ in range(rank)]])
    norm, depths, merge = r.choice(list(NORMS)), [r.randint(1, 2) for _ in range(4)], r.choice(["merging", "mergingv2"])
    qkv, ratio, normal, patch_norm, v2 = (r.random() < 0.5, r.choice([1.0, 2.5, 4.0]), r.random() < 0.6,
                                          r.random() < 0.4, r.random() < 0.4)  # fmt: skip
    channels, classes = pair(r, 1, 4)
    eps = r.choice([1e-5, 0.1])
    model = SwinUNETR(channels, classes, depths=depths, num_heads=heads, window_size=window, qkv_bias=qkv,
                      mlp_ratio=ratio, feature_size=12, norm_name=NORMS[norm][0], normalize=normal,
                      patch_norm=patch_norm, spatial_dims=rank, downsample=merge, use_v2=v2,
                      dropout_path_rate=0.2, norm_layer=partial(nn.LayerNorm, eps=eps))  # fmt: skip
    params = dict(size=size, channels=channels, classes=classes, depths=depths, heads=heads, window=window, dim=12,
                  qkv_bias=qkv, mlp_ratio=ratio, norm=NORMS[norm][1], normalize=normal, v2=v2, downsample=merge,
                  layer_norm={"use": "norm.layer", "eps": eps},
                  patch_norm={"use": "norm.layer", "eps": eps} if patch_norm else None)  # fmt: skip
    return Drawn(model, "swin_unetr", params, [image(r, channels, size)], rules="official")


def attention_unet(r: random.Random) -> Drawn:
    from monai.networks.nets import AttentionUnet

    rank, levels = r.choice([2, 3]), r.randint(2, 4)
    widths, strides = [2 * r.randint(1, 4) for _ in range(levels)], [r.randint(1, 3) for _ in range(levels - 1)]
    kernel: Any = r.choice([1, 3, 5, [r.choice([1, 3, 5]) for _ in range(rank)]])
    up_kernel: Any = r.choice([3, 5, [r.choice([3, 5]) for _ in range(rank)]])
    channels, classes = pair(r, 1, 4)
    size = [torch.tensor(strides).prod().item() * r.randint(2, 2 if rank == 3 else 3) for _ in range(rank)]
    model = AttentionUnet(rank, channels, classes, widths, strides, kernel, up_kernel, r.choice([0.0, 0.2]))
    params = dict(size=size, channels=channels, classes=classes, widths=widths, strides=strides, kernel=kernel,
                  up_kernel=up_kernel)  # fmt: skip
    return Drawn(model, "attention_unet_monai", params, [image(r, channels, size)], rules="official")


MONAI_ACTS: dict[str, tuple[Any, Any]] = {
    "elu": ("elu", "elu"),
    "relu": ("relu", "relu"),
    "prelu": ("prelu", {"use": "act.prelu", "shared": False}),
    "leaky": (("leakyrelu", {"negative_slope": 0.2}), {"use": "act.leaky_relu", "slope": 0.2}),
    "gelu": ("gelu", "gelu"),
}


def vnet(r: random.Random) -> Drawn:
    from monai.networks.nets import VNet

    rank, act = r.choice([2, 2, 3]), r.choice(list(MONAI_ACTS))
    size = [16 * r.randint(1, 2) if rank == 2 else 16 for _ in range(rank)]
    channels, classes, bias = r.choice([1, 2, 4]), r.randint(1, 4), r.random() < 0.5
    model = VNet(rank, channels, classes, MONAI_ACTS[act][0], bias=bias, dropout_dim=r.choice([1, 2, 3]),
                 dropout_prob_down=r.choice([None, 0.2]), dropout_prob_up=r.choice([(None, 0.3), (0.2, 0.4)]))  # fmt: skip
    params = dict(size=size, channels=channels, classes=classes, act=MONAI_ACTS[act][1], bias=bias)
    return Drawn(model, "vnet", params, [image(r, channels, size)], rules="official")


FAMILIES: dict[Callable[[random.Random], Drawn], range] = {
    vit: range(12), swin: range(12), segformer: range(4), detr: range(8), deformable_detr: range(6),
    transformer: range(12), unetr: range(1, 5), swin_unetr: range(1, 3), attention_unet: range(8), vnet: range(1, 3),
}  # fmt: skip
"""The seeds of the fast test, a second or two of each: the first draws of MONAI's volumes take long."""


def compare(drawn: Drawn) -> None:
    """Outputs and gradients of all inputs are the same; in float64, since some draws magnify what is rounded."""
    randomize(drawn.theirs.double().eval())
    blueprint = composer.load(drawn.blueprint, **drawn.params)
    network = blueprint.build().double().eval()
    tensors, plan = convert(dict(drawn.theirs.state_dict()), blueprint.weights[drawn.rules], network.state_dict())
    assert plan.complete, plan
    load_into(network, tensors)
    results = []
    for run, call in ((drawn.theirs, drawn.call), (network, drawn.mine)):
        x = [t.clone().requires_grad_() for t in drawn.inputs]
        y = call(run, [*x, *drawn.constants])
        total: Tensor = sum((t * (k + 1) * t.cos()).sum() for k, t in enumerate(y))  # type: ignore[assignment]
        results.append([*y, *torch.autograd.grad(total, x, allow_unused=True)])
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("family", "seed"), [(f, k) for f, seeds in FAMILIES.items() for k in seeds])
def test_any_configuration_equals_the_reference(family: Callable[[random.Random], Drawn], seed: int) -> None:
    torch.manual_seed(seed)
    compare(family(random.Random(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_many_configurations_equal_the_reference(family: Callable[[random.Random], Drawn]) -> None:
    for seed in range(100, 100 + 3 * len(FAMILIES[family])):
        torch.manual_seed(seed)
        compare(family(random.Random(seed)))
