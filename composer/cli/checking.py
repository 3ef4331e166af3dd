"""Verbs that look at a network without running it: `check`, `show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from composer.cli import common
from composer.diagnostics import BlueprintError, Diagnostic


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command()(check)
    app.command()(show)


def check(
    blueprint: common.Name,
    overrides: common.Overrides = None,
    size: Annotated[str | None, typer.Option(help="Also check an input of this size, such as 224,224.")] = None,
    plugin: common.Plugins = None,
    json: common.Json = False,
) -> None:
    """Check names, wiring, types and sizes. Builds nothing."""
    from composer import sizes
    from composer.strides import multiples

    loaded = common.load(blueprint, overrides, plugin)
    program = loaded.check()
    if size:
        spec = program.inputs[0]
        loaded.check(**{spec.name: (1, spec.type.channels, *parse_size(size))})
    nodes = sum(1 for name in program.types if "@" not in name) - len(program.inputs)
    lines = sizes.summary(program.constraints, program.built)
    if json:
        facts = {"blueprint": loaded.name, "ok": True, "nodes": nodes, "sizes": lines, "built_for": dict(program.built)}
        return common.print_json({**facts, "errors": []})
    inputs = ", ".join(f"{i.name} {i.type}" for i in program.inputs)
    by = multiples(program.constraints)
    outputs = ", ".join(f"{o.name} {shown(program.types, o.value, by)}" for o in program.graph.outputs)
    print(f"{loaded.name}: no mistakes in {nodes} nodes")
    print(f"  {inputs} -> {outputs}")
    for line in lines:
        print(f"  sizes  {line}")


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


def show(
    blueprint: common.Name,
    overrides: common.Overrides = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture instead.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Open every level.")] = False,
    expand: Annotated[bool, typer.Option("--expand", help="Every copy on rows of its own.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="The blueprint in full: parameters, edits, copies.")] = False,
    depth: Annotated[int | None, typer.Option(help="How many levels to open.")] = None,
    plugin: common.Plugins = None,
    json: common.Json = False,
) -> None:
    """Draw the graph: types, parameters and options of every node."""
    from composer import drawing
    from composer.describe import describe

    loaded = common.load(blueprint, overrides, plugin)
    if flat:
        return print(loaded.flat(), end="")
    program = loaded.check()
    description = describe(program, loaded.build(device="meta"))
    if json:
        return common.print_json(description)
    description = dict(drawing.expanded(description)) if expand else description
    if svg is not None:
        from composer.files import write_text

        write_text(svg, drawing.svg(description))
        return print(f"wrote {svg}")
    from rich.console import Console

    Console().print(drawing.tree(description, depth=depth, full=full or expand))
