"""`vit` against transformers, its weights rules, its presets, and a slow 3-D reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import composer
from composer.weights import convert, load_into

TINY = dict(size=[32, 32], patch=16, dim=12, depth=3, heads=3, channels=2, classes=5)

CASES = {
    "base": dict(
        ours=dict(channels=3, classes=7, size=[32, 32], patch=8, dim=24, depth=2, heads=3, hidden=50, eps=1e-6),
        theirs=dict(num_channels=3, num_labels=7, image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2,
                    num_attention_heads=3, intermediate_size=50, hidden_act="gelu", qkv_bias=True, layer_norm_eps=1e-6),
    ),
    "relu": dict(
        ours=dict(channels=1, classes=4, size=[30, 30], patch=10, dim=32, depth=3, heads=4, hidden=40, eps=1e-3,
            act="relu",
                  qkv_bias=False),
        theirs=dict(num_channels=1, num_labels=4, image_size=30, patch_size=10, hidden_size=32, num_hidden_layers=3,
                    num_attention_heads=4, intermediate_size=40, hidden_act="relu", qkv_bias=False,
                        layer_norm_eps=1e-3),
    ),
    "oblong": dict(
        ours=dict(channels=4, classes=11, size=[24, 48], patch=12, dim=40, depth=1, heads=5, hidden=33, eps=1e-2,
            act="sigmoid",
                  qkv_bias=True),
        theirs=dict(num_channels=4, num_labels=11, image_size=(24, 48), patch_size=12, hidden_size=40,
            num_hidden_layers=1,
                    num_attention_heads=5, intermediate_size=33, hidden_act="sigmoid", qkv_bias=True,
                        layer_norm_eps=1e-2),
    ),
    "oblong patch": dict(
        ours=dict(channels=2, classes=3, size=[12, 16], patch=[6, 4], dim=10, depth=4, heads=1, hidden=7, eps=1e-5,
                  act="tanh", qkv_bias=True),
        theirs=dict(num_channels=2, num_labels=3, image_size=(12, 16), patch_size=(6, 4), hidden_size=10,
            num_hidden_layers=4,
                    num_attention_heads=1, intermediate_size=7, hidden_act="tanh", qkv_bias=True, layer_norm_eps=1e-5),
    ),
}  # fmt: skip


def official(options: dict[str, Any]) -> nn.Module:
    """The model of transformers with weights that are all different from their usual first values."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(7)
    model = ViTForImageClassification(ViTConfig(**options, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def loaded(blueprint: composer.Blueprint, source: str, tensors: dict[str, Tensor]) -> nn.Module:
    network = blueprint.build().eval()
    ours, plan = convert(tensors, blueprint.weights[source], network.state_dict())
    assert plan.complete
    load_into(network, ours)
    return network


def images(options: dict[str, Any], batch: int = 2) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(batch, options["channels"], *options["size"])


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case: str) -> None:
    ours, theirs = CASES[case]["ours"], CASES[case]["theirs"]
    model = official(theirs)
    network = loaded(composer.load("vit", **ours), "transformers", model.state_dict())
    x, y = images(ours).requires_grad_(), images(ours).requires_grad_()
    a, b = network(x), model(y, interpolate_pos_encoding=False).logits
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn_like(a)
    (a * cotangent).sum().backward()
    (b * cotangent).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())


OLD_NAMES = (
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
    ("vit.layers.", "vit.encoder.layer."),
)


def as_in_transformers_4(key: str) -> str:
    for new, old in OLD_NAMES:
        key = key.replace(new, old)
    return key


def test_the_names_of_transformers_4_map_completely() -> None:
    model = official(CASES["base"]["theirs"])
    new = model.state_dict()
    old = {as_in_transformers_4(k): v for k, v in new.items()}
    assert "vit.encoder.layer.1.output.dense.weight" in old
    blueprint = composer.load("vit", **CASES["base"]["ours"])
    one, two = loaded(blueprint, "transformers", new), loaded(blueprint, "transformers", old)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def as_in_timm(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Our tensors under timm's names, one statement a tensor."""
    made = {
        "cls_token": state["cls.token"][None],
        "pos_embed": state["position.table"][None],
        "patch_embed.proj.weight": state["patches.weight"],
        "patch_embed.proj.bias": state["patches.bias"],
    }
    for i in range(depth):
        for kind in ("weight", "bias"):
            parts = [state[f"blocks.{i}.attention.{p}.{kind}"] for p in ("query", "key", "value")]
            made[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
            made[f"blocks.{i}.attn.proj.{kind}"] = state[f"blocks.{i}.attention.project.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                made[f"blocks.{i}.{part}.{kind}"] = state[f"blocks.{i}.{part}.{kind}"]
    for part in ("norm", "head"):
        made |= {f"{part}.{kind}": state[f"{part}.{kind}"] for kind in ("weight", "bias")}
    return made


def test_the_names_of_timm_map_completely() -> None:
    blueprint = composer.load("vit", **TINY)
    network = blueprint.build().eval()
    other = loaded(blueprint, "official", as_in_timm(network.state_dict(), 3))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("preset", "count"),
    [("tiny", 5717416), ("small", 22050664), ("base", 86567656), ("large", 304326632), ("huge", 632045800)],
)
def test_published_parameter_counts(preset: str, count: int) -> None:
    network = composer.load(f"vit:{preset}").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == count
    assert network(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def slow_vit(state: dict[str, Tensor], image: Tensor, patch: int, depth: int, heads: int, eps: float) -> Tensor:
    """A 3-D ViT for one volume (C, D, H, W), patch by patch and head by head."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    filters = state["patches.weight"].flatten(1)
    tokens = [state["cls.token"][0]]
    for z in range(0, image.shape[1], patch):
        for y in range(0, image.shape[2], patch):
            for x in range(0, image.shape[3], patch):
                cube = image[:, z : z + patch, y : y + patch, x : x + patch].flatten()
                tokens.append(filters @ cube + state["patches.bias"])
    h = torch.stack(tokens) + state["position.table"]
    for i in range(depth):
        at = f"blocks.{i}"
        n = norm(h, f"{at}.norm1")
        q, k, v = (linear(n, f"{at}.attention.{p}") for p in ("query", "key", "value"))
        width = q.shape[1] // heads
        done = []
        for a in range(heads):
            part = slice(a * width, (a + 1) * width)
            scores = torch.exp(q[:, part] @ k[:, part].T / width**0.5)
            done.append(scores / scores.sum(1, keepdim=True) @ v[:, part])
        h = h + linear(torch.cat(done, 1), f"{at}.attention.project")
        m = linear(norm(h, f"{at}.norm2"), f"{at}.mlp.fc1")
        h = h + linear(m * (1 + torch.erf(m / 2**0.5)) / 2, f"{at}.mlp.fc2")
    return linear(norm(h, "norm")[0], "head")


def test_volumes_equal_a_slow_reference() -> None:
    options = dict(size=[8, 4, 12], patch=4, dim=12, depth=2, heads=3, channels=2, classes=5, eps=1e-4)
    network = composer.load("vit", **options).build().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    x = torch.randn(2, 2, 8, 4, 12, dtype=torch.float64)
    state = {k: v.detach() for k, v in network.state_dict().items()}
    wanted = torch.stack([slow_vit(state, image, 4, 2, 3, 1e-4) for image in x])
    torch.testing.assert_close(network(x), wanted, atol=1e-10, rtol=1e-10)


def test_without_dropout_training_is_deterministic() -> None:
    network = composer.load("vit", **TINY).build()
    x = images(TINY)
    evaluated = network.eval()(x)
    assert torch.equal(network.train()(x), evaluated)
    assert not [m for m in network.modules() if type(m).__name__ in ("Dropout", "DropPath")]


def test_dropout_rates_arrive_where_they_belong() -> None:
    network = composer.load("vit", **TINY, dropout=0.25, attention_dropout=0.125, drop_path=0.5).build()
    rates = {n: m.rate for n, m in network.named_modules() if type(m).__name__ == "DropPath"}
    parts = ("attention_drop_path", "mlp_drop_path")
    assert rates == {f"blocks.{i}.{p}": r for i, r in ((1, 0.25), (2, 0.5)) for p in parts}
    dropped = {n: m.p for n, m in network.named_modules() if isinstance(m, nn.Dropout)}
    places = ("attention.out_drop", "mlp.drop1", "mlp.drop2")
    assert dropped == {"drop": 0.25} | {f"blocks.{i}.{p}": 0.25 for i in range(3) for p in places}
    assert [network.get_submodule(f"blocks.{i}.attention.attend").dropout for i in range(3)] == [0.125] * 3
    x = images(TINY)
    assert torch.equal(network.eval()(x), network(x))
    assert not torch.equal(network.train()(x), network(x))


def test_a_drop_path_of_one_removes_the_branches() -> None:
    """`drop_path` grows from 0 to its value, so two blocks are one whole one and one without its branches."""
    options = TINY | dict(depth=2)
    network = composer.load("vit", **options, drop_path=1.0).build().train()
    short = composer.load("vit", **options | dict(depth=1)).build()
    short.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("blocks.1.")})
    x = images(options)
    torch.testing.assert_close(network(x), short(x))
    assert not torch.allclose(network.eval()(x), short(x))


def test_the_init_is_the_published_one() -> None:
    torch.manual_seed(0)
    state = composer.load("vit", **TINY | dict(dim=96)).build().state_dict()
    assert state["blocks.0.mlp.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not state["blocks.0.mlp.fc1.bias"].any()
    assert not state["head.bias"].any()


def test_dim_must_split_into_heads() -> None:
    with pytest.raises(composer.BlueprintError, match=r"heads"):
        composer.load("vit", dim=768, heads=25).check()


@pytest.mark.parametrize("shape", [(1, 2, 31, 32), (1, 2, 48, 32), (1, 2, 32)])
def test_other_sizes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(composer.BlueprintError, match=r"BP50[12]"):
        composer.load("vit", **TINY).check(image=shape)
