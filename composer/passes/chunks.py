"""Steps that take tokens by themselves, such as norms, linear maps and sums, run on some tokens after others.

    before   x -> norm -> linear -> y (4 C) -> act -> z (4 C) -> linear -> sum      after   x -> [chunk by chunk] -> sum

The wide values in the middle are never there as a whole. Where all tokens make one chunk nothing is gained, and little
lost. Evaluation only: a backward pass would need what is in between.
"""

from __future__ import annotations

from collections.abc import Mapping

from composer.inference import Program, Step
from composer.prepared import Flow
from composer.regions import Region, grown, is_tokenwise, is_turn

NAME = "chunks"


WORTH = 8 * 2**20
"""Bytes of the widest value, of one sample at the size the network is built for, from which on it is done: smaller
ones took 1.0 to 1.03 of the time (ViT, SegFormer, Swin-Unet), larger ones 0.7."""


def use_chunks(program: Program) -> Program:
    """Every chain of such steps with a large value in it that is wider than what leaves."""
    flow = Flow(program)
    for step in flow:
        if isinstance(step, Step) and is_tokenwise(step) and not is_turn(step):
            region = grown(flow, step)
            if region and _pays(flow, region, program.built):
                flow.put(region.prepared(flow, NAME), region.at)
    return flow.done()


def _pays(flow: Flow, region: Region, built: Mapping[str, int]) -> bool:
    """Whether the widest value inside is large, and wider than the result, so that it need not be there as a whole."""
    *inner, last = (flow.values[s.outputs[0]].type for s in region.steps)
    kinds = {flow.values[i].type.kind for s in region.steps for i in s.reads}
    if not inner or not kinds <= {"map", "tokens", "queries", "scales"}:
        return False
    widest = max(inner, key=lambda t: t.channels)
    if widest.channels <= last.channels:
        return False
    tokens = int(widest.at(_Sizes(built)).length)  # type: ignore[arg-type]
    return 4 * tokens * widest.channels > WORTH


OPEN = 96
"""What a size counts for that no input is built for."""


class _Sizes(dict[str, int]):
    """What the network is built for, and where that is open `OPEN`."""

    def __missing__(self, axis: str) -> int:
        return OPEN
