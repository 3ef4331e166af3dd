"""What was found out about a case: the times, and the peaks of both networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log
from statistics import median
from typing import TYPE_CHECKING, Any

from composer.figures import size

if TYPE_CHECKING:
    from composer.bench.peaks import Peak
    from composer.bench.times import Times

ALLOCATORS = ("default", "tuned")


@dataclass(frozen=True)
class Found:
    """Under one allocator. The peaks are left out where nobody asked."""

    allocator: str
    times: Times
    ours: Peak | None = None
    theirs: Peak | None = None

    @property
    def memory(self) -> float | None:
        """Our peak of tensors over theirs."""
        return self.ours.tensors / self.theirs.tensors if self.ours and self.theirs else None

    def lines(self) -> list[str]:
        """The table, as people read it."""
        label, times = self.times.label, self.times
        row = "  {:<18}{:>12}{:>16}   {}".format
        low, high = times.ratios[0], times.ratios[-1]
        spread = f"{times.ratio:.2f}× ({low:.2f}-{high:.2f} in {len(times.ratios)} rounds)"
        found = [row("", "ours", label, "")]
        found += [row("time", *(f"{milliseconds(t):.3g} ms" for t in (times.ours, times.theirs)), spread)]
        for name, bytes_of in (("peak of tensors", "tensors"), ("growth of process", "resident")):
            pair = [getattr(p, bytes_of) for p in (self.ours, self.theirs) if p is not None]
            if len(pair) == 2 and all(pair):
                found.append(row(name, *map(size, pair), f"{pair[0] / pair[1]:.2f}×"))
        return [line.rstrip() for line in found]

    def to_json(self) -> dict[str, Any]:
        times = self.times
        seconds = {"ours": median(times.ours), "theirs": median(times.theirs)}
        rounds = {"ours": list(times.ours), "theirs": list(times.theirs)}
        speed = {"seconds": seconds, "rounds": rounds, "ratio": times.ratio, "ratios": times.ratios}
        peaks = {n: vars(p) if p else None for n, p in (("ours", self.ours), ("theirs", self.theirs))}
        return {"allocator": self.allocator, "against": times.label, **speed, "peaks": peaks, **vars(times.apart)}


def milliseconds(seconds: Iterable[float]) -> float:
    """The median."""
    return 1e3 * median(seconds)


def difference(found: Found) -> str:
    """How far the networks are apart, in a line."""
    apart = found.times.apart
    if apart.outputs is None:
        return f"not compared: {apart.why}"
    gradients = f", gradients {apart.gradients:.1e} of their length" if apart.gradients is not None else ""
    return f"outputs differ by {apart.outputs:.1e} of the largest number{gradients}"


def geometric(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [log(v) for v in values]
    return exp(sum(logs) / len(logs))
