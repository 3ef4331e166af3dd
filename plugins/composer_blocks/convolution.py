"""Convolutions and linear maps."""

from typing import Any, ClassVar, Literal

from composer import Block, Number, PerAxis, PerAxisNatural, Positive, Rule, Scope, Slot, Traits, Type, Value, slot
from composer_blocks.parts import Convolution


def width(channels: int, out: int | None, ratio: float | None) -> int:
    """The new number of channels: `out`, or `ratio` times the old ones, or as before."""
    return out if out is not None else round(channels * ratio) if ratio else channels


class Conv(Block):
    """A convolution with its normalization and activation: (B, C, *grid) -> (B, out, *grid / stride).

    `padding: same` is dilation·(kernel - 1)/2; for a transposed one, what makes the map exactly `stride` times as
    large, with an `output_padding` of 1 where that takes an odd number (unless one is given). `half` is the former for
    both, and then `output_padding` is what makes the transposed map `stride` times as large.
    `order` is that of the convolution, its norm, its `drop` and its act; where it does not say, `drop` stands before
    the act. `transposed` runs the convolution backwards, upsampling.
    `standardize` normalizes each filter (Qiao et al., 2019, arXiv:1903.10520): `biased` with eps 1e-5 inside the root,
    or `unbiased` with the sample variance and 1e-12 (CoTr).
    """

    name = "conv"
    out: Positive | None = None
    ratio: Number | None = None
    kernel: PerAxis | Literal["stride"] = 3
    stride: PerAxis = 1
    padding: PerAxisNatural | Literal["same", "half"] = "same"
    dilation: PerAxis = 1
    groups: Positive | Literal["channels"] = 1
    bias: bool = True
    transposed: bool = False
    output_padding: PerAxisNatural | None = None
    standardize: Literal["biased", "unbiased"] | None = None
    order: Literal["conv norm act", "conv act norm", "norm act conv", "conv drop norm act", "conv drop act norm"] = (
        "conv norm act"
    )
    norm: Slot = slot(doc="normalization, such as `batch`")
    drop: Slot = slot(doc="dropout")
    act: Slot = slot(doc="activation, such as `relu`")

    def compose(self, net: Scope, x: Value) -> Value:
        steps = self.order if "drop" in self.order else self.order.replace("act", "drop act")
        for step in steps.split():
            x = net.add("", self._leaf(net, x.type), x) if step == "conv" else net.slot(step, x=x)
        return x

    def _leaf(self, net: Scope, x: Type) -> Convolution:
        stride, dilation = net.per_axis(self.stride, "stride"), net.per_axis(self.dilation, "dilation")
        kernel = stride if self.kernel == "stride" else net.per_axis(self.kernel, "kernel")
        return Convolution(
            out=width(x.channels, self.out, self.ratio),
            kernel=kernel,
            stride=stride,
            padding=self._padding(net, kernel, stride, dilation),
            output_padding=self._output_padding(net, kernel, stride, dilation),
            dilation=dilation,
            groups=x.channels if self.groups == "channels" else self.groups,
            bias=self.bias,
            transposed=self.transposed,
            standardize=self.standardize,
        )

    def _padding(self, net: Scope, kernel: Any, stride: Any, dilation: Any) -> tuple[int, ...]:
        if not isinstance(self.padding, str):
            return net.per_axis(self.padding, "padding")
        if self.transposed and self.padding == "same":
            extents = (d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
            return tuple(max(0, (e - s + 1) // 2) for e, s in zip(extents, stride, strict=True))
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))

    def _output_padding(self, net: Scope, kernel: Any, stride: Any, dilation: Any) -> tuple[int, ...]:
        if self.output_padding is not None or not self.transposed or not isinstance(self.padding, str):
            return net.per_axis(self.output_padding or 0, "output_padding")
        padding = self._padding(net, kernel, stride, dilation)
        axes = zip(kernel, stride, padding, dilation, strict=True)
        return tuple(s + 2 * p - d * (k - 1) - 1 for k, s, p, d in axes)


class Linear(Block):
    """A linear map of the channels: (…, C) -> (…, out)."""

    name = "linear"
    layout: ClassVar[str] = "features"
    out: Positive | None = None
    ratio: Number | None = None
    bias: bool = True

    def infer(self, rule: Rule, x: Type) -> Type:
        return x.with_(channels=width(x.channels, self.out, self.ratio))

    def traits(self) -> Traits:
        return Traits(linear="cells", tokenwise=True, pure=True)

    def build(self, x: Type) -> Any:
        from torch import nn

        from composer import make

        return make(nn.Linear, x.channels, width(x.channels, self.out, self.ratio), bias=self.bias)
