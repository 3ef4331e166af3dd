"""The verb `eject`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer.cli import arguments, common
from composer.diagnostics import BlueprintError, Diagnostic


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(eject)


def eject(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A .py file; to stdout without it, or with -.")
    ] = None,
    plugin: arguments.Plugins = None,
) -> None:
    """Write the network as one readable Python file that needs torch alone; weights keep their names."""
    output = None if output == Path("-") else output
    if output is not None:
        refuse(output)
    loaded = common.load(blueprint, overrides, plugin)
    from composer.eject import eject as ejected
    from composer.files import write_text

    text = ejected(loaded)
    if output is None:
        return print(text, end="")
    write_text(output, text)
    if loaded.tap:
        print("left out: `tap:`, the weights of attention that the network gives beside its outputs")
    print(f"wrote {output}: {text.count(chr(10))} lines; its network is the class {_last_class(text)}")


def refuse(path: Path) -> None:
    """A place that Python would not import, before any work is done."""
    if path.suffix != ".py":
        help = (f"write for example -o {path.name}.py",)
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: an ejected network is a .py file", help=help))
    if path.is_dir():
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: it is a folder"))
    if not path.parent.is_dir():
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: there is no folder {path.parent}"))


def _last_class(text: str) -> str:
    return [line.split()[1].split("(")[0] for line in text.splitlines() if line.startswith("class ")][-1]
