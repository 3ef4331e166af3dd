"""A case from beginning to end: times under each allocator, and the peaks of both networks."""

from __future__ import annotations

from collections.abc import Iterator

from composer.bench.case import Case
from composer.bench.processes import fresh
from composer.bench.report import Found


def compared(case: Case, allocators: tuple[str, ...] = ("default",), memory: bool = True) -> Iterator[Found]:
    """One result for each allocator, as they come. Without memory and tuning, all of it happens in this process."""
    from composer.bench.peaks import peak
    from composer.bench.times import timed

    if not memory and allocators == ("default",):
        yield Found("default", timed(case))
        return
    for name in allocators:
        tuned = name == "tuned"
        times = fresh(timed, case, tuned=tuned)
        peaks = [fresh(peak, case, ours, tuned=tuned) for ours in (True, False)] if memory else [None, None]
        yield Found(name, times, *peaks)
