"""What a property test did is part of the output: how many examples it saw."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ()) if r.when == "call"]
    rows = [
        (r.nodeid.rpartition("::")[2], value) for r in reports for key, value in r.user_properties if key == "examples"
    ]
    if rows:
        terminalreporter.section("examples of the properties")
        for name, said in sorted(rows):
            terminalreporter.write_line(f"{said:>7,}  {name}")
