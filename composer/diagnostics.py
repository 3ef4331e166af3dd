"""What went wrong, where, with which values, and what to do: the one way Composer speaks about mistakes.

A `Diagnostic` is a value. Stages collect them, so that one run shows every mistake of a file, and raise them
together. Three exceptions say whose fault it is: the user's blueprint or input (`BlueprintError`), a plugin
(`PluginError`), or Composer itself (`InternalError`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any

from composer.frozen import dataclass


@dataclass(frozen=True)
class Source:
    """A text and the name it is shown under (a path, or `<command line>`)."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@dataclass(frozen=True)
class Span:
    """A place in a source; lines and columns count from one, `end_column` is exclusive."""

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    @property
    def width(self) -> int:
        """Characters to underline on the first line."""
        lines = self.source.lines
        length = len(lines[self.line - 1]) if self.line <= len(lines) else self.column
        end = self.end_column if self.end_line == self.line else length + 1
        return max(1, end - self.column)


@dataclass(frozen=True)
class Label:
    """A second place that takes part in a mistake, and its part in it."""

    span: Span
    text: str


@dataclass(frozen=True)
class Fix:
    """A change of a text that was tried: `text` in the place of a span."""

    span: Span
    text: str

    def to_json(self) -> dict[str, Any]:
        return {"place": _place(self.span), "text": self.text}


@dataclass(frozen=True)
class Diagnostic:
    """One mistake. `notes` are facts (types, values), `help` are ways out, `fixes` those that an editor can apply."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    others: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: tuple[str, ...] = ()
    address: str | None = None
    severity: str = "error"
    fixes: tuple[Fix, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "place": _place(self.span) if self.span else None,
            "address": self.address,
            "notes": list(self.notes),
            "help": list(self.help),
            "fixes": [f.to_json() for f in self.fixes],
        }

    @property
    def suggestions(self) -> list[tuple[str, str]]:
        """The words that `did_you_mean` offers, each beside the one it would replace: the last in quotes before it."""
        wrong = _words(self.message[: found.start()] if (found := _MEANT.search(self.message)) else self.message)
        meant = [word for text in (self.message, *self.help) for part in _MEANT.findall(text) for word in _words(part)]
        return [(wrong[-1], word) for word in dict.fromkeys(meant)] if wrong else []

    @property
    def plain(self) -> str:
        """The message without what it suggests."""
        return _MEANT.sub("", self.message)

    def suggesting(self, fixes: Sequence[Fix]) -> Diagnostic:
        """The same mistake with just these of its suggestions."""
        if not self.suggestions:
            return self
        kept = [w for f in fixes for _, w in self.suggestions if w == f.text or w.endswith(f".{f.text}")]
        message, help = (_only(text, kept) for text in (self.message,)), (_only(text, kept) for text in self.help)
        return replace(self, message=next(message), help=tuple(filter(None, help)), fixes=tuple(fixes))

    def with_help(self, *help: str) -> Diagnostic:
        return replace(self, help=self.help + help)

    def render(self) -> str:
        """The message as people read it: place, excerpt, both sides, ways out."""
        head = f"{self.severity}[{self.code}]: {self.message}"
        tail = [f"   = {line}" for line in self.notes] + [f"   = help: {line}" for line in self.help]
        if self.span is None:
            return "\n".join([head, *tail])
        return "\n".join([head, f"  --> {self.span}", *_excerpt(self.span, self.label, self.others), *tail])


_QUOTED = re.compile(r"`([^`]+)`")
_MEANT = re.compile(r"(?:; )?did you mean ((?:`[^`]+`(?:, | or )?)+)\?")


def _words(part: str) -> list[str]:
    return _QUOTED.findall(part)


def _only(text: str, kept: Sequence[str]) -> str:
    """A text that suggests nothing but what is kept."""

    def again(found: re.Match[str]) -> str:
        words = [w for w in _words(found[1]) if w in kept]
        start = "; " if found[0].startswith(";") else ""
        return f"{start}did you mean {listing(f'`{w}`' for w in words)}?" if words else ""

    return _MEANT.sub(again, text)


def _place(span: Span) -> dict[str, Any]:
    return {
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }


def _excerpt(span: Span, label: str, others: Sequence[Label]) -> list[str]:
    """The lines that take part, each with its underline; never the whole file."""
    here = [Label(span, label), *(o for o in others if o.span.source == span.source)]
    gutter = len(str(max(o.span.line for o in here)))
    rows = [f"{'':>{gutter}} |"]
    for index, part in enumerate(sorted(here, key=lambda o: (o.span.line, o.span.column))):
        rows += _marked(part, gutter, "^" if part.span == span and part.text == label else "-", index > 0)
    for part in others:
        if part.span.source != span.source:
            rows += [f"{'':>{gutter}} ::: {part.span}", *_marked(part, gutter, "-", False)]
    return rows


def _marked(part: Label, gutter: int, mark: str, gap: bool) -> list[str]:
    lines, number = part.span.source.lines, part.span.line
    text = lines[number - 1] if 0 < number <= len(lines) else ""
    start = part.span.column - 1
    shift = 0
    if len(text) > 160:  # a long line shows its neighbourhood only
        shift = max(0, start - 40)
        text = ("…" if shift else "") + text[shift : shift + 150] + "…"
        shift -= 1 if shift else 0
    text = text.replace("\t", " ")
    under = " " * (start - shift) + mark * min(part.span.width, max(1, 150 - (start - shift)))
    return [f"{number:>{gutter}} | {text}", f"{'':>{gutter}} | {under} {part.text}".rstrip()]


class ComposerError(Exception):
    """Mistakes with their places. `str()` of it is what the command line prints."""

    exit_code = 1

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]):
        self.diagnostics = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return "\n\n".join(d.render() for d in self.diagnostics)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.diagnostics,)


class BlueprintError(ComposerError):
    """A mistake in a blueprint, an option, an image or a weights file: the user can mend it."""


class PluginError(ComposerError):
    """A plugin broke its contract: its author can mend it, the host goes on without it."""


class InternalError(ComposerError):
    """Composer itself is wrong. The message asks for a report."""


def raised_at(fault: BaseException, package: str = "") -> str:
    """`file:line` of the last line of a package on the way to a fault, or of the last line of all."""
    places: list[tuple[str, str]] = []
    trace = fault.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        places.append((module, f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"))
        trace = trace.tb_next
    own = [place for module, place in places if module.split(".")[0] == package.split(".")[0]]
    return (own or [place for _, place in places] or [""])[-1]


def once(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The same mistake in each copy of a loop is one mistake, said at the first and counted."""
    groups: dict[Any, list[Diagnostic]] = {}
    for each in diagnostics:
        groups.setdefault((each.code, each.message, each.span), []).append(each)
    return [_counted(same) for same in groups.values()]


def _counted(same: list[Diagnostic]) -> Diagnostic:
    more = list(dict.fromkeys(d.address for d in same[1:] if d.address and d.address != same[0].address))
    return replace(same[0], notes=(*same[0].notes, f"and at {listing(more, 4)}")) if more else same[0]


def nearest(word: str, candidates: Iterable[str], limit: int = 1) -> list[str]:
    """The candidates a person most likely meant, best first."""
    import difflib  # of use to mistakes alone

    return difflib.get_close_matches(str(word), [str(c) for c in candidates], n=limit, cutoff=0.5)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean `x`?`, or nothing."""
    close = nearest(word, candidates)
    return f"; did you mean `{close[0]}`?" if close else ""


def listing(words: Iterable[object], limit: int = 12) -> str:
    """`a, b, c … (5 more)`: enough to recognise, never a page."""
    names = [str(w) for w in words]
    shown = ", ".join(names[:limit])
    return shown + (f" … ({len(names) - limit} more)" if len(names) > limit else "")
