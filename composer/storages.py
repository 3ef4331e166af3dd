"""Which bytes are alive when, and whose they are: a log of storages while a network runs.

It works on real tensors and on fake ones, which have sizes and no numbers. A storage is counted from the operation that
makes it until Python or autograd lets go of it; views share one. What a kernel allocates inside itself is not seen.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_sequence: Callable[[], int] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
"""The number that autograd gives to what it records next."""


class Walk:
    """Which node is at work: the one that is called, or the one whose record the backward pass is in."""

    def __init__(self) -> None:
        self.address, self.calling = "", False
        self.starts: list[int] = []
        self.names: list[str] = []

    def watch(self, address: str, call: Callable[..., Any], done: Callable[[str, Any], None]) -> Callable[..., Any]:
        """The same callable, which says when it works; `done` hears the result."""

        def watched(*values: Any, **named: Any) -> Any:
            before, self.address, self.calling = self.calling, address, True
            self._mark(address)
            try:
                made = call(*values, **named)
            finally:
                self._mark("")
                self.calling = before
            done(address, made)
            return made

        watched.__wrapped__ = call  # type: ignore[attr-defined]
        watched.again = lambda other: self.watch(address, other, done)  # type: ignore[attr-defined]
        return watched

    def _mark(self, address: str) -> None:
        """Autograd numbers what it records, and counts up; this is where a node begins or ends."""
        self.starts.append(_sequence())
        self.names.append(address)

    def where(self) -> tuple[str, str]:
        """The node and its phase."""
        record = torch._C._current_autograd_node()
        if self.calling or record is None:
            return self.address, "forward" if record is None else "again"
        index = bisect_right(self.starts, record._sequence_nr()) - 1
        # what sums gradients of parameters has the highest number there is, and goes with the node before
        self.address = (self.names[index] if index >= 0 else "") or self.address
        return self.address, "backward"


@dataclass(eq=False)
class Storage:
    """One storage: its bytes, the node that made it and in which phase, its kind, and who first saved it."""

    bytes: int
    address: str
    phase: str
    kind: str
    saved_by: str | None = None


class Storages(TorchDispatchMode):
    """While it is active, every storage that an operation makes is logged."""

    def __init__(self, walk: Walk):
        super().__init__()  # type: ignore[no-untyped-call]
        self.walk = walk
        self.alive: dict[int, Storage] = {}
        self.waiting: list[Storage] = []
        self.total = 0
        self.events: list[tuple[int, Storage, tuple[str, str]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = _asked(func, args, func(*args, **(kwargs or {})))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self.keep(value)
        return made

    def keep(self, tensor: Tensor, kind: str = "", address: str | None = None) -> Storage:
        """The storage of a tensor, logged if it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            at, phase = self.walk.where()
            kind = kind or ("activation gradients" if phase == "backward" else "activations")
            self.alive[key] = made = Storage(storage.nbytes(), at if address is None else address, phase, kind)
            self.add(made)
            weakref.finalize(storage, self._gone, key).atexit = False
        return self.alive[key]

    def add(self, storage: Storage) -> None:
        """Count bytes from here on."""
        self.total += storage.bytes
        self.events.append((storage.bytes, storage, self.walk.where()))

    def _gone(self, key: int) -> None:
        storage = self.alive.pop(key)
        self.total -= storage.bytes
        self.events.append((-storage.bytes, storage, ("", "")))

    def pack(self, tensor: Tensor) -> Tensor:
        """For `saved_tensors_hooks`: what autograd keeps, by the node that first asks for it."""
        storage = self.keep(tensor)
        if storage.saved_by is None and storage.kind not in ("parameters", "buffers"):
            storage.saved_by = self.walk.address if self.walk.calling else ""
            self.waiting += [storage] if not self.walk.calling else []
        return tensor

    def claim(self, address: str) -> None:
        """What was kept between two nodes, as the input of a checkpoint, was kept for the second."""
        for storage in self.waiting:
            storage.saved_by = address
        self.waiting.clear()

    def saved(self) -> Iterator[Storage]:
        """What is kept for a backward pass, now."""
        return (s for s in self.alive.values() if s.saved_by is not None)

    def peak(self, without: Iterable[Storage] = ()) -> tuple[int, tuple[str, str], list[Storage]]:
        """The most bytes ever alive, who was at work then, and what was alive, some storages left out."""
        left_out = set(without)
        events = [e for e in self.events if e[1] not in left_out]
        total, most, moment = 0, -1, 0
        for k, (change, _, _) in enumerate(events):
            total += change
            if total > most:
                most, moment = total, k
        alive: dict[Storage, None] = {}
        for change, storage, _ in events[: moment + 1]:
            if change >= 0 and storage not in alive:
                alive[storage] = None
            else:
                alive.pop(storage, None)
        return most, events[moment][2], list(alive)


def _asked(func: Any, args: Sequence[Any], made: Any) -> Any:
    """The gradients that an operation was asked for; without numbers a norm makes those of constants too, which its
    kernel does not."""
    place = _mask_of(func)
    if place is None or place >= len(args):
        return made
    return tuple(m if asked else None for m, asked in zip(made, args[place], strict=True))


@cache
def _mask_of(func: Any) -> int | None:
    """Which argument of an operation says what of its results is wanted."""
    names = [a.name for a in func._schema.arguments]
    return names.index("output_mask") if "output_mask" in names else None
