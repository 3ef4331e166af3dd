"""Deformable DETR against transformers: outputs and gradients, with and without a mask, plain and refined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_detr import batch, ours, randomize
from torch import nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

import composer
from composer.weights import convert, export

SMALL = dict(
    classes=5, size=[64, 96], depths=[1, 2, 1, 1], stem=8, widths=[8, 16, 24, 32], dim=32, queries=7, layers=2,
    decoder_layers=3, heads=4, decoder_heads=2, points=3, decoder_points=2, hidden=24, decoder_hidden=40,
)  # fmt: skip
OTHER = dict(
    classes=2, channels=1, size=[48, 80], depths=[2, 1, 2, 1], stem=4, widths=[16, 8, 32, 16], extra=2, dim=64,
    queries=3, layers=1, decoder_layers=2, heads=2, points=1, hidden=20, act="gelu",
)  # fmt: skip
SINGLE = SMALL | dict(stages=["backbone.c5"], extra=0)


def reference(options: dict[str, Any], refine: bool, **more: Any) -> DeformableDetrForObjectDetection:
    """The same network by transformers, weights and the statistics of its batch norms at random."""
    o = dict(channels=3, act="relu", extra=1, stages=[3, 4, 5]) | options
    o = dict(decoder_heads=o["heads"], decoder_points=o["points"], decoder_hidden=o["hidden"]) | o
    backbone = ResNetConfig(
        num_channels=o["channels"], embedding_size=o["stem"], hidden_sizes=o["widths"], depths=o["depths"],
        layer_type="bottleneck", out_features=["stage2", "stage3", "stage4"][-len(o["stages"]) :],
    )  # fmt: skip
    config = DeformableDetrConfig(
        use_timm_backbone=False, backbone_config=backbone, num_channels=o["channels"], num_labels=o["classes"],
        d_model=o["dim"], num_queries=o["queries"], encoder_layers=o["layers"], decoder_layers=o["decoder_layers"],
        encoder_attention_heads=o["heads"], decoder_attention_heads=o["decoder_heads"], encoder_n_points=o["points"],
        decoder_n_points=o["decoder_points"], encoder_ffn_dim=o["hidden"], decoder_ffn_dim=o["decoder_hidden"],
        num_feature_levels=len(o["stages"]) + o["extra"], activation_function=o["act"], with_box_refine=refine,
        attn_implementation="eager", disable_custom_kernels=True, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    network = DeformableDetrForObjectDetection(config).eval()
    randomize(network)
    return network


CASES = [("", SMALL), ("", OTHER), ("", SINGLE), (":refine", SMALL), (":refine", OTHER)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("preset", "options"), CASES)
def test_outputs_and_gradients_equal_transformers(preset: str, options: dict[str, Any], masked: bool) -> None:
    theirs = reference(options, bool(preset))
    network = ours(f"deformable_detr{preset}", options, theirs)
    image, mask = batch(options, masked)
    results = []
    for run in (theirs, network):
        x = image.clone().requires_grad_()
        if run is theirs:
            y = theirs(pixel_values=x, **({} if mask is None else {"pixel_mask": mask[:, 0].long()}))
            flat, aux = [y.logits, y.pred_boxes], aux_of(theirs, y)
        else:
            y = network(x) if mask is None else network(x, mask)
            flat, aux = [y["logits"], y["boxes"]], [t for a in y["aux"] for t in (a["logits"], a["boxes"])]
        flat = [*flat, *aux]
        (gradient,) = torch.autograd.grad(sum((t * (k + 1) * t.cos()).sum() for k, t in enumerate(flat)), x)
        results.append([*flat, gradient])
    assert len(results[0]) == len(results[1])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


LEARNED = {"tokens.position": {"use": "position.learned", "add": False, "axis_rows": 50}}


@pytest.mark.parametrize(("name", "options", "more"), [("", SMALL, LEARNED), (":single_learned", SMALL, {})])
def test_learned_positions_equal_transformers(name: str, options: dict[str, Any], more: dict[str, Any]) -> None:
    """The tables of rows and columns serve every scale."""
    theirs = reference(SINGLE if name else options, False, position_embedding_type="learned")
    network = ours(f"deformable_detr{name}", options | more, theirs)
    image, mask = batch(options, True)
    assert mask is not None
    with torch.no_grad():
        y, z = network(image, mask), theirs(pixel_values=image, pixel_mask=mask[:, 0].long())
    torch.testing.assert_close(y["logits"], z.logits, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(y["boxes"], z.pred_boxes, atol=2e-5, rtol=2e-5)


TWO_STAGE = {
    "small": SMALL,
    "other": OTHER | dict(queries=11),
    "single": SINGLE | dict(size=[96, 64], classes=3, queries=4),
    "crowded": SMALL | dict(size=[64, 64], queries=80),
    "six scales": SMALL | dict(extra=3, size=[72, 40], queries=20, decoder_layers=1, dim=64),
}
"""`crowded` keeps nearly all of 85 proposals; the boxes of a sixth scale are larger than the image."""


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", TWO_STAGE)
def test_two_stages_equal_transformers(case: str, masked: bool) -> None:
    """Proposals, predictions of every layer, and the gradient of the image."""
    options = TWO_STAGE[case]
    theirs = reference(options, True, two_stage=True, two_stage_num_proposals=options["queries"])
    network = ours("deformable_detr:two_stage", options, theirs)
    image, mask = batch(options, masked)
    if case == "crowded":  # of so many scores some are so near that rounding to 32 bits would change their order
        theirs, network, image = theirs.double(), network.double(), image.double()
    results = []
    for run in (theirs, network):
        x = image.clone().requires_grad_()
        if run is theirs:
            y = theirs(pixel_values=x, **({} if mask is None else {"pixel_mask": mask[:, 0].long()}))
            flat = [y.enc_outputs_class, y.enc_outputs_coord_logits.sigmoid(), y.logits, y.pred_boxes]
            flat += aux_of(theirs, y)
            assert bool(y.enc_outputs_coord_logits.isinf().any()) == (masked or case == "six scales")
        else:
            y = network(x) if mask is None else network(x, mask)
            flat = [t for o in (y["proposals"], y, *y["aux"]) for t in (o["logits"], o["boxes"])]
        (gradient,) = torch.autograd.grad(sum((t * (k + 1) * t.cos()).sum() for k, t in enumerate(flat)), x)
        results.append([*flat, gradient])
    assert len(results[0]) == len(results[1])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


def aux_of(network: DeformableDetrForObjectDetection, y: Any) -> list[torch.Tensor]:
    """What the heads say of the layers before the last; the box of a layer is relative to what entered it."""
    found: list[torch.Tensor] = []
    for k in range(y.intermediate_hidden_states.shape[1] - 1):
        state = y.intermediate_hidden_states[:, k]
        at = y.init_reference_points if k == 0 else y.intermediate_reference_points[:, k - 1]
        box = network.bbox_embed[k](state)
        at = torch.logit(at.clamp(1e-5, 1 - 1e-5))
        box = torch.cat([box[..., : at.shape[-1]] + at, box[..., at.shape[-1] :]], -1)
        found += [network.class_embed[k](state), box.sigmoid()]
    return found


COUNTS = {
    "": 40_069_665, ":refine": 40_732_725, ":refine_original": 40_732_725 + 5 * 23_387, ":two_stage": 41_181_529
}  # fmt: skip


@pytest.mark.parametrize("preset", COUNTS)
def test_published_counts(preset: str) -> None:
    network = composer.load(f"deformable_detr{preset}").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == COUNTS[preset]


def test_only_refinement_hands_boxes_on_and_as_constants() -> None:
    """A gradient of the last boxes alone reaches the first layer's box head only where nothing was detached."""
    for preset, options in (("", SMALL), (":refine", SMALL), (":refine_original", SMALL)):
        network = composer.load(f"deformable_detr{preset}", **options, dropout=0).build()
        randomize(network)
        y = network(batch(options, False)[0])
        first, last = y["aux"][0]["boxes"], y["boxes"]
        assert torch.autograd.grad(last.sum(), first, allow_unused=True, retain_graph=True) == (None,)
        heads = {n.split(".mlp")[0] for n, _ in network.named_parameters() if ".boxes." in n}
        assert len(heads) == (3 if preset else 1)
        classes = {n for n, _ in network.named_parameters() if "classify.weight" in n}
        assert len(classes) == (3 if preset == ":refine_original" else 1)


def test_the_first_places_are_the_published_ones() -> None:
    """Before training head m looks along its own direction, its points 1, 2, … cells far, all with one weight."""
    network = composer.load("deformable_detr", **SMALL | dict(heads=8, points=2)).build()
    attention = network.get_submodule("encoder.1.attention")
    assert not attention.offsets.weight.any()
    places = attention.offsets.bias.detach().view(8, 4, 2, 2)
    compass = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for m, direction in enumerate(compass):
        for point in (1, 2):
            wanted = torch.tensor(direction, dtype=torch.float32).expand(4, 2) * point
            torch.testing.assert_close(places[m, :, point - 1], wanted, atol=1e-5, rtol=0)
    assert not any(p.any() for p in attention.weights.parameters())
    assert network.get_submodule("decoder.0.boxes.mlp.fc3").bias.tolist() == [0, 0, -2, -2]
    assert network.get_submodule("decoder.0.classify").bias[0].item() == pytest.approx(-4.595, abs=1e-3)


def test_the_original_names_are_known() -> None:
    blueprint = composer.load("deformable_detr:refine_original", **SMALL)
    state = blueprint.build().state_dict()
    keys = {
        "transformer.decoder.layers.1.norm1.weight": "decoder.1.layer.norm_cross.weight",
        "transformer.decoder.layers.1.norm2.weight": "decoder.1.layer.norm1.weight",
        "transformer.decoder.layers.1.norm3.weight": "decoder.1.layer.norm2.weight",
        "transformer.encoder.layers.0.norm2.bias": "encoder.0.norm2.bias",
        "class_embed.2.bias": "decoder.2.classify.bias",
        "bbox_embed.1.layers.0.weight": "decoder.1.boxes.mlp.fc1.weight",
        "input_proj.3.1.bias": "more.0.norm.bias",
        "transformer.level_embed": "tokens.level",
    }
    official = {key: state[address] for key, address in keys.items()}
    official["query_embed.weight"] = torch.cat([state["queries.token"], state["target.token"]], 1)
    tensors, _ = convert(official, blueprint.weights["official"], state)
    assert {*keys.values(), "queries.token", "target.token"} == set(tensors)
    assert all(torch.equal(tensors[a], state[a]) for a in tensors)


@pytest.mark.parametrize("options", [SMALL, OTHER | dict(queries=11)], ids=["small", "other"])
def test_a_checkpoint_of_two_stages_goes_there_and_back(options: dict[str, Any]) -> None:
    theirs = reference(options, True, two_stage=True, two_stage_num_proposals=options["queries"])
    blueprint = composer.load("deformable_detr:two_stage", **options)
    state = blueprint.build(device="meta").state_dict()
    official = dict(theirs.state_dict())
    tensors, plan = convert(official, blueprint.weights["transformers"], state)
    assert plan.complete, plan
    again = export(tensors, blueprint.weights["transformers"], {k: t.shape for k, t in official.items()})
    assert set(again) == set(plan.moves) == set(official) - set(plan.dropped)
    assert all(torch.equal(again[k], official[k]) for k in again)
    twins = {k.removeprefix("model.decoder.") for k in plan.dropped if not k.endswith("num_batches_tracked")}
    assert twins == {k for k in official if k.startswith(("class_embed.", "bbox_embed."))}


def test_the_original_names_of_two_stages_are_known() -> None:
    """Of the heads of the original, one more than layers, the last is that of the proposals."""
    blueprint = composer.load("deformable_detr:two_stage", **SMALL)
    state = blueprint.build().state_dict()
    keys = {
        "transformer.enc_output.weight": "proposals.linear.weight",
        "transformer.enc_output_norm.bias": "proposals.norm.bias",
        "transformer.pos_trans.weight": "proposals.mix.weight",
        "transformer.pos_trans_norm.weight": "proposals.mixed.weight",
        "class_embed.0.weight": "decoder.0.classify.weight",
        "class_embed.2.bias": "decoder.2.classify.bias",
        "class_embed.3.bias": "proposals.classify.bias",
        "bbox_embed.2.layers.2.weight": "decoder.2.boxes.mlp.fc3.weight",
        "bbox_embed.3.layers.0.weight": "proposals.box.mlp.fc1.weight",
    }
    official = {key: state[address] for key, address in keys.items()}
    twins = {f"transformer.decoder.{k}": t for k, t in official.items() if "_embed." in k}
    tensors, plan = convert(official | twins, blueprint.weights["official"], state)
    assert set(tensors) == set(keys.values())
    assert all(torch.equal(tensors[a], state[a]) for a in tensors)
    assert set(plan.dropped) == set(twins)


def test_dropout_is_where_the_paper_has_it() -> None:
    network = composer.load("deformable_detr", **SMALL, dropout=0.2, inner_dropout=0.3, attention_dropout=0.4).build()
    rates = [m.p for n, m in network.named_modules() if isinstance(m, nn.Dropout)]
    assert sorted(rates) == sorted([0.3] * 5 + [0.2] * (2 * 2 + 3 * 3))
    assert network.get_submodule("decoder.1.layer.attention.attend").dropout == 0.4
