"""Steps that take tokens by themselves, such as norms, linear maps and sums, run on some tokens after others.

    before   x -> norm -> linear -> y (4 C) -> act -> z (4 C) -> linear -> sum      after   x -> [chunk by chunk] -> sum

The wide values in the middle are never there as a whole. Where all tokens make one chunk nothing is gained, and little
lost. Evaluation only: a backward pass would need what is in between.
"""

from __future__ import annotations

from composer.inference import Program, Step
from composer.prepared import Flow
from composer.regions import Region, grown, is_tokenwise, is_turn

NAME = "chunks"


def use_chunks(program: Program) -> Program:
    """Every chain of such steps with a value in it that is wider than what leaves."""
    flow = Flow(program)
    for step in flow:
        if isinstance(step, Step) and is_tokenwise(step) and not is_turn(step):
            region = grown(flow, step)
            if region and _pays(flow, region):
                flow.put(region.prepared(flow, NAME), region.at)
    return flow.done()


def _pays(flow: Flow, region: Region) -> bool:
    """Whether the widest value inside is wider than the result, so that it need not be there as a whole."""
    *inner, last = (flow.values[s.outputs[0]].type for s in region.steps)
    known = all(
        flow.values[i].type.kind in ("map", "tokens", "queries", "scales") for s in region.steps for i in s.reads
    )
    return known and bool(inner) and max(t.channels for t in inner) > last.channels
