"""Locks: what is written builds the same network, and every difference from what is installed has its place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import composer
from composer import Block, BlueprintError, PerAxis, Positive, Rate, Registry, Slot, Type, slot
from composer.cli.main import run
from composer.diagnostics import Diagnostic
from composer.interfaces import differences, digest, interface
from composer.locks import SECTIONS
from composer.plugins import Plugin

SHIPPED = ["unet", "vit:large", "swin_unet", "detr", "cotr_glam", "vit_vnet"]


class Mixing(torch.nn.Conv2d):
    """The module of the gate."""

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x)


class Gate(Block):
    """Version 1.0 of the block of a toy plugin, (B, C, *S)."""

    name = "toy.gate"
    width: Positive = 4
    mode: Literal["sum", "max"] = "sum"

    def infer(self, rule: Any, x: Type, skip: Type | None = None) -> Type:
        return x.with_(channels=self.width)

    def build(self, x: Type) -> Any:
        return Mixing(x.channels, self.width, 1)


class Wider(Gate):
    """A changed default."""

    name = "toy.gate"
    width: Positive = 8


class Poorer(Block):
    """A removed option."""

    name = "toy.gate"
    width: Positive = 4
    infer = Gate.infer
    build = Gate.build


class Richer(Gate):
    """A new option that must be given."""

    name = "toy.gate"
    heads: Positive


class Renamed(Gate):
    """A renamed port."""

    name = "toy.gate"

    def infer(self, rule: Any, x: Type, other: Type | None = None) -> Type:  # type: ignore[override]
        return x.with_(channels=self.width)


class Doubling(Gate):
    """The same interface, another type."""

    name = "toy.gate"

    def infer(self, rule: Any, x: Type, skip: Type | None = None) -> Type:
        return x.with_(channels=2 * self.width)


TEXT = """
blueprint: 1
name: gated
params: {width: 4}
inputs: {image: B 3 H W}
graph:
  stem: {use: conv, out: 8}
  gate: {use: toy.gate, width: $width, from: {x: stem, skip: image}}
  head: {use: conv, out: 2, kernel: 1}
outputs: {map: head}
"""


def having(*blocks: type[Block], version: str = "1.0", off: bool = False) -> Registry:
    """What is installed, with a toy plugin of some version."""
    known = Registry.discover()
    if not blocks:
        return replace(known, off=("toy-plugin",)) if off else known
    plugin = Plugin("toy", "toy-plugin", version, tuple(b.name for b in blocks))
    owners = {**known.owners, **{b.name: plugin for b in blocks}}
    return replace(
        known,
        blocks={**known.blocks, **{b.name: b for b in blocks}},
        owners=owners,
        plugins=(*known.plugins, plugin),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A lock of a network with a block of the toy plugin 1.0."""
    (tmp_path / "gated.yaml").write_text(TEXT)
    path = tmp_path / "gated.lock.yaml"
    path.write_text(composer.load(tmp_path / "gated.yaml", having(Gate)).to_lock())
    return path


def said(path: Path, registry: Registry) -> list[Diagnostic]:
    """All that is said of a lock, warnings too."""
    program, mistakes = composer.load(path, registry).attempt()
    assert program is not None
    return [*program.graph.warnings, *mistakes]


def line(d: Diagnostic) -> str:
    """The line of the lock that a message points at, without what stands before its column."""
    assert d.span is not None
    return d.span.source.lines[d.span.line - 1][d.span.column - 1 :]


# --- the same network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_lock_loads_and_builds_the_same_network(name: str, tmp_path: Path) -> None:
    blueprint = composer.load(name)
    path = tmp_path / "made.lock.yaml"
    path.write_text(blueprint.to_lock())
    locked = composer.load(path)
    assert locked.check().graph.warnings == ()
    ours, theirs = blueprint.build("meta").state_dict(), locked.build("meta").state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert list(ours) == list(theirs)
    assert locked.lock is not None
    assert dict(locked.lock.params) == blueprint.values
    assert locked.to_lock() == path.read_text()


def test_the_same_numbers(file: Path) -> None:
    built = []
    for path in (file, file.with_name("gated.yaml")):
        torch.manual_seed(0)
        network = composer.load(path, having(Gate)).build()
        built.append(network(torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)))
    assert torch.equal(*built)


def test_overrides_and_presets_are_resolved(tmp_path: Path) -> None:
    path = tmp_path / "vit.lock.yaml"
    assert run(["lock", "vit:large", "classes=7", "blocks.0.attention.heads=8", "-o", str(path)]) == 0
    locked = composer.load(path)
    assert locked.lock is not None
    assert locked.lock.params["classes"] == 7
    assert locked.lock.of == ("vit:large", {"classes": 7, "blocks.0.attention.heads": 8})
    assert locked.check().graph.warnings == ()


def test_what_is_in_a_lock(file: Path) -> None:
    lock = composer.load(file, having(Gate)).lock
    assert lock is not None
    assert lock.distributions["toy-plugin"] == {"version": "1.0", "blocks": ["toy.gate"]}
    assert set(lock.distributions) == {"toy-plugin", "blueprint-composer"}
    assert lock.blocks["toy.gate"]["ports"] == {"x": "required", "skip": "optional"}
    assert lock.types["gate"] == "(B, 4, H, W)"
    assert lock.params == {"width": 4}
    assert str(file.parent) not in file.read_text()


def test_without_differences_it_checks_like_any_blueprint(file: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("composer.cli.common.registry", lambda _: having(Gate))
    assert run(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "gated: no mistakes in 3 nodes\n" in out
    assert err == ""


# --- differences -------------------------------------------------------------------------------------------------


def test_another_version_with_equal_interfaces_is_a_warning(file: Path) -> None:
    (warning,) = said(file, having(Gate, version="1.1"))
    assert (warning.code, warning.severity) == ("BP651", "warning")
    assert warning.message == "locked with toy-plugin 1.0, toy-plugin 1.1 is installed; the blocks used are the same"
    assert line(warning).startswith("toy-plugin: {version:")
    composer.load(file, having(Gate, version="1.1")).build("meta")


@pytest.mark.parametrize(
    ("block", "text", "place"),
    [
        (Wider, "the default of the option `width` was 4, it is 8", "width: {type: int >= 1, default: 4}"),
        (Poorer, "the option `mode` is gone", "mode: {type:"),
        (Richer, "the option `heads` is new and must be given", "options:"),
        (Renamed, "the port `skip` is gone (there is a new port `other`)", "skip: optional"),
    ],
)
def test_a_changed_interface_is_an_error_that_names_the_change(
    block: type[Block], text: str, place: str, file: Path
) -> None:
    version, change, *rest = said(file, having(block, version="2.0"))
    assert (version.code, version.severity) == ("BP651", "error")
    assert version.message == "locked with toy-plugin 1.0, toy-plugin 2.0 is installed, where `toy.gate` differs"
    assert version.help == ("pip install 'toy-plugin==1.0'",)
    assert (change.code, change.severity) == ("BP652", "error")
    assert change.message == f"`toy.gate` of toy-plugin 2.0: {text}"
    assert line(change).startswith(place)
    assert change.notes == ("used at gate",)
    assert {d.code for d in rest} <= {"BP652"}
    assert all("the port `other` is new" in d.message for d in rest)
    with pytest.raises(BlueprintError, match="BP652"):
        composer.load(file, having(block, version="2.0")).build("meta")


def test_the_same_version_with_another_interface_is_an_error_too(file: Path) -> None:
    (change,) = said(file, having(Wider))
    assert (change.code, change.severity) == ("BP652", "error")


def test_other_types_behind_equal_interfaces(file: Path) -> None:
    first, *rest = said(file, having(Doubling))
    assert (first.code, first.address) == ("BP654", "gate")
    assert first.message == "`gate` has the type (B, 8, H, W), locked is (B, 4, H, W)"
    assert line(first).startswith("gate: (B, 4, H, W)") or line(first).startswith('gate: "(B, 4, H, W)"')
    assert rest == []


def test_a_missing_plugin(file: Path) -> None:
    (missing,) = said(file, having())
    assert (missing.code, missing.severity) == ("BP650", "error")
    assert missing.message == "locked with toy-plugin 1.0, which is not installed: it brings `toy.gate`"
    assert missing.help == ("pip install 'toy-plugin==1.0'",)
    assert missing.notes == ("used at gate",)
    assert line(missing).startswith("toy-plugin:")


def test_a_plugin_that_is_switched_off(file: Path) -> None:
    (missing,) = said(file, having(off=True))
    assert "toy-plugin 1.0, which is switched off" in missing.message


def test_a_plugin_that_does_not_load(file: Path) -> None:
    known = having()
    broken = Plugin("toy", "toy-plugin", "1.0", fault=Diagnostic("BP601", "it does not load"))
    (missing,) = said(file, replace(known, plugins=(*known.plugins, broken)))
    assert "toy-plugin 1.0, which does not load" in missing.message


def test_a_block_that_is_gone(file: Path) -> None:
    known = having(Gate, version="2.0")
    version, gone = said(file, replace(known, blocks={n: b for n, b in known.blocks.items() if n != Gate.name}))
    assert version.code == "BP651"
    assert (gone.code, gone.message) == ("BP652", "`toy.gate` is not in toy-plugin 2.0 any more")
    assert line(gone).startswith("toy.gate:")


def test_blocks_that_another_distribution_brings_are_a_warning(file: Path) -> None:
    known = having(Gate)
    other = Plugin("toys", "other-toys", "3.0", (Gate.name,))
    known = replace(known, owners={**known.owners, Gate.name: other}, plugins=(*known.plugins[:-1], other))
    (warning,) = said(file, known)
    assert (warning.code, warning.severity) == ("BP650", "warning")
    assert warning.message.endswith("its blocks come from other-toys")


def test_parameters_of_the_blueprint_that_changed_since(file: Path) -> None:
    file.with_name("gated.yaml").write_text(TEXT.replace("width: 4", "width: 6"))
    (warning,) = said(file, having(Gate))
    assert (warning.code, warning.severity) == ("BP653", "warning")
    assert warning.message == "`gated.yaml` has width = 6 today, locked is 4"
    assert line(warning) == "width: 4}"


def test_a_parameter_that_holds_a_block_did_not_change(tmp_path: Path) -> None:
    text = TEXT.replace("{width: 4}", "{width: 4, norm: {use: norm.batch}}").replace("out: 8}", "out: 8, norm: $norm}")
    (tmp_path / "gated.yaml").write_text(text)
    path = tmp_path / "gated.lock.yaml"
    path.write_text(composer.load(tmp_path / "gated.yaml", having(Gate)).to_lock())
    assert said(path, having(Gate)) == []


def test_another_composer_is_a_warning(file: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(composer, "__version__", "9.0")
    (warning,) = said(file, having(Gate))
    assert (warning.code, warning.severity) == ("BP651", "warning")
    assert line(warning).startswith("composer:")


# --- showing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [(), (Wider,)], ids=["missing", "changed"])
def test_it_is_shown_without_its_plugins(blocks: tuple[Any, ...], file: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("composer.cli.common.registry", lambda _: having(*blocks))
    assert run(["show", str(file)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"toy\.gate.*\(B, 4, H, W\)", out)
    assert re.search(r"head.*\(B, 2, H, W\)", out)
    assert "unknown" not in out
    assert "warning[BP65" in err
    assert run(["check", str(file)]) == 1
    assert "error[BP65" in capsys.readouterr().err


def test_types_of_several_outputs_and_nested_parts_come_from_the_lock(tmp_path: Path) -> None:
    from composer.describe import describe
    from composer.locking import filled

    path = tmp_path / "cotr.lock.yaml"
    blueprint = composer.load("cotr")
    path.write_text(blueprint.to_lock())
    known = Registry.discover()
    here = composer.load(path)
    assert here.lock is not None
    gone = sorted(here.lock.blocks)[::2]
    less = replace(known, blocks={n: b for n, b in known.blocks.items() if n not in gone})
    program, mistakes = composer.load(path, less).attempt()
    assert program is not None
    assert {m.code for m in mistakes} <= {"BP651", "BP652"}
    whole, without = describe(here.check()), filled(describe(program), here.lock)
    wanted = {n["address"]: n["type"] for n in nodes(whole["nodes"])}
    found = {n["address"]: n["type"] for n in nodes(without["nodes"])}
    assert found == {a: wanted[a] for a in found}
    assert without["outputs"] == whole["outputs"]
    assert without["constraints"] == whole["constraints"]


def nodes(tree: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in tree:
        yield node
        yield from nodes(node["children"])


# --- bad input ---------------------------------------------------------------------------------------------------


def refused(path: Path) -> list[Diagnostic]:
    with pytest.raises(BlueprintError) as caught:
        composer.load(path, having(Gate)).check()
    return list(caught.value.diagnostics)


@pytest.mark.parametrize("version", ["2", "1.0", "true", "null", '"1"', "[1]", "{a: 1}"])
def test_another_format(version: str, file: Path) -> None:
    file.write_text(file.read_text().replace("lock: 1\n", f"lock: {version}\n"))
    (mistake,) = refused(file)
    assert mistake.code == "BP655"
    assert "this is a lock of format" in mistake.message
    assert mistake.span is not None
    assert mistake.span.line == 2


@pytest.mark.parametrize("key", SECTIONS)
def test_an_edit_by_hand_names_its_section(key: str, file: Path) -> None:
    text = file.read_text()
    old, new = {
        "composer": ('composer: "', 'composer: "9.'), "of": ("gated.yaml", "other.yaml"),
        "distributions": ('version: "1.0"', 'version: "1.1"'), "blocks": ("default: 4", "default: 5"),
        "params": ("\nparams: {width: 4}", "\nparams: {width: 5}"), "sizes": ("sizes: []", "sizes: [H any]"),
        "types": ("gate: (B, 4, H, W)", "gate: (B, 5, H, W)"), "graph": ("kernel: 1", "kernel: 3"),
    }[key]  # fmt: skip
    if key == "types" and old not in text:
        old, new = 'gate: "(B, 4,', 'gate: "(B, 5,'
    assert text.count(old) >= 1
    head, _, tail = text.rpartition(old)
    file.write_text(head + new + tail)
    mistakes = refused(file)
    assert {m.code for m in mistakes} == {"BP656"}
    assert [line(m).partition(":")[0] for m in mistakes] == [key]


def test_the_order_of_nodes_is_content(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    stem = next(k for k, text in enumerate(lines) if text.startswith("    stem:"))
    lines[stem], lines[stem + 1] = lines[stem + 1], lines[stem]
    file.write_text("".join(lines))
    assert {m.code for m in refused(file)} & {"BP656", "BP003"}


def test_comments_and_layout_are_no_content(file: Path) -> None:
    file.write_text(file.read_text().replace("lock: 1\n", "lock:   1  # mine\n\n"))
    assert said(file, having(Gate)) == []
    assert run(["fmt", str(file)]) == 0
    assert said(file, having(Gate)) == []


def test_a_file_that_is_cut_off_anywhere(file: Path) -> None:
    text = file.read_text()
    for end in range(text.index("content:"), len(text) - 1, 37):
        file.write_text(text[:end])
        mistakes = refused(file)
        assert all(m.span is not None for m in mistakes), end
        assert {m.code for m in mistakes} <= {"BP655", "BP656", "BP003", "BP006", "BP101"}, (end, mistakes)


def rehashed(document: Mapping[str, Any]) -> str:
    """A lock that somebody forged: its hashes fit."""
    from composer.locks import hashes
    from composer.writing import dump

    return dump({**document, "content": hashes(document)})


@pytest.mark.parametrize("key", SECTIONS)
@pytest.mark.parametrize("value", [None, 3, "text", [1], {"a": 3}, {"a": {"b": 3}}, {"a": {"blocks": 1}}], ids=str)
def test_a_forged_lock_never_shows_a_traceback(key: str, value: Any, file: Path) -> None:
    from composer import source

    top = source.read(file)
    file.write_text(rehashed({**top, key: value}))
    with contextlib.suppress(BlueprintError):  # a file whose hashes fit may be all right
        composer.load(file, having(Gate)).check()


@pytest.mark.parametrize("part", ["ports", "options", "slots", "shape", "hash"])
@pytest.mark.parametrize("value", [None, 3, "text", [1], {"x": 3}, {"width": {"type": 3}}], ids=str)
def test_a_forged_interface(part: str, value: Any, file: Path) -> None:
    from composer import source

    top = source.read(file)
    blocks = {**top["blocks"], "toy.gate": {**top["blocks"]["toy.gate"], "hash": "0", part: value}}
    file.write_text(rehashed({**top, "blocks": blocks}))
    assert {d.code for d in refused(file)} <= {"BP651", "BP652", "BP655"}


def test_no_lock_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.lock.yaml"
    path.write_text("locks: 1\nname: x\n")
    assert {m.code for m in refused(path)} == {"BP101"}


def test_a_lock_cannot_be_set(file: Path) -> None:
    with pytest.raises(BlueprintError) as caught:
        composer.load(file, having(Gate), width=3)
    (mistake,) = caught.value.diagnostics
    assert mistake.code == "BP657"
    assert "composer lock gated.yaml width=… -o gated.lock.yaml" in mistake.help[0]


def test_a_blueprint_may_extend_a_lock(file: Path) -> None:
    path = file.with_name("child.yaml")
    path.write_text("blueprint: 1\nextends: gated.lock.yaml\nedit:\n  - {at: gate, set: {width: 6}}\n")
    program = composer.load(path, having(Gate)).check()
    assert str(program.types["gate"]) == "(B, 6, H, W)"


# --- writing -----------------------------------------------------------------------------------------------------


def test_the_command_writes_all_or_nothing(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["lock", "unet"]) == 0
    assert capsys.readouterr().out == "wrote unet.lock.yaml\nnext: composer check unet.lock.yaml\n"
    before = Path("unet.lock.yaml").read_text()
    assert run(["lock", "unet", "depth=1000", "-o", "unet.lock.yaml"]) == 1
    assert Path("unet.lock.yaml").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["unet.lock.yaml"]
    assert run(["lock", "unet.lock.yaml", "-o", "unet.lock.yaml"]) == 0
    assert Path("unet.lock.yaml").read_text() == before


def test_places_that_are_refused(tmp_path: Path, capsys: Any) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("blueprint: 1\nextends: unet\n")
    for output in (tmp_path / "unet.lock", tmp_path / "nowhere" / "a.yaml", mine):
        assert run(["lock", str(mine), "-o", str(output)]) == 1
        assert "error[BP806]" in capsys.readouterr().err
    assert mine.read_text() == "blueprint: 1\nextends: unet\n"


# --- interfaces --------------------------------------------------------------------------------------------------


class Every(Block):
    """One of each kind of option."""

    name = "toy.every"
    out: Positive
    size: PerAxis | None = None
    drop: Rate = 0.1
    mode: Literal["b", "a"] = "a"
    pair: tuple[int, float] = (1, 2.0)
    names: tuple[str, ...] = ()
    anything: Any = None
    norm: Slot = slot({"use": "norm.batch"}, at=["norm1", "norm2"])

    def compose(self, net: Any, x: Any, skip: Any = None, **more: Any) -> Any:
        return x


def test_the_interface_of_a_block_in_words() -> None:
    assert interface(Every) == {
        "ports": {"x": "required", "skip": "optional", "more": "any further"},
        "first": "x",
        "options": {
            "anything": {"type": "any", "default": None},
            "drop": {"type": "float <= 1 >= 0", "default": 0.1},
            "mode": {"type": '"a" | "b"', "default": "a"},
            "names": {"type": "list of str", "default": []},
            "out": {"type": "int >= 1"},
            "pair": {"type": "[int; float]", "default": [1, 2.0]},
            "size": {"type": "int >= 1 | list of int >= 1 | null", "default": None},
        },
        "slots": {
            "norm": {"at": ["norm1", "norm2"], "role": "norm", "offers": ["x"], "default": {"use": "norm.batch"}}
        },
    }


def test_hashes_are_pinned() -> None:
    """A hash that changes without a change of the block would make every lock there is wrong."""
    assert (digest(interface(Every)), digest(interface(Gate))) == ("007c3e1f4dcdaea6", "5d1f55db0d169aa4")


def test_the_interface_does_not_depend_on_source_text() -> None:
    class Same(Block):
        name = "toy.gate"
        mode: Literal["max", "sum"] = "sum"
        width: Positive = 4

        def infer(self, rule: Any, x: Type, skip: Any = None) -> Any:
            raise NotImplementedError

        def build(self) -> Any: ...

    assert interface(Same) == interface(Gate)


@pytest.mark.parametrize("block", [Wider, Poorer, Richer, Renamed])
def test_unequal_hashes_have_a_difference_to_name(block: type[Block]) -> None:
    assert digest(interface(block)) != digest(interface(Gate))
    assert list(differences(interface(Gate), interface(block)))


def test_every_installed_block_has_an_interface_that_a_lock_can_hold() -> None:
    from composer import source
    from composer.diagnostics import Source
    from composer.writing import dump

    for name, block in Registry.discover().blocks.items():
        made = interface(block)
        again = source.parse(Source(name, dump(made)))
        assert digest(again) == digest(made), name
