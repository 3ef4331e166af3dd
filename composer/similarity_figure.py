"""A picture of positional similarity: a row of panels for each block, one for each reference place, ringed in green."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from composer.files import whole
from composer.imaging import GROUND, INK, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from composer.similarity import Code

MOST = 12
"""Blocks in one picture."""
COLUMNS = 7
SIDE = 1.35
"""Inches."""
RING = "#3ddc5a"
REMARKS = {
    "code": "K = PPᵀ: the cosine between the code of a place (ringed; on a line, of every row) and those of all others",
    "angles": "K = PPᵀ: the mean cosine of the angles by which queries and keys turn from a place to all others",
    "bias": "relative bias: what is added to the scores between the ringed cell and all others, mean of the heads",
}


def draw(codes: Sequence[Code], path: Path, title: str) -> None:
    """The first `MOST` blocks; a single one on a plane gets a square of panels."""
    figure = _figure([row for code in codes[:MOST] for row in rows_of(code, alone=len(codes) == 1)], title)
    with whole(path) as draft:
        figure.savefig(draft, dpi=150, facecolor=GROUND)


Row = tuple["Code", list[tuple[tuple[int, ...], int | None]]]
"""A code, and for each panel the reference place and the axis along which a volume is cut there."""


def rows_of(code: Code, alone: bool) -> list[Row]:
    """The panels of a code: on a line one with all of K, on a plane places from corner to corner, or a square of them;
    in a volume three rows of slices through places from corner to corner."""
    grid = code.grid
    if len(grid) == 1:
        return [(code, [((n // 2,), None) for n in grid])]
    steps = [_spaced(n, COLUMNS) for n in grid]
    count = max(map(len, steps))
    diagonal = [tuple(s[k * (len(s) - 1) // max(1, count - 1)] for s in steps) for k in range(count)]
    if len(grid) == 2:
        if not alone:
            return [(code, [(p, None) for p in diagonal])]
        return [(code, [((y, x), None) for x in steps[1]]) for y in steps[0]]
    return [(code, [(p, axis) for p in diagonal]) for axis in range(len(grid))]


def _spaced(n: int, most: int) -> list[int]:
    """At most so many places along an axis, both ends among them."""
    count = min(n, most)
    return [round(k * (n - 1) / max(1, count - 1)) for k in range(count)]


@dataclass(frozen=True)
class Panel:
    """A picture (rows, columns) of values, and where its reference place is ringed."""

    image: NDArray[np.float32]
    ring: tuple[int, ...] | None


def panels_of(row: Row) -> list[Panel]:
    """The rows of K that are shown, on their planes."""
    code, places = row
    if len(code.grid) == 1:
        return [Panel(code.similarity().numpy(), None)]
    numbers = [int(np.ravel_multi_index(place, code.grid)) for place, _ in places]
    made = []
    for found, (place, axis) in zip(code.similarity(numbers).numpy(), places, strict=True):
        image = found.reshape(code.grid)
        ring = tuple(p for k, p in enumerate(place) if k != axis)
        made.append(Panel(image if axis is None else image.take(place[axis], axis), ring))
    return made


def _figure(rows: Sequence[Row], title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left, gap, top = 0.35, 0.1, 0.65
    sides = [2.2 * SIDE if len(code.grid) == 1 else SIDE for code, _ in rows]
    starts = [k == 0 or rows[k - 1][0] is not code for k, (code, _) in enumerate(rows)]
    heads = [0.32 if start else gap for start in starts]
    kinds = list(dict.fromkeys(code.kind for code, _ in rows))
    foot = 0.3 + 0.18 * len(kinds)
    width = max(6.5, 2 * left + max(len(r[1]) * (s + gap) for r, s in zip(rows, sides, strict=True)) + 0.6)
    height = top + foot + sum(heads) + sum(sides)
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    FigureCanvasAgg(figure)
    drawn = [panels_of(row) for row in rows]
    at = height - top
    for k, ((code, _), panels, side) in enumerate(zip(rows, drawn, sides, strict=True)):
        at -= heads[k] + side
        if starts[k]:
            scale = _scale(code, [p for (c, _), ps in zip(rows, drawn, strict=True) if c is code for p in ps])
            write(figure, _said(code), left, at + side + 0.08, size=8, ha="left")
        for j, panel in enumerate(panels):
            x = left + j * (side + gap)
            axes = figure.add_axes((x / width, at / height, side / width, side / height))
            shown = _draw(axes, panel, code.kind, scale)
        if starts[k]:
            _bar(figure, shown, ((x + side + gap) / width, at / height, 0.08 / width, side / height))
    write(figure, title, width / 2, height - 0.32, size=11)
    for k, kind in enumerate(kinds):
        write(figure, REMARKS[kind], width / 2, 0.12 + 0.18 * k, size=7)
    return figure


def _said(code: Code) -> str:
    rows = " · rows: slices across the first, second and third axis" if len(code.grid) == 3 else ""
    return f"{code.address} · {' × '.join(map(str, code.grid))}{rows}"


def _scale(code: Code, panels: Sequence[Panel]) -> tuple[float, float]:
    """The values between which colours run: of cosines up to 1, of a bias about zero."""
    low, high = (float(f([f(p.image) for p in panels])) for f in (np.min, np.max))
    if code.kind == "bias":
        far = max(-low, high) or 1.0
        return -far, far
    return low, 1.0


def _draw(axes: Axes, panel: Panel, kind: str, scale: tuple[float, float]) -> Any:
    colours = "RdBu_r" if kind == "bias" else "magma"
    low, high = scale
    shown = axes.imshow(panel.image, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    if panel.ring is not None:
        axes.plot(panel.ring[1], panel.ring[0], "o", ms=5, mfc="none", mec=RING, mew=1.2)
    axes.set_axis_off()
    return shown


def _bar(figure: Figure, shown: Any, box: tuple[float, float, float, float]) -> None:
    bar: Any = figure.colorbar(shown, cax=figure.add_axes(box))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=6, length=0)


__all__ = ["MOST", "draw"]
