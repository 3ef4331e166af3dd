"""The steps of a network as one list, whatever is given to it and whether it trains.

A program has an alternative for each choice of optional inputs, and each has outputs for training alone. Here all of
them are one: the steps of the alternative with every input, each with the conditions under which it runs; a value that
is not computed is None. That holds where every alternative is a part of that one, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from composer.addresses import is_prefix
from composer.eject.recording import UnsaidError
from composer.inference import Program, ProgramOutput, Step, is_move
from composer.liveness import ids_of, needed

TRAINING = "training"
"""The condition that is no input's name."""


@dataclass(frozen=True)
class Flow:
    """`steps` with, for each value, the conditions under which there is one."""

    program: Program
    steps: tuple[Step, ...]
    when: Mapping[int, frozenset[str]] = field(repr=False)
    lists: frozenset[int] = frozenset()
    """Values that are lists of maps."""

    def type_of(self, value: int) -> str:
        """The type of a value, as an annotation."""
        return "list[Tensor]" if value in self.lists else "Tensor"


def flow(program: Program) -> Flow:
    """The one list. Raises `UnsaidError` where the alternatives are different networks."""
    everything = max(program.alternatives.items(), key=lambda a: len(a[0]), default=(frozenset(), program))[1]
    steps = _live(everything, everything.outputs)
    runs = {frozenset[str](): program, **program.alternatives}
    present: dict[int, set[frozenset[str]]] = {i: set() for s in steps for i in s.outputs}
    for given, each in runs.items():
        for value in _made(steps, everything, each, given):
            present[value].add(given)
    at_evaluation = {id(s) for s in _live(everything, [o for o in everything.outputs if not o.training])}
    when = {i.id: frozenset({i.name} if i.optional else ()) for i in everything.inputs}
    for step in steps:
        for value in step.outputs:
            found = present[value]
            needs = frozenset.intersection(*found)
            if found != {given for given in runs if needs <= given}:
                raise UnsaidError(f"`{step.address}` runs for some inputs in a way that no one condition says")
            when[value] = needs if id(step) in at_evaluation else needs | {TRAINING}
    return _bundled(Flow(everything, tuple(_early(steps)), when))


def _bundled(found: Flow) -> Flow:
    """The maps of several scales as one value, a list, where everybody reads all of them."""
    delivered = {i for o in found.program.outputs for i in ids_of(o.ids)}
    whole = {
        s.outputs for s in found.steps if is_move(s.module) and s.keys is not None and not delivered & set(s.outputs)
    }
    for step in found.steps:
        for _, value in step.inputs:
            if not (isinstance(value, tuple) and value in whole):
                whole -= {w for w in whole if set(w) & _flat(value)}
    steps = tuple(_in_one(s, whole) for s in found.steps)
    return replace(found, steps=steps, lists=frozenset(w[0] for w in whole))


def _in_one(step: Step, whole: set[tuple[int, ...]]) -> Step:
    inputs = tuple((port, value[0] if value in whole else value) for port, value in step.inputs)
    if step.outputs in whole:
        return replace(step, inputs=inputs, outputs=step.outputs[:1], keys=None)
    return replace(step, inputs=inputs)


def _early(steps: Sequence[Step]) -> list[Step]:
    """The steps, a change of layout that several nodes read being made before the first of them, not in it."""
    found = list(steps)
    for step in steps:
        readers = [s for s in steps if set(step.outputs) & set(s.reads)] if is_move(step.module) else []
        addresses = [s.address.split(".") for s in readers if not is_move(s.module)]
        if len(addresses) > 1:
            common = sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*addresses, strict=False)))
            first = ".".join(addresses[0][: common + 1])
            place = found.index(step)
            target = place
            while target and _within(found[target - 1], first) and not set(found[target - 1].outputs) & set(step.reads):
                target -= 1
            found.insert(target, found.pop(place))
    return found


def _within(step: Step, node: str) -> bool:
    return is_move(step.module) or is_prefix(node, step.address)


def _live(program: Program, outputs: Iterable[ProgramOutput]) -> list[Step]:
    wanted = needed(program.steps, (i for o in outputs for i in ids_of(o.ids)))
    return [s for s in program.steps if wanted & set(s.outputs) and not s.unused]


def _made(steps: Sequence[Step], everything: Program, other: Program, given: frozenset[str]) -> Iterator[int]:
    """The values of an alternative, by their numbers in the one with every input."""
    mine = {i.id: e.id for i, e in zip(other.inputs, everything.inputs, strict=True)}
    known = {mine[i.id] for i in other.inputs if not i.optional or i.name in given}
    place = 0
    for step in _live(other, other.outputs):
        while place < len(steps) and not _alike(step, steps[place], mine, known):
            place += 1
        if place == len(steps):
            raise UnsaidError(f"`{step.address}` is another part where optional inputs are left out")
        theirs = dict(zip(_keys(steps[place]), steps[place].outputs, strict=True))
        mine.update((i, theirs[key]) for key, i in zip(_keys(step), step.outputs, strict=True))
        known.update(mine[i] for i in step.outputs)
        yield from (mine[i] for i in step.outputs)
        place += 1


def _keys(step: Step) -> tuple[Any, ...]:
    return (None,) if step.keys is None else step.keys


def _alike(step: Step, other: Step, mine: Mapping[int, int], known: set[int]) -> bool:
    """Whether a step of an alternative is this one, less what is not given."""
    if _place(step) != _place(other) or step.block != other.block or not set(_keys(step)) <= set(_keys(other)):
        return False
    given = dict(step.inputs)
    return all(
        {mine[i] for i in _flat(given.get(port)) if i in mine} == _flat(value) & known for port, value in other.inputs
    )


def _place(step: Step) -> tuple[str, str]:
    """The address of a step and that of its module; a step of the compiler's own has a number besides."""
    words = step.address.partition("+")
    return (words[0], words[1]) if is_move(step.module) else (step.address, step.module)


def _flat(value: Any) -> set[int]:
    return set() if value is None else set(value) if isinstance(value, (tuple, list)) else {value}
