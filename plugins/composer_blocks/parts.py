"""Leaves that the shipped compounds are made of; they have no name in a blueprint."""

from typing import Any, ClassVar, Literal

from composer import Block, Number, PerAxis, PerAxisNatural, Positive, Rate, Rule, Size, Traits, Type, map_, queries


class Convolution(Block):
    """A convolution, plain or transposed, possibly with standardized weights."""

    name = "part.conv"
    divides: ClassVar[str] = "stride"
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

    def traits(self) -> Traits:
        small = (self.kernel, 1), (self.stride, 1), (self.padding, 0)
        alone = all(n == least for value, least in small for n in _each(value)) and self.groups == 1
        computed = self.standardize is not None and not self.transposed
        return Traits(
            linear="cells" if alone and not self.transposed else "grid",
            whole=self.groups == 1 and not self.transposed,
            side=max(_each(self.kernel)),
            weight="standardized" if computed else "weight",
            pure=True,
        )

    def build(self, x: Type, rank: int) -> Any:
        from composer_blocks.modules.convolution import convolution

        return convolution(rank, x.channels, **self.model_dump())


def _each(value: PerAxis | PerAxisNatural) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


class Patches(Convolution):
    """Patches as one strided convolution; what is left over at the far side is refused or cropped."""

    name = "part.patches"
    divides: ClassVar[str] = "patches"
    remainder: Literal["refuse", "crop"] = "refuse"

    def infer(self, rule: Rule, x: Type) -> Type:
        strides = rule.per_axis(self.stride, "patch")
        if self._refuses:
            for n, s in zip(x.grid, strides, strict=True):
                rule.multiple(n, s, "patches")
        return super().infer(rule, x)

    def traits(self) -> Traits:
        """None where its module has a hook that looks at the input first."""
        return Traits() if self._refuses else super().traits()

    @property
    def _refuses(self) -> bool:
        """A padded or a longer kernel reaches what would be left over."""
        padded = any([self.padding] if isinstance(self.padding, int) else self.padding)
        return self.remainder == "refuse" and self.kernel == self.stride and not padded

    def build(self, x: Type, rank: int) -> Any:
        from composer_blocks.modules.convolution import Whole, convolution

        made = convolution(rank, x.channels, **self.model_dump(exclude={"remainder"}))
        return Whole.before(made, self.stride, rank) if self._refuses else made


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

    def traits(self) -> Traits:
        return Traits(adds=True, fresh=True, tokenwise=True, pure=True, local="cells")

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

    def traits(self) -> Traits:
        return Traits(tokenwise=True, local="cells")

    def build(self) -> Any:
        from composer_blocks.modules.stages import DropPath as Module

        return Module(self.rate)


class LayerDrop(Block):
    """x instead of y = layer(x), of one type, for a whole batch while training (Fan et al., 2020, arXiv:1909.11556)."""

    name = "part.layer_drop"
    layout: ClassVar[str] = "any"
    weightless: ClassVar[bool] = True
    rate: Rate

    def infer(self, rule: Rule, x: Type, y: Type) -> Type:
        return y

    def build(self) -> Any:
        from composer_blocks.modules.stages import LayerDrop as Module

        return Module(self.rate)


class TokenPart(Block):
    """What becomes of tokens beside the pixels; queries without a batch axis are those all samples start from."""

    layout: ClassVar[str] = "tokens"
    gives: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True


class Spread(TokenPart):
    """The first tokens (count, C) for every window of x (B, windows·count, C)."""

    name = "part.spread"

    def infer(self, rule: Rule, x: Type, tokens: Type) -> Type:
        return x

    def build(self) -> Any:
        from composer_blocks.modules.memory import spread

        return spread


class Each(TokenPart):
    """A table (count, C) for every sample, as many as `like` has: (B, count, C)."""

    name = "part.each"
    layout: ClassVar[str] = "any"

    def infer(self, rule: Rule, table: Type, like: Type) -> Type:
        return table

    def build(self) -> Any:
        from composer_blocks.modules.memory import each

        return each


class MiddleRows(TokenPart):
    """x (B, N, C) + the middle N rows of a table (rows, C)."""

    name = "part.middle_rows"

    def infer(self, rule: Rule, x: Type, table: Type) -> Type:
        rule.at_least(
            table.count - x.length, 0, f"{table.count} row{'s' * (table.count != 1)} for the positions of tokens"
        )
        return x

    def build(self) -> Any:
        from composer_blocks.modules.memory import middle_rows

        return middle_rows


class Join(TokenPart):
    """Tokens in front of those of a grid: (B, N, C), (B, extra, C) -> (B, extra + N, C)."""

    name = "part.join"

    def infer(self, rule: Rule, x: Type, front: Type) -> Type:
        rule.need(x.channels == front.channels, f"tokens {front} and {x} differ in channels", "BP301")
        counted = front.kind in ("queries", "unknown")
        rule.need(counted, f"tokens in front of others are counted ones, (B, count, C), not {front}", "BP302")
        assert isinstance(front.count, int)
        return x.with_(kind="tokens", extra=front.count)

    def build(self) -> Any:
        from composer_blocks.modules.memory import join

        return join


class Part(TokenPart):
    """And apart again: (B, extra + N, C) -> extra (B, extra, C), x (B, N, C)."""

    name = "part.part"

    def infer(self, rule: Rule, x: Type) -> dict[str, Type]:
        return {"extra": queries(x.extra, x.channels), "x": x.with_(kind="map", extra=0)}

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.memory import Split

        return Split(x.extra)


class Clamp(TokenPart):
    """Cuts to ±limit."""

    name = "part.clamp"
    limit: Number

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def build(self) -> Any:
        from composer_blocks.modules.memory import clamp

        return clamp(self.limit)


class ReadRows(TokenPart):
    """Rows of a table (count, C) or (B, count, C), by their numbers (B, 4): (B, 4, C)."""

    name = "part.read_rows"
    layout: ClassVar[str] = "any"
    rows_of: Literal["own", "official"] = "own"

    def infer(self, rule: Rule, table: Type, cell: Type) -> Type:
        return queries(cell.channels, table.channels)

    def build(self) -> Any:
        from composer_blocks.modules.memory import Read

        return Read(self.rows_of == "official")


class WriteRows(TokenPart):
    """The table (B, count, C) with tokens (B, 4, C) added to those rows."""

    name = "part.write_rows"
    layout: ClassVar[str] = "any"
    rows_of: Literal["own", "official"] = "own"

    def infer(self, rule: Rule, table: Type, cell: Type, tokens: Type) -> Type:
        return table

    def build(self) -> Any:
        from composer_blocks.modules.memory import Write

        return Write(self.rows_of == "official")


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
