"""Regions as classes. Those of one shape are one class; what differs between them are the arguments of its `__init__`.

    blocks.0 … blocks.11    ->    class TransformerBlock(nn.Module), made twelve times

Two regions have one shape where their forward passes read alike, and where their modules are made alike but for
literals. Literals that are equal in all of them stand in the class; those that change together are one argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.eject.expressions import (
    NOTHING,
    Argument,
    Expression,
    Hole,
    Literal,
    Made,
    Several,
    Thing,
    holes,
    shape,
    written,
)
from composer.eject.forward import Forward
from composer.eject.layout import Bracketed, Text
from composer.eject.names import Speech
from composer.eject.parts import Node

WIDTHS = frozenset(
    (
        *("normalized_shape", "num_features", "num_channels", "in_features", "out_features"),
        *("in_channels", "out_channels", "channels", "width", "dim"),
    )
)
"""Names of arguments that say how many channels there are."""


@dataclass(frozen=True)
class Item:
    """A line of an `__init__`: where it puts what; a class of ours, or an expression."""

    node: Node
    made: Expression | Instance


@dataclass
class Instance:
    """One region's modules: what they are made with."""

    node: Node
    own: Expression | None
    items: tuple[Item, ...]
    template: Template = None  # type: ignore[assignment]  # known once its shape is
    holes: list[Hole] = field(default_factory=list)


@dataclass
class Template:
    """A class: its forward pass, and all regions that it stands for."""

    forward: Forward
    instances: list[Instance] = field(default_factory=list)
    name: str = ""
    columns: list[str | None] = field(default_factory=list)
    """For each literal the argument that it is, None where it is the same in all."""
    arguments: dict[str, int] = field(default_factory=dict)
    """The arguments, each with a literal that it is."""


class Classes:
    """The classes of a network."""

    def __init__(self, forwards: Mapping[str, Forward], speech: Speech):
        self.forwards, self.speech = forwards, speech
        self.templates: dict[Any, Template] = {}

    def instance(self, node: Node) -> Instance:
        """A region's modules, its class among those of the network; inner ones come first."""
        own = node.part.expression if node.part is not None else None
        items = tuple(self._items(node))
        made = Instance(node, own, items)
        made.holes = [*(holes(own) if own is not None else ()), *(h for i in items for h in _holes(i.made))]
        forward = self.forwards[node.address]
        depth = len(node.address.split(".")) if node.address else 0
        key = (shape(own) if own else None, tuple(_line(i, depth) for i in items), forward)
        made.template = self.templates.setdefault(key, Template(forward))
        made.template.instances.append(made)
        return made

    def _items(self, node: Node) -> Iterator[Item]:
        for child in node.children.values():
            if child.address in self.forwards:
                yield Item(child, self.instance(child))
                continue
            if child.part is not None:
                yield Item(child, child.part.expression)
            yield from self._items(child)

    def settle(self) -> list[Template]:
        """The classes in the order in which they can be defined, their arguments known."""
        found = list(self.templates.values())
        for template in found:
            _argue(template)
        return found


def _holes(made: Expression | Instance) -> Sequence[Hole]:
    return made.holes if isinstance(made, Instance) else tuple(holes(made))


def _line(item: Item, depth: int) -> Any:
    words = tuple(item.node.address.split(".")[depth:])
    return words, id(item.made.template) if isinstance(item.made, Instance) else shape(item.made)


def _argue(template: Template) -> None:
    """What differs between the instances becomes arguments."""
    columns = list(zip(*(i.holes for i in template.instances), strict=True))
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, column in enumerate(columns):
        values = tuple(repr(h.value) for h in column)
        if len(set(values)) > 1:
            groups.setdefault(values, []).append(place)
    template.columns = [None] * len(columns)
    prefixes = _owners(template)
    for places in groups.values():
        names = [_argument_name(template, place) for place in places]
        name = _common(names)
        name = name if name not in template.arguments and name != "self" else f"{prefixes[places[0]]}{name}"
        base, number = name, 2
        while name in template.arguments:
            name, number = f"{base}{number}", number + 1
        template.arguments[name] = places[0]
        for place in places:
            template.columns[place] = name


def _argument_name(template: Template, place: int) -> str:
    """What a literal is called where it is used: the argument of a class inside, or of a module."""
    first = template.instances[0]
    start = len(list(holes(first.own))) if first.own is not None else 0
    for item in first.items:
        size = len(_holes(item.made))
        if start <= place < start + size and isinstance(item.made, Instance):
            inner = item.made.template.columns[place - start]
            return inner or first.holes[place].name
        start += size
    return first.holes[place].name


def _owners(template: Template) -> list[str]:
    """For each literal the name of the module that it is of, to tell equal names apart."""
    first = template.instances[0]
    found = ["own_"] * (len(list(holes(first.own))) if first.own is not None else 0)
    for item in first.items:
        word = next((w for w in reversed(item.node.address.split(".")) if not w.isdigit()), "")
        found += [f"{word}_" if word.isidentifier() else ""] * len(_holes(item.made))
    return found


def _common(names: Sequence[str]) -> str:
    """One name for a literal that is several arguments."""
    known = list(dict.fromkeys(names))
    if len(known) > 1 and set(known) <= WIDTHS:
        return "channels"
    best = max(known, key=lambda n: (names.count(n), -known.index(n)))
    return best if best.isidentifier() else "value"


# --- text -------------------------------------------------------------------------------------------------------


class Said:
    """Expressions as text, some of their literals being arguments."""

    def __init__(self, speech: Speech):
        self.speech = speech

    def instance(self, made: Instance, columns: Sequence[str | None]) -> Bracketed:
        """`TransformerBlock(channels=96, rate=rate)`; `columns` are the names of the literals where it stands."""
        template = made.template
        items = [
            (name, columns[place] or written(made.holes[place].value)) for name, place in template.arguments.items()
        ]
        plain = len(items) == 1
        return Bracketed(f"{template.name}(", tuple(v if plain else f"{n}={v}" for n, v in items), ")")

    def expression(self, made: Expression, columns: Iterator[str | None]) -> Text:
        """An expression; `columns` are the names of its literals, in order."""
        if isinstance(made, Literal):
            return next(columns) or written(made.value)
        if isinstance(made, Thing):
            return self.speech.said(made.thing)
        if isinstance(made, Several):
            items = tuple(self.expression(i, columns) for i in made.items)
            return Bracketed(
                made.brackets[0], items, "," * (made.brackets == "()" and len(items) == 1) + made.brackets[1]
            )
        return Bracketed(f"{self.speech.said(made.callee)}(", tuple(self.arguments(made, columns)), ")")

    def arguments(self, made: Made, columns: Iterator[str | None]) -> Iterator[Text]:
        """The arguments of a call, without those that are what they would be anyway; three of them by position."""
        needed = [a for a in made.arguments if a.default is NOTHING]
        short, said = len(needed) <= 3, 0
        for argument in made.arguments:
            own = [next(columns) for _ in holes(argument.value)]
            if argument.usual and own == [None] and not argument.open:
                said = -1 if said != -1 else said
                continue
            text = self.expression(argument.value, iter(own))
            if argument.open or (not argument.named and short and argument.default is NOTHING and said >= 0):
                said += 1
                yield text
            else:
                said = -1
                yield _named(argument, text)


def _named(argument: Argument, text: Text) -> Text:
    if isinstance(text, Bracketed):
        return Bracketed(f"{argument.name}={text.head}", text.items, text.tail)
    return f"{argument.name}={text}"
