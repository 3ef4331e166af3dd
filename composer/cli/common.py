"""What the verbs share: loading, what they say."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from composer.compose import Blueprint, uncollected
from composer.diagnostics import Diagnostic
from composer.registry import Registry

ONLY: ContextVar[tuple[str, ...] | None] = ContextVar("ONLY", default=None)
"""The plugins that the command may load beside Composer's own; None leaves it to the environment."""


OWN: ContextVar[bool] = ContextVar("OWN", default=False)
"""Whether the process is the command's own, and not that of somebody who calls it as a function."""


def keep_memory() -> None:
    """What runs networks keeps the memory of their tensors, where the process is its own (see `allocator`)."""
    from composer import allocator

    if OWN.get():
        allocator.tune()


def load(name: str, overrides: list[str] | None, plugins: list[Path] | None) -> Blueprint:
    """The blueprint a command names."""
    from composer.blueprint import parse_overrides

    return Blueprint.load(name, registry(plugins), parse_overrides(overrides or ()))


def registry(plugins: list[Path] | None) -> Registry:
    """Installed plugins, and the files named on the command line."""
    with uncollected():
        return Registry.discover(plugins or (), ONLY.get())


def warn(found: Iterable[Diagnostic]) -> None:
    """Warnings, on stderr: they stop nothing."""
    for each in found:
        print(f"{each.render()}\n", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    import json

    print(json.dumps(value, indent=2, default=str))
