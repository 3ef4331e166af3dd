"""`composer new`: what it writes works, what exists stays, and names that cannot be are refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import composer
from composer.blueprint import shipped
from composer.cli.main import run
from composer.plugins import Plugin, added
from composer.starting import rendered


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_plugin_is_a_distribution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "plugin", "my_attention"]) == 0
    assert "next: pip install -e my_attention && composer blocks my_attention.attention" in capsys.readouterr().out
    folder = tmp_path / "my_attention"
    assert written(folder) == [
        "README.md",
        "my_attention/__init__.py",
        "my_attention/module.py",
        "pyproject.toml",
        "tests/test_my_attention.py",
    ]
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "my-attention"
    assert project["project"]["entry-points"]["composer"] == {"my_attention": "my_attention"}
    assert not any("${" in p.read_text() for p in folder.rglob("*") if p.is_file())
    assert os.listdir(tmp_path) == ["my_attention"]


def test_its_code_is_clean_and_registers_without_torch(tmp_path: Path) -> None:
    run(["new", "plugin", "my_attention", "-o", "elsewhere/deep"])
    code = (
        "import sys; sys.path.insert(0, 'elsewhere/deep'); import my_attention; from composer.plugins import *;"
        "print(added(my_attention, Plugin('m', 'm', '1')).plugin.blocks, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('my_attention.attention',) False"
    length = ["--isolated", "--config", "line-length = 120"]
    for ruff in (["check", *length, "--select", "E,F,W,I,B,UP,C4,SIM,PT,N"], ["format", "--check", *length]):
        made = [sys.executable, "-m", "ruff", *ruff]
        done = subprocess.run(made, capture_output=True, text=True, cwd=tmp_path / "elsewhere" / "deep")
        assert done.returncode == 0, done.stdout


def test_the_block_is_that_of_its_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test that it brings, and its plugin in a registry."""
    run(["new", "plugin", "fresh_attention"])
    monkeypatch.syspath_prepend(tmp_path / "fresh_attention")
    import fresh_attention  # type: ignore[import-not-found]

    brought = added(fresh_attention, Plugin("fresh", "fresh", "0.1.0"))
    assert [b.name for b in brought.blocks] == ["fresh_attention.attention"]
    names: dict[str, object] = {}
    exec((tmp_path / "fresh_attention/tests/test_fresh_attention.py").read_text(), names)
    names["test_it_is_the_softmax_of_cosines"]()  # type: ignore[operator]
    known = composer.Registry.discover()._joined(brought, strict=True)
    network = composer.load(
        "vit:tiny", known, **{"blocks.*.attention": "fresh_attention.attention", "depth": 1, "heads": 8}
    ).build(device="meta")
    assert "blocks.0.attention.sharpness" in network.state_dict()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("My-Plugin", "for example `my_plugin`"),
        ("9lives", "for example `lives`"),
        ("class", "no word of Python"),
        ("_x", "cannot name a plugin"),
        ("a__b", "cannot name a plugin"),
        ("é", "cannot name a plugin"),
        ("../up", "for example `up`"),
        ("", "cannot name a plugin"),
        ("x" * 61, "cannot name a plugin"),
        ("json", "name of a module that is installed"),
        ("composer", "name of a module that is installed"),
        ("repeat", "name of a module"),
        ("attention", "first word of blocks that are there, such as `attention."),
    ],
)
def test_names_that_cannot_be_a_plugins(
    name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["new", "plugin", name, "-o", "there"]) == 1
    assert why in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["plugin", "blueprint"])
@pytest.mark.parametrize("what", ["file", "folder", "empty folder", "broken link"])
def test_what_exists_stays(kind: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there"
    if what == "file":
        there.write_text("mine")
    elif what == "broken link":
        there.symlink_to("nowhere")
    else:
        there.mkdir()
        if what == "folder":
            (there / "mine").write_text("mine")
    before = written(tmp_path)
    assert run(["new", kind, "my_own", "-o", "there"]) == 1
    assert "there exists already, and nothing is overwritten" in capsys.readouterr().err
    assert written(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("kind", ["plugin", "blueprint"])
def test_a_folder_that_cannot_be_written_to(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert run(["new", kind, "my_own", "-o", "locked/there"]) == 1
    assert "error[BP806]: cannot write locked/there" in capsys.readouterr().err


def test_nothing_is_left_of_a_folder_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    assert run(["new", "plugin", "my_own"]) == 1
    assert os.listdir(tmp_path) == []


# --- blueprints --------------------------------------------------------------------------------------------------


def test_a_minimal_blueprint_is_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "blueprint", "mine"]) == 0
    assert "next: composer show mine.yaml" in capsys.readouterr().out
    for size in ([64, 64], [16, 16, 16]):
        program = composer.load("mine.yaml", size=size).check()
        assert [o.name for o in program.outputs] == ["logits"]
    assert run(["fmt", "--check", "mine.yaml"]) == 0


@pytest.mark.parametrize("base", ["vit", "vit:large", "swin_unet", "unet", "nnunet", "detr", "cotr"])
def test_a_blueprint_from_another_is_that_one_until_it_is_changed(base: str, tmp_path: Path) -> None:
    assert run(["new", "blueprint", "mine", "--from", base]) == 0
    ours, theirs = composer.load("mine.yaml"), composer.load(base)
    assert ours.values == theirs.values
    assert ours.check().steps == theirs.check().steps
    assert run(["fmt", "--check", "mine.yaml"]) == 0


@pytest.mark.parametrize("base", sorted(n for n in shipped() if "." not in n))
def test_what_is_commented_out_may_be_taken_in(base: str, tmp_path: Path) -> None:
    """Every parameter that is offered, uncommented, is the value that it has."""
    run(["new", "blueprint", "mine", "--from", base])
    lines = (tmp_path / "mine.yaml").read_text().splitlines()
    start = lines.index("# params:")
    taken = [
        line.removeprefix("# ") if line.startswith("#  ") or line == "# params:" else line for line in lines[start:]
    ]
    body = taken[: taken.index("")]
    (tmp_path / "mine.yaml").write_text("\n".join(lines[:start] + body) + "\n")
    assert composer.load("mine.yaml").values == composer.load(base).values


def test_a_base_that_is_a_file_is_found_from_where_the_new_one_stands(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    run(["new", "blueprint", "first", "-o", "below/first.yaml"])
    assert run(["new", "blueprint", "second", "--from", "below/first.yaml"]) == 0
    assert run(["new", "blueprint", "third", "--from", "second.yaml", "-o", "below/third.yaml"]) == 0
    assert composer.load("below/third.yaml").check().outputs


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["vit"], "`vit` is a blueprint that is there"),
        (["a.b"], "cannot name a blueprint"),
        (["../x"], "cannot name a blueprint"),
        (["mine", "--from", "vitt"], "did you mean `vit`"),
        (["mine", "--from", "vit:lrge"], "no preset `lrge`"),
        (["mine", "-o", "no/such/mine.yaml"], "cannot write no/such/mine.yaml"),
    ],
)
def test_blueprints_that_cannot_be(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["new", "blueprint", *arguments]) == 1
    assert why in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_templates_are_files_of_the_package() -> None:
    names = {"package": "p", "distribution": "p", "block": "p.attention", "class_name": "P"}
    assert all(text.strip() for text in rendered("plugin", names).values())
