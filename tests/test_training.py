"""Training: data are checked before anything starts, a network learns, and a run that is killed goes on as if it had
not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import composer
from composer.cli.main import run
from composer.training import cases, store
from composer.training.recipe import Recipe, recipe
from composer.weights import load_file

pytest.importorskip("lightning")
from composer.lightning import Segmentation
from composer.training.objective import Objective, leaves
from composer.training.patches import Patches

SIZE = (18, 20, 18)
NET = ["unet:demo", "size=[16,16,16]", "widths=[4,8]"]


def ball(folder: Path, name: str, seed: int = 0, size: tuple[int, ...] = SIZE) -> tuple[Path, Path]:
    """A noisy image with a bright ball, and where the ball is."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
    centre = rng.integers(6, 12, 3)[:, None, None, None]
    inside = ((grid - centre) ** 2).sum(0) < 25
    image = rng.normal(0, 0.5, size) + 3 * inside
    files = folder / f"{name}.nii.gz", folder / f"{name}_labels.nii.gz"
    for file, voxels in zip(files, (image.astype(np.float32), inside.astype(np.uint8)), strict=True):
        nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(file)
    return files


def listed(folder: Path, count: int = 4, **more: object) -> Path:
    """A YAML list of balls."""
    pairs = [ball(folder, f"b{k}", k) for k in range(count)]
    document = {"labels": ["background", "ball"], "cases": [{"image": i.name, "label": m.name} for i, m in pairs]}
    path = folder / "list.yaml"
    path.write_text(json.dumps({**document, **more}))
    return path


def asked(data: Path, out: Path, *more: str, epochs: int = 2) -> list[str]:
    words = ["--data", str(data), "--out", str(out), "--epochs", str(epochs), "--steps", "3", "--device", "cpu"]
    return ["train", *NET, *words, *more]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(words) == 1
    return capsys.readouterr().err


# ---- it learns -------------------------------------------------------------------------------------------------------


def test_a_network_learns_and_everything_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*asked(listed(tmp_path), tmp_path / "run", epochs=12), "--lr", "0.02", "--recipe", "rotate=0"]) == 0
    said = capsys.readouterr().out
    assert "set for the data: classes=2" in said
    assert "3 training, 1 validation" in said
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert set(rows[0].split(",")) == {"epoch", "dice/ball", "dice", "loss", "lr"}
    losses = [float(r.split(",")[rows[0].split(",").index("loss")]) for r in rows[1:]]
    assert losses[-1] < 0.75 * losses[0]
    assert {"best.safetensors", "last.safetensors", "last.ckpt", "run.json", "blueprint.yaml"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


KILLED = """
import os, signal, sys
from composer.cli.main import run
from composer.training import engine

kept = engine.Keeper.on_train_batch_end
def dies(self, trainer, module, outputs, batch, number):
    kept(self, trainer, module, outputs, batch, number)
    if trainer.current_epoch == 1 and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
engine.Keeper.on_train_batch_end = dies
sys.exit(run(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With dropout, whose drawn numbers have to be the same too; killed in the middle of the second epoch of three."""
    data = listed(tmp_path)
    words = ["down.*.convs.drop={use: dropout, rate: 0.3}"]
    whole, cut = (asked(data, tmp_path / name, *words, epochs=3) for name in ("whole", "cut"))
    assert run(whole) == 0
    died = subprocess.run([sys.executable, "-c", KILLED, *cut], capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len((tmp_path / "cut" / "metrics.csv").read_text().splitlines()) == 2
    capsys.readouterr()
    assert run(cut) == 0
    assert "going on with epoch 2" in capsys.readouterr().out
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "cut" / "metrics.csv").read_text()


def test_a_finished_run_asks_for_nothing_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = asked(listed(tmp_path), tmp_path / "run", epochs=1)
    assert run(words) == 0
    before = (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns
    assert run(words) == 0
    assert (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns == before


def test_another_question_is_not_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = listed(tmp_path)
    assert run(asked(data, tmp_path / "run", epochs=1)) == 0
    said = refused([*asked(data, tmp_path / "run", epochs=1), "--lr", "0.5"], capsys)
    assert "BP825" in said
    assert "recipe.lr: it has 0.001, asked for is 0.5" in said


# ---- what is wrong with data is said before ---------------------------------------------------------------------------


Spoil = Callable[[Path, Path], None]


def _edit(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    image = nibabel.load(path)
    nibabel.Nifti1Image(change(np.asarray(image.dataobj)), image.affine if affine is None else affine).to_filename(path)


def _set(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.float32)
        voxels[0, 0, 0] = value
        return voxels

    return change


WRONG: dict[str, tuple[Spoil, str, str]] = {
    "a class beyond": (lambda i, m: _edit(m, _set(7)), "BP822", "values that are no class: 7 (1 voxel)"),
    "half a class": (lambda i, m: _edit(m, _set(0.5)), "BP822", "0.5"),
    "another shape": (lambda i, m: _edit(m, lambda v: v[1:]), "BP821", "17 × 20 × 18"),
    "another place": (lambda i, m: _edit(m, lambda v: v, np.diag([1, 1, 2, 1.0])), "BP821", "mm apart"),
    "NaN": (lambda i, m: _edit(i, _set(np.nan)), "BP803", "NaN"),
    "missing": (lambda i, m: m.unlink(), "BP820", "has no file"),
    "cut off": (lambda i, m: m.write_bytes(m.read_bytes()[:-40]), "BP801", "cannot be read"),
    "no image": (lambda i, m: i.write_bytes(b"nothing"), "BP801", "cannot be read"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_data_are_refused_with_their_place_in_the_list(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, code, words = WRONG[what]
    data = listed(tmp_path)
    spoil(tmp_path / "b1.nii.gz", tmp_path / "b1_labels.nii.gz")
    said = refused(asked(data, tmp_path / "run"), capsys)
    assert f"error[{code}]" in said
    assert words in said
    assert f"{data}:1:" in said
    assert not (tmp_path / "run" / "run.json").exists()


def test_an_absent_class_and_empty_masks_are_nothing_to_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = listed(tmp_path, labels=["background", "ball", "cube"])
    assert "no training image shows `cube`" in refused(asked(data, tmp_path / "run"), capsys)
    for k in range(4):
        _edit(tmp_path / f"b{k}_labels.nii.gz", np.zeros_like)
    assert "every label map for training is empty" in refused(asked(listed_again(tmp_path), tmp_path / "run"), capsys)


def listed_again(folder: Path) -> Path:
    document = json.loads((folder / "list.yaml").read_text())
    (folder / "list.yaml").write_text(json.dumps({**document, "labels": ["background", "ball"]}))
    return folder / "list.yaml"


def test_a_patch_fits_the_images_or_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = listed(tmp_path)
    big = [w for w in asked(data, tmp_path / "run", epochs=1) if not w.startswith("size=")]
    assert run(big) == 0  # built for 48: the largest valid patch of these images is taken
    assert "size=[18,20,18]" in capsys.readouterr().out
    said = refused(["train", "unet:demo", "size=[64,64,64]", "--data", str(data), "--out", str(tmp_path / "b")], capsys)
    assert "BP824" in said
    assert "64 × 64 × 64" in said


def test_a_full_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from composer.training import engine

    data = listed(tmp_path)
    assert run(asked(data, tmp_path / "run", epochs=2)) == 0
    before = (tmp_path / "run" / "last.ckpt").read_bytes()

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.pl.Trainer, "save_checkpoint", full)
    said = refused(asked(data, tmp_path / "other", epochs=2), capsys)
    assert "BP806" in said
    assert "No space left" in said
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
    assert not (tmp_path / "other" / "last.ckpt").exists()


def test_a_loss_that_is_no_number_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(
        [*asked(listed(tmp_path), tmp_path / "run"), "--lr", "1e30", "--recipe", "clip=0", "--recipe", "warmup=0"],
        capsys,
    )
    assert "BP827" in said


def test_a_damaged_checkpoint_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = asked(listed(tmp_path), tmp_path / "run", epochs=2)
    assert run(words) == 0
    (tmp_path / "run" / "last.ckpt").write_bytes(b"cut off")
    assert "BP825" in refused(words, capsys)


# ---- lists and recipes ---------------------------------------------------------------------------------------------


def test_msd_and_nnunet_folders_are_read(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for k in range(2):
        image, label = ball(tmp_path, f"c{k}", k)
        os.rename(image, tmp_path / "imagesTr" / f"c{k}_0000.nii.gz")
        os.rename(label, tmp_path / "labelsTr" / f"c{k}.nii.gz")
    two = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(two, indent="\t"))
    found = cases.read(tmp_path)
    assert [c.name for c in found.parts["training"]] == ["c0", "c1"]
    assert (found.labels, found.channels) == (("background", "ball"), ("CT",))
    one = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"}}
    one["training"] = [{"image": f"./imagesTr/c{k}_0000.nii.gz", "label": f"./labelsTr/c{k}.nii.gz"} for k in range(2)]
    (tmp_path / "dataset.json").write_text(json.dumps(one))
    again = cases.read(tmp_path / "dataset.json")
    assert [c.images for c in again.cases] == [tuple(p.parent / p.name for p in c.images) for c in found.cases]


def test_ct_is_scaled_alike_for_all(tmp_path: Path) -> None:
    data = cases.read(listed(tmp_path, channels=["CT"]))
    (scaling,) = store.scalings(data, 1)
    inside = np.concatenate([store.volume_of(c, 1).data[0][store.labels(c) > 0] for c in data.cases])
    assert scaling.how == "fixed"
    assert scaling.mean == pytest.approx(inside.mean(), rel=1e-4)
    assert (scaling.low, scaling.high) == pytest.approx(tuple(np.percentile(inside, (0.5, 99.5))), rel=1e-4)


def test_a_wrong_list_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = listed(tmp_path, split={"validation": ["b9"]})
    said = refused(asked(data, tmp_path / "run"), capsys)
    assert "there is no case `b9`; did you mean `b" in said
    assert f"{data}:1:" in said


def test_recipes_are_layered_and_checked() -> None:
    assert recipe({"lr": 0.1, "epochs": 3}, {"lr": 0.2}, {"lr": None}) == Recipe(lr=0.2, epochs=3)
    with pytest.raises(Exception, match="did you mean `schedule`"):
        recipe({"shedule": "poly"})
    with pytest.raises(Exception, match="greater than 0"):
        recipe({"lr": 0})


# ---- patches and the loss -----------------------------------------------------------------------------------------------


def prepared(folder: Path, view: store.View, count: int = 3) -> list[store.Example]:
    data = cases.read(listed(folder, count))
    return store.prepare(data, view, store.scalings(data, 1), folder / "prepared")


@pytest.mark.parametrize("size", [(8, 8, 8), (18, 20, 18), (16, 12), (1, 1)])
def test_patches_are_the_same_by_number_and_show_what_lies_there(tmp_path: Path, size: tuple[int, ...]) -> None:
    view = store.View(1, 2, size)
    examples = prepared(tmp_path, view)
    still = Recipe(often=0, flip=False, epochs=1, steps=20)
    patches, again = (Patches(examples, view, still, flip=True, position=True) for _ in range(2))
    for number in (0, 7, 39):
        one, other = patches[number], again[number]
        assert all(torch.equal(one[k], other[k]) for k in one)
        assert one["image"].shape == (1, *size)
        assert one["label"].shape == (1, *size)
        assert one["position"].shape == (len(size),)
        at = [
            int(p) + n // 2 - s // 2
            for p, n, s in zip(one["position"], examples[0].label.shape[3 - len(size) :], size, strict=True)
        ]
        cut = tuple(slice(a, a + s) for a, s in zip(at, size, strict=True))
        shown = [
            e.image[0] if len(size) == 3 else e.image[0][z]
            for e in examples
            for z in range(18 if len(size) == 2 else 1)
        ]
        assert any(np.array_equal(s[cut], one["image"][0].numpy()) for s in shown)


def test_changes_move_image_and_labels_alike(tmp_path: Path) -> None:
    view = store.View(1, 2, (16, 16, 16))
    wild = Recipe(often=1, rotate=90, scale=0.3, shift=0.2, bend=2, gamma=0, brightness=0, noise=0)
    patches = Patches(prepared(tmp_path, view), view, wild, flip=True)
    inside, outside = [], []
    for number in range(10):
        patch = patches[number]
        inside.append(patch["image"][patch["label"] == 1])
        outside.append(patch["image"][patch["label"] == 0])
    assert torch.cat(inside).mean() > torch.cat(outside).mean() + 1.5
    assert set(torch.unique(torch.cat([p["label"] for p in (patches[0], patches[1])])).tolist()) <= {0.0, 1.0}


def test_deep_supervision_weighs_each_halving_by_half() -> None:
    labels = torch.randint(0, 3, (2, 1, 8, 8, 8)).float()
    outputs = {"logits": torch.randn(2, 3, 8, 8, 8), "aux": [torch.randn(2, 3, 4, 4, 4), torch.randn(2, 5, 2, 2, 2)]}
    loss = Objective(3)
    small = torch.nn.functional.interpolate(labels, size=(4, 4, 4), mode="nearest-exact")
    wanted = (loss.loss(outputs["logits"], labels) + 0.5 * loss.loss(outputs["aux"][0], small)) / 1.5
    assert torch.allclose(loss(outputs, labels), wanted)


SMALL: dict[str, dict[str, object]] = {
    "nnunet": dict(size=[8, 8, 8], widths=[4, 8], classes=2),
    "fine": dict(
        size=[16, 64, 64],
        cells=[2, 2],
        volume=[16, 128, 128],
        classes=2,
        dim=12,
        depths=[2, 2, 2],
        heads=[2, 2, 4],
        windows=[4, 4, 4],
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_what_a_network_gives_in_training_is_trained(name: str) -> None:
    """Deep supervision, and a second input."""
    network = composer.load(name, **SMALL[name]).build()
    module = Segmentation(network, Recipe(lr=1e-2))
    size = module.size
    batch = {"image": torch.randn(1, 1, *size), "label": torch.randint(0, module.classes, (1, 1, *size)).float()}
    if module.position:
        batch["position"] = torch.tensor([[0.0, -30.0, -30.0]])
    outputs = network.train()(**{k: v for k, v in batch.items() if k != "label"})
    maps = [m for m in leaves(outputs) if m.dim() == 5]
    assert len(maps) > 1
    module.objective(outputs, batch["label"]).backward()
    moved = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"encoder", "decoder", "head"} <= moved


def test_each_channel_of_one_file_is_scaled_by_what_it_is(tmp_path: Path) -> None:
    """A file of three channels of which the second is CT."""
    voxels = np.random.default_rng(0).normal(size=(*SIZE, 3)).astype(np.float32)
    _, label = ball(tmp_path, "b")
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "three.nii.gz")
    document = {"labels": ["background", "ball"], "channels": ["T1", "CT", "noNorm"]}
    document["cases"] = [{"image": "three.nii.gz", "label": label.name}]
    (tmp_path / "list.yaml").write_text(json.dumps(document))
    data = cases.read(tmp_path / "list.yaml")
    found = store.scalings(data, 3)
    assert [s.how for s in found] == ["zscore", "fixed", "none"]
    inside = store.labels(data.cases[0]) > 0
    assert found[1].mean == pytest.approx(voxels[..., 1][inside].mean(), rel=1e-4)
    scaled = store.scaled(store.volume_of(data.cases[0], 3), found)
    assert np.array_equal(scaled.data[2], voxels[..., 2])
