"""Bytes alive in a real run, by the most obvious means: every new storage is weighed, and forgotten when it is freed.

It shares nothing with the cost model: no fake tensors, no nodes, no log.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`now` and `peak`: bytes of the storages that live."""

    def __init__(self, present: Iterable[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.now = self.peak = 0
        for tensor in present:
            self.weigh(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                self.weigh(value)
        return result

    def weigh(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self.known:
            self.known.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, place, size)

    def forget(self, place: int, size: int) -> None:
        self.known.remove(place)
        self.now -= size


@dataclass(frozen=True)
class Measured:
    """Bytes of a real run."""

    saved: int
    peak: int


def run(network: nn.Module, inputs: dict[str, Tensor], training: bool) -> Measured:
    """One pass of a network on the CPU; in training with the backward pass, from a gradient of ones for each output.

    `saved` is what autograd keeps when the forward pass is done, parameters and buffers aside.
    """
    network.train(training)
    state = [*network.parameters(), *network.buffers()]
    mine = {t.untyped_storage().data_ptr() for t in state}
    kept: list[weakref.ref[Any]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(weakref.ref(tensor.untyped_storage()))
        return tensor

    with Tracker([*state, *inputs.values()]) as tracker:
        if not training:
            with torch.no_grad():
                network(**inputs)
            return Measured(0, tracker.peak)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outputs = [o for o in tree_flatten(network(**inputs))[0] if isinstance(o, Tensor)]
        saved = _alive(kept, mine)
        trained = [o for o in outputs if o.requires_grad]
        if trained:
            torch.autograd.backward(trained, [torch.ones_like(o) for o in trained])
    return Measured(saved, tracker.peak)


def _alive(kept: list[weakref.ref[Any]], mine: set[int]) -> int:
    """Bytes of those storages that still live and are not `mine`."""
    alive = {s.data_ptr(): s.nbytes() for s in [r() for r in kept] if s is not None}
    return sum(size for place, size in alive.items() if place not in mine)
