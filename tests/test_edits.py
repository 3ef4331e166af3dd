"""Edits and overrides: what they reach, what they say when they reach nothing, and both places of a mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toys import graph, load, mistakes, said, steps

import composer
from composer import Diagnostic, compose
from composer.blueprint import Edit, parse_overrides
from composer.cli.main import run

NODES = """
stem: {use: conv, out: 4}
level:
  for: {w: [4, 8]}
  graph:
    pre: act.relu
    blocks: {use: block.transformer, repeat: 2, attention: {use: attention, heads: 2}, mlp: {use: linear, out: 4}}
    merge: {use: conv, out: $w, norm: layer}
y: {graph: {inner: {use: block.transformer, attention: {use: attention, heads: 2}, memory: null}}}
"""


def reached(folder: Path, **overrides: Any) -> dict[str, Any]:
    """The blocks of a small network by address."""
    steps = graph(folder, NODES, **overrides).infer().steps
    return {s.address: s.block for s in steps if "+" not in s.address}


def shift(folder: Path, **overrides: Any) -> list[str]:
    """The addresses whose attention got an option."""
    made = graph(folder, NODES, **overrides).link()
    return [a for a, c in made.changes.items() for e in c.edits if e.action == "set" and "shift" in e.change]


# ---- on a command line ------------------------------------------------------------------------------------------


def test_the_command_line_that_everybody_types(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["decoder.*.fuse=fuse.add", "encoder.0.attention.window=4", "dim=48"]
    blueprint = composer.Blueprint.load("swin_unet", overrides=parse_overrides(words))
    blocks = {s.address: s.block for s in blueprint.infer().steps}
    windows = {a: b.window for a, b in blocks.items() if b.name == "part.window_attention" or hasattr(b, "window")}
    assert {a for a, w in windows.items() if w in (4, (4, 4))} == {
        "encoder.0.blocks.0.attention",
        "encoder.0.blocks.1.attention",
    }
    assert blocks["decoder.2.fuse"].name == "fuse.add"
    assert blueprint.values["dim"] == 48
    assert run(["check", "swin_unet", *words]) == 0
    assert "no mistakes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "places"),
    [
        ("level.0.blocks.0.attention.shift", ["level.0.blocks.0.attention"]),
        ("level.0.attention.shift", ["level.0.blocks.0.attention", "level.0.blocks.1.attention"]),
        ("level.attention.shift", [f"level.{i}.blocks.{j}.attention" for i in (0, 1) for j in (0, 1)]),
        ("level.1.shift", ["level.1.blocks.0.attention", "level.1.blocks.1.attention"]),
        ("level.blocks.1.attention.shift", ["level.0.blocks.1.attention", "level.1.blocks.1.attention"]),
        ("level.*.blocks.0.*.shift", ["level.0.blocks.0.attention", "level.1.blocks.0.attention"]),
        ("**.shift", [*(f"level.{i}.blocks.{j}.attention" for i in (0, 1) for j in (0, 1)), "y.inner.attention"]),
    ],
)
def test_segments_may_be_left_out_before_names(tmp_path: Path, key: str, places: list[str]) -> None:
    assert shift(tmp_path, **{key: 1}) == places


def test_the_shortest_addresses_are_meant(tmp_path: Path) -> None:
    """A memory has an attention of its own; `y.attention` is not that one."""
    nodes = "y: {graph: {m: {use: block.transformer, attention: {use: attention, heads: 2}, mlp: {use: block.transformer, attention: attention}}}}"
    made = graph(tmp_path, nodes, **{"y.attention.shift": 1}).link()
    assert list(made.changes) == ["y.m.attention"]


def test_an_option_goes_to_the_part_that_has_it(tmp_path: Path) -> None:
    made = reached(tmp_path, **{"level.out": 6})
    assert [made[f"level.{i}.{a}"].out for i in (0, 1) for a in ("merge", "blocks.0.mlp")] == [6, 4, 6, 4]
    assert "level.1.blocks.1.memory.mix" in reached(tmp_path, **{"level.1.memory": "memory"})


def test_an_override_replaces_and_removes_nodes(tmp_path: Path) -> None:
    assert reached(tmp_path, stem="act.elu")["stem"].name == "act.elu"
    assert "stem" not in reached(tmp_path, stem=None)
    assert reached(tmp_path, **{"level.0.pre": "act.elu"})["level.0.pre"].name == "act.elu"
    assert {a for a, b in reached(tmp_path, **{"level.pre": "act.elu"}).items() if b.name == "act.elu"} == {
        "level.0.pre",
        "level.1.pre",
    }
    assert "level.1.pre" not in reached(tmp_path, **{"level.1.pre": None})


def test_overrides_meet_in_one_place(tmp_path: Path) -> None:
    made = reached(tmp_path, **{"stem": "linear", "stem.out": 6})
    assert (made["stem"].name, made["stem"].out) == ("linear", 6)


def test_a_parameter_is_meant_before_a_node(tmp_path: Path) -> None:
    made = graph(tmp_path, "stem: {use: conv, out: $stem}\ny: conv", head="params: {stem: 4}\n", stem=6)
    assert steps(made.infer())["stem"] == "(B, 6, H, W)"


def test_a_nodes_name_is_no_option_of_a_blueprint_used_as_a_block(tmp_path: Path) -> None:
    inner = "params: {out: 4}\ninputs: {x: map}\ngraph: {a: {use: conv, out: $out}, b: act.relu}\noutputs: {y: b}\n"
    found = mistakes(lambda: graph(tmp_path, "y: {use: part, a: act.elu}", library={"part": inner}).infer())
    assert [d.message for d in found] == ["there is no parameter `a`"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"level.0.attention.shfit": 1}, "BP204 `attention` at `level.0.blocks.0.attention` has no option `shfit`; did you mean `shift`?"),
        ({"stem.outt": 1}, "BP204 `conv` at `stem` has no option `outt`; did you mean `out`?"),
        ({"level.0.atention.shift": 1}, "BP106 this edit matches nothing: no part has the address `level.0.atention.shift` (did you mean `level.0.blocks.*.attention.shift`"),
        ({"levle.0.attention.shift": 1}, "BP106 this edit matches nothing: no part has the address `levle.0.attention.shift` (did you mean `level.*.blocks.*.attention.shift`"),
        ({"level.0.nothing": 1}, "BP106 `level.0` has no part `nothing`"),
        ({"stemm": "conv"}, "BP105 there is no parameter `stemm`; did you mean `stem`?"),
        ({"stem..out": 1}, "BP201 `stem..out` is no address: a name is missing beside a dot"),
        ({"stem.out": "x"}, "BP201 `out: 'x'` does not fit `conv`"),
        ({"stem": 3}, "BP207 `use` is the name of a block, not 3"),
    ],
)  # fmt: skip
def test_what_an_override_does_not_reach(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    words = [f"{k}={v}" for k, v in given.items()]

    def work() -> Any:
        blueprint = graph(tmp_path, NODES)
        return composer.Blueprint.load(blueprint.path, blueprint.registry, parse_overrides(words)).infer()

    (found,) = mistakes(work)
    assert f"{found.code} {found.message} ({'; '.join(found.help)}".startswith(message)
    assert found.span is not None
    assert found.span.source.name == "<command line>"


def test_a_key_twice() -> None:
    (found,) = mistakes(lambda: parse_overrides(["dim=4", "dim=5"]))
    assert (found.message, str(found.span)) == ("`dim` is given twice", "<command line>:1:1")


def test_a_wrong_type_shows_where_the_parameter_is_declared(tmp_path: Path) -> None:
    with pytest.raises(composer.BlueprintError) as caught:
        composer.Blueprint.load("vit", overrides=parse_overrides(["dim=wide"]))
    assert "<command line>:1:5" in str(caught.value)
    assert "`dim` is declared here" in str(caught.value)


# ---- in a file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ("{at: level.0.attention, set: {shift: 1}}", "BP106 3:8 this edit matches nothing: no part has the address `level.0.attention`"),
        ("{at: stem, remove: true}, {at: stem, set: {out: 2}}", "BP106 3:34 this edit matches nothing: no part has the address `stem`; an edit before it removes `stem`"),
        ("{at: level.0.blocks, replace: act.relu}, {at: level.0.blocks.0.mlp, set: {out: 2}}", "BP106 3:49 this edit matches nothing: no part has the address `level.0.blocks.0.mlp`; an edit before it replaces `level.0.blocks`"),
        ("{at: stem, set: {out: 2}}, {at: stem, set: {out: 3}}", "BP110 3:8 two edits on one place: of this one nothing remains at `stem`"),
        ("{at: stem, replace: act.relu}, {at: stem, replace: act.elu}", "BP110 3:8 two edits on one place: of this one nothing remains at `stem`"),
        ("{at: stem, set: {out: 2}}, {at: stem, remove: true}", "BP110 3:8 two edits on one place: of this one nothing remains at `stem`"),
        ("{at: level.0.blocks.0.mlp, set: {out: 8}}, {at: level.*.blocks.*.mlp, replace: act.elu}", "BP110 3:8 two edits on one place: of this one nothing remains at `level.0.blocks.0.mlp`"),
        ("{at: stem, wrap: {graph: {a: act.relu}}}", "BP201 3:25 a `wrap` says by `$original` where the part goes that stood here; this one does not"),
        ("{add: {e: {use: conv, from: image}}}, {add: {e: {use: conv, from: image}}}", "BP107 3:53 an edit adds `e`, which is a node already"),
        ("{at: stem, insert_after: {level: act.relu}}", "BP107 7:3 two nodes are named `level`"),
    ],
)  # fmt: skip
def test_an_edit_that_is_a_mistake(tmp_path: Path, edits: str, message: str) -> None:
    code, place, text = message.split(" ", 2)
    found = mistakes(lambda: graph(tmp_path, NODES, "{y: y}", head=f"edit: [{edits}]\n").infer())
    assert (code, place, text) in [(d.code, place_of(d), d.message) for d in found]


def place_of(mistake: Diagnostic) -> str:
    return f"{mistake.span.line}:{mistake.span.column}" if mistake.span else "-"


def test_a_file_is_told_the_whole_address(tmp_path: Path) -> None:
    (found,) = mistakes(
        lambda: graph(tmp_path, NODES, head="edit: [{at: level.0.attention, set: {shift: 1}}]\n").infer()
    )
    assert found.help[0].startswith("did you mean `level.0.blocks.*.attention`, `level.*.blocks.*.attention`")


@pytest.mark.parametrize(
    "edits",
    [
        "{at: level.*.blocks.*.attention, set: {shift: 1}}, {at: level.0.blocks.0.attention, set: {shift: 2}}",
        "{at: stem, set: {out: 4}}, {at: stem, set: {ratio: 1}}",
        "{at: stem, set: {from: image}}, {at: stem, replace: {use: conv, out: 4}}",
        "{at: stem, replace: {use: conv}}, {at: stem, set: {out: 4}}, {at: stem, wrap: {graph: {a: $original}}}",
    ],
)
def test_edits_that_meet_and_are_no_mistake(tmp_path: Path, edits: str) -> None:
    graph(tmp_path, NODES, head=f"edit: [{edits}]\n").infer()


def test_an_override_that_undoes_another(tmp_path: Path) -> None:
    found = mistakes(lambda: reached(tmp_path, **{"stem.out": 6, "stem": "act.elu"}))
    assert [d.code for d in found] == ["BP110"]


def test_edits_of_no_list_may_undo_each_other(tmp_path: Path) -> None:
    made = graph(tmp_path, NODES)
    edits = tuple(Edit(("stem",), "set", {"out": n}, None) for n in (5, 6))
    assert steps(replace(made, edits=edits).infer())["stem"] == "(B, 6, H, W)"


def test_a_later_layer_wins(tmp_path: Path) -> None:
    """What the base replaced, a preset, a child and the command line may replace again."""
    base = "inputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: 2}}\noutputs: {y: y}\nedit: [{at: y, set: {out: 3}}]\npresets: {p: {edit: [{at: y, set: {out: 5}}]}}\n"
    child = "extends: base:p\nedit: [{at: y, set: {out: 6}}]\n"
    assert steps(load(tmp_path, child, {"base": base}).infer())["y"] == "(B, 6, H, W)"
    assert steps(load(tmp_path, child, {"base": base}, **{"y.out": 7}).infer())["y"] == "(B, 7, H, W)"


def test_a_loops_instance_may_be_wired_anew(tmp_path: Path) -> None:
    nodes = "a: {use: conv, out: 8}\nb: {use: conv, out: 3}\ny: {for: {k: [0, 1]}, use: act.relu}"
    made = graph(tmp_path, nodes, "{y: y.1, b: b}", head="edit: [{at: y.0, set: {from: a}}]\n").infer()
    assert steps(made)["y.1"] == "(B, 8, H, W)"


def test_each_use_of_a_blueprint_reports_its_own_edits(tmp_path: Path) -> None:
    part = "inputs: {x: map}\ngraph: {a: conv, b: act.relu}\noutputs: {y: b}\nedit: [{at: a, set: {out: 6}}]\n"
    other = part.replace("at: a,", "at: c,")
    made = graph(tmp_path, "z: part\ny: part", library={"part": part}).infer()
    assert steps(made)["y.a"] == "(B, 6, H, W)"
    found = mistakes(lambda: graph(tmp_path, "z: part\ny: other", library={"part": part, "other": other}).infer())
    assert [d.message for d in found] == ["this edit matches nothing: no part has the address `c`"]


# ---- both places ------------------------------------------------------------------------------------------------

BASE = """inputs: {image: {type: B 6 H W, size: [32, 32]}}
params: {heads: 2}
graph:
  a: {use: conv, out: 6}
  y: {use: block.transformer, attention: {use: attention, heads: $heads}}
outputs: {y: y}
"""


def rendered(folder: Path, child: str, base: str = BASE, middle: str = "") -> str:
    library = {"base": base, **({"middle": middle} if middle else {})}
    return "\n".join(d.render() for d in mistakes(lambda: load(folder, child, library).infer()))


def test_a_mistake_in_an_inherited_file_shows_who_extends_it(tmp_path: Path) -> None:
    text = rendered(tmp_path, "extends: base\nparams: {heads: 4}\n")
    assert "6 channels do not split into 4 heads" in text
    assert f"--> {tmp_path / 'base.yaml'}:7:48" in text
    assert f"::: {tmp_path / 'toy.yaml'}:4:17" in text


def test_a_value_is_shown_where_it_was_given(tmp_path: Path) -> None:
    base = BASE.replace("y: {use", "y: {for: {h: ['${heads}']}, use").replace("heads: $heads", "heads: $h")
    text = rendered(tmp_path, "extends: base\nparams: {heads: 4}\n", base)
    assert f"::: {tmp_path / 'toy.yaml'}:4:17" in text
    assert "`heads` is given here" in text
    with pytest.raises(composer.BlueprintError) as caught:
        composer.Blueprint.load("swin_unet", overrides=parse_overrides(["heads=[3,5,12,24]"])).infer()
    assert "::: <command line>:1:7\n" in str(caught.value)


def test_every_file_of_a_chain_is_shown(tmp_path: Path) -> None:
    wide = BASE.replace("params: {heads: 2}", "params: {heads: 4}")
    text = rendered(tmp_path, "extends: middle\n", wide, middle="extends: base\n")
    places = [line.split()[1] for line in text.splitlines() if line.lstrip().startswith((":::", "-->"))]
    assert [p.rpartition("/")[2] for p in places] == ["base.yaml:7:48", "toy.yaml:3:10", "middle.yaml:3:10"]


def test_a_mistake_of_an_edit_shows_the_part_it_changes(tmp_path: Path) -> None:
    text = rendered(tmp_path, "extends: base\nedit: [{at: y.attention, set: {haeds: 3}}]\n")
    assert f"--> {tmp_path / 'toy.yaml'}:4:32" in text
    assert f"::: {tmp_path / 'base.yaml'}:7:42" in text
    assert "`y.attention` stands here" in text


def test_a_mistake_in_a_part_that_an_edit_changed_shows_the_edit(tmp_path: Path) -> None:
    text = rendered(tmp_path, "extends: base\nedit: [{at: y.attention, set: {heads: 5}}]\n")
    assert f"--> {tmp_path / 'base.yaml'}:7:48" in text
    assert f"::: {tmp_path / 'toy.yaml'}:4:8" in text
    assert "changes `y.attention`" in text


def test_what_reads_a_removed_node_shows_who_removed_it(tmp_path: Path) -> None:
    base = BASE.replace("y: {use", "k: act.relu\n  y: {from: a, use")
    text = rendered(tmp_path, "extends: base\nedit: [{at: a, remove: true}]\n", base)
    assert "an edit removes `a`, which is read here" in text
    assert f"::: {tmp_path / 'toy.yaml'}:4:8" in text


@pytest.mark.parametrize("base", ["graph: {a: [", "grahp: {}\n", "blueprint: 2\n"])
def test_a_broken_base_shows_who_extends_it(tmp_path: Path, base: str) -> None:
    text = rendered(tmp_path, "extends: base\n", base)
    assert str(tmp_path / "base.yaml") in text
    assert f"::: {tmp_path / 'toy.yaml'}:3:10" in text


def test_a_missing_base_is_said_where_it_is_named(tmp_path: Path) -> None:
    found = mistakes(lambda: load(tmp_path, "extends: nothing.yaml\n"))
    assert [(d.code, place_of(d)) for d in found] == [("BP001", "3:10")]


def test_an_unknown_preset_is_said_where_it_is_named_and_shows_those_there_are(tmp_path: Path) -> None:
    base = BASE + "presets: {large: {heads: 3}}\n"
    (found,) = mistakes(lambda: load(tmp_path, "extends: base:lrage\n", {"base": base}))
    assert said([found]) == ["BP105 3:10 `base` has no preset `lrage`; did you mean `large`?"]
    assert [label.span.line for label in found.others] == [9]


def test_a_circle_of_files(tmp_path: Path) -> None:
    library = {"a": "extends: b\n", "b": "extends: a\n"}
    (found,) = mistakes(lambda: load(tmp_path, "extends: a\n", library))
    assert found.message == "`extends` goes in a circle: toy.yaml -> a.yaml -> b.yaml -> a.yaml"


def test_a_misspelt_parameter_of_a_child(tmp_path: Path) -> None:
    found = mistakes(lambda: load(tmp_path, "extends: base\nparams: {haeds: 3}\n", {"base": BASE}).infer())
    assert said(found) == ["BP108 4:17 nothing uses the parameter `haeds`; did you mean `heads`?"]


def test_a_value_of_an_input_says_where_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "unet", "size=3.5"]) == 1
    said_ = capsys.readouterr().err
    assert "unet.yaml:24:" in said_
    assert "<command line>:1:6" in said_
    assert "`size` is given here" in said_


def test_an_override_with_a_wrong_type_shows_itself_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "swin_unet", "encoder.0.attention.window=big"]) == 1
    said_ = capsys.readouterr().err
    assert "<command line>:1:28" in said_
    assert "is given here" not in said_


def test_overrides_in_python() -> None:
    made = compose("vit", overrides={"dim": 16, "depth": 1, "heads": 2, "hidden": 8, "size": [16, 16], "patch": 8,
                                     "blocks.attention.qkv_bias": False})  # fmt: skip
    assert "blocks.0.attention.query.bias" not in made.state_dict()
