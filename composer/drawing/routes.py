"""The lines of a figure: lanes between rows, so that no line runs through a box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from composer.drawing.boxes import Edge
from composer.drawing.places import LANE, Item


@dataclass(frozen=True)
class Track:
    """A horizontal stretch of one line in the gap above a row; it gets a lane of its own there."""

    gap: int
    start: float
    end: float
    line: int

    @property
    def length(self) -> float:
        """How far it goes."""
        return abs(self.end - self.start)


@dataclass(frozen=True)
class Level:
    """A height in a row, measured from the row's middle."""

    row: int
    offset: float


Stop = tuple[float, Level | Track]
"""A corner of a line: x, and y as far as it is known."""


@dataclass
class Routes:
    """Finds lines that cross no box; keeps the verticals in use, so that no two lines lie on each other."""

    items: Sequence[Item]
    verticals: list[float] = field(default_factory=list)
    rows: dict[int, list[Item]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.items:
            self.rows.setdefault(item.row, []).append(item)

    def all(self, edges: Sequence[Edge]) -> list[list[Stop]]:
        """A line for each edge, the short ways first."""
        straight = {number: stops for number, edge in enumerate(edges) if (stops := self._straight(edge))}
        busy_sources = {edges[number].source for number in straight if edges[number].is_skip}
        busy_targets = {edges[number].target for number in straight if edges[number].is_skip}
        lines: dict[int, list[Stop]] = dict(straight)
        for number, edge in enumerate(edges):
            if number not in lines and (stops := self._elbow(edge, busy_sources, busy_targets)):
                lines[number] = stops
        for number, edge in enumerate(edges):
            if number not in lines:
                lines[number] = self._next_line(edge, number) or self._by_lanes(edge, number)
        return [lines[number] for number in range(len(edges))]

    def _straight(self, edge: Edge) -> list[Stop] | None:
        a, b = self.items[edge.source], self.items[edge.target]
        if a.row != b.row or not self._is_free(a.row, a.right, b.left):
            return None
        level = Level(a.row, -9.0 if edge.is_skip else 0.0)
        return [(a.right, level), (b.left, level)]

    def _elbow(self, edge: Edge, busy_sources: set[int], busy_targets: set[int]) -> list[Stop] | None:
        """To the right and down into the top of a box, or up out of the top and right into its side."""
        a, b = self.items[edge.source], self.items[edge.target]
        if a.row < b.row:
            x, start, end = b.entry, a.right, Level(a.row, 8.0 if edge.source in busy_sources else 0.0)
            corner: list[Stop] = [(start, end), (x, end), (x, _top(b))]
            side = (a.row, start, x)
        elif a.row > b.row:
            x, end = a.exit, Level(b.row, 8.0 if edge.target in busy_targets else 0.0)
            corner = [(x, _top(a)), (x, end), (b.left, end)]
            side = (b.row, x, b.left)
        else:
            return None
        between = range(min(a.row, b.row) + 1, max(a.row, b.row))
        if side[2] - side[1] < 6 or not self._is_free(*side) or not all(self._is_free(r, x, x) for r in between):
            return None
        self.verticals.append(x)
        return corner

    def _next_line(self, edge: Edge, number: int) -> list[Stop] | None:
        """From the last box of a line to the first of the next."""
        a, b = self.items[edge.source], self.items[edge.target]
        if b.row != a.row + 1 or self.rows[a.row][-1] is not a or self.rows[b.row][0] is not b:
            return None
        out, back = a.right + 12, b.left - 16
        track = Track(b.row, back, out, number)
        start, end = Level(a.row, 0.0), Level(b.row, 0.0)
        return [(a.right, start), (out, start), (out, track), (back, track), (back, end), (b.left, end)]

    def _by_lanes(self, edge: Edge, number: int) -> list[Stop]:
        """Out of the top into a lane, through the other rows where they are free, along a lane, in from the top."""
        a, b = self.items[edge.source], self.items[edge.target]
        start, end = a.middle + a.width / 3, b.middle - b.width / 3
        if a.row == b.row:
            track = Track(a.row, start, end, number)
            return [(start, _top(a)), (start, track), (end, track), (end, _top(b))]
        x = self._corridor(range(min(a.row, b.row), max(a.row, b.row)), start, end)
        first, second = Track(a.row, start, x, number), Track(b.row, x, end, number)
        return [(start, _top(a)), (start, first), (x, first), (x, second), (end, second), (end, _top(b))]

    def _corridor(self, rows: range, start: float, end: float) -> float:
        """The nearest x at which all these rows are free; far enough to the side there always is one."""
        taken = sorted(
            [(item.left - 9, item.right + 9) for row in rows for item in self.rows.get(row, [])]
            + [(x - 5, x + 5) for x in self.verticals]
        )
        edges = [x for left, right in _merged(taken) for x in (left, right)] or [end]
        chosen = min(edges, key=lambda x: (abs(x - start) + abs(x - end), x))
        self.verticals.append(chosen)
        return chosen

    def _is_free(self, row: int, start: float, end: float) -> bool:
        """Whether nothing stands in a row between two places."""
        return start <= end and not any(
            item.left - 4 < end and start < item.right + 4
            for item in self.rows.get(row, [])
            if start != item.right and end != item.left
        )


def _top(item: Item) -> Level:
    return Level(item.row, -item.height / 2 - item.stack)


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Overlapping spans, already sorted, as one."""
    merged: list[tuple[float, float]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _lanes(lines: Sequence[Sequence[Stop]]) -> dict[Track, int]:
    """A lane for each track, counted upwards from the row: short ones low, and none upon another."""
    tracks = {y for stops in lines for _, y in stops if isinstance(y, Track)}
    used: dict[tuple[int, int], list[tuple[float, float]]] = {}
    lanes: dict[Track, int] = {}
    for track in sorted(tracks, key=lambda t: (t.length, t.line, t.gap, t.start)):
        left, right, lane = min(track.start, track.end) - 6, max(track.start, track.end) + 6, 0
        while any(a < right and left < b for a, b in used.get((track.gap, lane), [])):
            lane += 1
        used.setdefault((track.gap, lane), []).append((left, right))
        lanes[track] = lane
    return lanes


@dataclass(frozen=True)
class Heights:
    """Where rows and lanes lie, top down."""

    middles: Mapping[int, float]
    tops: Mapping[int, float]
    lanes: Mapping[Track, int]
    bottom: float

    def of(self, place: Level | Track) -> float:
        """The y of a place."""
        if isinstance(place, Level):
            return self.middles[place.row] + place.offset
        return self.tops[place.gap] - 12 - LANE * self.lanes[place]


def heights_of(items: Sequence[Item], lines: Sequence[Sequence[Stop]], y: float) -> Heights:
    """Rows under each other, each with room for its lanes above it and its labels below."""
    lanes = _lanes(lines)
    middles: dict[int, float] = {}
    tops: dict[int, float] = {}
    for row, group in groupby(sorted(items, key=lambda item: item.row), key=lambda item: item.row):
        height = max(item.height for item in group)
        count = 1 + max((lane for track, lane in lanes.items() if track.gap == row), default=-1)
        tops[row] = y + (14 if middles else 8) + (LANE * count + 8 if count else 0)
        middles[row] = tops[row] + height / 2
        y = tops[row] + height + 18
    return Heights(middles, tops, lanes, y)
