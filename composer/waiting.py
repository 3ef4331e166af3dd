"""First values that wait until it is known whether anybody wants them.

torch's modules fill their weights when they are made, and then `init:` fills them again: a large network begins twice.
Under `Waiting` a filling of a parameter as a whole is noted and not done, so that each is done once:

    build: notes fillings  ->  initialize: drops those of parameters that a rule names  ->  done: the rest, in order

Nobody can tell: whatever else is done with the memory of a parameter that waits (a read, a copy, a write into a view of
it or into the tensor that it was made of) has it filled first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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


class Waiting(TorchFunctionMode):
    """While it is active, fillings of whole parameters wait for `done` or `drop`. A `watch` hears of every function of
    torch that makes a tensor or changes one, with its arguments: a mode of its own would cost each call as much as
    making a small tensor."""

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__()
        self.watch = watch
        self.fillings: dict[int, tuple[Tensor, Callable[[], Any]]] = {}
        """By storage: the parameter, and what fills it. A later filling is in the place of an earlier one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in HARMLESS:
            return func(*args, **kwargs)
        if self.watch is not None:
            self.watch(func, args, kwargs)
        if func in FILLINGS:
            target = args[0] if args else kwargs.get("tensor")
            if type(target) is nn.Parameter and _alone(target, (args[1:], kwargs)):
                if not target.is_meta:  # where there are no values
                    self.fillings[_key(target)] = target, partial(func, *args, **kwargs)
                return target
        if self.fillings:
            for tensor in _tensors((args, kwargs)):
                self._fill(_key(tensor))
        return func(*args, **kwargs)

    def drop(self, parameter: Tensor) -> None:
        """Somebody else fills this one."""
        self.fillings.pop(_key(parameter), None)

    def done(self) -> None:
        """Fill all that wait, the oldest first."""
        waiting, self.fillings = tuple(self.fillings.values()), {}
        with torch.no_grad():
            for _, filling in waiting:
                filling()

    def fill(self, parameter: Tensor) -> None:
        """Fill this one now, if it waits."""
        self._fill(_key(parameter))

    def _fill(self, key: int) -> None:
        if key in self.fillings:
            _, filling = self.fillings.pop(key)
            with torch.no_grad():
                filling()


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
