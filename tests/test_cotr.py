"""CoTr beyond its golden: the rows of its table, the mended axes, its options, its initialization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from goldens import Case
from parity import CASES
from torch import nn

import composer
from composer.weights import convert, load_into

TINY = CASES["cotr"][1]
ROWS = {
    "": 41_871_088, ":dagger": 36_893_296, ":star": 27_933_424, ":no_detrans": 32_554_096, ":no_cnn": 21_934_960,
    ":nonlocal": 32_849_968, ":aspp": 45_534_832, ":pp": 33_885_040, ":transunet": 43_532_656, ":setr": 100_526_128,
    ":fixed": 41_871_088,
}  # fmt: skip
SMALL: dict[str, Any] = {
    ":setr": dict(size=[16, 64, 32], widths=[8, 16, 24, 24], hidden=48, heads=3, layers=2, classes=4),
    ":aspp": TINY | dict(widths=[8, 16, 32, 32], heads=2), ":pp": TINY | dict(widths=[8, 16, 32, 32], heads=2),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_of_table_1(row: str) -> None:
    network = composer.load(f"cotr{row}").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == ROWS[row]
    shape = (1, 1, *composer.load("cotr").params["size"].value)
    y = network.train()(torch.empty(shape, device="meta"))
    assert tuple(y["logits"].shape) == (1, 12, 48, 192, 192)
    assert [tuple(a.shape[2:]) for a in y["aux"]] == [(48, 96, 96), (24, 48, 48), (12, 24, 24)]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs_and_learns(row: str) -> None:
    options = SMALL.get(row, TINY | ({"blocks": [1, 2, 1]} if not row else {}))
    network = composer.load(f"cotr{row}", **options).build()
    x = torch.randn(1, 1, 16, 64, 32)
    y = network.train()(x)
    (y["logits"].square().mean() + sum(a.square().mean() for a in y["aux"])).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    with torch.no_grad():
        assert list(network(x)) == ["logits"]


def test_fixed_is_another_function_of_the_same_weights() -> None:
    case = Case("cotr", "tiny")
    outputs = []
    for name in ("cotr", "cotr:fixed"):
        blueprint = composer.load(name, **TINY)
        network = blueprint.build().eval()
        load_into(network, convert(case.weights(), blueprint.weights["official"], network.state_dict())[0])
        with torch.no_grad():
            outputs.append(network(*case.inputs())["logits"])
    assert (outputs[0] - outputs[1]).abs().max() > 0.1


def test_fixed_keeps_what_is_far_apart_apart() -> None:
    """Where all samples are those of the cell itself, attention passes maps on; the official axes transpose them."""
    for name, passes in (("cotr:fixed", True), ("cotr", False)):
        network = composer.load(name, **TINY, points=1).build().double()
        attention = network.get_submodule("context.blocks.0.attention")
        with torch.no_grad():
            for part in ("offsets", "weights", "value", "project"):
                for p in getattr(attention, part).parameters():
                    p.zero_()
            attention.value.weight.copy_(torch.eye(24))
            attention.project.weight.copy_(torch.eye(24))
            attention.weights.bias.copy_(torch.tensor([9.0, -9.0]).repeat(3) * 5)  # only the fine scale
            found: list[torch.Tensor] = []
            attention.project.register_forward_hook(lambda m, i, o, f=found: f.append((o, i)))
            attention.value.register_forward_pre_hook(lambda m, i, f=found: f.append(i[0]))
            network.eval()(torch.randn(1, 1, 16, 64, 32, dtype=torch.float64))
        fine = 4 * 8 * 4  # cells of the finer scale
        same = torch.allclose(found[0][:, :fine], found[1][0][:, :fine])
        assert same == passes


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch", "act": "relu"},
        {"norm": {"use": "norm.group", "groups": 8}, "standardize": "unbiased"},
        {"points": 2, "layers": 1, "dropout": 0.3, "channels": 2},
    ],
)
def test_the_official_options(options: dict[str, Any]) -> None:
    network = composer.load("cotr", **TINY | {"widths": [8, 16, 24, 24]} | options).build()
    x = torch.randn(2, options.get("channels", 1), 16, 32, 64)
    assert network.train()(x)["logits"].shape == (2, 4, 16, 32, 64)
    kinds = {type(m).__name__ for m in network.modules()}
    assert ("StandardizedConv3d" in kinds) == ("standardize" in options)
    assert not (kinds & {"InstanceNorm3d"} and "norm" in options)


def test_dropout_stands_in_three_places() -> None:
    network = composer.load("cotr", **TINY, dropout=0.25).build()
    rates = {n: m.p for n, m in network.named_modules() if isinstance(m, nn.Dropout)}
    places = ("attention_dropout", "mlp.drop1", "mlp_dropout")
    assert rates == {f"context.blocks.{i}.{p}": 0.25 for i in range(2) for p in places}


def test_the_init_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = composer.load("cotr", **TINY | {"widths": [8, 16, 48, 48], "heads": 6}).build()
    attention = network.get_submodule("context.blocks.1.attention")
    assert not any(p.any() for p in (*attention.weights.parameters(), attention.offsets.weight, attention.value.bias))
    bound = (6 / (48 + 48)) ** 0.5
    for name in ("value", "project"):
        weight = getattr(attention, name).weight
        assert 0.9 * bound < weight.abs().max() <= bound
    assert attention.offsets.bias.view(6, 2, 4, 3).abs().amax((0, 1, 3)).tolist() == pytest.approx([1, 2, 3, 4])
    assert network.get_parameter("context.tokens.level").std().item() == pytest.approx(1, rel=0.2)
    stem = network.stem.weight
    assert stem.std().item() == pytest.approx((2 / (8 * 7**3)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("size", "said"), [([8, 16, 16], "more than one voxel"), ([16, 40, 32], "multiple|equal")])
def test_sizes_that_do_not_fit_are_refused(size: list[int], said: str) -> None:
    with pytest.raises(composer.BlueprintError, match=said):
        composer.load("cotr", **TINY | {"size": size}).check()
