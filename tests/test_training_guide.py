"""Every step of `docs/training.md` and `docs/pretraining.md` is run, and what they say a command prints is what it prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_training import ball

from composer.cli.main import run

pytest.importorskip("lightning")
DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.*:FutureWarning")
@pytest.mark.parametrize("name", ["training", "pretraining"])
def test_the_guide(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    for k in range(3):
        ball(folder, f"b{k}", k)
    cases = ", ".join(f"{{image: b{k}.nii.gz, label: b{k}_labels.nii.gz}}" for k in range(3))
    (folder / "list.yaml").write_text(f"labels: [background, ball]\ncases: [{cases}]\n")
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", guide, re.M | re.S):
        if language == "yaml":
            (folder / body.split()[1]).write_text(body)
        elif language == "python":
            exec(compile(body, "guide.py", "exec"), {})
        for part in re.split(r"^\$ ", body, flags=re.M)[1:] if language == "console" else ():
            command, _, shown = part.partition("\n")
            assert run(shlex.split(command)[1:]) == 0
            printed = capsys.readouterr().out
            assert [line for line in shown.splitlines() if line.strip() and line not in printed] == [], printed
