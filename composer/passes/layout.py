"""Convolutions of images and volumes on maps with the channels last in memory.

    before   x (B, C, D, H, W) -> conv -> y       after   x, strides channels last -> conv -> y, strides channels last

The shapes stay, and so does what is computed. torch's convolutions of plain tensors copy input and result into an order
of their own and back; with the channels last they run on both as they are: 16 -> 16 channels at 96³ in 101 ms of a core
and not 161, a transposed convolution 32 -> 16 at 48³ in 20 and not 144. Norms, activations, sums, pools and
interpolations keep the order that they are given. Long windows of many channels are faster as they were, and so are
maps of few cells, whose filters are many times as large: 768 -> 768 channels at 2³ take 9 ms of torch's kernel and 31
of that for channels last. A map that the user gets has its channels first, as always.

Images gain less: 1.26 for `unet` at 224², 1.14 for `attention_unet` at 128², 1.04 for `transunet` and `detr`; nothing
where attention comes at once, and 0.94 for `resnet` alone, whose user gets every large map, turned. So images are left
alone where what the user gets is more than half of the largest map. In training it was worth 1.09 for the U-Nets, 0.99
for `resnet`, and nothing for volumes (the gradients of filters take as long in either order): there it is not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from composer.inference import Program, Step
from composer.passes.cells import cells
from composer.prepared import Flow, Kernel, Prepared, by_position, linear_step, traits_of

NAME = "layout"
LONG, THIN = 3, 32
"""Windows of a longer side than this are faster with the channels first where they make more channels than that: with
5 × 5 × 5, 128 channels at 16³ take 82 ms and not 134, but 32 at 64³ take 410 and not 333."""


def hold_channels_last(program: Program) -> Program:
    """Every convolution of an image or volume; then every step whose value is the user's."""
    flow = Flow(program)
    ranks = (2, 3) if _turns_little(flow, program.built) else (3,)
    for step in flow:
        found = linear_step(step)
        if found is None or not flow.reads_map(found.parts[0], ranks):
            continue
        volume = flow.reads_volume(found.parts[0])
        traits, out = traits_of(found.parts[0]), bool(flow.outputs & set(found.outputs))
        size = cells(flow, found.parts[0].outputs[0], program.built)
        if volume and traits.side > LONG and flow.values[found.outputs[0]].type.channels > THIN:
            flow.put(found.also(NAME, first=True, cells=size))
        else:
            more = {"product": True} if volume and traits.linear == "cells" else {}  # as a convolution it is slow there
            flow.put(found.also(NAME, last=True, out=out, cells=size, **more))
    if flow.made:
        for step in [s for s in flow if flow.outputs & set(s.outputs)]:
            if isinstance(step, Step) and step.keys is None and flow.reads_map(step, ranks) and by_position(step):
                kernel = partial(_kernel, not isinstance(step.inputs[0][1], int))
                flow.put(Prepared(step.address, (NAME,), (step,), step.reads, kernel))
    return flow.done()


def _turns_little(flow: Flow, built: Mapping[str, int]) -> bool:
    """Whether the maps that the user gets are small beside the largest."""
    maps = {i for i, v in flow.values.items() if v.type.kind == "map" and v.layout == "first" and i in flow.makers}
    numbers = {i: flow.values[i].type.channels * cells(flow, i, built) for i in maps}
    return 2 * sum(numbers[i] for i in maps & flow.outputs) <= max(numbers.values(), default=0)


def _kernel(listed: bool) -> Kernel:
    from composer.kernels import First

    return First(listed)
