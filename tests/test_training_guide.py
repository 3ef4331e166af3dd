"""Every step of `docs/training.md` and `docs/pretraining.md` is run, and what they say a command prints is what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from guides import follow
from test_training import ball

pytest.importorskip("lightning")


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.*:FutureWarning")
@pytest.mark.parametrize("name", ["training", "pretraining"])
def test_the_guide(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    for k in range(3):
        ball(folder, f"b{k}", k)
    cases = ", ".join(f"{{image: b{k}.nii.gz, label: b{k}_labels.nii.gz}}" for k in range(3))
    (folder / "list.yaml").write_text(f"labels: [background, ball]\ncases: [{cases}]\n")
    follow(f"{name}.md", capsys)
