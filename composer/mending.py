"""Only help that helps: what a message suggests is put into its place and checked before anybody reads it.

A suggestion is a word for another (`ration`; did you mean `ratio`?). It stays in the message where the text with that
word has the mistake no more and no new one in the same line; then it is a `Fix` too, which an editor can apply.
Otherwise it is taken out. Trying costs a check each, so there is a bound on their time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from composer.diagnostics import Diagnostic, Fix, Span

Again = Callable[[Span, str], "list[Diagnostic]"]
"""What is wrong where the source of a place has another text."""

SECONDS = 0.5
"""Processor time after which nothing further is tried."""


def tried(mistakes: Iterable[Diagnostic], again: Again) -> list[Diagnostic]:
    """The mistakes, with those suggestions that were tried and hold."""
    start, found = time.process_time(), list(mistakes)
    known = {_sign(m) for m in found}
    results = []
    for mistake in found:
        if mistake.span is None:  # of no text: the name of a file, say, which was looked for
            results.append(mistake)
            continue
        late = time.process_time() - start > SECONDS
        fixes = () if late else tuple(f for f in _fixes(mistake) if _holds(f, mistake, known, again))
        results.append(mistake.suggesting(fixes))
    return results


def _fixes(mistake: Diagnostic) -> Iterator[Fix]:
    """What the words of a message say, as changes of the text."""
    for pair in mistake.suggestions:
        for wrong, right in (pair, _short(*pair)):
            place = located(mistake.span, wrong) if mistake.span and wrong else None
            if place:
                yield Fix(place, right)
                break


def _short(wrong: str, right: str) -> tuple[str, str]:
    """The ends of two names of one namespace: in a slot `norm.layer` is written `layer`."""
    (space, _, end), (other, _, meant) = wrong.rpartition("."), right.rpartition(".")
    return (end, meant) if space == other and space else ("", "")


def located(span: Span, word: str) -> Span | None:
    """Where a word stands in the line of a span: in it or after it, else before it, as a key does before its value."""
    lines = span.source.lines
    if not 0 < span.line <= len(lines):
        return None
    line = lines[span.line - 1]
    at = line.find(word, span.column - 1)
    at = line.rfind(word, 0, span.column - 1) if at < 0 else at
    return None if at < 0 else Span(span.source, span.line, at + 1, span.line, at + 1 + len(word))


def applied(fix: Fix) -> str:
    """The whole text of the source with the fix in it."""
    text, place = fix.span.source.text, fix.span
    lines = text.splitlines(keepends=True)
    line = lines[place.line - 1]
    lines[place.line - 1] = line[: place.column - 1] + fix.text + line[place.end_column - 1 :]
    return "".join(lines)


def _holds(fix: Fix, mistake: Diagnostic, known: set[tuple[str, str]], again: Again) -> bool:
    left = again(fix.span, applied(fix))
    here = (fix.span.source.name, fix.span.line)
    new = [m for m in left if _sign(m) not in known and m.span and (m.span.source.name, m.span.line) == here]
    return not new and _sign(mistake) not in {_sign(m) for m in left}


def _sign(mistake: Diagnostic) -> tuple[str, str]:
    return mistake.code, mistake.plain


__all__ = ["Again", "applied", "located", "tried"]
