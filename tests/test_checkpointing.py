"""Activation checkpointing by address: the same outputs, gradients and buffers, with less kept."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import composer
from composer.compose import fed
from composer.segments import owners

CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "batch norm": ("unet", dict(size=[16, 16], widths=[4, 8, 16]), ["down.*", "up.*"]),
    "dropout": ("vit", dict(size=[32, 32], dim=16, depth=2, heads=2, dropout=0.2, drop_path=0.3), ["blocks.*"]),
    "windows": ("swin_unet", dict(size=[64, 64], dim=8, heads=[1, 2, 2, 4], window=2, depths=[1, 1, 1, 1]), ["encoder.*", "decoder.*"]),
    "layouts": (
        "glam_unet",
        dict(size=[64, 64], widths=[4, 8, 16, 16], window=2, heads=2, tokens=2),
        ["down.*.convs", "up.*"],
    ),
    "several outputs": ("nnunet", dict(size=[16, 16, 16], widths=[4, 8, 8]), ["*"]),
    "counters": (
        "fine",
        dict(size=[16, 32, 32], classes=2, dim=12, depths=[2, 2, 2], heads=[2, 2, 4], windows=[4, 2, 2], tokens=2,
             cells=[4, 4], volume=[40, 140, 131]),
        ["cell", "encoder.*.blocks.*"],
    ),
}  # fmt: skip


def step(network: torch.nn.Module, inputs: dict[str, torch.Tensor], seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    outputs = tree_leaves(network(**inputs))
    sum((o * o).sum() for o in outputs).backward()
    return outputs


@pytest.mark.parametrize("case", CASES)
def test_nothing_but_memory_changes(case: str) -> None:
    """Two steps of training: outputs, gradients and buffers to the last bit. Without products, which add up in another
    order: nothing is prepared where steps are checkpointed."""
    name, params, patterns = CASES[case]
    blueprint = composer.load(name, **params)
    network = blueprint.build(without="products").train()
    other = copy.deepcopy(network).checkpoint(*patterns)
    inputs = {n: torch.randn(s) for n, s in fed(blueprint.infer(), {}, 2).items()}
    before = {n: b.clone() for n, b in network.named_buffers()}
    for seed in (1, 2):
        mine, theirs = step(network, inputs, seed), step(other, inputs, seed)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    for (n, a), b in zip(network.named_parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), n
        assert a.grad is None or torch.equal(a.grad, b.grad), n
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), other.buffers(), strict=True))
    if case in ("batch norm", "counters"):
        assert any(not torch.equal(before[n], b) for n, b in network.named_buffers())


def test_it_runs_again_in_the_backward_pass_and_only_then() -> None:
    network = composer.load("unet", size=[16, 16], widths=[4, 8]).build(checkpoint="down.*").train()
    calls = []
    network.get_submodule("down.1.convs.0").register_forward_hook(lambda *_: calls.append(1))
    network.get_submodule("head").register_forward_hook(lambda *_: calls.append(2))
    y = network(torch.randn(2, 1, 16, 16))
    assert calls == [1, 2]
    y.sum().backward()
    assert calls == [1, 2, 1]
    with torch.no_grad():
        network(torch.randn(2, 1, 16, 16))
    assert calls == [1, 2, 1, 1, 2]


def test_patterns_replace_those_before_and_none_switches_off() -> None:
    network = composer.load("unet", size=[16, 16], widths=[4, 8]).build()

    def again(*patterns: str) -> int:
        plan = network.checkpoint(*patterns)._plans[(True,)]
        return sum(s.again for s in plan.segments)

    assert (again("down.*"), again("down.*", "up.*"), again("head"), again()) == (2, 3, 1, 0)
    assert again("**") == again("*") == 3


def test_a_network_with_checkpoints_is_copied_and_pickled_with_them() -> None:
    network = composer.load("unet", size=[16, 16], widths=[4, 8]).build(checkpoint=("down.*", "up.*"))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert sum(s.again for s in other._plans[(True,)].segments) == 3


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    blueprint = composer.load("vit", size=[32, 32], dim=16, depth=2, heads=2)
    with pytest.raises(composer.BlueprintError, match=r"no(.|\n)*`block.\*`(.|\n)*did you mean `blocks.\*`"):
        blueprint.build(checkpoint="block.*")


def test_a_segment_reaches_over_the_compilers_own_steps() -> None:
    """A change of layout inside a node does not cut it in two."""
    plan = composer.load("glam_unet").build(device="meta", checkpoint="down.*")._plans[(True,)]
    found = [plan.addresses[s.start : s.stop] for s in plan.segments if s.again]
    assert len(found) == 5
    assert any("+" in a for addresses in found for a in addresses)
    assert all("+" not in a for addresses in found for a in (addresses[0], addresses[-1]))


def test_a_fault_inside_names_its_node(tmp_path: Path) -> None:
    network = composer.load("unet", size=[16, 16], widths=[4, 8]).build(checkpoint="*").train()
    network.get_submodule("down.1.convs.0").register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        network(torch.randn(2, 1, 16, 16))
    assert any("`down.1.convs.0`" in note for note in caught.value.__notes__)


def test_owners() -> None:
    assert list(owners("a.0.b")) == ["a", "a.0", "a.0.b"]
    assert list(owners("a.0+to_last")) == ["a", "a.0"]


COUNTING = """
import composer
import torch


class Steps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.weight * (x * self.count.clone())


class Counting(composer.Block):
    '''Multiplies by the number of its calls.'''

    name = "counting"
    shape = "batch ... dim -> batch ... dim"

    def build(self):
        return Steps()
"""


def test_buffers_are_those_of_the_first_run_when_it_runs_again(tmp_path: Path) -> None:
    """Two forward passes before one backward pass: each runs again with the buffers it had, and none counts twice."""
    (tmp_path / "counting.py").write_text(COUNTING)
    path = tmp_path / "counts.yaml"
    path.write_text(
        "blueprint: 1\nname: counts\ninputs: {image: {type: B 3 H W, size: [4, 4]}}\n"
        "graph: {stem: {use: conv, out: 4, norm: batch}, steps: {use: counting, repeat: 2}}\noutputs: {y: steps}\n"
    )
    network = composer.load(path, composer.Registry.discover([tmp_path / "counting.py"])).build().train()
    other = copy.deepcopy(network).checkpoint("*")
    x = torch.randn(3, 2, 3, 4, 4)
    for each in (network, other):
        (each(x[0]).sum() + each(x[1]).square().sum()).backward()
    assert float(other.get_buffer("steps.0.count")) == 2
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), other.buffers(), strict=True))
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
