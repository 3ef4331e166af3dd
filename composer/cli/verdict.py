"""What `composer check` says of a blueprint. Nothing here needs typer: see `plain`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import faults
from composer.cli import common
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic
from composer.inference import Program

if TYPE_CHECKING:
    from composer.module import Network


def plain(arguments: Sequence[str]) -> bool:
    """Whether a command is `check NAME [KEY=VALUE]...` without an option, so that there is nothing to parse: to import
    typer and to ask it takes an eighth of the time of a check."""
    verb, *words = arguments or ("",)
    asked = bool(words) and not any(word.startswith("-") for word in words)
    return verb == "check" and asked and "_COMPOSER_COMPLETE" not in os.environ


def verdict(
    blueprint: str,
    overrides: list[str] | None = None,
    size: str | None = None,
    plugin: list[Path] | None = None,
    json: bool = False,
) -> None:
    """Check, and say what was found."""
    from composer.sizes import summary
    from composer.strides import multiples

    loaded = common.load(blueprint, overrides, plugin)
    program, missing = typed(loaded)
    if missing:
        common.warn(program.graph.warnings)
        return unfinished(described(loaded, program), missing, json)
    if size:
        spec = program.inputs[0]
        loaded.check(**{spec.name: (1, spec.type.channels, *parse_size(size))})
    nodes = sum(1 for name in program.types if "@" not in name) - len(program.inputs)
    lines = summary(program.constraints, program.built)
    if json:
        facts = {"blueprint": loaded.name, "ok": True, "nodes": nodes, "sizes": lines, "built_for": dict(program.built)}
        warnings = [w.to_json() for w in program.graph.warnings]
        return common.print_json({**facts, "errors": [], "warnings": warnings})
    inputs = ", ".join(f"{i.name} {i.type}" for i in program.inputs)
    by = multiples(program.constraints)
    outputs = ", ".join(f"{o.name} {shown(program.types, o.value, by)}" for o in program.graph.outputs)
    common.warn(program.graph.warnings)
    count = len(program.graph.warnings)
    besides = f", {count} warning{'s' * (count != 1)}" if count else ""
    print(f"{loaded.name}: no mistakes in {nodes} nodes{besides}")
    print(f"  {inputs} -> {outputs}")
    for line in lines:
        print(f"  sizes  {line}")
    if loaded.tap:
        from composer.taps import attentions, fitting

        print(f"  taps   {', '.join(n.address for n in fitting(attentions(program), loaded.tap))}")
    if loaded.lock is not None:
        print(f"  lock   {loaded.lock.summary()}")


def typed(loaded: Blueprint) -> tuple[Program, list[Diagnostic]]:
    """A blueprint's program. Where a plugin is missing: unknown types, and what is to be said of them."""
    program, mistakes = loaded.attempt()
    if program is None or (mistakes and not any(m.code in ("BP103", "BP650") for m in mistakes)):
        raise faults.error(mistakes, loaded.registry)
    return program, mistakes


def described(loaded: Blueprint, program: Program, network: Network | None = None) -> dict[str, Any]:
    """The network as data; of a lock with the types that were locked."""
    from composer.describe import describe
    from composer.locking import filled

    description = describe(program, network)
    return filled(description, loaded.lock) if loaded.lock is not None else description


def unfinished(description: dict[str, Any], missing: list[Diagnostic], json: bool) -> None:
    """The graph of a blueprint whose plugin is missing, and what is missing."""
    from composer import drawing

    if json:
        import typer

        common.print_json({"errors": [m.to_json() for m in missing], "graph": description})
        raise typer.Exit(1)
    from rich.console import Console

    Console().print(drawing.tree(description))
    raise BlueprintError(missing)


def shown(types: Any, value: Any, by: Any) -> str:
    """The type of an output."""
    from composer.strides import readable

    refs = value if isinstance(value, tuple) else (value,)
    return " · ".join(readable(types.get(r.name), by) for r in refs if r is not None)


def parse_size(text: str) -> tuple[int, ...]:
    """`224,224` or `224x224` as numbers."""
    words = text.replace("x", ",").replace("×", ",").split(",")
    if not all(w.strip().isdigit() and int(w) > 0 for w in words):
        raise BlueprintError(
            Diagnostic("BP201", f"`--size {text}` is not a size", help=("write for example --size 224,224",))
        )
    return tuple(int(w) for w in words)
