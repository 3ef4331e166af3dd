"""Convolutions of single voxels as products of matrices.

    before   x -> conv 1 × 1 × 1                  after   x (B, C, N) -> W · x -> (B, out, N)

The same multiplications; but with more than one thread torch runs such a convolution in a kernel made for large
windows, which takes 2 to 6 times as long where there are few channels (16 -> 4 at 96³: 4.1, 16 -> 1 at 48³: 6.1,
32 -> 16 at 48³: 2.3; from 64 channels on, and with one thread, they are even). In 2-D it is a product already, so this
is for volumes.
"""

from __future__ import annotations

from composer.inference import Program
from composer.prepared import Flow, linear_step, traits_of

NAME = "products"


def use_products(program: Program) -> Program:
    """Every convolution of single voxels in 3-D, also one that a pass has prepared already."""
    flow = Flow(program)
    for step in flow:
        found = linear_step(step)
        if found is not None and traits_of(found.parts[0]).linear == "cells" and flow.reads_volume(found.parts[0]):
            flow.put(found.also(NAME, product=True))
    return flow.done()
