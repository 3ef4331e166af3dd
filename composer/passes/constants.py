"""What follows from weights or from a shape alone, computed once: relative biases, codes of positions.

    before   table -> gather -> bias -> attention         after   bias' -> attention

Evaluation only: a bias changes while training, and a code is cheap beside a backward pass. A value that is an output
stays as it is, because it is the user's to change.
"""

from __future__ import annotations

from functools import partial

from composer.inference import Program, Step, is_move
from composer.prepared import Flow, Kernel, Prepared, traits_of

NAME = "constants"


def keep_constants(program: Program) -> Program:
    """Every step that promises to be constant, if its value stays inside the network."""
    flow = Flow(program)
    for step in flow:
        constant = traits_of(step).constant
        if not constant or not isinstance(step, Step) or _gets_out(flow, step.outputs[0]):
            continue
        if constant == "weights" and not flow.makers.keys() & set(step.reads):
            required = tuple(p for p, _ in step.inputs if p in step.block.required)
            named = tuple(p for p, _ in step.inputs if p not in required)
            flow.put(Prepared(step.address, (NAME,), (step,), (), partial(_of_weights, len(required), named)))
        elif constant == "shape" and len(step.reads) == 1:
            flow.put(Prepared(step.address, (NAME,), (step,), step.reads, _of_shape))
    return flow.done()


def _gets_out(flow: Flow, value: int) -> bool:
    """Whether a value is an output, perhaps seen through steps that may hand on what they are given."""
    onward = (s for s in flow.readers.get(value, ()) if isinstance(s, Step) and _hands_on(s))
    return value in flow.outputs or any(_gets_out(flow, i) for s in onward for i in s.outputs)


def _hands_on(step: Step) -> bool:
    """Such as a change of layout, which is a view, and dropout."""
    fresh = traits_of(step).fresh or traits_of(step).linear or traits_of(step).scales
    return is_move(step.address) or (step.block.weightless and len(step.reads) == 1 and not fresh)


def _of_weights(required: int, named: tuple[str, ...]) -> Kernel:
    from composer.kernels import Constant

    return Constant(required, named)


def _of_shape() -> Kernel:
    from composer.kernels import OfShape

    return OfShape()
