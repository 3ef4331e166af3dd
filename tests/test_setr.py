"""`setr` and `setr_mla` beyond their goldens: published counts, what never runs, dropout, other configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import composer

TINY: dict[str, Any] = dict(size=[32, 32], classes=4, dim=24, depth=3, heads=2, width=8, inherited=4)
TAPS = dict(taps=["blocks.0", "blocks.1"])

COUNTS = {
    ("setr", 768, 19): 306576536,
    ("setr:pup", 768, 19): 319113662,
    ("setr_mla", 768, 19): 310805618,
    ("setr", 512, 150): 305669296,
    ("setr:pup", 512, 150): 318307292,
    ("setr_mla", 512, 150): 310568836,
    ("setr", 480, 60): 305265120,
    ("setr:pup", 480, 60): 317833816,
    ("setr_mla", 480, 60): 309704040,
}


@pytest.mark.parametrize(("name", "size", "classes"), COUNTS)
def test_published_counts(name: str, size: int, classes: int) -> None:
    network = composer.load(name, size=[size, size], classes=classes).build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name, size, classes]


@pytest.mark.parametrize(("name", "wanted"), [("setr", 88270232), ("setr:pup", 98119870)])
def test_counts_of_the_base_transformer(name: str, wanted: int) -> None:
    taps = [f"blocks.{k}" for k in (5, 7, 9, 11)][: 3 + (name == "setr:pup")]
    network = composer.load(name, dim=768, depth=12, heads=12, taps=taps).build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == wanted


@pytest.mark.parametrize("name", ["setr", "setr:pup", "setr_mla"])
def test_what_never_runs_gets_no_gradient(name: str) -> None:
    params = dict(mla=[2, 1, 0, 0]) if name == "setr_mla" else TAPS
    network = composer.load(name, **TINY, **params).build()
    outputs = network(torch.randn(2, 3, 32, 32))
    assert outputs["logits"].shape == (2, 4, 32, 32)
    (outputs["logits"].sum() + sum(o.square().sum() for o in outputs["aux"])).backward()
    idle = {n for n, p in network.named_parameters() if p.grad is None}
    unused = {n for n in dict(network.named_parameters()) if ".conv_seg." in n}
    assert len(unused) == 2 * (1 + len(outputs["aux"]))
    assert idle == unused
    if name == "setr_mla":
        assert not network.cls.token.grad.any()
        assert not network.position.table.grad[0].any()
        assert network.position.table.grad[1:].any()


def test_the_upsampled_head_is_sixteen_times_the_tokens() -> None:
    network = composer.load("setr:pup", **TINY, **TAPS, patch=8).build().eval()
    assert network(torch.randn(1, 3, 32, 32))["logits"].shape == (1, 4, 64, 64)


def test_the_aux_heads_are_for_training() -> None:
    network = composer.load("setr", **TINY, **TAPS).build()
    x = torch.randn(2, 3, 32, 32)
    assert set(network(x)) == {"logits", "aux"}
    assert set(network.eval()(x)) == {"logits"}


def test_dropout_stands_where_it_was() -> None:
    network = composer.load("setr", **TINY, **TAPS, dropout=0.1, attention_dropout=0.3).build()
    dropped = {n: m.p for n, m in network.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert set(dropped.values()) == {0.1}
    assert len(dropped) == 1 + 3 * 3
    assert network.blocks.get_submodule("0.attention.attend").dropout == 0.3
