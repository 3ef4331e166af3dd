"""Python text as `ruff format` leaves it, with lines of 120 characters, for the few kinds of statements there are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 120


@dataclass(frozen=True)
class Bracketed:
    """`head` `items` `tail`: a call, a list or a dictionary; where it is too long, one item a line."""

    head: str
    items: tuple[Text, ...]
    tail: str

    def __str__(self) -> str:
        return self.head + ", ".join(map(str, self.items)) + self.tail


@dataclass(frozen=True)
class Repeated:
    """An expression so many times: `Block() for _ in range(12)`."""

    item: Text
    count: int

    def __str__(self) -> str:
        return f"{self.item} {self.loop}"

    @property
    def loop(self) -> str:
        return f"for _ in range({self.count})"


Text = str | Bracketed | Repeated


def laid(before: str, text: Text, after: str = "", indent: int = 0, comma: bool = False) -> list[str]:
    """The lines of a statement or of one item of another; `comma` where one follows it."""
    line = f"{' ' * indent}{before}{text}{after}{',' * comma}"
    if isinstance(text, Repeated):
        return [line] if len(line) <= WIDTH else [*laid("", text.item, "", indent), f"{' ' * indent}{text.loop}"]
    if len(line) <= WIDTH or isinstance(text, str) or not text.items:
        return [line]
    inside = f"{' ' * (indent + 4)}{', '.join(map(str, text.items))}"
    if len(inside) <= WIDTH and re.search(r"\w\($", text.head):  # of what is no call, each item has its line
        body = [inside]
    else:
        body = [
            line for item in text.items for line in laid("", item, "", indent + 4, comma=not isinstance(item, Repeated))
        ]
    return [f"{' ' * indent}{before}{text.head}", *body, f"{' ' * indent}{text.tail}{after}{',' * comma}"]


def noted(lines: list[str], note: str, indent: int) -> list[str]:
    """Lines with a comment: behind a single one where there is room, else above."""
    if not note:
        return lines
    if len(lines) == 1 and len(lines[0]) + len(note) + 4 <= WIDTH:
        return [f"{lines[0]}  # {note}"]
    return [*comment(note, indent), *lines]


def comment(text: str, indent: int = 0) -> list[str]:
    """A comment of as many lines as it needs."""
    start = " " * indent + "# "
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False) or []


def docstring(paragraphs: Iterable[str | Sequence[str]], indent: int = 0) -> list[str]:
    """A docstring; a paragraph that is a list of lines stays as it is."""
    lines: list[str] = []
    for paragraph in paragraphs:
        if isinstance(paragraph, str):
            own = textwrap.wrap(paragraph, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
        else:
            own = list(paragraph)
        lines += [*([""] if lines else []), *own]
    lines = [line.replace("\\", "/").replace('"""', "'''") for line in lines]
    space = " " * indent
    if len(lines) == 1 and len(lines[0]) + indent + 6 <= WIDTH and not lines[0].endswith('"'):
        return [f'{space}"""{lines[0]}"""']
    lines[:1] = textwrap.wrap(lines[0], WIDTH - indent - 8, break_long_words=False)  # a quote behind would not fit
    return [f'{space}"""{lines[0]}', *(f"{space}{line}".rstrip() for line in lines[1:]), f'{space}"""']
