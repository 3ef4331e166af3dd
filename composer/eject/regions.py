"""Which nodes become classes: those whose steps stand together.

A node is a region where its steps follow one another, apart from changes of layout, and read modules below its own
address alone. The region's inputs are what it reads from outside, its outputs what others read of it. What is no region
(a memory that its owner enters twice) stays in the region around it, its modules reached by their addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.dims import Size, symbols_of
from composer.eject.expressions import Made
from composer.eject.flow import Flow
from composer.eject.parts import Node, Parts
from composer.inference import Step, is_move
from composer.layouts import Part, Unflatten
from composer.liveness import ids_of


@dataclass(frozen=True)
class Grid:
    """The sizes of a grid, as a value; or those of `several`."""

    sizes: tuple[tuple[Size, ...], ...]
    several: bool

    @property
    def known(self) -> bool:
        return not any(symbols_of(n) for sizes in self.sizes for n in sizes)

    @property
    def numbers(self) -> tuple[tuple[Any, ...], ...]:
        return self.sizes

    @property
    def word(self) -> str:
        return "grids" if self.several else "grid"


Key = int | Grid
"""A value: its number, or sizes."""


@dataclass(frozen=True)
class Region:
    """A node with its items in order: steps, and regions inside of it. `module` is where its modules stand."""

    address: str
    module: str
    items: tuple[Step | Region, ...]
    inputs: tuple[Key, ...]
    outputs: tuple[int, ...]
    when: frozenset[str]


def reads(item: Step | Region) -> tuple[Key, ...]:
    """What an item reads, in order."""
    if isinstance(item, Region):
        return item.inputs
    found: list[Key] = []
    for port, value in item.inputs:
        if port != "images" or not isinstance(item.block, (Unflatten, Part)):
            found += value if isinstance(value, tuple) else [value] if value is not None else []
    grid = restored(item)
    return (*found, grid) if grid is not None and not grid.known else tuple(found)


def restored(step: Step) -> Grid | None:
    """The grid, or the grids, that a change of layout restores."""
    if isinstance(step.block, Unflatten):
        return Grid((tuple(step.block.axes[1]),), False)
    if isinstance(step.block, Part):
        return Grid(tuple(tuple(sizes) for _, sizes in step.block.levels), True)
    return None


def outputs(item: Step | Region) -> tuple[int, ...]:
    """What an item makes."""
    return item.outputs


class Regions:
    """The regions of a flow, but those whose `module` is `banned`."""

    def __init__(self, flow: Flow, parts: Parts, banned: frozenset[str] = frozenset()):
        self.flow, self.parts, self.banned = flow, parts, banned
        self.steps: Sequence[Step] = flow.steps
        self.places: dict[str, list[int]] = {}
        self.readers: dict[Key, list[int]] = {}
        for place, step in enumerate(self.steps):
            for key in reads(step):
                self.readers.setdefault(key, []).append(place)
            for address in _around(step):
                self.places.setdefault(address, []).append(place)
        self.delivered = {i for o in flow.program.outputs for i in ids_of(o.ids)}
        self.starts: dict[int, list[tuple[str, int]]] = {}
        for address in self.places:
            found = self._span(address)
            if found is not None:
                self.starts.setdefault(found[0], []).append((address, found[1]))

    def root(self) -> Region:
        """The whole network."""
        inputs = tuple(i.id for i in self.flow.program.inputs)
        items = tuple(self._items(0, len(self.steps), ""))
        delivered = tuple(dict.fromkeys(i for o in self.flow.program.outputs for i in ids_of(o.ids)))
        return Region("", "", items, inputs, delivered, frozenset())

    def _items(self, first: int, end: int, inside: str) -> Iterator[Step | Region]:
        place = first
        while place < end:
            starting = [(a, e) for a, e in self.starts.get(place, ()) if _below(a, inside) and e <= end]
            if starting:
                address, stop = min(starting, key=lambda s: (-s[1], len(s[0])))
                yield self._region(address, place, stop)
                place = stop
            else:
                yield self.steps[place]
                place += 1

    def _region(self, address: str, first: int, end: int) -> Region:
        made = [i for s in self.steps[first:end] for i in s.outputs]
        seen = dict.fromkeys(k for s in self.steps[first:end] for k in reads(s))
        outside = {k for k in seen if k not in made and (isinstance(k, Grid) or k in self.flow.when)}
        inputs = tuple(k for k in seen if k in outside)
        left = tuple(i for i in made if i in self.delivered or any(r >= end for r in self.readers.get(i, ())))
        when = frozenset.intersection(*(self.flow.when[i] for i in made))
        items = tuple(self._items(first, end, address))
        return Region(address, self._module(address) or address, items, inputs, left, when)

    # --- which addresses are regions ----------------------------------------------------------------------------

    def _span(self, address: str) -> tuple[int, int] | None:
        """Where a region begins and ends, with the changes of layout before it that are its own."""
        places = self.places[address]
        first, end = places[0], places[-1] + 1
        if len(places) < 2 or not self._stands_alone(address, first, end):
            return None
        while first and is_move(self.steps[first - 1].module):
            made = self.steps[first - 1].outputs
            if any(i in self.delivered or not all(first <= r < end for r in self.readers.get(i, ())) for i in made):
                break
            first -= 1
        return first, end

    def _stands_alone(self, address: str, first: int, end: int) -> bool:
        inside = set(self.places[address])
        if any(k not in inside and not is_move(self.steps[k].module) for k in range(first, end)):
            return False
        below = {self.steps[k].address[len(address) + 1 :].partition(".")[0] for k in inside}
        module = self._module(address)
        if module is None or module in self.banned or any(word.isdigit() for word in below):
            return False
        node = self._node(module)
        return node is not None and bool(node.children) and _can_be_class(node)

    def _module(self, address: str) -> str | None:
        """The address of the modules of a node's steps, where it is one."""
        found = set()
        for place in self.places[address]:
            step = self.steps[place]
            rest = step.address[len(address) :]
            part = self.parts.by_module.get(step.module)
            if part is not None and part.kind != "function":
                if rest and not step.module.endswith(rest):
                    return None
                found.add(step.module[: len(step.module) - len(rest)])
        return found.pop() if len(found) == 1 else None

    def _node(self, module: str) -> Node | None:
        node = self.parts.root
        for word in module.split("."):
            if word not in node.children:
                return None
            node = node.children[word]
        return node


def _can_be_class(node: Node) -> bool:
    """Whether what stands at a node itself, if anything does, is a class that another can be made of."""
    if node.part is None:
        return True
    made = node.part.expression
    return node.part.kind == "module" and isinstance(made, Made) and isinstance(made.callee, type)


def _around(step: Step) -> Iterable[str]:
    if is_move(step.module):
        return ()
    words = step.address.split(".")
    return [".".join(words[: k + 1]) for k in range(len(words))]


def _below(address: str, around: str) -> bool:
    return not around or address.startswith(around + ".")


def regions_of(region: Region) -> Iterator[Region]:
    """The regions inside of one, and itself, innermost first."""
    for item in region.items:
        if isinstance(item, Region):
            yield from regions_of(item)
    yield region


def last_reads(items: Sequence[Step | Region], outputs: Iterable[int]) -> Mapping[Any, int]:
    """The place of the last item that reads each value; those that leave are read after all."""
    found: dict[Any, int] = {}
    for place, item in enumerate(items):
        found.update(dict.fromkeys(reads(item), place))
    found.update(dict.fromkeys(outputs, len(items)))
    return found
