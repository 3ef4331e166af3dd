"""DETR against transformers: outputs and gradients, with and without a mask."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

import composer
from composer.cli.main import run as command
from composer.weights import convert, load_into

SMALL = dict(
    classes=5, size=[64, 96], depths=[1, 2, 1, 1], stem=8, widths=[8, 16, 24, 32], dim=32, queries=7, layers=2,
    decoder_layers=3, heads=4, decoder_heads=2, hidden=24, decoder_hidden=40,
)  # fmt: skip
OTHER = dict(
    classes=2, channels=1, size=[48, 40], depths=[2, 1, 2, 1], stem=4, widths=[16, 8, 32, 16], dim=16, queries=3,
    layers=1, decoder_layers=2, heads=2, hidden=20, act="gelu",
)  # fmt: skip


def reference(options: dict[str, Any], seed: int = 0, **more: Any) -> DetrForObjectDetection:
    """The same network by transformers, weights and the statistics of its batch norms at random."""
    o = dict(channels=3, decoder_layers=options["layers"], decoder_heads=options["heads"], act="relu")
    o |= dict(decoder_hidden=options["hidden"]) | options
    backbone = ResNetConfig(
        num_channels=o["channels"], embedding_size=o["stem"], hidden_sizes=o["widths"], depths=o["depths"],
        layer_type="bottleneck", out_features=["stage4"],
    )  # fmt: skip
    config = DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, num_channels=o["channels"], num_labels=o["classes"],
        d_model=o["dim"], num_queries=o["queries"], encoder_layers=o["layers"], decoder_layers=o["decoder_layers"],
        encoder_attention_heads=o["heads"], decoder_attention_heads=o["decoder_heads"], encoder_ffn_dim=o["hidden"],
        decoder_ffn_dim=o["decoder_hidden"], activation_function=o["act"], attn_implementation="eager", **more,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = DetrForObjectDetection(config).eval()
    randomize(network)
    return network


@torch.no_grad()
def randomize(network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value.normal_(0, 0.7 * value[0].numel() ** -0.5 if value.dim() > 1 else 0.3)
        if value.dim() == 1 and name.endswith("weight"):
            value += 1


def ours(name: str, options: dict[str, Any], theirs: nn.Module) -> nn.Module:
    """Our network with their weights, in eval mode, but with the outputs of training."""
    blueprint = composer.load(name, **options)
    network = blueprint.build().eval()
    tensors, plan = convert(dict(theirs.state_dict()), blueprint.weights["transformers"], network.state_dict())
    assert plan.complete, plan
    load_into(network, tensors)
    network.training = True
    return network


@pytest.mark.parametrize("options", [SMALL, OTHER], ids=["small", "other"])
def test_learned_positions_equal_transformers(options: dict[str, Any]) -> None:
    """A table for the rows and one for the columns of the map: `position_embedding_type: learned`."""
    theirs = reference(options, position_embedding_type="learned")
    network = ours("detr:learned", options, theirs)
    image, _ = batch(options, False)
    results = []
    for run in (theirs, network):
        x = image.clone().requires_grad_()
        y = theirs(pixel_values=x) if run is theirs else network(x)
        flat = [y.logits, y.pred_boxes] if run is theirs else [y["logits"], y["boxes"]]
        (gradient,) = torch.autograd.grad(sum((t * t.cos()).sum() for t in flat), x)
        results.append([*flat, gradient])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)
    with pytest.raises(composer.BlueprintError, match="50 rows"):
        composer.load("detr:learned").check(image=(1, 3, 800, 1632))


def batch(options: dict[str, Any], masked: bool) -> tuple[Tensor, Tensor | None]:
    """Two images, the second padded on the right and below."""
    torch.manual_seed(5)
    h, w = options["size"]
    image = torch.randn(2, options.get("channels", 3), h, w)
    mask = torch.ones(2, 1, h, w)
    mask[1, :, h * 2 // 3 :] = 0
    mask[1, :, :, w // 2 :] = 0
    return image, mask if masked else None


def hidden_states(network: DetrForObjectDetection, **inputs: Any) -> list[Tensor]:
    """What the heads see of each layer: the normalized state, which is not handed on."""
    states: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda m, i, o: states.append(o)) for m in network.model.decoder.layers]
    network(**inputs)
    [h.remove() for h in hooks]
    return [network.model.decoder.layernorm(s if isinstance(s, Tensor) else s[0]) for s in states]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [SMALL, OTHER], ids=["small", "other"])
def test_outputs_and_gradients_equal_transformers(options: dict[str, Any], masked: bool) -> None:
    theirs = reference(options)
    network = ours("detr", options, theirs)
    image, mask = batch(options, masked)
    given = {} if mask is None else {"pixel_mask": mask[:, 0].long()}
    results = []
    for run in (theirs, network):
        x = image.clone().requires_grad_()
        if run is theirs:
            states = hidden_states(theirs, pixel_values=x, **given)
            layers = [(theirs.class_labels_classifier(s), theirs.bbox_predictor(s).sigmoid()) for s in states]
            final = theirs(pixel_values=x, **given)
            torch.testing.assert_close(layers[-1][0], final.logits)
        else:
            y = network(x) if mask is None else network(x, mask)
            layers = [(a["logits"], a["boxes"]) for a in (*y["aux"], y)]
        flat = [t for pair in layers for t in pair]
        (gradient,) = torch.autograd.grad(sum((t * (k + 1) * t.cos()).sum() for k, t in enumerate(flat)), x)
        results.append([*flat, gradient])
    assert len(results[0]) == len(results[1])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


def test_a_mask_of_ones_changes_nothing_and_may_be_of_any_type() -> None:
    network = composer.load("detr", **SMALL).build().eval()
    image, mask = batch(SMALL, True)
    with torch.no_grad():
        wanted = network(image)["boxes"]
        torch.testing.assert_close(network(image, torch.ones_like(mask))["boxes"], wanted)
        masked = network(image, mask)["boxes"]
        assert (masked[1] - wanted[1]).abs().max() > 1e-4
        for type_ in (torch.bool, torch.long):
            assert torch.equal(network(image, mask.to(type_))["boxes"], masked)


@pytest.mark.parametrize(("preset", "count"), [("r50", 41_524_768), ("r101", 60_464_672), ("dc5", 41_524_768)])
def test_published_counts(preset: str, count: int) -> None:
    network = composer.load(f"detr:{preset}").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == count


def test_the_names_of_the_original_code_are_known() -> None:
    """Every address is reached, by the names in facebookresearch/detr; q, k and v are one tensor there."""
    blueprint = composer.load("detr", **SMALL)
    network = blueprint.build()
    state, d = network.state_dict(), SMALL["dim"]
    official = {}
    for key, value in state.items():
        name = original(key)
        if ".query." in key or ".key." in key or ".value." in key:
            name = name.replace(".query.", ".in_proj_").replace(".key.", ".in_proj_").replace(".value.", ".in_proj_")
            value = torch.cat([value] * 3)
        official[name] = value
    tensors, plan = convert(official, blueprint.weights["official"], state)
    assert plan.complete, plan
    assert set(tensors) == set(state)
    assert all(t.shape == state[k].shape for k, t in tensors.items())
    assert official["transformer.encoder.layers.0.self_attn.in_proj_weight"].shape == (3 * d, d)


def original(key: str) -> str:
    rules = (
        (r"^backbone\.stem\.norm", "backbone.0.body.bn1"), (r"^backbone\.stem", "backbone.0.body.conv1"),
        (r"^project", "input_proj"), (r"^queries\.token", "query_embed.weight"),
        (r"^head\.0\.norm", "transformer.decoder.norm"), (r"^head\.0\.classify", "class_embed"),
        (r"^head\.0\.boxes\.mlp\.fc(\d)", lambda m: f"bbox_embed.layers.{int(m[1]) - 1}"),
        (r"^backbone\.stage\.(\d)", lambda m: f"backbone.0.body.layer{int(m[1]) + 1}"),
        (r"shortcut\.norm", "downsample.1"), (r"shortcut", "downsample.0"),
        (r"body\.([abc])\.norm", lambda m: f"bn{'abc'.index(m[1]) + 1}"),
        (r"body\.([abc])\.", lambda m: f"conv{'abc'.index(m[1]) + 1}."),
        (r"^(encoder|decoder)\.(\d)", r"transformer.\1.layers.\2"), (r"mlp\.fc", "linear"),
        (r"(decoder.*)norm2", r"\1norm3"), (r"norm_cross", "norm2"), (r"cross_attention", "multihead_attn"),
        (r"\.attention", ".self_attn"), (r"attn\.project", "attn.out_proj"),
    )  # fmt: skip
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def test_dropout_is_where_the_paper_has_it() -> None:
    network = composer.load("detr", **SMALL, dropout=0.2, inner_dropout=0.3, attention_dropout=0.4).build()
    rates = {n.split(".", 2)[2]: m.p for n, m in network.named_modules() if isinstance(m, nn.Dropout)}
    residual = ("attention_dropout", "cross_attention_dropout", "mlp_dropout")
    assert rates == dict.fromkeys(residual, 0.2) | {"mlp.drop1": 0.3}
    assert network.get_submodule("decoder.2.cross_attention.attend").dropout == 0.4


def test_auxiliary_losses_chain_normalized_layers() -> None:
    """Each layer goes on from what the heads see of it, through one norm, which sees the last twice."""
    theirs = reference(SMALL, auxiliary_loss=True)
    network = ours("detr:auxiliary", SMALL, theirs)
    image, mask = batch(SMALL, True)
    assert mask is not None
    with torch.no_grad():
        y, wanted = network(image, mask), theirs(pixel_values=image, pixel_mask=mask[:, 0].long())
        plain = ours("detr", SMALL, theirs)(image, mask)
    found = [(a["logits"], a["boxes"]) for a in (*y["aux"], y)]
    states = theirs.model(pixel_values=image, pixel_mask=mask[:, 0].long()).intermediate_hidden_states
    seen = [(theirs.class_labels_classifier(s), theirs.bbox_predictor(s).sigmoid()) for s in states[:-1]]
    for got, expected in zip(found, [*seen, (wanted.logits, wanted.pred_boxes)], strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)
    assert (plain["logits"] - wanted.logits).abs().max() > 1e-2
    assert sum(p.numel() for p in network.parameters()) == sum(
        p.numel() for n, p in theirs.named_parameters() if not n.startswith("model.backbone")
    ) + sum(p.numel() for n, p in network.named_parameters() if n.startswith("backbone"))


def test_the_types_of_auxiliary_predictions_are_said_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    small = [f"{k}={v}".replace(" ", "") for k, v in SMALL.items()]
    assert command(["check", "detr", *small]) == 0
    assert "aux {logits (B, 7, 6) queries, boxes (B, 7, 4) queries} · {" in capsys.readouterr().out
