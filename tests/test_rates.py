"""Dropout stands where the references have it: with rates of one nothing is left to chance, so that training is compared.

Of each network one rate is one and the others are zero, in turn; what a dropout leaves out must be missing in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_deformable_detr
import test_detr
import torch
from test_configurations import found, logits, seen
from test_detr import randomize
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import composer
from composer.weights import convert, load_into

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch's remark about its own fast path

Call = Callable[[nn.Module, list[Tensor]], list[Tensor]]
DETR = test_detr.SMALL | dict(size=[40, 50])


def plain(network: nn.Module, x: list[Tensor]) -> list[Tensor]:
    return [network(*x)]


def detr(**rates: float) -> nn.Module:
    return test_detr.reference(DETR, **rates)


def deformable_detr(**rates: float) -> nn.Module:
    return test_deformable_detr.reference(DEFORMABLE, False, **rates)


DEFORMABLE = test_deformable_detr.SMALL | dict(size=[64, 64])
VIT = dict(size=[8, 12], patch=4, channels=2, dim=12, depth=2, heads=3, hidden=20, classes=3)
SWIN = dict(size=[32, 32], patch=2, channels=2, dim=8, depths=[2, 2], heads=[1, 2], window=4, classes=3, drop_path=0.0)
SEGFORMER = dict(size=[64, 64], channels=2, classes=3, dims=[8, 8, 12, 8], heads=[1, 2, 3, 2], width=6, drop_path=0.0)
MONAI_2D: dict[str, Any] = dict(in_channels=2, out_channels=3, spatial_dims=2)


def vit(**rates: float) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, patch_size=4,
                       image_size=[8, 12], num_channels=2, num_labels=3, layer_norm_eps=1e-6,
                       attn_implementation="eager", **rates)  # fmt: skip
    return ViTForImageClassification(config)


def swin(**rates: float) -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(image_size=[32, 32], patch_size=2, num_channels=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2],
                        window_size=4, num_labels=3, drop_path_rate=0.0, attn_implementation="eager", **rates)  # fmt: skip
    return SwinForImageClassification(config)


def segformer(**rates: float) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(num_channels=2, hidden_sizes=[8, 8, 12, 8], num_attention_heads=[1, 2, 3, 2],
                             decoder_hidden_size=6, num_labels=3, drop_path_rate=0.0, attn_implementation="eager",
                             **rates)  # fmt: skip
    return SegformerForSemanticSegmentation(config)


def transformer(**rates: float) -> nn.Module:
    return nn.Transformer(12, 3, 2, 2, 20, batch_first=True, **rates)


def turned(network: nn.Module, x: list[Tensor]) -> list[Tensor]:
    """Channels last, as torch has them."""
    return [network(*(t.mT for t in x)).mT]


def unetr(**rates: float) -> nn.Module:
    from monai.networks.nets import UNETR

    return UNETR(**MONAI_2D, img_size=32, feature_size=4, hidden_size=12, mlp_dim=20, num_heads=3, **rates)


def swin_unetr(**rates: float) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(**MONAI_2D, num_heads=(1, 2, 3, 4), window_size=3, feature_size=12, **rates)


def attention_unet(**rates: float) -> nn.Module:
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(**MONAI_2D, channels=[4, 6, 8], strides=[2, 2], **rates)


HIDDEN = dict(hidden_dropout_prob=("dropout",), attention_probs_dropout_prob=("attention_dropout",))
DETECTOR = dict(dropout=("dropout", "input_dropout"), attention_dropout=("attention_dropout",),
                activation_dropout=("inner_dropout",))  # fmt: skip
NETWORKS: dict[Callable[..., nn.Module], tuple[str, str, dict[str, Any], dict[str, tuple[str, ...]], Call, Call]] = {
    detr: ("detr", "transformers", DETR, DETECTOR, seen, found),
    deformable_detr: ("deformable_detr", "transformers", DEFORMABLE, DETECTOR, seen, found),
    vit: ("vit", "transformers", VIT, HIDDEN, logits, plain),
    swin: ("swin:padded", "transformers", SWIN, HIDDEN, logits, plain),
    segformer: ("segformer", "transformers", SEGFORMER | dict(eps=1e-5),
                HIDDEN | dict(classifier_dropout_prob=("head_dropout",)), logits, plain),
    transformer: ("transformer:torch", "torch", dict(
        dim=12, heads=3, encoder_layers=2, decoder_layers=2, hidden=20, causal=False),
        dict(dropout=("dropout",)), turned, plain),
    unetr: ("unetr", "official", dict(
        size=[32, 32], channels=2, classes=3, width=4, dim=12, hidden=20, heads=3),
        dict(dropout_rate=("dropout",)), plain, plain),
    swin_unetr: ("swin_unetr", "official", dict(
        size=[64, 64], channels=2, classes=3, heads=[1, 2, 3, 4], window=3, dim=12),
        dict(drop_rate=("dropout",), attn_drop_rate=("attention_dropout",)), plain, plain),
    attention_unet: ("attention_unet_monai", "official", dict(
        size=[16, 16], channels=2, classes=3, widths=[4, 6, 8], strides=[2, 2]),
        dict(dropout=("dropout",)), plain, plain),
}  # fmt: skip
"""A reference -> the blueprint, its rules, its parameters; rates of the reference, and what they are here; how to call."""


def training(network: nn.Module) -> nn.Module:
    """In training, but for the statistics of batches."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return network


def inputs(name: str, params: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(3)
    if name == "transformer":
        return [torch.randn(2, 12, 5), torch.randn(2, 12, 4)]
    return [torch.randn(2, params.get("channels", 3), *params["size"])]


@pytest.mark.parametrize(("make", "rate"), [(m, r) for m, n in NETWORKS.items() for r in (*n[3], "none")])
def test_a_rate_of_one_leaves_out_what_it_does_in_the_reference(make: Callable[..., nn.Module], rate: str) -> None:
    name, rules, params, rates, call, mine = NETWORKS[make]
    theirs = make(**{r: float(r == rate) for r in rates})
    randomize(theirs)
    ours = {p: float(r == rate) for r, names in rates.items() for p in names}
    ours |= {"inner_dropout": 0.0} if "hidden_dropout_prob" in rates and make is not segformer else {}
    blueprint = composer.load(name, **params, **ours)
    network = blueprint.build(without="all")
    tensors, plan = convert(dict(theirs.state_dict()), blueprint.weights[rules], network.state_dict())
    assert plan.complete, plan
    load_into(network, tensors)
    x = inputs(make.__name__, params)
    with torch.no_grad():
        wanted, got = call(training(theirs), x), mine(training(network), x)
    for a, b in zip(wanted, got, strict=True):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=2e-5)


def test_layers_are_dropped_for_a_whole_batch() -> None:
    """At a rate of one a layer is not there; at a half each batch has it or not, as a whole; without a rate nothing is."""
    network = composer.load("transformer", dim=8, hidden=12, heads=2, encoder_layers=3, decoder_layers=1, dropout=0.0,
                            **{"encoder.0.layer_drop": 0.5, "encoder.1.layer_drop": 1.0}).build()  # fmt: skip
    assert not hasattr(network.get_submodule("encoder.2"), "layer_drop")
    seen: dict[str, list[tuple[Tensor, ...]]] = {"0": [], "1": []}
    for copy, entries in seen.items():
        module = network.get_submodule(f"encoder.{copy}.layer_drop")
        module.register_forward_hook(lambda m, i, o, entries=entries: entries.append((*i, o)))
    torch.manual_seed(1)
    source, target = torch.randn(3, 8, 5), torch.randn(3, 8, 4)
    with torch.no_grad():
        for _ in range(12):
            network.train()(source, target)
        kept = {copy: [torch.equal(y, layer) for _, layer, y in entries] for copy, entries in seen.items()}
        for copy, entries in seen.items():
            assert all(torch.equal(y, layer if k else x) for k, (x, layer, y) in zip(kept[copy], entries, strict=True))
        network.eval()(source, target)
    assert 0 < sum(kept["0"]) < 12
    assert not any(kept["1"])
    assert all(torch.equal(entries[-1][1], entries[-1][2]) for entries in seen.values())


def test_a_dropped_layer_learns_nothing() -> None:
    network = composer.load("detr", **DETR, layer_drop=1.0, dropout=0.0).build().train()
    y = network(torch.randn(1, 3, 40, 50))
    (y["logits"].square().sum() + y["boxes"].square().sum()).backward()
    gone = [p for n, p in network.named_parameters() if n.startswith(("encoder.", "decoder."))]
    assert not any(p.grad is not None and p.grad.any() for p in gone)
    assert network.get_parameter("head.0.classify.bias").grad.any()
