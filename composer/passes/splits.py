"""A convolution of a concatenation as the sum of convolutions of its parts, so that it need not be made.

    before   a, b -> concat -> conv (W)           after   a -> conv (W_a) -> y;   b -> conv (W_b), added to y

The same multiplications. The concatenation of a decoder's finest level is the largest map of a U-Net, and copies two
maps into new memory. It is done where every reader of it is a convolution on channels that lie last in memory (the
pass `layout`), whose kernel can add to a map that is there, and where no part is too thin to fill a register.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from composer.inference import Program, Step
from composer.prepared import AnyStep, Flow, Prepared, operator, traits_of

NAME = "splits"
THINNEST = 16
"""Channels of a part, at least: so many float32 fill a register of AVX-512."""


def split_concats(program: Program) -> Program:
    """Every concatenation that only such convolutions read."""
    flow = Flow(program)
    for step in flow:
        joins = traits_of(step).concatenates
        if not joins or not isinstance(step, Step) or flow.outputs & set(step.outputs):
            continue
        read = step.reads if joins == "read" else step.reads[::-1]
        widths = tuple(flow.values[i].type.channels for i in read)
        readers = [r for r in flow.readers.get(step.outputs[0], ()) if _is_split(r)]
        if len(set(read)) < len(read) or min(widths) < THINNEST or len(read) == 1:
            continue
        if readers and len(readers) == len(flow.readers[step.outputs[0]]):
            for reader in readers:
                assert isinstance(reader, Prepared)
                flow.put(replace(reader.also(NAME, splits=widths), parts=(step, *reader.parts), inputs=read))
    return flow.done()


def _is_split(reader: AnyStep) -> bool:
    """Whether a step is a convolution with all filters on all channels, with the channels last in memory."""
    kernel = reader.kernel if isinstance(reader, Prepared) else None
    if not isinstance(kernel, partial) or kernel.func is not operator or not kernel.keywords.get("last"):
        return False
    assert isinstance(reader, Prepared)
    return traits_of(reader.parts[0]).whole
