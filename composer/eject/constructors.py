"""The `__init__` of a class: every module put to its place.

A list stands in one expression (`nn.ModuleList(Block() for _ in range(12))`); what stands below a module that does not
make it itself follows it (`self.patches.norm = nn.LayerNorm(96)`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from composer.eject.classes import Instance, Item, Said, Template
from composer.eject.expressions import Made, holes, kind
from composer.eject.forward import path
from composer.eject.layout import Bracketed, Repeated, Text, laid, noted
from composer.eject.parts import Node, Parts
from composer.eject.places import Places


@dataclass(frozen=True)
class _Lines:
    """What an `__init__` is written from: its class, and what is made at each address below that."""

    template: Template
    texts: Mapping[str, Text]

    @property
    def start(self) -> str:
        return self.template.instances[0].node.address


class Constructors:
    """Writes the `__init__` of each class; `classes` are the addresses that have one."""

    def __init__(self, parts: Parts, places: Places, said: Said, classes: frozenset[str]):
        self.parts, self.places, self.said, self.classes = parts, places, said, classes

    def text(self, template: Template) -> Iterator[str]:
        """The lines of an `__init__`."""
        values = {n: [i.holes[p].value for i in template.instances] for n, p in template.arguments.items()}
        arguments = tuple(f"{n}: {k}" if (k := kind(v)) else n for n, v in values.items())
        yield from laid("", Bracketed("def __init__(", ("self", *arguments), ") -> None:"), "", 4)
        first, columns = template.instances[0], iter(template.columns)
        own: tuple[Text, ...] = ()
        if isinstance(first.own, Made):
            own = tuple(self.said.arguments(first.own, iter([next(columns) for _ in holes(first.own)])))
        yield from laid("", Bracketed("super().__init__(", own, ")"), "", 8)
        lines = _Lines(template, {item.node.address: self._made(item, columns) for item in first.items})
        for child in first.node.children.values():
            yield from self._put(child, lines)

    def _made(self, item: Item, columns: Iterator[str | None]) -> Text:
        if isinstance(item.made, Instance):
            return self.said.instance(item.made, [next(columns) for _ in item.made.holes])
        return self.said.expression(item.made, columns)

    def _put(self, node: Node, lines: _Lines) -> Iterator[str]:
        """A module in its place, and then those below it."""
        target = path(self.parts, lines.start, node.address, self.classes)
        text, note = self._whole(node, lines)
        yield from _line(target, text, note)
        yield from self._below(node, lines)

    def _whole(self, node: Node, lines: _Lines) -> tuple[Text, str]:
        """What makes a module, a list with all that it counts, and the comment."""
        if node.address in lines.texts:
            return lines.texts[node.address], self.places.note(node.address, lines.template)
        if not node.is_list:
            return "nn.ModuleDict()" if node.is_dictionary else "nn.Module()", ""
        counted = [node.children[n] for n in node.numbers]
        items = [self._whole(c, lines) for c in counted]
        note = self.places.note(counted[0].address, lines.template, over=len(counted)) if items[0][1] else ""
        alike = len(items) > 1 and len({str(text) for text, _ in items}) == 1 and " for " not in str(items[0][0])
        if alike:
            return Bracketed("nn.ModuleList(", (Repeated(items[0][0], len(items)),), ")"), note
        inside = Bracketed("[", tuple(text for text, _ in items), "]")
        return Bracketed("nn.ModuleList(", (inside,), ")"), note

    def _below(self, node: Node, lines: _Lines) -> Iterator[str]:
        """What a module does not make itself."""
        if node.address in self.classes:
            return
        for name, child in node.children.items():
            if node.is_list and name.isdigit():
                yield from self._below(child, lines)
            else:
                yield from self._put(child, lines)


def _line(target: Sequence[str], text: Text, note: str) -> Iterator[str]:
    """One module, under a name that may be no word of Python's."""
    before, last = "self" + "".join(target[:-1]), target[-1]
    name = re.match(r'\.get_submodule\("(.*)"\)$', last)
    if name:
        yield from noted(laid(f'{before}.add_module("{name[1]}", ', text, ")", 8), note, 8)
    else:
        yield from noted(laid(f"{before}{last} = ", text, "", 8), note, 8)
