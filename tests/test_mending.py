"""Suggestions are tried: each fix that a message offers mends it, and what would not is not offered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import registry as toys

import composer
from composer.blueprint import parse_overrides
from composer.cli.main import run
from composer.codes import CODES
from composer.diagnostics import Diagnostic
from composer.mending import applied, located
from composer.registry import Registry

HEAD = "blueprint: 1\nname: toy\ninputs: {image: B 3 16 16}\n"


def mistakes(text: str, registry: Registry | None = None) -> tuple[Diagnostic, ...]:
    """What is wrong with a text."""
    with pytest.raises(composer.BlueprintError) as caught:
        composer.Blueprint.parse(text, registry).infer()
    return caught.value.diagnostics


def toy(graph: str) -> str:
    return HEAD + f"graph:\n  {graph}\noutputs: {{y: y}}\n"


MISSPELT = {
    "y: {use: cnv, out: 4}": "conv",
    "y: {use: conv, outt: 4}": "out",
    "y: {use: conv, out: 4, from: imge}": "image",
    "y: {use: conv, out: 4, norm: lyer}": "layer",
}


@pytest.mark.parametrize("graph", MISSPELT)
def test_a_misspelt_word_is_offered_where_it_checks(graph: str) -> None:
    (mistake,) = mistakes(toy(graph))
    (fix,) = mistake.fixes
    assert fix.text == MISSPELT[graph]
    assert "did you mean" in str(mistake.render())
    composer.Blueprint.parse(applied(fix)).infer()


@pytest.mark.parametrize(
    "graph",
    [
        "y: {use: conv, outt: nine}",  # `out` would not take it
        "y: {use: conv, out: 4, kernl: 0}",
        "y: {use: cnv, heads: 4}",
    ],
)
def test_what_would_not_check_is_not_offered(graph: str) -> None:
    for mistake in mistakes(toy(graph)):
        assert not mistake.fixes
        assert "did you mean" not in mistake.render()


def test_other_mistakes_of_the_file_do_not_stand_in_the_way() -> None:
    found = mistakes(
        toy("y: {use: conv, outt: 4}\n  z: {use: conv, out: -1, from: image}\n  w: {use: nothing_like_it}")
    )
    assert [f.text for m in found for f in m.fixes] == ["out"]


@pytest.mark.parametrize("code", [c for c in CODES.values() if c.broken], ids=lambda c: c.code)
def test_every_fix_of_the_catalogue_mends_its_mistake(code) -> None:
    try:
        composer.Blueprint.parse(code.broken).infer()
    except composer.BlueprintError as fault:
        for mistake in fault.diagnostics:
            for fix in mistake.fixes:
                left = _left(applied(fix))
                assert (mistake.code, mistake.plain) not in {(m.code, m.plain) for m in left}


def _left(text: str) -> tuple[Diagnostic, ...]:
    try:
        composer.Blueprint.parse(text).infer()
    except composer.BlueprintError as fault:
        return fault.diagnostics
    return ()


def test_an_override_of_the_command_line_is_tried_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "unet", "up.*.fuse=fuse.ad", "--json"]) == 1
    (mistake,) = json.loads(capsys.readouterr().out)["errors"]
    (fix,) = mistake["fixes"]
    assert (fix["text"], fix["place"]["file"], fix["place"]["column"]) == ("fuse.add", "<command line>", 11)
    with pytest.raises(composer.BlueprintError, match="did you mean `classes`"):
        composer.Blueprint.load("unet", None, parse_overrides(["clases=3"]))
    with pytest.raises(composer.BlueprintError, match=r"no parameter `clases`\n"):
        composer.Blueprint.load("unet", None, parse_overrides(["clases=many"]))


def test_an_argument_and_a_name_are_tried_too() -> None:
    with pytest.raises(composer.BlueprintError, match="did you mean `classes`") as caught:
        composer.load("unet", clases=3)
    assert str(caught.value.diagnostics[0].span).startswith("<arguments>:1:")
    with pytest.raises(composer.BlueprintError, match="did you mean `large`"):
        composer.load("vit:lage")
    with pytest.raises(composer.BlueprintError, match="did you mean `vit`"):
        composer.load("vitt")


def test_nothing_is_written_while_a_change_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(toy("y: {use: conv, outt: 4}"))
    before = file.read_text()
    with pytest.raises(composer.BlueprintError, match="did you mean `out`"):
        composer.load(file).infer()
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_part_of_a_word_is_not_its_place() -> None:
    source = composer.Blueprint.parse(toy("y: {use: conv, out: 4}")).span
    assert source is not None
    assert located(source, "no such word") is None


def test_a_fault_of_a_plugin_does_not_hide_the_users_mistakes() -> None:
    found = mistakes(toy("x: {use: faulty}\n  y: {use: nothing_like_it, from: image}"), toys())
    assert {"BP603", "BP102"} <= {m.code for m in found}
