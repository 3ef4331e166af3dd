"""Frozen values are what `dataclass(frozen=True)` of the standard library makes."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from dataclasses import dataclass as library
from functools import cached_property
from typing import Any, ClassVar

import pytest

from composer.frozen import dataclass as ours
from composer.frozen import replace as quick


def family(dataclass: Any) -> tuple[Any, Any, Any]:
    """A value, one that inherits, and one without fields."""

    @dataclass(frozen=True)
    class Base:
        """A value."""

        a: int
        b: tuple[int, ...] = ()
        made: list[int] = field(default_factory=list, compare=False)
        hidden: str = field(default="x", repr=False)
        kind: ClassVar[str] = "none"

        @cached_property
        def twice(self) -> int:
            return 2 * self.a

    @dataclass(frozen=True)
    class Child(Base):
        """Another."""

        b: tuple[int, ...] = (1,)
        c: int = 3

        def __repr__(self) -> str:
            return "own"

    @dataclass(frozen=True)
    class Empty:
        """No fields."""

    return Base, Child, Empty


@ours(frozen=True)
class One:
    """At the top of a module, so that it can be pickled; one field."""

    x: float


def said(dataclass: Any) -> list[Any]:
    """What values of a kind do."""
    base, child, empty = family(dataclass)
    value, same, other = base(1, (2,)), base(a=1, b=(2,), made=[9]), base(2)
    faults = []
    for wrong in (lambda: setattr(value, "a", 2), lambda: delattr(value, "a"), lambda: setattr(value, "new", 2)):
        with pytest.raises(FrozenInstanceError) as caught:
            wrong()
        faults.append(str(caught.value))
    for wrong in (lambda: base(), lambda: base(1, z=2), lambda: base(1, a=2), lambda: hash(base([]))):
        with pytest.raises(TypeError) as caught:
            wrong()
        faults.append(str(caught.value).replace(".<locals>", ""))
    return [
        faults, value == same, value == other, hash(value) == hash(same), hash(value), value == child(1, (2,)),
        value.__eq__(3), value != same, repr(value), repr(child(1)), child(1).b, child(1).c, empty() == empty(),
        hash(empty()), repr(empty()), value.twice, asdict(value), [f.name for f in fields(child)],
        replace(value, a=7).a, replace(value, made=[1]).made, base(1).made is not base(1).made, base.__match_args__,
        copy.deepcopy(value) == value, copy.copy(child(1, c=5)).c, base.__doc__, base.kind, vars(value),
        list(inspect.signature(base).parameters), [str(p.kind) for p in inspect.signature(child).parameters.values()],
    ]  # fmt: skip


def test_values_do_what_those_of_the_library_do() -> None:
    assert said(ours) == said(library)


def test_pickled_and_compared_by_one_value() -> None:
    nan = float("nan")
    assert pickle.loads(pickle.dumps(One(2.0))) == One(2.0)
    assert One(nan) == One(nan)  # as of the library: a tuple holds the same object
    assert One(nan) != One(float("nan"))


def test_ours_replaces_as_the_library_does() -> None:
    base, child, _ = family(ours)
    value = base(3, hidden="y")
    assert value.twice == 6
    for changes in ({}, {"a": 7}, {"b": (2,), "made": [1]}):
        new = quick(value, **changes)
        assert (type(new), vars(new)) == (base, vars(replace(value, **changes)))
    assert quick(value, a=7).twice == 14
    assert vars(quick(child(1), c=5)) == vars(replace(child(1), c=5))
    with pytest.raises(TypeError, match="has no field 'd'"):
        quick(value, d=1)


def test_a_signature_is_known_before_the_first_value() -> None:
    base, child, _ = family(ours)
    assert list(inspect.signature(child).parameters) == ["a", "b", "made", "hidden", "c"]
    assert child(1).a == base(1).a
