"""Folders of networks: what is saved is what is opened, by name of a folder, by a repository of the hub, by a command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lock import Gate

import composer
from composer import BlueprintError, Registry, folders, hub
from composer.cli.main import run
from composer.plugins import Plugin

LABELS = ("background", "ball")
TREE = ["README.md", "blueprint.yaml", "config.json", "model.safetensors"]
PLUGIN = '''
import composer
from torch import nn


class Twice(composer.Block):
    """A block of a file, (B, C, *grid)."""

    name = "mine.twice"
    shape = "batch dim *grid -> batch dim *grid"

    def build(self, dim):
        return nn.BatchNorm2d(dim)
'''


def made(**params: object) -> torch.nn.Module:
    torch.manual_seed(0)
    network = composer.load("unet", **{"size": [16, 16], "widths": [4, 8], **params}).build()
    network(torch.randn(4, 1, 16, 16))  # batch norm has seen something
    return network.eval()


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A network that lies in the folder `net` of the working directory."""
    monkeypatch.chdir(tmp_path)
    network = made()
    network.save_pretrained("net", labels=LABELS)
    return network


def refused(call: object) -> str:
    with pytest.raises(BlueprintError) as caught:
        call()  # type: ignore[operator]
    return str(caught.value)


def tree(folder: str = "net") -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir())


# ---- a folder --------------------------------------------------------------------------------------------------------


def test_a_folder_is_the_network(saved: torch.nn.Module) -> None:
    assert tree() == TREE
    found = composer.from_pretrained("net")
    assert not found.training
    assert found.state_dict().keys() == saved.state_dict().keys()
    x = torch.randn(2, 1, 16, 24)
    assert torch.equal(found(x), saved(x))
    again = composer.load("net").build(weights="net").eval()  # a folder is a blueprint, and a file of weights
    assert torch.equal(again(x), saved(x))
    small = composer.from_pretrained("net", **{"image.pad": "auto"})
    assert small(torch.zeros(1, 1, 13, 11)).shape == (1, 2, 13, 11)


def test_what_is_written_says_what_it_is(saved: torch.nn.Module) -> None:
    config = json.loads(Path("net/config.json").read_text())
    assert config["params"]["widths"] == [4, 8]
    assert config["parameters"] == sum(p.numel() for p in saved.parameters())
    assert config["distributions"] == {"blueprint-composer": composer.__version__}
    assert config["outputs"] == {"logits": "(B, 2, H, W)"}
    assert config["label2id"] == {"background": 0, "ball": 1}
    card = huggingface_hub.ModelCard.load("net/README.md")
    assert card.data.library_name == "blueprint-composer"
    assert "arXiv:1505.04597" in card.text
    assert "extends" not in Path("net/blueprint.yaml").read_text()


def test_opening_runs_nothing_and_needs_no_hub(saved: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    Path("net/modeling.py").write_text("raise SystemExit")
    assert isinstance(composer.from_pretrained("net"), torch.nn.Module)


def test_a_folder_is_replaced_whole_and_its_card_stays(saved: torch.nn.Module) -> None:
    Path("net/README.md").write_text("# Mine\n")
    made(widths=[2, 4]).save_pretrained("net")
    assert tree() == TREE
    assert Path("net/README.md").read_text() == "# Mine\n"
    assert composer.from_pretrained("net").state_dict()["head.weight"].shape[1] == 2
    assert os.listdir() == ["net"]


@pytest.mark.parametrize("step", ["composer.pretrained.save_file", "composer.pretrained.card", "os.rename"])
def test_nothing_is_ever_half_written(step: str, saved: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in Path("net").iterdir()}
    renamed, calls = os.rename, []

    def fails(*args: object) -> None:
        calls.append(args)
        if step != "os.rename" or len(calls) == 2:  # the old folder is away, and the new one cannot take its place
            raise OSError("disk full")
        renamed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(step, fails)
    with pytest.raises(BlueprintError, match="disk full"):
        made(widths=[2, 4]).save_pretrained("net")
    assert {p.name: p.read_bytes() for p in Path("net").iterdir()} == before
    assert os.listdir() == ["net"]


def test_what_is_somebody_elses_stays(saved: torch.nn.Module) -> None:
    Path("net/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    assert "error[BP806]" in (said := refused(lambda: saved.save_pretrained("net")))
    assert "it holds other files: notes.txt" in said
    assert "it is a file" in refused(lambda: saved.save_pretrained("file"))
    Path("here").mkdir()
    os.chdir("here")
    assert "the folder that you are in" in refused(lambda: saved.save_pretrained("."))
    saved.save_pretrained("../new/net")
    assert tree("../new/net") == TREE


def test_labels_name_all_classes(saved: torch.nn.Module) -> None:
    said = refused(lambda: saved.save_pretrained("other", labels=["a", "b", "c"]))
    assert "error[BP834]: 3 labels do not name the 2 classes of `unet`" in said
    assert not Path("other").exists()


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_named(saved: torch.nn.Module) -> None:
    tensors = load_file("net/model.safetensors")
    wrong = {k: v for k, v in tensors.items() if k != "head.bias"}
    wrong |= {"head.bais": tensors["head.bias"], "head.weight": tensors["head.weight"][:1].clone()}
    save_file(wrong, "net/model.safetensors")
    said = refused(lambda: composer.from_pretrained("net"))
    assert "error[BP703]" in said
    assert "net/model.safetensors" in said
    assert "missing: `head.bias`" in said
    assert "unexpected: `head.bais`, did you mean `head.bias`" in said.replace("; did", ", did")
    assert "another shape: `head.weight` (1, 4, 1, 1), the network has (2, 4, 1, 1)" in said


def test_a_folder_that_is_none(saved: torch.nn.Module) -> None:
    Path("net/config.json").write_text("{")
    assert "config.json cannot be read" in refused(lambda: composer.from_pretrained("net"))
    for text in ('{"format": 2}', "[]", '{"format": 1, "id2label": {"a": "b"}}'):
        Path("net/config.json").write_text(text)
        assert "error[BP835]: `net` is no folder of a saved network" in refused(lambda: composer.from_pretrained("net"))
    Path("net/model.safetensors").unlink()
    assert "it has no model.safetensors" in refused(lambda: composer.from_pretrained("net"))
    assert "is no folder with config.json" in refused(lambda: composer.from_pretrained("net/README.md"))
    assert "error[BP835]: there is no folder `nowhere`" in refused(lambda: composer.from_pretrained("nowhere"))


def test_a_missing_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "blueprint: 1\nname: net\ninputs: {image: {type: B 1 H W, size: [8, 8]}}\n"
    text += "graph:\n  gate: toy.gate\noutputs: {y: gate}\n"
    shipped = Registry.discover()
    toys = Plugin("toy", "toy-plugin", "1.0", ("toy.gate",))
    known = Registry(
        {**shipped.blocks, "toy.gate": Gate}, plugins=(*shipped.plugins, toys), owners={**shipped.owners, "toy.gate": toys}
    )  # fmt: skip
    composer.Blueprint.parse(text, known).build().save_pretrained("net")
    assert "requires: [toy-plugin>=1.0]" in Path("net/blueprint.yaml").read_text()
    assert isinstance(composer.from_pretrained("net", known), torch.nn.Module)
    said = refused(lambda: composer.from_pretrained("net"))
    assert "error[BP103]: this blueprint requires the plugin `toy-plugin>=1.0`, which is not installed" in said
    assert "pip install 'toy-plugin>=1.0'" in said


# ---- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(saved: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of huggingface_hub in which `lab/heart` was downloaded before."""
    root, commit = Path("cache").absolute(), "a" * 40
    home = root / "models--lab--heart"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots").mkdir()
    Path("net").rename(home / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    return root


def test_a_repository_comes_from_the_hubs_cache(cache: Path, saved: torch.nn.Module) -> None:
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(composer.from_pretrained("lab/heart", offline=True)(x), saved(x))
    said = refused(lambda: composer.from_pretrained("lab/hart", offline=True))
    assert "error[BP836]: there is no folder `lab/hart`, and the hub does not give it" in said


def test_only_the_files_of_a_network_are_downloaded(saved: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def snapshot_download(repository: str, **options: object) -> str:
        asked.update(options, repository=repository)
        return str(Path("net").absolute())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    composer.from_pretrained("lab/heart", revision="v2")
    patterns = list(folders.FILES)
    assert asked == dict(repository="lab/heart", revision="v2", local_files_only=False, allow_patterns=patterns)


def test_a_network_is_pushed(saved: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    def upload_folder(**options: object) -> str:
        done.append((options["repo_id"], tree(str(options["folder_path"])), options["commit_message"]))
        return "https://hub/lab/heart/commit/1"

    def create_repo(name: str, **options: object) -> None:
        if name == "lab/taken":
            raise ValueError("403 Forbidden")
        done.append((name, options))

    api = SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert hub.push_to_hub(saved, "lab/heart", labels=LABELS, private=True) == "https://hub/lab/heart/commit/1"
    assert done == [("lab/heart", {"private": True, "exist_ok": True}), ("lab/heart", TREE, "unet")]
    said = refused(lambda: hub.push_to_hub(saved, "lab/taken"))
    assert "error[BP836]: the hub did not take `lab/taken`" in said
    assert "ValueError: 403 Forbidden" in said


def test_without_the_hub_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = refused(lambda: composer.from_pretrained("lab/heart"))
    assert "error[BP836]: the hub needs the package huggingface_hub" in said
    assert "pip install 'blueprint-composer[hub]'" in said


# ---- commands --------------------------------------------------------------------------------------------------------


def test_a_folder_stands_where_a_blueprint_does(saved: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(0).normal(size=(20, 18, 3)).astype(np.float32)
    nibabel.Nifti1Image(image, np.eye(4)).to_filename("a.nii.gz")
    assert run(["run", "net", "a.nii.gz", "-o", "by_folder.nii.gz"]) == 0
    out = capsys.readouterr().out
    assert "untrained" not in out
    words = ["unet", "a.nii.gz", "size=[16,16]", "widths=[4,8]", "--weights", "net/model.safetensors"]
    assert run(["run", *words, "-o", "by_name.nii.gz"]) == 0
    one, other = (np.asarray(nibabel.load(f"by_{n}.nii.gz").dataobj) for n in ("folder", "name"))
    assert np.array_equal(one, other)
    assert len(np.unique(one)) == 2
    assert run(["check", "net"]) == 0
    assert "unet: no mistakes" in capsys.readouterr().out
    assert folders.labels_of("net") == LABELS


def test_a_folder_is_exported(
    saved: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "net", "--hub", "copy"]) == 0
    said = capsys.readouterr().out
    assert "wrote copy: unet on image (B, 1, 16, 16)" in said
    assert "random" not in said
    assert Path("copy/model.safetensors").read_bytes() == Path("net/model.safetensors").read_bytes()
    assert folders.labels_of("copy") == LABELS
    assert run(["export", "net", "--monai-bundle", "bundle"]) == 0
    (pred,) = json.loads(Path("bundle/configs/metadata.json").read_text())["network_data_format"]["outputs"].values()
    assert pred["channel_def"] == {"0": "background", "1": "ball"}
    Path("copy/notes.txt").write_text("mine")
    assert run(["export", "net", "--hub", "copy"]) == 1
    assert "cannot write" in capsys.readouterr().err
