"""Convolutions of single voxels as products of matrices.

    before   x -> conv 1 × 1 × 1                  after   x (B, C, N) -> W · x -> (B, out, N)

The same multiplications; but with more than one thread torch runs such a convolution in a kernel made for large
windows, which takes 2 to 6 times as long where there are few channels (16 -> 4 at 96³: 4.1, 16 -> 1 at 48³: 6.1,
32 -> 16 at 48³: 2.3; from 64 channels on, and with one thread, they are even). In 2-D it is a product already, so this
is for volumes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from composer.inference import Program, Step
from composer.prepared import Flow, Kernel, Prepared, traits_of

NAME = "products"


def use_products(program: Program) -> Program:
    """Every convolution of single voxels in 3-D, also one that a pass has prepared already."""
    flow = Flow(program)
    for step in flow:
        first = step.parts[0] if isinstance(step, Prepared) else step
        if not _is_for(flow, first):
            continue
        if isinstance(step, Step):
            flow.put(Prepared(step.address, (NAME,), (step,), step.reads, partial(_kernel, traits_of(step).weight)))
        elif isinstance(step.kernel, partial) and set(step.by) <= {"norms", "filters"}:
            kernel = partial(step.kernel, product=True)
            flow.put(replace(step, by=(*step.by, NAME), kernel=kernel))
    return flow.done()


def _is_for(flow: Flow, step: Step) -> bool:
    """Whether this is a map of the channels of (B, C, D, H, W)."""
    if traits_of(step).linear != "cells":
        return False
    value = flow.values[step.reads[0]]
    return value.layout == "first" and value.type.kind == "map" and value.type.rank == 3


def _kernel(weight: str) -> Kernel:
    from composer.kernels import Operator

    return Operator(weight, product=True)
