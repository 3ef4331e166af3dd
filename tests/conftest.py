"""Random numbers of a test depend on nothing that ran before it; and what a property test did is part of the output:
how many examples it saw."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before fixtures of any scope; a test that needs no torch imports none."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ()) if r.when == "call"]
    rows = [
        (r.nodeid.rpartition("::")[2], value) for r in reports for key, value in r.user_properties if key == "examples"
    ]
    if rows:
        terminalreporter.section("examples of the properties")
        for name, said in sorted(rows):
            terminalreporter.write_line(f"{said:>7,}  {name}")
