"""Reads the goldens: what official implementations compute (tests/goldens/*.json).

Weights and inputs are drawn from NumPy's RandomState streams, which NumPy keeps fixed, one per tensor name.
"""

from __future__ import annotations

import itertools
import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "goldens"


@cache
def golden(model: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{model}.json").read_text())


@dataclass(frozen=True)
class Case:
    """One configuration of one model."""

    model: str
    size: str

    @property
    def data(self) -> dict[str, Any]:
        return next(c for c in golden(self.model)["cases"] if c["size"] == self.size)

    def _stream(self, name: str) -> numpy.random.RandomState:
        return numpy.random.RandomState((zlib.crc32(name.encode()) ^ self.data["seed"]) & 0xFFFFFFFF)

    def _normal(self, name: str, shape: list[int], offset: float = 0.0, scale: float = 1.0) -> Tensor:
        drawn = offset + scale * self._stream(name).standard_normal(tuple(shape))
        return torch.from_numpy(drawn.astype(numpy.float32))

    def _tensor(self, name: str, entry: list[Any]) -> Tensor:
        if isinstance(entry[1], dict):
            low, high = entry[1]["uniform"]
            return torch.from_numpy(self._stream(name).uniform(low, high, tuple(entry[0])).astype(numpy.float32))
        return self._normal(name, *entry)

    def weights(self) -> dict[str, Tensor]:
        """The official state_dict, less the buffers its constructor makes."""
        drawn = {name: self._tensor(name, entry) for name, entry in self.data["tensors"].items()}
        return drawn | {k: torch.tensor(v, dtype=torch.float32) for k, v in self._explicit.items()}

    @property
    def _explicit(self) -> dict[str, Any]:
        return self.data.get("explicit_tensors", {})

    @property
    def trained(self) -> int:
        """Number of parameters; those that upstream freezes are counters, which we keep in buffers."""
        return self.data["params"] - sum(len(self._explicit[name]) for name in self.data.get("frozen", ()))

    def inputs(self, step: str = "") -> list[Tensor]:
        """The inputs of the first forward pass, or of a later `step` on the same module."""
        return [
            torch.tensor(spec["explicit"], dtype=torch.float32)
            if "explicit" in spec
            else self._normal(name, spec["normal"])
            for name, spec in (self.data[step] if step else self.data)["inputs"].items()
        ]

    def cotangent(self, index: int) -> Tensor:
        return self._normal(f"cotangent/{index}", self.data["outputs"][index]["shape"])


def stored(entry: dict[str, Any], tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The stored values of an output or gradient, and ours at the same positions."""
    assert list(tensor.shape) == entry["shape"]
    size, count = tensor.numel(), entry.get("count", tensor.numel())
    if "stride" not in entry or size <= count:
        at = numpy.arange(size)
    else:
        ends = itertools.product(*[(0, n - 1) for n in tensor.shape])
        corners = [numpy.ravel_multi_index(c, tuple(tensor.shape)) for c in ends]
        at = numpy.concatenate([numpy.arange(count, dtype=numpy.int64) * entry["stride"] % size, corners])
    ours = tensor.detach().flatten()[torch.from_numpy(at)]
    return torch.tensor(entry["values"], dtype=ours.dtype), ours
