"""`composer plugins` and `composer plugins doctor`: what is well, what is not, and that the rest is still looked at."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_registry import block, bringing, discovered, point

import composer
from composer import testing
from composer.cli.main import run
from composer.doctor import LEFT, ODD, OK, WRONG, Finding, examined
from composer.plugins import Plugin
from composer.registry import Registry


def found(registry: Registry, *names: str) -> dict[tuple[str, str], Finding]:
    return {(f.plugin, f.what): f for f in examined(registry, names)}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Contract checks that only note whom they were asked about: they have tests of their own."""
    asked: list[str] = []

    def check_block(block: type[composer.Block], registry: Registry) -> None:
        asked.append(block.name)
        if block.name == "b.bad":
            raise AssertionError("contract of `b.bad`: 1 broken")
        if block.name == "b.exits":
            sys.exit(2)

    monkeypatch.setattr(testing, "check_block", check_block)
    return asked


def test_the_shipped_blocks_are_left_unless_they_are_named(plain: list[str]) -> None:
    owner = Registry.discover().owners["conv"].name
    state = {what: f.state for (plugin, what), f in found(Registry.discover()).items() if plugin == owner}
    assert state == {"import": OK, "API": OK, "names": OK, "contract": LEFT}
    assert plain == []
    named = found(Registry.discover(), owner)
    assert {f.state for f in named.values()} == {OK}
    assert set(plain) == set(Registry.discover().blocks)


def test_everything_about_everyone(plain: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "unwell.yaml"
    path.write_text("blueprint: 1\ninputs: {image: B 1 8 8}\ngraph: {a: {use: nothing}}\noutputs: {y: a}\n")
    silent = bringing(blocks=[block("c.one"), block("d.same")])
    del silent.composer_api  # type: ignore[attr-defined]
    registry = discovered(
        monkeypatch,
        point("a", lambda: sys.exit(1), "a-dist"),
        point("b", bringing(blocks=[block("b.bad"), block("b.exits"), block("b.good")], blueprints=[path]), "b-dist"),
        point("c", silent, "c-dist"),
        point("d", bringing(blocks=[block("d.same")]), "d-dist"),
    )
    state = found(registry)
    assert state["a", "import"].state == WRONG
    assert "it ends the program" in state["a", "import"].text
    assert (state["b", "b.bad"].state, state["b", "b.bad"].text) == (WRONG, "contract of `b.bad`: 1 broken")
    assert (state["b", "b.exits"].state, state["b", "b.exits"].text) == (WRONG, "SystemExit: 2")
    assert state["b", "b.good"].state == OK
    assert "unknown block `nothing`" in state["b", "unwell"].text
    assert state["c", "API"].state == ODD
    for name in "cd":
        assert "claim the block `d.same`: c-dist 1.0 and d-dist 1.0" in state[name, "names"].text
    assert plain == ["b.bad", "b.exits", "b.good", "c.one"]


def test_an_old_name_under_which_another_has_a_block(plain: list[str]) -> None:
    mine = Plugin("mine", "m", "1", replacements=(composer.Replacement("conv", "norm.layer"),), api="1")
    registry = replace(Registry.discover(), plugins=(mine,))
    (odd,) = [f for f in examined(registry) if f.state == ODD]
    assert "it replaces the old name `conv`, under which blueprint-composer" in odd.text


def test_an_unknown_plugin_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "doctor", "blueprint-compser"]) == 1
    assert "did you mean `blueprint-composer`" in capsys.readouterr().err


def test_the_commands_exit_with_what_they_find(
    plain: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plugins", "doctor"]) == 0
    assert capsys.readouterr().out.endswith("no errors\n")
    registry = discovered(monkeypatch, point("b", bringing(blocks=[block("b.bad")]), "b-dist", "3"))
    monkeypatch.setattr(Registry, "discover", staticmethod(lambda files=(), only=None: registry))
    assert run(["plugins", "doctor"]) == 1
    out = capsys.readouterr().out
    assert "b (b-dist 3)" in out
    assert "error: contract of `b.bad`: 1 broken" in out
    assert out.endswith("1 error\n")
    assert run(["plugins", "doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["ok"]
    assert {"plugin": "b", "what": "b.bad", "state": "error", "text": "contract of `b.bad`: 1 broken"} in said[
        "findings"
    ]


def test_the_list_says_who_brings_what_and_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert run(["plugins"]) == 0
    assert f"{len(Registry.discover().blocks)} blocks" in capsys.readouterr().out
    assert run(["plugins", "--json"]) == 0
    (row,) = [r for r in json.loads(capsys.readouterr().out)["plugins"] if "conv" in r["blocks"]]
    assert (row["distribution"], row["version"], row["api"]) == ("blueprint-composer", composer.__version__, "1")
    assert row["hooks"] == ["register_blocks"]
    assert set(row["blocks"]) == set(Registry.discover().blocks)
    assert row["seconds"] >= 0


def test_a_real_contract_that_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "liar.py"
    path.write_text(
        "import composer\n\n\nclass Liar(composer.Block):\n"
        '    """Says that it keeps the channels, and halves them; (B, C, *grid)."""\n    name = "liar.half"\n\n'
        "    def infer(self, rule, x):\n        return x\n\n"
        "    def build(self, x, rank):\n        from torch import nn\n"
        "        return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](x.channels, x.channels // 2, 1)\n"
    )
    registry = Registry.discover([path])
    finding = found(registry, "liar")["liar", "liar.half"]
    assert finding.state == WRONG
    assert "FAIL  type" in finding.text
