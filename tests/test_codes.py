"""The catalogue of codes: complete, in words of the user, and its examples really break and mend."""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import composer
from composer import catalogue, keymap
from composer.catalogue import explain
from composer.cli.main import run
from composer.codes import CODES, GROUPS
from composer.diagnostics import BlueprintError, ComposerError
from composer.registry import Registry
from composer.scene import Act, scene, scenes

ROOT = Path(__file__).parent.parent
FED = re.compile(r"# fed: (\w+) of shape ([\d, ]+)")
WITH_EXAMPLE = [c for c in CODES.values() if c.broken]
WITHOUT = {"BP001", "BP400"}
"""Codes below BP600 that no blueprint of shipped blocks can cause: no file, and a rule that only plugins have."""
UNSHOWN = {"BP607", "BP651", "BP901"}
"""No example: two installations or versions of one plugin; a fault of Composer, which nobody can cause."""
ELSEWHERE = {
    *("BP001", "BP601", "BP602", "BP606", "BP608", "BP610", "BP612", "BP702", "BP703", "BP704", "BP705", "BP706"),
    *(f"BP80{n}" for n in range(1, 9)),
    *(f"BP82{n}" for n in range(8)),
    *(f"BP84{n}" for n in range(1, 10)),
    *(f"BP83{n}" for n in range(2, 7)),
    *(f"BP65{n}" for n in range(8)),
}
"""Codes about a path, a plugin, weights, an image, a lock or a command: their scenes have no place in a blueprint."""


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


def test_every_code_has_an_example_or_a_reason():
    assert {c for c in CODES if c < "BP600" and not CODES[c].broken} == WITHOUT
    assert all(bool(c.broken) == bool(c.mended) for c in CODES.values())
    assert [c for c in CODES if not CODES[c].broken] == sorted({*scenes(), *UNSHOWN})
    assert set(catalogue.UNSHOWN) == UNSHOWN


@pytest.mark.parametrize("code", WITH_EXAMPLE, ids=lambda c: c.code)
def test_a_mistake_of_a_blueprint_has_line_and_column(code):
    found = catalogue.mistakes(code.broken)
    assert {d.code for d in found} == {code.code}
    for each in found:
        assert each.span is not None, each.render()
        assert f"--> example.yaml:{each.span.line}:{each.span.column}\n" in each.render()
    assert catalogue.mistakes(code.mended) == ()


def played(act: Act, folder: Path) -> tuple[int, str]:
    """The exit status of a command in a folder with the files of a scene, and all that it printed."""
    folder.mkdir()
    for name, text in act.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.chdir(folder):
        exec(compile(act.setup, "setup", "exec"), {})
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            status = command(shlex.split(act.run))
    return status, printed.getvalue().replace(f"{folder.resolve()}/", "")


def command(words: list[str]) -> int:
    """The exit status of `composer …`, or of a script of the user's that shows what Composer raises."""
    if words[0] == "composer":
        return run(words[1:])
    assert words[0] == "python"
    try:
        runpy.run_path(words[1])
    except ComposerError as fault:
        print(fault)
        return 1
    return 0


@pytest.mark.parametrize("code", scenes())
def test_a_scene_breaks_says_and_mends(code, tmp_path):
    shown = scene(code)
    status, out = played(shown.broken, tmp_path / "broken")
    assert re.search(re.escape(shown.says).replace("…", ".*"), f"{out}\n"), out
    head = re.search(r"(?m)^(error|warning)\[(BP\d+)]: ", shown.says)
    assert head[2] == code
    assert status == (head[1] == "error")
    assert set(re.findall(r"\[(BP\d+)]", out)) == {code}
    status, out = played(shown.mended, tmp_path / "mended")
    assert (status, re.findall(r"\[(BP\d+)]", out)) == (0, []), out


@pytest.mark.parametrize("code", scenes())
def test_a_scene_about_a_blueprint_has_line_and_column(code):
    assert bool(re.search(r"\bnet\.yaml:\d+:\d+", scene(code).says)) == (code not in ELSEWHERE)


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
    rule, *example = text.split("\n\nBroken:\n\n")
    assert all(len(line) <= 110 for line in rule.splitlines())
    assert bool(example) == (code.code not in UNSHOWN)
    assert all(f"[{code.code}]: " in part and "\n\nMended:\n\n" in part for part in example)


def test_the_page_of_all_codes_is_the_committed_one():
    committed = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert catalogue.page() == committed, "make it again: composer explain --all --markdown > docs/errors.md"


def test_without_a_code_all_titles_are_listed(capsys):
    assert run(["explain"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {c.code}  {c.title}\n" in out for c in CODES.values())
    assert run(["explain", "--all"]) == 0
    assert capsys.readouterr().out.count("\n\nMended:\n\n") == len(CODES) - len(UNSHOWN)
    assert run(["explain", "bp706", "--markdown"]) == 0
    assert "```console\n$ composer cost net.yaml --memory 50MB\n```" in capsys.readouterr().out


def test_explain_imports_no_torch():
    text = "import sys; from composer import catalogue; catalogue.page(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout == "False\n"


def test_explain_is_forgiving_about_case():
    assert explain(" bp301 ") == explain("BP301")


def test_an_unknown_code_names_the_nearest():
    with pytest.raises(ComposerError) as caught:
        explain("BP330")
    assert "there is no code `BP330`" in str(caught.value)
    assert "did you mean `BP" in str(caught.value)
    assert "`BP303`" in str(caught.value)
    assert "BP3xx types" in str(caught.value)
