"""What blueprints say about how they learn: every network that segments has a recipe, and it is the one in use."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from test_training import ball, listed

import composer
from composer import blueprint as stage
from composer.cli.main import run
from composer.training.recipe import Recipe, recipe

OTHERS = {"vit", "vit_mae", "swin", "resnet", "transformer", "detr", "deformable_detr"}
"""What classifies, detects or translates."""
LIBRARY = {name: path for name, path in stage.shipped().items() if not stage.is_fragment(path)}
NNUNET = Recipe(
    optimizer="sgd", lr=0.01, momentum=0.99, weight_decay=3e-5, schedule="poly", warmup=0, clip=12, batch=2
)  # fmt: skip


def own(name: str, **more: object) -> Recipe:
    return recipe(composer.load(name, **more).source.get("training"))


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_every_network_that_segments_has_a_recipe(name: str) -> None:
    found = stage.load(name, {}, stage.shipped())
    assert ("training" in found.source) is (name not in OTHERS)
    for preset in found.presets:
        made = stage.load(f"{name}:{preset}", {}, stage.shipped())
        assert recipe(made.source.get("training"))
        assert made.source.get("paper") == found.source.get("paper")


def test_recipes_are_inherited_key_by_key() -> None:
    """By what extends a blueprint with a source of its own, by presets, and by hybrids."""
    assert own("nnunet") == own("nnunet:resenc") == own("nnunet_fine") == own("unet3d") == NNUNET
    assert own("nnformer") == own("glam_nnformer") == own("fine:fixed") == NNUNET
    assert own("unet:demo") == Recipe()
    assert (own("unet:original").optimizer, own("unet:original").batch) == ("sgd", 1)
    assert own("mt_transunet") == own("transunet").model_copy(
        update={"optimizer": "adam", "lr": 1e-5, "weight_decay": 0}
    )
    assert composer.load("fine").source["code"] != composer.load("nnformer").source["code"]


def test_a_recipe_of_a_blueprint_is_used_and_a_wrong_one_has_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over what Composer does without one, and below what the command line says."""
    text = "blueprint: 1\nname: small\nextends: unet:demo\nsource:\n  training: {optimizer: sgd, lr: 0.5, batch: 3}\n"
    (tmp_path / "small.yaml").write_text(text)
    words = ["train", str(tmp_path / "small.yaml"), "size=[8,8,8]", "widths=[2]", "--data", str(listed(tmp_path))]
    words += ["--out", str(tmp_path / "run"), "--epochs", "1", "--steps", "1", "--device", "cpu", "--lr", "0.1"]
    assert run(words) == 0
    found = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (found["optimizer"], found["lr"], found["batch"]) == ("sgd", 0.1, 3)
    (tmp_path / "small.yaml").write_text(text.replace("lr:", "rate:"))
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "a recipe has no `rate`" in said
    assert "small.yaml:5:" in said


# ---- room ------------------------------------------------------------------------------------------------------------


def trained(folder: Path, data: Path, *more: str) -> list[str]:
    words = ["train", "unet:demo", "widths=[4,8]", "--data", str(data), "--out", str(folder), "--device", "cpu"]
    return [*words, "--epochs", "1", "--steps", "1", *more]


@cache
def peak(size: int, batch: int) -> int:
    made = composer.load("unet:demo", size=[size] * 3, widths=[4, 8], classes=2)
    return made.cost(train=True, batch=batch, optimizer="adamw", flops=False).peak.bytes


def test_the_largest_patch_that_has_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of 64 voxels a side are larger than the patch of 48; asked for an amount, the next valid patch, by
    sixteenths of the image, does not fit. What the run has chosen stays when it goes on, whatever it is asked then."""
    (tmp_path / "data").mkdir()
    for k in range(2):
        ball(tmp_path / "data", f"b{k}", k, size=(64, 64, 64))
    cases = [{"image": f"b{k}.nii.gz", "label": f"b{k}_labels.nii.gz"} for k in range(2)]
    data = tmp_path / "data" / "list.yaml"
    data.write_text(json.dumps({"labels": ["background", "ball"], "cases": cases}))
    budget = (peak(56, 2) + peak(58, 2)) // 2
    words = trained(tmp_path / "run", data, "--memory", str(budget))
    assert run(words) == 0
    said = capsys.readouterr().out
    assert "patches of 56 × 56 × 56, 2 at a time: a step takes" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["view"]["size"] == [56, 56, 56]
    assert run(trained(tmp_path / "run", data)) == 0
    assert "patches of 56 × 56 × 56" in capsys.readouterr().out


def test_fewer_at_a_time_before_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the memory of the machine: six patches for a step, three at a time; then two, smaller; what the user gives
    stays, and is refused."""
    from composer.memory import PRETEND
    from composer.training.room import Search
    from composer.training.store import View

    made = composer.load("unet:demo", size=[16, 16, 16], widths=[4, 8], classes=2)
    asked = Recipe(batch=6)

    def room(budget: int, **more: bool) -> tuple[tuple[int, ...], int, int]:
        found = Search(
            made, View(1, 2, (16, 16, 16)), asked, budget, (16, 16, 16), **{"fixed": False, "given": False, **more}
        )
        return found.room().size, found.room().batch, found.room().accumulate

    assert room(peak(16, 6)) == ((16, 16, 16), 6, 1)
    assert room(peak(16, 6) - 1) == ((16, 16, 16), 3, 2)
    assert room(peak(16, 2) - 1)[1:] == (2, 3)
    assert max(room(peak(16, 2) - 1)[0]) < 16
    assert room(peak(16, 2) - 1, fixed=True) == ((16, 16, 16), 6, 1)
    assert room(peak(16, 6) - 1, given=True, fixed=True) == ((16, 16, 16), 6, 1)
    monkeypatch.setenv(PRETEND, str(peak(16, 6) - 1))
    words = trained(tmp_path / "run", listed(tmp_path), "size=[16,16,16]")
    assert run([*words, "--batch", "6"]) == 1
    assert "error[BP706]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_ct_is_scaled_by_is_read_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It took a look at every image; another way to scale is another run."""
    from composer.training import store

    data = listed(tmp_path, 2, channels=["CT"])
    words = trained(tmp_path / "run", data, "size=[8,8,8]")
    assert run(words) == 0
    before = (tmp_path / "run" / "run.json").read_text()

    def never(*given: object) -> None:
        raise AssertionError("percentiles are taken again")

    monkeypatch.setattr(store, "_of_ct", never)
    assert run(words) == 0
    assert (tmp_path / "run" / "run.json").read_text() == before
    assert run([*words, "--normalize", "zscore"]) == 1
    assert "scaling" in capsys.readouterr().err
