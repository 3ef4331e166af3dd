"""A page of `docs/` is followed step by step in an empty folder, and held to what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from composer.cli.main import run

DOCS = Path(__file__).parent.parent / "docs"


def follow(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Write its YAML to the file that its first line names, run its Python and its commands in their order; each
    command succeeds and prints the lines that stand below it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if language == "yaml":
            Path(body.split()[1]).write_text(body)
        elif language == "python":
            exec(compile(body, "guide.py", "exec"), {})
        for part in re.split(r"^\$ ", body, flags=re.M)[1:] if language == "console" else ():
            command, _, shown = part.partition("\n")
            assert run(shlex.split(command)[1:]) == 0, capsys.readouterr().err
            printed = capsys.readouterr().out
            assert [line for line in shown.splitlines() if line.strip() and line not in printed] == [], printed
