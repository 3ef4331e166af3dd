"""Activations and sums written over an input that is new memory and that nobody reads again.

    before   conv -> y -> relu -> z               after   conv -> y -> relu_ -> y
             norm -> y -> add(y, x) -> z                  norm -> y -> add_(x) -> y

A fresh tensor of a volume is mapped page by page, which costs more than the activation. Evaluation only: a backward
pass would need what is overwritten. The step before must be one that makes new memory, such as a linear map, a norm or
a sum, and must have no hook that could keep its value.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program, Step
from composer.prepared import AnyStep, Flow, Kernel, Prepared, by_position, traits_of

NAME = "in_place"


def work_in_place(program: Program) -> Program:
    """Every activation and sum that can, behind a step that makes new memory."""
    flow = Flow(program)
    for step in flow:
        traits = traits_of(step)
        if not isinstance(step, Step) or not (traits.in_place or (traits.adds and by_position(step))):
            continue
        over = next((k for k, i in enumerate(step.reads) if is_dying(flow, i, step)), None)
        if over is None or (traits.in_place and over > 0):
            continue
        kernel = partial(_sum, over, not isinstance(step.inputs[0][1], int)) if traits.adds else _kernel
        guards = parts_of(flow.makers[step.reads[over]])
        flow.put(Prepared(step.address, (NAME,), (step,), step.reads, kernel, guards, fresh=True))
    return flow.done()


def is_dying(flow: Flow, value: int, step: AnyStep) -> bool:
    """Whether a value is new memory that only this step reads."""
    maker = flow.makers.get(value)
    return maker is not None and _is_fresh(maker) and flow.only_reader(maker) is step


def parts_of(maker: AnyStep) -> tuple[Step, ...]:
    """The steps whose modules must be as they were built, so that a value stays what it was promised to be."""
    return (*maker.parts, *maker.guards) if isinstance(maker, Prepared) else (maker,)


def _is_fresh(maker: AnyStep) -> bool:
    """Whether a step gives memory that nothing else looks at."""
    if isinstance(maker, Prepared):
        return maker.fresh
    traits = traits_of(maker)
    return bool(traits.linear) or traits.scales or traits.fresh


def _kernel() -> Kernel:
    from composer.kernels import InPlace

    return InPlace()


def _sum(over: int, listed: bool) -> Kernel:
    from composer.kernels import Sum

    return Sum(over, listed)
