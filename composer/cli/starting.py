"""Verbs that start something: `new plugin`, `new blueprint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer import starting
from composer.cli import arguments, common


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    group = typer.Typer(help="Start a plugin or a blueprint of your own.", no_args_is_help=True)
    group.command()(plugin)
    group.command()(blueprint)
    app.add_typer(group, name="new")


def plugin(
    name: Annotated[str, typer.Argument(help="Its Python package, such as my_attention.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A new folder; ./NAME without it.")] = None,
) -> None:
    """Write a small installable distribution: one block that works, its test, a README."""
    folder = output or Path(name)
    files = starting.plugin(name, folder, common.registry(None))
    print("\n".join([f"wrote {folder}/", *(f"  {f}" for f in files)]))
    print(f"next: pip install -e {folder} && composer blocks {name}.attention")


def blueprint(
    name: Annotated[str, typer.Argument(help="Its name, which is that of the file too.")],
    base: Annotated[
        str | None,
        typer.Option("--from", help="The blueprint to change.", autocompletion=arguments.complete_blueprint),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A new file; ./NAME.yaml without it.")] = None,
    plugin: arguments.Plugins = None,
) -> None:
    """Write a blueprint to start from: a small network, or one that extends another."""
    path = output or Path(f"{name}.yaml")
    known = common.registry(plugin)
    loaded = common.load(base, None, plugin) if base is not None else None
    starting.blueprint(name, path, known, loaded, base or "")
    print(f"wrote {path}\nnext: composer show {path}")
