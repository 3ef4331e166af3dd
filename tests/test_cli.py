"""The command line: what each verb prints, exit statuses, and that no mistake shows a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import composer
from composer.cli.main import run

NET = """\
blueprint: 1
name: tiny
params: {size: [16, 16], out: 3}
inputs: {image: {type: B 1 *S, size: $size}}
graph:
  stem: {use: conv, out: 4, act: relu}
  head: {use: conv, out: $out, kernel: 1}
outputs: {logits: head}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(NET)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.nii.gz"
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    data = np.random.default_rng(0).normal(size=(20, 18, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_list_names_every_shipped_blueprint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json"]) == 0
    names = {row["name"] for row in json.loads(said(capsys)[0])}
    assert {"vit", "unet", "swin_unet"} <= names
    assert run(["list"]) == 0
    assert "swin_unet" in said(capsys)[0]


def test_list_puts_fragments_aside(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json"]) == 0
    rows = json.loads(said(capsys)[0])
    assert "residual.double" not in {row["name"] for row in rows}
    assert not [row for row in rows if row["summary"].startswith("cannot be read")]
    assert run(["list"]) == 0
    (line,) = [s for s in said(capsys)[0].splitlines() if s.startswith("parts for other blueprints:")]
    assert "residual.double" in line


def test_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["blocks", "--json"]) == 0
    facts = {b["name"]: b for b in json.loads(said(capsys)[0])}
    assert facts["attention.window"]["required"] == ["heads"]
    assert run(["blocks", "attention.window"]) == 0
    page = said(capsys)[0]
    assert "option   window: 7" in page
    assert "\ntable     whether the bias table" in page, "a table of options keeps its lines"
    assert run(["blocks", "attention.windows"]) == 1
    assert "did you mean `attention.window`?" in said(capsys)[1]


def test_check_says_types_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "swin_unet"]) == 0
    out = said(capsys)[0]
    assert "swin_unet: no mistakes in" in out
    assert "image (B, 1, H, W) -> logits (B, 9, H, W)" in out
    assert "H, W: multiples of 224" in out


def test_check_of_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "swin_unet", "--size", "448,224"]) == 0
    assert run(["check", "swin_unet", "--size", "240x240"]) == 1
    err = said(capsys)[1]
    assert "BP501" in err
    assert "multiples of 224; nearest: 224 or 448" in err


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "vit", "heads=25", "--json"]) == 1
    (error,) = json.loads(said(capsys)[0])["errors"]
    assert (error["code"], error["place"]["line"], error["place"]["column"]) == ("BP201", 1, 7)


@pytest.mark.parametrize(
    ("name", "parameters"), [("vit", 86567656), ("swin_unet", 27168900), ("unet:original", 31030658)]
)
def test_show_json_counts(name: str, parameters: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", name, "--json"]) == 0
    shown = json.loads(said(capsys)[0])
    assert shown["parameters"] == parameters
    assert sum(n["parameters"] for n in shown["nodes"]) == parameters


def test_show_draws_the_graph(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(tiny)]) == 0
    out = said(capsys)[0]
    assert re.search(r"stem\s+conv\s+out 4", out)
    assert "(B, 3, H, W)" in out
    picture = tmp_path / "tiny.svg"
    assert run(["show", str(tiny), "--svg", str(picture)]) == 0
    assert picture.read_text().startswith("<svg") or "<svg" in picture.read_text()[:200]
    assert run(["show", str(tiny), "--svg", str(tmp_path / "no" / "x.svg")]) == 1


def test_overrides_reach_parameters_and_addresses(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(tiny), "out=5", "stem.kernel=1", "--json"]) == 0
    assert json.loads(said(capsys)[0])["parameters"] == (1 * 4 + 4) + (4 * 5 + 5)
    assert run(["check", str(tiny), "uot=5"]) == 1
    assert "did you mean `out`?" in said(capsys)[1]
    assert run(["check", str(tiny), "setm.kernel=1"]) == 1
    assert "BP106" in said(capsys)[1]


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "BP301"]) == 0
    assert "BP301" in said(capsys)[0]
    assert run(["explain", "BP399"]) == 1


def test_schema_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "composer.schema.json"
    assert run(["schema", "-o", str(path)]) == 0
    assert "attention.window" in path.read_text()
    assert json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]


def test_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "--json"]) == 0
    shipped = json.loads(said(capsys)[0])["plugins"]
    assert {p["plugin"] for p in shipped} >= {"composer_blocks", "composer_formats"}
    assert {p["distribution"] for p in shipped} == {"blueprint-composer"}
    assert {p["fault"] for p in shipped} == {None}


def test_a_plugin_file_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import composer\n"
        "class Mine(composer.Block):\n"
        "    '''The same, (B, N, C).'''\n"
        "    name = 'attention.mine'\n"
        "    shape = 'batch tokens dim -> batch tokens dim'\n"
        "    def build(self, dim):\n"
        "        from torch import nn\n"
        "        return nn.Linear(dim, dim)\n"
    )
    assert run(["check", "vit", "blocks.*.attention=attention.mine", "--plugin", str(mine)]) == 0
    assert run(["blocks", "attention.mine", "--plugin", str(mine)]) == 0
    mine.write_text("1 / 0")
    assert run(["check", "vit", "--plugin", str(mine)]) == 1
    assert "ZeroDivisionError" in said(capsys)[1]


def test_run_in_2d_writes_labels_and_a_picture(
    tiny: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.nii.gz"
    assert run(["run", str(tiny), str(image), "-o", str(out)]) == 0
    text = said(capsys)[0]
    assert "untrained" in text
    before, after = nibabel.load(image), nibabel.load(out)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_run_in_3d_with_weights_equals_the_network(tiny: Path, image: Path, tmp_path: Path) -> None:
    blueprint = composer.load(tiny, size=[8, 8, 8])
    network = blueprint.build()
    weights = tmp_path / "w.safetensors"
    save_file(network.state_dict(), weights)
    out = tmp_path / "out.nii.gz"
    words = [
        "run",
        str(tiny),
        str(image),
        "size=[8,8,8]",
        "-o",
        str(out),
        "--weights",
        str(weights),
        "--normalize",
        "none",
    ]
    assert run(words) == 0
    assert set(np.unique(nibabel.load(out).dataobj)) <= {0, 1, 2}


def test_run_tells_a_network_where_its_windows_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FINE on a head the shape of MNI152, at a quarter of its resolution."""
    affine = np.array([[-4, 0, 0, 90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]], dtype=float)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (46, 55, 46)), indexing="ij"))
    head = 100 * np.exp(-3 * (place**2).sum(0)) + np.random.default_rng(0).normal(0, 1, place.shape[1:])
    image, out = tmp_path / "head.nii.gz", tmp_path / "out.nii.gz"
    nibabel.Nifti1Image(head.astype(np.float32), affine).to_filename(image)
    tiny = {"size": [16, 32, 32], "classes": 3, "dim": 12, "depths": [2, 2, 2], "heads": [2, 2, 4],
            "windows": [4, 2, 2], "cells": [2, 2], "volume": [46, 55, 46]}  # fmt: skip
    words = [f"{k}={json.dumps(v)}" for k, v in tiny.items()]
    assert run(["run", "fine", str(image), *words, "-o", str(out)]) == 0
    assert nibabel.load(out).shape == head.shape
    assert set(np.unique(nibabel.load(out).dataobj)) <= {0, 1, 2}


def test_run_takes_a_volume_whole(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Swin-Unet on slices of any size, padded by the network itself."""
    out, shape = tmp_path / "out.nii.gz", nibabel.load(image).shape
    small = ["dim=8", "heads=[1,2]", "depths=[2,2]", "size=[56,56]"]
    words = ["run", "swin_unet", str(image), *small, "-o", str(out), "--whole"]
    assert run(words) == 1
    assert "`image.pad=auto` pads to the nearest valid size" in said(capsys)[1]
    assert run([*words, "image.pad=auto", "image.fill=reflect"]) == 0
    assert nibabel.load(out).shape == shape
    assert "windows of " + " × ".join(map(str, imaging_extent(image))) in said(capsys)[0]


def imaging_extent(image: Path) -> tuple[int, ...]:
    from composer import imaging

    return imaging.extent(imaging.read_volume(image, 1), 2)


def test_run_refuses_inputs_it_cannot_feed(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = tmp_path / "two.yaml"
    two.write_text(
        "blueprint: 1\nname: two\ninputs: {image: {type: B 1 D H W, size: [8, 8, 8]}, age: B 1}\n"
        "graph: {head: {use: conv, out: 2, from: image}, years: {use: linear, from: age}}\n"
        "outputs: {logits: head, years: years}\n"
    )
    assert run(["run", str(two), str(image), "-o", str(tmp_path / "o.nii.gz")]) == 1
    assert "has the inputs image, age" in said(capsys)[1]


def test_run_refuses_wrong_weights_and_writes_nothing(
    tiny: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"stem.weight": torch.zeros(4, 1, 3, 3), "stme.bias": torch.zeros(4)}, weights)
    out = tmp_path / "out.nii.gz"
    assert run(["run", str(tiny), str(image), "-o", str(out), "--weights", str(weights)]) == 1
    err = said(capsys)[1]
    assert "stme.bias" in err
    assert "head.weight" in err
    assert not out.exists()


def test_run_refuses_a_classifier(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "vit:tiny", str(image), "channels=1", "-o", str(tmp_path / "o.nii.gz")]) == 1
    assert "not a label for each voxel" in said(capsys)[1]


def test_weights_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dim=8", "heads=2", "depth=1", "size=[32,32]", "classes=3"]
    blueprint = composer.load("vit", dim=8, heads=2, depth=1, size=[32, 32], classes=3)
    state = blueprint.build().state_dict()
    official = {
        k.replace("blocks.0.mlp", "vit.encoder.layer.0.mlp"): v for k, v in state.items()
    }  # not the official names: everything is missing
    torch.save(official, tmp_path / "wrong.pth")
    assert (
        run(["weights", "convert", str(tmp_path / "wrong.pth"), *words, "--to", "vit", "--from", "transformers"]) == 1
    )
    out, err = said(capsys)
    assert "missing" in out
    assert "nothing was written" in err
    assert not (tmp_path / "wrong.safetensors").exists()
    assert run(["weights", "convert", str(tmp_path / "wrong.pth"), "--to", "vit", "--from", "transfromers"]) == 1
    assert "did you mean `transformers`?" in said(capsys)[1]


def test_usage_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 2
    assert run(["frobnicate"]) == 2
    assert run(["--help"]) == 0
    assert run([]) in (0, 2)


def test_an_internal_error_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from composer.cli import checking

    monkeypatch.setattr(checking.common, "load", lambda *a: 1 / 0)
    assert run(["check", "vit"]) == 1
    err = said(capsys)[1]
    assert "BP901" in err
    assert "please report" in err
    assert "Traceback" not in err


def test_cold_check_imports_no_torch_and_no_networkx() -> None:
    code = "import sys; from composer.cli.main import run; run(['check', 'vit']); print({'torch', 'networkx', 'rich', 'monai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")


def test_each_module_adds_the_verbs_that_are_written_beside_it() -> None:
    """A verb is imported only when it is asked for, so that somebody has to say where it is."""
    from composer.cli.main import MODULES, application, named

    files = {p.stem for p in (Path(composer.__file__).parent / "cli").glob("*.py") if "def add_to(" in p.read_text()}
    assert set(MODULES) == files
    for module, verbs in MODULES.items():
        app = application([module])
        found = [*map(named, app.registered_commands), *(g.name for g in app.registered_groups)]
        assert tuple(found) == verbs


@pytest.mark.parametrize(
    ("options", "mine"), [("", "main common verdict"), ("--json", "main common verdict arguments checking")]
)
def test_a_check_imports_no_verb_but_its_own(options: str, mine: str) -> None:
    code = f"import sys; from composer.cli.main import run; run('check vit {options}'.split()); print(*(m for m in sys.modules if m.startswith('composer.cli.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) == {f"composer.cli.{m}" for m in mine.split()}


@pytest.mark.parametrize(
    "words",
    [
        ["vit:tiny"],
        ["vit:tiny", "depth=1", "classes=7"],
        ["vit:tiny", "blocks.*.mlp.act=act.relu"],
        ["vti"],
        ["vit:tiny", "dpeth=1"],
        ["vit:tiny", "depth"],
        ["vit:tiny", "depth=two", "depth=3"],
        ["vit:tiny", ""],
        [""],
        [" "],
        ["né.yaml"],
        ["nowhere.yaml", "x=1"],
    ],
    ids=str,
)
def test_a_check_that_is_not_parsed_says_what_typer_would_have_it_say(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from composer.cli import verdict

    assert verdict.plain(["check", *words])
    status, heard = run(["check", *words]), said(capsys)
    monkeypatch.setattr(verdict, "plain", lambda arguments: False)
    assert (run(["check", *words]), said(capsys)) == (status, heard)


@pytest.mark.parametrize(
    "words", ["", "check", "check --json vit", "check vit -h", "check vit --", "cost vit", "--no-plugins check vit"]
)
def test_what_has_options_is_parsed(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from composer.cli import verdict

    assert not verdict.plain(words.split())
    monkeypatch.setenv("_COMPOSER_COMPLETE", "complete_bash")
    assert not verdict.plain(["check", "vit"])


def test_completion_knows_names_presets_blocks_and_codes() -> None:
    from composer.cli import arguments

    assert "swin_unet" in arguments.complete_blueprint("swin")
    assert "vit:large" in arguments.complete_blueprint("vit:")
    assert "attention.window" in arguments.complete_block("attention.")
    assert "BP301" in arguments.complete_code("bp3")


def test_the_shell_completes(tmp_path: Path) -> None:
    """What bash would ask: `composer check swin<TAB>`."""
    asked = {"_COMPOSER_COMPLETE": "complete_bash", "COMP_WORDS": "composer check swin", "COMP_CWORD": "2"}
    code = "from composer.cli.main import main; import sys; sys.argv = ['composer']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked})
    assert "swin_unet" in done.stdout
