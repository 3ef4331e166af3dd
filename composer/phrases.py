"""Sizes as a person would say them: `multiples of 32, at least 64`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

SHOWN = 6
"""Runs of sizes that are written out where no rule is simpler."""


def phrase(sizes: Sequence[int], limit: int) -> str:
    """All sizes of 1..limit that are valid, in ascending order, in words."""
    if not sizes:
        return "no size fits while the other axes stay"
    if len(sizes) == sizes[-1] - sizes[0] + 1:
        return _run(sizes[0], sizes[-1], limit)
    return _periodic(sizes, limit) or _listed(sizes, limit)


def _run(first: int, last: int, limit: int) -> str:
    if first == last:
        return f"exactly {first}"
    if last == limit:
        return "any" if first == 1 else f"at least {first}"
    return f"at most {last}" if first == 1 else f"{first} to {last}"


def _periodic(sizes: Sequence[int], limit: int) -> str:
    """Sizes that repeat up to the limit, by their period and how far they may be from its multiples."""
    valid, first = set(sizes), sizes[0]
    starts = [b for a, b in pairwise(sizes) if b != a + 1]
    for period in dict.fromkeys(b - a for a, b in pairwise([first, *starts])):
        if first + period > limit or limit - sizes[-1] >= period:
            continue
        if all((n + period in valid) == (n in valid) for n in range(first, limit - period + 1)):
            return _residues([n for n in sizes if n < first + period], period)
    return ""


def _residues(sizes: Sequence[int], period: int) -> str:
    """One period of sizes, which repeats."""
    first, count = sizes[0], len(sizes)
    if sizes[-1] - first + 1 != count:
        return ""
    least = f", at least {first}" if first > period else ""
    rest = first % period
    if count == 1:
        return f"multiples of {period}{least}" if not rest else f"{rest} plus multiples of {period}{least}"
    if (rest + count - 1) % period == 0:
        return f"multiples of {period}, or up to {count - 1} less{least}"
    return f"multiples of {period}, or up to {count - 1} more{least}" if not rest else ""


def _listed(sizes: Sequence[int], limit: int) -> str:
    runs: list[list[int]] = []
    for n in sizes:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    said = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a} to {b}" for a, b in runs]
    if runs[-1][1] == limit and len(runs) <= SHOWN:
        said[-1] = f"at least {runs[-1][0]}"
    return ", ".join(said[:SHOWN]) + (" …" if len(said) > SHOWN else "")
