"""Scores that windows of one kind have in common, bias and mask in one, are kept for each shape.

    before   for some windows: bias + mask -> scores; attention(scores)        after   attention(kept scores)

Of large windows they are many times the map: of 7 × 7 × 7 tokens, of which 8 kinds stand in a shifted map, 45 MB beside
a map of 0.1. So a plan of memory leaves this pass out. Evaluation only: they follow from weights.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program
from composer.prepared import Flow, Prepared

NAME = "scores"


def keep_scores(program: Program) -> Program:
    """Every step whose tokens meet in groups with scores that follow from weights alone."""
    flow = Flow(program)
    for step in flow:
        if isinstance(step, Prepared) and isinstance(step.kernel, partial):
            group = dict(step.kernel.keywords.get("group", ()))
            if group.get("constants") and not group.get("shared"):
                flow.put(step.also(NAME, keeps=True))
    return flow.done()
