"""Where the time of both networks goes: each of torch's kernels with what it took in ours and in the other one.

What both spend in the same kernels on the same numbers no rewrite can save; a kernel that only one of them runs, or
runs more often, is what a ratio is made of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

from composer.bench.case import Case
from composer.bench.pair import Runner, pair, share
from composer.bench.times import uncollected

Times = dict[str, tuple[float, int]]
"""Seconds and calls by kernel."""

MOST = 12
"""So many kernels are named."""


@dataclass(frozen=True)
class Spent:
    """Seconds of one kernel in one call of ours and of theirs, itself alone, and how often it ran."""

    name: str
    ours: float
    theirs: float
    calls: tuple[int, int]


def profiled(case: Case) -> list[Spent]:
    """Every kernel, that with the most time first. Both networks are warm."""
    if case.threads:
        torch.set_num_threads(case.threads)
    both = pair(case)
    share(both)
    found = [_spent(run) for run in (both.ours, both.theirs)]
    rows = [_row(name, *found) for name in dict.fromkeys([*found[0], *found[1]])]
    return sorted(rows, key=lambda s: -max(s.ours, s.theirs))


def _row(name: str, ours: Times, theirs: Times) -> Spent:
    (mine, first), (other, second) = (f.get(name, (0.0, 0)) for f in (ours, theirs))
    return Spent(name.removeprefix("aten::"), mine, other, (first, second))


def _spent(run: Runner) -> Times:
    """Seconds and calls by kernel."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler says when it starts and stops
    run()
    with uncollected(), profile(use_kineto=False) as seen:
        run()
    return {e.key: (e.self_cpu_time_total / 1e6, e.count) for e in seen.key_averages()}


def lines(rows: Sequence[Spent]) -> Iterator[str]:
    """The table, as people read it: milliseconds, and calls."""
    row = "  {:<36}{:>10}{:>8}{:>10}{:>8}".format
    yield row("kernel, ms and calls", "ours", "", "theirs", "")
    for s in rows[:MOST]:
        yield row(s.name[:35], f"{1e3 * s.ours:.1f}", s.calls[0], f"{1e3 * s.theirs:.1f}", s.calls[1])
    others = (sum(getattr(s, side) for s in rows[MOST:]) for side in ("ours", "theirs"))
    ours, theirs = others
    yield row("all others", f"{1e3 * ours:.1f}", "", f"{1e3 * theirs:.1f}", "")


def reason(rows: Sequence[Spent]) -> str:
    """What most of the time goes into, and which kernels differ most, in a line."""
    whole = sum(s.ours for s in rows) or 1.0
    shares = ", ".join(f"{s.name} {s.ours / whole:.0%}" for s in sorted(rows, key=lambda s: -s.ours)[:3])
    apart = sorted(rows, key=lambda s: s.theirs - s.ours)
    slower, faster = ([s for s in each[:2] if s.ours != s.theirs] for each in (apart, apart[::-1]))
    said = [f"{s.name} {1e3 * (s.ours - s.theirs):+.0f} ms" for s in (*slower, *faster)]
    return f"most in {shares}; beside theirs {', '.join(said)}"
