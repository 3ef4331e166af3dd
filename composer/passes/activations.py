"""Activations computed where the linear map before them writes its result.

    before   x -> linear -> y -> gelu -> z         after   x -> [linear, gelu] -> z

oneDNN applies the function to what is still in the cache, so that nobody goes through the map a second time, and GELU
needs no second one. 197 tokens from 768 to 3072 channels and GELU run 1.22 times as fast with two threads and 1.12 with
one, 4096 tokens from 64 to 256 1.28 and 1.49; `unet` at 224² runs 1.10 times as fast. It is done to maps with the
channels last in memory (`layout`) and to tokens; other convolutions would have to be turned for it. Evaluation only.
"""

from __future__ import annotations

from dataclasses import replace

from composer.inference import Program, Step
from composer.prepared import AnyStep, Flow, Prepared, linear_step, traits_of

NAME = "activations"


def join_activations(program: Program) -> Program:
    """Every activation that oneDNN knows, behind a linear step that nobody else reads."""
    flow = Flow(program)
    for step in flow:
        if isinstance(step, Step) and traits_of(step).function and len(step.reads) == 1:
            maker = flow.makers.get(step.reads[0])
            found = None if maker is None or flow.only_reader(maker) is not step else _joinable(flow, maker)
            if found is not None:
                joined = found.also(NAME, act=traits_of(step).function)
                flow.put(replace(joined, parts=(*found.parts, step)))
    return flow.done()


def _joinable(flow: Flow, maker: AnyStep) -> Prepared | None:
    """A linear step, prepared, if it is one of tokens, or one of maps with the channels last in memory alone."""
    found = linear_step(maker)
    if found is None:
        return None
    if isinstance(maker, Step):
        return found if flow.values[maker.reads[0]].layout != "first" else None
    options = found.kernel.keywords  # type: ignore[attr-defined]
    return found if options.get("last") and not options.get("product") and not options.get("splits") else None
