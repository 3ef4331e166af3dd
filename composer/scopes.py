"""Which values a name stands for: the ports and nodes of one graph, and through a leading dot the graph around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from composer.diagnostics import BlueprintError, did_you_mean
from composer.expressions import ExpressionError
from composer.frozen import dataclass
from composer.graph import Input, Ref


class Addresses(Protocol):
    """What a scope asks of the linking it belongs to."""

    addresses: dict[str, Any]
    loops: Any

    def known(self, address: str) -> bool: ...
    def is_broken(self, address: str) -> bool: ...
    def values_under(self, name: str, address: str) -> Iterator[tuple[str, str]]: ...


class Scope:
    """The names one graph sees: its ports, its nodes so far, and through a leading dot the graph around it.

    With `inside`, a few names beside those of another scope, such as what a loop carries.
    """

    def __init__(
        self,
        linker: Addresses,
        ports: Mapping[str, Input],
        outer: Scope | None,
        later: Mapping[str, Any],
        inside: Scope | None = None,
    ):
        self.linker, self.outer, self.inside = linker, outer, inside
        self.names: dict[str, Input] = dict(ports)
        self.later = later
        self.read: set[str] = inside.read if inside else set()

    def with_names(self, extra: Mapping[str, Input]) -> Scope:
        return Scope(self.linker, extra, self.outer, self.later, self)

    def layers(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.inside

    def __contains__(self, name: str) -> bool:
        return any(name in layer.names for layer in self.layers())

    def __getitem__(self, name: str) -> Input:
        return next(layer.names[name] for layer in self.layers() if name in layer.names)

    def find(self, name: str) -> Input | type[Missing]:
        if name.startswith("."):
            return self.outer.find_outward(name[1:]) if self.outer else Missing
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            head = ".".join(parts[:cut])
            if head in self:
                return self._below(head, parts[cut:])
        return Missing

    def find_outward(self, name: str) -> Input | type[Missing]:
        found = self.find(name)
        return self.outer.find_outward(name) if found is Missing and self.outer else found

    def _below(self, head: str, rest: list[str]) -> Input | type[Missing]:
        self.read.add(head.split(".")[0])
        value = self[head]
        if not rest:
            return value if not isinstance(value, Ref) or self.linker.known(value.name) else Missing
        if isinstance(value, tuple):
            index = rest[0]
            return value[int(index)] if len(rest) == 1 and is_index(index, len(value)) else Missing
        if value is None:
            return Missing
        address = ".".join([value.name, *rest])
        return Ref(address) if self.linker.known(address) else Missing

    def copies(self, name: Any, inner: Any = None) -> list[str]:
        """`refs('encoder', 'norm')`: the names of all copies of a node, or of a part of each."""
        if not isinstance(name, str) or not (inner is None or isinstance(inner, str)):
            raise ExpressionError("`refs` takes the name of a node, and possibly of a part of it, in quotes")
        found: list[str] = []
        while isinstance(value := self.find(path := joined(name, len(found), inner)), Ref):
            if value.name not in self.linker.addresses:
                break
            found.append(path)
        if not found:
            self._no_copies(name, inner)
        return found

    def _no_copies(self, name: str, inner: str | None) -> None:
        """`refs` of a loop without instances is an empty list; anything else without copies is a mistake."""
        node = self.find(name)
        if isinstance(node, Ref) and self.linker.is_broken(node.name):
            raise BlueprintError(())
        if node is Missing:
            close = did_you_mean(name, (n for n, _ in self.visible()))
            raise ExpressionError(f"no value is named `{name}` here{close}")
        if isinstance(node, Ref) and node.name in self.linker.loops and inner is None:
            return
        if isinstance(node, Ref) and f"{node.name}.0" in self.linker.addresses:
            raise ExpressionError(f"the copies of `{name}` have no part `{inner}`")
        if isinstance(node, Ref) and node.name not in self.linker.loops:
            raise ExpressionError(f"`{name}` has no copies: it stands in no `repeat` and no `for`")

    def sight(self) -> Sight:
        """What can be seen at this moment; looked up only when a fix is tried."""
        counts = tuple(len(layer.names) for layer in self.layers())
        return Sight(self, counts, self.outer.sight() if self.outer else None)

    def visible(self) -> Iterator[tuple[str, Ref]]:
        return iter(self.sight())


@dataclass(frozen=True)
class Sight:
    """Every value in sight of one place, for suggestions that are tried. It costs nothing until it is read."""

    scope: Scope
    counts: tuple[int, ...]
    outer: Sight | None

    def __iter__(self) -> Iterator[tuple[str, Ref]]:
        for layer, count in zip(self.scope.layers(), self.counts, strict=True):
            for name, value in islice(layer.names.items(), count):
                if isinstance(value, Ref):
                    yield from ((n, Ref(a)) for n, a in self.scope.linker.values_under(name, value.name))
        for name, ref in self.outer or ():
            yield f".{name.lstrip('.')}", ref


class Missing:
    """No such name."""


def is_index(word: str, count: int) -> bool:
    """Whether a word is the number of one of `count` items."""
    return word.isascii() and word.isdigit() and int(word) < count


def joined(name: str, copy: int, inner: str | None) -> str:
    """The name of a copy, or of a part of it."""
    return f"{name}.{copy}" + (f".{inner}" if inner else "")


def circle(graph: Mapping[str, Any], start: str) -> list[str]:
    """The names along a circle of references through `start`, if there is one."""
    import networkx  # 0.3 s to import, and only needed for this message

    edges = networkx.DiGraph()
    previous = None
    for name, spec in graph.items():
        mentioned = _mentions(spec) if isinstance(spec, dict) else set()
        if previous and not (isinstance(spec, dict) and "from" in spec):
            mentioned.add(previous)
        edges.add_edges_from((m.split(".")[0], name) for m in mentioned if m.split(".")[0] in graph)
        previous = name
    try:
        found = networkx.find_cycle(edges, start)
    except (networkx.NetworkXNoCycle, networkx.NodeNotFound):
        return []
    return [a for a, _ in found] + [found[-1][1]]


def _mentions(spec: Any) -> set[str]:
    """Names in the `from` and `carry` of one node."""
    raw = [spec.get("from"), spec.get("carry")]
    found: set[str] = set()
    while raw:
        value = raw.pop()
        if isinstance(value, dict):
            raw += value.values()
        elif isinstance(value, list):
            raw += value
        elif isinstance(value, str):
            found.add(value)
    return found
