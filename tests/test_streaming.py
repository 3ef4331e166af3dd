"""Sweeps compute what the plain network does, whatever is virtual and however high the strips are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_passes import CASES, IDS, difference, inputs_of, pair, scrambled
from torch import Tensor, nn

import composer
from composer.compose import fed
from composer.module import Network
from composer.planning import JOINING, candidate, extents_of
from composer.streaming import Statistics, applied
from composer.sweeps import Schedule, Streams, Sweep

REGISTRY = composer.Registry.discover()


def made(graph: dict[str, Any], channels: int = 2, size: tuple[int, ...] = (9, 7), **more: Any) -> composer.Blueprint:
    axes = ["D", "H", "W"][-len(size) :]
    text = {
        "blueprint": 1,
        "name": "one",
        "inputs": {"image": {"type": f"B {channels} {' '.join(axes)}", "size": list(size)}},
        "graph": graph,
        "outputs": {"y": list(graph)[-1]},
        **more,
    }
    return composer.Blueprint.parse(yaml.safe_dump(text, sort_keys=False), REGISTRY)


def streams_of(
    blueprint: composer.Blueprint,
    strip: int,
    once: float = 0,
    again: float = 0,
    axis: int = 0,
    batch: int = 2,
    meetings: bool = True,
) -> Streams:
    """Sweeps over everything there is, with shares of the heavy values virtual: the first ones in order."""
    program = blueprint.optimized(JOINING)
    shapes = fed(program, {}, batch)
    flow, extents, dims = extents_of(program, shapes, axis)
    streamed = flow.streamed(extents, 0)
    heavy = [n.makes[0] for n in flow.nodes if n.place in streamed and n.heavy]
    chosen = [set(heavy[: round(share * len(heavy))]) for share in (max(once, again), again)]
    schedule = Schedule(flow, streamed, flow.virtual(streamed, *chosen, meetings=meetings), extents, strip)
    return candidate(schedule, frozenset(), axis, dims)


def equal(network: Network, *values: Tensor, tolerance: float = 1e-10) -> None:
    with torch.no_grad():
        streams = network.at_evaluation().stream
        assert streams is not None
        assert streams.fits(network.at_evaluation().calls)
        found = network(*values)
        network.at_evaluation().stream = None
        wanted = network(*values)
        network.at_evaluation().stream = streams
    assert difference(found, wanted) <= tolerance


def exact(blueprint: composer.Blueprint) -> Network:
    network = blueprint.build(without=JOINING).double().eval()
    scrambled(network)
    return network


# --- at random --------------------------------------------------------------------------------------------------------

NORMS: list[Any] = ["batch", "instance", {"use": "norm.group", "groups": 2}, {"use": "norm.instance", "affine": False}]
ACTS = ["relu", "gelu", "leaky_relu", "prelu"]


@st.composite
def layers(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["conv", "conv", "conv", "pool", "up", "resize", "residual", "spread"]))
    if kind == "conv":
        return {
            "use": "conv", "out": draw(st.sampled_from([2, 4])), "kernel": draw(st.integers(1, 4)),
            "stride": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2)), "norm": draw(st.sampled_from(NORMS)),
            "act": draw(st.sampled_from(ACTS)),
        }  # fmt: skip
    if kind == "residual":
        return {"use": "residual.double", "norm": draw(st.sampled_from(NORMS)), "out": 4}
    if kind == "up":
        return {"use": "conv", "transposed": True, "kernel": draw(st.integers(2, 3)), "stride": 2, "out": 2}
    if kind == "spread":
        return {"use": "merge", "transposed": True, "factor": draw(st.integers(2, 3)), "ratio": 1}
    if kind == "resize":
        return {"use": "resize", "scale": 2, "mode": draw(st.sampled_from(["nearest", "linear"]))}
    return {"use": "pool.max", "kernel": 2, "stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 1))}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_chain_in_strips(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([(13, 6), (6, 13), (16, 9), (11, 4, 5), (6, 9, 4)]))
    chain = data.draw(st.lists(layers(), min_size=1, max_size=5))
    graph = {f"n{k}": {**layer, **({} if k else {"from": "image"})} for k, layer in enumerate(chain)}
    try:
        blueprint = made(graph, size=size)
        network = exact(blueprint)
    except composer.BlueprintError:  # a window larger than what is left of the map, a norm of one cell
        return
    strip, once, again = data.draw(st.integers(1, 4000)), data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))
    axis = data.draw(st.integers(0, len(size) - 1))
    network.stream(streams_of(blueprint, strip, once, again, axis, meetings=data.draw(st.booleans())))
    equal(network, torch.randn(2, 2, *size, dtype=torch.float64))


SKIPS = dict(size=[12, 8, 8], widths=[2, 4, 4], classes=2)


@pytest.fixture(scope="module")
def volume() -> tuple[composer.Blueprint, Network]:
    blueprint = composer.load("unet:volume", **SKIPS)
    return blueprint, exact(blueprint)


@pytest.mark.parametrize("strip", [1500, 6000])
@pytest.mark.parametrize(("once", "again"), [(0, 0), (1, 0), (1, 0.5), (1, 1)])
def test_a_unet_with_skips(volume: tuple[composer.Blueprint, Network], strip: int, once: float, again: float) -> None:
    blueprint, network = volume
    network.stream(streams_of(blueprint, strip, once, again))
    equal(network, torch.randn(2, 1, 12, 8, 8, dtype=torch.float64))


def test_sweeps_are_exact_at_other_sizes_than_planned(volume: tuple[composer.Blueprint, Network]) -> None:
    blueprint, network = volume
    network.stream(streams_of(blueprint, 1500, 1, 0.3))
    for size in ((16, 4, 12), (4, 8, 4), (20, 4, 4)):
        equal(network, torch.randn(1, 1, *size, dtype=torch.float64))


def test_a_map_lends_its_memory_only_where_nothing_looks_at_it(volume: tuple[composer.Blueprint, Network]) -> None:
    blueprint, network = volume
    lent = [a for a in streams_of(blueprint, 1500).actions if isinstance(a, Sweep) and a.over >= 0]
    assert len(lent) >= 4  # second convolutions over first ones, and the decoder's over the skips
    network.stream(streams_of(blueprint, 1500))
    x = torch.randn(2, 1, 12, 8, 8, dtype=torch.float64)
    before = x.clone()
    with torch.no_grad():
        network(x)
    assert torch.equal(x, before)


def test_attention_in_pieces() -> None:
    block = {"use": "block.transformer", "from": "image", "attention": {"use": "attention.multihead", "heads": 2}}
    blueprint = made({"blocks": {**block, "mlp": "mlp"}}, channels=4, size=(5, 6))
    network = exact(blueprint)
    streams = streams_of(blueprint, 300, 1)
    assert any("attend" in n.address and n.local for n in streams.nodes)
    network.stream(streams)
    equal(network, torch.randn(2, 4, 5, 6, dtype=torch.float64))


@pytest.mark.parametrize("option", [{"softmax": "queries"}, {"causal": True}])
def test_attention_that_looks_at_other_queries_stays_whole(option: dict[str, Any]) -> None:
    attention = {"use": "attention.multihead", "heads": 2, **option}
    blueprint = made({"a": {**attention, "from": "image"}}, channels=4, size=(5, 6))
    streams = streams_of(blueprint, 300, 1)
    assert not any("attend" in n.address and n.local for n in streams.nodes)
    equal(exact(blueprint).stream(streams), torch.randn(2, 4, 5, 6, dtype=torch.float64))


# --- who looks on -----------------------------------------------------------------------------------------------------


def test_a_hook_sees_whole_maps_and_gradients_flow(volume: tuple[composer.Blueprint, Network]) -> None:
    blueprint, plain = volume
    network = copy.deepcopy(plain).stream(streams_of(blueprint, 1500))
    x = torch.randn(1, 1, 12, 8, 8, dtype=torch.float64)
    seen: list[tuple[int, ...]] = []
    with torch.no_grad():
        wanted = plain.stream(None)(x)
        hook = network.get_submodule("down.0.convs.0").register_forward_hook(lambda *a: seen.append(a[2].shape))
        assert difference(network(x), wanted) <= 1e-12
        hook.remove()
        assert seen == [(1, 2, 12, 8, 8)]
        network.get_submodule("down.0.convs.0.norm").train()
        assert difference(network(x), wanted) <= 1e-12
        network.eval()
        assert 0 < difference(network(x), wanted) <= 1e-10 or torch.equal(network(x), wanted)
    network(x).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_streaming_network_can_be_copied_and_stored(volume: tuple[composer.Blueprint, Network]) -> None:
    blueprint, network = volume
    network.stream(streams_of(blueprint, 1500))
    x = torch.randn(1, 1, 12, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted = network(x)
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert other.at_evaluation().stream is not None
            assert torch.equal(other(x), wanted)


def test_changed_weights_count(volume: tuple[composer.Blueprint, Network]) -> None:
    blueprint = made({"a": {"use": "conv", "from": "image", "out": 3, "norm": "batch", "act": "relu"}})
    network = exact(blueprint).stream(streams_of(blueprint, 200))
    x = torch.randn(2, 2, 9, 7, dtype=torch.float64)
    equal(network, x)
    scrambled(network, 5)
    equal(network, x)


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 30.0, 1e3])
@torch.no_grad()
def test_statistics_of_pieces_are_exact_to_rounding(shift: float) -> None:
    """y = scale · x + shift in float32 rounds terms of the size of scale · x: the mean of a piece, shift, product, sum."""
    x = torch.randn(2, 6, 110, 50, generator=torch.Generator().manual_seed(0)) + shift
    for module, kind in ((nn.InstanceNorm2d(6, affine=True), "channel"), (nn.GroupNorm(3, 6), "group")):
        scrambled(module)
        statistics = Statistics(module, kind)
        for piece in x.split(4, 2):
            statistics.add(piece)
        wanted = copy.deepcopy(module).double()(x.double())
        scale, offset = statistics.scaling()
        largest = (x * scale[..., None, None]).abs().max() / wanted.abs().max()
        assert difference(applied(x, scale, offset), wanted) <= 2 * torch.finfo(torch.float32).eps * largest


def test_statistics_in_half_precision() -> None:
    x = torch.randn(1, 4, 12, 5).bfloat16()
    module = nn.InstanceNorm2d(4)
    statistics = Statistics(module, "channel")
    for piece in x.split(5, 2):
        statistics.add(piece)
    found = applied(x, *statistics.scaling())
    assert found.dtype == torch.bfloat16
    assert difference(found.float(), module(x.float())) <= 1e-2


# --- every shipped blueprint ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_every_shipped_blueprint_in_strips(case: int) -> None:
    built: Any = pair(case)[0]
    network = built.blueprint.build(without=JOINING).eval()
    network.load_state_dict(built.state_dict())
    values = inputs_of(network)
    with torch.no_grad():
        wanted = network(*values)
        for once, again in ((0, 0), (1, 0), (1, 0.3)):
            network.stream(streams_of(network.blueprint, 4000, once, again))  # type: ignore[arg-type]
            assert difference(network(*values), wanted) <= 1e-5
