"""Plugins: discovery, isolated faults, refused clashes, single files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

import composer
from composer import announced
from composer import registry as registries
from composer.cli.main import run
from composer.plugins import HOOKS
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
    distribution = SimpleNamespace(read_text=lambda file: f"Name: {dist}\nVersion: {version}\n" * (file == "METADATA"))
    made = SimpleNamespace(name=name, value=name, dist=distribution)
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


def test_every_hook_reaches_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("blueprint: 1")
    nothing, renamed = composer.Pass("nothing", lambda p: p), composer.Replacement("whole.first", "whole.one")
    other = composer.Reference("mine", "official", dict)

    def factory() -> None: ...

    class Whole:
        @composer.hookimpl
        def register_blocks(self) -> tuple[type[composer.Block], ...]:
            return (block("whole.one"),)

        @composer.hookimpl
        def register_passes(self) -> tuple[composer.Pass, ...]:
            return (nothing,)

        @composer.hookimpl
        def register_exporters(self) -> tuple[tuple[str, object], ...]:
            return (("table", factory),)

        @composer.hookimpl
        def register_blueprints(self) -> tuple[Path, ...]:
            return (path,)

        @composer.hookimpl
        def register_replacements(self) -> tuple[composer.Replacement, ...]:
            return (renamed,)

        @composer.hookimpl
        def register_references(self) -> tuple[composer.Reference, ...]:
            return (other,)

    found = discovered(monkeypatch, point("whole", Whole(), "whole"))
    assert set(found.blocks) == {"whole.one"}
    assert found.passes == (nothing,)
    assert found.exporters == {"table": factory}
    assert found.replacements == {"whole.first": renamed}
    assert found.references == {"mine official": other}
    assert found.plugins[0].hooks == HOOKS
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
    code = "import composer, sys; composer.Registry.discover(); composer.load('vit').check(); dict(composer.Registry.discover().blocks); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- blocks that are only named ----------------------------------------------------------------------------------


LATER = """\
import composer

class Twice(composer.Block):
    name = "late.twice"
    shape = "batch tokens dim -> batch tokens dim"
    def build(self, dim: int): ...
"""


def named_only(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str = LATER, **blocks: object) -> Registry:
    """A plugin that gives a mapping, with the module `later_here` of this text."""
    (folder / "later_here.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "later_here", raising=False)
    given = {k.replace("__", "."): v for k, v in blocks.items()}
    return discovered(monkeypatch, point("late", bringing(blocks=given), "late-plugin"))


def test_a_block_that_is_only_named_is_imported_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = named_only(monkeypatch, tmp_path, late__twice="later_here:Twice")
    assert set(found.blocks) == {"late.twice"}
    assert found.plugins[0].blocks == ("late.twice",)
    assert "later_here" not in sys.modules
    assert found.blocks.get("late.once") is None
    assert found.blocks["late.twice"].name == "late.twice"
    assert found.blocks["late.twice"] is sys.modules["later_here"].Twice


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("1 / 0", "later_here:Twice", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "later_here:Twice", "it ends the program"),
        (LATER, "later_here:Thrice", "has no attribute 'Thrice'"),
        (LATER.replace("late.twice", "other"), "later_here:Twice", "is not a Block class named `late.twice`"),
        (LATER, "nowhere_here:Twice", "No module named 'nowhere_here'"),
    ],
)
def test_a_fault_in_it_is_its_plugins(
    text: str, path: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = named_only(monkeypatch, tmp_path, text, late__twice=path)
    with pytest.raises(composer.PluginError, match=r"BP601.*the plugin `late` \(late-plugin 1.0\)") as caught:
        found.blocks["late.twice"]
    assert message in str(caught.value)


@pytest.mark.parametrize("path", ["later_here", "later_here:", ":Twice", 3])
def test_what_is_no_place_of_a_class(path: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (plugin_,) = named_only(monkeypatch, tmp_path, late__twice=path).plugins
    assert plugin_.fault is not None
    assert "which is not the name of a block and where its class is" in plugin_.fault.message


# --- names that two claim ----------------------------------------------------------------------------------------


def bringing(**hooks: object) -> object:
    """A plugin with hooks that give these values: `blueprints=[…]` is `register_blueprints`."""
    made = SimpleNamespace(composer_api="1")
    for name, value in hooks.items():

        def hook(value: object = value) -> object:
            return value

        setattr(made, f"register_{name}", composer.hookimpl(hook))
    return made


def yaml(folder: Path, name: str) -> Path:
    (folder / f"{name}.yaml").write_text(
        "blueprint: 1\ninputs: {image: B 1 8 8}\ngraph: {a: {use: conv, out: 2}}\noutputs: {y: a}\n"
    )
    return folder / f"{name}.yaml"


def test_two_plugins_with_one_blueprint_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    a, b = yaml(tmp_path, "delicate"), yaml(tmp_path / "b", "delicate")
    found = discovered(
        monkeypatch, point("a", bringing(blueprints=[a]), "a-dist"), point("b", bringing(blueprints=[b]), "b-dist", "2")
    )
    assert found.blueprints == {}
    assert found.disputed == {("blueprint", "delicate"): ("a-dist 1.0", "b-dist 2")}
    with pytest.raises(composer.BlueprintError, match=r"claim the blueprint `delicate`: a-dist 1.0 and b-dist 2"):
        composer.load("delicate", found)


def test_a_shipped_blueprint_keeps_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = Registry.discover()
    found = discovered(monkeypatch, point("a", bringing(blueprints=[yaml(tmp_path, "vit")]), "a-dist"))
    assert found.blueprints == {}
    assert found.disputed == {("blueprint", "vit"): ("blueprint-composer", "a-dist 1.0")}
    assert composer.load("vit", shipped).path.endswith("vit.yaml")
    assert str(tmp_path) not in composer.load("vit", found).path


@pytest.mark.parametrize(
    ("kind", "hook", "values"),
    [
        ("format", "exporters", [("table", lambda: None)]),
        ("pass", "passes", [composer.Pass("fold", lambda p: p)]),
    ],
)
def test_two_plugins_with_one_format_or_pass(
    kind: str, hook: str, values: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [point(n, bringing(**{hook: values}), f"{n}-dist") for n in "abc"]
    found = discovered(monkeypatch, *points)
    name = "table" if kind == "format" else "fold"
    assert found.disputed == {(kind, name): ("a-dist 1.0", "b-dist 1.0", "c-dist 1.0")}
    assert (found.exporters, found.passes) == ({}, ())
    monkeypatch.setattr(registries, "_installed", lambda only: found)
    assert run(["plugins"]) == 1
    assert f"two plugins claim the {kind} `{name}`: a-dist 1.0 and b-dist 1.0 and c-dist 1.0" in capsys.readouterr().out


# --- which plugins are loaded ------------------------------------------------------------------------------------


def three(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    points = [
        point("own", plugin(block("own.one")), "blueprint-composer"),
        point("glam", plugin(block("glam.one")), "Composer_GLAM"),
        point("bad", lambda: sys.exit(1), "bad"),
    ]
    monkeypatch.setattr(registries, "entry_points", lambda group: points)
    registries._installed.cache_clear()
    return points


@pytest.fixture
def _fresh():
    yield
    registries._installed.cache_clear()


@pytest.mark.parametrize(
    ("value", "blocks", "off"),
    [
        (None, {"own.one", "glam.one"}, ()),
        ("glam", {"own.one", "glam.one"}, ("bad",)),
        ("composer-glam, bad", {"own.one", "glam.one"}, ()),
        ("", {"own.one"}, ("bad", "glam")),
        (" , ", {"own.one"}, ("bad", "glam")),
    ],
)
@pytest.mark.usefixtures("_fresh")
def test_the_environment_names_the_plugins(
    value: str | None, blocks: set[str], off: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    three(monkeypatch)
    monkeypatch.delenv("COMPOSER_PLUGINS", raising=False)
    if value is not None:
        monkeypatch.setenv("COMPOSER_PLUGINS", value)
    found = Registry.discover()
    assert set(found.blocks) == blocks
    assert found.off == off
    assert found.notices == ()


@pytest.mark.usefixtures("_fresh")
def test_a_plugin_that_is_named_and_not_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    three(monkeypatch)
    monkeypatch.setenv("COMPOSER_PLUGINS", "glma")
    (notice,) = Registry.discover().notices
    assert notice.severity == "warning"
    assert "names the plugin `glma`, which is not installed" in notice.message


@pytest.mark.usefixtures("_fresh")
def test_no_plugins_keeps_the_own_distribution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    three(monkeypatch)
    assert run(["--no-plugins", "blocks", "--json"]) == 0
    assert [b["name"] for b in json.loads(capsys.readouterr().out)] == ["own.one"]
    assert run(["blocks", "--json"]) == 0
    assert [b["name"] for b in json.loads(capsys.readouterr().out)] == ["glam.one", "own.one"]
    assert run(["--help"]) == 0
    assert "Composer's own distribution brings, the shipped blocks, stays" in " ".join(
        capsys.readouterr().out.replace("│", " ").split()
    )


# --- two versions of one distribution ----------------------------------------------------------------------------


def distribution(folder: Path, version: str, name: str = "doubled") -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[composer]\n{name} = {name}_module\n")
    (folder / f"{name}_module.py").write_text(
        "import composer\n@composer.hookimpl\ndef register_blueprints():\n    return ()\n"
    )


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shadowed", [False, True])
def test_what_is_announced_is_what_the_library_finds(
    shadowed: bool, plain: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(announced, "_plain", lambda: plain)
    distribution(tmp_path / "behind", "1.0")
    monkeypatch.syspath_prepend(tmp_path / "behind")
    if shadowed:  # the first of a name counts, also where it announces nothing
        distribution(tmp_path / "before", "2.0")
        (tmp_path / "before" / "doubled-2.0.dist-info" / "entry_points.txt").unlink()
        monkeypatch.syspath_prepend(tmp_path / "before")
    for group in ("composer", "console_scripts", "pytest11", "nobody"):
        assert points(announced.entry_points(group)) == points(metadata.entry_points(group=group))
    assert ("doubled" in [p.name for p in announced.entry_points("composer")]) is not shadowed


def points(found: Iterable[EntryPoint | announced.Point]) -> list[tuple[str, str, str]]:
    return sorted((p.name, p.value, p.group) for p in found)


def test_what_is_announced_elsewhere_than_in_folders_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distribution(tmp_path / "packed", "1.0", "archived")
    monkeypatch.syspath_prepend(shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "packed"))
    distribution(tmp_path / "hidden", "1.0", "hidden")
    assert {"archived", "hidden"} & {p.name for p in announced.entry_points("composer")} == {"archived"}

    class Finder:
        """Knows one more folder."""

        def find_spec(self, *module: object) -> None: ...

        def find_distributions(self, context: metadata.DistributionFinder.Context) -> Iterable[metadata.Distribution]:
            here = metadata.DistributionFinder.Context(name=context.name, path=[str(tmp_path / "hidden")])
            return metadata.MetadataPathFinder.find_distributions(here)

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert {"archived", "hidden"} <= {p.name for p in announced.entry_points("composer")}


def test_entry_points_are_those_of_their_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "# [composer]\n[other]\na = json\n\n[composer]\n# b = json\nc=json.decoder : JSONDecoder.decode [extra]\nd  = json\n[next]\ne = json\n"
    distribution(tmp_path, "1.0")
    (tmp_path / "doubled-1.0.dist-info" / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    (known,) = metadata.distributions(name="doubled")
    found = [p for p in announced.entry_points("composer") if p.name in "abcde"]
    assert points(found) == points(p for p in known.entry_points if p.group == "composer")
    assert [p.load() for p in found] == [json.JSONDecoder.decode, json]


def test_names_and_versions_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announced, "_plain", lambda: True)
    known = {announced.place(d): (d.metadata["Name"], d.version) for d in metadata.distributions()}
    assert {announced.place(d): announced.name_and_version(d) for d in announced.distributions()} == known
    for each in metadata.distributions():
        assert announced.name_and_version(each) == known[announced.place(each)]
        name = each.metadata["Name"].swapcase().replace("-", "_")
        found = announced.distributions(name), metadata.distributions(name=name)
        assert [announced.place(d) for d in found[0]] == [announced.place(d) for d in found[1]]


@pytest.mark.usefixtures("_fresh")
def test_two_versions_in_one_folder_are_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distribution(tmp_path, "1.0")
    distribution(tmp_path, "2.0")
    monkeypatch.syspath_prepend(tmp_path)
    registries._installed.cache_clear()
    found = Registry.discover()
    (fault,) = [p.fault for p in found.plugins if p.fault]
    assert fault.code == "BP607"
    assert "two versions of `doubled` are installed side by side: 1.0, 2.0" in fault.message
    assert "doubled-1.0.dist-info, doubled-2.0.dist-info" in fault.notes[0]
    assert "conv" in found.blocks


@pytest.mark.usefixtures("_fresh")
def test_of_versions_in_two_folders_the_first_on_the_path_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("1.0", "2.0"):
        distribution(tmp_path / version, version)
        monkeypatch.syspath_prepend(tmp_path / version)
    registries._installed.cache_clear()
    found = Registry.discover()
    assert [(p.version, p.fault) for p in found.plugins if p.distribution == "doubled"] == [("2.0", None)]


def test_a_plugin_that_imports_torch_at_once_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def heavy() -> object:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
        return plugin(block("heavy.one"))

    found = discovered(monkeypatch, point("light", plugin(block("light.one")), "l"), point("heavy", heavy, "h"))
    warnings = {p.name: [w.message for w in p.warnings] for p in found.plugins}
    assert warnings["light"] == []
    assert "importing the plugin `heavy` imports torch" in warnings["heavy"][0]
