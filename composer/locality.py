"""Which rows of its input a leaf needs for some rows of its output, so that a map can be computed strip by strip.

Rows are cells along one axis of the grid, or tokens. A leaf is run as it is on a piece of its input that is a little
longer than needed: where the piece ends inside the map, the module pads as if the map ended there, and the rows that
this spoils are cut off. So nothing of a module is imitated, and a strip is exact at the map's ends too. Convolutions
and pools far from the ends run without their padding along the axis instead, and nothing is spoilt.

    rows a..b of y  ->  reads: rows lo..hi of x  ->  module(x[lo:hi]) starts at row `starts(lo)` of y  ->  cut
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from composer.traits import Traits


class Locality(ABC):
    """How rows of a leaf's output depend on rows of its input."""

    @abstractmethod
    def length(self, n: int) -> int:
        """Rows of the output of n rows."""

    @abstractmethod
    def reads(self, a: int, b: int, n: int) -> tuple[int, int]:
        """The piece of an input of n rows whose output has the rows a to b right."""

    @abstractmethod
    def starts(self, lo: int) -> int:
        """The row of the output at which that of a piece from row `lo` starts."""

    def inner(self, a: int, b: int, n: int) -> bool:
        """Whether the rows a to b are computed without padding along the axis; their piece gives these and no more."""
        return False


@dataclass(frozen=True)
class Cells(Locality):
    """Each row by itself."""

    def length(self, n: int) -> int:
        return n

    def reads(self, a: int, b: int, n: int) -> tuple[int, int]:
        return a, b

    def starts(self, lo: int) -> int:
        return lo


@dataclass(frozen=True)
class Window(Locality):
    """Row r reads the rows r·stride - padding + dilation·(0 … kernel - 1): convolutions and pooling."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    trims: bool = False
    """Whether the padding of the module may be left out along an axis."""

    @property
    def extent(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def length(self, n: int) -> int:
        return (n + 2 * self.padding - self.extent) // self.stride + 1

    def reads(self, a: int, b: int, n: int) -> tuple[int, int]:
        end = (b - 1) * self.stride - self.padding + self.extent
        if self.inner(a, b, n):
            return a * self.stride - self.padding, end
        spoilt = -(-self.padding // self.stride)
        lo = min(max(0, a - spoilt), (n - 1) // self.stride) * self.stride
        lo = min(lo, max(0, min(n, end) - self.extent) // self.stride * self.stride)  # some pools refuse shorter ones
        return lo, min(n, max(end, lo + self.extent))

    def inner(self, a: int, b: int, n: int) -> bool:
        start, end = a * self.stride - self.padding, (b - 1) * self.stride - self.padding + self.extent
        return self.trims and self.padding > 0 and start >= 0 and end <= n

    def starts(self, lo: int) -> int:
        return lo // self.stride


@dataclass(frozen=True)
class Transposed(Locality):
    """Row i of the input adds to the rows i·stride - padding + dilation·(0 … kernel - 1): transposed convolutions, and
    what spreads channels over blocks of cells."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    more: int = 0

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1)

    def length(self, n: int) -> int:
        return (n - 1) * self.stride + self.reach + 1 + self.more - 2 * self.padding

    def reads(self, a: int, b: int, n: int) -> tuple[int, int]:
        lo = max(0, min(a // self.stride, -(-(a + self.padding - self.reach) // self.stride), n - 1))
        adds = (b - 1 + self.padding) // self.stride + 1
        holds = -(-(b - 1 - self.reach - self.more + 2 * self.padding) // self.stride) + 1
        return lo, min(n, max(adds, holds, lo + 1))

    def starts(self, lo: int) -> int:
        return lo * self.stride


@dataclass(frozen=True)
class Enlarged(Locality):
    """Each row lies between the centres of two rows of the input, which has `factor` times fewer."""

    factor: int

    def length(self, n: int) -> int:
        return n * self.factor

    def reads(self, a: int, b: int, n: int) -> tuple[int, int]:
        return max(0, a // self.factor - 1), min(n, (b - 1) // self.factor + 2)

    def starts(self, lo: int) -> int:
        return lo * self.factor


def locality(traits: Traits, module: Any, axis: int) -> Locality | None:
    """That of a leaf along an axis of its grid; None where its traits promise nothing of the kind."""
    if traits.statistics:
        return Cells() if getattr(module, "running_mean", None) is None else None
    if traits.local == "cells" or traits.linear == "cells" or traits.scales:
        return Cells()
    if traits.local == "spread":
        return Transposed(module.factor, module.factor)
    if traits.enlarges:
        return Enlarged(_at(traits.enlarges, axis))
    if traits.local == "window":
        return None if getattr(module, "ceil_mode", False) else _window(module, axis)
    return _convolution(module, axis) if traits.linear == "grid" and hasattr(module, "kernel_size") else None


def _convolution(module: Any, axis: int) -> Locality | None:
    if module.padding_mode == "circular" or isinstance(module.padding, str):
        return None
    if not module.transposed:
        return _window(module, axis)
    names = ("kernel_size", "stride", "padding", "dilation", "output_padding")
    return Transposed(*(_at(getattr(module, n), axis) for n in names))


def _window(module: Any, axis: int) -> Window:
    kernel, stride, padding = (_at(getattr(module, n), axis) for n in ("kernel_size", "stride", "padding"))
    trims = getattr(module, "padding_mode", "zeros") == "zeros"
    return Window(kernel, stride, padding, _at(getattr(module, "dilation", 1), axis), trims)


def trimmed(module: Any, axis: int, rank: int) -> Any:
    """The same module, with the same parameters, without padding along an axis of its grid of some rank."""
    own = copy.copy(module)
    own.padding = tuple(0 if k == axis else _at(module.padding, k) for k in range(rank))
    return own


def _at(value: int | tuple[int, ...], axis: int) -> int:
    """One number for every axis, or one per axis."""
    return value if isinstance(value, int) else value[axis if len(value) > 1 else 0]
