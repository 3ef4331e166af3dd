"""Verbs about weights: `weights convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer.cli import arguments, common
from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean, listing


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    group = typer.Typer(help="Checkpoints of the published code.", no_args_is_help=True)
    group.command()(convert)
    app.add_typer(group, name="weights")


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The official file: .safetensors, .pt, .pth, .bin or .npz.")],
    overrides: arguments.Overrides = None,
    to: Annotated[str, typer.Option("--to", help="The blueprint.", autocompletion=arguments.complete_blueprint)] = "",
    origin: Annotated[
        str | None, typer.Option("--from", help="Which names the file has: official, transformers, …")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The .safetensors to write.")] = None,
    plugin: arguments.Plugins = None,
    partial: Annotated[bool, typer.Option("--partial", help="Write even when some weights are missing.")] = False,
) -> None:
    """Convert an official checkpoint to this blueprint's names; lists what was mapped, dropped and missing."""
    from composer import weights as files

    if not to:
        raise BlueprintError(Diagnostic("BP201", "which blueprint? give it with `--to NAME`"))
    loaded = common.load(to, overrides, plugin)
    rules = rules_of(loaded.weights, origin, loaded.name)
    target = output or checkpoint.with_suffix(".safetensors")
    tensors = files.load_file(checkpoint)
    network = loaded.build()
    converted, plan = files.convert(tensors, rules, network.state_dict())
    print(files.report(plan))
    if not plan.complete and not partial:
        raise BlueprintError(
            Diagnostic(
                "BP703",
                f"{checkpoint.name} does not fill `{loaded.name}`; nothing was written",
                help=("check the blueprint's parameters and `--from`, or write what fits with `--partial`",),
            )
        )
    files.save_file(converted, target, {"blueprint": loaded.name})
    print(f"wrote {target}")


def rules_of(weights: object, origin: str | None, name: str) -> list[object]:
    """The rules for checkpoints of one origin."""
    known = dict(weights)  # type: ignore[call-overload]
    origin = origin or next(iter(known), None)
    if origin not in known:
        text = (
            f"`{name}` has no rules for `{origin}` checkpoints{did_you_mean(str(origin), known)}"
            if known
            else f"`{name}` has no `weights:` rules"
        )
        raise BlueprintError(Diagnostic("BP701", text, notes=(f"it knows {listing(known)}",) if known else ()))
    return list(known[origin])
