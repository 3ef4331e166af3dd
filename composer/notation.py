"""The shape notation of simple blocks: `"batch tokens dim -> batch tokens dim"`.

One side of the arrow has ports (`x: batch n dim, context: batch m dim`; a single one may leave out its name), the
other one result. The first axis is `batch`; then

    batch dim *grid      a map, channels first        batch *grid dim      a map, channels last
    batch tokens dim     a sequence                   batch ... dim        anything whose last axis is the channels
    batch dim            a vector

A name stands for one size everywhere. In the result, `{option}` is an option's value, and `grid/{stride}` or
`grid*{factor}` divides or multiplies each size of a grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Protocol

from composer.dims import Size
from composer.frozen import dataclass
from composer.types import Type, map_, queries, vector

LAYOUTS = {"map": "first", "grid": "last", "tokens": "flat"}
_ITEM = re.compile(r"(?P<star>\*?)(?P<name>[A-Za-z_]\w*)(?:(?P<op>[/*])\{(?P<by>\w+)\})?$|\{(?P<option>\w+)\}$|\.\.\.$")


class NotationError(TypeError):
    """A block's `shape` is not what the notation allows."""


@dataclass(frozen=True)
class Item:
    """One axis: a name, an option, or the dots."""

    name: str = ""
    star: bool = False
    option: str = ""
    op: str = ""
    by: str = ""
    dots: bool = False


@dataclass(frozen=True)
class Pattern:
    """The axes of one port or of the result."""

    items: tuple[Item, ...]
    layout: str = field(default="map")

    @property
    def channel(self) -> Item:
        return self.items[1] if self.layout in ("map", "vector") else self.items[-1]

    @property
    def middle(self) -> Item:
        """The grid or the tokens."""
        return self.items[2] if self.layout == "map" else self.items[1]


@dataclass(frozen=True)
class Signature:
    """A parsed notation."""

    text: str
    ports: Mapping[str, Pattern]
    result: Pattern

    @property
    def axes(self) -> frozenset[str]:
        """Names that `build` may ask for."""
        names = {i.name for p in self.ports.values() for i in p.items if i.name}
        return frozenset(names - {"batch"})


class Checker(Protocol):
    """What binding needs of a rule."""

    def need(self, ok: bool, message: str, code: str = ...) -> bool: ...
    def equal(self, left: Size, right: Size, message: str, code: str = ...) -> bool: ...


def parse(text: str) -> Signature:
    """Read a notation; a mistake is an error when the class is defined."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise NotationError(f"the shape {text!r} has no `->`")
    ports: dict[str, Pattern] = {}
    for part in left.split(","):
        name, colon, axes = part.partition(":")
        ports[name.strip() if colon else "x"] = _pattern(axes if colon else name, text)
    result = _pattern(right, text)
    unknown = [i.name for i in result.items if i.name and not _bound(i.name, ports)]
    if unknown:
        raise NotationError(f"the result of the shape {text!r} uses `{unknown[0]}`, which no port names")
    return Signature(text, ports, result)


def _bound(name: str, ports: Mapping[str, Pattern]) -> bool:
    return any(name == item.name for pattern in ports.values() for item in pattern.items)


def _pattern(axes: str, text: str) -> Pattern:
    items = tuple(_item(word, text) for word in axes.split())
    if not items or items[0].name != "batch":
        raise NotationError(f"every side of the shape {text!r} starts with `batch`")
    return Pattern(items, _layout(items, text))


def _item(word: str, text: str) -> Item:
    match = _ITEM.match(word)
    if not match:
        raise NotationError(f"`{word}` in the shape {text!r} is not an axis: name, *grid, {{option}} or ...")
    if word == "...":
        return Item(dots=True)
    return Item(match["name"] or "", bool(match["star"]), match["option"] or "", match["op"] or "", match["by"] or "")


def _layout(items: tuple[Item, ...], text: str) -> str:
    if len(items) == 2:
        return "vector"
    if len(items) != 3:
        raise NotationError(f"the shape {text!r} wants `batch`, channels, and at most one grid or sequence axis")
    if items[1].dots:
        return "features"
    if items[2].star:
        return "map"
    return "grid" if items[1].star else "tokens"


def bind(signature: Signature, rule: Checker, given: Mapping[str, Type]) -> dict[str, Any]:
    """The size of every axis name; a name that stands for two sizes is reported."""
    axes: dict[str, Any] = {}
    for port, pattern in signature.ports.items():
        if port in given:
            type_ = given[port]
            _bind(axes, pattern.channel.name, type_.channels, port, rule)
            if pattern.layout in ("map", "grid"):
                axes.setdefault(pattern.middle.name, type_.grid)
            elif pattern.layout == "tokens":
                _bind(axes, pattern.middle.name, type_.length, port, rule)
    return axes


def _bind(axes: dict[str, Any], name: str, size: Size, port: str, rule: Checker) -> None:
    if not name:
        return
    known = axes.setdefault(name, size)
    rule.equal(known, size, f"`{name}` is {known} and, at the port `{port}`, {size}", "BP301")


def result(signature: Signature, options: Any, axes: Mapping[str, Any], given: Mapping[str, Type]) -> Type:
    """The type of the result."""
    pattern = signature.result
    channels = _value(pattern.channel, options, axes)
    if pattern.layout == "vector":
        return vector(channels)
    if pattern.layout in ("map", "grid"):
        return map_(channels, _grid(pattern.middle, options, axes))
    source = _source(signature, given)
    if pattern.middle.option:
        return queries(getattr(options, pattern.middle.option), channels)
    return source.with_(channels=channels)


def _source(signature: Signature, given: Mapping[str, Type]) -> Type:
    """The port whose tokens the result has."""
    middle = signature.result.middle
    for port, pattern in signature.ports.items():
        if len(pattern.items) == 3 and pattern.middle == middle:
            return given[port]
    return next(iter(given.values()))


def _value(item: Item, options: Any, axes: Mapping[str, Any]) -> Any:
    if item.option:
        return getattr(options, item.option)
    size = axes[item.name]
    if not item.op:
        return size
    by = getattr(options, item.by)
    return size // by if item.op == "/" else size * by


def _grid(item: Item, options: Any, axes: Mapping[str, Any]) -> tuple[Size, ...]:
    grid: tuple[Size, ...] = axes[item.name]
    if not item.op:
        return grid
    by = getattr(options, item.by)
    steps = by if isinstance(by, (tuple, list)) else (by,) * len(grid)
    return tuple(n // s if item.op == "/" else n * s for n, s in zip(grid, steps, strict=True))
