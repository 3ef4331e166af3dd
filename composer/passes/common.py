"""Common sub-expressions: a value that is computed twice from the same things is computed once.

    before   x -> add(code) -> query              after   x -> add(code) -> query
             x -> add(code) -> key                                       -> key

Two steps are the same where their blocks are equal and promise to be `pure`, their inputs are the same values, and
neither has weights or both use one module. In training as at evaluation; of two values that are both outputs none is
given up, since the user may write into one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from composer.inference import Program, Step
from composer.liveness import ids_of


def share_common(program: Program) -> Program:
    """Drop every step that computes what one before it does; who read it reads that one."""
    outputs = {i for o in program.outputs for i in ids_of(o.ids)}
    first: dict[Any, list[Step]] = {}
    same: dict[int, int] = {}
    steps: list[Step] = []
    for step in (_renamed(s, same) for s in program.steps):
        alike = first.setdefault((step.block.name, step.inputs, None if step.block.weightless else step.module), [])
        twin = next((t for t in alike if _is_twin(t, step)), None)
        if twin is None or (outputs & set(step.outputs) and outputs & set(twin.outputs)):
            alike.append(step)
            steps.append(step)
            continue
        same.update(zip(step.outputs, twin.outputs, strict=True))
        outputs |= set(twin.outputs) if outputs & set(step.outputs) else set()
    if not same:
        return program
    named = tuple(replace(o, ids=_mapped(o.ids, same)) for o in program.outputs)
    return replace(program, steps=tuple(steps), outputs=named)


def _is_twin(first: Step, step: Step) -> bool:
    """Whether two steps on the same values compute the same."""
    if first.unused or step.unused or not step.traits.pure:
        return False
    kinds = ((s.block, s.types, s.keys, s.rank, s.layout) for s in (first, step))
    return type(first.block) is type(step.block) and next(kinds) == next(kinds)


def _renamed(step: Step, same: Mapping[int, int]) -> Step:
    if not same or not same.keys() & set(step.reads):
        return step
    return replace(step, inputs=tuple((port, _mapped(value, same)) for port, value in step.inputs))


def _mapped(ids: Any, same: Mapping[int, int]) -> Any:
    """The numbers of values in a structure, those of dropped ones replaced."""
    if isinstance(ids, dict):
        return {k: _mapped(v, same) for k, v in ids.items()}
    if isinstance(ids, (list, tuple)):
        return type(ids)(_mapped(v, same) for v in ids)
    return same.get(ids, ids)
