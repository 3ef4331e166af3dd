"""What holds of every blueprint, on blueprints that nobody wrote; the summary says how many of them each test saw.

They are made by the strategies of `composer.testing` from all shipped blocks, in a fixed order, so that a failure comes
back; `make fuzz` takes other ones each time it is told to.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import pytest
import torch
import toys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import composer
from composer import Block, BlueprintError, Registry, Rule, Type
from composer.blueprint import is_fragment, shipped
from composer.compose import Blueprint
from composer.document import document
from composer.inference import Program
from composer.module import build
from composer.passes import optimize
from composer.testing import blocks, blueprints, disagreements, sizes_for, told, types_for
from composer.testing.composing import Composition, Setting, composed, genes
from composer.testing.reality import shapes_at
from composer.testing.strategies import built_size
from composer.writing import dump

ALL = Registry.discover()
SLOW = 8
"""How many times as many examples the long run takes."""

Record = Callable[[str, object], None]


def pytest_generate_tests(metafunc: Any) -> None:
    if "times" in metafunc.fixturenames:
        metafunc.parametrize("times", [1, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["short", "long"])


def holds(record: Record, strategy: st.SearchStrategy[Any], count: int, check: Callable[[Any], None]) -> None:
    """A property for some examples, whose number goes into the summary."""
    seen = 0

    @settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def test(value: Any) -> None:
        nonlocal seen
        seen += 1
        check(value)

    test()
    record("examples", seen)


# ---- the properties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_what_checks_builds_and_runs_and_has_the_predicted_types(
    record_property: Record, times: int, training: bool
) -> None:
    def check(blueprint: Blueprint) -> None:
        blueprint.check()
        assert disagreements(blueprint, training=training) == []

    holds(record_property, blueprints(), 60 * times, check)


def test_types_are_those_of_real_numbers_too(record_property: Record, times: int) -> None:
    def check(blueprint: Blueprint) -> None:
        assert disagreements(blueprint, "cpu") == []

    holds(record_property, blueprints(nodes=5), 40 * times, check)


def test_what_does_not_check_says_where(record_property: Record, times: int) -> None:
    outcomes = set()

    def check(blueprint: Blueprint) -> None:
        outcomes.add(told(lambda: blueprint))

    holds(record_property, blueprints(valid=False), 100 * times, check)
    assert len(outcomes - {"passes"}) > 5


def said(blueprint: Blueprint) -> Any:
    return document(blueprint)


def asked(program: Program) -> Any:
    return [(c.kind, c.size, c.number, c.why, c.address) for c in program.constraints]


def steps(program: Program) -> Any:
    return [(s.address, s.block, s.inputs, s.outputs, s.types) for s in program.steps], asked(program)


def test_the_yaml_of_a_blueprint_loads_to_an_equal_one(record_property: Record, times: int) -> None:
    def check(blueprint: Blueprint) -> None:
        again = Blueprint.parse(blueprint.to_yaml())
        assert said(again) == said(blueprint)
        assert steps(again.infer()) == steps(blueprint.infer())
        assert again.to_yaml() == blueprint.to_yaml()

    holds(record_property, blueprints(), 60 * times, check)


def names() -> Iterator[str]:
    for name, path in shipped().items():
        if not is_fragment(path):
            yield from (f"{name}:{p}" if p else name for p in ("", *composer.load(name).presets))


@pytest.mark.parametrize("name", list(names()))
def test_the_yaml_of_a_shipped_blueprint_loads_to_an_equal_one(name: str) -> None:
    blueprint = composer.load(name)
    again = Blueprint.parse(blueprint.to_yaml())
    assert said(again) == said(blueprint)
    assert steps(again.infer())[0] == steps(blueprint.infer())[0]
    assert again.values == {n: v for n, v in blueprint.values.items() if n not in blueprint.idle}


def test_the_yaml_of_overrides_says_them() -> None:
    blueprint = composer.load("unet:volume", **{"classes": 5, "up.*.fuse": "fuse.add"})
    again = Blueprint.parse(blueprint.to_yaml())
    assert again.values["classes"] == 5
    assert {s.address: s.block for s in again.infer().steps} == {s.address: s.block for s in blueprint.infer().steps}


def test_sizes_are_exact(record_property: Record, times: int) -> None:
    """Valid ones run; of their neighbours those that the rules refuse do not, and the others do."""

    def check(drawn: tuple[Blueprint, dict[str, tuple[int, ...]], int]) -> None:
        blueprint, shapes, step = drawn
        program = blueprint.optimized()
        env = {a: n for i in program.inputs for a, n in zip(i.axes, shapes[i.name][2:], strict=True)}
        network = build(program, "meta")
        assert all(c.holds(env) for c in program.constraints)
        assert runs(blueprint, env, network) == ""
        for axis in env:
            near = {**env, axis: max(1, env[axis] + step)}
            fits = all(c.holds(near) for c in program.constraints)
            assert fits == (runs(blueprint, near, network) == ""), (near, fits, runs(blueprint, near, network))

    sized = blueprints(nodes=4).flatmap(
        lambda b: st.tuples(st.just(b), sizes_for(b, limit=24), st.sampled_from([-1, 1]))
    )
    holds(record_property, sized, 10 * times, check)


def runs(blueprint: Blueprint, env: dict[str, int], network: Any) -> str:
    """The first fault at a size, in training or at evaluation."""
    modes = (disagreements(blueprint, training=t, size=env, network=network) for t in (False, True))
    return next((lines[0] for lines in modes if lines), "")


def feed(program: Program, blueprint: Blueprint, network: Any) -> list[torch.Tensor]:
    """What a network makes of fixed random inputs, as a flat list."""
    at = torch.Generator().manual_seed(0)
    shapes = shapes_at(program, built_size(blueprint))
    with torch.no_grad():
        return flat(network(**{n: torch.rand(s, generator=at) for n, s in shapes.items()}))


def flat(value: Any) -> list[torch.Tensor]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
    return [value] if items is None else [t for v in items if v is not None for t in flat(v)]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))


def test_optimized_networks_compute_the_same(record_property: Record, times: int) -> None:
    def check(blueprint: Blueprint) -> None:
        plain = blueprint.check()
        slow, fast = build(plain).eval(), build(optimize(plain, blueprint.registry.passes)).eval()
        fast.load_state_dict({k: v for k, v in slow.state_dict().items() if k in fast.state_dict()})
        assert close(feed(plain, blueprint, slow), feed(plain, blueprint, fast))

    holds(record_property, blueprints(nodes=5), 30 * times, check)


def close(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Equal but for rounding, by 1e-5 of the largest number."""
    pairs = [(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True)]
    return all(x.numel() == 0 or (x - y).abs().max() <= 1e-5 * x.abs().max().clamp_min(1) for x, y in pairs)


def test_evaluation_is_deterministic(record_property: Record, times: int) -> None:
    def check(blueprint: Blueprint) -> None:
        program, network = blueprint.check(), blueprint.build().eval()
        assert equal(feed(program, blueprint, network), feed(program, blueprint, network))

    stateless = blueprints(nodes=5).filter(lambda b: "memory.cells" not in b.to_yaml())  # it counts what it saw
    holds(record_property, stateless, 30 * times, check)


# ---- the strategies themselves --------------------------------------------------------------------------------------


def used(value: Any) -> set[str]:
    """Every block that a document names, the usual ones of slots included."""
    program = Blueprint.parse(dump(value)).infer()
    written = set()

    def walk(v: Any, key: str = "") -> None:
        if isinstance(v, dict):
            for k, x in v.items():
                walk(x, k)
        elif isinstance(v, str) and v in ALL.blocks:
            written.add(v)

    walk(value["graph"])
    return written | {s.block.name for s in program.steps if s.block.name in ALL.blocks}


def test_tokens_of_a_volume_stand_behind_those_of_windows() -> None:
    """By themselves they would come back from each window; found by random compositions."""
    text = """blueprint: 1
name: volume
inputs: {image: {type: B 8 *S, size: [16, 16]}, cell: B 4}
graph:
  y:
    use: block.transformer
    from: image
    repeat: 2
    attention: {use: attention.window, heads: 1, window: 4}
    memory: {use: memory.volume_tokens, from: {cell: .cell}, count: 4}
outputs: {y: y}
"""
    with pytest.raises(BlueprintError, match=r"BP302.*memory.global_tokens"):
        Blueprint.parse(text, ALL).check()


def test_every_registered_block_is_drawn(record_property: Record) -> None:
    """But for the memory of a volume, two slots deep and beside an input of four numbers: its examples stand in
    examples.yaml."""
    seen: set[str] = set()
    for seed in range(900):
        at = random.Random(seed)
        drawn, setting = genes(at), Setting.of(at.randrange(72))
        if seed >= 600:  # those that only fill slots are drawn where blocks with slots are
            owner, changes = (
                ALL.blocks["block.transformer"],
                [(at.randrange(2**16), at.randrange(64)) for _ in range(8)],
            )
            start = Composition(ALL, setting)
            drawn = [([b for b in start.blocks if start.readable(b)].index(owner), 0, seed, changes)]
        seen |= used(composed(drawn, ALL, setting))
        if seen | {"memory.volume_tokens"} == set(ALL.blocks):
            break
    record_property("examples", seed + 1)
    assert set(ALL.blocks) - seen <= {"memory.volume_tokens"}


class Faulty(Block):
    """Promises as many channels as there were, and gives one more."""

    name = "faulty"
    times: composer.Positive = 1

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def build(self, x: Type) -> Any:
        return lambda value: torch.cat([value, value[:, :1]], 1)


def test_a_planted_fault_shrinks_to_one_node_whose_yaml_is_printed() -> None:
    kept = [ALL.blocks[n] for n in ("act.elu", "conv", "norm.batch", "fuse.add", "pad")]
    planted = Registry.of(*kept, Faulty)

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(blueprints(planted, nodes=4, rank=2))
    def test(blueprint: Blueprint) -> None:
        assert disagreements(blueprint) == []

    with pytest.raises(AssertionError) as caught:
        test()
    report = "\n".join(caught.value.__notes__)
    lines = [line.strip() for line in report.splitlines()]
    assert lines[lines.index("graph:") :][:3] == ["graph:", "faulty: {use: faulty}", "outputs: {faulty: faulty}"]


class Odd(Block):
    """A third party's: its options say what they may be, and nothing else is known of them."""

    name = "third.odd"
    layout: ClassVar[str] = "any"
    kind: Literal["a", "b"]
    share_of: composer.Rate = 0.5
    sizes: tuple[int, int] = (1, 2)
    part: composer.Slot = composer.slot(role="act")

    def compose(self, net: Any, x: Any) -> Any:
        return net.slot("part", x=x)


def test_the_blocks_of_a_third_party_are_drawn_with_their_options() -> None:
    known = Registry.of(*toys.registry().blocks.values(), Odd)
    texts = [dump(composed(genes(random.Random(seed)), known)) for seed in range(60)]
    for word in ("kind: a", "kind: b", "share_of: ", "sizes: [", "part: "):
        assert any(word in text for text in texts), word


@pytest.mark.parametrize("rank", [2, 3])
def test_blocks_and_their_types_fit(record_property: Record, rank: int) -> None:
    def check(drawn: tuple[Block, dict[str, Type]]) -> None:
        block, types = drawn
        assert set(types) == set(block.required)
        assert type(block)(**block.model_dump(exclude_unset=True)) == block

    strategy = blocks(rank=rank).flatmap(lambda b: st.tuples(st.just(b), types_for(b, rank=rank)))
    holds(record_property, strategy, 60, check)


def test_the_strategies_ask_for_hypothesis_only_when_used() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None; import composer.testing\n"
        "try: composer.testing.blueprints()\nexcept ModuleNotFoundError as fault: print(fault)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "need Hypothesis" in run.stdout


# ---- what the generator found ---------------------------------------------------------------------------------------


def parsed(graph: str, inputs: str = "image: {type: B 8 *S, size: [8, 8]}") -> Blueprint:
    last = graph.strip().splitlines()[-1].split(":")[0].strip()
    lines = "\n".join(f"  {line.strip()}" for line in graph.strip().splitlines())
    return Blueprint.parse(f"blueprint: 1\ninputs: {{{inputs}}}\ngraph:\n{lines}\noutputs: {{y: {last}}}\n")


BESIDE = (
    "few: {use: linear, out: 4}\nt: {use: block.transformer, order: post, repeat: 2, from: {x: few, context: image}, "
    "attention: {use: attention.window, heads: 1, window: 2}, memory: memory.global_tokens}"
)
POOLED = (
    "t: {use: block.transformer, repeat: 2, attention: {use: attention.window, heads: 1, window: 1}, "
    "memory: {use: memory.global_tokens, volume: pool.max}}"
)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (POOLED, "are counted ones"),
        (BESIDE, "context .* differ in channels"),
        ("bias: {use: position.relative}", "made of a shape"),
        ("window: {use: attention.window, heads: 4, window: 4, bias: act.softmax}", "only a shape"),
        ("memory: {use: memory.global_tokens, repeat: 2}", "stands only in a slot"),
        ("scales: {use: scales.flatten, position: pool.average}", "has the same type"),
        ("s: {use: scales.flatten}\np: {use: tokens.prepend, from: s.tokens}", "not of several scales"),
        ("n: {use: norm.batch, eps: 0.0}", "more than 0"),
        ("w: {use: attention.window, heads: 4, window: 4, from: {x: image, tokens: image}}", "tokens are 8 numbers"),
    ],
)
def test_what_no_module_can_do_is_refused(graph: str, words: str) -> None:
    with pytest.raises(BlueprintError, match=words):
        parsed(graph).check()


def test_average_pools_of_volumes_count_no_padding() -> None:
    blueprint = parsed("p: {use: pool.average, kernel: 4, padding: 2}", "image: {type: B 8 *S, size: [3, 3, 3]}")
    with pytest.raises(BlueprintError, match="pool 4"):
        blueprint.check()


def test_cells_are_numbers_like_any_others() -> None:
    cells = "cells: {use: memory.cells, grid: [2, 2], crop: [2, 2], volume: [4, 4]}\n"
    blueprint = parsed(f"{cells} a: {{use: linear, out: 3, from: cells.seen}}", "position: B 2")
    assert disagreements(blueprint, "cpu") == []
