"""Leaves that the shipped compounds are made of; they have no name in a blueprint."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from composer import Block, PerAxis, PerAxisNatural, Positive, Rate, Rule, Size, Type, ceil_div, map_


class Convolution(Block):
    """A convolution, plain or transposed, possibly with standardized weights."""

    name = "part.conv"
    out: Positive
    kernel: PerAxis
    stride: PerAxis
    padding: PerAxisNatural
    dilation: PerAxis
    groups: Positive
    bias: bool
    transposed: bool = False
    output_padding: PerAxisNatural = 0
    standardize: Literal["biased", "unbiased"] | None = None

    def infer(self, rule: Rule, x: Type) -> Type:
        if x.channels % self.groups or self.out % self.groups:
            text = f"{x.channels} -> {self.out} channels do not split into {self.groups} groups"
            rule.need(False, text, "BP401")
        grid = self._transposed(rule, x) if self.transposed else self._plain(rule, x)
        return map_(self.out, grid)

    def _axes(self, rule: Rule) -> Any:
        names = ("kernel", "stride", "padding", "dilation", "output_padding")
        return zip(*(rule.per_axis(getattr(self, n), n) for n in names), strict=True)

    def _plain(self, rule: Rule, x: Type) -> tuple[Size, ...]:
        grid = []
        for n, (k, s, p, d, _) in zip(x.grid, self._axes(rule), strict=True):
            size = (n + (2 * p - d * (k - 1) - 1)) // s + 1
            if d * (k - 1) > 2 * p:
                rule.at_least(n, d * (k - 1) + 1 - 2 * p, f"kernel {k}")
            grid.append(size)
        return tuple(grid)

    def _transposed(self, rule: Rule, x: Type) -> tuple[Size, ...]:
        axes = zip(x.grid, self._axes(rule), strict=True)
        grid = []
        for n, (k, s, p, d, o) in axes:
            size = (n - 1) * s + (d * (k - 1) + 1 + o - 2 * p)
            rule.need(
                o < max(s, d), f"output padding {o} must be smaller than the stride {s} or the dilation {d}", "BP401"
            )
            if isinstance(size, int) or d * (k - 1) + 1 + o - 2 * p < 1:
                rule.at_least(size, 1, f"transposed kernel {k}")
            grid.append(size)
        return tuple(grid)

    def build(self, x: Type, rank: int) -> Any:
        from composer_blocks.modules.convolution import convolution

        return convolution(rank, x.channels, **self.model_dump())


class Patches(Convolution):
    """Patches as one strided convolution; what is left over at the far side is refused, padded or cropped."""

    name = "part.patches"
    remainder: Literal["refuse", "pad", "crop"] = "refuse"

    def infer(self, rule: Rule, x: Type) -> Type:
        strides = rule.per_axis(self.stride, "patch")
        if self.remainder == "refuse" and self.kernel == self.stride:
            for n, s in zip(x.grid, strides, strict=True):
                rule.multiple(n, s, "patches")
        if self.remainder == "pad":
            x = x.with_(grid=tuple(ceil_div(n, s) * s for n, s in zip(x.grid, strides, strict=True)))
        return super().infer(rule, x)

    def build(self, x: Type, rank: int) -> Any:
        from composer_blocks.modules.convolution import PadToMultiple, convolution

        options = self.model_dump(exclude={"remainder"})
        made = convolution(rank, x.channels, **options)
        return PadToMultiple.before(made, self.stride, rank) if self.remainder == "pad" else made


class Add(Block):
    """The sum of two values of one type: (B, C, *grid) + (B, C, *grid) in any layout."""

    name = "part.add"
    layout: ClassVar[str] = "any"
    weightless: ClassVar[bool] = True

    def infer(self, rule: Rule, x: Type, y: Type) -> Type:
        text = f"{x} and {y} cannot be added"
        alike = (x.kind, x.channels, x.extra, x.rank) == (y.kind, y.channels, y.extra, y.rank)
        if rule.need(alike, text, "BP301"):
            for a, b in zip((*x.grid, x.length), (*y.grid, y.length), strict=True):
                rule.equal(a, b, text)
        return x

    def build(self) -> Any:
        import torch

        return torch.add


class DropPath(Block):
    """Stochastic depth: drops the branch of whole samples while training (Huang et al., 2016, arXiv:1603.09382)."""

    name = "part.drop_path"
    layout: ClassVar[str] = "any"
    weightless: ClassVar[bool] = True
    rate: Rate

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def build(self) -> Any:
        from composer_blocks.modules.stages import DropPath as Module

        return Module(self.rate)


class OneHead(Block):
    """The first head of queries or keys, and only what stands on the grid: (B, extra + N, C) -> (B, N, C / heads)."""

    name = "part.one_head"
    layout: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    heads: Positive

    def infer(self, rule: Rule, x: Type) -> Type:
        text = f"an angle needs a place, and {x} stand on no one grid"
        rule.need(x.kind in ("map", "tokens"), text, "BP302")
        return x.with_(kind="map", extra=0, channels=x.channels // self.heads)

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.rotation import OneHead as Module

        return Module(x.extra, x.channels // self.heads)


class Turn(Block):
    """Pairs of channels turned in their plane, in every head: x (B, extra + N, C), angles (B, N, C / heads / 2)."""

    name = "part.turn"
    layout: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    heads: Positive

    def infer(self, rule: Rule, x: Type, angles: Type) -> Type:
        wanted = x.channels // self.heads // 2
        text = f"{self.heads} heads of {x.channels} channels turn by {wanted} angles, not {angles.channels}"
        rule.need(angles.channels == wanted, text, "BP301")
        rule.equal(angles.length, x.length - x.extra, f"angles {angles} are not those of {x}")
        return x

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.rotation import Turn as Module

        return Module(self.heads, x.extra)
