"""Scales: maps of several resolutions as one sequence, which attention can sample."""

from typing import Any, ClassVar

from composer import Block, Number, Rule, Scope, Slot, Type, slot


class JoinedScales(Block):
    """Maps [(B, *grid, C)], their position codes and masks, each as one sequence (B, N, C)."""

    name = "part.scales"
    layout: ClassVar[str] = "grid"
    gives: ClassVar[str] = "tokens"
    lists: ClassVar[tuple[str, ...]] = ("x", "position", "mask")
    level_embedding: bool

    def infer(
        self, rule: Rule, x: list[Type], position: list[Type] | None = None, mask: list[Type] | None = None
    ) -> dict[str, Type]:
        joined = Type("scales", x[0].channels, grids=tuple(m.grid for m in x))
        made = {"tokens": joined}
        if position or self.level_embedding:
            made["position"] = joined
        return {**made, "mask": joined.with_(channels=1)} if mask else made

    def build(self, x: list[Type]) -> Any:
        from composer_blocks.modules.scales import Join

        return Join(len(x), x[0].channels, self.level_embedding)


class CellBoxes(Block):
    """A box around each cell of some maps, and which of them lie in the valid part: [(B, *grid, C)] -> (B, N, 2·rank)
    and (B, N, 1)."""

    name = "part.cell_boxes"
    layout: ClassVar[str] = "grid"
    gives: ClassVar[str] = "tokens"
    lists: ClassVar[tuple[str, ...]] = ("x", "mask")
    weightless: ClassVar[bool] = True
    size: Number

    def infer(self, rule: Rule, x: list[Type], mask: list[Type] | None = None) -> dict[str, Type]:
        joined = Type("scales", 2 * x[0].rank, grids=tuple(m.grid for m in x))
        return {"boxes": joined, "inside": joined.with_(channels=1)}

    def build(self, rank: int) -> Any:
        from composer_blocks.modules.scales import CellBoxes as Module

        return Module(rank, self.size)


class FlattenScales(Block):
    """Maps of several resolutions and one width, [(B, C, *grid)], as one sequence (B, N, C) that remembers their grids
    (Zhu et al., 2021, arXiv:2010.04159). Its outputs: `tokens`; `position`, the codes that the slot `position` makes of
    each map, to which `level_embedding` adds a learned vector for each; `mask`, where `mask` [(B, 1, *grid)] was given.
    `tokens.take` takes a map out again.

    boxes     with a size, from 0 to 1, two more outputs: `boxes` (B, N, 2·rank), one around each cell, its centre and
              size as parts of the valid image, last axis first; those of the first map have this size, those of each
              next one twice that. And `inside` (B, N, 1), 1 where cell, centre and size are valid, that is from 0.01 to
              0.99; elsewhere it is 0, and all numbers of the box are 1
    """

    name = "scales.flatten"
    lists: ClassVar[tuple[str, ...]] = ("x", "mask")
    many: ClassVar[bool] = True
    level_embedding: bool = True
    boxes: Number | None = None
    position: Slot = slot(offers=("x", "mask"), doc="makes the position code of each map")

    def compose(self, net: Scope, x: Any, mask: Any = None) -> Any:
        x, mask = (v if isinstance(v, list) or v is None else [v] for v in (x, mask))
        if not self._fits(net, [v.type for v in x], None if mask is None else [v.type for v in mask]):
            return {"tokens": x[0], "position": None, "mask": None}
        codes = None
        if net.has("position"):
            masks = mask or [None] * len(x)
            codes = [
                net.slot("position", x=v, **({} if m is None else {"mask": m})) for v, m in zip(x, masks, strict=True)
            ]
            for v, code in zip(x, codes, strict=True):
                text = f"the position code of {v.type} has the same type, not {code.type}"
                net.need(code.type == v.type, text, "BP304")
        made: Any = net.add("", JoinedScales(level_embedding=self.level_embedding), x, position=codes, mask=mask)
        if self.boxes is not None:
            made |= net.add("boxes", CellBoxes(size=self.boxes), x, mask=mask)
        return {"tokens": None, "position": None, "mask": None, **made}

    def _fits(self, net: Scope, x: list[Type], mask: list[Type] | None) -> bool:
        said = ", ".join(map(str, x))
        alike = len({(t.kind, t.channels, t.rank) for t in x}) == 1 and x[0].kind == "map"
        if not net.need(alike, f"needs maps of one width, not {said}", "BP301") or mask is None:
            return alike
        masks = ", ".join(map(str, mask))
        text = f"needs a mask of one channel for each map: {said}; masks: {masks}"
        masked = len(mask) == len(x) and all(
            m.channels == 1 and m.rank == t.rank for t, m in zip(x, mask, strict=False)
        )
        if not net.need(masked, text, "BP301"):
            return False
        return all(
            net.equal(a, b, text) for t, m in zip(x, mask, strict=True) for a, b in zip(t.grid, m.grid, strict=True)
        )
