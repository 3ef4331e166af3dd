"""What flows along an edge: kind, channels, and a grid that remembers how it came from the input's grid.

A map and grid tokens without extra tokens are one value, so there is one kind for both; in which memory layout the
value is held is the compiler's business (`Layout`). Extra tokens (a class token) are part of the type, so forgetting
to drop one is an error that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from composer.dims import Size, at, product
from composer.frozen import dataclass, replace

Kind = Literal["map", "tokens", "scales", "queries", "vector", "unknown"]
Layout = Literal["first", "last", "flat"]
"""first: (B, C, *grid) · last: (B, *grid, C) · flat: (B, N, C). Vectors are (B, C) in each of them."""

AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
"""Names of an input's axes by rank, where the blueprint gives none."""


@dataclass(frozen=True)
class Type:
    """The type of a value.

    kind      map: a grid of channels, with `extra` = 0. tokens: a grid with extra tokens in front.
              scales: several grids in one sequence. queries: `count` tokens without a grid. vector: channels only.
    channels  number of channels
    grid      the size per axis, over the input's axes (map and tokens)
    grids     one grid per level (scales)
    """

    kind: Kind
    channels: int = 0
    grid: tuple[Size, ...] = ()
    extra: int = 0
    grids: tuple[tuple[Size, ...], ...] = ()
    count: Size = 0

    @property
    def rank(self) -> int:
        return len(self.grids[0]) if self.grids else len(self.grid)

    @property
    def is_grid(self) -> bool:
        """Whether this is a plain map: a grid and nothing in front of it."""
        return self.kind == "map"

    @property
    def length(self) -> Size:
        """Number of tokens when the value is laid out as a sequence."""
        if self.kind == "scales":
            return sum((product(g) for g in self.grids), 0)
        return self.count if self.kind == "queries" else product(self.grid) + self.extra

    def with_(self, **changes: Any) -> Type:
        return replace(self, **changes)

    def at(self, env: Mapping[str, int]) -> Type:
        """The same type with every size a number."""
        fixed = tuple(int(at(n, env)) for n in self.grid)
        levels = tuple(tuple(int(at(n, env)) for n in g) for g in self.grids)
        return replace(self, grid=fixed, grids=levels, count=int(at(self.count, env)))

    def fits(self, other: Type) -> bool:
        """Whether a residual connection may add the two."""
        return self == other

    def __str__(self) -> str:
        if self.kind == "unknown":
            return "(unknown)"
        if self.kind == "vector":
            return f"(B, {self.channels})"
        if self.kind == "queries":
            return f"(B, {self.count}, {self.channels}) queries"
        if self.kind == "scales":
            grids = " + ".join("·".join(map(str, g)) for g in self.grids)
            return f"(B, {grids}, {self.channels}) scales"
        if self.kind == "tokens":
            body = "·".join(map(str, self.grid))
            return f"(B, {self.extra} + {body}, {self.channels}) tokens"
        return f"(B, {', '.join(map(str, (self.channels, *self.grid)))})"


UNKNOWN = Type("unknown")
"""The type after a mistake: nothing more is said about it."""


def map_(channels: int, grid: tuple[Size, ...]) -> Type:
    """A map: (B, channels, *grid)."""
    return Type("map", channels, tuple(grid))


def vector(channels: int) -> Type:
    """A vector: (B, channels)."""
    return Type("vector", channels)


def queries(count: Size, channels: int) -> Type:
    """Tokens without a grid: (B, count, channels)."""
    return Type("queries", channels, count=count)
