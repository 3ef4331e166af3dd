"""Pooling, resizing, padding, merging and expanding: what changes a grid without looking further than its cells."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from composer import (
    Block,
    Number,
    PerAxis,
    PerAxisNatural,
    Positive,
    Rule,
    Scope,
    Slot,
    Type,
    Value,
    ceil_div,
    map_,
    slot,
    vector,
)
from composer_blocks.convolution import Linear

MergeOrder = Literal["column", "row", "monai", "monai_duplicated"]


class Pool(Block):
    """What the pools share."""

    weightless: ClassVar[bool] = True
    kernel: PerAxis = 2
    stride: PerAxis | Literal["kernel"] = "kernel"
    padding: PerAxisNatural = 0

    def _steps(self) -> Any:
        return self.kernel if self.stride == "kernel" else self.stride

    def infer(self, rule: Rule, x: Type) -> Type:
        axes = (
            rule.per_axis(v, n)
            for v, n in ((self.kernel, "kernel"), (self._steps(), "stride"), (self.padding, "padding"))
        )
        grid = []
        for n, (k, s, p) in zip(x.grid, zip(*axes, strict=True), strict=True):
            rule.need(2 * p <= k, f"a padding of {p} is more than half of the kernel {k}", "BP401")
            if k > 2 * p + 1:
                rule.at_least(n, k - 2 * p, f"pool {k}")
            grid.append((n + (2 * p - k)) // s + 1)
        return x.with_(grid=tuple(grid))


class MaxPool(Pool):
    """The largest value of each window; (B, C, *grid) -> (B, C, *grid / stride)."""

    name = "pool.max"

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import MAX

        return MAX[rank](self.kernel, self._steps(), self.padding)


class AveragePool(Pool):
    """The mean of each window; (B, C, *grid) -> (B, C, *grid / stride)."""

    name = "pool.average"

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import AVERAGE

        return AVERAGE[rank](self.kernel, self._steps(), self.padding)


class GlobalPool(Block):
    """The mean over the grid, a vector (B, C); with `bins: n`, the means of n^rank equal parts, a map."""

    name = "pool.global"
    weightless: ClassVar[bool] = True
    bins: Positive | None = None

    def wanted_layout(self, port: str) -> str:
        return "map" if self.bins else "grid"

    def infer(self, rule: Rule, x: Type) -> Type:
        return map_(x.channels, (self.bins,) * x.rank) if self.bins else vector(x.channels)

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import ADAPTIVE, GridMean

        return ADAPTIVE[rank](self.bins) if self.bins else GridMean()


class Resize(Block):
    """Interpolates a map: by `scale`, to `size`, or to the grid of a second map `like`.

    `align_corners` puts the corner values on the corners, as some published networks do.
    """

    name = "resize"
    weightless: ClassVar[bool] = True
    scale: PerAxis | None = None
    size: PerAxis | None = None
    mode: Literal["linear", "nearest"] = "linear"
    align_corners: bool = False

    def infer(self, rule: Rule, x: Type, like: Type | None = None) -> Type:
        given = [n for n, v in (("like", like), ("scale", self.scale), ("size", self.size)) if v is not None]
        rule.need(
            len(given) == 1, f"`resize` needs one of scale, size and the input `like`, not {given or 'none'}", "BP202"
        )
        if like is not None:
            return x.with_(grid=like.grid)
        if self.size is not None:
            return x.with_(grid=rule.per_axis(self.size, "size"))
        factors = rule.per_axis(self.scale or 1, "scale")
        return x.with_(grid=tuple(n * f for n, f in zip(x.grid, factors, strict=True)))

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import Resize as Module

        return Module(rank, self.scale, self.size, self.mode, self.align_corners)


class Pad(Block):
    """Zeros at the far side, up to the next multiple."""

    name = "pad"
    weightless: ClassVar[bool] = True
    multiple: PerAxis = 1

    def infer(self, rule: Rule, x: Type) -> Type:
        steps = rule.per_axis(self.multiple, "multiple")
        return x.with_(grid=tuple(ceil_div(n, m) * m for n, m in zip(x.grid, steps, strict=True)))

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import PadTo

        return PadTo(self.multiple, rank)


class RepeatChannels(Block):
    """Repeats the channels of a map until there are `to` of them, such as one grey channel to three."""

    name = "repeat_channels"
    weightless: ClassVar[bool] = True
    to: Positive = 3

    def infer(self, rule: Rule, x: Type) -> Type:
        rule.need(self.to % x.channels == 0, f"{x.channels} channels cannot be repeated to {self.to}", "BP401")
        return x.with_(channels=self.to)

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.resampling import RepeatChannels as Module

        return Module(self.to // x.channels)


class Gather(Block):
    """The 2^rank neighbours of each cell of the coarse grid side by side: (B, *grid, C) -> (B, *grid/2, 2^rank·C)."""

    name = "part.gather"
    layout: ClassVar[str] = "grid"
    weightless: ClassVar[bool] = True
    order: MergeOrder
    odd: Literal["refuse", "pad"]

    def infer(self, rule: Rule, x: Type) -> Type:
        if self.odd == "refuse":
            for n in x.grid:
                rule.multiple(n, 2, "merge")
        return map_(x.channels * 2**x.rank, tuple(ceil_div(n, 2) if self.odd == "pad" else n // 2 for n in x.grid))

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import Gather as Module

        return Module(rank, self.order, self.odd == "pad")


class Merge(Block):
    """Patch merging (Liu et al., 2021, arXiv:2103.14030): 2^rank neighbours become one token of `ratio` times the
    width.

    `order: column` takes the neighbours with the first axis running fastest, as Swin does, `row` with the last, `monai`
    those next to the cell first; `monai_duplicated` takes two of them twice and loses two in 3-D, as MONAI did when the
    published weights of Swin UNETR were trained.
    `odd: pad` pads an odd side by one row of zeros, `refuse` asks for even sides.
    """

    name = "down.merge"
    order: MergeOrder = "column"
    ratio: Number = 2
    odd: Literal["refuse", "pad"] = "refuse"
    bias: bool = False
    norm: Slot = slot("layer")

    def compose(self, net: Scope, x: Value) -> Value:
        channels = x.type.channels
        x = net.add("gather", Gather(order=self.order, odd=self.odd), x)
        x = net.slot("norm", x=x)
        return net.add("reduction", Linear(out=round(channels * self.ratio), bias=self.bias), x)


class Spread(Block):
    """factor^rank groups of channels become a finer grid: (B, *grid, f^rank·C) -> (B, *grid·f, C)."""

    name = "part.spread"
    layout: ClassVar[str] = "grid"
    weightless: ClassVar[bool] = True
    factor: Positive

    def infer(self, rule: Rule, x: Type) -> Type:
        return map_(x.channels // self.factor**x.rank, tuple(n * self.factor for n in x.grid))

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import Spread as Module

        return Module(rank, self.factor)


class Expand(Block):
    """Patch expanding (Cao et al., 2021, arXiv:2105.05537): each token becomes factor^rank tokens of `ratio` times the
    width, normalized after they are spread out."""

    name = "up.expand"
    factor: Positive = 2
    ratio: Number = 0.5
    bias: bool = False
    norm: Slot = slot("layer")

    def compose(self, net: Scope, x: Value) -> Value:
        out = round(x.type.channels * self.ratio)
        x = net.add("expand", Linear(out=out * self.factor**net.rank, bias=self.bias), x)
        return net.slot("norm", x=net.add("spread", Spread(factor=self.factor), x))


BLOCKS = (MaxPool, AveragePool, GlobalPool, Resize, Pad, RepeatChannels, Merge, Expand)
