"""Building within the memory there is: weights are weighed before they are made.

Small networks cost nothing more. One whose weights pass a share of the free memory is built on `meta` first, where
nothing is allocated, and refused if it does not fit.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from composer import memory
from composer.diagnostics import BlueprintError
from composer.figures import Row, largest, size
from composer.inference import Program
from composer.module import Network, build

if TYPE_CHECKING:
    from composer.compose import Blueprint

SMALL = 0.05
"""The share of the free memory below which a network is not weighed."""

UNASKED = 64 * 2**20
"""Bytes of weights below which nobody asks what is free: a fraction of what torch itself takes, and reading what the
control groups leave takes as long as making a hundred modules."""

MAKERS = frozenset((torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn))
"""What modules make their weights with."""


class Budget:
    """Watched by it, a network that is built on `device` fits there or is refused (BP706)."""

    def __init__(
        self, blueprint: Blueprint, program: Program, device: Any, weights: str | os.PathLike[str] | None = None
    ):
        self.blueprint, self.program = blueprint, program
        self.device = torch.device(device) if device is not None else torch.get_default_device()
        self.file = os.path.getsize(weights) if weights is not None and os.path.isfile(weights) else 0
        self.asked, self.small = self.file, float(0 if memory.PRETEND in os.environ else UNASKED)

    @cached_property
    def free(self) -> int | None:
        """Bytes that are free; None where nobody can tell."""
        return memory.available(str(self.device)) if self.device.type != "meta" else None

    def watch(self, func: Any, args: Any, kwargs: Any) -> None:
        """Count what a call of torch asks for."""
        if func in MAKERS:
            self.asked += _asked(args, kwargs)
            if self.asked > self.small:
                self.small = float("inf") if self.free is None else self.free * SMALL
                if self.asked > self.small:
                    self.small = float("inf")
                    self.judge()

    def judge(self) -> None:
        """Weigh the whole network."""
        network = build(self.program, "meta")
        needed = weight(network) + self.file
        if self.free is not None and needed > self.free:
            what = f"building `{self.blueprint.name}` on {self.device}"
            file = [f"the weights file   {size(self.file)}"] if self.file else []
            worst = [*largest(_stages(network), "at_peak"), *file]
            help = [*_halved(self.program, self.free - self.file), *_presets(self.blueprint, self.free - self.file)]
            raise memory.refusal(what, needed, self.free, worst, help, "or build it anyway: `build(force=True)`")


def weight(network: Network) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.nbytes for t in (*network.parameters(), *network.buffers()))


def _asked(args: Any, kwargs: Any) -> int:
    """Bytes of the tensor that a call would make."""
    shape = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    return int(prod(n for n in shape if isinstance(n, int)) * dtype.itemsize)


def _stages(network: Network) -> list[Row]:
    bytes_of = Counter[str]()
    for name, parameter in network.named_parameters():
        words = name.split(".")
        bytes_of[".".join(words[: 2 if words[1:2] and words[1].isdigit() else 1])] += parameter.nbytes
    return [Row(name, at_peak=count) for name, count in bytes_of.items()]


def _halved(program: Program, free: int) -> list[str]:
    """Half precision, if that fits."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        needed = weight(build(program, "meta"))
    finally:
        torch.set_default_dtype(usual)
    return [f"`torch.set_default_dtype(torch.bfloat16)` before it needs {size(needed)}"] if needed <= free else []


def _presets(blueprint: Blueprint, free: int) -> list[str]:
    """Presets of the same blueprint that fit, the largest first; each was weighed."""
    found = []
    for preset in blueprint.presets:
        try:
            other = type(blueprint).load(f"{blueprint.path}:{preset}", blueprint.registry)
            found.append((weight(build(other.optimized(), "meta")), preset))
        except BlueprintError:
            continue
    fit = sorted((f for f in found if f[0] <= free), reverse=True)[:2]
    return [f"`{blueprint.name}:{preset}` needs {size(needed)}" for needed, preset in fit]
