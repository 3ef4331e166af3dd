"""`composer nnunet install`, `remove`, `plan`: nnU-Net v2 with any blueprint. The work is nnU-Net's own commands'."""

from __future__ import annotations

from typing import Annotated

import typer

from composer.cli import arguments, common
from composer.diagnostics import BlueprintError, Diagnostic


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    group = typer.Typer(no_args_is_help=True, help="nnU-Net v2 with any blueprint: its planner and its trainer.")
    for verb in (install, remove, plan):
        group.command()(verb)
    app.add_typer(group, name="nnunet")


def install() -> None:
    """Let nnU-Net's commands find the planner and the trainer: one line in a file each, in its package."""
    from composer.nnunet import installing

    for path in installing.install(installing.package()):
        print(f"wrote {path}")


def remove() -> None:
    """Take what `install` wrote away."""
    from composer.nnunet import installing

    for path in installing.remove(installing.package()):
        print(f"removed {path}")


def plan(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    spacing: Annotated[str, typer.Option(help="Of the voxels in mm, such as 3,0.8,0.8; the coarsest first.")] = "1,1,1",
    shape: Annotated[str, typer.Option(help="Of the median image in voxels, in the same order.")] = "160,192,160",
    channels: Annotated[int, typer.Option(help="Of the images.", min=1)] = 1,
    classes: Annotated[int, typer.Option(help="With the background.", min=2)] = 2,
    cases: Annotated[int, typer.Option(help="Images to train on.", min=1)] = 100,
    memory: Annotated[float, typer.Option(help="Of the device, in GB.", min=0)] = 8,
) -> None:
    """What nnU-Net's planner would be told: patch, batch, memory and outputs. Needs no nnU-Net."""
    from math import prod

    from composer.nnunet import planning
    from composer.nnunet.architecture import Architecture, given

    loaded = common.load(blueprint, overrides, None)
    size = tuple(round(n) for n in _numbers("--shape", shape))
    data = planning.Data(_numbers("--spacing", spacing), size, channels, classes, float(prod(size) * cases))
    if len(data.spacing) != len(size) or len(size) not in (2, 3):
        text = f"`--spacing {spacing}` and `--shape {shape}` are to have two or three numbers each"
        raise BlueprintError(Diagnostic("BP201", text))
    found = planning.plan(Architecture(loaded.to_yaml()).load, data, memory, given(loaded))
    print(f"{loaded.name}: {found}")


def _numbers(option: str, words: str) -> tuple[float, ...]:
    try:
        found = tuple(float(w) for w in words.replace("x", ",").split(","))
    except ValueError:
        found = ()
    if not found or min(found) <= 0 or max(found) == float("inf"):
        text = f"`{option} {words}` is to be numbers above 0, such as {option} 1,1,1"
        raise BlueprintError(Diagnostic("BP201", text))
    return found
