"""Arguments that several verbs take, with their completion, and those of the command itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer.cli import common
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


def version(
    show: Annotated[bool, typer.Option("--version", is_eager=True, help="The version, and nothing else.")] = False,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help=NO_PLUGINS)] = False,
) -> None:
    """Networks of medical imaging as short YAML blueprints."""
    common.ONLY.set(() if no_plugins else None)
    if show:
        from composer import __version__

        print(__version__)
        raise typer.Exit()
