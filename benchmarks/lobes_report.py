"""The page of `make demo`: what was changed, what came of it, how it was learned, and the exact YAML. It needs nothing
else: pictures are in it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import composer

Table = list[list[str]]
COLOURS = ("#d55e00", "#0072b2", "#7a7a7a")
TEMPLATE = Path(__file__).parent / "lobes" / "report.html"


def page(said: str, paths: Sequence[Path], facts: Table, folder: Path) -> str:
    """The page: `said` is what was done, `paths` are the blueprints in the order of the columns of `facts`."""
    blueprints = [composer.load(p) for p in paths]
    parts = [
        ("What was done", _paragraphs(said)),
        ("Held out", _image((folder / "lobes.png").read_bytes(), "brains, errors and attention")),
        ("Figures", f'<div class="side"><div>{_table(facts)}</div><div>{_curves(paths, folder)}</div></div>{FIELDS}'),
        ("Attention", ATTENTION),
        (
            "What differs",
            "".join(_difference(blueprints[0], b, p) for b, p in zip(blueprints[1:], paths[1:], strict=True)),
        ),
        *((b.name, _text(p) + b._repr_html_() + _cost(b)) for b, p in zip(blueprints, paths, strict=True)),
    ]
    return TEMPLATE.read_text().format(body="\n".join(f"<h2>{escape(title)}</h2>\n{text}" for title, text in parts))


FIELDS = """<p><b>Nominal field</b>: how far one output can see by the structure of the network, along an axis. It is
computed from the blueprint, with all weights positive and norms left aside; these see the mean of a slice, which tells
nobody where he is. What a network makes use of is less. <b>Regions</b>: mean of the lobes and the deep nuclei, each
over all held-out voxels together.</p>"""
ATTENTION = """<p>The last row of the picture shows the last attention block, from four voxels of a slice that was held
out: how much each place weighs, over a uniform attention, mean of the heads. The dashed square is all that the short
U-Net can see from there. Part of the weight falls outside the brain, where there is nothing: such places serve as
sinks. The maps show where attention lies. They explain no decision.</p>"""


def _paragraphs(said: str) -> str:
    blocks = [b for b in said.split("\n\n") if not b.startswith("    ")]
    return "".join(f"<p>{escape(b.strip()).replace('`', '')}</p>" for b in blocks)


def _table(facts: Table) -> str:
    head = "".join(f"<th>{escape(x)}</th>" for x in facts[0])
    rows = "".join(
        f"<tr{' class=total' if row[0] == 'regions' else ''}>{''.join(f'<td>{escape(x)}</td>' for x in row)}</tr>"
        for row in facts[1:]
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _difference(one: composer.Blueprint, other: composer.Blueprint, path: Path) -> str:
    """The lines that were written, and what `composer diff` says of them."""
    from composer.cli.changing import network
    from composer.diff import difference

    said = difference(network(one), network(other)).text()
    return f"<h3>{escape(one.name)} → {escape(other.name)}</h3><pre>{escape(said)}</pre>"


def _cost(blueprint: composer.Blueprint) -> str:
    """Where the parameters and the work are, by stage."""
    rows = blueprint.cost().sorted("stage", "flops")
    lines = [[r.address, f"{r.parameters:,}", f"{r.flops / 1e6:.1f} M"] for r in rows]
    return _table([["stage", "parameters", "FLOPs of a slice"], *lines])


def _text(path: Path) -> str:
    return f"<pre>{escape(path.read_text())}</pre>"


def _image(data: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _curves(paths: Sequence[Path], folder: Path) -> str:
    """The loss of every epoch."""
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for path, colour in zip(paths, COLOURS, strict=False):
        rows = list(csv.DictReader((folder / path.stem / "metrics.csv").read_text().splitlines()))
        epochs, losses = ([float(r[k]) for r in rows] for k in ("epoch", "loss"))
        axes.plot(epochs, losses, marker="o", ms=4, color=colour)
        axes.annotate(
            path.stem, (epochs[-1], losses[-1]), (6, 0), textcoords="offset points", va="center", color=colour
        )
    axes.set(xlabel="epoch", ylabel="mean loss in training", title="Dice and cross-entropy, weighted by class")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(rect=(0, 0, 0.84, 1))
    with io.BytesIO() as held:
        figure.savefig(held, dpi=100)
        return _image(held.getvalue(), "loss by epoch")
