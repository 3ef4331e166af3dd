"""`transunet` beyond its goldens: Google's archive, other configurations, the published initialization."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import composer
from composer.keymap import match
from composer.weights import convert, load_file, load_into

TINY: dict[str, Any] = dict(
    size=[32, 32], width=32, units=[2, 1, 1], dim=24, hidden=40, layers=2, heads=3, neck=16, decoder=[12, 10, 8, 6]
)


def archive(width: int, units: list[int], dim: int, hidden: int, layers: int, heads: int, rows: int) -> dict[str, Any]:
    """Names and shapes of Google's hybrid archive, as its loader in the official code reads them."""
    made: dict[str, Any] = {"conv_root/kernel": (7, 7, 3, width)}
    made |= {f"gn_root/{p}": (1, 1, 1, width) for p in ("scale", "bias")}
    inside = width
    for b, count in enumerate(units, 1):
        middle, out = width * 2 ** (b - 1), 4 * width * 2 ** (b - 1)
        for u in range(1, count + 1):
            at = f"block{b}/unit{u}"
            made[f"{at}/conv1/kernel"] = (1, 1, inside, middle)
            made[f"{at}/conv2/kernel"] = (3, 3, middle, middle)
            made[f"{at}/conv3/kernel"] = (1, 1, middle, out)
            for k, n in ((1, middle), (2, middle), (3, out)):
                made |= {f"{at}/gn{k}/{p}": (1, 1, 1, n) for p in ("scale", "bias")}
            if u == 1:
                made[f"{at}/conv_proj/kernel"] = (1, 1, inside, out)
                made |= {f"{at}/gn_proj/{p}": (1, 1, 1, out) for p in ("scale", "bias")}
            inside = out
    made |= {"embedding/kernel": (1, 1, inside, dim), "embedding/bias": (dim,)}
    made |= {"Transformer/posembed_input/pos_embedding": (1, rows, dim)}
    made |= {f"Transformer/encoder_norm/{p}": (dim,) for p in ("scale", "bias")}
    for n in range(layers):
        at = f"Transformer/encoderblock_{n}"
        made |= {f"{at}/LayerNorm_{k}/{p}": (dim,) for k in (0, 2) for p in ("scale", "bias")}
        for q in ("query", "key", "value"):
            made[f"{at}/MultiHeadDotProductAttention_1/{q}/kernel"] = (dim, heads, dim // heads)
            made[f"{at}/MultiHeadDotProductAttention_1/{q}/bias"] = (heads, dim // heads)
        made[f"{at}/MultiHeadDotProductAttention_1/out/kernel"] = (heads, dim // heads, dim)
        made[f"{at}/MultiHeadDotProductAttention_1/out/bias"] = (dim,)
        for k, (a, b) in enumerate(((dim, hidden), (hidden, dim))):
            made |= {f"{at}/MlpBlock_3/Dense_{k}/kernel": (a, b), f"{at}/MlpBlock_3/Dense_{k}/bias": (b,)}
    return made


UNREAD = {"cls": (1, 1, 24), "pre_logits/kernel": (24, 24), "pre_logits/bias": (24,), "head/kernel": (24, 5),
    "head/bias": (5,)}  # fmt: skip


def drawn(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    random = np.random.RandomState(5)
    return {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def test_the_published_archive_fills_cnn_and_transformer() -> None:
    blueprint = composer.load("transunet")
    names = archive(64, [3, 4, 9], 768, 3072, 12, 12, 197)
    assert len(names) == 353
    wanted = {k: tuple(v.shape) for k, v in blueprint.build(device="meta").state_dict().items()}
    plan = match(blueprint.weights["google"], {**names, **UNREAD}, wanted)
    assert len(plan.moves) == 353
    assert set(plan.dropped) == set(UNREAD)
    assert not plan.unknown + plan.mismatched + plan.duplicates
    assert {a.split(".")[0] for a in plan.missing} == {"neck", "decoder", "head"}


def test_an_archive_is_read_as_the_official_code_reads_it(tmp_path: Path) -> None:
    arrays = drawn({**archive(32, [2, 1, 1], 24, 40, 2, 3, 5), **UNREAD})
    np.savez(tmp_path / "R50+ViT-B_16.npz", **arrays)
    blueprint = composer.load("transunet", **TINY)
    network = blueprint.build()
    tensors, _ = convert(load_file(tmp_path / "R50+ViT-B_16.npz"), blueprint.weights["google"], network.state_dict())
    left = load_into(network, tensors, strict=False)
    assert not left.unexpected
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    for ours, wanted in read_slowly(arrays):
        np.testing.assert_array_equal(state[ours], wanted, err_msg=ours)
        tensors.pop(ours)
    assert not tensors, "every tensor was compared"


def read_slowly(arrays: dict[str, np.ndarray], cnn: bool = True) -> Iterator[tuple[str, np.ndarray]]:
    """(our address, what must stand there), one statement for each row of the table of the official loader."""

    def filters(name: str) -> np.ndarray:
        return arrays[name].transpose(3, 2, 0, 1)

    if cnn:
        yield "root.weight", filters("conv_root/kernel")
    for theirs, ours in (("scale", "weight"), ("bias", "bias")):
        yield f"norm.{ours}", arrays[f"Transformer/encoder_norm/{theirs}"]
        if cnn:
            yield f"root.norm.{ours}", arrays[f"gn_root/{theirs}"].reshape(-1)
    for s, u in ((0, 0), (0, 1), (1, 0), (2, 0)) if cnn else ():
        at, here = f"block{s + 1}/unit{u + 1}", f"body.{s}.{u}"
        for k, part in enumerate("abc", 1):
            yield f"{here}.body.{part}.weight", filters(f"{at}/conv{k}/kernel")
            yield f"{here}.body.{part}.norm.weight", arrays[f"{at}/gn{k}/scale"].reshape(-1)
            yield f"{here}.body.{part}.norm.bias", arrays[f"{at}/gn{k}/bias"].reshape(-1)
        if u == 0:
            yield f"{here}.shortcut.weight", filters(f"{at}/conv_proj/kernel")
            yield f"{here}.shortcut.norm.weight", arrays[f"{at}/gn_proj/scale"].reshape(-1)
            yield f"{here}.shortcut.norm.bias", arrays[f"{at}/gn_proj/bias"].reshape(-1)
    yield "patches.weight", filters("embedding/kernel")
    yield "patches.bias", arrays["embedding/bias"]
    yield "position.table", arrays["Transformer/posembed_input/pos_embedding"][0, 1:]
    for i in range(2):
        at, here = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        attention = f"{at}/MultiHeadDotProductAttention_1"
        for theirs, ours in (("scale", "weight"), ("bias", "bias")):
            yield f"{here}.norm1.{ours}", arrays[f"{at}/LayerNorm_0/{theirs}"]
            yield f"{here}.norm2.{ours}", arrays[f"{at}/LayerNorm_2/{theirs}"]
        for theirs, ours in (("query", "query"), ("key", "key"), ("value", "value"), ("out", "project")):
            yield f"{here}.attention.{ours}.weight", arrays[f"{attention}/{theirs}/kernel"].reshape(24, 24).T
            yield f"{here}.attention.{ours}.bias", arrays[f"{attention}/{theirs}/bias"].reshape(-1)
        for k in (0, 1):
            yield f"{here}.mlp.fc{k + 1}.weight", arrays[f"{at}/MlpBlock_3/Dense_{k}/kernel"].T
            yield f"{here}.mlp.fc{k + 1}.bias", arrays[f"{at}/MlpBlock_3/Dense_{k}/bias"]


def test_the_position_table_of_another_size_is_zoomed() -> None:
    """The official code drops the class token's row and calls `scipy.ndimage.zoom(order=1)`."""
    ndimage = pytest.importorskip("scipy.ndimage")
    blueprint = composer.load("transunet", **TINY | dict(size=[64, 64]))
    table = drawn({"Transformer/posembed_input/pos_embedding": (1, 1 + 49, 24)})
    made, _ = convert(
        {k: torch.from_numpy(v) for k, v in table.items()}, blueprint.weights["google"], blueprint.build().state_dict()
    )
    (rows,) = table.values()
    wanted = ndimage.zoom(rows[0, 1:].reshape(7, 7, 24), (4 / 7, 4 / 7, 1), order=1).reshape(16, 24)
    np.testing.assert_allclose(made["position.table"].numpy(), wanted, atol=1e-6)


def test_the_plain_archive_fills_the_plain_variant() -> None:
    blueprint = composer.load("transunet:vit_b16")
    names = {k: v for k, v in archive(64, [3, 4, 9], 768, 3072, 12, 12, 197).items() if k.startswith("Transformer")}
    names |= {"embedding/kernel": (16, 16, 3, 768), "embedding/bias": (768,)}
    wanted = {k: tuple(v.shape) for k, v in blueprint.build(device="meta").state_dict().items()}
    plan = match(blueprint.weights["google"], names, wanted)
    assert len(plan.moves) == len(names)
    assert {a.split(".")[0] for a in plan.missing} == {"neck", "decoder", "head"}


@pytest.mark.parametrize("side", [16, 32])
def test_a_plain_archive_is_read_as_the_official_code_reads_it(tmp_path: Path, side: int) -> None:
    """Patches, tokens and the table of positions, whose class token goes; for another size the rest is zoomed."""
    ndimage = pytest.importorskip("scipy.ndimage")
    shapes = {k: v for k, v in archive(8, [], 24, 40, 2, 3, 17).items() if k.startswith("Transformer")}
    arrays = drawn(shapes | {"embedding/kernel": (4, 4, 3, 24), "embedding/bias": (24,), **UNREAD})
    np.savez(tmp_path / "ViT-B_16.npz", **arrays)
    small = dict(size=[side, side], patch=4, dim=24, hidden=40, layers=2, heads=3, neck=16, decoder=[12, 10, 8, 6])
    blueprint = composer.load("transunet:vit_b16", **small)
    network = blueprint.build()
    tensors, plan = convert(load_file(tmp_path / "ViT-B_16.npz"), blueprint.weights["google"], network.state_dict())
    assert set(plan.dropped) == set(UNREAD)
    assert not plan.unknown + plan.mismatched
    load_into(network, tensors, strict=False)
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    grid = arrays["Transformer/posembed_input/pos_embedding"][0, 1:].reshape(4, 4, 24)
    zoomed = ndimage.zoom(grid, (side / 16, side / 16, 1), order=1).reshape(-1, 24)
    np.testing.assert_allclose(state["position.table"], zoomed, atol=1e-6)
    np.testing.assert_array_equal(state["patches.weight"], arrays["embedding/kernel"].transpose(3, 2, 0, 1))
    compared = {"position.table", "patches.weight"}
    for ours, wanted in read_slowly(arrays, cnn=False):
        if ours not in compared:
            np.testing.assert_array_equal(state[ours], wanted, err_msg=ours)
            compared.add(ours)
    assert compared == set(tensors)


@pytest.mark.parametrize("name", ["transunet:r50_vit_b16", "transunet:vit_b16", "transunet:large"])
def test_published_counts(name: str) -> None:
    counts = {"r50_vit_b16": 105277081, "vit_b16": 91674201, "large": 324024729}
    network = composer.load(name).build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == counts[name.split(":")[1]]


@pytest.mark.parametrize("n_skip", [0, 1, 2, 3])
def test_fewer_skips(n_skip: int) -> None:
    """The first convolution of each stage shows which skips there are: 512, 256 and 64 channels, halved by `width`."""
    network = composer.load("transunet", **TINY, n_skip=n_skip).build()
    before, skips = [16, 12, 10, 8], [256, 128, 32, 0]
    wanted = [b + (s if k < n_skip else 0) for k, (b, s) in enumerate(zip(before, skips, strict=True))]
    found = [network.get_submodule(f"decoder.{k}.block.0").in_channels for k in range(4)]
    assert found == wanted
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 9, 32, 32)


def test_larger_patches_end_at_half_the_size() -> None:
    network = composer.load("transunet", **TINY, n_skip=0, patch=2).build().eval()
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 9, 16, 16)


def test_dropout_stands_where_it_was() -> None:
    network = composer.load("transunet", **TINY, dropout=0.3, attention_dropout=0.2).build()
    rates = {n: m.p for n, m in network.named_modules() if isinstance(m, torch.nn.Dropout)}
    wanted = {"drop": 0.3}
    for i in range(2):
        wanted |= {f"blocks.{i}.attention.out_drop": 0.2, f"blocks.{i}.mlp.drop1": 0.3, f"blocks.{i}.mlp.drop2": 0.3}
    assert rates == wanted
    assert [network.get_submodule(f"blocks.{i}.attention.attend").dropout for i in range(2)] == [0.2, 0.2]


def test_the_init_is_the_published_one() -> None:
    torch.manual_seed(0)
    state = composer.load("transunet", **TINY | dict(dim=96, hidden=200)).build().state_dict()
    assert not state["position.table"].any()
    assert state["blocks.0.mlp.fc1.weight"].abs().max().item() == pytest.approx((6 / 296) ** 0.5, rel=0.01)
    assert 0 < state["blocks.0.mlp.fc1.bias"].abs().max() < 1e-5
    assert state["blocks.0.attention.query.bias"].abs().max() > 0.01


# --- mt_transunet -----------------------------------------------------------------------------------------------------


def test_any_size_fits_a_table_that_is_never_added() -> None:
    network = composer.load("mt_transunet", **TINY | dict(size=[64, 64])).build().eval()
    outputs = network(torch.randn(1, 3, 96, 96))
    shapes = {k: tuple(v.shape[1:]) for k, v in outputs.items()}
    assert shapes == {"logits": (2, 96, 96), "distance": (1, 96, 96), "category": (3,), "coarse": (2, 6, 6)}


def test_fixed_adds_the_positions() -> None:
    plain = composer.load("mt_transunet", **TINY, **{"pool.padding": 1}).build().eval()
    fixed = composer.load("mt_transunet:fixed", **TINY).build().eval()
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in fixed.parameters())
    state = {k.replace("drop.position", "places"): v for k, v in plain.state_dict().items()}
    fixed.load_state_dict(state)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(fixed(x), plain(x))
    with torch.no_grad():
        fixed.places.table += torch.randn(5, 24)
    assert not torch.allclose(fixed(x)["category"], plain(x)["category"])


@pytest.mark.parametrize("name", ["mt_transunet", "mt_transunet:fixed"])
def test_the_archive_fills_four_layers_and_the_table(name: str) -> None:
    blueprint = composer.load(name)
    names = archive(64, [3, 4, 9], 768, 3072, 12, 12, 197)
    wanted = {k: tuple(v.shape) for k, v in blueprint.build(device="meta").state_dict().items()}
    plan = match(blueprint.weights["google"], names, wanted)
    assert len(plan.dropped) == 8 * 16
    assert not plan.unknown + plan.mismatched + plan.duplicates
    heads = {"cls", "neck", "decoder", "head", "distance", "category", "coarse"}
    assert {a.split(".")[0] for a in plan.missing} == heads
