"""Frozen values whose classes cost little to declare: `dataclass(frozen=True)` of the standard library, drop-in.

    from composer.frozen import dataclass

The library writes and compiles six methods for every class, 0.3 ms of a start, and a check of a blueprint needs eighty
classes: a sixth of its time went there. Here the fields are found by the library, `__init__` alone is compiled, when
it is used, and the other methods are shared; what they do is the same (`tests/test_frozen.py`), and values are made
in half of the time. The library's `replace`, `fields` and `asdict` take such values; this module's is quicker.
Only what a check imports needs this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: Literal[True]) -> Callable[[type], type]:
        """The decorator."""
        return _completed


def _completed(cls: type) -> type:
    dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    fields = dataclasses.fields(cls)
    compared = _values([f.name for f in fields if f.compare])
    methods = (_Init(cls, fields), _repr, _equal(compared), _hash(compared), _refuse_to_set, _refuse_to_delete)
    for method in methods:
        if cls.__dict__.get(method.__name__) is None:
            setattr(cls, method.__name__, method)
    return cls


class _Init:
    """`__init__`, which is compiled when somebody asks for it: of half of the classes a check makes no value."""

    __name__ = "__init__"

    def __init__(self, cls: type, fields: tuple[Field[Any], ...]):
        self.cls, self.fields = cls, fields

    def __get__(self, value: Any, owner: type) -> Any:
        made = _init(self.cls, self.fields)
        type.__setattr__(self.cls, "__init__", made)
        return made.__get__(value, owner)


def _init(cls: type, fields: tuple[Field[Any], ...]) -> Callable[..., None]:
    """`__init__(self, a, b=…)`, which writes into the dictionary of a value: its attributes cannot be set."""
    given: dict[str, Any] = {"_missing_": MISSING}
    parameters, lines = ["self"], ["_own_ = self.__dict__"]
    for k, field in enumerate(fields):
        name, default = field.name, f"_default_{k}_"
        made = field.default_factory is not MISSING
        given[default] = field.default_factory if made else field.default
        needed = not made and field.default is MISSING
        parameters.append(name if needed else f"{name}=_missing_" if made else f"{name}={default}")
        lines.append(f"_own_[{name!r}] = {f'{default}() if {name} is _missing_ else {name}' if made else name}")
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines), given)
    init: Callable[..., None] = given["__init__"]
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return init


def replace(value: T, **changes: Any) -> T:
    """The value with other fields, as the library's; what was computed from the old ones and kept is left behind."""
    cls = type(value)
    names = cls.__match_args__  # type: ignore[attr-defined]
    if not changes.keys() <= set(names):
        raise TypeError(f"{cls.__qualname__} has no field {min(changes.keys() - set(names))!r}")
    made, old = object.__new__(cls), value.__dict__
    made.__dict__.update({name: changes[name] if name in changes else old[name] for name in names})
    return made


def _values(names: list[str]) -> Callable[[Any], Any]:
    """What is compared and hashed: a tuple, of one value too."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _equal(values: Callable[[Any], Any]) -> Callable[[Any, object], bool]:
    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        if other.__class__ is not self.__class__:
            return NotImplemented
        return bool(values(self) == values(other))

    return __eq__


def _hash(values: Callable[[Any], Any]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return __hash__


def _repr(self: Any) -> str:
    said = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(said)})"


def _refuse_to_set(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


_repr.__name__, _refuse_to_set.__name__, _refuse_to_delete.__name__ = "__repr__", "__setattr__", "__delattr__"
