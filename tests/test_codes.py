"""The catalogue of codes: complete, in words of the user, and its examples really break and mend."""

import re
from pathlib import Path

import pytest

import composer
from composer import keymap
from composer.codes import CODES, GROUPS, explain
from composer.diagnostics import BlueprintError, ComposerError
from composer.registry import Registry

ROOT = Path(__file__).parent.parent
FED = re.compile(r"# fed (\w+) = ([\d, ]+)")
WITH_EXAMPLE = [c for c in CODES.values() if c.broken]
WITHOUT = {"BP001", "BP400", "BP404"}
"""Codes below BP600 that no blueprint of shipped blocks can cause."""


def in_sources() -> set[str]:
    files = [f for part in ("composer", "plugins") for f in (ROOT / part).rglob("*.py") if f.name != "codes.py"]
    return {code for file in files for code in re.findall(r"\bBP\d{3}\b", file.read_text(encoding="utf-8"))}


def check(text: str, folder: Path) -> None:
    """Everything that can be said of a file, and of the image its first line feeds."""
    file = folder / "example.yaml"
    file.write_text(text, encoding="utf-8")
    blueprint = composer.load(file, Registry.discover())
    fed = FED.match(text)
    shapes = {fed[1]: tuple(int(n) for n in fed[2].split(","))} if fed else {}
    blueprint.check(**shapes)
    for rules in blueprint.weights.values():
        keymap.compile_rules(rules)


def test_every_code_of_the_sources_is_explained_and_no_other():
    assert set(CODES) == in_sources()
    assert list(CODES) == sorted(CODES)


@pytest.mark.parametrize("code", WITH_EXAMPLE, ids=lambda c: c.code)
def test_the_broken_example_gives_exactly_this_code(code, tmp_path):
    with pytest.raises(BlueprintError) as caught:
        check(code.broken, tmp_path)
    assert {d.code for d in caught.value.diagnostics} == {code.code}, str(caught.value)


@pytest.mark.parametrize("code", WITH_EXAMPLE, ids=lambda c: c.code)
def test_the_mended_example_passes_and_is_a_small_change(code, tmp_path):
    check(code.mended, tmp_path)
    assert code.mended != code.broken


def test_every_rule_that_a_blueprint_can_break_has_an_example():
    assert {c for c in CODES if c < "BP600" and not CODES[c].broken} == WITHOUT
    assert all(bool(c.broken) == bool(c.mended) for c in CODES.values())


@pytest.mark.parametrize("code", CODES.values(), ids=lambda c: c.code)
def test_texts_speak_to_users(code):
    assert code.code[:3] in GROUPS
    assert code.title
    assert not code.title.endswith(".")
    sentences = re.split(r"(?<=[.?!])\s+", " ".join(code.text.split()))
    assert 2 <= len(sentences) <= 6
    assert not re.search(r"\b_\w+|\bself\b|composer\.\w+|BlueprintError|pydantic|torch\.nn|Diagnostic", code.text)


@pytest.mark.parametrize("code", CODES.values(), ids=lambda c: c.code)
def test_explain_is_readable(code):
    text = explain(code.code)
    assert text.startswith(f"{code.code}: {code.title}")
    assert code.group in text.splitlines()[0]
    assert all(len(line) <= 110 for line in text.splitlines())
    assert ("Broken:" in text) == ("Mended:" in text) == bool(code.broken)


def test_explain_is_forgiving_about_case():
    assert explain(" bp301 ") == explain("BP301")


def test_an_unknown_code_names_the_nearest():
    with pytest.raises(ComposerError) as caught:
        explain("BP330")
    assert "there is no code `BP330`" in str(caught.value)
    assert "did you mean `BP30" in str(caught.value)
    assert "BP3xx types" in str(caught.value)
