"""What a network costs before anything is allocated: `composer cost NAME --size 512,512,256 --train`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer import figures
from composer.cli import arguments, common
from composer.cli.checking import parse_size
from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean, listing
from composer.figures import GROUPINGS, ORDERS, Cost, Row

if TYPE_CHECKING:
    from composer.compose import Blueprint
    from composer.plans import MemoryPlan

WIDTH = 8
"""Characters of the longest bar."""


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(cost)


def cost(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    size: Annotated[
        list[str] | None,
        typer.Option(help="The size of the input, such as 512,512,256; of another input target=64, repeatable."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Inputs at a time.", min=1)] = 1,
    train: Annotated[bool, typer.Option("--train", help="A step of training: forward and backward.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the whole network: fp32, bf16, fp16 or fp64.")] = "fp32",
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Nodes that training computes again, such as 'encoder.*'; repeatable.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="Whose state is there: none, sgd, momentum, adam or adamw.")] = "none",
    gradients: Annotated[
        str, typer.Option(help="Of parameters: new (made by the step), kept (accumulated) or none.")
    ] = "new",
    by: Annotated[str, typer.Option(help="A row for each node, stage or block.")] = "node",
    sort: Annotated[str, typer.Option(help="memory, saved, activations, flops, params or place.")] = "memory",
    top: Annotated[int, typer.Option(help="Rows to show; 0 for all.", min=0)] = 16,
    without: arguments.Without = None,
    memory: Annotated[
        str | None, typer.Option(help="Plan how it fits into so much, such as 24GB, or say what would.")
    ] = None,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """Count parameters, FLOPs and memory, per node and in total, without allocating any of it."""
    _known("--by", by, GROUPINGS)
    _known("--sort", sort, ORDERS)
    loaded, shapes = sized(blueprint, overrides, plugin, size, batch)
    options = dict(
        train=train, dtype=dtype, checkpoint=tuple(checkpoint or ()), optimizer=optimizer, gradients=gradients,
        without=tuple(without or ()),
    )  # fmt: skip
    plan = loaded.plan(memory, **options, **shapes) if memory is not None else None  # type: ignore[arg-type]
    found = plan.after if plan else loaded.cost(**options, **shapes)  # type: ignore[arg-type]
    if plan and not plan.fits:
        raise _refusal(plan, loaded, shapes, options, lambda to: sized(blueprint, overrides, plugin, to, batch)[0])
    rows = found.sorted(by, sort)
    if json:
        said = {"plan": plan.lines()} if plan else {}
        return common.print_json({**found.as_dict(), "rows": [_plain(r) for r in rows], **said})
    if plan:
        print(f"{plan}\n")
    show(found, rows[: top or None], len(rows), by, sort)


def sized(
    name: str, overrides: list[str] | None, plugin: list[Path] | None, sizes: list[str] | None, batch: int
) -> tuple[Blueprint, dict[str, tuple[int, ...]]]:
    """The blueprint and the shapes of its inputs. A blueprint with a parameter `size` is also made for that size,
    unless its size was given among the overrides."""
    from composer.compose import fed

    words = list(overrides or ())
    loaded = common.load(name, words, plugin)
    wanted = dict(_named(text) for text in sizes or ())
    if "" in wanted and "size" in loaded.values and not any(w.startswith("size=") for w in words):
        loaded = common.load(name, [*words, f"size=[{','.join(map(str, wanted['']))}]"], plugin)
    program = loaded.check()
    inputs = {i.name: i.type.channels for i in program.inputs}
    if "" in wanted:
        wanted.setdefault(program.inputs[0].name, wanted.pop(""))
    for unknown in set(wanted) - set(inputs):
        text = f"there is no input `{unknown}`{did_you_mean(unknown, inputs)}"
        raise BlueprintError(Diagnostic("BP503", text, notes=(f"inputs: {listing(inputs)}",)))
    return loaded, fed(program, {n: (batch, inputs[n], *s) for n, s in wanted.items()}, batch)


def _named(text: str) -> tuple[str, tuple[int, ...]]:
    """`target=64` as name and size; without a name it is the first input."""
    name, _, numbers = text.rpartition("=")
    return name, parse_size(numbers)


def _known(option: str, word: str, words: Any) -> None:
    if word not in words:
        text = f"unknown `{option} {word}`{did_you_mean(word, words)}"
        raise BlueprintError(Diagnostic("BP201", text, notes=(f"known: {listing(words)}",)))


def _refusal(
    plan: MemoryPlan, loaded: Blueprint, shapes: Any, options: Any, resize: Callable[[list[str]], Blueprint]
) -> BlueprintError:
    """More than the memory that was given, whatever is planned; with ways that fit."""
    from composer import planning, remedies

    resized = ("--size {}", lambda to: resize([",".join(map(str, to))]))
    request = remedies.Request(loaded, shapes, options)
    help = remedies.ways(request, lambda c: c.peak.bytes, lambda c: c.peak.bytes <= plan.budget, resized)
    return planning.refused(plan, help, "or leave out `--memory`")


def _plain(row: Row) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row)


def show(found: Cost, rows: Sequence[Row], count: int, by: str, sort: str) -> None:
    """The totals, the peak, and a row with a bar for each node."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{found.name}[/bold]  {_conditions(found)}", soft_wrap=True)
    for name, value in _totals(found):
        console.print(f"  {name:<12} {value}", soft_wrap=True)
    console.print(_fitted(console, found, rows, by, sort))
    if count > len(rows):
        console.print(f"… {count - len(rows)} more; `--top 0` shows all, `--by stage` fewer", soft_wrap=True)


def _conditions(found: Cost) -> str:
    words = [_inputs(found), found.dtype, "training" if found.training else "inference"]
    words += [f"checkpointed {', '.join(found.checkpoint)}"] if found.checkpoint else []
    words += [f"optimizer {found.optimizer}"] if found.optimizer != "none" else []
    words += [f"gradients {found.gradients}"] if found.training and found.gradients != "new" else []
    return ", ".join(words)


def _inputs(found: Cost) -> str:
    return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in found.shapes.items())


def _totals(found: Cost) -> list[tuple[str, str]]:
    peak = found.peak
    flops = f"{figures.number(found.flops)}{' forward' if found.training else ''}"
    lines = [("parameters", figures.number(found.parameters))]
    lines += [("FLOPs", flops + (f", {figures.number(found.backward_flops)} backward" if found.training else ""))]
    lines += [("activations", figures.size(found.activations))]
    lines += [("saved", f"{figures.size(found.saved)} for the backward pass")] if found.training else []
    phase = {"again": ", computed again"}.get(peak.phase, f", {peak.phase}" if found.training else "")
    lines += [("peak", f"{figures.size(peak.bytes)} at {peak.address or 'the input'}{phase}")]
    return [*lines, ("", " · ".join(f"{k} {figures.size(n)}" for k, n in peak.parts.items()))]


def _fitted(console: Any, found: Cost, rows: Sequence[Row], by: str, sort: str) -> Any:
    """The table, without the columns that a narrow terminal has no room for."""
    columns = [c for c in _COLUMNS if found.training or c != "saved"]
    wide = console.options.update(width=10**4)
    while True:
        made = _table(found, rows, by, sort, columns)
        if console.measure(made, options=wide).maximum <= console.width or len(columns) <= 3:
            return made
        columns = [c for c in columns if c != next(d for d in _SPARE if d in columns)]


def _table(found: Cost, rows: Sequence[Row], by: str, sort: str, columns: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column(by, overflow="fold")
    for name in columns:
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    most = max((_weight(r, sort) for r in rows), default=0)
    for row in rows:
        label = row.address + (f" ×{row.nodes}" if by == "block" else "")
        cells = [Text(_COLUMNS[c](row)) for c in columns]
        made.add_row(Text(label), *cells, Text(_bar(_weight(row, sort), most)))
    return made


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "shape": lambda r: "×".join(map(str, r.shape)),
    "params": lambda r: figures.number(r.parameters) if r.parameters else "",
    "FLOPs": lambda r: figures.number(r.flops + r.backward_flops) if r.flops else "",
    "output": lambda r: figures.size(r.activations) if r.activations else "",
    "saved": lambda r: figures.size(r.saved) if r.saved else "",
    "at peak": lambda r: figures.size(r.at_peak) if r.at_peak else "",
}
_SPARE = ("shape", "output", "params")
"""Columns that go first where there is no room."""


def _weight(row: Row, sort: str) -> int:
    """What the bar of a row shows: the first figure of the order; of the order of places, memory."""
    order = "memory" if sort == "place" else sort
    value = ORDERS[order](row)
    return int(value[0] if isinstance(value, tuple) else value)


def _bar(value: int, most: int) -> str:
    """A bar in eighths of a character."""
    eighths = round(8 * WIDTH * value / most) if most else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
