"""Batch normalization folded into the convolution or linear map before it.

    before   x -> conv(W, b) -> norm(scale, shift)        after   x -> conv(scale · W, scale · b + shift)

At evaluation the norm is one multiplication and one addition per channel, which a linear map can do itself. Evaluation
only: the weights are derived, from statistics as they are then. Where the filter is larger than the map it makes, as in
the last stages of an encoder, a second one would take more memory than the norm takes time: there the norm is written
over the map.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program, Step
from composer.layouts import ToFirst, ToLast
from composer.passes.cells import cells
from composer.prepared import Flow, Prepared, operator, traits_of

NAME = "norms"


def fold_norms(program: Program) -> Program:
    """Fold every norm with running statistics into the linear step before it, if nobody else reads that one."""
    flow = Flow(program)
    for step in flow:
        norm = flow.only_reader(step) if traits_of(step).linear else None
        moves: list[Step] = []
        while isinstance(norm, Step) and isinstance(norm.block, (ToFirst, ToLast)):
            moves.append(norm)
            norm = flow.only_reader(norm)
        if isinstance(step, Step) and isinstance(norm, Step) and traits_of(norm).scales:
            size = cells(flow, step.outputs[0], program.built)
            kernel = partial(operator, traits_of(step).weight, scales=True, cells=size)
            flow.put(Prepared(step.address, (NAME,), (step, *moves, norm), step.reads, kernel, fresh=True))
    return flow.done()
