"""Deformable attention: a few learned places instead of all keys. It fills a slot called `attention`."""

from typing import Any, ClassVar, Literal

from composer import Block, Positive, Rule, Scope, Traits, Type, Value
from composer_blocks.attention import check_heads
from composer_blocks.convolution import Linear
from composer_blocks.parts import Add

Axes = Literal["xyz", "dwh_as_xyz"]


def listed(types: list[Type]) -> str:
    """Types in a message."""
    return ", ".join(map(str, types)) or "none"


class Offsets(Linear):
    """The linear map to offsets; before training the points of each head lie on a ray of its own."""

    name = "part.offsets"
    heads: Positive
    levels: Positive
    points: Positive
    rank: Positive

    def infer(self, rule: Rule, x: Type) -> Type:
        return x.with_(channels=self.heads * self.levels * self.points * self.rank)

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.deformable import offsets

        return offsets(x.channels, self.heads, self.levels, self.points, self.rank)


class Centres(Block):
    """Where the cells of some maps stand, relative to its valid part: [(B, *grid, C)] -> (B, N, rank)."""

    name = "part.centres"
    layout: ClassVar[str] = "grid"
    gives: ClassVar[str] = "tokens"
    lists: ClassVar[tuple[str, ...]] = ("x", "mask")
    weightless: ClassVar[bool] = True
    axes: Axes

    def infer(self, rule: Rule, x: list[Type], mask: list[Type] | None = None) -> Type:
        return Type("scales", x[0].rank, grids=tuple(m.grid for m in x))

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.deformable import Centres as Module

        return Module(rank, self.axes)


class Sample(Block):
    """The weighted sum of samples: offsets (B, N, heads·levels·points·rank), weights (B, N, heads·levels·points), maps
    [(B, *grid, C)] and the reference points (B, N, rank or 2·rank) -> (B, N, C)."""

    name = "part.sample"
    layout: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("offsets", "weights", "reference"), "tokens"),
        **dict.fromkeys(("maps", "mask"), "grid"),
    }
    gives: ClassVar[str] = "tokens"
    lists: ClassVar[tuple[str, ...]] = ("maps", "mask")
    weightless: ClassVar[bool] = True
    heads: Positive
    points: Positive
    axes: Axes

    def infer(
        self,
        rule: Rule,
        offsets: Type,
        weights: Type,
        reference: Type,
        maps: list[Type],
        mask: list[Type] | None = None,
    ) -> Type:
        rank = maps[0].rank
        text = f"reference points of maps with {rank} axes have {rank} or {2 * rank} channels, not {reference}"
        rule.need(reference.channels in (rank, 2 * rank), text, "BP301")
        rule.equal(offsets.length, reference.length, f"as many reference points as queries, not {reference}")
        text = f"needs a mask of one channel for each map: {listed(maps)}; masks: {listed(mask or [])}"
        grids = [len(m.grid) for m in maps] == [len(m.grid) for m in mask or []]
        if mask is not None and rule.need(grids and all(m.channels == 1 for m in mask), text, "BP301"):
            for a, b in ((a, b) for m, n in zip(maps, mask, strict=True) for a, b in zip(m.grid, n.grid, strict=True)):
                rule.equal(a, b, text)
        return offsets.with_(channels=maps[0].channels)

    def traits(self) -> Traits:
        """Each query samples by itself."""
        return Traits(attends=("offsets", "maps"), local="cells", entire=("maps", "mask"))

    def build(self, maps: list[Type]) -> Any:
        from composer_blocks.modules.deformable import Sample as Module

        return Module(self.heads, self.points, maps[0].rank, self.axes)


class DeformableAttention(Block):
    """Multi-scale deformable attention (Zhu et al., 2021, arXiv:2010.04159): each query (B, N, C) samples `context`, a
    map or several scales (x itself without one), at `points` places for each head and scale, 2-D or 3-D.

    The places are offsets from `reference` (B, N, rank), in units of a cell, or from the centre of a box (B, N, 2·rank)
    in units of half its size over `points`; without it from the query's own cell. `position` is added to the queries,
    not to the values. `mask` (B, N, 1), true where the context is valid: what is not counts as zeros, and reference
    points are relative to the valid part.
    axes      xyz: the numbers of a place stand for the last axis first. dwh_as_xyz: as in CoTr's code, which computes
              places in the order depth, width, height but reads them as x, y, z (3-D only)
    """

    name = "attention.deformable"
    heads: Positive = 8
    points: Positive = 4
    axes: Axes = "xyz"

    def compose(
        self,
        net: Scope,
        x: Value,
        context: Value | None = None,
        position: Value | None = None,
        reference: Value | None = None,
        mask: Value | None = None,
    ) -> Value:
        source = context if context is not None else x
        if not self._fits(net, x.type, source.type, reference is not None):
            return x
        check_heads(net, x.type.channels, self.heads)
        levels, rank = len(source.type.grids) or 1, source.type.rank
        query = x if position is None else net.add("query_position", Add(), x, position)
        rays = Offsets(heads=self.heads, levels=levels, points=self.points, rank=rank)
        offsets = net.add("offsets", rays, query)
        weights = net.add("weights", Linear(out=self.heads * levels * self.points), query)
        maps = net.maps(net.add("value", Linear(out=x.type.channels), source))
        masks = None if mask is None else net.maps(mask)
        if reference is None:
            own = masks if context is None else None
            reference = net.add("centres", Centres(axes=self.axes), net.maps(x), mask=own)
        core = Sample(heads=self.heads, points=self.points, axes=self.axes)
        y = net.add("sample", core, offsets, weights, reference, maps, mask=masks)
        return net.add("project", Linear(out=x.type.channels), y)

    def _fits(self, net: Scope, x: Type, source: Type, given: bool) -> bool:
        grid = net.need(source.kind in ("scales", "map"), f"samples a map or several scales, not {source}", "BP302")
        text = f"{x} has no grid of its own: give the queries `reference` points"
        own = net.need(given or x.kind in ("scales", "map"), text, "BP203")
        if not (grid and own):
            return False
        known = {"xyz": (2, 3), "dwh_as_xyz": (3,)}[self.axes]
        text = f"`axes: {self.axes}` samples maps of {' or '.join(map(str, known))} axes, not {source}"
        return net.need(source.rank in known, text, "BP302")
