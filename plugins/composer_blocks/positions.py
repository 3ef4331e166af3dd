"""Position: what tells a token where it is."""

from math import prod
from typing import Any, ClassVar, Literal

from composer import Block, Number, Positive, Rule, Scope, Traits, Type, Value
from composer_blocks.parts import Part


class PositionTable(Block):
    """A row for each token, added or by itself; with `like`, the map of the tokens, interpolated to its grid."""

    name = "part.position_table"
    layout: ClassVar[dict[str, str]] = {"x": "tokens", "like": "grid"}
    add: bool
    std: Number
    fixed: bool = False

    def infer(self, rule: Rule, x: Type, like: Type | None = None) -> Type:
        rows = rule.built(x.length)
        if self.fixed:
            text = f"waves along each axis need a grid with an even number of channels, {2 * x.rank} or more, not {x}"
            rule.need(bool(x.grid) and x.channels % 2 == 0 and x.channels >= 2 * x.rank, text, "BP401")
        if like is None:
            rule.equal(x.length, rows, f"{x.length} tokens must be the {rows} of the position table", "BP403")
        return x

    def traits(self) -> Traits:
        return Traits(position="code")

    def build(self, x: Type, like: Type | None) -> Any:
        from composer_blocks.modules.positions import Learned, Resized, waving

        rows = x.length
        assert isinstance(rows, int)  # the rule fixed it
        if like is None:
            made = Learned(rows, x.channels, self.std, self.add)
        else:
            made = Resized(rows, x.channels, self.std, self.add, grid=_cells(x))
        return waving(made, _cells(x)) if self.fixed else made


class AxisTables(Block):
    """A row for each index of every axis, side by side in the channels; the last axis comes first. Added or alone."""

    name = "part.axis_tables"
    layout: ClassVar[str] = "grid"
    rows: Positive
    add: bool

    def infer(self, rule: Rule, x: Type) -> Type:
        rule.need(x.kind == "map", f"a table for each axis needs a grid, not {x}", "BP302")
        whole = x.channels % max(1, x.rank) == 0
        rule.need(whole, f"{x.channels} channels do not split into {x.rank} axes", "BP401")
        for n in x.grid:
            rule.at_least(self.rows - n, 0, f"{self.rows} rows of a position table")
        return x

    def traits(self) -> Traits:
        return Traits(position="code")

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.positions import PerAxis

        return PerAxis(self.rows, x.channels // x.rank, x.rank, self.add)


class LearnedPosition(Block):
    """A learned vector per token (Dosovitskiy et al., 2021), extra tokens included; added to the tokens, or by itself
    with `add: false`. The table has as many rows as there are tokens at the size the network is built for, and other
    sizes are refused; with `resize` the rows of the grid are interpolated to theirs (linear, in 2-D bicubic), and those
    of extra tokens stay. With `axis_rows` there is instead a table of so many rows for each axis, with as many channels
    each, for any grid up to that (Carion et al., 2020, uniform in 0..1 at first). A `fixed` table is not learned: it
    holds sines, then cosines, of each axis, the last axis first, and zeros for extra tokens (He et al., 2022)."""

    name = "position.learned"
    add: bool = True
    std: Number = 0.02
    resize: bool = False
    axis_rows: Positive | None = None
    fixed: bool = False

    def compose(self, net: Scope, x: Value) -> Value:
        if self.axis_rows:
            net.need(not self.fixed, "`fixed` is for one table of all cells, not for `axis_rows`", "BP202")
            net.need(not self.resize, "`resize` is for one table of all cells, `axis_rows` fits any grid", "BP202")
            return net.add("", AxisTables(rows=self.axis_rows, add=self.add), x)
        table = PositionTable(add=self.add, std=self.std, fixed=self.fixed)
        if not self.resize:
            return net.add("", table, x)
        net.need(x.type.kind in ("map", "tokens"), f"`resize` needs tokens of one grid, not {x.type}", "BP302")
        like: Any = net.add("split", Part(), x)["x"] if x.type.extra else x  # type: ignore[index]
        return net.add("", table, x, like=like)


class RelativePosition(Block):
    """A learned bias per head and offset between two cells of a window (Liu et al., 2021): (heads, n, n).

    `index: nnformer` is the offset of nnFormer's code, which is not injective in 3-D. Where a window is clamped to a
    small grid and the table is that of the full window, `clamped: rebuild` indexes the true offsets and `cut` the
    corner of the full window's index, as MONAI does.
    """

    name = "position.relative"
    layout: ClassVar[str] = "any"
    of_shapes: ClassVar[bool] = True
    index: Literal["exact", "nnformer"] = "exact"
    clamped: Literal["rebuild", "cut"] = "rebuild"
    std: Number = 0.02

    def infer(self, rule: Rule, x: Type, full: Type | None = None) -> Type:
        window = _cells(full or x)
        if self.index == "nnformer" and len(window) == 3:
            largest = (
                2 * (window[0] - 1) * (3 * window[1] - 1)
                + 2 * (window[1] - 1) * (2 * window[1] - 1)
                + 2 * (window[2] - 1)
            )
            rule.need(
                largest < prod(2 * n - 1 for n in window), f"overflows its table for the window {window}", "BP401"
            )
        return x.with_(grid=(prod(_cells(x)),) * 2)

    def traits(self) -> Traits:
        return Traits(constant="weights", position="bias", pure=True)

    def build(self, x: Type, full: Type | None) -> Any:
        from composer_blocks.modules.positions import Relative

        return Relative(_cells(x), _cells(full or x), x.channels, self.index, self.clamped, self.std)


class SinePosition(Block):
    """Waves of falling frequency along each axis of a grid (Vaswani et al., 2017, arXiv:1706.03762; on images Carion et
    al., 2020, arXiv:2005.12872): the code of x (B, C, *grid), of its shape, or with `add` x and its code.

    Each axis has its own part of the channels: as many for every one, an even number, the rest for the first. The wave
    of channel i of the c of an axis has the wavelength 2π · temperature^(group · ⌊i / group⌋ / c).

    add       whether the code is added to x or stands alone
    origin    where the first cell stands: 0; 1 (DETR); 0.5, its centre (Deformable DETR, CoTr)
    normalize positions run over 2π whatever the size, divided by the size plus 1e-6
    group     how many channels in a row share a wavelength: 2, a sine and its cosine; 3 in CoTr, whose sines and
              cosines still alternate
    arrange   interleaved: sines in even channels, cosines in odd ones. halves: first all sines, then all cosines
    axes      spatial: the part of the first axis comes first. reversed: that of the last
    temperature   the base of the wavelengths
    places    x does not stand on a grid but holds n places itself, (B, N, n), such as centres and sizes of boxes. Each
              of them gets so many channels, in their order: (B, N, n·places). With `normalize` they are from 0 to 1
    `mask` (B, 1, *grid), true where x is valid, makes positions count valid cells, and the size their number.
    """

    name = "position.sine"
    weightless: ClassVar[bool] = True
    add: bool = False
    origin: Number = 0
    normalize: bool = False
    group: Literal[2, 3] = 2
    arrange: Literal["interleaved", "halves"] = "interleaved"
    axes: Literal["spatial", "reversed"] = "spatial"
    temperature: Number = 10000
    places: Positive | None = None

    def wanted_layout(self, port: str) -> str:
        return "grid" if self.places is None else "features"

    def infer(self, rule: Rule, x: Type, mask: Type | None = None) -> Type:
        if self.places is not None:
            return self._of_places(rule, x, self.places, mask)
        least = 2 * x.rank
        text = f"needs an even number of channels, at least {least}: a sine and a cosine per axis, not {x.channels}"
        rule.need(x.channels % 2 == 0 and x.channels >= least, text, "BP401")
        if mask is not None:
            text = f"a mask of {x} has its grid and one channel, not {mask}"
            if rule.need(mask.channels == 1 and mask.rank == x.rank, text, "BP301"):
                for a, b in zip(x.grid, mask.grid, strict=True):
                    rule.equal(a, b, text)
        return x

    def traits(self) -> Traits:
        if self.places is not None:
            return Traits(pure=True)
        return Traits(constant="" if self.add else "shape", position="code", pure=True)

    def _of_places(self, rule: Rule, x: Type, places: int, mask: Type | None) -> Type:
        rule.need(places % 2 == 0, f"`places` is even, a sine and a cosine for each wavelength, not {places}", "BP401")
        grid = mask is None and not self.add and self.origin == 0 and self.axes == "spatial"
        rule.need(grid, "`add`, `origin`, `axes` and a mask are for cells of a grid, not for `places`", "BP202")
        return x.with_(channels=x.channels * places)

    def build(self, x: Type, rank: int) -> Any:
        from composer_blocks.modules.positions import Sine, SineOfPlaces

        if self.places is not None:
            return SineOfPlaces(x.channels, self.places, self.normalize, self.group, self.arrange, self.temperature)
        part = x.channels // (2 * rank) * 2
        widths = [x.channels - (rank - 1) * part, *[part] * (rank - 1)]
        return Sine(widths, **self.model_dump(exclude={"places"}))


class RotaryPosition(Block):
    """Angles that grow along each axis (Su et al., 2021, arXiv:2104.09864), so that the product of a query and a key
    depends on their distance: (B, *grid, C) -> (B, *grid, C / 2), for the slot `rotate` of an attention.

    Each axis of the grid turns its own part of the C channels of a head, as many for every one; pair i of the c of an
    axis turns by temperature^(-2i / c) per cell, and what does not split stays as it is.
    temperature   the base of the wavelengths
    """

    name = "position.rotary"
    layout: ClassVar[str] = "grid"
    weightless: ClassVar[bool] = True
    temperature: Number = 10000

    def infer(self, rule: Rule, x: Type) -> Type:
        least = 2 * x.rank
        text = f"a head needs an even number of channels, at least {least}: a pair for each axis, not {x.channels}"
        rule.need(x.channels % 2 == 0 and x.channels >= least, text, "BP401")
        return x.with_(channels=x.channels // 2)

    def traits(self) -> Traits:
        return Traits(constant="shape", position="angles", pure=True)

    def build(self, x: Type, rank: int) -> Any:
        from composer_blocks.modules.rotation import Angles

        return Angles(x.channels // (2 * rank), x.channels // 2, self.temperature)


def _cells(x: Type) -> tuple[int, ...]:
    """The grid of a window, which is known."""
    return tuple(n for n in x.grid if isinstance(n, int))
