"""Norms of each channel over its grid together with the activation behind them, written over their input.

    before   conv -> y -> instance norm -> relu -> z      after   conv -> y -> [instance norm · relu] over y

Two passes over memory, one for the statistics and one that scales and activates, none of them into new memory; and in
the order of memory that the map has. The input is kept where anybody else reads it. In training the backward pass needs
the input of the norm, so the activation alone is written over what the norm makes; torch's norm gives a view, over
which autograd does not let it be written without copying gradients.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program, Step
from composer.passes.in_place import is_dying, parts_of
from composer.prepared import Flow, Kernel, Prepared, traits_of

NAME = "instances"


def join_instances(program: Program) -> Program:
    """Every such norm of a map with its channels first, each mode by itself."""
    for training in (False, True):
        flow = Flow(program, training)
        for step in flow:
            value = flow.values[step.outputs[0]]
            if isinstance(step, Step) and traits_of(step).standardizes and value.layout == "first":
                made = _trained(flow, step) if training else _evaluated(flow, step)
                if made:
                    flow.put(made)
        program = flow.done() if flow.made or not training else program
    return program


def _evaluated(flow: Flow, step: Step) -> Prepared:
    act = flow.only_reader(step)
    acts = isinstance(act, Step) and traits_of(act).in_place
    parts = (step, act) if acts and isinstance(act, Step) else (step,)
    over = is_dying(flow, step.reads[0], step)
    guards = parts_of(flow.makers[step.reads[0]]) if over else ()
    kernel = partial(_kernel, over, acts)
    return Prepared(parts[-1].address, (NAME,), parts, step.reads, kernel, guards, fresh=True)


def _trained(flow: Flow, step: Step) -> Prepared | None:
    """The norm with the activation, or alone where a sum may be written over it."""
    reader = flow.only_reader(step)
    traits = traits_of(reader)
    if isinstance(reader, Step) and traits.in_place and traits.from_result:
        return Prepared(reader.address, (NAME,), (step, reader), step.reads, partial(_training, True), trains=True)
    alone = Prepared(step.address, (NAME,), (step,), step.reads, partial(_training, False), fresh=True, trains=True)
    return alone if traits.adds else None


def _kernel(over: bool, acts: bool) -> Kernel:
    from composer.standardizing import Standardized

    return Standardized(over, acts)


def _training(acts: bool) -> Kernel:
    from composer.standardizing import Trained

    return Trained(acts)
