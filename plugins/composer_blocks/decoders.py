"""Decoder stages."""

from typing import Any

from composer import Block, Scope, Slot, Value, slot


class DecoderStage(Block):
    """One step up: upsample(x), fuse with the skip, block (the scheme of Ronneberger et al., 2015, arXiv:1505.04597).

    `upsample` is offered x and skip; `fuse` x (upsampled), skip and deep (before upsampling); `block` also up
    (upsampled, before fusion). Any further input is offered to all three. Without a skip nothing is fused.
    """

    name = "decoder.stage"
    upsample: Slot = slot(offers=("x", "skip"))
    fuse: Slot = slot(offers=("x", "skip", "deep"))
    block: Slot = slot(role="block", offers=("x", "up", "skip", "deep"))

    def compose(self, net: Scope, x: Value, skip: Value | None = None, **more: Any) -> Value:
        given = {**({"skip": skip} if skip is not None else {}), **more}
        up = net.slot("upsample", x=x, **given)
        y = up
        if skip is not None and net.has("fuse"):
            y = net.slot("fuse", x=up, deep=x, **given)
        return net.slot("block", x=y, up=up, deep=x, **given)
