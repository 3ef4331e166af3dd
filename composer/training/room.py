"""How large a patch, and how many at a time: what a step of training takes, by the cost model, in the memory there is.

    asked for an amount   the largest valid patch, by sixteenths of the median image, and as many as fit
    else                  the patch of the blueprint; where it does not fit, fewer at a time, and then smaller ones

Fewer at a time are made up for by more batches for a step, so that a step learns from as many patches as the recipe
says. What the user gave is never changed; where nothing fits nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import TypeVar

from composer import remedies
from composer.compose import Blueprint, fed
from composer.figures import size as said
from composer.training.cases import Dataset
from composer.training.recipe import Recipe
from composer.training.store import View
from composer.training.suiting import extents, smallest, valid

PARTS = 16
"""Patches that are tried have so many sizes between nothing and the largest."""
LEAST = 2
"""Patches at a time, before they become smaller: batch norm needs more than one."""


T = TypeVar("T")


@dataclass(frozen=True)
class Room:
    """A patch, how many at a time, how many batches make a step, and why, in words."""

    size: tuple[int, ...]
    batch: int
    accumulate: int
    why: str = ""


def step_of(blueprint: Blueprint, view: View, recipe: Recipe) -> remedies.Request:
    """A step of training, whose cost may be asked for."""
    optimizer = {"sgd": "momentum"}.get(recipe.optimizer, recipe.optimizer)
    shapes = {next(iter(blueprint.inputs)): (recipe.batch, view.channels, *view.size)}
    fed_ = fed(blueprint.check(), shapes, recipe.batch)
    return remedies.Request(blueprint, fed_, {"train": True, "optimizer": optimizer})


def roomiest(blueprint: Blueprint, view: View, dataset: Dataset, pad: bool) -> tuple[int, ...]:
    """The largest valid patch up to the median image, and without padding to the smallest; the network's own where it
    takes no other."""
    shapes = zip(*extents(dataset, view), strict=True)
    room = [median_low(ns) for ns in shapes] if pad else list(smallest(dataset, view))
    return valid(blueprint, view, room) or view.size


@dataclass(frozen=True)
class Search:
    """What may be chosen: the patch where it is not `fixed`, up to `top`; the batch where that is not `given`."""

    blueprint: Blueprint
    view: View
    recipe: Recipe
    budget: int
    top: tuple[int, ...]
    fixed: bool
    given: bool

    def room(self) -> Room:
        """The largest patch with the most at a time that fits; what there was where none does."""
        batch = self._batches(self.top)
        if batch:
            return self._said(self.top, batch)
        least = next((b for b in self._numbers() if b >= LEAST), self.recipe.batch)
        smaller = None if self.fixed else _largest(self._patches(), lambda s: self._needs(s, least) <= self.budget)
        return self._said(smaller, least) if smaller else self._as_it_is()

    def _as_it_is(self) -> Room:
        return Room(self.view.size, self.recipe.batch, self.recipe.accumulate)

    def _said(self, size: tuple[int, ...], batch: int) -> Room:
        more = self.recipe.batch // batch
        needs = f"{said(self._needs(size, batch))} of {said(self.budget)}"
        times = f" at a time, {more} times for a step" if more > 1 else " at a time"
        changed = (size, batch) != (self.view.size, self.recipe.batch)
        why = f"patches of {' × '.join(map(str, size))}, {batch}{times}: a step takes {needs}"
        return Room(size, batch, self.recipe.accumulate * more, why if changed else "")

    def _numbers(self) -> list[int]:
        """Patches at a time, of which whole batches make the recipe's."""
        whole = self.recipe.batch
        return [whole] if self.given else [n for n in range(1, whole + 1) if whole % n == 0]

    def _batches(self, size: tuple[int, ...]) -> int | None:
        """The most patches at a time that fit; not one alone if there may be two."""
        numbers = [n for n in self._numbers() if n >= min(LEAST, self.recipe.batch)]
        if self._needs(size, numbers[-1]) <= self.budget:
            return numbers[-1]
        return _largest(numbers, lambda n: self._needs(size, n) <= self.budget)

    def _patches(self) -> Iterator[tuple[int, ...]]:
        """Valid patches, from small to large."""
        tried = (tuple(max(1, n * k // PARTS) for n in self.top) for k in range(1, PARTS + 1))
        yield from dict.fromkeys(p for s in tried if (p := valid(self.blueprint, self.view, s)))

    def _needs(self, size: tuple[int, ...], batch: int) -> int:
        return _peak(self.blueprint, replace(self.view, size=size), self.recipe.model_copy(update={"batch": batch}))


def _peak(blueprint: Blueprint, view: View, recipe: Recipe) -> int:
    return step_of(blueprint, view, recipe).cost(flops=False).peak.bytes


def _largest(rising: Sequence[T] | Iterator[T], fits: Callable[[T], bool]) -> T | None:
    """The last one that fits, where all before it do."""
    values = list(rising)
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(values[middle]) else (low, middle)
    return values[low - 1] if low else None
