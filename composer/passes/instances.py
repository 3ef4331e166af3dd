"""Norms of each channel over its grid together with the activation behind them, written over their input.

    before   conv -> y -> instance norm -> relu -> z      after   conv -> y -> [instance norm · relu] over y

Two passes over memory, one for the statistics and one that scales and activates, none of them into new memory; and in
the order of memory that the map has. Evaluation only: a backward pass would need what is overwritten. The input is kept
where anybody else reads it.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program, Step
from composer.passes.in_place import is_dying, parts_of
from composer.prepared import Flow, Kernel, Prepared, traits_of

NAME = "instances"


def join_instances(program: Program) -> Program:
    """Every such norm of a map with its channels first."""
    flow = Flow(program)
    for step in flow:
        value = flow.values[step.outputs[0]]
        if not isinstance(step, Step) or not traits_of(step).standardizes or value.layout != "first":
            continue
        act = flow.only_reader(step)
        acts = isinstance(act, Step) and traits_of(act).in_place
        parts = (step, act) if acts and isinstance(act, Step) else (step,)
        over = is_dying(flow, step.reads[0], step)
        guards = parts_of(flow.makers[step.reads[0]]) if over else ()
        kernel = partial(_kernel, over, acts)
        flow.put(Prepared(parts[-1].address, (NAME,), parts, step.reads, kernel, guards, fresh=True))
    return flow.done()


def _kernel(over: bool, acts: bool) -> Kernel:
    from composer.standardizing import Standardized

    return Standardized(over, acts)
