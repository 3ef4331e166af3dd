"""Plugins: discovery, isolated faults, refused clashes, single files."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

import composer
from composer import registry as registries
from composer.registry import Registry

MINE = """
    import composer

    class Twice(composer.Block):
        '''x + x, (B, N, C).'''
        name = "{name}"
        shape = "batch tokens dim -> batch tokens dim"

        def build(self, dim):
            from torch import nn
            return nn.Linear(dim, dim)
"""


def plugin_file(folder: Path, name: str = "my.twice", text: str = MINE) -> Path:
    path = folder / "my_block.py"
    path.write_text(textwrap.dedent(text).format(name=name))
    return path


def point(name: str, module: object, dist: str, version: str = "1.0") -> EntryPoint:
    """An entry point of a distribution that is not installed."""
    made = SimpleNamespace(name=name, value=name, dist=SimpleNamespace(name=dist, version=version))
    made.load = module if callable(module) else lambda: module
    return made  # type: ignore[return-value]


def discovered(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> Registry:
    monkeypatch.setattr(registries, "entry_points", lambda group: list(points))
    registries._installed.cache_clear()
    try:
        return Registry.discover()
    finally:
        registries._installed.cache_clear()


def block(called: str) -> type[composer.Block]:
    class Made(composer.Block):
        """A block, (B, N, C)."""

        name = called
        shape = "batch tokens dim -> batch tokens dim"

        def build(self, dim: int) -> None: ...

    return Made


def plugin(*blocks: type[composer.Block]) -> object:
    class Plugin:
        @composer.hookimpl
        def register_blocks(self) -> tuple[type[composer.Block], ...]:
            return blocks

    return Plugin()


def test_the_shipped_blocks_come_by_entry_point() -> None:
    found = Registry.discover()
    owner = found.owners["conv"]
    assert owner.distribution == "blueprint-composer"
    assert not any(p.fault for p in found.plugins)
    assert found.clashes == {}


def test_a_file_brings_a_block_and_its_slots_take_it(tmp_path: Path) -> None:
    found = Registry.discover([plugin_file(tmp_path)])
    blueprint = composer.load("vit:tiny", found, **{"blocks.*.attention": {"use": "my.twice"}, "depth": 2})
    network = blueprint.build(device="meta")
    assert "blocks.1.attention.weight" in network.state_dict()


def test_a_plugin_that_raises_on_import_is_reported_and_the_others_live(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise RuntimeError("no licence")

    found = discovered(
        monkeypatch, point("bad", broken, "bad-plugin"), point("good", plugin(block("good.one")), "good")
    )
    assert set(found.blocks) == {"good.one"}
    (fault,) = [p.fault for p in found.plugins if p.fault]
    assert "the plugin `bad` (bad-plugin 1.0) does not load: RuntimeError: no licence" in fault.message


def test_a_plugin_that_exits_does_not_take_the_host_down(monkeypatch: pytest.MonkeyPatch) -> None:
    found = discovered(monkeypatch, point("bad", lambda: sys.exit(3), "bad-plugin"))
    assert [bool(p.fault) for p in found.plugins] == [True]


def test_two_plugins_with_one_name_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Registry.discover()
    points = [point(n, plugin(block("attention.axial")), f"{n}-axial", v) for n, v in (("a", "1.2"), ("b", "0.3"))]
    found = discovered(monkeypatch, *points)
    assert "attention.axial" not in found.blocks
    both = Registry(shipped.blocks, shipped.owners, clashes=found.clashes)
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load("vit:tiny", both, **{"blocks.*.attention": "attention.axial"}).check()
    text = str(caught.value)
    assert "BP602" in text
    assert "a-axial 1.2 and b-axial 0.3" in text


def test_a_file_cannot_take_a_shipped_name(tmp_path: Path) -> None:
    with pytest.raises(composer.PluginError, match="two plugins claim the block `conv`"):
        Registry.discover([plugin_file(tmp_path, "conv")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError('not today')", "ValueError: not today"),
        ("def broken(:", "SyntaxError"),
        ("import surely_not_installed", "ModuleNotFoundError"),
        ("import sys; sys.exit(1)", "SystemExit"),
    ],
)
def test_a_file_with_a_fault_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(composer.PluginError) as caught:
        Registry.discover([path])
    assert message in str(caught.value)
    assert "mine.py:1" in str(caught.value)


def test_a_missing_plugin_file() -> None:
    with pytest.raises(composer.BlueprintError, match="there is no plugin file"):
        Registry.discover(["nowhere.py"])


def test_a_hook_that_returns_nonsense_is_the_plugins_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        @composer.hookimpl
        def register_blocks(self) -> tuple[object, ...]:
            return (3,)

    found = discovered(monkeypatch, point("odd", Odd(), "odd-plugin"))
    assert "not a Block class" in found.plugins[0].fault.message


def test_all_four_hooks_reach_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("blueprint: 1")

    class Whole:
        @composer.hookimpl
        def register_blocks(self) -> tuple[type[composer.Block], ...]:
            return (block("whole.one"),)

        @composer.hookimpl
        def register_passes(self) -> tuple[str, ...]:
            return ("a pass",)

        @composer.hookimpl
        def register_exporters(self) -> tuple[tuple[str, str], ...]:
            return (("onnx", "an exporter"),)

        @composer.hookimpl
        def register_blueprints(self) -> tuple[Path, ...]:
            return (path,)

    found = discovered(monkeypatch, point("whole", Whole(), "whole"))
    assert set(found.blocks) == {"whole.one"}
    assert found.passes == ("a pass",)
    assert found.exporters == {"onnx": "an exporter"}
    assert found.blueprints == {"mine": path}


def test_declarations_are_checked_when_the_class_is_defined() -> None:
    with pytest.raises(composer.DeclarationError, match="`build` asks for `width`"):

        class Wrong(composer.Block):
            """(B, N, C)."""

            name = "wrong"
            shape = "batch tokens dim -> batch tokens dim"

            def build(self, width: int) -> None: ...

    with pytest.raises(composer.DeclarationError, match="`repeat` is a word of the language"):

        class Reserved(composer.Block):
            """(B, N, C)."""

            name = "reserved"
            shape = "batch tokens dim -> batch tokens dim"
            repeat: int = 1

            def build(self, dim: int) -> None: ...


def test_importing_composer_and_its_blocks_does_not_import_torch() -> None:
    code = "import composer, sys; composer.Registry.discover(); composer.load('vit').check(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
