"""How much memory there is, and the refusal of what would need more. Needs no torch, unless a GPU is asked about."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from composer.diagnostics import BlueprintError, Diagnostic
from composer.figures import size

PRETEND = "COMPOSER_MEMORY"
"""This environment variable says how much memory there is, as `8GB`, whatever the machine says."""

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", re.I)


def parse(text: str) -> int:
    """`8GB`, `500 MB` or `1.5GiB` in bytes."""
    match = _AMOUNT.fullmatch(text)
    if not match or match[2].lower() not in UNITS:
        help = ("write for example 8GB, 500MB or 1.5GiB",)
        raise BlueprintError(Diagnostic("BP201", f"`{text}` is no amount of memory", help=help))
    return int(float(match[1]) * UNITS[match[2].lower()])


def amount(value: int | str) -> int:
    """An amount of memory in bytes, given as such or in words."""
    return parse(value) if isinstance(value, str) else int(value)


def available(device: str = "cpu") -> int | None:
    """Bytes that a process can still take on a device: what the machine has free, and not more than its control
    groups (containers, batch systems) allow. None where nobody can tell."""
    if PRETEND in os.environ:
        return parse(os.environ[PRETEND])
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return min((*_machine(), *_groups()), default=None) if device == "cpu" else None


def _machine() -> Iterator[int]:
    """Free memory, with caches that the system would give up."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield from (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except OSError:
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        if "SC_PHYS_PAGES" in names:
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group around this process leaves, of either version."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        for top, limit, used in _FILES.get("memory" if "memory" in names.split(",") else names, ()):
            folder = root / top / path.strip("/")
            while folder.is_relative_to(root):
                yield from _left(folder / limit, folder / used, folder / "memory.stat")
                folder = folder.parent


_FILES = {
    "": (("", "memory.max", "memory.current"),),
    "memory": (("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),),
}


def _left(limit: Path, used: Path, statistics: Path) -> Iterator[int]:
    try:
        most = int(limit.read_text())
        cache = [s.split()[1] for s in statistics.read_text().splitlines() if s.startswith("inactive_file ")]
        yield max(0, most - int(used.read_text()) + sum(map(int, cache)))
    except (OSError, ValueError):  # no such file, or no limit: `max`
        return


def refusal(what: str, needed: int, free: int, worst: Iterable[str], help: Iterable[str], way: str) -> BlueprintError:
    """The message in place of a crash: the figure, what takes most of it, and what was tried and fits."""
    text = f"{what} needs {size(needed)} of memory, and {size(free)} are free"
    return BlueprintError(Diagnostic("BP706", text, notes=tuple(worst), help=(*help, way)))
