"""Passes are exact: the optimized network is the other one, in every shipped blueprint, with weights and statistics that
are not those of a fresh network; and it stays one when its weights change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import composer
from composer.module import Network
from composer.passes import SHIPPED
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


# --- derived tensors live as long as the weights they are of ----------------------------------------------------------


UNET: dict[str, Any] = dict(size=[16, 16], widths=[4, 8], channels=1, classes=2)


def unet(**options: Any) -> Network:
    """Convolutions with batch norms and ReLUs, at evaluation."""
    network = composer.load("unet", **UNET).build(**options)
    scrambled(network)
    return network.eval()


def same(network: nn.Module, x: Tensor) -> bool:
    """Whether the network gives without gradients what it gives with them, where every step runs as it is."""
    with torch.no_grad():
        found = network(x)
    wanted = network(x)
    assert wanted.requires_grad or not any(p.requires_grad for p in network.parameters())
    return difference(found, wanted.detach()) <= 1e-5


def kept(network: Network) -> int:
    return sum(step.kept is not None for step in network._evaluated())


X = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))


def test_the_first_call_prepares_and_later_ones_do_not() -> None:
    network = unet()
    assert kept(network) == 0
    assert same(network, X)
    states = [step.kept for step in network._evaluated()]
    assert len(states) > 5
    assert all(states)
    assert same(network, X)
    assert all(a is step.kept for a, step in zip(states, network._evaluated(), strict=True))


def changed_in_place(network: Network) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.3)


def changed_statistics(network: Network) -> None:
    network.get_buffer("down.0.convs.0.norm.running_mean").add_(1)


def changed_data(network: Network) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data * 1.3


def changed_parameter(network: Network) -> None:
    part = network.get_submodule("down.0.convs.0")
    part.weight = nn.Parameter(part.weight.detach() * 2)


def optimized_once(network: Network) -> None:
    network(X).square().sum().backward()
    torch.optim.SGD(network.parameters(), 0.1).step()


def loaded_into_a_part(network: Network) -> None:
    part = network.get_submodule("down.0")
    part.load_state_dict({k: v + 0.5 if v.is_floating_point() else v for k, v in part.state_dict().items()})


def replaced(network: Network) -> None:
    other = nn.Conv2d(1, 4, 3, padding=1)
    other.add_module("norm", network.get_submodule("down.0.convs.0.norm"))
    other.add_module("act", network.get_submodule("down.0.convs.0.act"))
    network.get_submodule("down.0.convs").add_module("0", other)


def replaced_by_another_kind(network: Network) -> None:
    network.get_submodule("down.0.convs.0").add_module("norm", nn.InstanceNorm2d(4))


def parametrized(network: Network) -> None:
    part = network.get_submodule("down.0.convs.0")
    nn.utils.parametrizations.weight_norm(part)
    with torch.no_grad():
        part.parametrizations.weight.original0.mul_(2)


def normalizing_by_batch(network: Network) -> None:
    """As test-time adaptation does: one norm follows the statistics of what it is fed."""
    norm = network.get_submodule("down.0.convs.0.norm")
    norm.momentum = 0.0
    norm.train()


CHANGES = [
    changed_in_place, changed_statistics, changed_data, changed_parameter, optimized_once, loaded_into_a_part, replaced,
    replaced_by_another_kind, parametrized, normalizing_by_batch,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=[c.__name__ for c in CHANGES])
def test_a_change_between_two_calls_is_followed(change: Any) -> None:
    network = unet()
    with torch.no_grad():
        before = network(X)
    change(network)
    assert same(network, X)
    with torch.no_grad():
        assert difference(network(X), before) > 1e-3


def test_train_eval_load_and_move_drop_what_was_derived() -> None:
    network = unet()
    state = {k: v + 0.25 if v.is_floating_point() else v for k, v in network.state_dict().items()}
    drops = (network.train, network.eval, lambda: network.load_state_dict(state), network.double, network.float)
    for drop in drops:
        network.eval()
        with torch.no_grad():
            network(X.to(next(network.parameters()).dtype))
        assert kept(network) > 5
        drop()
        assert kept(network) == 0
    network.eval()
    for parameter in network.parameters():  # as an average of weights does, unseen by torch's versions
        parameter.data.mul_(1.5)
    network.eval()
    assert same(network, X)


def test_a_change_of_dtype_is_followed() -> None:
    network = unet()
    assert same(network, X)
    assert same(network.double(), X.double())
    with torch.no_grad():
        assert network(X.double()).dtype == torch.float64
        assert network.to(torch.bfloat16)(X.bfloat16()).dtype == torch.bfloat16


def test_prepare_derives_before_the_first_call() -> None:
    network = unet()
    tensors = network.prepare()
    folded = [
        network.get_parameter(f"{step.address}.weight")
        for _, step in fired(network.blueprint.optimized())
        if "norms" in step.by
    ]
    assert sum(t.numel() for t in tensors if t.dim() > 1) == sum(p.numel() for p in folded) > 0
    assert kept(network) > 5
    assert not any(t.requires_grad for t in tensors)


# --- where the steps run as they are ------------------------------------------------------------------------------------


def test_gradients_at_evaluation_are_those_of_the_plain_network() -> None:
    ours = unet()
    plain = unet(without="all")
    for network in (ours, plain):
        with torch.no_grad():
            network(X)
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    for network, value in ((ours, x), (plain, y)):
        network(value).square().sum().backward()
    assert torch.equal(x.grad, y.grad)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("at", ["down.0.convs.0", "down.0.convs.0.norm", "down.0.convs.0.act"])
def test_hooks_are_called_and_see_what_they_would(at: str) -> None:
    ours, plain = unet(), unet(without="all")
    seen: list[Tensor] = []
    for network in (ours, plain):
        network.get_submodule(at).register_forward_hook(lambda module, given, made: seen.append(made))
        with torch.no_grad():
            network(X)
    assert len(seen) == 2
    assert difference(*seen) <= 1e-5


def test_a_hook_for_every_module_hears_them_all() -> None:
    network, heard = unet(), set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.add(id(module)))
    try:
        with torch.no_grad():
            network(X)
    finally:
        handle.remove()
    assert {id(m) for m in network.modules() if "norm" in type(m).__name__.lower()} <= heard


def test_dropout_that_trains_at_evaluation_still_drops() -> None:
    network = composer.load("unet", **UNET, act={"use": "dropout", "rate": 0.5}).build().eval()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        assert not torch.equal(network(X), network(X))


# --- copies, pickles, compilers ---------------------------------------------------------------------------------------


def test_copies_and_pickles_derive_their_own() -> None:
    network = unet()
    with torch.no_grad():
        wanted = network(X)
    assert kept(network) > 5
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert kept(other) == 0
        with torch.no_grad():
            assert torch.equal(other(X), wanted)
            other.get_submodule("head").bias.add_(1)
            assert difference(other(X), wanted + 1) <= 1e-5
            assert torch.equal(network(X), wanted)
        assert same(other, X)


def test_compiled_and_exported() -> None:
    network = unet()
    with torch.no_grad():
        wanted = network(X)
        assert difference(torch.compile(network, fullgraph=True, backend="eager")(X), wanted) <= 1e-5
        exported = torch.export.export(network, (X,)).module()
        assert difference(exported(X), wanted) <= 1e-5
    assert difference(torch.compile(network, fullgraph=True, backend="eager")(X).detach(), wanted) <= 1e-5


def test_transformations_of_torch_func() -> None:
    network = unet()
    with torch.no_grad():
        wanted = network(X)
        doubled = {n: 2 * p for n, p in network.named_parameters()}
        found = torch.func.functional_call(network, doubled, (X,))
        assert difference(network(X), wanted) == 0
        stacked = torch.vmap(lambda x: network(x))(torch.stack([X, 2 * X]))
    changed_in_place_by_two = copy.deepcopy(network)
    with torch.no_grad():
        for p in changed_in_place_by_two.parameters():
            p.mul_(2)
        assert difference(found, changed_in_place_by_two(X)) <= 1e-5
        assert difference(stacked[0], wanted) <= 1e-5


def test_inference_mode_and_then_gradients() -> None:
    network = unet()
    with torch.inference_mode():
        found = network(X)
    with torch.no_grad():
        assert torch.equal(network(X), found)
    network(X).sum().backward()
    assert same(network, X)
