"""Which steps of a plan are run again in the backward pass instead of being kept: activation checkpointing.

A segment is a run of neighbouring steps below one node. What it reads from outside is kept, what it makes for others is
kept, the rest lives only while the segment runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from composer.addresses import Pattern
from composer.calls import Quick, by_name
from composer.inference import is_move


@dataclass(frozen=True)
class Segment:
    """Steps `start` to `stop`; `again` where they are checkpointed, and then the slots that they `read` from outside,
    `write` for others, and leave empty (`dead`)."""

    start: int
    stop: int
    again: bool = False
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()


def owners(address: str) -> Iterator[str]:
    """The nodes that a step belongs to, outermost first."""
    words = address.partition("+")[0].split(".")
    yield from (".".join(words[: n + 1]) for n in range(len(words)))


def segments(
    addresses: Sequence[str], calls: Sequence[Quick], wanted: Iterable[int], patterns: Sequence[Pattern]
) -> list[Segment]:
    """The plan cut into segments; none where no pattern fits, so that the plan runs as one."""
    named = _adopted([_owner(a, patterns) for a in addresses], [is_move(a) for a in addresses])
    if not any(named):
        return []
    found, start = [], 0
    for owner, group in groupby(named):
        stop = start + len(list(group))
        found.append(_segment(calls, start, stop, set(wanted)) if owner else Segment(start, stop))
        start = stop
    return found


def _owner(address: str, patterns: Sequence[Pattern]) -> str:
    """The outermost node around a step that a pattern names. A step of the compiler's own belongs to nobody."""
    around = () if is_move(address) else owners(address)
    return next((a for a in around if any(p.matches(a) for p in patterns)), "")


def _adopted(named: list[str], moves: Sequence[bool]) -> list[str]:
    """Steps of the compiler's own between two of one node go with these."""
    last, result = "", list(named)
    for k, owner in enumerate(named):
        if not moves[k]:
            if owner and owner == last:
                back = k - 1
                while moves[back]:
                    result[back] = owner
                    back -= 1
            last = owner
    return result


def _segment(calls: Sequence[Quick], start: int, stop: int, wanted: set[int]) -> Segment:
    """`dead` of a call are slots that nobody reads after it."""
    made: dict[int, None] = {}
    reads: dict[int, None] = {}
    dead: set[int] = set()
    for call in map(by_name, calls[start:stop]):
        touched = [*_slots(call.reads), *(i for _, value in call.named for i in _slots(value))]
        reads |= dict.fromkeys(i for i in touched if i not in made)
        made |= dict.fromkeys(call.writes)
        dead |= set(call.dead)
    writes = tuple(i for i in made if i not in dead or i in wanted)
    return Segment(start, stop, True, tuple(reads), writes, tuple(sorted(dead & set(reads))))


def _slots(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    for item in value if isinstance(value, (tuple, list)) else ():
        yield from _slots(item)
