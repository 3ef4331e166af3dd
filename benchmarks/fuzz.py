"""Mutated blueprints through `check`: `make fuzz`. Failures are written to fuzz/, with the seed that makes them."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from composer.registry import Registry
from composer.testing import mutated, outcome

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "blueprints").glob("*.yaml"))
SLOW = 2.0
"""Seconds of processor time that no file may take."""


def one(seed: int, folder: Path) -> tuple[str, str, float]:
    """A mutated file: what came of it, its text, and the processor time it took."""
    at = random.Random(seed)
    text = mutated(at.choice(FILES).read_text(), at)
    path = folder / f"{seed}.yaml"
    path.write_text(text)
    start = time.process_time()
    try:
        found = outcome(path, Registry.discover())
        seconds = time.process_time() - start
        if seconds > SLOW:
            found = f"FAILS after {seconds:.1f} s"
        elif found == "passes" and seed % 20 == 0:
            found = outcome(path, Registry.discover(), build=True)
    except Exception:
        found, seconds = "FAILS " + traceback.format_exc(), time.process_time() - start
    if not found.startswith("FAILS"):
        path.unlink()
    return found, text, seconds


def some(seeds: range) -> tuple[Counter[str], list[str], float]:
    """Many files: outcomes by code, failures, and the longest time."""
    folder = ROOT / "fuzz"
    folder.mkdir(exist_ok=True)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    longest = 0.0
    for seed in seeds:
        found, _, seconds = one(seed, folder)
        longest = max(longest, seconds)
        counts.update(found.split() if not found.startswith("FAILS") else ["FAILS"])
        failures += [f"{seed}: {found}"] if found.startswith("FAILS") else []
    return counts, failures, longest


def main() -> int:
    """Prints outcomes, rates and failures; exit status 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    step = max(1, given.files // (given.jobs * 8))
    parts = [
        range(k, min(k + step, given.start + given.files)) for k in range(given.start, given.start + given.files, step)
    ]
    start = time.time()
    counts: Counter[str] = Counter()
    failures: list[str] = []
    longest = 0.0
    with ProcessPoolExecutor(given.jobs) as pool:
        for more, wrong, slowest in pool.map(some, parts):
            counts += more
            failures += wrong
            longest = max(longest, slowest)
    took = time.time() - start
    rate = f"{given.files / took:.0f} a second; the longest took {longest:.2f} s"
    print(f"{given.files:,} mutated files in {took:.0f} s, {rate}")
    for code, count in counts.most_common():
        print(f"  {code:<8}{count:>8,}")
    for failure in failures[:20]:
        print(failure)
    print(f"{len(failures)} failures" + (", see fuzz/" if failures else ""))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
