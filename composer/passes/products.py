"""Convolutions of single voxels as products of matrices.

    before   x -> conv 1 × 1 × 1                  after   x (B, C, N) -> W · x -> (B, out, N)

The same multiplications; but with more than one thread torch runs such a convolution in a kernel made for large
windows, which takes 2 to 6 times as long where there are few channels (16 -> 4 at 96³: 4.1, 16 -> 1 at 48³: 6.1,
32 -> 16 at 48³: 2.3; from 64 channels on, and with one thread, they are even). In 2-D it is a product already, so this
is for volumes. In training too: forward and backward of 32 -> 16 at 48³ take 6 ms of a core and not 14, of 64 -> 32 at
24³ 1.6 and not 2.3.
"""

from __future__ import annotations

from dataclasses import replace

from composer.inference import Program
from composer.prepared import Flow, linear_step, traits_of

NAME = "products"


def use_products(program: Program) -> Program:
    """Every convolution of single voxels in 3-D, also one that a pass has prepared already, each mode by itself."""
    for training in (False, True):
        flow = Flow(program, training)
        for step in flow:
            found = linear_step(step)
            if found is not None and traits_of(found.parts[0]).linear == "cells" and flow.reads_volume(found.parts[0]):
                flow.put(replace(found.also(NAME, product=True), trains=training))
        program = flow.done() if flow.made or not training else program
    return program
