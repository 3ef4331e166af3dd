"""Every shipped blueprint, small, in every format, as a Markdown table: `make portability`.

A cell is how far the result is from the network's, as a share of its norm, or why the format refuses it. `--open` also
traces each with the open sizes of its rules, which takes torch much longer, and says which they are. Exit status 1
where anything failed, or was refused that is not listed in tests/portability.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from portability import FORMATS, REFUSED, Outcome, Subject, names, outcome

from composer.exporters.tracing import trace


def cell(subject: Subject, format: str) -> tuple[str, bool]:
    """What stands in the table, and whether it was to be expected."""
    wanted = REFUSED.get((subject.name, format), ("", ""))[0]
    try:
        found = outcome(subject, format)
    except Exception as fault:  # a network that fails is a cell, not the end of the table
        found = Outcome(code="fails", said=f"{type(fault).__name__}: {fault}".splitlines()[0][:120])
    return str(found).replace("|", "\\|"), found.code == wanted


def opened(subject: Subject) -> str:
    """The sizes that stay open, once they were traced."""
    traced = trace(subject.network, subject.shapes)
    return traced.remark


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blueprints", nargs="*", help="all without")
    parser.add_argument("--open", action="store_true", help="trace open sizes too")
    parser.add_argument("--format", action="append", choices=list(FORMATS), help="only this; repeatable")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    formats = asked.format or list(FORMATS)
    columns = ["blueprint", *formats, *(["sizes"] if asked.open else []), "seconds"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    bad = 0
    for name in asked.blueprints or names():
        start, subject = time.process_time(), Subject(name)
        cells = [cell(subject, f) for f in formats]
        bad += sum(not good for _, good in cells)
        said = [c for c, _ in cells] + ([opened(subject)] if asked.open else [])
        print(f"| {' | '.join([f'`{name}`', *said, f'{time.process_time() - start:.1f}'])} |", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
