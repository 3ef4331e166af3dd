"""Which cells of a grid stand in which window, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

Axis = tuple[tuple[tuple[int, int], ...], bool]
"""A window along one axis: (place in the window, cell) for each place at which a cell stands, and whether it is split:
at its shift cells from both ends of the axis meet."""

Window = tuple[list[int], list[int], tuple[bool, ...]]
"""A window: its cells on the flat grid, their places in the flat window, and along which axes it is split."""


@lru_cache(maxsize=64)
def windows_of(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], pad_first: bool
) -> tuple[Window, ...]:
    """The windows of a grid that is padded with zeros at the far side, before or after it is shifted.

    What is returned is shared by all callers.
    """
    axes = [tuple(_along(n, w, s, pad_first)) for n, w, s in zip(grid, window, shift, strict=True)]
    return tuple(_window(parts, grid, window) for parts in product(*axes))


def _along(n: int, w: int, s: int, pad_first: bool) -> Iterator[Axis]:
    """The windows along one axis of n cells."""
    padded = -(-n // w) * w
    around = padded if pad_first else n
    for start in range(0, padded, w):
        cells = ((place, (start + place + s) % around) for place in range(w) if pad_first or start + place < n)
        yield tuple((place, cell) for place, cell in cells if cell < n), s > 0 and start + w == padded


def _window(parts: tuple[Axis, ...], grid: tuple[int, ...], window: tuple[int, ...]) -> Window:
    cells, places = [0], [0]
    for (pairs, _), n, w in zip(parts, grid, window, strict=True):
        cells = [c * n + cell for c in cells for _, cell in pairs]
        places = [p * w + place for p in places for place, _ in pairs]
    return cells, places, tuple(split for _, split in parts)
