"""Compositions that nobody wrote and mutated files, through the walk: `make fuzz`.

A composition is made from a seed by `composer.testing.composing`. What checks is built and run on `meta`, where every
value must have the shape that its type says; every fourth one may break contracts, and a mistake must have a place. A
mutated file is a shipped blueprint, or a composition, changed at random; `check` passes or says where it is wrong.
Failures are written to fuzz/, with the seed that makes them again: `--start SEED --compositions 1 --files 0`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from composer.compose import Blueprint
from composer.diagnostics import ComposerError
from composer.registry import Registry
from composer.testing import disagreements, mutated, told
from composer.testing.composing import Setting, composed, genes
from composer.writing import dump

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "blueprints").glob("*.yaml"))
SLOW = 2.0
"""Seconds of processor time that no check of 10,000 nodes may take; of more, in proportion."""


@dataclass
class Found:
    """What came of some cases: outcomes by code, failures with their seeds, nodes, blocks, the longest check."""

    cases: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    blocks: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    nodes: int = 0
    longest: float = 0.0

    def add(self, other: Found) -> None:
        self.cases, self.nodes = self.cases + other.cases, self.nodes + other.nodes
        self.counts.update(other.counts)
        self.blocks.update(other.blocks)
        self.failures += other.failures
        self.longest = max(self.longest, other.longest)


def composition(seed: int, found: Found) -> tuple[str, str]:
    """A random composition: its text, and what came of it."""
    at, known = random.Random(seed), Registry.discover()
    free = seed % 4 == 3
    document = composed(genes(at), known, Setting.of(at.randrange(72)), free)
    text = dump(document)
    found.nodes += len(document["graph"])
    blueprint = Blueprint.parse(text, known, name=f"{seed}.yaml")
    said = _timed(found, lambda: blueprint)
    if said != "passes":
        return text, said if free else f"FAILS to check: {said}"
    found.blocks.update({s.block.name for s in blueprint.infer().steps} | {b for b in known.blocks if f": {b}" in text})
    wrong = disagreements(blueprint, training=seed % 2 == 1)
    return text, "FAILS " + "; ".join(wrong) if wrong else said


def file(seed: int, found: Found) -> tuple[str, str]:
    """A mutated file: its text, and what came of it."""
    at, known = random.Random(seed), Registry.discover()
    if seed % 5 == 4:
        text = dump(composed(genes(at), known, Setting.of(at.randrange(72))))
    else:
        text = at.choice(FILES).read_text()
    text = mutated(text, at)
    return text, _timed(found, partial(Blueprint.parse, text, known, None, f"{seed}.yaml"))


def _timed(found: Found, loaded: Callable[[], Blueprint]) -> str:
    """`passes` or codes; a failure where a check takes too long."""
    start = time.process_time()
    said = told(loaded)
    seconds = time.process_time() - start
    found.longest = max(found.longest, seconds)
    slow = seconds > SLOW and seconds > SLOW * _nodes(loaded) / 10_000
    return f"FAILS after {seconds:.1f} s" if slow else said


def _nodes(loaded: Callable[[], Blueprint]) -> int:
    """Nodes of a file, its repeated ones counted each, as far as it can be linked."""
    try:
        program, _ = loaded().attempt()
    except ComposerError:
        return 0
    return len(program.graph.specs) if program else 0


def some(kind: str, seeds: range) -> Found:
    """Many cases of one kind."""
    import torch

    torch.set_num_threads(1)
    found = Found(len(seeds))
    for seed in seeds:
        text = ""
        try:
            text, said = KINDS[kind](seed, found)
        except Exception:
            said = "FAILS " + traceback.format_exc()
        if said.startswith("FAILS"):
            (ROOT / "fuzz").mkdir(exist_ok=True)
            (ROOT / "fuzz" / f"{kind}-{seed}.yaml").write_text(f"{text}# {said}".replace("\n# ", "\n#\n# "))
            found.failures.append(f"{kind} {seed}: {said}")
            found.counts["FAILS"] += 1
        else:
            found.counts.update(said.split())
    return found


KINDS = {"composition": composition, "file": file}


def report(kind: str, seeds: range, jobs: int) -> Found:
    """Runs all seeds on some processes and prints the figures."""
    start, total = time.time(), Found()
    step = max(1, min(250, len(seeds) // (jobs * 4)))
    parts = [seeds[k : k + step] for k in range(0, len(seeds), step)]
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(partial(some, kind), parts):
            total.add(found)
    took = time.time() - start
    rate = f"{total.cases / took:.0f} a second; the longest check took {total.longest:.2f} s"
    print(f"{total.cases:,} {kind}s (seeds {seeds.start} to {seeds.stop - 1}) in {took:.0f} s, {rate}")
    if total.nodes:
        known = Registry.discover().blocks
        seen = {b: total.blocks[b] for b in known if total.blocks[b]}
        rarest = ", ".join(f"{b} {n:,}" for b, n in sorted(seen.items(), key=lambda item: item[1])[:5])
        print(f"  {total.nodes:,} nodes; {len(seen)} of {len(known)} blocks ran, the rarest: {rarest}")
    print("  " + ", ".join(f"{code} {count:,}" for code, count in total.counts.most_common()), flush=True)
    return total


def main() -> int:
    """Prints outcomes, rates and failures; exit status 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compositions", type=int, default=20_000)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    failures: list[str] = []
    for kind, count in (("composition", given.compositions), ("file", given.files)):
        if count:
            failures += report(kind, range(given.start, given.start + count), given.jobs).failures
    for failure in failures[:20]:
        print(failure)
    print(f"{len(failures)} failures" + (", see fuzz/" if failures else ""))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
