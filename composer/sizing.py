"""Types in numbers, for the blocks that are built: at the size of the blueprint, each type when somebody asks for it.

    (B, 64, H/4, W/4)  at H = 224, W = 224  ->  (B, 64, 56, 56)

Most of the types of a network are asked for nothing but their channels, and stand on one grid in long rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from composer.dims import Size, at
from composer.frozen import replace


class Sizes:
    """Numbers for the symbols in types. Types that hold one grid share what it comes to."""

    def __init__(self, env: Mapping[str, int]):
        self.env = env
        self._grids: dict[int, tuple[tuple[Size, ...], tuple[int, ...]]] = {}

    def sized(self, types: Mapping[str, Any]) -> Mapping[str, Any]:
        """Types by the name of their port."""
        return _Sized(types, self)

    def of(self, type_: Any) -> Any:
        """A type, or a list of them, as numbers; one whose size is open stays as it is."""
        if isinstance(type_, list):
            return [self.of(t) for t in type_]
        try:
            plain = not type_.grids and type(type_.count) is int
            return replace(type_, grid=self._grid(type_.grid)) if plain else type_.at(self.env)
        except KeyError:
            return type_

    def _grid(self, grid: tuple[Size, ...]) -> tuple[int, ...]:
        """By identity: comparing sizes takes longer than computing them. The grid is kept, so that its number is."""
        known = self._grids.get(id(grid))
        if known is None:
            known = self._grids[id(grid)] = grid, tuple([int(at(n, self.env)) for n in grid])
        return known[1]


class _Sized(Mapping[str, Any]):
    def __init__(self, types: Mapping[str, Any], sizes: Sizes):
        self.types, self.sizes = types, sizes

    def __getitem__(self, port: str) -> Any:
        return self.sizes.of(self.types[port])

    def __contains__(self, port: object) -> bool:
        return port in self.types

    def __iter__(self) -> Iterator[str]:
        return iter(self.types)

    def __len__(self) -> int:
        return len(self.types)
