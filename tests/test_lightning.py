"""`composer.lightning.Segmentation` in a plain Trainer: it fits, validates, keeps a checkpoint, and goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import composer
from composer.training.recipe import Recipe

pytest.importorskip("lightning")
import lightning.pytorch as pl

from composer.lightning import Segmentation

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.*:FutureWarning"),
]
RECIPE = Recipe(lr=1e-2, steps=2, epochs=2)


def module() -> Any:
    torch.manual_seed(0)
    return Segmentation(composer.load("unet:demo", size=[8, 8, 8], widths=[4, 8], classes=2).build(), RECIPE)


def trainer(folder: Path, epochs: int) -> Any:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


def data() -> tuple[Any, Any]:
    """Patches, and a whole case of another size for validation."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 10, 12, 8, generator=generator)
    label = (image[0] > 0).to(torch.uint8)
    patch = {"image": image[:, :8, :8], "label": label[None, :8, :8]}
    case = {"image": image.numpy(), "label": label.numpy()}
    return DataLoader([patch] * 4, batch_size=2), DataLoader([case])


def test_a_plain_trainer_fits_it_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    patches, cases = data()
    whole, first = module(), module()
    trainer(tmp_path / "whole", 2).fit(whole, patches, cases)
    learns = trainer(tmp_path / "cut", 1)
    learns.fit(first, patches, cases)
    assert set(learns.callback_metrics) >= {"loss", "dice", "dice/class 1"}
    (written,) = (tmp_path / "cut").rglob("*.ckpt")
    checkpoint = written.rename(tmp_path / "last.ckpt")
    second = module()
    trainer(tmp_path / "cut", 2).fit(second, patches, cases, ckpt_path=checkpoint)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], value), name
    found = Segmentation.load_from_checkpoint(checkpoint, network=module().network)
    for name, value in first.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value), name
