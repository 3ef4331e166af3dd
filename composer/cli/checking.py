"""Verbs that look at a network without running it: `check`, `show`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli import arguments, common
from composer.cli.verdict import described, typed, verdict
from composer.cli.verdict import parse_size as parse_size
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic
from composer.inference import Program

if TYPE_CHECKING:
    from composer.causes import Axis, Cause, Sizes
    from composer.passes import Fired


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command()(check)
    app.command()(sizes)
    app.command()(show)


def check(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    size: Annotated[str | None, typer.Option(help="Also check an input of this size, such as 224,224.")] = None,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """Check names, wiring, types and sizes. Builds nothing."""
    verdict(blueprint, overrides, size, plugin, json)


def seen(loaded: Blueprint) -> tuple[Program, list[Diagnostic]]:
    """A lock's program, and where what is installed is another: neither keeps it from being drawn."""
    program, mistakes = loaded.attempt()
    if program is None or any(not m.code.startswith("BP65") and m.code != "BP103" for m in mistakes):
        raise BlueprintError(mistakes)
    return program, mistakes


def sizes(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    size: Annotated[str | None, typer.Option(help="Is this one valid, and which are nearest? Such as 240,240.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Sizes are looked at up to here.")] = 1024,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """The valid sizes of each axis, and the nodes that cause them. Exit status 1 if `--size` is not valid."""
    loaded = common.load(blueprint, overrides, plugin)
    found = loaded.sizes(limit)
    asked = found.nearest(asked_size(size, found)) if size else None
    if json:
        said = {"blueprint": loaded.name, **found.to_json()}
        common.print_json(said | ({"size": asked.to_json()} if asked else {}))
    else:
        print("\n".join([f"{loaded.name}: {built_for(found)}", *size_lines(found), *(asked.lines() if asked else ())]))
    if asked and not asked.ok:
        raise typer.Exit(1)


def asked_size(text: str, found: Sizes) -> dict[str, int]:
    """`--size` by axis."""
    numbers = parse_size(text)
    if len(numbers) != len(found.axes):
        said = f"`--size {text}` has {len(numbers)} numbers, the axes are {', '.join(found.axes) or 'none'}"
        raise BlueprintError(Diagnostic("BP502", said))
    return dict(zip(found.axes, numbers, strict=True))


def built_for(found: Sizes) -> str:
    """`built for 224 × 224`, or which axes are open."""
    known = [a.built for a in found.axes.values()]
    if not known:
        return "its inputs have no axes"
    return "built for no size" if None in known else "built for " + " × ".join(map(str, known))


def size_lines(found: Sizes) -> Iterator[str]:
    """Axes with the same answer together, then what they must meet together; under each its causes."""
    groups: dict[Any, list[Axis]] = {}
    for axis in found.axes.values():
        groups.setdefault((axis.text, tuple(_alike(c, axis.name, found) for c in axis.because)), []).append(axis)
    rows: list[tuple[str, str, Iterable[Cause]]] = [
        (", ".join(a.name for a in axes), text, axes[0].because) for (text, _), axes in groups.items()
    ]
    rows += [(" × ".join(c.axes), c.text, [c.because]) for c in found.coupled]
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, text, causes in rows:
        yield f"  {name:<{width}}  {text}"
        for cause in causes:
            yield f"  {'':<{width}}    {cause.text}"
            yield f"  {'':<{width}}      at {' · '.join(cause.nodes)}"


def _alike(cause: Cause, axis: str, found: Sizes) -> tuple[Any, ...]:
    """What two axes have in common where the same is asked of both."""
    others = any(a in cause.text for a in found.axes if a != axis)
    return cause.text if others else cause.text.replace(axis, "·"), cause.nodes


def show(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture instead.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page: the graph, costs, and the text beside it.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Open every level.")] = False,
    expand: Annotated[bool, typer.Option("--expand", help="Every copy on rows of its own.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="The blueprint in full: parameters, edits, copies.")] = False,
    depth: Annotated[int | None, typer.Option(help="How many levels to open.")] = None,
    passes: Annotated[bool, typer.Option("--passes", help="Which passes rewrite what, instead.")] = False,
    position: Annotated[
        bool, typer.Option("--position", help="A picture of how alike positions are, instead.")
    ] = False,
    at: Annotated[list[str] | None, typer.Option(help="With --position: only these blocks of positions.")] = None,
    weights: Annotated[Path | None, typer.Option(help="With --position: weights, .safetensors or .pt.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="With --position: the PNG to write.")] = None,
    without: arguments.Without = None,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """Draw the graph: types, parameters and options of every node."""
    from composer import drawing

    loaded = common.load(blueprint, overrides, plugin)
    if flat:
        return print(loaded.flat(), end="")
    if html is not None:
        from composer.files import write_text
        from composer.notebook import page

        write_text(html, page(loaded))
        return print(f"wrote {html}")
    if position:
        return show_positions(loaded, tuple(at or ()), weights, output or Path(f"{loaded.name}.position.png"))
    program, missing = typed(loaded) if loaded.lock is None else seen(loaded)
    if (passes or without) and not missing:
        return show_passes(loaded, program, without or (), json)
    common.warn(program.graph.warnings)
    description = described(loaded, program, None if missing else loaded.build(device="meta"))
    if loaded.lock is not None:  # it says itself what it is, whatever is installed
        common.warn(replace(m, severity="warning") for m in missing)
        description["differences"], missing = [m.to_json() for m in missing], []
    if json:
        common.print_json(description | ({"errors": [m.to_json() for m in missing]} if missing else {}))
    else:
        draw(dict(drawing.expanded(description)) if expand else description, svg, depth, full or expand)
    if missing and json:
        raise typer.Exit(1)
    if missing:
        raise BlueprintError(missing)


def show_positions(loaded: Blueprint, patterns: tuple[str, ...], weights: Path | None, output: Path) -> None:
    """K = PPᵀ of every block of positions, as a picture."""
    from composer import imaging, similarity, similarity_figure
    from composer.module import build

    program = loaded.check()
    steps = similarity.chosen(program, patterns)
    imaging.check_output(output, suffixes=(".png",))
    shown = steps[: similarity_figure.MOST]
    network = loaded.build(weights=weights) if weights else build(similarity.only(program, shown))
    found = list(similarity.codes(program, network, shown))
    learned = any(step.block.weightless is False for step in steps)
    untrained = " (untrained)" if weights is None and learned else ""
    similarity_figure.draw(found, output, f"{loaded.name}{untrained} · positions")
    if untrained:
        print("Tables are as they are before training: no weights were given. Give them with --weights.")
    if len(steps) > len(found):
        print(f"{len(found)} of {len(steps)} blocks of positions are drawn; choose others with --at ADDRESS")
    print(f"wrote {output}")


def draw(description: dict[str, Any], svg: Path | None, depth: int | None, full: bool) -> None:
    """The graph in the terminal, or as a picture in a file."""
    from composer import drawing

    if svg is not None:
        from composer.files import write_text

        write_text(svg, drawing.svg(description))
        return print(f"wrote {svg}")
    from rich.console import Console

    Console().print(drawing.tree(description, depth=depth, full=full))


def show_passes(loaded: Blueprint, program: Program, without: Iterable[str], json: bool) -> None:
    """What each pass rewrites, in the order they run."""
    from composer.cli.listing import table
    from composer.passes import fired_at

    found = list(fired_at(program, loaded.registry.passes, without))
    if json:
        said = [{"pass": f.name, "summary": f.summary, "on": f.on, "at": list(f.at)} for f in found]
        return common.print_json({"blueprint": loaded.name, "passes": said})
    print(
        f"{loaded.name}: {sum(bool(f.at) for f in found)} of {len(found)} passes fire; `--without NAME` leaves one out"
    )
    rows = [(f.name, _count(f), f.summary, " ".join(_patterns(f.at))) for f in found]
    table(("pass", "nodes", "what it does", "where"), rows)


def _count(found: Fired) -> str:
    return str(len(found.at) or "") if found.on else "off"


def _patterns(addresses: Iterable[str]) -> list[str]:
    """Addresses with their numbers as `*`, each once."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", a) for a in addresses))
