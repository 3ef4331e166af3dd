"""A measurement in a process of its own, under the default allocator or the tuned one.

A server process imports torch once and forks for each measurement. What a measurement refuses is raised here, with its
place and words; one that the system ends (for memory) is said to be that.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from composer import allocator
from composer.diagnostics import BlueprintError, Diagnostic

T = TypeVar("T")

PRELOADED = ("composer.bench.times", "composer.bench.peaks")


def fresh(function: Callable[..., T], *arguments: Any, tuned: bool = False) -> T:
    """What a function gives in a new process."""
    with ProcessPoolExecutor(1, context()) as pool:
        try:
            return pool.submit(_run, function, arguments, tuned).result()
        except BrokenProcessPool as fault:
            text = "a measurement was ended by the system before it was done"
            help = ("most often memory ran out: take a smaller `--size` or `--batch`",)
            raise BlueprintError(Diagnostic("BP612", text, help=help)) from fault


def _run(function: Callable[..., T], arguments: tuple[Any, ...], tuned: bool) -> T:
    if tuned:
        allocator.tune()
    return function(*arguments)


def context() -> Any:
    """Processes that start from one in which torch is imported and nothing else has happened."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(list(PRELOADED))
    return made
