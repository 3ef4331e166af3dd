"""A prepared step at work: it keeps what it derived, until a module that it reads is not what it was.

Derived tensors are made at the first call and made again when a parameter or buffer of a part is another one, lies
elsewhere in memory, or was changed in place. `Network` also drops them on `train()` and `eval()`, on `load_state_dict`
and when it is moved. What nobody can see is a change through `.data` in place between two calls at evaluation.

The parts run themselves where a module has a hook, is in training, was replaced by one of another class, or holds
tensors of a kind that folding does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as modules_of_torch
from torch.utils.module_tracker import ModuleTracker

from composer.diagnostics import Diagnostic, PluginError
from composer.locality import trimmed
from composer.prepared import Prepared

Home = tuple[Mapping[str, Any], str]
Watched = tuple[Mapping[str, Any], str, Any]
"""Where a module is found, and of which class it was built."""

_WITH_ADDRESS = (Tensor, nn.Parameter)


class Evaluated:
    """The callable of a prepared step: `values` of the kernel come first, then those that only the parts need.

    step     what it stands for and how
    homes    where the modules of the parts are found
    watched  the modules of the parts, which must be as they were built
    guards   other modules that must be
    plain    the parts on all values
    """

    def __init__(
        self,
        step: Prepared,
        homes: Sequence[Home],
        watched: Sequence[Watched],
        guards: Sequence[Watched],
        plain: Callable[..., Any],
    ):
        self.address, self.by, self.takes = step.address, step.by, len(step.inputs)
        self.span = next((part.span for part in step.parts if part.address == step.address), None)
        self.kernel, self.homes, self.plain = step.kernel(), list(homes), plain
        self.watched, self.guarded = watched, guards
        self.kept: tuple[list[Tensor], list[Any], Any] | None = None

    def __call__(self, *values: Any) -> Any:
        if not self.refresh():
            return self.plain(*values)
        assert self.kept is not None
        modules = [home[name] for home, name in self.homes]
        return self.kernel.run(self.kept[2], modules, values[: self.takes])

    def without_padding(self, axis: int, rank: int, *values: Any) -> Any:
        """The value where the first part, a convolution, does not pad along an axis of its grid."""
        assert self.kept is not None
        first, *others = (home[name] for home, name in self.homes)
        return self.kernel.run(self.kept[2], [trimmed(first, axis, rank), *others], values[: self.takes])

    def refresh(self) -> bool:
        """Whether the parts may be stood for, what is derived from them being as they are now."""
        if not (self._as_built(self.watched) and self._as_built(self.guarded)):
            return False
        tensors: list[Tensor] = []
        for home, name, _ in self.watched:
            tensors += [t for t in home[name]._parameters.values() if t is not None]
            tensors += [t for t in home[name]._buffers.values() if t is not None]
        marks = [_mark(t) for t in tensors]
        if None in marks:
            return False
        kept = self.kept
        if kept is None or marks != kept[1] or len(tensors) != len(kept[0]) or not all(map(is_, tensors, kept[0])):
            self.kept = (tensors, marks, self._derived())
        return True

    def _derived(self) -> Any:
        with torch.inference_mode(False), torch.no_grad():  # a tensor of inference mode is of no use elsewhere
            return self._derive()

    def _derive(self) -> Any:
        modules = [home[name] for home, name in self.homes]
        try:
            return self.kernel.prepare(modules)
        except Exception as fault:
            text = f"`{self.address}` does not keep its traits: {type(fault).__name__}: {fault}"
            way = f"leave the pass out: `--without {self.by[0]}`, in Python `build(without={self.by[0]!r})`"
            notes, help = (f"the pass `{self.by[0]}` relied on them",), (way, "tell the author of the block")
            raise PluginError(Diagnostic("BP611", text, self.span, notes=notes, help=help)) from fault

    @staticmethod
    def _as_built(watched: Sequence[Watched], training: bool = False) -> bool:
        """Whether modules are of the class that was built, in the right mode, and nobody listens to their calls."""
        for home, name, kind in watched:
            module = home[name]
            wrong = type(module) is not kind or (module.training and not training)
            if wrong or module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
                return False
            if training and (module._backward_hooks or module._backward_pre_hooks):
                return False
        return True

    def forget(self) -> None:
        """Drop what was derived."""
        self.kept = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle derives anew."""
        return {**self.__dict__, "kept": None}


def modules_in(homes: Sequence[Home]) -> list[Watched]:
    """Where the modules are found, those inside them too, and of which class they are."""
    found: list[Watched] = []
    for home, name in homes:
        module = home[name]
        if isinstance(module, nn.Module):
            found.append((home, name, type(module)))
            if module._modules:
                found += modules_in([(module._modules, child) for child in module._modules])
    return found


class Trained(Evaluated):
    """The callable of a prepared step that trains: it derives at every call, with gradients."""

    def __call__(self, *values: Any) -> Any:
        if not (self._as_built(self.watched, training=True) and self._as_built(self.guarded, training=True)):
            return self.plain(*values)
        modules = [home[name] for home, name in self.homes]
        with _in_full(values[0].device.type):
            derived = self._derive()
        return self.kernel.run(derived, modules, values[: self.takes])


def _in_full(device: str) -> AbstractContextManager[object]:
    """Where weights are multiplied with each other in their own precision."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _mark(tensor: Tensor) -> Any:
    """What changes when the numbers of a tensor do; None where nothing would."""
    kind = type(tensor)
    if kind in _WITH_ADDRESS and not tensor.is_inference():
        return tensor._version, tensor.data_ptr()
    return (tensor._version, 0) if kind is FakeTensor else None


_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


_KINDS = ("forward", "forward_pre", "backward", "backward_pre")
_HOOKS = tuple(getattr(modules_of_torch, f"_global_{kind}_hooks") for kind in _KINDS)
"""Those for every module, which torch puts into these and takes out of them."""


def _listening() -> bool:
    """Whether there are hooks for every module; one that only counts who is at work, as torch's counter of FLOPs has,
    is none."""
    if not any(_HOOKS):
        return False
    return any(not isinstance(getattr(h, "__self__", None), ModuleTracker) for held in _HOOKS for h in held.values())


def recording() -> bool:
    """Whether somebody follows the calls or the numbers, so that every step must run as it is: gradients, or those of
    `following`."""
    return torch.is_grad_enabled() or following()


def following() -> bool:
    """Whether a compiler, a tracer, hooks for every module or a transformation of torch.func follow the calls."""
    return (
        torch.compiler.is_compiling()
        or _tracing()
        or _listening()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
