"""Memory of one network, in a process where nothing else has run.

`tensors` is exact: storages alive beside weights and inputs, at most. `resident` is what the system gave the process
for one call, with what kernels and the allocator keep; it is known on Linux.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from composer.bench.case import Case
from composer.bench.pair import Runner, single
from composer.storages import Storages, Walk


@dataclass(frozen=True)
class Peak:
    """Bytes at most, beside weights and inputs."""

    tensors: int
    resident: int | None


def peak(case: Case, ours: bool) -> Peak:
    """The peak of one of the two networks of a case."""
    if case.threads:
        torch.set_num_threads(case.threads)
    run = single(case, ours)
    grown = resident(run)  # before anything has warmed the heap
    return Peak(alive(run), grown)


def alive(run: Runner) -> int:
    """Bytes of the storages that one call makes and that live at the same time."""
    run.network.zero_grad(set_to_none=True)
    with Storages(Walk()) as storages:
        state = (*run.network.parameters(), *run.network.buffers(), *run.inputs.values())
        present = {storages.keep(t, "present") for t in state}
        run()
    return int(storages.peak(present)[0])


def resident(run: Runner) -> int | None:
    """Bytes by which the process grows during its first call, at most. Libraries are started before."""
    small = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(6, 6))
    small(torch.zeros(1, 1, 8, 8)).sum().backward()
    gc.collect()
    before = status("VmRSS") if forget() else None
    run()
    most = status("VmHWM")
    return None if before is None or most is None else most - before


def forget() -> bool:
    """Whether the system forgets the highest mark so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status(name: str) -> int | None:
    """A figure that Linux keeps of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
