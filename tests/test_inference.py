"""Typing: every edge gets a type and a layout, every axis its constraints; random blueprints go through whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import graph, load, mistakes, said, steps

import composer
from composer.inference import infer_all
from composer.types import Type, map_, queries, vector


@pytest.fixture
def program(tmp_path: Path) -> Any:
    return lambda *args, **more: graph(tmp_path, *args, **more).infer()


def layouts(program: Any) -> list[str]:
    return [s.block.name.removeprefix("layout.") for s in program.steps if s.block.name.startswith("layout.")]


# ---- layouts ---------------------------------------------------------------------------------------------------


def test_a_value_is_moved_where_its_reader_wants_another_layout_and_only_once(program: Any) -> None:
    made = program(
        "n: norm.layer\na: {use: norm.layer, from: image}\nb: {use: norm.layer, from: image}\ny: {use: fuse.add, from: [n, a, b]}"
    )
    assert layouts(made) == ["to_last", "to_first"]  # one move in, and one on the way out


def test_a_sequence_becomes_a_map_again_without_sizes(program: Any) -> None:
    made = program("t: position.table\ny: {use: conv, out: 2}")
    assert layouts(made) == ["to_last", "flatten", "unflatten", "to_first"]
    unflatten = next(s for s in made.steps if s.block.name == "layout.unflatten")
    assert dict(unflatten.inputs)["images"] == (0,)


def test_what_leaves_the_network_is_channels_first(program: Any) -> None:
    made = program("y: norm.layer")
    assert {v.id: v.layout for v in made.values}[made.outputs[0].ids] == "first"


def test_types_are_kept_by_address(program: Any) -> None:
    made = program("s: split\ny: {use: conv, from: s.left, stride: 2}")
    assert made.types["s"] == {"left": map_(2, made.inputs[0].type.grid), "right": map_(2, made.inputs[0].type.grid)}
    assert str(made.types["y"]) == "(B, 2, H/2, W/2)"
    assert str(made.types["y"].at({"H": 32, "W": 16})) == "(B, 2, 16, 8)"


# ---- inputs and outputs ------------------------------------------------------------------------------------------


def test_several_inputs_share_axes_and_outputs_may_be_for_training_only(tmp_path: Path) -> None:
    text = """inputs: {image: {type: B 4 H W, size: [8, 8]}, other: B 2 H W, code: B 3}
graph:
  both: {use: fuse.concat, from: [image, other]}
  y: {use: conv, out: 2}
  c: {use: linear, from: code, out: 5}
outputs: {y: y, c: c, aux: {from: [both, y], when: training}}
"""
    made = load(tmp_path, text).infer()
    assert [str(i.type) for i in made.inputs] == ["(B, 4, H, W)", "(B, 2, H, W)", "(B, 3)"]
    assert [(o.name, o.training) for o in made.outputs] == [("y", False), ("c", False), ("aux", True)]
    assert len(made.outputs[2].ids) == 2


def test_a_rank_that_is_open_follows_the_size(tmp_path: Path) -> None:
    text = "params: {size: [8, 8]}\ninputs: {image: {type: B 4 *S, size: $size}}\ngraph: {y: {use: conv, stride: 2}}\noutputs: {y: y}\n"
    assert steps(load(tmp_path, text).infer()) == {"y": "(B, 4, H/2, W/2)"}
    assert steps(load(tmp_path, text, size=[8, 8, 8]).infer()) == {"y": "(B, 4, D/2, H/2, W/2)"}


# ---- constraints -------------------------------------------------------------------------------------------------


def test_constraints_name_the_node_that_causes_them(program: Any) -> None:
    made = program("a: {use: conv, stride: 2}\nb: {use: conv, stride: 4}\ny: position.table")
    assert [(c.address, str(c)) for c in made.constraints] == [
        ("a", "H must be a multiple of 2 (stride 2)"),
        ("a", "W must be a multiple of 2 (stride 2)"),
        ("b", "H/2 must be a multiple of 4 (stride 4)"),
        ("b", "W/2 must be a multiple of 4 (stride 4)"),
        ("y", "H/8·W/8 tokens must be the 16 rows of the table"),
    ]


def test_the_size_a_network_is_built_for_must_fit(tmp_path: Path) -> None:
    (mistake,) = mistakes(graph(tmp_path, "a: {use: conv, stride: 2}\ny: {use: conv, stride: 24}").infer)
    assert mistake.code == "BP501"
    assert mistake.help == ("H: multiples of 48; nearest: 48", "W: multiples of 48; nearest: 48")


def test_a_size_that_can_never_agree_is_a_mistake_and_one_that_can_a_constraint(tmp_path: Path) -> None:
    never = graph(tmp_path, "a: {use: conv, stride: 2}\ny: {use: fuse.add, from: [image, a]}")
    assert [d.code for d in mistakes(never.infer)] == ["BP301"]
    sometimes = graph(
        tmp_path, "a: {use: conv, stride: 4}\nb: {use: up, scale: 4}\ny: {use: fuse.add, from: [image, b]}"
    )
    assert [c.kind for c in sometimes.infer().constraints][-2:] == ["equal", "equal"]


# ---- state -------------------------------------------------------------------------------------------------------


def test_each_repeat_owns_a_state_of_its_own(program: Any) -> None:
    nodes = "y: {for: {n: [2, 1]}, use: block.transformer, repeat: $n, attention: attention, memory: {use: memory, count: 5}}"
    held = [s for s in program(nodes).steps if s.block.name == "layout.held"]
    assert [(s.address, s.block.dims) for s in held] == [
        ("y.0.state.memory.tokens", (5, 4)),
        ("y.1.state.memory.tokens", (5, 4)),
    ]


# ---- mistakes that must be refused: those of the prototype that toys can make --------------------------------------

REFUSED = [
    (
        "a: {use: conv, out: 6}\ny: {use: fuse.add, from: [image, a]}",
        "",
        "cannot join these two maps: channels 4 and 6",
    ),
    ("y: {use: attention, heads: 3}", "", "4 channels do not split into 3 heads"),
    ("y: {use: conv, stride: 5}", "", "the size 32 × 32 is not valid"),
    (
        "a: tokens.prepend\ny: attention",
        "edit: [{at: a, insert_after: {c: conv}}]\n",
        "needs a map; this has 1 extra token",
    ),
    (
        "y: {use: block.transformer, repeat: 2, attention: attention}",
        "edit: [{at: y.attention, replace: attention}]\n",
        "matches nothing",
    ),
    (
        "y: {use: block.transformer, attention: attention}",
        "edit: [{at: y, set: {atention: {use: attention}}}]\n",
        "has no option `atention`",
    ),
    (
        "y: {use: block.transformer, attention: {use: attention, from: {position: .kode}}}",
        "",
        "no value is named `.kode`",
    ),
    (
        "y: {use: block.transformer, attention: {use: attention, from: {positon: x}}}",
        "",
        "`attention` has no input `positon`",
    ),
    (
        "t: tokens.learned\ny: {use: up, from: t}\nz: {use: conv, from: image}",
        "",
        "needs a map, this is (B, 4, 8) queries",
    ),
    ("y: {use: block.transformer, attention: attention, memory: memory}", "", "has a state"),
    ("y: {use: block.residual, body: {use: conv, out: 6}}", "", "give a `shortcut`"),
    (
        "y: {use: decoder.stage, from: {x: image, skip: image}, fuse: {use: conv, from: {x: ship}}}",
        "",
        "no value is named `ship`",
    ),
    ("a: {use: conv, stride: [2, 2, 2]}\ny: conv", "", "has 3 numbers, the map has 2 axes"),
]


@pytest.mark.parametrize(("nodes", "head", "words"), REFUSED, ids=[w for _, _, w in REFUSED])
def test_wrong_edits_and_sizes_are_refused(tmp_path: Path, nodes: str, head: str, words: str) -> None:
    outputs = "{y: y, z: z}" if "\nz:" in nodes else "{y: y}"
    found = mistakes(graph(tmp_path, nodes, outputs, head).infer)
    assert any(words in line for line in said(found)), said(found)


def test_types_in_words() -> None:
    assert str(queries(3, 8)) == "(B, 3, 8) queries"
    assert str(vector(8)) == "(B, 8)"
    assert str(Type("scales", 8, grids=((4, 4), (2, 2)))) == "(B, 4·4 + 2·2, 8) scales"
    assert Type("scales", 8, grids=((4, 4), (2, 2))).length == 20
    assert str(Type("unknown")) == "(unknown)"


# ---- random blueprints, by forward construction --------------------------------------------------------------------

UNARY = ["{use: conv, out: 4}", "{use: conv, out: 6, norm: layer}", "act.relu", "{use: conv, stride: 2}", "up", "norm.layer",
         "{use: conv, repeat: 2}", "{use: block.transformer, repeat: 2, attention: attention, memory: memory}",
         "{graph: {a: conv, b: {use: fuse.concat, from: [a, x]}}}", "{when: false, use: conv}", "{for: {w: [2, 4]}, use: conv, out: $w}",
         "tokens.prepend", "position.table", "split"]  # fmt: skip
BINARY = ["fuse.add", "fuse.concat"]
PLANS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=7)


def built(plan: list[tuple[int, int, int]]) -> str:
    """Every node reads values above it; all that nothing reads are outputs."""
    names, nodes, read = ["image"], [], set()
    for k, (op, a, b) in enumerate(plan):
        first, second = names[a % len(names)], names[b % len(names)]
        read |= {first}
        if op < len(UNARY):
            text = UNARY[op]
            spec = f"{{use: {text}, from: {first}}}" if not text.startswith("{") else f"{{from: {first}, {text[1:]}"
        else:
            read |= {second}
            spec = f"{{use: {BINARY[op % 2]}, from: [{first}, {second}]}}"
        nodes.append(f"n{k}: {spec}")
        names.append(f"n{k}")
    sinks = [n for n in names[1:] if n not in read]
    return "\n".join(nodes) + "\n", "{" + ", ".join(f"{n}: {n}" for n in sinks) + "}"  # type: ignore[return-value]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLANS)
def test_random_blueprints_are_typed_or_refused_and_always_alike(
    tmp_path: Path, plan: list[tuple[int, int, int]]
) -> None:
    nodes, outputs = built(plan)
    linked = graph(tmp_path, nodes, outputs).link()
    program, found = infer_all(linked)
    again, other = infer_all(graph(tmp_path, nodes, outputs).link())
    assert (program.steps, program.constraints) == (again.steps, again.constraints)
    assert said(found) == said(other)
    assert all(d.code.startswith("BP") and d.span for d in found)
    ids = [i for s in program.steps for i in s.outputs]
    assert len(ids) == len(set(ids))
    known = {i.id for i in program.inputs}
    for step in program.steps if not found else ():
        assert set(step.reads) <= known, f"{step.address} reads what is not computed yet"
        known |= set(step.outputs)


def test_a_result_without_channels_meets_no_other_rule() -> None:
    text = """blueprint: 1
name: t
inputs: {image: B 1 8 8}
graph: {angles: position.rotary, again: repeat_channels}
outputs: {y: again}
"""
    with pytest.raises(composer.BlueprintError) as caught:
        composer.Blueprint.parse(text).check()
    assert [d.code for d in caught.value.diagnostics] == ["BP401"]
