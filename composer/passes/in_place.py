"""Activations and sums written over an input that is new memory and that nobody reads again.

    before   conv -> y -> relu -> z               after   conv -> y -> relu_ -> y
             norm -> y -> add(y, x) -> z                  norm -> y -> add_(x) -> y

A fresh tensor of a volume is mapped page by page, which costs more than the activation. The step before must be one
that makes new memory, such as a linear map, a norm or a sum, and must have no hook that could keep its value. In
training too, as long as no gradient needs what is overwritten: that of a linear map, a norm or a sum does not need its
value, and that of the activation must follow from its result, over which nothing more is written then. So of the three
maps of a convolution, a norm and a leaky ReLU two are kept for the backward pass.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program, Step
from composer.prepared import AnyStep, Flow, Kernel, Prepared, by_position, traits_of

NAME = "in_place"


def work_in_place(program: Program) -> Program:
    """Every activation and sum that can, behind a step that makes new memory, each mode by itself."""
    for training in (False, True):
        flow = Flow(program, training)
        for step in flow:
            if isinstance(step, Step):
                _write(flow, step)
        program = flow.done() if flow.made or not training else program
    return program


def _write(flow: Flow, step: Step) -> None:
    """A step that can, over the first of its inputs that dies there."""
    traits = traits_of(step)
    acts = traits.in_place and (traits.from_result or not flow.training)
    if not acts and not (traits.adds and by_position(step)):
        return
    over = next((k for k, i in enumerate(step.reads) if is_dying(flow, i, step)), None)
    if over is None or (acts and over > 0):
        return
    kernel = partial(_sum, over, not isinstance(step.inputs[0][1], int)) if traits.adds else _kernel
    guards = parts_of(flow.makers[step.reads[over]])
    fresh = traits.adds or not flow.training
    made = Prepared(step.address, (NAME,), (step,), step.reads, kernel, guards, fresh=fresh, trains=flow.training)
    flow.put(made)


def is_dying(flow: Flow, value: int, step: AnyStep) -> bool:
    """Whether a value is new memory that only this step reads."""
    maker = flow.makers.get(value)
    return maker is not None and _is_fresh(maker, flow.training) and flow.only_reader(maker) is step


def parts_of(maker: AnyStep) -> tuple[Step, ...]:
    """The steps whose modules must be as they were built, so that a value stays what it was promised to be."""
    return (*maker.parts, *maker.guards) if isinstance(maker, Prepared) else (maker,)


def _is_fresh(maker: AnyStep, training: bool) -> bool:
    """Whether a step gives memory that nothing else looks at, in training not its own gradient either."""
    if isinstance(maker, Prepared):
        return maker.fresh
    traits = traits_of(maker)
    needless = bool(traits.linear) or traits.scales or traits.standardizes or traits.adds
    return needless or (traits.fresh and not training)


def _kernel() -> Kernel:
    from composer.kernels import InPlace

    return InPlace()


def _sum(over: int, listed: bool) -> Kernel:
    from composer.kernels import Sum

    return Sum(over, listed)
