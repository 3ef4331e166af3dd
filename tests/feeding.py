"""Feeds networks on `meta`, past the check of their input, to see at which sizes they really run.

A size is valid where the network runs on a batch of two, in training and at evaluation, and every output has the shape
that its type promises. (A batch of one is another matter: batch normalization refuses one value per channel.)

On `meta` a call's outcome depends only on what is called and on the shapes it is given. `Feeder` therefore makes each
distinct call once and remembers its outcome, which makes all sizes of all networks affordable; `plain` makes every one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch

import composer
from composer.calls import by_name
from composer.liveness import ids_of, needed
from composer.module import Network, build
from composer.passes import optimize
from composer.sizes import valid

OPEN = 24
"""What the other axes are, where a network says no size that it is built for."""

KNOWN: dict[Any, Any] = {}
"""What came of each distinct call: its result, or its fault."""

NUMBERS: dict[Any, int] = {}
"""What a call is made of, and its number."""


class Feeder:
    """One network on `meta`, with every optional input or with none."""

    def __init__(self, name: str, overrides: Mapping[str, Any] | None = None, *, full: bool = False):
        self.blueprint = composer.load(name, **(overrides or {}))
        program = optimize(self.blueprint.infer(), self.blueprint.registry.passes)
        self.network: Network = build(program, "meta")
        given = frozenset(i.name for i in program.inputs if i.optional and full)
        self.given, self.program = given, (program.alternatives[given] if given else program)
        axes = dict.fromkeys(a for i in program.inputs for a in i.axes)
        self.base: dict[str, int] = {a: program.built.get(a, OPEN) for a in axes if not a.isdigit()}
        self.plans: dict[bool, list[Any]] = {}

    def accepted(self, env: Mapping[str, int]) -> bool:
        """What the rules say of a size."""
        return all(c.holds(env) for c in self.program.constraints)

    def listed(self, axis: str, limit: int) -> set[int]:
        """The valid sizes of an axis, as they are enumerated."""
        return set(valid(self.program.constraints, axis, self.base, limit))

    def fault(self, env: Mapping[str, int], *, plain: bool = False) -> str:
        """What happens at a size: nothing, or the first fault in words."""
        with torch.no_grad():
            return next(filter(None, (self._fault(env, training, plain) for training in (True, False))), "")

    def _fault(self, env: Mapping[str, int], training: bool, plain: bool) -> str:
        self.network.train(training)
        present = [i.name in self.given for i in self.program.inputs if i.optional]
        plan = self.network._plans[training, *present]
        given = [
            torch.empty(2, i.type.channels, *i.type.at(env).grid, device="meta")
            if not i.optional or i.name in self.given
            else None
            for i in self.program.inputs
        ]
        try:
            slots = plan.run(given) if plain else self._run(plan, given, training)
        except Exception as fault:
            return f"{type(fault).__name__}: {fault}"
        return next(self._misshapen(slots, env, training), "")

    def _misshapen(self, slots: list[Any], env: Mapping[str, int], training: bool) -> Iterator[str]:
        for output in self.program.outputs:
            for number in ids_of(output.ids) if training or not output.training else ():
                value = self.program.values[number]
                wanted, got = promised(value.type.at(env), value.layout), tuple(slots[number].shape[1:])
                if wanted != got:
                    yield f"the output `{output.name}` has the shape {got}, its type says {wanted}"

    def _run(self, plan: Any, given: list[Any], training: bool) -> list[Any]:
        """`_Plan.run`, each distinct call once."""
        slots: list[Any] = [None] * plan.size
        for slot, value in zip(plan.inputs, given, strict=True):
            slots[slot] = value
        for call, what in zip(map(by_name, plan.calls), self._calls(training), strict=True):
            values = [_gathered(r, slots) for r in call.reads], {k: _gathered(r, slots) for k, r in call.named}
            made = self._made((what, _shapes(values)), call.home[call.name], *values)
            if isinstance(call.target, int):
                slots[call.target] = made
            else:
                for key, slot in call.target:
                    slots[slot] = made[key]
        return slots

    def _made(self, key: Any, call: Any, values: list[Any], named: dict[str, Any]) -> Any:
        if key not in KNOWN:
            try:
                KNOWN[key] = call(*values, **named), None
            except Exception as fault:
                KNOWN[key] = None, fault
        made, fault = KNOWN[key]
        if fault is not None:
            raise fault
        return made

    def _calls(self, training: bool) -> list[Any]:
        """What each call of a plan is made of: its block, and what it was built from."""
        if training not in self.plans:
            outputs = [o for o in self.program.outputs if training or not o.training]
            live = needed(self.program.steps, (i for o in outputs for i in ids_of(o.ids)))
            steps = [s for s in self.program.steps if live & set(s.outputs) and not s.unused]
            built = tuple(self.program.built.items())
            made = ((training, type(s.block), repr(s.block), str(s.types), built, s.rank, s.layout) for s in steps)
            self.plans[training] = [NUMBERS.setdefault(m, len(NUMBERS)) for m in made]
        found: list[Any] = self.plans[training]
        return found


def promised(type_: Any, layout: str) -> tuple[int, ...]:
    """The shape of a value without its batch."""
    if type_.kind == "vector":
        return (type_.channels,)
    return (
        (type_.channels, *type_.grid) if type_.kind == "map" and layout == "first" else (type_.length, type_.channels)
    )


def _gathered(ids: Any, slots: list[Any]) -> Any:
    if isinstance(ids, (list, tuple)):
        return [_gathered(i, slots) for i in ids]
    return None if ids is None else slots[ids]


def _shapes(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((k, _shapes(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_shapes, value))
    return None if value is None else (tuple(value.shape), value.stride(), value.dtype)


def edges(feeder: Feeder, axis: str, seed: int, count: int = 12) -> set[int]:
    """Sizes beyond 300 on and beside the ends of the valid ones."""
    sizes = sorted(feeder.listed(axis, 1024))
    ends = [n for n in sizes if {n - 1, n + 1} - set(sizes)]
    chosen = random.Random(seed).sample(ends, min(count, len(ends)))
    return {n + d for n in {*chosen, *ends[:2], *ends[-2:]} for d in (-1, 0, 1) if n + d > 0}


def corner(feeder: Feeder) -> dict[str, int]:
    """The smallest size of every axis by itself, all at once: where what is asked of several axes shows."""
    alone = {a: [c for c in feeder.program.constraints if c.symbols == {a}] for a in feeder.base}
    return {a: next(iter(valid(alone[a], a, feeder.base, 1024)), n) for a, n in feeder.base.items()}


def pairs(feeder: Feeder, seed: int, count: int) -> Iterator[dict[str, int]]:
    """Random sizes of all axes at once: valid ones of each axis by itself, their neighbours, and any."""
    rng = random.Random(seed)
    yield corner(feeder)
    listed = {a: sorted(feeder.listed(a, 512)) or [feeder.base[a]] for a in feeder.base}
    for _ in range(count):
        near = {a: max(1, rng.choice(listed[a]) + rng.choice((0, 0, 0, -1, 1))) for a in feeder.base}
        yield {a: n if rng.random() < 0.7 else rng.randint(1, 300) for a, n in near.items()}


def disagreements(feeder: Feeder, sizes: Iterator[Mapping[str, int]], *, plain: bool = False) -> Iterator[str]:
    """Where the rules say one thing and the network does another."""
    for env in sizes:
        fault, accepted = feeder.fault(env, plain=plain), feeder.accepted(env)
        if accepted == bool(fault):
            yield f"{dict(env)}: the rules say {'valid' if accepted else 'invalid'}, " + (fault or "the network runs")
