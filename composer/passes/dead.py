"""Dead steps: what no output reads, at evaluation or in training, does not run.

    before   image -> conv -> head -> logits          after   image -> conv -> head -> logits
                        └> pool  (nobody reads it)            (pool keeps its weights, and never runs)

The weights stay in the `state_dict`: official checkpoints have parameters that nothing runs.
"""

from __future__ import annotations

from dataclasses import replace

from composer.inference import Program
from composer.liveness import ids_of, needed


def remove_dead(program: Program) -> Program:
    """Mark the steps that no output needs as unused; steps without weights disappear."""
    wanted = needed(program.steps, (i for o in program.outputs for i in ids_of(o.ids)))
    steps = tuple(s if s.unused or wanted & set(s.outputs) else replace(s, unused=True) for s in program.steps)
    return replace(program, steps=tuple(s for s in steps if not (s.unused and s.block.weightless)))
