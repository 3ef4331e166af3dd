"""Every step of `docs/search.md` is run, and what it says a command prints is what the command prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_training import listed

from composer.cli.main import run

pytest.importorskip("lightning")
pytest.importorskip("optuna")
GUIDE = (Path(__file__).parent.parent / "docs" / "search.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(yaml|console)\n(.*?)^```$", GUIDE, re.M | re.S)


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    listed(tmp_path, 2)
    for language, body in FENCES:
        if language == "yaml":
            Path("space.yaml").write_text(body)
        for part in re.split(r"^\$ ", body, flags=re.M)[1:] if language == "console" else ():
            command, _, shown = part.partition("\n")
            assert run(shlex.split(command)[1:]) == 0
            printed = capsys.readouterr().out
            assert [line for line in shown.splitlines() if line.strip() and line not in printed] == [], printed
