"""Old names of blocks and options: the same network, and a warning at each place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import composer
from composer.cli.main import run
from composer.plugins import Plugin
from composer.registry import Registry

RENAMED = composer.Replacement("mine.old", "mine.scale", {"by": "factor", "way": "mode"}, since="2.0")
OPTION = composer.Replacement("mine.shift", options={"n": "steps"})


class Scale(composer.Block):
    """x · factor, (B, C, *grid)."""

    name = "mine.scale"
    weightless = True
    factor: int = 1
    mode: str = "up"

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        return x

    def build(self) -> None: ...


class Shift(composer.Block):
    """x + steps, (B, C, *grid)."""

    name = "mine.shift"
    weightless = True
    steps: int = 1

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        return x

    def build(self) -> None: ...


PLUGIN = Plugin("mine", "my-plugin", "2.1", ("mine.scale", "mine.shift"), replacements=(RENAMED, OPTION))
REGISTRY = replace(
    Registry.discover(),
    blocks={**Registry.discover().blocks, "mine.scale": Scale, "mine.shift": Shift},
    replacements={r.block: r for r in PLUGIN.replacements},
    plugins=(*Registry.discover().plugins, PLUGIN),
)


def checked(folder: Path, graph: str, tail: str = "", **overrides: object) -> composer.Program:
    path = folder / "old.yaml"
    path.write_text(f"blueprint: 1\ninputs: {{image: B 2 8 8}}\ngraph:\n  a: {graph}\noutputs: {{y: a}}\n{tail}")
    return composer.load(path, REGISTRY, **overrides).check()


def blocks(program: composer.Program) -> list[composer.Block]:
    return [s.block for s in program.steps if s.block.name.startswith("mine.")]


def warned(program: composer.Program) -> list[str]:
    return [f"{w.span.line}:{w.span.column} {w.message}" for w in program.graph.warnings if w.span]


def test_a_block_and_its_options(tmp_path: Path) -> None:
    program = checked(tmp_path, "{use: mine.old, by: 3, mode: down}")
    assert blocks(program) == [Scale(factor=3, mode="down")]
    assert warned(program) == [
        "4:12 the block `mine.old` is called `mine.scale` since my-plugin 2.0",
        "4:22 the option `by` of `mine.scale` is called `factor` since my-plugin 2.0",
    ]
    assert {w.severity for w in program.graph.warnings} == {"warning"}
    assert {w.code for w in program.graph.warnings} == {"BP609"}


def test_an_option_alone(tmp_path: Path) -> None:
    program = checked(tmp_path, "{use: mine.shift, n: 4}")
    assert blocks(program) == [Shift(steps=4)]
    assert warned(program) == ["4:24 the option `n` of `mine.shift` is called `steps` (my-plugin)"]


def test_names_of_today_give_no_warning(tmp_path: Path) -> None:
    assert warned(checked(tmp_path, "{use: mine.scale, factor: 3}")) == []


def test_an_option_is_renamed_only_under_the_name_that_had_it(tmp_path: Path) -> None:
    with pytest.raises(composer.BlueprintError, match=r"`mine\.scale` has no option `by`"):
        checked(tmp_path, "{use: mine.scale, by: 3}")


def test_the_new_name_counts_where_both_are_given(tmp_path: Path) -> None:
    program = checked(tmp_path, "{use: mine.shift, n: 4, steps: 5}")
    assert blocks(program) == [Shift(steps=5)]
    assert "remove it: `steps` is given too" in program.graph.warnings[0].help[0]


@pytest.mark.parametrize(
    "graph",
    [
        "{use: block.residual, body: {use: mine.old, by: 3}}",
        "{use: block.residual, body: {use: mine.old, by: 9}, note: x, repeat: 1, first: {body: {use: mine.old, by: 3}}}",
        "{for: {k: [3]}, use: mine.old, by: $k}",
        "{graph: {b: {use: mine.old, by: 3}}}",
        "{use: mine.old, repeat: 1, by: 9, first: {by: 3}}",
        "{use: mine.old, repeat: 1, by: '${j + 3}'}",
        '{use: \'${"mine." + "old"}\', by: 3}',
    ],
)
def test_wherever_a_part_stands(graph: str, tmp_path: Path) -> None:
    program = checked(tmp_path, graph)
    assert blocks(program) == [Scale(factor=3)]
    assert warned(program)


def test_a_string_in_a_slot_and_a_parameter_that_holds_a_block(tmp_path: Path) -> None:
    assert blocks(checked(tmp_path, "{use: block.residual, body: mine.old}")) == [Scale()]
    held = checked(tmp_path, "{use: block.residual, body: $part}", "params: {part: {type: block, default: mine.old}}\n")
    assert blocks(held) == [Scale()]
    assert warned(held)[0].startswith("6:")


def test_copies_say_it_once(tmp_path: Path) -> None:
    program = checked(tmp_path, "{use: mine.shift, repeat: 5, n: 2}")
    assert blocks(program) == [Shift(steps=2)] * 5
    assert len(warned(program)) == 1


@pytest.mark.parametrize(
    ("edit", "block"),
    [
        ("{at: a, set: {by: 7}}", Scale(factor=7)),
        ("{at: a, set: {factor: 7}}", Scale(factor=7)),
        ("{at: a, set: {use: mine.old, by: 7}}", Scale(factor=7)),
        ("{at: a, replace: {use: mine.shift, n: 7}}", Shift(steps=7)),
        ("{at: a, wrap: {graph: {b: $original, c: {use: identity_of_nothing, when: false}}}}", None),
    ],
)
def test_edits_may_use_old_names(edit: str, block: composer.Block | None, tmp_path: Path) -> None:
    program = checked(tmp_path, "{use: mine.old, by: 3}", f"edit: [{edit}]\n")
    assert blocks(program) == [block or Scale(factor=3)]


def test_overrides_may_use_old_names(tmp_path: Path) -> None:
    assert blocks(checked(tmp_path, "{use: mine.shift, steps: 3}", **{"a.n": 7})) == [Shift(steps=7)]
    assert blocks(checked(tmp_path, "{use: mine.scale}", **{"a": {"use": "mine.old", "by": 2}})) == [Scale(factor=2)]


def test_the_flat_blueprint_has_the_new_names(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("blueprint: 1\ninputs: {image: B 2 8 8}\ngraph:\n  a: {use: mine.old, by: 3}\noutputs: {y: a}\n")
    assert "a: {use: mine.scale, factor: 3}" in composer.load(path, REGISTRY).flat()


def test_a_block_of_the_old_name_is_that_block(tmp_path: Path) -> None:
    class Old(Scale):
        """x, (B, C, *grid)."""

        name = "mine.old"
        by: int = 0

    registry = replace(REGISTRY, blocks={**REGISTRY.blocks, "mine.old": Old})
    path = tmp_path / "old.yaml"
    path.write_text("blueprint: 1\ninputs: {image: B 2 8 8}\ngraph:\n  a: {use: mine.old, by: 3}\noutputs: {y: a}\n")
    program = composer.load(path, registry).check()
    assert [type(b) for b in blocks(program)] == [Old]
    assert program.graph.warnings == ()


def test_check_prints_warnings_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Registry, "discover", staticmethod(lambda files=(), only=None: REGISTRY))
    path = tmp_path / "old.yaml"
    path.write_text("blueprint: 1\ninputs: {image: B 2 8 8}\ngraph:\n  a: {use: mine.shift, n: 3}\noutputs: {y: a}\n")
    assert run(["check", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "old: no mistakes in 1 nodes, 1 warning" in out
    assert "warning[BP609]: the option `n` of `mine.shift` is called `steps` (my-plugin)" in err
    assert f"--> {path}:4:24" in err
    assert "help: write `steps`" in err
    assert run(["check", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["errors"]) == (True, [])
    assert [(w["severity"], w["place"]["line"], w["place"]["column"]) for w in said["warnings"]] == [("warning", 4, 24)]
