"""Where the boxes of a figure stand: rows by resolution, left to right by order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from composer.drawing.boxes import Box, Edge

NARROW: Final = frozenset("fijlrtI.,:;·'| /()[]")
WIDE: Final = frozenset("mwMW@%…")
GAP: Final = 26.0
LANE: Final = 9.0
EDGE: Final = 24.0


@dataclass(frozen=True)
class Item:
    """A box with a row and a place along it; heights are known, where the row lies is not yet."""

    box: Box
    row: int
    left: float
    width: float
    height: float
    is_turn: bool = False
    """Whether the order of computation comes down to it and goes up from it."""

    @property
    def middle(self) -> float:
        """Where texts are centred."""
        return self.left + self.width / 2

    @property
    def entry(self) -> float:
        """Where elbows come down from above."""
        return self.left + self.width * (0.33 if self.is_turn else 0.55)

    @property
    def exit(self) -> float:
        """Where elbows leave upwards."""
        return self.left + self.width * (0.67 if self.is_turn else 0.45)

    @property
    def stack(self) -> float:
        """How far the cards behind a repeated box stick out."""
        return 5.0 if self.box.copies > 1 else 0.0

    @property
    def right(self) -> float:
        """Where it ends, cards included."""
        return self.left + self.width + self.stack


def text_width(text: str, size: float) -> float:
    """A safe estimate: the fonts in use are narrower, but for bold capitals."""
    return size * sum(
        1.0 if letter in WIDE or letter > "\u2e7f" else 0.38 if letter in NARROW else 0.65 for letter in text
    )


def placed(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[Item]:
    """A U where something skips over a smaller resolution, lines of boxes otherwise."""
    levels = _levels(boxes, edges)
    sizes = [_size(box, level, boxes) for box, level in zip(boxes, levels, strict=True)]
    is_u = any(edge.is_skip and max(levels[edge.source : edge.target]) > levels[edge.target] for edge in edges)
    return _u(boxes, levels, sizes) if is_u else _lines_of_boxes(boxes, sizes)


def _levels(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[int]:
    """Each box's resolution, 0 the finest; what has no grid stays with what it reads, inputs with their readers."""
    before = {edge.target: edge.source for edge in edges}
    after = {edge.source: edge.target for edge in reversed(edges)}
    strides: list[float] = []
    for number, box in enumerate(boxes):
        source = before.get(number, number - 1)
        inherited = strides[source] if 0 <= source < number else 1.0
        own = None if box.kind == "output" else box.shape.stride
        strides.append(inherited if own is None else own)
    for number, box in enumerate(boxes):
        if box.kind == "input" and number in after:
            strides[number] = strides[after[number]]
    ranks = {stride: rank for rank, stride in enumerate(sorted(set(strides)))}
    return [ranks[stride] for stride in strides]


def _size(box: Box, level: int, boxes: Sequence[Box]) -> tuple[float, float]:
    """Wide enough for its texts and wider with more channels; lower with each level down."""
    texts = (text_width(box.title, 11.5) + 12 * (box.copies > 1), text_width(box.subtitle, 8.5), 36.0)
    label = text_width(str(box.shape), 8.5)
    if not box.is_node:
        return max(*texts[:1], label) + 4, 34.0
    most = max(other.shape.width for other in boxes)
    share = math.log(box.shape.width) / math.log(most) if box.shape.width > 1 and most > 1 else 0.0
    return max(max(texts) + 12 + 12 * share, label), max(36.0, 60.0 - 6.0 * level)


def _u(boxes: Sequence[Box], rows: Sequence[int], sizes: Sequence[tuple[float, float]]) -> list[Item]:
    """Rows by resolution; a box on another row than the one before overlaps it from above or below."""
    items: list[Item] = []
    ends: dict[int, float] = {}
    around = [rows[0], *rows, rows[-1] + 1]
    for number, (box, row, (width, height)) in enumerate(zip(boxes, rows, sizes, strict=True)):
        item = Item(box, row, 0.0, width, height, is_turn=around[number] < row > around[number + 2])
        item = replace(item, left=max(_after(items[-1], item) if items else 0.0, ends.get(row, -GAP) + GAP))
        items.append(item)
        ends[row] = item.right
    return items


def _after(last: Item, item: Item) -> float:
    """The left end of a box, by the box before it."""
    if item.row == last.row:
        return last.right + GAP
    return last.right + 14 - item.entry if item.row > last.row else last.exit + 16


def _lines_of_boxes(boxes: Sequence[Box], sizes: Sequence[tuple[float, float]]) -> list[Item]:
    """One line, or as many of about equal length as a page needs."""
    total = sum(width + GAP for width, _ in sizes)
    longest = total / math.ceil(total / 1100) if total else 0.0
    items: list[Item] = []
    row, left = 0, 0.0
    for box, (width, height) in zip(boxes, sizes, strict=True):
        if left and left + width > longest + 60:
            row, left = row + 1, 0.0
        items.append(Item(box, row, left, width, height))
        left = items[-1].right + GAP
    return items
