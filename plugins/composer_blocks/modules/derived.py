"""Buffers that follow from a module's options, such as an index or a mask: not in the `state_dict`, never lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """A module whose non-persistent buffers are computed from its options.

    `to_empty`, the way to fill a network made on `meta`, leaves every buffer with whatever was in memory, and loading
    weights does not restore those that are not in the `state_dict`. So they are computed again whenever the module
    moves.
    """

    def derived(self) -> Mapping[str, Tensor]:
        """The buffers by name, on the CPU (a network may be made on `meta`, where a number has no value)."""
        raise NotImplementedError

    def derive(self) -> None:
        """Register the buffers, on the device where the parameters are made; for the end of `__init__`."""
        for name, value in self.derived().items():
            self.register_buffer(name, value.to(torch.get_default_device()), persistent=False)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, value in self.derived().items():
                self.get_buffer(name).copy_(value)
        return self
