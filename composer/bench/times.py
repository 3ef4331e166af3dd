"""Times of two networks in one process: in turn, so that whatever else the machine does meets both alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from composer.bench.case import Case
from composer.bench.pair import Apart, Pair, Runner, apart, pair, turns


@dataclass(frozen=True)
class Times:
    """Seconds of each round, in order, and how far the outputs are apart."""

    label: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    apart: Apart
    threads: int

    @property
    def ratios(self) -> list[float]:
        """How many times as long the other network took, round by round, in rising order."""
        return sorted(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self) -> float:
        return median(self.ratios)


def timed(case: Case) -> Times:
    """Both networks, warm, in turn."""
    if case.threads:
        torch.set_num_threads(case.threads)
    both = pair(case)
    found = apart(both)
    with uncollected():
        rounds = [measured(both, order) for order in turns(case.rounds)]
    ours, others = zip(*rounds, strict=True)
    return Times(both.theirs.label, ours, others, found, torch.get_num_threads())


def measured(both: Pair, order: tuple[int, int]) -> tuple[float, float]:
    """Seconds of ours and of theirs in one round."""
    runs = (both.ours, both.theirs)
    seconds = {k: elapsed(runs[k]) for k in order}
    return seconds[0], seconds[1]


def elapsed(run: Runner) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection in the middle of a call."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
