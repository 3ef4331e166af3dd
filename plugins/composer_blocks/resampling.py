"""Pooling, resizing, padding, merging and its way back: what changes a grid without looking further than its cells."""

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
    Traits,
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

    divides: ClassVar[str] = "pool"
    weightless: ClassVar[bool] = True
    stride: PerAxis | Literal["kernel"] = "kernel"
    padding: PerAxisNatural = 0

    def traits(self) -> Traits:
        return Traits(pure=True)

    def _steps(self, kernel: Any) -> Any:
        return kernel if self.stride == "kernel" else self.stride

    def pooled(self, rule: Rule, x: Type, kernel: PerAxis) -> Type:
        """The type of the windows' values."""
        axes = (
            rule.per_axis(v, n)
            for v, n in ((kernel, "kernel"), (self._steps(kernel), "stride"), (self.padding, "padding"))
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
    kernel: PerAxis = 2

    def infer(self, rule: Rule, x: Type) -> Type:
        return self.pooled(rule, x, self.kernel)

    def traits(self) -> Traits:
        return Traits(local="window", pure=True)

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import MAX

        return MAX[rank](self.kernel, self._steps(self.kernel), self.padding)


class AveragePool(Pool):
    """The mean of each window; (B, C, *grid) -> (B, C, *grid / stride). `kernel: grid` is the mean of the whole grid, a
    vector (B, C); with `bins: n` the means of n^rank equal parts of it, a map (B, C, n, …)."""

    name = "pool.average"
    kernel: PerAxis | Literal["grid"] = 2
    bins: Positive | None = None

    def wanted_layout(self, port: str) -> str:
        return "grid" if self.kernel == "grid" and self.bins is None else "map"

    def infer(self, rule: Rule, x: Type) -> Type:
        if self.kernel != "grid":
            rule.need(self.bins is None, "`bins` are parts of the whole grid: say `kernel: grid`", "BP202")
            if x.rank == 3:  # torch counts no padding there
                for n, k in zip(x.grid, rule.per_axis(self.kernel, "kernel"), strict=True):
                    rule.at_least(n, k, f"pool {k}")
            return self.pooled(rule, x, self.kernel)
        alone = self.stride == "kernel" and not self.padding
        rule.need(alone, "the mean of the whole grid has neither stride nor padding", "BP202")
        return map_(x.channels, (self.bins,) * x.rank) if self.bins else vector(x.channels)

    def traits(self) -> Traits:
        return Traits(local="window" if self.kernel != "grid" else "", pure=True)

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import ADAPTIVE, AVERAGE, GridMean

        if self.kernel == "grid":
            return ADAPTIVE[rank](self.bins) if self.bins else GridMean()
        return AVERAGE[rank](self.kernel, self._steps(self.kernel), self.padding)


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

    def traits(self) -> Traits:
        alone = self.scale is not None and not (self.align_corners and self.mode == "linear")
        return Traits(interpolates=True, pure=True, enlarges=self.scale if alone and self.scale else 0)

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

    def traits(self) -> Traits:
        return Traits(local="cells")

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.resampling import RepeatChannels as Module

        return Module(self.to // x.channels)


class Gather(Block):
    """The factor^rank neighbours of each coarse cell side by side: (B, *grid, C) -> (B, *grid/f, f^rank·C)."""

    name = "part.gather"
    divides: ClassVar[str] = "merge"
    layout: ClassVar[str] = "grid"
    weightless: ClassVar[bool] = True
    factor: Positive
    order: MergeOrder
    odd: Literal["refuse", "pad"]

    def infer(self, rule: Rule, x: Type) -> Type:
        f = self.factor
        if self.odd == "refuse":
            for n in x.grid:
                rule.multiple(n, f, "merge")
        grid = tuple(ceil_div(n, f) if self.odd == "pad" else n // f for n in x.grid)
        return map_(x.channels * f**x.rank, grid)

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import Gather as Module

        return Module(rank, self.factor, self.order, self.odd == "pad")


class Spread(Block):
    """factor^rank groups of channels become a finer grid: (B, *grid, f^rank·C) -> (B, *grid·f, C)."""

    name = "part.spread"
    layout: ClassVar[str] = "grid"
    weightless: ClassVar[bool] = True
    factor: Positive

    def infer(self, rule: Rule, x: Type) -> Type:
        return map_(x.channels // self.factor**x.rank, tuple(n * self.factor for n in x.grid))

    def traits(self) -> Traits:
        return Traits(local="spread")

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.resampling import Spread as Module

        return Module(rank, self.factor)


class Merge(Block):
    """Patch merging (Liu et al., 2021, arXiv:2103.14030): factor^rank neighbours side by side, a norm, a linear map to
    one token of `ratio` (2) times the width. `transposed`, as of a convolution, is the way back, patch expanding (Cao
    et al., 2021, arXiv:2105.05537): a linear map to factor^rank tokens of `ratio` (½) times the width, then a norm.

    `order: column` takes the neighbours with the first axis running fastest, as Swin does, `row` with the last, `monai`
    those next to the cell first; `monai_duplicated` takes two of them twice and loses two in 3-D, as MONAI did when the
    published weights of Swin UNETR were trained. The transposed one spreads in the order `row`.
    `odd: pad` pads an uneven side with zeros up to the next multiple, `refuse` asks for multiples.
    """

    name = "merge"
    transposed: bool = False
    factor: Positive = 2
    ratio: Number | None = None
    order: MergeOrder | None = None
    odd: Literal["refuse", "pad"] = "refuse"
    bias: bool = False
    norm: Slot = slot("layer")

    def compose(self, net: Scope, x: Value) -> Value:
        if self.transposed:
            return self._expanded(net, x)
        two = self.factor == 2 or self.order != "monai_duplicated"
        net.need(two, f"`order: monai_duplicated` merges by 2, not {self.factor}", "BP401")
        out = round(x.type.channels * (self.ratio or 2))
        x = net.add("gather", Gather(factor=self.factor, order=self.order or "column", odd=self.odd), x)
        return net.add("reduction", Linear(out=out, bias=self.bias), net.slot("norm", x=x))

    def _expanded(self, net: Scope, x: Value) -> Value:
        plain = self.order in (None, "row") and self.odd == "refuse"
        net.need(plain, "a transposed merge spreads in the order `row` and leaves no uneven side", "BP202")
        out = round(x.type.channels * (self.ratio or 0.5))
        x = net.add("expand", Linear(out=out * self.factor**net.rank, bias=self.bias), x)
        return net.slot("norm", x=net.add("spread", Spread(factor=self.factor), x))
