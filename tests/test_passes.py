"""Passes are exact: the optimized network is the other one, in every shipped blueprint, with weights and statistics that
are not those of a fresh network; and it stays one when its weights change."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import composer
from composer import onednn
from composer.cli.main import run
from composer.inference import Program
from composer.kernels import Operator
from composer.module import Network
from composer.onednn import multiply
from composer.orders import channels_last
from composer.passes import SHIPPED, Pass
from composer.prepared import Prepared, fired
from composer.standardizing import Standardized
from composer.swaps import swaps_of
from composer.testing import storages

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
    ours, plain = (copy.deepcopy(n).eval() for n in pair(case))
    values = inputs_of(ours)
    with torch.no_grad():
        found, wanted = ours(*values), plain(*values)
        again = ours(*values)
    assert difference(found, wanted) <= 1e-5
    assert difference(again, found) == 0
    assert (kept(ours) > 0) == bool(ours._prepared)


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_training_is_the_same_bit_for_bit_where_no_pass_changes_it(case: int) -> None:
    """Weights, outputs, gradients and buffers. Passes that change training sum the same numbers in another order."""
    ours, plain = (copy.deepcopy(n).train() for n in pair(case))
    assert list(ours.state_dict()) == list(plain.state_dict())
    made = [trained(network) for network in (ours, plain)]
    for found, wanted in zip(*made, strict=True):
        assert [a is None for a in found] == [b is None for b in wanted]
        if changes_training(ours):
            assert apart(found, wanted) <= 1e-5
        else:
            assert all(a is None or torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def trained(network: Network) -> tuple[list[Any], ...]:
    """Outputs, gradients of inputs and parameters, and buffers after one step in training."""
    torch.manual_seed(5)
    values = inputs_of(network, grad=True)
    outputs = [y for y in tree_leaves(network(*values)) if isinstance(y, Tensor) and y.requires_grad]
    torch.autograd.backward([y.square().sum() for y in outputs])
    gradients = [t.grad for t in (*values, *network.parameters())]
    return [y.detach() for y in outputs], gradients, list(network.buffers())


def trained_anew(network: Network, spoils: Callable[[Network], Any] | None) -> tuple[list[Any], ...]:
    """As `trained`, with no gradient of before, after something was done to the network."""
    network.zero_grad()
    if spoils is not None:
        spoils(network)
    return trained(network)


def changes_training(network: Network) -> bool:
    steps = (network.blueprint.optimized(without).steps for without in ((), "common"))
    return bool(network._trained) or len(next(steps)) < len(next(steps))


def apart(found: list[Any], wanted: list[Any]) -> float:
    """How far tensors are from others, all together: relative L2."""
    both = [(a.double(), b.double()) for a, b in zip(found, wanted, strict=True) if a is not None]
    wanted_norm = sum(float(b.square().sum()) for _, b in both)
    return (sum(float((a - b).square().sum()) for a, b in both) / max(wanted_norm, 1e-30)) ** 0.5


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


class Twice(nn.BatchNorm2d):
    """A norm that folding would take for an ordinary one, were it there from the start."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def replaced_by_a_subclass(network: Network) -> None:
    home, norm = network.get_submodule("down.0.convs.0"), Twice(4).eval()
    norm.load_state_dict(home.get_submodule("norm").state_dict())
    home.add_module("norm", norm)


REPLACING = [replaced, replaced_by_a_subclass, parametrized]


@pytest.mark.parametrize("change", REPLACING, ids=[c.__name__ for c in REPLACING])
@pytest.mark.parametrize("copied", [lambda n: n, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_a_module_that_is_replaced_before_the_first_call_is_not_taken_for_the_one_that_was_built(
    change: Any, copied: Any
) -> None:
    network = copied(unet())
    change(network)
    assert same(network, X)


def test_what_is_prepared_is_not_there_before_somebody_has_use_for_it() -> None:
    network = unet()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        after = compiled(X)
        assert "_prepared" not in network.__dict__
        torch.testing.assert_close(after, network(X), atol=1e-5, rtol=1e-5)
    assert network.__dict__["_prepared"]
    assert network.prepare()


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
    network = composer.load("unet", **UNET | {"size": [32, 32]}).build(without="layout").eval()
    tensors = network.prepare()
    folded = [
        network.get_parameter(f"{step.address}.weight")
        for name, step in fired(network.blueprint.optimized())
        if name == "norms"
    ]
    assert sum(t.numel() for t in tensors if t.dim() > 1) == sum(p.numel() for p in folded) > 0
    assert kept(network) > 5
    assert not any(t.requires_grad for t in tensors)


def test_a_filter_that_is_larger_than_its_map_is_not_kept_again() -> None:
    """And one 32 times as large runs as torch has it. Both are the same network."""
    network = composer.load("unet", **UNET | {"size": [8, 8], "widths": [4, 16, 96]}).build()
    scrambled(network)
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    tensors = network.eval().prepare()
    new = [t for t in tensors if t.dim() > 1 and t.untyped_storage().data_ptr() not in own]
    assert max(t.numel() for t in new) <= 4 * 64 < 16 * 4 * 9 < network.get_parameter("down.2.convs.1.weight").numel()
    assert any(step.kept[2].few for step in network._evaluated() if isinstance(step.kernel, Operator))
    assert same(network, torch.randn(2, 1, 8, 8))


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


@pytest.mark.parametrize("name", ["segformer", "attention_unet"])
def test_autocast(name: str) -> None:
    """What is prepared outside of autocast or inside serves both."""
    ours, plain = (copy.deepcopy(n).eval() for n in pair(next(k for k, c in enumerate(CASES) if c[0] == name)))
    values = inputs_of(ours)
    with torch.no_grad():
        for first in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=first):
                assert difference(ours.eval()(*values).float(), plain(*values).float()) <= (0.05 if first else 1e-5)
            with torch.autocast("cpu", torch.bfloat16, enabled=not first):
                assert difference(ours(*values).float(), plain(*values).float()) <= (1e-5 if first else 0.05)


def test_inference_mode_and_then_gradients() -> None:
    network = unet()
    with torch.inference_mode():
        found = network(X)
    with torch.no_grad():
        assert torch.equal(network(X), found)
    network(X).sum().backward()
    assert same(network, X)


# --- each pass --------------------------------------------------------------------------------------------------------


def written(folder: Path, nodes: str, image: str = "{type: B 3 H W, size: [16, 16]}", output: str = "y") -> Any:
    path = folder / "written.yaml"
    body = "".join(f"  {line}\n" for line in nodes.strip().splitlines())
    path.write_text(
        f"blueprint: 1\nname: written\ninputs: {{image: {image}}}\ngraph:\n{body}outputs: {{y: {output}}}\n"
    )
    return composer.load(path)


def checked(loaded: composer.Blueprint, *, tolerance: float = 1e-5) -> list[tuple[str, str]]:
    """What fires, after the outputs with and without passes were compared."""
    ours, plain = loaded.build(), loaded.build(without="all")
    scrambled(plain)
    ours.load_state_dict(plain.state_dict())
    with torch.no_grad():
        values = inputs_of(ours)
        assert difference(ours.eval()(*values), plain.eval()(*values)) <= tolerance
    return [(name, step.address) for name, step in fired(loaded.optimized())]


HEAD = """
low: {use: conv, out: 6, stride: 2, act: gelu}
side: {use: MAP, out: 8, from: low}
up: {use: resize, scale: 2}
join: {use: fuse.concat, from: [up, image]}
y: {use: MIX, out: 4}
"""


def fires(loaded: Any, name: str) -> list[str]:
    return [at for each, at in checked(loaded) if each == name]


def test_levels_are_folded_where_that_multiplies_less(tmp_path: Path) -> None:
    for map_ in ("linear", "{use: conv, kernel: 1}"):
        for mix in ("linear", "{use: conv, kernel: 1}", "{use: conv, kernel: 1, norm: batch, bias: false}"):
            text = HEAD
            for word, block in (("MAP", map_), ("MIX", mix)):
                text = text.replace(f"use: {word}", block.strip("{}") if "use" in block else f"use: {block}")
            assert fires(written(tmp_path, text), "levels") == ["y"]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ("low: {use: conv, out: 4}\njoin: {use: fuse.concat, from: [low, image]}\ny: {use: linear, out: 4}", "nothing between"),
        (HEAD.replace("out: 6", "out: 64").replace("out: 8", "out: 2").replace("out: 4", "out: 64"), "a narrow map saves more"),
        (HEAD.replace("y: {use: MIX, out: 4}", "y: {use: conv, out: 4}"), "a kernel of 3 sees the border"),
        (HEAD.replace("up: {use: resize, scale: 2}", "large: {use: resize, scale: 2}\nup: act.gelu"),
            "not linear"),
        (HEAD.replace("y: {use: MIX, out: 4}", "m: {use: MIX, out: 4}\ny: {use: fuse.multiply, from: [m, again]}").replace(
            "join:", "again: {use: linear, out: 4, from: image}\nalso: {use: linear, from: up, out: 4}\njoin:").replace(
            "[m, again]", "[m, again, also]"), "the map is read elsewhere, so nothing of it is saved"),
    ],
)  # fmt: skip
def test_levels_are_left_alone(nodes: str, why: str, tmp_path: Path) -> None:
    loaded = written(tmp_path, nodes.replace("MAP", "linear").replace("MIX", "linear"))
    assert fires(loaded, "levels") == [], why


LEVEL = st.tuples(
    st.sampled_from(["linear", "conv", "none"]),
    st.sampled_from(["none", "linear", "nearest", "corners"]),
    st.integers(1, 5),
)


@settings(max_examples=25, deadline=None)
@given(
    levels=st.lists(LEVEL, min_size=2, max_size=4),
    mix=st.sampled_from(["linear, bias: false", "conv, kernel: 1", "conv, kernel: 1, norm: batch, act: relu"]),
    turned=st.booleans(),
    seed=st.integers(0, 9),
)
def test_random_heads(
    levels: list[tuple[str, str, int]], mix: str, turned: bool, seed: int, tmp_path_factory: Any
) -> None:
    """Branches of any kind and resolution, joined in either order."""
    lines = []
    for k, (kind, resize, width) in enumerate(levels):
        stride = 1 if resize == "none" else 2
        mode = {"nearest": ", mode: nearest", "corners": ", align_corners: true"}.get(resize, "")
        lines.append(f"low{k}: {{use: conv, from: image, out: {width + 1}, stride: {stride}, act: gelu}}")
        if kind != "none":
            lines.append(f"side{k}: {{use: {kind}, out: {width}{', kernel: 1' if kind == 'conv' else ''}}}")
        like = f", from: {{x: {f'side{k}' if kind != 'none' else f'low{k}'}, like: image}}" if k % 2 else ", scale: 2"
        lines.append(f"up{k}: {{use: resize{like}{mode}}}" if resize != "none" else f"up{k}: {{when: false}}")
    names = ", ".join(f"up{k}" for k in range(len(levels)))
    lines.append(f"join: {{use: fuse.concat, from: [{names}], order: {'skip x' if turned else 'x skip'}}}")
    lines.append(f"y: {{use: {mix}, out: 7}}")
    torch.manual_seed(seed)
    checked(written(tmp_path_factory.mktemp("head"), "\n".join(lines)))


@pytest.mark.parametrize(
    ("conv", "folds"),
    [
        ("conv, out: 6", True),
        ("conv, out: 6, bias: false, groups: 3", True),
        ("conv, out: 6, transposed: true, stride: 2", True),
        ("conv, out: 6, transposed: true, stride: 2, groups: 3", True),
        ("conv, out: 6, standardize: biased", True),
        ("linear, out: 6", True),
        ("tokenizer.patch, dim: 6, patch: 4, kernel: 7, padding: half", True),
        ("tokenizer.patch, dim: 6, patch: 4", False),  # a hook refuses what is left over
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_norms_are_folded_into_what_is_linear(conv: str, folds: bool, frozen: bool, tmp_path: Path) -> None:
    norm = f"{{use: norm.batch, frozen: {str(frozen).lower()}}}"
    loaded = written(tmp_path, f"a: {{use: {conv}}}\nn: {norm}\ny: act.relu")
    assert fires(loaded, "norms") == (["a"] if folds else [])


def test_a_norm_stays_where_the_map_before_it_is_read_too(tmp_path: Path) -> None:
    assert fires(written(tmp_path, "a: {use: conv}\nn: norm.batch\ny: {use: fuse.add, from: [n, a]}"), "norms") == []


def test_in_place_only_over_memory_that_nobody_reads_again(tmp_path: Path) -> None:
    one = "a: {use: conv}\nb: act.relu\ny: {use: conv}"
    assert fires(written(tmp_path, one), "in_place") == ["b"]
    assert fires(written(tmp_path, one.replace("y: {use: conv}", "y: {use: fuse.add, from: [a, b]}")), "in_place") == []
    assert fires(written(tmp_path, "a: act.relu\ny: {use: conv}"), "in_place") == []  # the image is the user's
    assert fires(written(tmp_path, "a: {use: dropout}\nb: act.relu\ny: {use: conv}"), "in_place") == []
    assert fires(written(tmp_path, "a: {use: conv}\ny: act.relu"), "in_place") == ["y"]
    network = written(tmp_path, "a: act.relu\ny: {use: conv}").build().eval()
    x = torch.randn(1, 3, 16, 16)
    before = x.clone()
    with torch.no_grad():
        network(x)
    assert torch.equal(x, before)


def test_products_are_for_voxels(tmp_path: Path) -> None:
    volume = "{type: B 3 D H W, size: [8, 8, 8]}"
    nodes = "a: {use: conv, kernel: 1, out: 4, norm: batch}\nb: {use: conv}\ny: {use: conv, kernel: 1, bias: false}"
    assert fires(written(tmp_path, nodes, volume), "products") == ["a", "y"]
    assert fires(written(tmp_path, nodes), "products") == []


VOLUME = "{type: B 3 D H W, size: [8, 8, 8]}"


def both(loaded: composer.Blueprint, **options: Any) -> tuple[Network, Network]:
    """The network with every pass and with none, on equal weights, at evaluation."""
    ours, plain = loaded.build(**options), loaded.build(without="all")
    scrambled(plain)
    ours.load_state_dict(plain.state_dict())
    return ours.eval(), plain.eval()


@pytest.mark.parametrize(
    ("nodes", "at"),
    [
        ("a: {use: conv}\nb: norm.layer\nc: {use: conv, from: image}\ny: {use: fuse.add, from: [b, c]}", ["y"]),
        ("a: {use: conv}\ny: {use: fuse.add, from: [image, a]}", ["y"]),  # over the second
        ("a: {use: conv}\nb: {use: conv, out: 3}\ny: {use: fuse.add, from: [a, b]}", ["y"]),  # over b: a is read twice
        ("a: {use: conv}\ny: {use: fuse.add, from: [a, a]}", []),
        ("a: {use: dropout}\ny: {use: fuse.add, from: [a, image]}", []),  # at evaluation it is the image
        ("a: {use: conv}\ny: {use: fuse.add, from: [a]}", ["y"]),
        ("a: {use: conv}\ny: {use: fuse.add, from: [image, a, image]}", ["y"]),
    ],
)  # fmt: skip
def test_sums_over_an_operand_that_nobody_reads_again(nodes: str, at: list[str], tmp_path: Path) -> None:
    assert fires(written(tmp_path, nodes), "in_place") == at


def test_a_sum_is_not_written_over_an_output_or_what_a_hook_saw(tmp_path: Path) -> None:
    nodes = "a: {use: conv}\ny: {use: fuse.add, from: [a, image]}"
    assert fires(written(tmp_path, nodes, output="y, a: a"), "in_place") == []
    ours, plain = both(written(tmp_path, nodes))
    seen: list[Tensor] = []
    for network in (ours, plain):
        network.get_submodule("a").register_forward_hook(lambda module, given, made: seen.append(made))
        with torch.no_grad():
            network(torch.ones(1, 3, 16, 16))
    assert difference(*seen) <= 1e-5


def test_volumes_have_their_channels_last_until_they_are_the_users(tmp_path: Path) -> None:
    nodes = "a: {use: conv, out: 16}\nb: pool.max\nc: {use: conv, kernel: 1, out: 4}\ny: {use: resize, scale: 2}"
    assert set(fires(written(tmp_path, nodes), "layout")) == {"a", "c", "y"}
    assert fires(written(tmp_path, nodes, output="y, a: a"), "layout") == []  # of an image that had to be turned
    loaded = written(tmp_path, nodes, VOLUME, "y, b: b, c: c")
    assert set(fires(loaded, "layout")) == {"a", "b", "c", "y"}
    ours, plain = both(loaded)
    x = torch.randn(2, 3, 8, 8, 8)
    with torch.no_grad():
        for name, value in ours(x).items():
            assert value.is_contiguous()
            assert difference(value, plain(x)[name]) <= 1e-5


@pytest.mark.parametrize(("channels", "grid"), [(3, (8, 8, 8)), (1, (16, 12, 10)), (16, (7, 7, 7))])
@pytest.mark.parametrize("batch", [1, 2])
def test_kernels_keep_the_order_of_memory(channels: int, grid: tuple[int, ...], batch: int) -> None:
    """Convolutions, products and norms of maps in either order are those of torch, and come out channels last."""
    maps = torch.randn(batch, channels, *grid) + 3
    convs = [nn.Conv3d(channels, 8, 3, padding=1), nn.Conv3d(channels, 8, 1, bias=False), nn.Conv3d(channels, 8, 2, 2)]
    norm = nn.InstanceNorm3d(channels, affine=True)
    nn.init.normal_(norm.weight)
    with torch.no_grad():
        for x in (maps, channels_last(maps)):
            for conv in convs:
                operator = Operator(last=True, product=conv.kernel_size == (1, 1, 1))
                y = operator.run(operator.prepare([conv]), [conv], (x,))
                assert y.stride() == channels_last(y).stride()
                assert y.stride(1) == 1
                assert difference(y, conv(maps)) <= 1e-5
            y = Standardized().run(None, [norm], (x,))
            assert y.stride() == x.stride()
            assert difference(y, norm(maps)) <= 1e-5


def test_the_moments_of_many_voxels_are_exact() -> None:
    """Where float32 are added up one after the other, a mean that is large beside the deviation loses its digits."""
    for grid in ((64, 64, 64), (61, 59, 67)):  # the latter splits into no equal groups
        x = channels_last(torch.randn(1, 16, *grid) + torch.arange(16.0).view(1, 16, 1, 1, 1))
        wanted = nn.functional.instance_norm(x.double())
        assert difference(Standardized().run(None, [nn.InstanceNorm3d(16)], (x,)).double(), wanted) <= 2e-6


JOINED = "a: {use: conv, out: 16}\nb: {use: conv, out: 24, from: image}\nj: {use: fuse.concat, from: [a, b]}\n"


@pytest.mark.parametrize(
    ("nodes", "at"),
    [
        (JOINED + "y: {use: conv, norm: batch, act: relu}", ["y"]),
        (JOINED.replace("[a, b]", "[a, b], order: skip x") + "y: {use: conv, stride: 2}", ["y"]),
        (JOINED + "c: {use: conv, kernel: 1, out: 8}\nd: {use: conv, out: 8, from: j}\n"
         "y: {use: fuse.add, from: [c, d]}", ["c", "d"]),
        (JOINED + "c: {use: conv}\nd: {use: act.relu, from: j}\ne: {use: conv, from: d}\n"
         "y: {use: fuse.add, from: [c, e]}", []),
        (JOINED + "y: {use: conv, groups: 2}", []),
        (JOINED + "y: {use: conv, transposed: true, stride: 2}", []),
        (JOINED.replace("out: 16", "out: 15") + "y: {use: conv}", []),
        ("a: {use: conv, out: 16}\nj: {use: fuse.concat, from: [a, a]}\ny: {use: conv}", []),
        (JOINED + "y: {use: conv, standardize: biased}", ["y"]),
    ],
)  # fmt: skip
def test_a_concatenation_is_not_made_where_only_convolutions_read_it(nodes: str, at: list[str], tmp_path: Path) -> None:
    loaded = written(tmp_path, nodes, VOLUME)
    assert fires(loaded, "splits") == at
    assert fires(written(tmp_path, nodes, VOLUME, "y, j: j"), "splits") == []
    assert fires(written(tmp_path, nodes), "splits") == (at if "stride" in nodes or "out: 8" in nodes else [])


def test_instance_norms_take_the_activation_along(tmp_path: Path) -> None:
    nodes = "a: {use: conv}\nn: NORM\nb: act.leaky_relu\ny: {use: conv}"
    for norm in ("norm.instance", "{use: norm.instance, affine: false}", "{use: norm.group, groups: channels}"):
        for image in (VOLUME, "{type: B 3 H W, size: [16, 16]}"):
            assert fires(written(tmp_path, nodes.replace("NORM", norm), image), "instances") == ["b"]
    assert fires(written(tmp_path, nodes.replace("NORM", "{use: norm.group, groups: 1}")), "instances") == []
    loaded = written(tmp_path, nodes.replace("NORM", "norm.instance"), output="y, n: n, a: a")
    assert fires(loaded, "instances") == ["n"]  # the outputs stay what they are
    ours, plain = both(loaded)
    x = torch.randn(1, 3, 16, 16)
    before = x.clone()
    with torch.no_grad():
        assert all(difference(y, plain(x)[name]) <= 1e-5 for name, y in ours(x).items())
    assert torch.equal(x, before)


ACTS = ("act.relu", "act.leaky_relu", "act.gelu", "{use: act.gelu, approximate: true}")


@pytest.mark.parametrize("act", ACTS)
def test_activations_are_computed_by_the_map_before_them(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = f"a: {{use: linear, out: 64}}\nb: {{use: linear, out: 512}}\nc: {act}\ny: {{use: linear, out: 2}}"
    loaded = written(tmp_path, nodes, "{type: B 3 H W, size: [32, 32]}")
    assert fires(loaded, "activations") == ["b"]
    ours, plain = both(loaded)
    joined: list[int] = []
    monkeypatch.setattr(onednn, "multiply", lambda *given: joined.append(1) or multiply(*given))
    for size, count in ((31, 0), (32, 1)):  # from 2^25 multiplications on
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            assert difference(ours(x), plain(x)) <= 1e-5
        assert len(joined) == count


@pytest.mark.parametrize("act", ACTS)
def test_activations_behind_a_convolution(act: str, tmp_path: Path) -> None:
    nodes = f"a: {{use: conv, out: 16, norm: batch, act: {act}}}\nb: {{use: conv, out: 4}}\ny: {act}"
    for image in (VOLUME, "{type: B 3 H W, size: [16, 16]}"):
        assert fires(written(tmp_path, nodes, image), "activations") == ["a"]  # y is turned for its user
    large = nodes.replace("16", "96").replace("B 3", "B 1")
    assert fires(written(tmp_path, large, "{type: B 3 D H W, size: [2, 2, 2]}"), "activations") == ["a"]  # few cells
    assert fires(written(tmp_path, nodes, output="y, a: a"), "activations") == []  # turned for the user
    read = f"a: {{use: linear}}\nb: {act}\ny: {{use: fuse.add, from: [a, b]}}"
    assert fires(written(tmp_path, read), "activations") == []


RESIDUAL = """
a: {use: conv, out: 16, norm: NORM, act: ACT}
b: {use: conv, out: 16, norm: NORM}
s: {use: conv, kernel: 1, out: 16, norm: NORM, from: image}
t: {use: fuse.add, from: [s, b]}
u: {use: ACT}
y: {use: conv, kernel: 1, out: 2}
"""


@pytest.mark.parametrize("act", ["act.relu", "act.leaky_relu", "{use: act.leaky_relu, slope: -0.1}", "act.gelu"])
@pytest.mark.parametrize("norm", ["norm.instance", "{use: norm.instance, affine: false}", "norm.batch"])
def test_in_training_what_no_gradient_needs_is_written_over(norm: str, act: str, tmp_path: Path) -> None:
    nodes = RESIDUAL.replace("NORM", norm).replace("{use: ACT}", act).replace("ACT", act)
    loaded = written(tmp_path, nodes, VOLUME)
    over = {s.address for s in loaded.optimized().training if isinstance(s, Prepared) and "products" not in s.by}
    joined = {"a.act", "u", "t"} if "slope" not in act and act != "act.gelu" else {"t"}
    assert {a for a in over if not a.endswith("norm")} == joined
    ours, plain = both(loaded, without="products"), loaded.build(without="all").train()
    ours = ours[0].train()
    plain.load_state_dict(ours.state_dict())
    for spoils in (None, lambda n: n.get_submodule("a.act").register_forward_hook(lambda *_: None),
                   lambda n: n.get_submodule("b").register_forward_hook(lambda *_: None)):  # fmt: skip
        made = [trained_anew(network, spoils) for network in (ours, plain)]
        for found, wanted in zip(*made, strict=True):
            assert all(a is b is None or torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_in_training_less_is_kept(tmp_path: Path) -> None:
    """Torch's leaky ReLU keeps its input, which the convolution behind it does not need."""
    act = "act.leaky_relu"
    nodes = RESIDUAL.replace("NORM", "norm.instance").replace("{use: ACT}", act).replace("ACT", act)
    loaded = written(tmp_path, nodes, VOLUME)
    ours, plain = loaded.cost(train=True), loaded.cost(train=True, without="all")
    assert ours.peak.parts["activations"] < 0.75 * plain.peak.parts["activations"]


def test_halves_take_no_more_memory_for_their_layout() -> None:
    loaded = composer.load("unet:volume", size=[32, 32, 32], widths=[16, 32])
    ours, plain = (loaded.build(without=w).eval().bfloat16() for w in ((), ("layout", "splits")))
    ours.load_state_dict(plain.state_dict())
    x, peaks, made = torch.randn(1, 1, 32, 32, 32).bfloat16(), [], []
    for network in (ours, plain):
        network.prepare()
        with torch.no_grad(), storages.Tracker([*network.parameters(), x]) as tracker:
            made.append(network(x).float())
        peaks.append(tracker.peak)
    assert peaks[0] <= peaks[1]
    assert difference(*made) <= 0.02


def test_numbers_that_onednn_does_not_know_keep_their_order_of_memory() -> None:
    """torch's own kernels take channels last by way of copies."""
    conv, x = nn.Conv3d(4, 8, 3, padding=1), torch.randn(2, 4, 5, 6, 7)
    with torch.no_grad():
        for dtype, last in ((torch.float32, True), (torch.float64, False)):
            conv, operator = conv.to(dtype), Operator(last=True)
            y = operator.run(operator.prepare([conv]), [conv], (x.to(dtype),))
            assert (y.stride(1) == 1) is last
            assert y.is_contiguous() is not last


def test_what_is_computed_twice_is_computed_once(tmp_path: Path) -> None:
    nodes = "a: {use: conv}\nb: {use: pool.max, from: a}\nc: {use: pool.max, from: a}\ny: {use: fuse.add, from: [b, c]}"

    def steps(text: str, output: str = "y") -> int:
        loaded = written(tmp_path, text, output=output)
        checked(loaded)
        return len(loaded.optimized("common").steps) - len(loaded.optimized().steps)

    assert steps(nodes) == 1
    assert steps(nodes, "y, b: b") == 1
    assert steps(nodes, "y, b: b, c: c") == 0  # the user may write into one of them
    assert steps(nodes.replace("from: a}\ny", "from: a, kernel: 3, stride: 2, padding: 1}\ny")) == 0
    assert steps(nodes.replace("pool.max", "dropout")) == 0
    assert steps(nodes.replace("use: pool.max", "use: conv, kernel: 1")) == 0  # two weights
    chain = nodes.replace("y: ", "d: {use: act.relu, from: b}\ne: {use: act.relu, from: c}\ny: ").replace(
        "[b, c]", "[d, e]"
    )
    assert steps(chain) == 2


def test_gradients_of_folded_maps_reach_the_weights_they_are_made_of(tmp_path: Path) -> None:
    nodes = HEAD.replace("MAP", "linear").replace("use: MIX", "use: conv, kernel: 1, norm: batch")
    loaded = written(tmp_path, nodes, "{type: B 3 H W, size: [32, 32]}")
    ours, plain = loaded.build(), loaded.build(without="levels")
    ours.load_state_dict(plain.state_dict())
    assert any(s.trains and "levels" in s.by for s in loaded.optimized().training if isinstance(s, Prepared))
    assert not any(
        "levels" in s.by for s in plain.blueprint.optimized("levels").training or () if isinstance(s, Prepared)
    )
    for spoils in (None, lambda n: n.get_submodule("side").register_forward_hook(lambda *_: None),
                   lambda n: n.checkpoint("side"), lambda n: n.get_submodule("side").requires_grad_(False)):  # fmt: skip
        made = [trained_anew(network, spoils) for network in (ours, plain)]
        for found, wanted in zip(*made, strict=True):
            assert [a is None for a in found] == [b is None for b in wanted]
            assert apart(found, wanted) <= 1e-5
    assert ours.get_submodule("side").weight.grad is None


def test_folding_in_training_pays_only_where_there_are_more_cells_than_weights(tmp_path: Path) -> None:
    wide = (("MAP", "linear"), ("MIX", "linear"), ("out: 6", "out: 600"), ("out: 8", "out: 512"), ("out: 4", "out: 64"))
    nodes = reduce(lambda text, change: text.replace(*change), wide, HEAD)
    programs = [written(tmp_path, nodes, f"{{type: B 3 H W, size: [{n}, {n}]}}").optimized() for n in (8, 64)]
    assert [p.training is not None for p in programs] == [False, True]
    assert all("levels" in dict(fired(p)) for p in programs)


def test_a_code_is_kept_for_few_shapes_and_an_output_is_the_users(tmp_path: Path) -> None:
    nodes = "a: {use: conv, out: 8}\ncode: position.sine\ny: {use: fuse.add, from: [a, code]}"
    loaded = written(tmp_path, nodes)
    assert fires(loaded, "constants") == ["code"]
    both = written(tmp_path, nodes, output="y, code: code")
    assert fires(both, "constants") == []
    network, plain = loaded.build().eval(), loaded.build(without="all").eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        for n in (16, 8, 12, 16, 20, 24, 28, 16):
            x = torch.randn(2, 3, n, n)
            assert difference(network(x), plain(x)) <= 1e-5
    (code,) = (s for s in network._evaluated() if isinstance(s.kept[2], dict))
    assert 1 <= len(code.kept[2]) <= 4


SPOILS = """
import composer
from composer.testing import storages


def spoil(x, y):
    return y.mul_(2).add_(x)


class Spoils(composer.Block):
    name = "spoils"
    layout = "any"
    weightless = True

    def infer(self, rule, x, y):
        return x

    def build(self):
        return spoil
"""


def test_a_constant_that_somebody_wrote_into_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "spoiling.py").write_text(SPOILS)
    path = written(tmp_path, "a: {use: conv, out: 8}\ncode: position.sine\ny: {use: fuse.add, from: [a, code]}").path
    Path(path).write_text(Path(path).read_text().replace("fuse.add, from: [a, code]", "spoils, from: {x: a, y: code}"))
    network = composer.load(path, composer.Registry.discover([tmp_path / "spoiling.py"])).build().eval()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            first, second = (network(torch.ones(1, 3, 16, 16)).clone() for _ in range(2))
        assert torch.equal(first, second)
    assert kept(network) == 1


def test_the_head_of_segformer_holds_no_concatenation() -> None:
    """FLOPs and memory at the published size, counted and not run."""
    ours, plain = (composer.load("segformer:b2").cost(without=w) for w in ((), "all"))
    assert ours.flops < 0.4 * plain.flops
    assert ours.peak.bytes < 0.6 * plain.peak.bytes
    assert ours.parameters == plain.parameters
    assert {r.address for r in ours.rows if r.flops} >= {"mix", "head"}
    assert not [r for r in ours.rows if r.flops and r.address.startswith("side.")]


@pytest.mark.parametrize("name", ["attention_unet", "segformer", "transunet"])
def test_the_cost_at_evaluation_is_that_of_what_runs(name: str) -> None:
    tiny = TINY[name]
    loaded = composer.load(name, size=tiny["sizes"][0], **tiny["params"])
    found, network = loaded.cost(), loaded.build().eval()
    x = torch.zeros(*next(iter(found.shapes.values())))
    derived, on_meta = network.prepare(), loaded.build("meta").eval()
    on_meta.prepare()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(x.to("meta"))  # where attention is counted
    assert found.flops == counter.get_total_flops()
    with storages.Tracker([*network.parameters(), *network.buffers(), *derived, x]) as tracker, torch.no_grad():
        network(x)
    assert abs(found.peak.bytes - tracker.peak) <= 0.01 * tracker.peak
    weights = {t.untyped_storage().data_ptr() for t in network.parameters()}
    own = {t.untyped_storage().data_ptr(): t.nbytes for t in derived}
    assert found.peak.parts["prepared"] == sum(n for place, n in own.items() if place not in weights) > 0


LIES = """
import composer
from composer.testing import storages


def same(x):
    return x


class Lies(composer.Block):
    name = "lies"

    def infer(self, rule, x):
        return x

    def traits(self):
        return composer.Traits(linear="cells")

    def build(self):
        return same
"""


def test_a_promise_that_is_not_kept_is_the_plugins_fault(tmp_path: Path) -> None:
    (tmp_path / "lies.py").write_text(LIES)
    path = written(tmp_path, "a: {use: conv}\ny: norm.batch").path
    Path(path).write_text(Path(path).read_text().replace("{use: conv}", "{use: lies}"))
    loaded = composer.load(path, composer.Registry.discover([tmp_path / "lies.py"]))
    x = torch.zeros(1, 3, 16, 16)
    with torch.no_grad(), pytest.raises(composer.PluginError, match=r"BP611.*`a` does not keep its traits(.|\n)*norms"):
        loaded.build().eval()(x)
    with torch.no_grad():
        assert loaded.build(without="norms").eval()(x).shape == x.shape


# --- which passes run -------------------------------------------------------------------------------------------------


def test_a_pass_is_left_out_by_name() -> None:
    loaded = composer.load("attention_unet")
    all_ = {name for name, _ in fired(loaded.optimized())}
    assert all_ == {"levels", "norms", "products", "layout", "splits", "activations", "in_place"}
    for name in all_:
        rests = {"layout": {"splits", "activations"}, "norms": {"activations"}}.get(name, set())
        assert {n for n, _ in fired(loaded.optimized(name))} == all_ - {name} - rests
    assert loaded.optimized("all").evaluation is None
    assert not loaded.build("meta", without=PREPARING)._prepared


def test_an_unknown_pass_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(composer.BlueprintError, match=r"BP105.*no pass `norm`; did you mean `norms`"):
        composer.load("unet").build("meta", without="norm")
    assert run(["show", "unet", "--passes", "--without", "norm"]) == 1
    assert "there are dead, common, levels" in capsys.readouterr().err


def test_passes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "segformer", "--passes"]) == 0
    out = capsys.readouterr().out
    assert "segformer: 2 of 15 passes fire" in out
    assert "mix.act" in out
    assert run(["show", "segformer", "--passes", "--without", "levels", "--json"]) == 0
    said = {p["pass"]: p for p in json.loads(capsys.readouterr().out)["passes"]}
    assert list(said) == [p.name for p in SHIPPED]
    assert (said["levels"]["on"], said["levels"]["at"]) == (False, [])
    assert said["norms"]["at"] == ["mix"]
    assert all(p["summary"].endswith(".") for p in said.values())


def test_the_cost_of_a_network_without_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    def flops(*words: str) -> int:
        assert run(["cost", "segformer", "--json", *words]) == 0
        return sum(r["flops"] for r in json.loads(capsys.readouterr().out)["rows"])

    assert flops("--without", "levels") == flops("--without", "all") > flops()


def test_a_pass_of_a_plugin_runs_before_what_is_prepared() -> None:
    """It may rewrite the steps, and what is prepared afterwards follows it; or it may prepare steps itself."""

    def without_acts(program: Program) -> Program:
        acts = {s.outputs[0]: s.reads[0] for s in program.steps if s.block.name == "act.relu"}

        def renamed(step: Any) -> Any:
            return replace(step, inputs=tuple((p, acts.get(v, v) if isinstance(v, int) else v) for p, v in step.inputs))

        return replace(program, steps=tuple(renamed(s) for s in program.steps if s.outputs[0] not in acts))

    seen: list[int] = []

    def counts(program: Program) -> Program:
        seen.append(len(program.evaluation or ()))
        return program

    registry = replace(REGISTRY, passes=(Pass("late", counts, prepares=True), Pass("no_acts", without_acts)))
    loaded = composer.load("unet", registry, **UNET)
    assert {name for name, _ in fired(loaded.optimized())} == {"norms", "layout"}
    assert len(seen) > 0
    assert seen[-1] > 0
    assert "act.relu" in {getattr(s, "block", s).name for s in loaded.optimized("no_acts").steps}
    assert "act.relu" not in {s.block.name for s in loaded.optimized().steps}
    assert same(loaded.build().eval(), X)
