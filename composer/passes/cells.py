"""How many cells a map has at the size the network is built for."""

from __future__ import annotations

from collections.abc import Mapping

from composer.dims import at, symbols_of
from composer.prepared import Flow
from composer.types import Type

OPEN = 96
"""What a size counts for that no input is built for."""


def cells(flow: Flow, value: int, built: Mapping[str, int]) -> int:
    """Those of one sample."""
    type_: Type = flow.values[value].type
    count = 1
    for size in type_.grid:
        count *= max(1, int(at(size, {**dict.fromkeys(symbols_of(size), OPEN), **built})))
    return count
