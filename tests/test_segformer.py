"""`segformer` against transformers, its weights rules, its presets and its initialization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import composer
from composer.weights import convert, load_into

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "four stages": (
        dict(channels=2, classes=5, size=[64, 96], dims=[8, 12, 20, 24], depths=[1, 2, 1, 2], heads=[1, 2, 5, 4],
             ratios=[4, 3, 2, 4], width=14),
        dict(num_channels=2, num_labels=5, hidden_sizes=[8, 12, 20, 24], depths=[1, 2, 1, 2],
             num_attention_heads=[1, 2, 5, 4], mlp_ratios=[4, 3, 2, 4], decoder_hidden_size=14),
    ),
    "three stages": (
        dict(channels=3, classes=4, size=[45, 54], dims=[6, 9, 16], depths=[2, 1, 1], heads=[2, 3, 8],
             patches=[5, 3, 5], strides=[3, 2, 3], reduce=[4, 3, 1], ratios=[2, 5, 3], width=10, act="relu"),
        dict(num_channels=3, num_labels=4, num_encoder_blocks=3, hidden_sizes=[6, 9, 16], depths=[2, 1, 1],
             num_attention_heads=[2, 3, 8], patch_sizes=[5, 3, 5], strides=[3, 2, 3], sr_ratios=[4, 3, 1],
             mlp_ratios=[2, 5, 3], decoder_hidden_size=10, hidden_act="relu"),
    ),
}  # fmt: skip


def official(options: dict[str, Any]) -> nn.Module:
    """The model of transformers with weights that are all different from their usual first values."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(7)
    model = SegformerForSemanticSegmentation(SegformerConfig(**options, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.normal_(0, 0.2)
    return model


def loaded(blueprint: composer.Blueprint, source: str, tensors: dict[str, Tensor]) -> nn.Module:
    network = blueprint.build().eval()
    ours, plan = convert(tensors, blueprint.weights[source], network.state_dict())
    assert plan.complete, plan
    load_into(network, ours)
    return network


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case: str) -> None:
    ours, theirs = CASES[case]
    model = official(theirs)
    network = loaded(composer.load("segformer", **ours, eps=1e-5), "transformers", model.state_dict())
    torch.manual_seed(3)
    x = torch.randn(2, ours["channels"], *ours["size"], requires_grad=True)
    y = x.detach().clone().requires_grad_()
    a, b = network(x), model(y).logits
    torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)
    cotangent = torch.randn_like(a)
    (a * cotangent).sum().backward()
    (b * cotangent).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=2e-5, rtol=2e-5)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())


NAMES = {
    "stages.0.patch_embeddings.layer_norm.bias": "encoder.patch_embeddings.0.layer_norm.bias",
    "stages.3.layer_norm.weight": "encoder.layer_norm.3.weight",
    "stages.1.blocks.1.layernorm_before.bias": "encoder.block.1.1.layer_norm_1.bias",
    "stages.1.blocks.1.layernorm_after.bias": "encoder.block.1.1.layer_norm_2.bias",
    "stages.1.blocks.0.attention.q_proj.bias": "encoder.block.1.0.attention.self.query.bias",
    "stages.1.blocks.0.attention.o_proj.bias": "encoder.block.1.0.attention.output.dense.bias",
    "stages.1.blocks.0.attention.sequence_reduction.sequence_reduction.bias":
        "encoder.block.1.0.attention.self.sr.bias",
    "stages.1.blocks.0.attention.sequence_reduction.layer_norm.bias":
        "encoder.block.1.0.attention.self.layer_norm.bias",
    "stages.1.blocks.0.mlp.fc1.bias": "encoder.block.1.0.mlp.dense1.bias",
    "stages.1.blocks.0.mlp.dwconv.dwconv.bias": "encoder.block.1.0.mlp.dwconv.dwconv.bias",
}  # fmt: skip


@pytest.mark.parametrize("new", NAMES)
def test_the_names_of_transformers_4_lead_to_the_same_places(new: str) -> None:
    blueprint = composer.load("segformer", **CASES["four stages"][0])
    state = blueprint.build(device="meta").state_dict()
    model = official(CASES["four stages"][1]).state_dict()
    value = model[f"segformer.{new}"]
    moves = [convert({f"segformer.{n}": value}, blueprint.weights["transformers"], state)[0] for n in (new, NAMES[new])]
    assert list(moves[0]) == list(moves[1])
    assert len(moves[0]) == 1


INSIDE = {
    "attention.query": "attn.q",
    "attention.key": "attn.kv",
    "attention.project": "attn.proj",
    "attention.reduce.conv": "attn.sr",
    "attention.reduce.norm": "attn.norm",
    "mlp.middle": "mlp.dwconv.dwconv",
}


def as_the_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names of the authors' release: keys and values are one matrix, stages count from one."""
    made = {}
    for key, value in state.items():
        words = key.split(".")
        if words[0] == "stage":
            s, rest = int(words[1]) + 1, ".".join(words[2:])
            if rest.startswith("blocks"):
                block, rest = rest.split(".", 2)[1:]
                if ".value." in rest:
                    continue
                if ".key." in rest:
                    value = torch.cat([value, state[key.replace(".key.", ".value.")]])
                for ours, theirs in INSIDE.items():
                    rest = rest.replace(ours, theirs)
                made[f"backbone.block{s}.{block}.{rest}"] = value
            elif rest.startswith("norm"):
                made[f"backbone.norm{s}.{words[-1]}"] = value
            else:
                part = "norm" if "norm" in rest else "proj"
                made[f"backbone.patch_embed{s}.{part}.{words[-1]}"] = value
        elif words[0] == "side":
            made[f"decode_head.linear_c{4 - int(words[1])}.proj.{words[-1]}"] = value
        elif words[0] == "mix":
            made[f"decode_head.linear_fuse.{'bn' if 'norm' in key else 'conv'}.{words[-1]}"] = value
        else:
            made[f"decode_head.linear_pred.{words[-1]}"] = value
    return made


def test_the_names_of_the_authors_map_completely() -> None:
    blueprint = composer.load("segformer", **CASES["four stages"][0])
    state = blueprint.build().state_dict()
    network = loaded(blueprint, "official", as_the_authors(state))
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


PUBLISHED = dict(b0=3752694, b1=13715798, b2=27461974, b3=47337814, b4=64108374, b5=84708694)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_counts(preset: str) -> None:
    network = composer.load(f"segformer:{preset}").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[preset]


def test_the_smallest_size() -> None:
    sizes = composer.load("segformer").sizes()
    assert sizes["H"] == list(range(29, 1025)), "eight cells for the first reduction"


def test_it_is_for_volumes_too() -> None:
    tiny = dict(CASES["four stages"][0], size=[32, 32, 32])
    network = composer.load("segformer", **tiny).build().eval()
    assert network(torch.randn(1, 2, 32, 48, 32)).shape == (1, 5, 8, 12, 8)


def test_dropout_and_init() -> None:
    torch.manual_seed(0)
    network = composer.load("segformer", **CASES["four stages"][0], dropout=0.2, attention_dropout=0.3).build()
    rates = {n: m.rate for n, m in network.named_modules() if type(m).__name__ == "DropPath"}
    assert sorted(set(rates.values())) == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    dropped = {n.split(".")[-1]: m.p for n, m in network.named_modules() if isinstance(m, nn.Dropout)}
    assert dropped == {"out_drop": 0.2, "drop1": 0.2, "drop2": 0.2, "drop": 0.1}
    state = composer.load("segformer").build().state_dict()
    assert state["stage.3.blocks.0.mlp.middle.weight"].std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert state["stage.3.patches.weight"].std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.05)
    assert state["stage.3.blocks.0.attention.query.weight"].std().item() == pytest.approx(0.02, rel=0.1)
