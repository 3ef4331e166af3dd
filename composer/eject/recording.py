"""What is made while a block builds its module, and with which arguments.

The interpreter's own profile hook sees the first `__init__` of every object as it is called, with its arguments as they
were given: torch is left as it is, and nothing is guessed from what the object looks like afterwards. An object that
somebody changed after its `__init__` (a bias that was filled, a hook) is made by the function that `build` called for
it, if there is one.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from composer.eject.expressions import NOTHING, Argument, Expression, Literal, Made, Several, Thing

PLAIN = (int, float, str, bool, bytes, complex, type(None), type(Ellipsis))


class UnsaidError(Exception):
    """A value that no expression makes; the text says why."""


@dataclass
class _Call:
    """A call as it was made, and what it made, with the marks of that when it was done."""

    callee: Any
    arguments: Mapping[str, Any]
    more: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    marks: Any = None


class Recording:
    """Records what is made inside of `with`; `root` is the function whose own calls count as those of a factory."""

    def __init__(self, root: Callable[..., Any]):
        self.code: CodeType | None = getattr(root, "__code__", None)
        self.made: dict[int, _Call] = {}
        self.factories: list[_Call] = []
        self._root: FrameType | None = None
        self._open: dict[FrameType, _Call] = {}

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(self._before if callable(self._before) else None)  # one of cProfile cannot be set again
        self._root = None
        self._open.clear()

    def _event(self, frame: FrameType, event: str, result: Any) -> None:
        if event == "call":
            self._called(frame)
        elif event == "return" and frame in self._open:
            self._returned(self._open.pop(frame), result)

    def _called(self, frame: FrameType) -> None:
        code = frame.f_code
        if self._root is None:
            self._root = frame if code is self.code else None
        elif code.co_name == "__init__" and code.co_argcount:
            owner = frame.f_locals[code.co_varnames[0]]
            if id(owner) not in self.made and not isinstance(owner, type):
                call = self.made[id(owner)] = self._open[frame] = _call(frame, type(owner), skip=1)
                call.result = owner
        elif frame.f_back is self._root and (function := _function(frame)) is not None:
            self._open[frame] = _call(frame, function)

    def _returned(self, call: _Call, result: Any) -> None:
        if not isinstance(call.callee, type):
            call.result = result
            self.factories.append(call)
        call.marks = _marks(call.result)

    def expression(self, value: Any) -> Expression:
        """What makes a value. Raises `UnsaidError`."""
        if isinstance(value, (*PLAIN, *CONTAINERS, *NAMED)):
            return self._other(value)
        made = self.made.get(id(value))
        calls = [*([made] if made else ()), *(f for f in self.factories if f.result is value)]
        for call in calls:
            if call.marks == _marks(value):
                return self._spelled(call, value)
        if calls:
            raise UnsaidError(f"its `build` changes the `{type(value).__name__}` after it was made")
        return self._other(value)

    def _spelled(self, call: _Call, itself: Any) -> Made:
        """A call; a factory that was given what it returns was given it as it was made."""

        def said(value: Any) -> Expression:
            own = self.made.get(id(value)) if value is itself else None
            return self._spelled(own, value) if own is not None else self.expression(value)

        given: list[Argument] = []
        named = [Argument(k, said(_one(call.callee, k, v)), named=True) for k, v in call.options.items()]
        for name, parameter in _parameters(call.callee).items():
            if name in call.arguments:
                default = NOTHING if parameter.default is parameter.empty else parameter.default
                by_name = parameter.kind is parameter.KEYWORD_ONLY
                by_place = bool(call.more) or parameter.kind is parameter.POSITIONAL_ONLY
                value = _one(call.callee, name, call.arguments[name])
                each = Argument(name, said(value), default, by_name, by_place and not by_name)
                (named if by_name else given).append(each)
        given += [Argument("value", said(v), open=True) for v in call.more]
        return Made(call.callee, (*given, *named))

    def _other(self, value: Any) -> Expression:
        if isinstance(value, PLAIN):
            return _literal(value)
        if isinstance(value, torch.Size):
            value = tuple(value)
        if type(value) in (list, tuple):
            items = [self.expression(v) for v in value]
            if all(isinstance(i, Literal) for i in items):
                return Literal(type(value)(i.value for i in items))  # type: ignore[union-attr]
            return Several(tuple(items), "[]" if isinstance(value, list) else "()")
        if type(value) is dict and all(isinstance(self.expression(v), Literal) for v in value.values()):
            return Literal(value)
        if isinstance(value, functools.partial):
            values = [Argument("value", self.expression(v), open=True) for v in (value.func, *value.args)]
            options = [Argument(k, self.expression(v), named=True) for k, v in value.keywords.items()]
            return Made(functools.partial, (*values, *options))
        if isinstance(value, NAMED):
            return Thing(value)
        if not isinstance(value, (nn.Module, torch.Tensor)) and not getattr(value, "__dict__", True):
            return Made(type(value))
        raise UnsaidError(f"a `{type(value).__name__}` is made in it that no expression can name")


def _literal(value: Any) -> Expression:
    """A number or a text, also one of a class derived from these, unless that is a list of named values."""
    if isinstance(value, enum.Enum):
        raise UnsaidError(f"it is made with `{value!r}`, which is no literal")
    base = next((t for t in (bool, int, float, str) if isinstance(value, t)), None)
    return Literal(value if base is None else base(value))


CONTAINERS = (tuple, list, dict)
NAMED = (type, torch.dtype, types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType)
"""What is said by its name."""


def _call(frame: FrameType, callee: Any, skip: int = 0) -> _Call:
    names, more, options, found = inspect.getargvalues(frame)
    own = {n: found[n] for n in names[skip:]}
    return _Call(callee, own, found[more] if more else (), dict(found[options]) if options else {})


def _function(frame: FrameType) -> Any:
    """The function of a frame, where its module has it under its name."""
    found: Any = None
    for word in frame.f_code.co_qualname.split("."):
        found = frame.f_globals.get(word) if found is None else getattr(found, word, None)
        if found is None:
            return None
    return found if getattr(found, "__code__", None) is frame.f_code else None


PER_AXIS = frozenset(("kernel_size", "kernel", "stride", "padding", "dilation", "output_padding"))


def _one(callee: Any, name: str, value: Any) -> Any:
    """An option of a convolution that is the same for every axis, as torch takes it too: 3 for (3, 3, 3)."""
    convolution = isinstance(callee, type) and issubclass(callee, _ConvNd)
    alike = type(value) is tuple and len(set(value)) == 1
    return value[0] if convolution and name in PER_AXIS and alike else value


def _parameters(callee: Any) -> Mapping[str, inspect.Parameter]:
    if not isinstance(callee, type):
        return inspect.signature(callee).parameters
    return dict(list(inspect.signature(callee.__init__).parameters.items())[1:])  # type: ignore[misc]


def _marks(value: Any) -> Any:
    """What changes when somebody changes an object: its attributes, tensors and hooks."""
    if not isinstance(value, nn.Module):
        return tuple((k, id(v)) for k, v in getattr(value, "__dict__", {}).items())
    return tuple(mark for module in value.modules() for mark in _marks_of(module))


def _marks_of(module: nn.Module) -> Iterator[Any]:
    for name, held in vars(module).items():
        if name in ("_parameters", "_buffers", "_modules"):
            yield from ((k, id(v), getattr(v, "_version", 0)) for k, v in held.items())
        else:
            yield name, len(held) if isinstance(held, dict) else id(held)
