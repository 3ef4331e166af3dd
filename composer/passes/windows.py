"""Attention in windows, and what stands around it in a residual branch, runs on some windows after others.

    before   norm -> pad -> shift -> part -> attention(bias + mask) -> join -> shift back -> cut -> sum -> norm -> mlp
    after    for some windows with one mask: take their tokens -> norm -> attention -> sum -> norm -> mlp -> put them

Padding, shift and partition are one index; bias and mask of each kind of window are added once; the weights of queries,
keys and values stand side by side. It holds for whatever promises that its tokens meet in groups (`Traits.groups`).
Evaluation only: the weights are derived.
"""

from __future__ import annotations

from composer.inference import Program, Step
from composer.prepared import Flow
from composer.regions import grown

NAME = "windows"


def use_windows(program: Program) -> Program:
    """Every step whose tokens meet in groups, with the steps before and after it that take tokens by themselves."""
    flow = Flow(program)
    for step in flow:
        if isinstance(step, Step) and step.block.traits().groups:
            region = grown(flow, step)
            assert region is not None
            flow.put(region.prepared(flow, NAME), region.at)
    return flow.done()
