"""The verb `lock`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer.cli import arguments, common
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(lock)


def lock(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A .yaml file; ./NAME.lock.yaml without it.")
    ] = None,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """Write a network in full, with the versions, interfaces and types it was made with; `check` compares them."""
    from composer.files import write_text

    loaded = common.load(blueprint, overrides, plugin)
    path = output or Path(f"{loaded.name.replace(':', '.')}.lock.yaml")
    refuse(path, loaded)
    text = loaded.to_lock()
    write_text(path, text)
    if json:
        return common.print_json({"blueprint": loaded.name, "file": str(path)})
    print(f"wrote {path}\nnext: composer check {path}")


def refuse(path: Path, loaded: Blueprint) -> None:
    """A place that would not be read as a lock, or that holds what the lock is made of."""
    if path.suffix not in (".yaml", ".yml"):
        help = (f"write for example -o {path.name}.lock.yaml",)
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: a lock is a .yaml file", help=help))
    if loaded.lock is None and path.resolve() in {f.resolve() for f in loaded.files}:
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: the lock is made of this blueprint"))
