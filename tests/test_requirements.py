"""A blueprint whose plugin is missing: the graph is shown, and what is missing is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import composer
from composer.cli.main import run
from composer.diagnostics import Diagnostic
from composer.plugins import Plugin
from composer.registry import Registry
from composer.requirements import unmet

GLAM = Plugin("glam", "Composer_GLAM", "1.2.3")
BROKEN = Plugin("sick", "sick-plugin", "1.0", fault=Diagnostic("BP601", "it does not load", help=("update it",)))
REGISTRY = replace(Registry.discover(), plugins=(GLAM, BROKEN), off=("asleep",))

MISSING = """\
blueprint: 1
name: missing
extends: vit:tiny
requires: [composer-glam>=1.2]
params: {depth: 2}
edit:
  - {at: blocks.1.attention, replace: {use: glam.attention, heads: 3}}
  - {at: pooled, replace: {use: glam.pool, keep: 2}}
"""


@pytest.fixture
def missing(tmp_path: Path) -> Path:
    path = tmp_path / "missing.yaml"
    path.write_text(MISSING)
    return path


@pytest.mark.parametrize(
    "wanted", ["composer-glam", "Composer.GLAM", "glam", "composer_glam>=1.2,<2", "composer-glam==1.2.*"]
)
def test_requirements_that_are_met(wanted: str) -> None:
    assert unmet(wanted, REGISTRY) is None


@pytest.mark.parametrize(
    ("wanted", "text", "help"),
    [
        (
            "composer-glam>=2",
            "requires the plugin `composer-glam>=2`, and Composer_GLAM 1.2.3 is installed",
            "pip install",
        ),
        ("msda", "requires the plugin `msda`, which is not installed", "pip install 'msda'"),
        ("sick-plugin", "requires the plugin `sick-plugin`, which does not load", "update it"),
        ("asleep", "requires the plugin `asleep`, which is switched off", "--no-plugins"),
        ("not a name", "`not a name` is none", "write for example"),
    ],
)
def test_requirements_that_are_not(wanted: str, text: str, help: str) -> None:
    fault = unmet(wanted, REGISTRY)
    assert fault is not None
    assert text in fault.message
    assert help in fault.help[0]


def test_what_is_missing_is_said_at_its_place(missing: Path) -> None:
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load(missing).check()
    said = [(d.code, d.span.line, d.span.column, d.help[0]) for d in caught.value.diagnostics if d.span]
    advice = "it may be in `composer-glam>=1.2`, which `requires:` names"
    assert said == [
        ("BP103", 4, 12, "pip install 'composer-glam>=1.2'"),
        ("BP103", 7, 45, advice),
        ("BP103", 8, 33, advice),
    ]


@pytest.mark.parametrize("verb", ["check", "show"])
def test_the_graph_is_shown_all_the_same(
    verb: str, missing: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run([verb, str(missing)]) == 1
    out, err = capsys.readouterr()
    row = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert row["pooled"].split() == ["pooled", "glam.pool", "keep", "2", "unknown"]
    assert "(B, 192, H/16, W/16)" in row["patches"]
    assert any(
        "glam.attention" in line and line.rstrip().endswith("unknown") and "attention" in line
        for line in out.splitlines()
    )
    assert "(B, 1 + H/16·W/16, 192) tokens" in out
    assert err.count("error[BP103]") == 3


def test_machines_get_both(missing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(missing), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [e["code"] for e in said["errors"]] == ["BP103"] * 3
    nodes = {n["address"]: n for n in said["graph"]["nodes"]}
    assert (nodes["pooled"]["kind"], nodes["pooled"]["type"]) == ("missing", "unknown")
    assert nodes["pooled"]["place"] == "missing.yaml:8"
    assert run(["show", str(missing), "--json"]) == 1
    assert {n["address"] for n in json.loads(capsys.readouterr().out)["nodes"]} == set(nodes)


def test_the_picture_has_the_missing_parts_too(missing: Path, tmp_path: Path) -> None:
    assert run(["show", str(missing), "--svg", str(tmp_path / "missing.svg")]) == 1
    assert "glam.pool" in (tmp_path / "missing.svg").read_text()


def test_the_rest_of_a_blueprint_is_still_checked(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(
        "blueprint: 1\ninputs: {image: B 3 8 8}\ngraph:\n  a: {use: glam.one}\n"
        "  b: {use: conv, from: image, out: 4, kernal: 3}\n  c: {use: fuse.concat, from: [a, b]}\noutputs: {y: c}\n"
    )
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load(path).check()
    assert [d.code for d in caught.value.diagnostics] == ["BP103", "BP204"]


def test_what_an_inherited_file_requires_is_required(tmp_path: Path, missing: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("blueprint: 1\nextends: missing.yaml\nrequires: [other]\n")
    assert list(composer.load(child).requires) == ["composer-glam>=1.2", "other"]


def test_a_typo_is_no_missing_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("blueprint: 1\ninputs: {image: B 3 8 8}\ngraph: {a: {use: norm.lyer}}\noutputs: {y: a}\n")
    assert run(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean `norm.layer`" in err


def test_a_base_that_a_missing_plugin_has(tmp_path: Path) -> None:
    path = tmp_path / "child.yaml"
    path.write_text("blueprint: 1\nextends: glam_deluxe\nrequires: [composer-glam]\n")
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load(path)
    (fault,) = caught.value.diagnostics
    assert fault.code == "BP105"
    assert fault.help[-1] == "it may be in `composer-glam`, which `requires:` names"
