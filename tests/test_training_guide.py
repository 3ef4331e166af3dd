"""Every step of `docs/training.md` is run, and what it says a command prints is what the command prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_training import ball

from composer.cli.main import run

pytest.importorskip("lightning")
GUIDE = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.M | re.S)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.*:FutureWarning")
def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for k in range(3):
        ball(folder, f"b{k}", k)
    for language, body in FENCES:
        if language == "yaml":
            (folder / "list.yaml").write_text(body)
        elif language == "python":
            exec(compile(body, "guide.py", "exec"), {})
        for part in re.split(r"^\$ ", body, flags=re.M)[1:] if language == "console" else ():
            command, _, shown = part.partition("\n")
            assert run(shlex.split(command)[1:]) == 0
            printed = capsys.readouterr().out
            assert [line for line in shown.splitlines() if line.strip() and line not in printed] == [], printed
