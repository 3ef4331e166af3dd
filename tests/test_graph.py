"""Linking: names become blocks, slots are filled, loops unrolled, edits applied."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import toys
from toys import graph, load, mistakes, said, steps

import composer


@pytest.fixture
def typed(tmp_path: Path) -> Any:
    """Nodes -> the addresses of the leaves and the types they give."""

    def run(nodes: str, outputs: str = "{y: y}", head: str = "", **more: Any) -> dict[str, str]:
        return steps(graph(tmp_path, nodes, outputs, head, **more).infer())

    return run


@pytest.fixture
def program(tmp_path: Path) -> Any:
    return lambda *args, **more: graph(tmp_path, *args, **more).infer()


# ---- references ----------------------------------------------------------------------------------------------


def test_a_node_without_from_continues_the_line_above(typed: Any) -> None:
    assert typed("a: {use: conv, out: 8}\ny: act.relu") == {"a": "(B, 8, H, W)", "y": "(B, 8, H, W)"}


def test_a_string_is_a_block_with_the_node_as_its_role(typed: Any) -> None:
    assert list(typed("norm: layer\ny: act.relu")) == ["norm", "y"]


def test_lists_of_references_may_hold_null(typed: Any) -> None:
    types = typed("a: {use: conv, out: 4}\ny: {use: fuse.concat, from: [a, null, image]}")
    assert types["y"] == "(B, 8, H, W)"


def test_named_and_numbered_outputs_are_reached_by_dots(typed: Any) -> None:
    types = typed("s: split\nl: {use: levels, from: [s.left, image]}\ny: {use: fuse.concat, from: [s.right, l.1]}")
    assert types["y"] == "(B, 6, H, W)"


def test_bare_names_are_a_graphs_own_and_a_dot_reaches_outward(typed: Any) -> None:
    nodes = """
    a: {use: conv, out: 8}
    b: {use: conv, out: 4}
    y:
      graph:
        a: {use: conv, out: 2}
        deep: {graph: {both: {use: fuse.concat, from: [.a, .b]}}}
    """
    types = typed(nodes.replace("{use: conv, out: 8}", "{use: conv, out: 8}"), "{y: y, a: a}")
    assert types["y.deep.both"] == "(B, 6, H, W)"  # the nearest `a` outside, and `b` two graphs up


def test_a_slots_from_sees_what_is_offered_and_a_dot_the_outer_graph(typed: Any) -> None:
    nodes = """
    code: {use: conv, out: 4}
    x: {use: conv, from: image, out: 4}
    y: {use: block.transformer, attention: {use: attention, from: {position: .code}}}
    """
    assert "y.attention" in typed(nodes)


def test_first_in_a_slot_sees_what_the_slot_is_offered(typed: Any) -> None:
    nodes = """
    skip: {use: conv, out: 4}
    y:
      use: decoder.stage
      from: {x: skip, skip: image}
      fuse: add
      block:
        use: block.transformer
        repeat: 2
        attention: {use: attention}
        first: {from: {query: up, context: skip}, attention: {heads: 4}}
    """
    program = typed(nodes)
    assert "y.block.0.attention" in program
    assert "y.block.1.attention" in program


def test_an_inline_graph_names_its_outputs_and_can_be_replaced(typed: Any) -> None:
    nodes = """
    context:
      from: {fine: image, deep: image}
      graph: {a: {use: conv, from: deep, out: 6}}
      outputs: {fine: fine, deep: a}
    y: {use: fuse.concat, from: [context.fine, context.deep]}
    """
    other = "edit: [{at: context, replace: {graph: {b: {use: conv, from: fine, out: 2}}, outputs: {fine: b, deep: deep}}}]\n"
    assert typed(nodes)["y"] == "(B, 10, H, W)"
    changed = typed(nodes, head=other)
    assert changed["y"] == "(B, 6, H, W)"
    assert "context.b" in changed
    assert "context.a" not in changed


def test_a_part_left_out_passes_its_value_on(typed: Any) -> None:
    assert list(typed("a: {use: conv, out: 8, when: false}\ny: {use: conv, out: 2}")) == ["y"]


# ---- loops ---------------------------------------------------------------------------------------------------


def test_for_zips_lists_of_numbers_references_and_null(typed: Any) -> None:
    nodes = """
    a: {use: conv, out: 4}
    b: {use: conv, out: 6}
    y:
      for: {skip: [a, null, b], out: [4, 6, 6]}
      carry: image
      from: {x: carry, skip: $skip}
      use: decoder.stage
      upsample: {use: conv, out: $out}
      fuse: add
    """
    types = typed(nodes)
    assert [a for a in types if a.startswith("y")] == [
        "y.0.upsample",
        "y.0.fuse",
        "y.1.upsample",
        "y.2.upsample",
        "y.2.fuse",
    ]


def test_a_loop_may_refer_to_its_own_earlier_instances(typed: Any) -> None:
    types = typed("a: {use: conv, out: 4}\ny: {for: {s: [a, y.0]}, carry: image, from: [carry, $s], use: fuse.concat}")
    assert types["y.1"] == "(B, 16, H, W)"


def test_without_from_the_instances_form_a_chain(typed: Any) -> None:
    assert typed("y: {for: {out: [2, 3]}, use: conv, out: $out}") == {"y.0": "(B, 2, H, W)", "y.1": "(B, 3, H, W)"}


def test_carry_as_a_map_hands_on_several_values(typed: Any) -> None:
    nodes = """
    r: {use: conv, out: 1}
    y:
      repeat: 2
      carry: {x: image, reference: r}
      from: {x: carry.x, reference: carry.reference}
      graph:
        a: {use: conv, from: x, out: 5}
        b: {use: fuse.concat, from: [a, reference]}
      outputs: {x: b, reference: a, seen: a}
    """
    types = typed(nodes, "{x: y.1.x, all: y.*}")
    assert types["y.0.b"] == "(B, 6, H, W)"
    assert types["y.1.b"] == "(B, 10, H, W)"


def test_repeat_makes_copies_and_first_and_last_override_one(typed: Any) -> None:
    types = typed('y: {use: conv, repeat: 3, out: "${4 + j}", first: {out: 9}, last: {act: relu}}')
    assert types == {"y.0": "(B, 9, H, W)", "y.1": "(B, 5, H, W)", "y.2": "(B, 6, H, W)", "y.2.act": "(B, 6, H, W)"}


def test_options_are_evaluated_late_with_i_and_j(typed: Any) -> None:
    types = typed('y: {for: {w: [2, 3]}, use: conv, repeat: 2, out: "${w * 10 + i * 2 + j}"}')
    assert types == {f"y.{i}.{j}": f"(B, {w * 10 + i * 2 + j}, H, W)" for i, w in enumerate((2, 3)) for j in (0, 1)}


def test_refs_are_all_copies_of_a_node_or_of_a_part_of_each(typed: Any) -> None:
    nodes = """
    down: {for: {out: [2, 3, 4]}, graph: {c: {use: conv, out: $out}, n: {use: norm.layer}}}
    y: {for: {s: "${reversed(refs('down', 'c'))[1:]}"}, carry: "${refs('down')[-1]}", from: [carry, $s], use: fuse.concat}
    """
    assert typed(nodes)["y.1"] == "(B, 9, H, W)"


def test_share_ties_weights_to_the_first_instance(program: Any) -> None:
    made = program("y: {for: {k: [1, 2]}, use: conv, out: 4, share: true}\nz: {for: {k: [1, 2]}, use: conv}", "{y: z}")
    modules = {s.address: s.module for s in made.steps if s.address[0] in "yz"}
    assert modules == {"y.0": "y.0", "y.1": "y.0", "z.0": "z.0", "z.1": "z.1"}


def test_share_inside_the_graph_of_a_loop(program: Any) -> None:
    made = program("y: {for: {k: [1, 2]}, graph: {a: {use: conv, share: true}, b: conv}}")
    assert {s.address: s.module for s in made.steps}["y.1.a"] == "y.0.a"
    assert {s.address: s.module for s in made.steps}["y.1.b"] == "y.1.b"


def test_state_belongs_to_the_nearest_repeat(program: Any) -> None:
    made = program("y: {use: block.transformer, repeat: 2, attention: attention, memory: {use: memory, count: 5}}")
    held = [s for s in made.steps if s.block.name == "layout.held"]
    assert [s.address for s in held] == ["y.state.memory.tokens"]
    mixes = [s for s in made.steps if s.address.endswith("mix")]
    assert mixes[0].inputs[0][1] == held[0].outputs[0]
    assert mixes[1].inputs[0][1] == mixes[0].outputs[0]  # the second copy reads what the first handed on


def test_unused_parts_own_weights_and_take_the_nodes_input_or_a_type(program: Any) -> None:
    made = program(
        "y: {use: conv, out: 2, unused: {old: {use: conv, out: 3}, seg: {use: conv, from: B 7 1 1, out: 1}}}"
    )
    dead = {s.address: (s.types["x"].channels, s.unused) for s in made.steps if s.unused}
    assert dead == {"y.old": (4, True), "y.seg": (7, True)}


# ---- blueprints as blocks --------------------------------------------------------------------------------------

DOUBLE = """
params: {out: {type: int}, act: {type: block, default: relu}, shortcut: {type: block, default: null}}
inputs: {x: map}
graph:
  a: {use: conv, out: $out, act: $act}
  b: {use: block.residual, body: {use: conv, out: "${out + 1}"}, shortcut: $shortcut}
outputs: {y: b}
"""


def test_a_blueprint_is_a_block(typed: Any) -> None:
    types = typed("y: {use: double, out: 6, shortcut: conv}", library={"double": DOUBLE})
    assert types["y.a"] == "(B, 6, H, W)"
    assert types["y.b.body"] == "(B, 7, H, W)"


def test_a_parameter_that_holds_a_block_keeps_the_names_of_its_place(typed: Any) -> None:
    nodes = 'y: {for: {w: [3, 5]}, use: double, out: 6, shortcut: {a: {use: conv, out: "${w + i}"}, b: conv}}'
    types = typed(nodes, library={"double": DOUBLE})
    assert types["y.1.b.shortcut.a"] == "(B, 6, H, W)"


def test_a_node_may_be_the_block_a_parameter_holds(typed: Any) -> None:
    inner = """
params: {w: 6, up: {type: block, default: {use: conv, out: "${w + 1}"}}, end: {type: block, default: null}}
inputs: {x: map}
graph: {a: {use: conv, out: $w}, up: $up, end: $end}
outputs: {y: end}
"""
    types = typed("y: {use: inner, w: 3}", library={"inner": inner})
    assert types == {"y.a": "(B, 3, H, W)", "y.up": "(B, 4, H, W)"}
    types = typed("y: {use: inner, up: act.relu, end: {b: {use: conv, out: 9}}}", library={"inner": inner})
    assert types == {"y.a": "(B, 6, H, W)", "y.up": "(B, 6, H, W)", "y.end.b": "(B, 9, H, W)"}
    edit = "edit: [{at: y.up, set: {out: 8}}]\n"
    assert typed("y: {use: inner}", head=edit, library={"inner": inner})["y.up"] == "(B, 8, H, W)"


def test_edits_reach_into_a_blueprint_used_as_a_block(typed: Any) -> None:
    edit = "edit: [{at: y.*.a, set: {out: 11}}]\n"
    nodes = "y: {use: double, repeat: 2, out: 6, shortcut: conv}"
    assert typed(nodes, head=edit, library={"double": DOUBLE})["y.1.a"] == "(B, 11, H, W)"


def test_an_absent_optional_input_makes_what_needs_it_absent(tmp_path: Path) -> None:
    text = """inputs: {image: {type: B 4 H W}, mask: {type: B 1 H W, optional: true}}
graph:
  small: {use: up, from: mask}
  y: {use: levels, from: {x: [image], mask: [small]}}
outputs: {y: y.0}
"""
    assert list(steps(load(tmp_path, text).infer())) == ["y"]


# ---- edits -----------------------------------------------------------------------------------------------------

NODES = """
a: {use: conv, out: 4}
body: {use: conv, repeat: 2, out: 4, norm: layer}
y: {for: {w: [4, 4]}, use: block.transformer, attention: {use: attention, heads: 2}}
"""


def edited(typed: Any, edit: str, outputs: str = "{y: y}") -> dict[str, str]:
    return dict(typed(NODES, outputs, head=f"edit: [{edit}]\n"))


def test_set_lays_options_over_those_of_a_node(typed: Any) -> None:
    types = edited(typed, "{at: body.1, set: {out: 4, act: relu}}, {at: a, set: {out: 12}}")
    assert types["a"] == "(B, 12, H, W)"
    assert "body.1.act" in types
    assert "body.0.act" not in types


def test_replace_keeps_the_wiring(typed: Any) -> None:
    types = edited(typed, "{at: body, replace: {use: conv, out: 4}}, {at: y, replace: {use: conv, out: $w}}")
    assert list(types) == ["a", "body", "y.0", "y.1"]


def test_wrap_puts_something_around_what_was_there(typed: Any) -> None:
    types = edited(typed, "{at: body, wrap: {graph: {before: act.relu, it: $original, after: act.elu}}}")
    assert [a for a in types if a.startswith("body")] == [
        "body.before", "body.it.0", "body.it.0.norm", "body.it.1", "body.it.1.norm", "body.after",
    ]  # fmt: skip


def test_insert_after_in_line_and_aside(typed: Any) -> None:
    inline = edited(typed, "{at: a, insert_after: {r: act.relu, s: act.elu}}")
    assert list(inline)[:3] == ["a", "r", "s"]
    aside = edited(typed, "{at: a, insert_after: {side: {use: conv, from: a, out: 3}}}", "{y: y, side: side}")
    assert aside["side"] == "(B, 3, H, W)"
    assert aside["body.0"] == "(B, 4, H, W)"


def test_remove_and_add(typed: Any) -> None:
    assert "a" not in edited(typed, "{at: a, remove: true}")
    types = edited(typed, "{add: {extra: {use: conv, from: image, out: 2}}}", "{y: y, extra: extra}")
    assert next(iter(types)) == "extra"
    assert types["a"] == "(B, 4, H, W)"  # what is added does not stand in line


@pytest.mark.parametrize(
    ("at", "hit"),
    [
        ("body.*", ["body.0", "body.1"]),
        ("body.*.norm", ["body.0.norm", "body.1.norm"]),
        ('"**.norm"', ["a.norm", "body.0.norm", "body.1.norm"]),  # it names the slot, and fills an empty one
        ("y.0.*", ["y.0.norm1", "y.0.attention", "y.0.norm2"]),  # not the empty slots
        ("[body.0.norm, y.1.norm2]", ["body.0.norm", "y.1.norm2"]),
    ],
)
def test_globs(tmp_path: Path, at: str, hit: list[str]) -> None:
    replaced = graph(tmp_path, NODES, head=f"edit: [{{at: {at}, replace: act.elu}}]\n").infer()
    assert [s.address for s in replaced.steps if s.block.name == "act.elu"] == hit


def test_edits_apply_in_order(typed: Any) -> None:
    types = edited(
        typed, "{at: a, replace: {use: conv, out: 8}}, {at: a, set: {out: 6}}, {at: a, wrap: {graph: {k: $original}}}"
    )
    assert types["a.k"] == "(B, 6, H, W)"


def test_an_edit_below_a_part_that_a_later_one_replaces_is_no_mistake(tmp_path: Path) -> None:
    """A blueprint that extends another may replace what the base changed a part of."""
    nodes = "a: {graph: {b: {use: conv, out: 8}}}\ny: act.relu"
    below, whole = "{at: a.b, set: {out: 6}}", "{at: a, replace: {use: conv, out: 4}}"
    assert steps(graph(tmp_path, nodes, head=f"edit: [{below}, {whole}]\n").infer())["a"] == "(B, 4, H, W)"
    assert "a" not in steps(graph(tmp_path, nodes, head=f"edit: [{below}, {{at: a, remove: true}}]\n").infer())
    with pytest.raises(composer.BlueprintError, match=r"no part has the address `a\.b`"):
        graph(tmp_path, nodes, head=f"edit: [{whole}, {below}]\n").infer()


def test_inputs_stand_in_the_order_of_the_ports(tmp_path: Path) -> None:
    """The first port leads: its rank and its layout, in whatever order the inputs are written."""
    nodes = "o: conv\ny: {use: fuse.add, from: {skip: o, x: image}}"
    (call,) = [m for m in graph(tmp_path, nodes).link().members if m.address == "y"]
    assert list(call.inputs) == ["x", "skip"]


def test_a_key_with_dots_is_an_edit(tmp_path: Path) -> None:
    made = graph(tmp_path, NODES, **{"y.*.attention.heads": 4}).infer()
    assert [s.block for s in made.steps if s.address == "y.0.attention"]


def test_an_edit_may_fill_an_empty_slot(typed: Any) -> None:
    assert "body.0.act" in edited(typed, "{at: body.0.act, replace: act.elu}")


# ---- names that nothing uses, and speed ------------------------------------------------------------------------


def test_a_node_that_nothing_uses_is_reported_and_an_inner_value_is_not(tmp_path: Path) -> None:
    found = mistakes(graph(tmp_path, "a: {use: conv, from: image}\ny: {use: conv, from: image}").infer)
    assert said(found) == ["BP108 5:3 nothing uses the node `a`"]
    inner = graph(tmp_path, "y: {graph: {a: {use: conv, from: x}, b: {use: conv, from: x}}}")
    assert steps(inner.infer())


def test_a_block_without_inputs_does_not_use_the_line_above(tmp_path: Path) -> None:
    found = mistakes(graph(tmp_path, "a: conv\ny: tokens.learned").infer)
    assert said(found) == ["BP108 5:3 nothing uses the node `a`"]


def test_a_name_inserted_in_line_is_used_by_the_name_it_stands_for(typed: Any) -> None:
    head = "edit: [{at: a, insert_after: {r: act.relu}}, {at: b, remove: true}]\n"
    types = typed("a: conv\nb: conv\ny: {use: fuse.add, from: [a, image]}", head=head)
    assert list(types) == ["a", "r", "y"]


def chain(folder: Path, count: int) -> float:
    nodes = "\n".join(f"n{k}: {{use: fuse.add, from: [{f'n{k - 1}' if k else 'image'}, image]}}" for k in range(count))
    blueprint = graph(folder, nodes, f"{{y: n{count - 1}}}")
    start = time.process_time()
    blueprint.link()
    return time.process_time() - start


def test_linking_is_linear(tmp_path: Path) -> None:
    chain(tmp_path, 200)
    small, large = min(chain(tmp_path, 1000) for _ in range(2)), min(chain(tmp_path, 5000) for _ in range(2))
    assert large < 18 * small + 0.5  # 5 times the nodes; a quadratic step would take 25 times as long


def test_toys_are_enough() -> None:
    assert "composer_blocks" not in {type(b).__module__ for b in toys.BLOCKS}


def test_share_inside_the_graph_of_a_repeat(tmp_path: Path) -> None:
    network = graph(tmp_path, "y: {repeat: 2, graph: {a: {use: conv, share: true}, b: conv}}").build(device="meta")
    assert {k for k in network.state_dict() if k.endswith("weight")} == {"y.0.a.weight", "y.0.b.weight", "y.1.b.weight"}
    assert network.get_submodule("y.0.a") is not network.get_submodule("y.0.b")


def test_copies_of_a_repeat_share_the_weights_of_the_first(tmp_path: Path) -> None:
    network = graph(tmp_path, "y: {use: conv, repeat: 3, share: true}").build(device="meta")
    assert {k.rpartition(".")[0] for k in network.state_dict()} == {"y.0"}
