"""Weights that a module computes at every call, such as standardized filters, computed once.

    before   w -> standardize -> conv <- x        after   w' -> conv <- x

Evaluation only: the weights are derived from the parameters as they are then.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program, Step
from composer.prepared import Flow, Prepared, operator, traits_of

NAME = "filters"


def keep_filters(program: Program) -> Program:
    """Every linear step whose weight is computed keeps it."""
    flow = Flow(program)
    for step in flow:
        traits = traits_of(step)
        if isinstance(step, Step) and traits.linear and traits.weight != "weight":
            kernel = partial(operator, traits.weight)
            flow.put(Prepared(step.address, (NAME,), (step,), step.reads, kernel, fresh=True))
    return flow.done()
