"""First values that wait until it is known whether anybody wants them.

torch's modules fill their weights when they are made, and then `init:` fills them again: a large network begins twice.
Under `Waiting` a filling of a parameter as a whole is noted and not done, so that each is done once:

    build: notes fillings  ->  initialize: drops those of parameters that a rule names  ->  done: the rest, in order

Nobody can tell: whatever else is done with the memory of a parameter that waits (a read, a copy, a write into a view of
it or into the tensor that it was made of) has it filled first.

For this a mode hears of all that a constructor asks of torch, which takes 2 µs for each attribute of a tensor: a third
of the time in which a small network is built. A module of torch that a block makes by `make` is made without the mode:
its constructor runs with a `reset_parameters` that does nothing, and the real one waits.

    make(nn.Linear, 3, 4)  ->  Linear without values; weight and bias wait for Linear.reset_parameters
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode, _push_mode

FILLINGS = frozenset(
    (
        *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.constant_),
        *(Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_),
    )
)
"""What gives a whole tensor new values, whatever it held."""

NUMBERS = frozenset((int, float, bool, str, type(None)))

Watch = Callable[[Any, Any, Any], None]

FACTS = "shape dtype device ndim is_meta layout requires_grad is_leaf grad_fn grad is_sparse".split()  # noqa: SIM905
HARMLESS = frozenset(
    (
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.is_floating_point),
        *(Tensor.is_contiguous, torch._C._set_grad_enabled),
        *(getattr(Tensor, name).__get__ for name in FACTS),
    )
)
"""What looks at no value: methods, and attributes."""

_PLAIN = (
    *(nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU),
)
PLAIN = frozenset(
    kind
    for kind in vars(nn).values()
    if isinstance(kind, type) and issubclass(kind, _PLAIN) and not issubclass(kind, LazyModuleMixin)
)
"""Modules of torch whose constructors make tensors, look at none, and end with `reset_parameters`, which fills them."""

M = TypeVar("M", bound=nn.Module)


def make(kind: type[M], *args: Any, **options: Any) -> M:
    """The module `kind(*args, **options)`; while a network is built, one of torch's own is made in less time."""
    waiting = _get_current_function_mode()  # type: ignore[no-untyped-call]
    if kind in PLAIN and type(waiting) is Waiting:
        return waiting.made(kind, args, options)
    return kind(*args, **options)


class Waiting(TorchFunctionMode):
    """While it is active, fillings of whole parameters wait for `done` or `drop`. A `watch` hears of every function of
    torch that makes a tensor or changes one, with its arguments: a mode of its own would cost each call as much as
    making a small tensor. Of what `make` makes it hears afterwards."""

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__()
        self.watch = watch
        self.fillings: dict[int, tuple[Tensor, Callable[[], Any]]] = {}
        """By identity: the parameter, and what fills it. A later filling is in the place of an earlier one."""
        self._storages: dict[int, int] = {}
        self._unseen: list[Tensor] = []
        """Those whose storage nobody asked for yet."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in HARMLESS:
            return func(*args, **kwargs)
        if self.watch is not None:
            self.watch(func, args, kwargs)
        if func in FILLINGS:
            target = args[0] if args else kwargs.get("tensor")
            if type(target) is nn.Parameter and _alone(target, (args[1:], kwargs)):
                self.fill(target, but=target)
                self._note(target, partial(func, *args, **kwargs))
                return target
        if self.fillings:
            for tensor in _tensors((args, kwargs)):
                self.fill(tensor)
        return func(*args, **kwargs)

    def made(self, kind: type[M], args: Any, options: Any) -> M:
        """A plain module whose first values wait."""
        _pop_mode()  # type: ignore[no-untyped-call]
        try:
            module = _unfilled(kind, args, options)
            if module is not None:
                self._hear(module)
        finally:
            _push_mode(self)  # type: ignore[no-untyped-call]
        return kind(*args, **options) if module is None else module

    def _hear(self, module: nn.Module) -> None:
        """Note what a module was not filled with."""
        first = _First(module)
        for name, parameter in first.parameters.items():
            self._note(parameter, _One(first, name))
        if self.watch is not None:
            tensors = (*module._parameters.values(), *module._buffers.values())
            self.watch(torch.empty, (sum([t.nbytes for t in tensors if t is not None]),), {"dtype": torch.uint8})

    def _note(self, target: Tensor, filling: Callable[[], Any]) -> None:
        if not target.is_meta:  # where there are no values
            _release(self.fillings.get(id(target)))
            self.fillings[id(target)] = target, filling
            self._unseen.append(target)

    def drop(self, parameter: Tensor) -> None:
        """Somebody else fills this one."""
        waited = self.fillings.pop(id(parameter), None)
        _release(waited)
        if waited is None:
            self.fill(parameter)

    def forget(self) -> None:
        """Nobody fills what waits."""
        self.fillings, self._storages, self._unseen = {}, {}, []

    def done(self) -> None:
        """Fill all that wait, the oldest first."""
        waiting = tuple(self.fillings.values())
        self.forget()
        with torch.no_grad():
            for _, filling in waiting:
                filling()

    def fill(self, tensor: Tensor, but: Tensor | None = None) -> None:
        """Fill now what waits in the memory of a tensor."""
        while self._unseen:
            parameter = self._unseen.pop()
            self._storages[_key(parameter)] = id(parameter)
        owner = self._storages.get(_key(tensor))
        if owner in self.fillings and owner != id(but):
            _, filling = self.fillings.pop(owner)
            with torch.no_grad():
                filling()


def _release(waited: tuple[Tensor, Callable[[], Any]] | None) -> None:
    """What waited is filled otherwise."""
    if waited is not None and isinstance(waited[1], _One):
        waited[1].first.left.discard(waited[1].name)


def _unfilled(kind: type[M], args: Any, options: Any) -> M | None:
    """The module without first values; None where making it fails, which the constructor itself may say."""
    try:
        module: M = _bare(kind)(*args, **options)  # type: ignore[arg-type]
    except Exception:
        return None
    object.__setattr__(module, "__class__", kind)
    return module


@cache
def _bare(kind: Any) -> Any:
    """The class with a constructor that fills nothing, and is quicker at keeping what it made."""
    return type(kind.__name__, (kind,), {"reset_parameters": lambda self: None, "__setattr__": _keep})


_NUMBERS = frozenset((int, float, bool, str, tuple, list))


def _keep(self: nn.Module, name: str, value: Any) -> None:
    """What `__setattr__` of a module comes to, for the names that a constructor gives to what it just made."""
    if type(value) in _NUMBERS:
        self.__dict__[name] = value
    elif type(value) is nn.Parameter and not modules_of_torch._global_parameter_registration_hooks:
        self._parameters[name] = value
    else:
        nn.Module.__setattr__(self, name, value)


class _First:
    """The first values of a module that was made without them, which its twin gives: it has the parameters and the
    attributes that the module began with, whatever becomes of that, and no statistics that could be set back."""

    def __init__(self, module: nn.Module):
        self.parameters = {name: p for name, p in module._parameters.items() if p is not None}
        self.left = set(self.parameters)
        self.twin = object.__new__(type(module))
        own = self.twin.__dict__
        own.update(module.__dict__)
        own["_parameters"], own["_buffers"], own["track_running_stats"] = module._parameters.copy(), {}, False

    def fill(self, name: str) -> None:
        """Fill a parameter, and the others with it where they all wait."""
        if len(self.left) == len(self.parameters):
            self.left.clear()
            self.twin.reset_parameters()  # type: ignore[operator]
        elif name in self.left:
            self.left.discard(name)
            with Waiting() as others:
                self.twin.reset_parameters()  # type: ignore[operator]
            others.fill(self.parameters[name])


class _One:
    """The filling of one parameter of such a module."""

    __slots__ = "first", "name"

    def __init__(self, first: _First, name: str):
        self.first, self.name = first, name

    def __call__(self) -> None:
        self.first.fill(self.name)


def _alone(target: Tensor, others: Any) -> bool:
    """Whether there is no other tensor among arguments."""
    return all(t is target for t in _tensors(others))


def _key(tensor: Tensor) -> int:
    """The storage: views and parameters made of one tensor share it."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else 0


def _tensors(value: Any) -> list[Tensor]:
    """The tensors among arguments, in lists and dictionaries too; a list of numbers may be long."""
    items = tuple(value.values()) if isinstance(value, dict) else value
    if NUMBERS.issuperset(map(type, items)):
        return []
    found: list[Tensor] = []
    for each in items:
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, (tuple, list, dict)):
            found += _tensors(each)
    return found
