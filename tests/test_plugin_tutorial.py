"""Every step of `docs/plugin.md` is run, in order, from an empty folder and in an environment of its own; what it says
a command prints is what the command prints, and what it shows of a file is what stands in the file."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from environments import Environment

from composer.plugins import HOOKS

TUTORIAL = (Path(__file__).parent.parent / "docs" / "plugin.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Step:
    """A command with what is shown below it, or a file with its text."""

    command: str
    shown: str
    file: str = ""


def steps() -> Iterator[Step]:
    for language, body in FENCE.findall(TUTORIAL):
        if language == "console":
            for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
                command, _, shown = part.partition("\n")
                yield Step(command, shown)
        else:
            head, _, text = body.partition("\n")
            yield Step("", text, head.removeprefix("# "))


def test_every_fence_is_a_step_and_every_file_has_a_name() -> None:
    assert TUTORIAL.count("```") == 2 * len(FENCE.findall(TUTORIAL))
    assert {language for language, _ in FENCE.findall(TUTORIAL)} == {"console", "python", "toml", "yaml"}
    assert all(re.fullmatch(r"[\w/]+\.(py|toml|yaml)", s.file) for s in steps() if not s.command)


def test_every_hook_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(register_\w+)`", TUTORIAL, re.M)) == set(HOOKS)


def executed(command: str, environment: Environment, folder: Path) -> subprocess.CompletedProcess[str]:
    """`composer`, `python` and `pip` are those of the environment; pip takes nothing from an index."""
    program, *words = shlex.split(command)
    if program == "composer":
        return environment.composer(*words, at=folder)
    if program == "python":
        return environment.run([environment.python, *words], folder)
    assert program == "pip"
    options = ["--no-deps", "--no-build-isolation", "--no-index"] if words[0] == "install" else []
    pip = [sys.executable, "-m", "pip", "--python", environment.python, "--quiet", "--disable-pip-version-check"]
    return environment.run([*pip, words[0], *options, *words[1:]], folder)


def missing(shown: str, printed: str) -> list[str]:
    """Lines that are shown and not printed."""
    return [line for line in shown.splitlines() if line.strip() and line.rstrip() not in printed]


@pytest.mark.slow
def test_the_tutorial_from_an_empty_folder(tmp_path: Path) -> None:
    environment, folder = Environment.create(tmp_path / "venv"), tmp_path / "work"
    folder.mkdir()
    for step in steps():
        if step.file:
            path = folder / step.file
            if not path.exists() or "Replacement" in step.shown:
                path.write_text(step.shown, encoding="utf-8")
            assert step.shown in path.read_text(encoding="utf-8"), step.file
            continue
        done = executed(step.command, environment, folder)
        said = f"$ {step.command}\n{done.stdout}{done.stderr}"
        assert done.returncode == (1 if "error[" in step.shown else 0), said
        assert missing(step.shown, done.stdout + done.stderr) == [], said
    assert "MyAttention" in (folder / "my_attention" / "my_attention" / "__init__.py").read_text()
