"""The compiler's own leaves: they move a value from one memory layout to another, or hold a state's first value.

They have no place in a blueprint and no parameters a user could set; passes cancel pairs of them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from composer.block import Block, Rule
from composer.dims import Size, at
from composer.traits import Traits
from composer.types import Type, map_, queries

if TYPE_CHECKING:
    from torch import Tensor


class Move(Block):
    """A change of layout; the type stays."""

    weightless: ClassVar[bool] = True

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def traits(self) -> Traits:
        return Traits(pure=True)


class Turn(Move):
    """A change of the axis that the channels have."""

    def traits(self) -> Traits:
        return Traits(local="cells")


def _to_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


def _to_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def _flatten(x: Tensor) -> Tensor:
    return x.flatten(1, -2)


class ToLast(Turn):
    """(B, C, *grid) -> (B, *grid, C), a view."""

    name = "layout.to_last"
    layout: ClassVar[str] = "any"

    def build(self) -> Callable[[Tensor], Tensor]:
        return _to_last


class ToFirst(Turn):
    """(B, *grid, C) -> (B, C, *grid), a view."""

    name = "layout.to_first"
    layout: ClassVar[str] = "any"

    def build(self) -> Callable[[Tensor], Tensor]:
        return _to_first


class Flatten(Move):
    """(B, *grid, C) -> (B, N, C)."""

    name = "layout.flatten"
    layout: ClassVar[str] = "any"

    def build(self) -> Callable[[Tensor], Tensor]:
        return _flatten


class Unflatten(Block):
    """(B, N, C) -> (B, *grid, C); the grid follows from the shapes of the network's inputs."""

    name = "layout.unflatten"
    layout: ClassVar[str] = "any"
    lists: ClassVar[bool] = True
    weightless: ClassVar[bool] = True
    axes: Any

    def infer(self, rule: Rule, x: Type, images: list[Type] | None = None) -> Type:
        return x

    def build(self) -> Callable[..., Tensor]:
        return Unflattener(*self.axes)


class Unflattener:
    """Restores the grid of a sequence."""

    def __init__(self, places: tuple[tuple[int, int, str], ...], grid: tuple[Size, ...]):
        self.places, self.grid = places, grid

    def __call__(self, x: Tensor, images: list[Tensor]) -> Tensor:
        return x.reshape(x.shape[0], *self.sizes(images), x.shape[-1])

    def sizes(self, images: list[Tensor]) -> list[int]:
        """The grid as numbers."""
        env = {name: images[position].shape[axis] for position, axis, name in self.places}
        return [at(n, env) for n in self.grid]


class Part(Block):
    """(B, N, C) of several scales -> the map of each, [(B, *grid, C)]; the grids follow from the network's inputs."""

    name = "layout.part"
    layout: ClassVar[str] = "any"
    lists: ClassVar[tuple[str, ...]] = ("images",)
    gives: ClassVar[str] = "grid"
    weightless: ClassVar[bool] = True
    levels: Any

    def infer(self, rule: Rule, x: Type, images: list[Type] | None = None) -> list[Type]:
        return [map_(x.channels, grid) for grid in x.grids]

    def build(self) -> Callable[..., list[Tensor]]:
        return Parter([Unflattener(*level) for level in self.levels])


class Parter:
    """Takes a sequence of several scales apart; the maps are views of it."""

    def __init__(self, levels: list[Unflattener]):
        self.levels = levels

    def __call__(self, x: Tensor, images: list[Tensor]) -> list[Tensor]:
        import torch

        grids = [level.sizes(images) for level in self.levels]
        parts = torch.split(x, [prod(grid) for grid in grids], 1)
        return [part.reshape(x.shape[0], *grid, x.shape[-1]) for part, grid in zip(parts, grids, strict=True)]


class Held(Block):
    """A parameter of its own: the first value of a state."""

    name = "layout.held"
    gives: ClassVar[str] = "tokens"
    dims: tuple[int, ...]
    std: float = 0.02

    def infer(self, rule: Rule) -> Type:
        return queries(self.dims[0], self.dims[-1])

    def build(self) -> Any:
        import torch

        return torch.nn.Parameter(torch.nn.init.trunc_normal_(torch.empty(self.dims), std=self.std))
