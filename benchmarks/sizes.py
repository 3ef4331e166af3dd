"""Every shipped blueprint and preset at the sizes 1..300 of each axis, by its rules and by running it on `meta`.

Beyond that, sizes beside the ends of the valid ones up to 1024, and random sizes of all axes at once. Prints the valid
sizes of each, and how often the rules and the network disagree; exit status 1 where they do once. `make sizes`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from feeding import Feeder, disagreements, edges, pairs

import composer
from composer.blueprint import is_fragment, shipped
from composer.sizes import summary

PAIRS = 60
ROW = "{:<28}{:>7}{:>9}{:>15}  {}"


def names() -> list[str]:
    """All shipped blueprints and their presets."""
    found = [n for n, f in sorted(shipped().items()) if not is_fragment(f)]
    return [f"{n}:{p}" if p else n for n in found for p in ("", *composer.load(n).presets)]


def sizes(feeder: Feeder, limit: int, seed: int) -> Iterator[dict[str, int]]:
    """What is tried."""
    for axis in feeder.base:
        for n in sorted({*range(1, limit + 1), *edges(feeder, axis, seed)}):
            yield {**feeder.base, axis: n}
    yield from pairs(feeder, seed, PAIRS)


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blueprints", nargs="*", help="all without")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="make every call, also those that were made before")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(ROW.format("blueprint", "sizes", "seconds", "disagreements", "valid, the other axes as it is built"))
    bad = total = 0
    for name in asked.blueprints or names():
        for full in (False, True):
            start, feeder = time.perf_counter(), Feeder(name, full=full)
            if full and not feeder.given:
                continue
            tried = list(sizes(feeder, asked.limit, asked.seed))
            found = list(disagreements(feeder, iter(tried), plain=asked.plain))
            said = "; ".join(summary(feeder.program.constraints, feeder.base)) or "any"
            label = f"{name} +{','.join(sorted(feeder.given))}" if full else name
            print(ROW.format(label, len(tried), f"{time.perf_counter() - start:.1f}", len(found), said), flush=True)
            for line in found[:5]:
                print(f"    {line}", flush=True)
            bad, total = bad + len(found), total + len(tried)
    print(f"{total} sizes, {bad} disagreements.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
