"""`swin` against transformers, its weights rules, its presets, sizes and initialization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import composer
from composer.weights import convert, load_into

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "windows that fit": (
        dict(channels=2, classes=5, size=[64, 64], patch=4, dim=12, depths=[2, 2, 2], heads=[2, 3, 4], window=4,
             mlp_ratio=2.0),
        dict(num_channels=2, num_labels=5, image_size=64, patch_size=4, embed_dim=12, depths=[2, 2, 2],
             num_heads=[2, 3, 4], window_size=4, mlp_ratio=2.0),
    ),
    "padded, oblong, absolute positions": (
        dict(channels=3, classes=4, size=[45, 66], patch=2, dim=8, depths=[3, 2, 1], heads=[2, 4, 8], window=5,
             mlp_ratio=3.0, qkv_bias=False, eps=1e-3, act="relu"),
        dict(num_channels=3, num_labels=4, image_size=(45, 66), patch_size=2, embed_dim=8, depths=[3, 2, 1],
             num_heads=[2, 4, 8], window_size=5, mlp_ratio=3.0, qkv_bias=False, layer_norm_eps=1e-3,
             hidden_act="relu"),
    ),
    "positions": (
        dict(channels=1, classes=3, size=[24, 24], patch=3, dim=10, depths=[2, 1], heads=[1, 2], window=4,
             position=True),
        dict(num_channels=1, num_labels=3, image_size=24, patch_size=3, embed_dim=10, depths=[2, 1],
             num_heads=[1, 2], window_size=4, use_absolute_embeddings=True),
    ),
}  # fmt: skip


def official(options: dict[str, Any]) -> nn.Module:
    """The model of transformers with weights that are all different from their usual first values."""
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(7)
    model = SwinForImageClassification(SwinConfig(**options, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
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
    network = loaded(composer.load("swin:padded", **ours), "transformers", model.state_dict())
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


def test_where_nothing_is_padded_the_order_does_not_matter() -> None:
    params = CASES["windows that fit"][0]
    plain, padded = (composer.load(n, **params).build().eval() for n in ("swin", "swin:padded"))
    padded.load_state_dict(plain.state_dict())
    x = torch.randn(1, 2, 64, 64)
    torch.testing.assert_close(plain(x), padded(x))


OLD = (
    ("attention.q_proj", "attention.self.query"),
    ("attention.k_proj", "attention.self.key"),
    ("attention.v_proj", "attention.self.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("attention.relative_position_bias.", "attention.self."),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def test_the_names_of_transformers_4_map_completely() -> None:
    ours, theirs = CASES["positions"]
    new, old = official(theirs).state_dict(), {}
    for key, value in new.items():
        for a, b in OLD:
            key = key.replace(a, b)
        old[key] = value
    blueprint = composer.load("swin:padded", **ours)
    one, two = loaded(blueprint, "transformers", new), loaded(blueprint, "transformers", old)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def as_released(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Our tensors under the names of the authors or of timm, which count merges from another stage."""
    made = {}
    for key, value in state.items():
        words = key.split(".")
        if words[0] == "stage":
            s, part = int(words[1]), words[2]
            if part == "merge":
                made[f"layers.{s - (source == 'official')}.downsample.{'.'.join(words[3:])}"] = value
                continue
            at, rest = f"layers.{s}.blocks.{words[3]}", ".".join(words[4:])
            if ".key." in key or ".value." in key:
                continue
            if ".query." in key:
                parts = [state[key.replace("query", p)] for p in ("query", "key", "value")]
                rest, value = f"attn.qkv.{words[-1]}", torch.cat(parts)
            rest = rest.replace("attention.project", "attn.proj")
            made[f"{at}.{rest.replace('attention.bias.table', 'attn.relative_position_bias_table')}"] = value
        elif words[0] == "patches":
            made[f"patch_embed.{'norm' if 'norm' in key else 'proj'}.{words[-1]}"] = value
        else:
            head = "head.fc" if words[0] == "head" and source == "timm" else words[0]
            made[f"{head}.{words[-1]}"] = value
    return made


@pytest.mark.parametrize("source", ["official", "timm"])
def test_released_names_map_completely(source: str) -> None:
    blueprint = composer.load("swin", **CASES["windows that fit"][0])
    state = blueprint.build().state_dict()
    network = loaded(blueprint, source, as_released(state, source))
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


PUBLISHED = dict(
    tiny=28288354, small=49606258, base=87768224, base384=87903584, large=196532476, large384=196735516
)  # fmt: skip


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_counts(preset: str) -> None:
    network = composer.load(f"swin:{preset}").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[preset]


def test_sizes() -> None:
    assert composer.load("swin").sizes()["H"] == [224, 448, 672, 896]
    assert composer.load("swin:padded").sizes()["W"] == list(range(1, 1025))


def test_it_is_for_volumes_too() -> None:
    params = dict(channels=1, classes=3, size=[8, 16, 16], patch=2, dim=6, depths=[2, 2], heads=[1, 2], window=2)
    network = composer.load("swin", **params).build().eval()
    assert network(torch.randn(2, 1, 8, 16, 16)).shape == (2, 3)
    assert tuple(network.stage.get_submodule("0.blocks.0.attention.bias").table.shape) == (27, 1)


def test_dropout_and_init() -> None:
    params = CASES["windows that fit"][0]
    network = composer.load("swin", **params, dropout=0.2, attention_dropout=0.3, drop_path=0.5).build()
    rates = {n: m.rate for n, m in network.named_modules() if type(m).__name__ == "DropPath"}
    assert sorted(set(rates.values())) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    dropped = {n.split(".")[-1]: m.p for n, m in network.named_modules() if isinstance(m, nn.Dropout)}
    assert dropped == {"drop": 0.2, "out_drop": 0.2, "drop1": 0.2, "drop2": 0.2}
    windows = [m for m in network.modules() if type(m).__name__ == "WindowAttention"]
    assert [m.dropout for m in windows] == [0.3] * 6
    torch.manual_seed(0)
    state = composer.load("swin").build().state_dict()
    assert state["stage.2.blocks.0.mlp.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not state["stage.2.blocks.0.attention.query.bias"].any()
    assert state["stage.3.blocks.1.attention.bias.table"].std().item() == pytest.approx(0.02, rel=0.1)
