"""What blueprints say about how they learn: every network that segments has a recipe, and it is the one in use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_training import listed

import composer
from composer import blueprint as stage
from composer.cli.main import run
from composer.training.recipe import Recipe, recipe

OTHERS = {"vit", "swin", "resnet", "transformer", "detr", "deformable_detr"}
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
