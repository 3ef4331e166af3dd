"""MONAI bundles: MONAI's own tools verify, run and load what is exported, and find the label map of `composer run`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

import composer
from composer import imaging
from composer.cli.main import run

pytest.importorskip("ignite")
pytest.importorskip("fire")
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's own: it warns of every configuration that it parses
AFFINE = np.array([[0, -1.5, 0.1, 3], [1, 0, 0, -4], [0, 0.1, 2, 5], [0, 0, 0, 1.0]])
"""A file whose axes are not those of the network."""

TEXT, NUMBER, OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        **dict.fromkeys(("type", "format", "dtype", "modality"), TEXT),
        "num_channels": NUMBER,
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": OBJECT,
    },
}
PORTS = {"type": "object", "additionalProperties": TENSOR, "minProperties": 1}
TEXTS = [
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "task",
    "description",
    "authors",
    "copyright",
]
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "type": "object",
    "required": [*TEXTS, "required_packages_version", "network_data_format"],
    "properties": {
        **dict.fromkeys((*TEXTS, "intended_use"), TEXT),
        **dict.fromkeys(("changelog", "required_packages_version"), OBJECT),
        "references": {"type": "array", "items": TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": PORTS, "outputs": PORTS},
        },
    },
}
"""What MONAI's schema of 2024-07-25 asks of metadata.json. MONAI downloads it to the path that it is given, and takes
the file that is there."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Running a bundle configures logging for the whole process, with a handler of its own."""
    before = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = before


def exported(name: str, *words: str, folder: Path = Path("bundle")) -> Path:
    """A bundle of a network that gives every class somewhere."""
    torch.manual_seed(2)
    network = composer.load(name, **dict(_parsed(w) for w in words if "=" in w)).build()
    x = torch.randn(2, network.inputs[0].type.channels, *network.blueprint.check().built.values())
    with torch.no_grad():
        network(x)
        logits = imaging.logits_of(network.eval()(x))
        network.get_parameter("head.bias").sub_(logits.transpose(0, 1).flatten(1).median(1).values)
    torch.save(network.state_dict(), "weights.pt")
    assert run(["export", name, *words, "--monai-bundle", str(folder), "--weights", "weights.pt"]) == 0
    return folder


def _parsed(word: str) -> tuple[str, Any]:
    key, _, value = word.partition("=")
    return key, json.loads(value)


def files(folder: Path) -> dict[str, str]:
    return {"config_file": str(folder / "configs/inference.json"), "meta_file": str(folder / "configs/metadata.json")}


def image(name: str, shape: tuple[int, ...]) -> Path:
    """Noise with a background of zeros, as after taking the skull away."""
    rng = np.random.default_rng(0)
    Path("images").mkdir(exist_ok=True)
    voxels = (rng.gamma(2, 40, shape) * (rng.random(shape) > 0.2)).astype(np.float32)
    nibabel.Nifti1Image(voxels, AFFINE).to_filename(path := Path("images") / name)
    return path


CASES = {
    "in 3-D": ("unet:demo", ["size=[16,16,16]", "widths=[4,8]"], [(20, 23, 19), (9, 23, 6)], "2*n+2"),
    "slices of two channels, one logit": (
        "unet", ["channels=2", "classes=1", "size=[16,16]", "widths=[4,8]"], [(21, 23, 9, 2)], "2*n+2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_monai_verifies_runs_and_loads_it(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai import bundle as monai_bundle

    monkeypatch.chdir(tmp_path)
    name, words, shapes, pattern = CASES[case]
    made = exported(name, *words)
    Path("schema.json").write_text(json.dumps(SCHEMA))
    monai_bundle.verify_metadata(meta_file=files(made)["meta_file"], filepath="schema.json")
    assert set(json.loads(Path(files(made)["meta_file"]).read_text())["network_data_format"]["inputs"]["image"][
        "spatial_shape"
    ]) == {pattern}  # fmt: skip
    for n in (1, 4):
        monai_bundle.verify_net_in_out("network_def", **files(made), device="cpu", n=n)
    images = [image(f"i{k}.nii.gz", shape) for k, shape in enumerate(shapes)]
    monai_bundle.run(
        config_file=files(made)["config_file"], bundle_root=str(made), dataset_dir="images", output_dir="found"
    )
    for path in images:
        assert run(["run", name, str(path), *words, "--weights", "weights.pt", "-o", "wanted.nii.gz"]) == 0
        wanted, found = nibabel.load("wanted.nii.gz"), nibabel.load(f"found/{path.name[:2]}_seg.nii.gz")
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(wanted.dataobj))
        assert found.get_data_dtype() == np.uint8
        assert np.allclose(found.affine, AFFINE)
    assert len(np.unique(np.asarray(found.dataobj))) > 1
    monkeypatch.chdir("found")  # a bundle is found from anywhere
    network = monai_bundle.load("bundle", bundle_dir=str(tmp_path), workflow_type="inference", device="cpu").eval()
    ours = composer.load(name, **dict(_parsed(w) for w in words)).build(weights=tmp_path / "weights.pt").eval()
    x = torch.randn(1, ours.inputs[0].type.channels, *[16] * (len(shapes[0]) if "2" not in words[0] else 2))
    assert torch.equal(network(x), ours(x))


SEVERAL = """\
blueprint: 1
name: net
inputs: {image: {type: B 1 H W, size: [8, 8]}}
graph:
  stem: {use: conv, out: 4, kernel: 3}
  head: {use: conv, out: 3, kernel: 1}
  edges: {use: conv, from: stem, out: 1, kernel: 1}
  deep: {use: conv, from: stem, out: 3, kernel: 1}
outputs: {labels: head, edges: edges, deep: {from: deep, when: training}}
"""


@pytest.mark.parametrize("fixed", [False, True])
def test_of_several_outputs_the_first_counts(fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai import bundle as monai_bundle

    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(SEVERAL)
    made = exported("net.yaml", *["--fixed"] * fixed)
    monai_bundle.verify_net_in_out("network_def", **files(made), device="cpu", n=5)
    data = json.loads(Path(files(made)["meta_file"]).read_text())["network_data_format"]
    assert data["inputs"]["image"]["spatial_shape"] == ([8, 8] if fixed else ["n+1", "n+1"])
    assert data["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "class 1", "2": "class 2"}
    network = monai_bundle.load("bundle", bundle_dir=".", workflow_type="inference", device="cpu")
    ours = composer.load("net.yaml").build(weights="weights.pt")
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(network.eval()(x), ours.eval()(x)["labels"])
    assert set(network.train()(x)) == {"labels", "edges", "deep"}


COMMANDS = """
import json, runpy, sys

for words in json.loads(sys.argv[1]):
    sys.argv = ["monai.bundle", *words]
    runpy.run_module("monai.bundle", run_name="__main__")
"""
"""`python -m monai.bundle …`, several in one process: importing MONAI takes longer than any of them."""


@pytest.mark.slow
def test_the_command_of_monai_verifies_and_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = exported(*CASES["in 3-D"][:1], *CASES["in 3-D"][1])
    Path("schema.json").write_text(json.dumps(SCHEMA))
    image("a.nii.gz", (17, 16, 18))
    commands = (
        ["verify_metadata", "--meta_file", files(made)["meta_file"], "--filepath", "schema.json"],
        ["verify_net_in_out", "--net_id", "network_def", *(w for k, v in files(made).items() for w in (f"--{k}", v))],
        ["run", "--config_file", files(made)["config_file"], "--bundle_root", "bundle", "--dataset_dir", "images"],
    )
    done = subprocess.run([sys.executable, "-c", COMMANDS, json.dumps(commands)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert nibabel.load("bundle/eval/a_seg.nii.gz").shape == (17, 16, 18)


def test_metadata_that_is_wrong_is_seen(tmp_path: Path) -> None:
    """The schema of this test refuses what lacks a field."""
    from monai.bundle import verify_metadata

    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "meta.json").write_text(json.dumps({"schema": "https://nowhere", "version": "1"}))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "meta.json"), filepath=str(tmp_path / "schema.json"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fine"], "BP834", "also takes `position`, and a MONAI bundle feeds one image"),
        (["vit"], "BP805", "which is not a label for each voxel"),
        (["unet:demo", "--monai-bundle", "weights.txt"], "BP806", "it is a file"),
    ],
)
def test_what_is_no_bundle(
    words: list[str], code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("weights.txt").write_text("mine")
    small = {"fine": ["dim=12", "size=[32,64,64]"], "vit": ["depth=1", "dim=32", "heads=2"]}.get(words[0], [])
    where = [] if "--monai-bundle" in words else ["--monai-bundle", "out"]
    assert run(["export", words[0], *small, *words[1:], *where]) == 1
    err = capsys.readouterr().err
    assert f"error[{code}]" in err
    assert said in err
    assert [p.name for p in Path().iterdir()] == ["weights.txt"]
