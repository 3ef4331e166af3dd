"""Every step of `docs/sharing.md` is run, and what it says a command prints is what the command prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import pytest
from guides import DOCS, follow
from test_training import ball

import composer

pytest.importorskip("ignite")


@pytest.mark.filterwarnings("ignore")  # MONAI's, of every configuration that it parses
def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sharing"
    (folder / "images").mkdir(parents=True)
    monkeypatch.chdir(folder)
    shutil.copy(DOCS.parent / "blueprints" / "weights" / "unet_demo.safetensors", "weights.safetensors")
    image, _ = ball(folder, "brain")
    shutil.copy(image, folder / "images")
    follow("sharing.md", capsys)
    assert nibabel.load("found/brain_seg.nii.gz").shape == nibabel.load(image).shape
    assert isinstance(composer.from_pretrained("heart"), composer.module.Network)
