"""Steps at run time: calls on numbered slots.

A plan is a list of plain tuples which its loop takes apart: a named tuple would cost each step 30 ns. Most steps take
one value, as its last reader, and give one; the loop asks for that first and reads nothing else of them. `Call` is the
same by name, for all who make, read or change steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

NAMED, PLAIN, SINGLE = 0, 1, 2
"""How a step is called: with lists or by name; with single values by position; with one value, for one result."""

Quick = tuple[bool, Mapping[str, Any], str, int, Any, tuple[Any, ...]]
"""Whether the step is the last reader of its only value and gives one; home, name, the slot of its only value, target;
and `kind, reads, named, dead, at` of the `Call`."""


class Call(NamedTuple):
    """One step. What it calls is found at home, among the children of its owner, by its name when it is called: that
    costs 30 ns, and a module that is replaced (SyncBatchNorm, adapters, quantization) is really replaced.

    kind    how it is called
    reads   the slots of the required ports; of a list of values a list
    named   those of the others, by name
    target  where the result goes: a slot, or pairs of a key and a slot
    dead    which slots are empty afterwards
    at      the place in the blueprint
    """

    home: Mapping[str, Any]
    name: str
    kind: int
    reads: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    target: Any
    dead: tuple[int, ...]
    at: str

    def quick(self) -> Quick:
        """As plans hold it."""
        single = self.kind == SINGLE
        chain = single and self.dead == self.reads
        rest = (self.kind, self.reads, self.named, self.dead, self.at)
        return chain, self.home, self.name, self.reads[0] if single else -1, self.target, rest

    @property
    def writes(self) -> tuple[int, ...]:
        """The slots of its results."""
        return (self.target,) if isinstance(self.target, int) else tuple(slot for _, slot in self.target)

    def several(self, target: tuple[tuple[Any, int], ...]) -> Call:
        """The call with several results."""
        return self._replace(kind=min(self.kind, PLAIN), target=target)


def by_name(quick: Quick) -> Call:
    """The step of a plan."""
    _, home, name, _, target, (kind, reads, named, dead, at) = quick
    return Call(home, name, kind, reads, named, target, dead, at)


def moved(quick: Quick, to: Callable[..., Any]) -> Quick:
    """The same step, calling something else."""
    chain, _, _, *rest = quick
    return chain, {"": to}, "", *rest


def called(quick: Quick) -> Any:
    """What a step calls."""
    _, home, name, *_ = quick
    return home[name]


def callee(quick: Quick) -> Any:
    """The same where nobody watches."""
    found = called(quick)
    return getattr(found, "__wrapped__", found)


def run(calls: Sequence[Quick], slots: Any) -> None:
    """Run steps on slots, a list or a dictionary of them."""
    rest: Any = ("",)
    try:
        for chain, home, name, read, target, rest in calls:
            if chain:
                slots[target] = home[name](slots[read])
                slots[read] = None
                continue
            kind, reads, named, dead, _ = rest
            if kind == SINGLE:
                slots[target] = home[name](slots[read])
            else:
                if kind == PLAIN:
                    made = home[name](*map(slots.__getitem__, reads))
                else:
                    made = home[name](*gathered(reads, slots), **{k: gathered(v, slots) for k, v in named})
                if type(target) is int:
                    slots[target] = made
                else:
                    for key, slot in target:
                        slots[slot] = made[key]
                made = None  # steps of the other kinds would not let go of it
            for slot in dead:
                slots[slot] = None
    except Exception as fault:
        fault.add_note(f"in the node {rest[-1]}")
        raise


def gathered(ids: Any, slots: Sequence[Any]) -> Any:
    """Values by their slots, in lists and dictionaries as these are."""
    if isinstance(ids, dict):
        return {k: gathered(v, slots) for k, v in ids.items()}
    if isinstance(ids, (list, tuple)):
        return [gathered(v, slots) for v in ids]
    return None if ids is None else slots[ids]
