"""Both places of a mistake: where a part was declared, and the file or the edit through which it came here.

A blueprint that extends another is two texts. A mistake in the inherited one shows who inherits it, a mistake in what
an edit sets shows the part that it changes, and a mistake in a part that an edit changed shows the edit. Values that
came from elsewhere, from a command line too, are shown where they were given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from composer import expressions
from composer.blueprint import Blueprint
from composer.diagnostics import Diagnostic, Label, Span
from composer.graph import Changed, Graph


def with_origins(mistakes: Iterable[Diagnostic], graph: Graph) -> list[Diagnostic]:
    """The mistakes, each with the second place that takes part in it, if there is one."""
    return [
        replace(m, others=(*m.others, *_others(m, m.span, graph))) if m.span and m.code not in _OF_EDITS else m
        for m in mistakes
    ]


_OF_EDITS = ("BP106", "BP110")
"""Mistakes of edits themselves, which show their places already."""


def _others(mistake: Diagnostic, span: Span, graph: Graph) -> Iterator[Label]:
    shown = {span.source.name, *(label.span.source.name for label in mistake.others)}
    address, changed = _changed(mistake, span, graph.changes)
    place = changed.declared if changed else None
    if changed and place and place.source != span.source and any(_holds(e.span, span) for e in changed.edits):
        if all(e.action == "set" for e in changed.edits if _holds(e.span, span)) and place.source.name not in shown:
            yield Label(place, f"`{address}` stands here")
        return
    edit = next((e for e in reversed(changed.edits) if e.span) if changed else iter(()), None)
    if edit and edit.span and edit.span.source != span.source:
        if edit.span.source.name not in shown:
            yield Label(edit.span, f"changes `{address}`")
        return
    given = list(_given(mistake, span, graph))[:MOST]
    yield from given
    yield from _extended(span, shown | {label.span.source.name for label in given}, graph.blueprint)


MOST = 3
"""Values shown beside one mistake."""


def _given(mistake: Diagnostic, span: Span, graph: Graph) -> Iterator[Label]:
    """Where the values were given that a part or an input names, if not in its own file. An override names none: it is
    the value itself."""
    if span.source.name not in {str(file) for file in graph.blueprint.files}:
        return
    address, names = mistake.address or "", set[str]()
    names |= expressions.names_in(graph.specs.get(address) if address else _input_at(span, graph.blueprint))
    while address:  # a variable of a loop around it says what it is made of
        spec = graph.specs.get(address)
        loop = spec.get("for") if isinstance(spec, dict) else None
        names |= (
            {n for k in names & set(loop) for n in expressions.names_in(loop[k])} if isinstance(loop, dict) else set()
        )
        address = address.rpartition(".")[0]
    for name, param in graph.blueprint.params.items():
        if name in names and param.value_span and param.value_span.source != span.source:
            yield Label(param.value_span, f"`{name}` is given here")


def _input_at(span: Span, blueprint: Blueprint) -> Any:
    """The declaration of an input of which a value stands at a place."""
    specs = [s for s in blueprint.inputs.values() if span in getattr(s, "value_spans", {}).values()]
    return specs[0] if specs else None


def _extended(span: Span, shown: set[str], blueprint: Blueprint) -> Iterator[Label]:
    """The chain of `extends` from the file that was asked for down to the one with the mistake."""
    inherited = {str(f) for f in blueprint.files} - {blueprint.path}
    for base in blueprint.bases if span.source.name in inherited else ():
        if base.source.name == span.source.name:
            return
        if base.source.name not in shown:
            yield Label(base, "extended here")


def _changed(mistake: Diagnostic, span: Span, changes: Mapping[str, Changed]) -> tuple[str, Changed | None]:
    """The changed part that a mistake is about: by its address, or by the edit in which it stands."""
    words = (mistake.address or "").split(".")
    around = (".".join(words[:n]) for n in range(len(words), 0, -1))
    within = (a for a, c in changes.items() if any(_holds(e.span, span) for e in c.edits))
    address = next((a for a in around if a in changes), None) or next(within, "")
    return address, changes.get(address)


def _holds(outer: Span | None, inner: Span) -> bool:
    """Whether a place is inside another."""
    if outer is None or outer.source != inner.source:
        return False
    start, end = (outer.line, outer.column), (outer.end_line, outer.end_column)
    return start <= (inner.line, inner.column) and (inner.end_line, inner.end_column) <= end
