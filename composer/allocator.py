"""The thresholds of glibc's allocator, for processes that are Composer's own: `composer run`, and those of `bench`.

Above 32 MiB at most glibc maps every block anew and gives it back at once, so that a volumetric network faults in and
zeroes its tensors again in every layer: half of its time. A process that only runs networks keeps them instead. What
imports Composer as a library is somebody else's process and is left alone. Elsewhere than on glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""The numbers of the parameters in glibc's malloc.h."""

KEPT = 2**31 - 1
"""Bytes at the top of the heap that are not given back: as much as an `int` says."""

PAD = 64 * 2**20
"""Bytes by which the heap grows at least."""


def tune() -> bool:
    """Blocks of any size come from the heap, and the heap is kept. Whether glibc took it so."""
    settings = ((MMAP_THRESHOLD, KEPT), (TRIM_THRESHOLD, KEPT), (TOP_PAD, PAD))
    mallopt = _mallopt()
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)


def _mallopt() -> ctypes._NamedFuncPointer | None:
    """glibc's function, where this process runs on glibc: others have one of that name that does something else."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - only glibc has it
        return library.mallopt
    except (OSError, AttributeError):
        return None
