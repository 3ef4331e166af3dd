"""Every step of `docs/training.md` is run, and what it says a command prints is what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from guides import follow
from test_training import ball

pytest.importorskip("lightning")


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.*:FutureWarning")
def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for k in range(3):
        ball(folder, f"b{k}", k)
    follow("training.md", capsys)
