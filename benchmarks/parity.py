"""Every published network beside the output that its official code computed: `make parity`.

Exit status 1 where an output differs by more than the golden's own tolerance, or a number of parameters is another one.
`--fast` leaves out the published cases of more than 100 GFLOP.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from goldens import Case, stored
from parity import SLOW_FLOPS, Comparison, cases

HEAD = ("model", "case", "largest difference", "tolerance", "parameters", "wanted", "seconds", "")
ROW = "{:<24}{:<11}{:>19}{:>11}{:>14}{:>14}{:>9}  {}"


@dataclass(frozen=True)
class Result:
    """One case: the difference nearest to its tolerance (or beyond it), and the parameters."""

    difference: float
    tolerance: float
    parameters: int
    wanted: int
    fits: bool

    @property
    def good(self) -> bool:
        return self.fits and self.parameters == self.wanted


def compare(model: str, size: str) -> Result:
    """Runs a network on the golden's input with the golden's weights."""
    comparison = Comparison(Case(model, size))
    data = comparison.case.data
    with torch.no_grad():
        outputs = comparison.run(comparison.case.inputs())
    rows, fits = [], True
    for output, entry, atol in zip(outputs, data["outputs"], data["tolerance"]["atol"], strict=True):
        wanted, ours = stored(entry, output)
        fits &= torch.allclose(ours, wanted, atol=atol, rtol=data["tolerance"]["rtol"])
        rows.append((float((wanted - ours).abs().max()), atol))
    difference, tolerance = max(rows, key=lambda row: row[0] / row[1])
    count = sum(p.numel() for p in comparison.network.parameters())
    return Result(difference, tolerance, count, comparison.case.trained, fits)


def chosen(fast: bool, models: list[str]) -> list[tuple[str, str]]:
    """The cases asked for."""
    found = [(m, s) for m, s in cases() if not models or m in models]
    return [(m, s) for m, s in found if not fast or s == "tiny" or Case(m, s).data["flops"] <= SLOW_FLOPS]


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="goldens; all without")
    parser.add_argument("--fast", action="store_true", help="no published case of more than 100 GFLOP")
    asked = parser.parse_args(arguments)
    print(ROW.format(*HEAD))
    bad = 0
    todo = chosen(asked.fast, asked.models)
    for model, size in todo:
        start = time.perf_counter()
        try:
            r = compare(model, size)
        except Exception as fault:  # a case that does not run is a row, not the end of the table
            said, good = [f"{type(fault).__name__}: {fault}".splitlines()[0], "", "", ""], False
        else:
            said = [f"{r.difference:.1e}", f"{r.tolerance:.0e}", f"{r.parameters:,}", f"{r.wanted:,}"]
            good = r.good
        bad += not good
        row = ROW.format(model, size, *said, f"{time.perf_counter() - start:.1f}", "" if good else "BEYOND")
        print(row.rstrip(), flush=True)
    print(f"{len(todo) - bad} of {len(todo)} cases within their tolerance.")
    return 1 if bad or not todo else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
