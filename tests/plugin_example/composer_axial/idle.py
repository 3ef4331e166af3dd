"""A pass: dropout with rate 0 does nothing, and does not run.

    before   conv -> dropout(0) -> norm          after   conv -> norm

The network computes the same, in training too, and has the same `state_dict`, since dropout has no weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from composer import Program


def without_idle_dropout(program: Program) -> Program:
    """The program without those steps; who read them reads what they read."""
    instead: dict[int, int] = {}
    steps = []
    for step in program.steps:
        step = replace(step, inputs=tuple((port, _read(ids, instead)) for port, ids in step.inputs))
        idle = step.block.name == "dropout" and getattr(step.block, "rate", None) == 0
        if idle and len(step.reads) == len(step.outputs) == 1:
            instead[step.outputs[0]] = step.reads[0]
        else:
            steps.append(step)
    outputs = tuple(replace(o, ids=_read(o.ids, instead)) for o in program.outputs)
    return replace(program, steps=tuple(steps), outputs=outputs)


def _read(ids: Any, instead: dict[int, int]) -> Any:
    """Numbers of values, in whatever they stand in, with those that are gone replaced."""
    if isinstance(ids, dict):
        return {key: _read(value, instead) for key, value in ids.items()}
    if isinstance(ids, (list, tuple)):
        return type(ids)(_read(value, instead) for value in ids)
    return instead.get(ids, ids)
