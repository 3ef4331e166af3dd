"""Tokenizers: images to tokens."""

from typing import Any, Literal

from composer import Block, PerAxis, PerAxisNatural, Positive, Scope, Slot, Value, slot
from composer_blocks.parts import Patches


class PatchTokenizer(Block):
    """Patch embedding (Dosovitskiy et al., 2021, arXiv:2010.11929): one strided convolution, (B, C, *grid) ->
    (B, dim, *grid / patch). A `kernel` larger than the patch makes patches overlap (SegFormer).

    `remainder`: what to do when a side is not a multiple of the patch: refuse, or crop; a `pad` before
    it fills it with zeros.
    """

    name = "tokenizer.patch"
    dim: Positive
    patch: PerAxis = 16
    kernel: PerAxis | Literal["patch"] = "patch"
    padding: PerAxisNatural | Literal["half"] = 0
    bias: bool = True
    remainder: Literal["refuse", "crop"] = "refuse"
    norm: Slot = slot(doc="normalization of the tokens")

    def compose(self, net: Scope, x: Value) -> Value:
        patch = net.per_axis(self.patch, "patch")
        kernel = patch if self.kernel == "patch" else net.per_axis(self.kernel, "kernel")
        padding: Any = self.padding
        if padding == "half":
            padding = tuple(k // 2 for k in kernel)
        leaf = Patches(
            out=self.dim, kernel=kernel, stride=patch, padding=padding, dilation=1, groups=1, bias=self.bias,
            remainder=self.remainder,
        )  # fmt: skip
        return net.slot("norm", x=net.add("", leaf, x))
