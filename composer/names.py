"""The names in sight of an expression, and the evaluation of values that mention them.

Plain data from the reader goes in, plain data comes out; every fault carries the place of the value it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from composer import expressions
from composer.diagnostics import BlueprintError, Diagnostic, Span
from composer.frozen import dataclass


@dataclass(frozen=True)
class Names(Mapping[str, Any]):
    """Values by name, the place each was written, and the functions of the graph (`refs`)."""

    values: Mapping[str, Any] = field(default_factory=dict)  # type: ignore[assignment]  # hides Mapping.values
    spans: Mapping[str, Span | None] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def plus(self, values: Mapping[str, Any], spans: Mapping[str, Span | None] | None = None) -> Names:
        return replace(self, values={**self.values, **values}, spans={**self.spans, **(spans or {})})


@dataclass(frozen=True)
class Closure:
    """A block handed on through a parameter: it keeps the names of the place where it was written."""

    spec: Any
    names: Names
    scope: Any
    span: Span | None = None


def evaluate(value: Any, names: Names, span: Span | None = None) -> Any:
    """`value` with every expression in it replaced by what it stands for."""
    if isinstance(value, str):
        return _expression(value, names, span) if expressions.is_expression(value) else value
    if isinstance(value, list):
        spans = getattr(value, "item_spans", None) or [span] * len(value)
        return [evaluate(v, names, s or span) for v, s in zip(value, spans, strict=False)]
    if isinstance(value, dict):
        spans_of = getattr(value, "value_spans", {})
        return {k: evaluate(v, names, spans_of.get(k, span)) for k, v in value.items()}
    return value


def _expression(text: str, names: Names, span: Span | None) -> Any:
    try:
        return expressions.parse(text).evaluate(names, names.functions)
    except expressions.ExpressionError as fault:
        place = _inside(span, text, fault.offset)
        raise BlueprintError(Diagnostic("BP205", f"`{_shown(text)}`: {_shown(fault.message, 300)}", place)) from None


def _shown(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _inside(span: Span | None, text: str, offset: int) -> Span | None:
    """The place of a fault inside an expression, where the whole expression stands on one line."""
    if span is None or span.line != span.end_line:
        return span
    start = span.source.lines[span.line - 1].find(text, span.column - 1)
    if start < 0:
        return span
    return replace(span, column=start + min(offset, len(text) - 1) + 1)


def is_var(value: Any) -> str | None:
    """The name in `$name`, which alone may stand for a block or a reference with its place."""
    if isinstance(value, str) and value.startswith("$") and value[1:].isidentifier() and value != "$original":
        return value[1:]
    return None
