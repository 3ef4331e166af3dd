"""Memory: tokens beside the pixels, which live from one copy of a `repeat` to the next.

A memory fills the slot of its owner, and its owner enters it twice. Asked, without `tokens`, it gives those that
attention shall see; told what became of these `tokens`, it hands new ones on to the next copy. The nearest enclosing
`repeat` owns the first ones, and nobody reads the last.
"""

from math import prod
from typing import Any, ClassVar, Literal

from composer import Block, Natural, Number, Positive, Rule, Scope, Slot, Type, Value, queries, slot, vector
from composer_blocks.parts import Clamp, Each, Join, MiddleRows, Part, ReadRows, WriteRows


class GlobalTokens(Block):
    """Learned tokens for each window, which read the whole map by attending to one another (GLAM: Themyr et al., 2022,
    arXiv:2212.07890): (B, *windows, count, C).

    They start alike in every window. What a window's attention made of them gets a position, the middle of a table of
    so many `rows` (none without), goes through the slot `attention` with the tokens of all windows, and is cut to
    ±`clamp`. `volume` is a memory of a larger extent, whose tokens stand in front of these in that attention.
    """

    name = "memory.global_tokens"
    stands_in: ClassVar[tuple[str, ...]] = ("memory", "volume")
    count: Positive = 1
    rows: Natural | None = None
    clamp: Number | None = None
    std: Number = 1
    attention: Slot = slot()
    volume: Slot = slot(role="memory", offers=("x", "tokens"))

    def compose(self, net: Scope, x: Value, tokens: Value | None = None) -> Value:
        if tokens is None:
            first: Value = net.state("tokens", (self.count, x.type.channels), std=self.std)
            return first
        if self.rows:
            table = net.state("position", (self.rows, x.type.channels))
            tokens = net.add("position", MiddleRows(), tokens, table)
        tokens = self._attended(net, x, tokens)
        if self.clamp is not None:
            tokens = net.add("clamp", Clamp(limit=self.clamp), tokens)
        net.keep("tokens", tokens)
        return tokens

    def _attended(self, net: Scope, x: Value, tokens: Value) -> Value:
        if not net.has("volume"):
            return net.slot("attention", x=tokens)
        far = net.slot("volume", x=x, tokens=None)
        both = net.slot("attention", x=net.add("join", Join(), tokens, far))
        parts: Any = net.add("part", Part(), both)
        net.slot("volume", x=x, tokens=parts["extra"])
        window: Value = parts["x"]
        return window


class VolumeTokens(Block):
    """Learned tokens for each cell of a volume, of which an image shows some (FINE: Themyr et al., 2022,
    arXiv:2210.05313): (B, count, C).

    `cell` (B, 4), or a multiple where a cell has several tokens, says which ones are read, and what comes back is added
    to. The slot `attention` lets all of them attend to those `seen` so far. In the published `order: after` that is the
    last thing a block does, so that with two blocks nothing reads it; `before` does it first. `rows_of: official`
    repeats a mistake: from the second block on, a second sample reads and writes next to the rows of the first one, and
    of more samples all use those of the first.
    """

    name = "memory.volume_tokens"
    stands_in: ClassVar[tuple[str, ...]] = ("memory", "volume")
    count: Positive
    rows_of: Literal["own", "official"] = "own"
    order: Literal["after", "before"] = "after"
    std: Number = 1
    attention: Slot = slot(offers=("x", "mask"))

    def compose(
        self, net: Scope, x: Value, cell: Value, seen: Value | None = None, tokens: Value | None = None
    ) -> Value:
        vector = cell.type.kind == "vector"
        net.need(vector, f"`cell` has the numbers of the cells that are read, a vector; not {cell.type}", "BP302")
        state = net.state("tokens", (self.count, x.type.channels), std=self.std)
        if tokens is None:
            if self.order == "before":
                state = net.slot("attention", x=net.add("each", Each(), state, cell), mask=seen)
            net.keep("tokens", state)
            return net.add("read", ReadRows(rows_of=self.rows_of), state, cell)
        back = tokens.type.kind in ("queries", "unknown")
        text = (
            f"tokens of a volume come back as they were read, not {tokens.type}; they belong in `memory.global_tokens`"
        )
        if not net.need(back, text, "BP302"):
            return x
        state = net.add("write", WriteRows(rows_of=self.rows_of), state, cell, tokens)
        state = net.slot("attention", x=state, mask=seen) if self.order == "after" else state
        net.keep("tokens", state)
        return state


class Cells(Block):
    """Which cells of a volume a crop shows: position (B, axes) -> cell (B, 4), and seen (B, cells, 1),
    1 where a cell was seen. With several tokens `per_cell` these are (B, 4·per_cell) and (B, cells·per_cell, 1) of
    tokens, those of a cell one after another; `seen_of: official` repeats a mistake and takes the numbers of the seen
    cells for those of tokens.

    `position` is the crop's centre less the volume's, in voxels. A volume of at most `volume` voxels holds `grid` cells
    of the size of the `crop` along its last two axes, in its middle; a crop shows the cell of its centre and the
    neighbours on the far side, or on the near one at the border. A centre beyond the last cell counts as in the last
    one, or, `past_the_end: first`, as in the first, as the published code has it. Every forward pass counts the cells
    it sees, also in evaluation: `visits` is a buffer.
    """

    name = "memory.cells"
    layout: ClassVar[str] = "any"
    many: ClassVar[bool] = True
    not_promised: ClassVar[dict[str, str]] = {
        "buffers": "it counts the visits of cells in evaluation too, as published"
    }
    grid: tuple[Positive, Positive]
    crop: tuple[Positive, ...]
    volume: tuple[Positive, ...]
    past_the_end: Literal["first", "last"] = "last"
    per_cell: Positive = 1
    seen_of: Literal["own", "official"] = "own"

    def infer(self, rule: Rule, position: Type) -> dict[str, Type]:
        axes = len(self.crop)
        rule.need(
            len(self.volume) == axes > 1, f"`crop` {self.crop} and `volume` {self.volume} differ in axes", "BP401"
        )
        text = f"a position has one number for each of the {axes} axes of the crop, not {position}"
        rule.need(position.kind == "vector" and position.channels == axes, text, "BP301")
        rule.need(min(self.grid) > 1, f"a volume has two cells or more along an axis, not {list(self.grid)}", "BP401")
        return {"cell": vector(4 * self.per_cell), "seen": queries(prod(self.grid) * self.per_cell, 1)}

    def build(self) -> Any:
        from composer_blocks.modules.memory import Cells as Module

        crop, volume = self.crop[-2:], self.volume[-2:]
        return Module(self.grid, crop, volume, self.past_the_end == "last", self.per_cell, self.seen_of == "official")
