"""Dead steps: what no output reads, at evaluation or in training, does not run.

    before   image -> conv -> head -> logits          after   image -> conv -> head -> logits
                        └> pool  (nobody reads it)            (pool keeps its weights, and never runs)

The weights stay in the `state_dict`: official checkpoints have parameters that nothing runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from composer.inference import Program, Step


def remove_dead(program: Program) -> Program:
    """Mark the steps that no output needs as unused; steps without weights disappear."""
    wanted = needed(program.steps, (i for o in program.outputs for i in ids_of(o.ids)))
    steps = tuple(s if s.unused or wanted & set(s.outputs) else replace(s, unused=True) for s in program.steps)
    return replace(program, steps=tuple(s for s in steps if not (s.unused and s.block.weightless)))


def needed(steps: Iterable[Step], outputs: Iterable[int]) -> set[int]:
    """Numbers of all values that some values depend on (an address may run twice, so it would not tell)."""
    wanted = set(outputs)
    for step in reversed(tuple(steps)):
        if wanted & set(step.outputs):
            wanted |= set(step.reads)
    return wanted


def ids_of(value: Any) -> list[int]:
    """The numbers of all values in an output."""
    if isinstance(value, dict):
        return [i for v in value.values() for i in ids_of(v)]
    if isinstance(value, (list, tuple)):
        return [i for v in value for i in ids_of(v)]
    return [] if value is None else [value]
