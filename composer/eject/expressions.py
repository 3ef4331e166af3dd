"""How an object was made, as an expression that makes it again: `nn.Conv2d(3, 64, 3, padding=1)`.

An expression is a value: a literal, a class or function by its name, a call of one, or several in a list. Two of one
shape differ in literals alone, which are then the arguments of the class that holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

NOTHING: Any = object()
"""Stands for a default where there is none."""


@dataclass(frozen=True)
class Literal:
    """A number, a text, None, or tuples, lists and dictionaries of them."""

    value: Any


@dataclass(frozen=True)
class Thing:
    """A class or a function, by its name."""

    thing: Any


@dataclass(frozen=True)
class Argument:
    """One argument of a call; `named` where it must be given by name, `open` where it may not."""

    name: str
    value: Expression
    default: Any = NOTHING
    named: bool = False
    open: bool = False

    @property
    def usual(self) -> bool:
        """Whether it is what it would be unsaid."""
        return isinstance(self.value, Literal) and same(self.value.value, self.default)


@dataclass(frozen=True)
class Made:
    """A call of a class or a function."""

    callee: Any
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Several:
    """A list or a tuple of expressions that are not all literals."""

    items: tuple[Expression, ...]
    brackets: str = "[]"


Expression = Literal | Thing | Made | Several


@dataclass(frozen=True)
class Hole:
    """A literal in an expression, and the name of the argument that it is."""

    name: str
    value: Any


def same(a: Any, b: Any) -> bool:
    """Whether two literals are written alike: 1 is not True, nor 1.0."""
    return repr(a) == repr(b)


def shape(expression: Expression) -> Any:
    """The expression without its literals."""
    if isinstance(expression, Literal):
        return "literal"
    if isinstance(expression, Thing):
        return "thing", id(expression.thing)
    if isinstance(expression, Several):
        return expression.brackets, tuple(map(shape, expression.items))
    return id(expression.callee), tuple((a.name, a.named, a.open, shape(a.value)) for a in expression.arguments)


def holes(expression: Expression, name: str = "value") -> Iterator[Hole]:
    """The literals of an expression, in order."""
    if isinstance(expression, Literal):
        yield Hole(name, expression.value)
    elif isinstance(expression, Several):
        for item in expression.items:
            yield from holes(item, name)
    elif isinstance(expression, Made):
        for argument in expression.arguments:
            yield from holes(argument.value, argument.name)


def things(expression: Expression) -> Iterator[Any]:
    """The classes and functions that an expression names."""
    if isinstance(expression, Thing):
        yield expression.thing
    elif isinstance(expression, Several):
        for item in expression.items:
            yield from things(item)
    elif isinstance(expression, Made):
        yield expression.callee
        for argument in expression.arguments:
            yield from things(argument.value)


def written(value: Any) -> str:
    """A literal as Python, with double quotes."""
    if isinstance(value, str):
        text = repr(value)
        plain = text.startswith("'") and '"' not in text and "\\" not in text
        return f'"{text[1:-1]}"' if plain else text
    if isinstance(value, float) and not isfinite(value):
        return f'float("{value}")'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(written, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    return repr(value)


def kind(values: Sequence[Any]) -> str:
    """The type of some literals as an annotation, or nothing."""
    if any(v is None for v in values):
        rest = kind([v for v in values if v is not None])
        return f"{rest} | None" if rest else ""
    found = {type(v) for v in values}
    if len(found) == 1 and found <= {int, float, str, bool}:
        return found.pop().__name__
    if found == {int, float}:
        return "float"
    if found == {tuple}:
        inner = kind([i for v in values for i in v])
        return f"tuple[{inner}, ...]" if inner else "tuple"
    return ""
