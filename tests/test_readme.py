"""Every snippet of the README is executed, and what it says a command prints is what the command prints."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from composer.cli.main import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)


def snippets(language: str) -> list[str]:
    return [body for name, body in SNIPPETS if name == language]


def sessions() -> list[tuple[str, str]]:
    """Each command of a console snippet, and the text shown below it."""
    found = []
    for body in snippets("console"):
        for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            found.append((command, shown))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README talks about."""
    (text,) = snippets("yaml")
    (tmp_path / "attentive.yaml").write_text(text)
    broken = text.replace("ratio: 2", "ration: 2")
    (tmp_path / "broken.yaml").write_text(broken)
    gated = next(s for s in snippets("python") if s.startswith("# gated.py"))
    (tmp_path / "gated.py").write_text(gated)
    shutil.copytree(ROOT / "blueprints" / "weights", tmp_path / "blueprints" / "weights")
    data = np.random.default_rng(0).normal(size=(40, 44, 36)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "brain.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "shown"), sessions(), ids=[c for c, _ in sessions()])
def test_commands_print_what_is_shown(
    command: str, shown: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)
    assert words[0] == "composer"
    status = run(words[1:])
    captured = capsys.readouterr()
    assert status == (1 if "error[" in shown else 0), captured.err
    printed = (captured.out + captured.err).strip()
    assert shown.strip() in printed if shown.strip() else printed


def test_python_runs(folder: Path) -> None:
    (snippet,) = [s for s in snippets("python") if "composer.load" in s]
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 4, 224, 224)  # type: ignore[attr-defined]


def test_the_block_fits_every_layer(folder: Path) -> None:
    (command,) = re.findall(r"`composer (check vit [^`]*gated\.py)`", README)
    assert run(shlex.split(command)) == 0


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(snippets("sh")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_the_table_of_commands_names_real_verbs() -> None:
    for verb in set(re.findall(r"`composer (\w+)", README)) - {"VERB"}:
        assert run([verb, "--help"]) == 0


def test_it_fits_and_shows_its_pictures() -> None:
    assert len(README.splitlines()) <= 150
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()
