"""Which lines of which files say what stands at an address: where a part is written, and the edits that change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from composer import source
from composer.block import RESERVED
from composer.blueprint import Edit
from composer.diagnostics import BlueprintError, Source, Span
from composer.graph import Body, Call, Graph, Group
from composer.source import Map


@dataclass(frozen=True)
class Lines:
    """Lines `first` to `last` of a file, by its number; they count from one."""

    file: int
    first: int
    last: int


@dataclass(frozen=True)
class SourceMap:
    """The texts of a blueprint, the file that was asked for first, and the lines of every address in them."""

    files: tuple[Source, ...]
    lines: dict[str, tuple[Lines, ...]]


def sourcemap(graph: Graph) -> SourceMap:
    """The map of a linked blueprint: its file, those it extends, fragments, and the command line where it says some."""
    run = _Mapping()
    for path in reversed(graph.blueprint.files):
        run.add(source.read(path).span.source)
    found: dict[str, tuple[Lines, ...]] = {}
    for body in _parts(graph.members):
        spans = [body.span, *(e.span for e in _edits(graph, body.address))]
        found[body.address] = tuple(dict.fromkeys(run.lines(s) for s in spans if s is not None))
    return SourceMap(tuple(run.files), found)


class _Mapping:
    """The files seen so far. A part's span is that of its name, or of the word that says what it is (`use: conv`); its
    lines are those of the name and the whole mapping."""

    def __init__(self) -> None:
        self.files: list[Source] = []
        self.whole: dict[Span, Span] = {}
        self.names: dict[Span, Span] = {}

    def add(self, text: Source) -> int:
        if text not in self.files:
            self.files.append(text)
            with suppress(BlueprintError):  # the words of a command line are no file
                self.index(source.parse(text))
        return self.files.index(text)

    def index(self, value: object) -> None:
        """What each word in a mapping is a word of."""
        if isinstance(value, Map):
            for key, item in value.items():
                if key in RESERVED and key in value.value_spans:
                    self.whole[value.value_spans[key]] = self.names.get(value.span, value.span)
                if isinstance(item, Map):
                    at = value.key_spans.get(key, item.span)
                    both = Span(at.source, at.line, at.column, item.span.end_line, item.span.end_column)
                    self.whole[at] = self.names[item.span] = both
                self.index(item)
        elif isinstance(value, list):
            for item in value:
                self.index(item)

    def lines(self, span: Span) -> Lines:
        number = self.add(span.source)
        span = self.whole.get(span, span)
        rows, last = span.source.lines, span.end_line
        while last > span.line and (last > len(rows) or _is_beyond(span, rows[last - 1], last)):
            last -= 1
        return Lines(number, span.line, last)


def _is_beyond(span: Span, row: str, line: int) -> bool:
    """Whether a mapping ends before this line: it reaches to the start of what follows it, over blanks and remarks."""
    return (
        not row.strip()
        or row.lstrip().startswith("#")
        or (line == span.end_line and not row[: span.end_column - 1].strip())
    )


def _edits(graph: Graph, address: str) -> Iterator[Edit]:
    changed = graph.changes.get(address)
    yield from changed.edits if changed else ()


def _parts(bodies: tuple[Body | None, ...]) -> Iterator[Call | Group]:
    for body in bodies:
        if isinstance(body, (Call, Group)):
            yield body
            yield from _parts(body.members if isinstance(body, Group) else tuple(body.parts.values()))
