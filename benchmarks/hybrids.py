"""The shipped hybrids: lines, parameters, and the loss of a few steps of training on pictures of ellipses."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from teaching import HYBRIDS, hybrid, lines, taught

import composer

STEPS = 40
ROW = "{:<26}{:>6}{:>14}{:>12}{:>12}{:>10}"


def main() -> int:
    """Print the table: parameters as shipped, losses of the small one (means of three steps)."""
    print(ROW.format("hybrid", "lines", "parameters", "first loss", f"after {STEPS}", "seconds"))
    for name in HYBRIDS:
        whole = composer.load(name).build(device="meta")
        network, size = hybrid(name)
        start = time.perf_counter()
        losses = taught(network, size, STEPS)
        took = time.perf_counter() - start
        count = f"{sum(p.numel() for p in whole.parameters()):,}"
        first, last = fmean(losses[:3]), fmean(losses[-3:])
        print(ROW.format(name, lines(name), count, f"{first:.3f}", f"{last:.3f}", f"{took:.1f}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
