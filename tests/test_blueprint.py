"""Loading: documents, parameters, presets, `extends` and overrides. Nothing here knows a block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import graph, load, mistakes, said, steps

from composer import blueprint as stage
from composer.blueprint import merge_specs, parse_overrides

BASE = """
params: {width: {default: 4, min: 1, doc: channels of the first map}, twice: "${2 * width}", norm: {type: block, default: null}}
presets:
  wide: {width: 8}
  deep: {edit: [{at: y, set: {repeat: 3}}], weights: [{from: preset, to: x}], init: [{of: linear, weight: zeros}]}
inputs: {image: B 4 H W}
graph: {a: {use: conv, out: $width, norm: $norm}, y: {use: conv, out: $twice}}
outputs: {y: y}
init: [{of: conv, weight: zeros}]
weights: [{from: base, to: x}]
"""


def values(blueprint: Any) -> dict[str, Any]:
    return {k: v for k, v in blueprint.values.items() if v is not None}


def test_parameters_are_computed_from_each_other(tmp_path: Path) -> None:
    assert values(load(tmp_path, BASE)) == {"width": 4, "twice": 8}
    assert values(load(tmp_path, BASE, width=5)) == {"width": 5, "twice": 10}
    assert values(load(tmp_path, BASE, twice=3)) == {"width": 4, "twice": 3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "BP201 1:7 the parameter `width` = 0 must be at least 1"),
        ({"width": "x"}, "BP201 1:7 the parameter `width` = 'x' must be int"),
        ({"widht": 3}, "BP105 1:7 there is no parameter `widht`; did you mean `width`?"),
        ({"width": True}, "BP201 1:7 the parameter `width` = True must be int"),
        ({"y.out.x": 1}, "BP106 1:1 this edit matches nothing: no part has the address `y.out.x`"),
    ],
)
def test_values_are_checked(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    assert said(mistakes(lambda: load(tmp_path, BASE, **given).infer())) == [message]


def test_a_preset_sets_values_and_edits_and_its_rules_come_first(tmp_path: Path) -> None:
    child = "extends: base:deep\nparams: {width: 3}\nweights: [{from: child, to: x}]\n"
    made = load(tmp_path, child, {"base": BASE})
    assert [r["from"] for r in made.weights["official"]] == ["child", "preset", "base"]
    assert [r["of"] for r in made.init] == ["linear", "conv"]
    assert list(steps(made.infer())) == ["a", "y.0", "y.1", "y.2"]


def test_a_preset_has_outputs_beside_the_others(tmp_path: Path) -> None:
    child = "extends: base\npresets: {tapped: {outputs: {a: {from: a, when: training}}}, bad: {outputs: [a]}}\n"
    files = {"base": BASE, "child": child}
    assert list(load(tmp_path, "extends: child:tapped\n", files).outputs) == ["y", "a"]
    assert list(load(tmp_path, "extends: child\n", files).outputs) == ["y"]
    wrong = said(mistakes(lambda: load(tmp_path, "extends: child:bad\n", files)))
    assert wrong == ["BP201 4:77 `outputs` of the preset `bad` must be a mapping from names to references"]


def test_a_rule_of_weights_may_count_from_a_parameter(tmp_path: Path) -> None:
    child = "extends: base\nweights: [{from: \"${['a', 'b'][width - 4]}\", to: a}]\n"
    assert load(tmp_path, child, {"base": BASE}).weights["official"][0]["from"] == "a"
    assert load(tmp_path, child, {"base": BASE}, width=5).weights["official"][0]["from"] == "b"
    wrong = said(mistakes(lambda: load(tmp_path, child, {"base": BASE}, width=7)))
    assert [w.split(" ")[0] for w in wrong] == ["BP205"]


def test_a_child_takes_a_preset_away(tmp_path: Path) -> None:
    child = "extends: base\npresets: {deep: null, own: null}\n"
    made = load(tmp_path, child, {"base": BASE})
    assert "deep" not in made.presets
    assert "own" in made.presets
    assert "deep" in load(tmp_path, BASE).presets


def test_extends_over_several_levels(tmp_path: Path) -> None:
    middle = "extends: base:wide\nparams: {extra: 1, norm: layer}\npresets: {tiny: {extra: 2}}\nedit: [{at: a, set: {act: relu}}]\n"
    child = (
        'extends: middle:tiny\nparams: {width: 6}\nedit: [{at: a, insert_after: {b: {use: conv, out: "${extra}"}}}]\n'
    )
    made = load(tmp_path, child, {"base": BASE, "middle": middle})
    types = steps(made.infer())
    assert types == {
        "a": "(B, 6, H, W)", "a.norm": "(B, 6, H, W)", "a.act": "(B, 6, H, W)", "b": "(B, 2, H, W)", "y": "(B, 12, H, W)",
    }  # fmt: skip
    assert [p.name for p in made.files] == ["base.yaml", "middle.yaml", "toy.yaml"]
    assert tuple(made.presets) == ("wide", "deep", "tiny")


def test_a_blueprint_that_extends_another_has_its_own_place(tmp_path: Path) -> None:
    made = load(tmp_path, "extends: base\nparams: {width: 5}\n", {"base": BASE})
    assert made.span is not None
    assert (Path(made.span.source.name).name, made.span.line, made.span.column) == ("toy.yaml", 1, 1)


def test_a_child_keeps_the_rules_of_a_parameter_it_sets(tmp_path: Path) -> None:
    found = mistakes(lambda: load(tmp_path, "extends: base\nparams: {width: -2}\n", {"base": BASE}))
    assert said(found) == ["BP201 4:17 the parameter `width` = -2 must be at least 1"]


def test_a_child_may_declare_a_parameter_anew(tmp_path: Path) -> None:
    child = "extends: base\nparams: {width: {default: 12, min: 10}}\n"
    assert load(tmp_path, child, {"base": BASE}).values["width"] == 12
    assert said(mistakes(lambda: load(tmp_path, child, {"base": BASE}, width=4)))[0].endswith("must be at least 10")


def test_a_preset_that_does_not_exist(tmp_path: Path) -> None:
    found = mistakes(lambda: load(tmp_path, "extends: base:wid\n", {"base": BASE}))
    assert found[0].message == "`base` has no preset `wid`; did you mean `wide`?"


def test_the_type_of_an_input_uses_parameters(tmp_path: Path) -> None:
    text = "params: {channels: 3, size: [8, 8, 8]}\ninputs: {image: {type: B $channels *S, size: $size}}\ngraph: {y: conv}\noutputs: {y: y}\n"
    program = load(tmp_path, text).infer()
    assert str(program.inputs[0].type) == "(B, 3, D, H, W)"
    assert program.built == {"D": 8, "H": 8, "W": 8}


def test_merging_is_deep_and_another_block_replaces() -> None:
    base = {"use": "conv", "out": 3, "norm": {"use": "norm.layer", "eps": 1}}
    assert merge_specs(base, {"norm": {"eps": 2}}) == {"use": "conv", "out": 3, "norm": {"use": "norm.layer", "eps": 2}}
    assert merge_specs(base, {"norm": {"use": "norm.batch"}})["norm"] == {"use": "norm.batch"}
    assert merge_specs(base, {"use": "linear"}) == {"use": "linear"}
    assert merge_specs(base, {"norm": None})["norm"] is None


def test_overrides_of_a_command_line_are_yaml_with_a_place(tmp_path: Path) -> None:
    given = parse_overrides(["width=0", "y.act=relu"])
    assert dict(given) == {"width": 0, "y.act": "relu"}
    (mistake,) = mistakes(lambda: load(tmp_path, BASE, **given) if False else stage.load(_file(tmp_path), given))
    assert str(mistake.span) == "<command line>:1:7"
    assert said(mistakes(lambda: parse_overrides(["width"]))) == ["BP201 1:1 `width` is not key=value"]


def _file(folder: Path) -> Path:
    path = folder / "base.yaml"
    path.write_text("blueprint: 1\nname: base\n" + BASE)
    return path


def test_a_blueprint_used_as_a_block_may_name_a_preset(tmp_path: Path) -> None:
    inner = BASE.replace("inputs: {image: B 4 H W}", "inputs: {x: map}")
    made = graph(tmp_path, "y: {use: 'base:wide'}", library={"base": inner}).infer()
    assert steps(made)["y.a"] == "(B, 8, H, W)"
