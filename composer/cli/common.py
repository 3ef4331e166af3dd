"""What the verbs share: arguments, completion, loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from composer.compose import Blueprint, uncollected
from composer.diagnostics import Diagnostic
from composer.registry import ALLOWED, Registry


def complete_blueprint(incomplete: str) -> list[str]:
    """Shipped names and those of plugins, and after a colon presets."""
    from composer.blueprint import load, shipped

    library = {**Registry.discover().blueprints, **shipped()}
    name, colon, _ = incomplete.partition(":")
    if colon and name in library:
        return [f"{name}:{p}" for p in load(name, library=library).presets]
    return [n for n in sorted(library) if n.startswith(incomplete)]


def complete_block(incomplete: str) -> list[str]:
    """Registered blocks."""
    return [n for n in sorted(Registry.discover().blocks) if n.startswith(incomplete)]


def complete_code(incomplete: str) -> list[str]:
    """Error codes."""
    from composer.codes import CODES

    return [c for c in CODES if c.startswith(incomplete.upper())]


Name = Annotated[
    str,
    typer.Argument(
        metavar="BLUEPRINT",
        help="A shipped name (vit), a preset (vit:large) or a path.",
        autocompletion=complete_blueprint,
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Parameters, or addresses: decoder.*.fuse=fuse.add")
]
Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file with blocks of your own.")]
Without = Annotated[
    list[str] | None, typer.Option("--without", help="A pass to leave out (`show --passes`), or all; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]


NO_PLUGINS = (
    "Load no installed plugins. What Composer's own distribution brings, the shipped blocks, stays. "
    f"The environment variable {ALLOWED}=a,b loads only those named."
)

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
    print(json.dumps(value, indent=2, default=str))
