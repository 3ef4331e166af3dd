"""Passes are exact: the optimized network is the other one, in every shipped blueprint, with weights and statistics that
are not those of a fresh network; and it stays one when its weights change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import composer
from composer.cli.main import run
from composer.evaluating import Evaluated
from composer.module import Network
from composer.passes import SHIPPED, Pass
from composer.prepared import fired
from composer.swaps import swaps_of

REGISTRY = composer.Registry.discover()
TINY = swaps_of(REGISTRY)["tiny"]
MORE: dict[str, tuple[Any, dict[str, Any]]] = {
    "resnet": ([64, 64], dict(depths=[1, 1, 1, 1])),
    "cotr:aspp": ([16, 32, 32], TINY["cotr"]["params"]),
    "attention_unet:single": ([32, 32], TINY["attention_unet"]["params"]),
}
CASES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    *((name, tuple(size), tiny.get("params") or {}) for name, tiny in TINY.items() for size in tiny["sizes"]),
    *((name, tuple(size), params) for name, (size, params) in MORE.items()),
]
IDS = [f"{name}-{len(size)}d" for name, size, _ in CASES]
PREPARING = [p.name for p in SHIPPED if p.prepares]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blueprint(name: str, size: tuple[int, ...] = (), **params: Any) -> composer.Blueprint:
    return composer.load(name, size=list(size), **params)


@torch.no_grad()
def scrambled(network: nn.Module, seed: int = 0) -> None:
    """Weights, affine parameters and statistics as after training, none of them zero or one."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for name, held in (*module._parameters.items(), *module._buffers.items()):
            if (
                held is None
                or not held.is_floating_point()
                or name not in {**module.state_dict(), **module._parameters}
            ):
                continue
            noise = torch.randn(held.shape, generator=random)
            if name == "running_var" or (name == "weight" and held.dim() == 1):
                held.copy_(0.5 + noise.abs())
            elif held.dim() > 1:
                held.copy_(noise / held[0].numel() ** 0.5)
            else:
                held.copy_(0.3 * noise)


def inputs_of(network: Network, batch: int = 2, seed: int = 1, grad: bool = False) -> list[Tensor]:
    program = network.blueprint.check()  # type: ignore[attr-defined]
    random = torch.Generator().manual_seed(seed)
    types = [i.type.at(program.built) for i in program.inputs if not i.optional]
    return [torch.randn(batch, t.channels, *t.grid, generator=random, requires_grad=grad) for t in types]


@cache
def pair(case: int) -> tuple[Network, Network]:
    """The network with every pass and with none, on equal weights."""
    name, size, params = CASES[case]
    asked = {**params, **({"size": list(size)} if size else {})}
    loaded = composer.load(name, **asked)
    ours, plain = loaded.build(), loaded.build(without="all")
    scrambled(plain)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


def difference(ours: Any, plain: Any) -> float:
    """The largest relative to the largest number."""
    worst = 0.0
    for a, b in zip(tree_leaves(ours), tree_leaves(plain), strict=True):
        if isinstance(b, Tensor):
            assert a.shape == b.shape
            worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)))
    return worst


# --- every shipped blueprint -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_at_evaluation_the_outputs_are_equal(case: int) -> None:
    ours, plain = (n.eval() for n in pair(case))
    values = inputs_of(ours)
    with torch.no_grad():
        found, wanted = ours(*values), plain(*values)
        again = ours(*values)
    assert difference(found, wanted) <= 1e-5
    assert difference(again, found) == 0
    assert all(step.kept for step in ours._evaluated()), "a step that is prepared in vain"


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_what_is_prepared_leaves_training_and_weights_alone(case: int) -> None:
    ours, plain = (copy.deepcopy(n).train() for n in pair(case))
    assert list(ours.state_dict()) == list(plain.state_dict())
    made = []
    for network in (ours, plain):
        torch.manual_seed(5)
        values = inputs_of(network, grad=True)
        outputs = [y for y in tree_leaves(network(*values)) if isinstance(y, Tensor) and y.requires_grad]
        torch.autograd.backward([y.square().sum() for y in outputs])
        made.append([*outputs, *(v.grad for v in values), *(p.grad for p in network.parameters()), *network.buffers()])
    for a, b in zip(*made, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
