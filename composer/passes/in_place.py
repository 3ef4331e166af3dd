"""Activations written over their input, where that is new memory and nobody reads it again.

    before   conv -> y -> relu -> z               after   conv -> y -> relu_ -> y

A fresh tensor of a volume is mapped page by page, which costs more than the activation. Evaluation only: a backward
pass would need what is overwritten. The step before must be one that makes new memory, such as a linear map, a norm or
a sum, and must have no hook that could keep its value.
"""

from __future__ import annotations

from composer.inference import Program, Step
from composer.prepared import AnyStep, Flow, Kernel, Prepared, traits_of

NAME = "in_place"


def work_in_place(program: Program) -> Program:
    """Every activation that can, behind a step that makes new memory."""
    flow = Flow(program)
    for step in flow:
        if not (isinstance(step, Step) and traits_of(step).in_place and step.reads):
            continue
        maker = flow.makers.get(step.reads[0])
        if maker is not None and _is_fresh(maker) and flow.only_reader(maker) is step:
            guards = maker.parts if isinstance(maker, Prepared) else (maker,)
            flow.put(Prepared(step.address, (NAME,), (step,), step.reads, _kernel, guards))
    return flow.done()


def _is_fresh(maker: AnyStep) -> bool:
    """Whether a step gives memory that nothing else looks at."""
    if isinstance(maker, Prepared):
        return NAME not in maker.by and bool({"levels", "norms", "filters", "products"} & set(maker.by))
    traits = traits_of(maker)
    return bool(traits.linear) or traits.scales or traits.fresh


def _kernel() -> Kernel:
    from composer.kernels import InPlace

    return InPlace()
