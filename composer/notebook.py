"""A blueprint as HTML: the page of `composer show --html`, and what a notebook shows for a blueprint."""

from __future__ import annotations

import sys
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import drawing, figures
from composer.describe import describe
from composer.diagnostics import ComposerError
from composer.drawing.page import Marks, Text
from composer.drawing.page import page as drawn
from composer.sourcemap import SourceMap, sourcemap

if TYPE_CHECKING:
    from composer.compose import Blueprint
    from composer.figures import Cost
    from composer.inference import Program


def page(blueprint: Blueprint) -> str:
    """One self-contained HTML file. Raises `BlueprintError` where the blueprint has mistakes."""
    program = blueprint.check()
    description = describe(program, blueprint.build(device="meta"))
    found = sourcemap(program.graph)
    lines = {a: [(w.file, w.first, w.last) for w in places] for a, places in found.lines.items()}
    try:
        cost = blueprint.cost()
    except ComposerError as fault:
        marks = Marks(_texts(found), lines, remark=f"without costs: {fault.diagnostics[0].message}")
    else:
        marks = Marks(_texts(found), lines, _costs(cost), _totals(cost))
    return drawn(description, marks)


def _texts(found: SourceMap) -> tuple[Text, ...]:
    """Files under their names; under their folders too where two are called alike."""
    names = Counter(Path(f.name).name for f in found.files)
    shown = [p.name if names[p.name] == 1 else str(Path(*p.parts[-2:])) for f in found.files for p in [Path(f.name)]]
    return tuple(Text(n, f.lines) for n, f in zip(shown, found.files, strict=True))


def _costs(cost: Cost) -> dict[str, dict[str, int]]:
    """FLOPs and bytes by address; a part has those of everything inside it."""
    flops, size = Counter[str](), Counter[str]()
    for row in cost.rows:
        address = row.address.partition("+")[0]
        while address:
            flops[address] += row.flops
            size[address] += row.activations
            address = address.rpartition(".")[0]
    return {a: {"flops": flops[a], "bytes": size[a]} for a in flops}


def _totals(cost: Cost) -> list[tuple[str, str]]:
    shapes = ", ".join(f"{n} {' × '.join(map(str, s))}" for n, s in cost.shapes.items())
    return [
        ("FLOPs", figures.number(cost.flops)),
        ("peak", figures.size(cost.peak.bytes)),
        ("on", shapes),
    ]


def cell(blueprint: Blueprint) -> str:
    """The figure, types, sizes and cost; of a blueprint with mistakes, these. It never raises: a notebook would show a
    traceback for a mistake of the blueprint's author."""
    try:
        return _cell(blueprint, blueprint.check())
    except ComposerError as fault:
        return f"<pre>{escape(str(fault))}</pre>"
    except Exception as fault:
        return f"<pre>{escape(f'{blueprint.name}: {type(fault).__name__}: {fault}')}</pre>"


def _cell(blueprint: Blueprint, program: Program) -> str:
    description, rows = describe(program), []
    for way in ("inputs", "outputs"):
        rows += [(way[:-1], f"{e['name']}  {e['type']}") for e in description[way]]
    rows += [("sizes", line) for line in description["constraints"]]
    rows += _known_cost(blueprint)
    table = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    figure = f'<div style="background:#fff;overflow-x:auto">{drawing.svg(description)}</div>'
    return f"<div>{figure}<table>{table}</table></div>"


def _known_cost(blueprint: Blueprint) -> list[tuple[str, Any]]:
    """Parameters and cost, where torch is there already: importing it only to draw takes seconds."""
    if "torch" not in sys.modules:
        return [("cost", "after `import torch`, or from blueprint.cost()")]
    try:
        cost = blueprint.cost()
    except ComposerError as fault:
        return [("cost", fault.diagnostics[0].message)]
    return [("parameters", figures.number(cost.parameters)), *_totals(cost)]
