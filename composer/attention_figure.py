"""Pictures of attention over an image: one for each node, and one in which all nodes look from the same voxel.

A panel shows a slice in grey and over it, in colours that are the clearer the more weight there is, what the cell of
the ringed voxel weighs. The patient's left is on the left, as in the picture of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from composer.attention_maps import Gaze, Sight
from composer.files import whole
from composer.imaging import GROUND, PLANES, Plane, extent, note, seen_along, to_ras, windowed, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RING = "#3ddc5a"
BRIGHT = 4.0
"""What is brightest where nothing is higher, so that an attention to everything does not look like one to something."""
MOST = 12
"""Panels of the picture of all nodes."""
REMARK = (
    "Colour: weight over that of a uniform attention, mean of the heads, from ×1 up to the highest of the panel. "
    "Green: the query, and where its keys end.\n"
    "Outside: share of the weights outside the foreground (of the keys). "
    "This is where attention lies; it is no explanation of what the network decided."
)


@dataclass(frozen=True)
class Panel:
    """A slice through a voxel, and what stands above it."""

    gaze: Gaze
    plane: Plane
    title: str

    @property
    def head(self) -> str:
        """The title, and what else must be known to read the panel."""
        assert self.gaze.times is not None
        dark = "{:.0%} outside ({:.0%})".format(*self.gaze.outside)
        facts = [f"×{self.gaze.times.max():.3g}", dark]
        facts += [f"{self.gaze.on_tokens:.0%} on tokens"] if self.gaze.tokens.size else []
        return f"{self.title}\n{' · '.join(facts)}"


def draw_node(sight: Sight, gazes: Sequence[Gaze], path: Path, title: str) -> None:
    """One node: a row of voxels for a 2-D network, in 3-D for each voxel a row of three slices."""
    voxels = [f"voxel {', '.join(map(str, g.voxel))}" for g in gazes]
    planes = _planes(sight)
    rows = [[Panel(g, p, f"{v} · {p.name.lower()}") for p in planes] for g, v in zip(gazes, voxels, strict=True)]
    if len(planes) == 1:
        rows = _wrapped([row[0] for row in rows], 4)
    _draw(sight, rows, path, f"{title} · mean of {gazes[0].heads} head{'s' * (gazes[0].heads != 1)}")


def draw_nodes(sight: Sight, gazes: Sequence[Gaze], path: Path, title: str) -> None:
    """Several nodes that look from one voxel, side by side."""
    plane = _planes(sight)[0]
    panels = [Panel(g, plane, g.address) for g in gazes[:MOST]]
    _draw(sight, _wrapped(panels, 3 if len(panels) % 3 == 0 and len(panels) < 7 else 4), path, title)


def _wrapped(panels: list[Panel], columns: int) -> list[list[Panel]]:
    return [panels[i : i + columns] for i in range(0, len(panels), columns)]


def _planes(sight: Sight) -> list[Plane]:
    """The planes of a panel: of a 2-D network the one its slices lie in, which comes first in 3-D too."""
    depth = int(np.argmax(to_ras(np.zeros((2, 1, 1)), sight.axis).shape))
    own = next(p for p in PLANES if p.through == depth)
    return [own] if len(sight.size) == 2 else [own, *(p for p in PLANES if p is not own)]


def _draw(sight: Sight, rows: list[list[Panel]], path: Path, title: str) -> None:
    figure = _figure(sight, rows, title)
    with whole(path) as draft:
        figure.savefig(draft, dpi=150, facecolor=GROUND)


def _figure(sight: Sight, rows: list[list[Panel]], title: str) -> Figure:
    """Panels in rows of one height; inches throughout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gap, head, top, foot = 0.15, 0.48, 0.5, 0.6
    tall = 2.6
    widths = [[tall * _ratio(sight, p) for p in row] for row in rows]
    width = max(8.0, max(sum(ws) + gap * (len(ws) + 1) for ws in widths))
    height = top + foot + len(rows) * (tall + head)
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    FigureCanvasAgg(figure)
    grey = windowed(seen_along(sight.volume, sight.axis)[0])
    for k, (row, ws) in enumerate(zip(rows, widths, strict=True)):
        left, bottom = (width - sum(ws) - gap * (len(ws) - 1)) / 2, height - top - (k + 1) * (tall + head)
        for panel, w in zip(row, ws, strict=True):
            axes = figure.add_axes((left / width, bottom / height, w / width, tall / height))
            _panel(axes, sight, panel, grey)
            write(figure, panel.head, left + w / 2, bottom + tall + 0.06, size=7.5, va="bottom")
            left += w + gap
    write(figure, title, width / 2, height - 0.32, size=11)
    write(figure, REMARK, width / 2, 0.14, size=7, linespacing=1.5)
    return figure


def _ratio(sight: Sight, panel: Panel) -> float:
    """Width over height of a panel in mm, within reason."""
    shape = to_ras(np.empty([b - a for a, b in _inside(sight, panel.gaze)], np.bool_), sight.axis).shape
    spacing = _spacing(sight)
    across, up = (shape[a] * spacing[a] for a in (panel.plane.across, panel.plane.up))
    return float(min(2.5, max(0.4, across / up)))


def _spacing(sight: Sight) -> tuple[float, ...]:
    """Voxel size to the right, to the front and up."""
    codes, spacing = sight.volume.axcodes, sight.volume.spacing
    return tuple(spacing[next(i for i, c in enumerate(codes) if c in pair)] for pair in ("LR", "AP", "IS"))


def _inside(sight: Sight, gaze: Gaze) -> list[tuple[int, int]]:
    """The part of the window that lies in the image."""
    shape = extent(sight.volume, 3, sight.axis)
    return [(max(0, a), min(n, b)) for (a, b), n in zip(gaze.window, shape, strict=True)]


def _panel(axes: Axes, sight: Sight, panel: Panel, grey: Any) -> None:
    from matplotlib.patheffects import withStroke

    gaze, plane = panel.gaze, panel.plane
    assert gaze.times is not None
    inside = _inside(sight, gaze)
    kept = tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(inside, gaze.window, strict=True))
    shown = to_ras(grey[tuple(slice(a, b) for a, b in inside)], sight.axis)
    times = to_ras(gaze.times[kept], sight.axis)
    marked = np.zeros([b - a for a, b in inside], np.bool_)
    marked[tuple(v - a for v, (a, _) in zip(gaze.seen, inside, strict=True))] = True
    at = [int(i) for i in np.argwhere(to_ras(marked, sight.axis))[0]]
    spacing = _spacing(sight)
    box = (0.0, shown.shape[plane.across] * spacing[plane.across], 0.0, shown.shape[plane.up] * spacing[plane.up])
    axes.imshow(_slice(shown, plane, at), cmap="gray", vmin=0, vmax=1.25, origin="lower", extent=box)
    axes.imshow(_coloured(_slice(times, plane, at), float(gaze.times.max())), origin="lower", extent=box)
    keys = _slice(times, plane, at) > 0
    if keys.any() and not keys.all():
        axes.contour(keys.astype(np.float32), levels=[0.5], colors=[RING], linewidths=0.6, origin="lower", extent=box)
    x, y = ((at[a] + 0.5) * spacing[a] for a in (plane.across, plane.up))
    edge = [withStroke(linewidth=3.2, foreground=GROUND)]
    axes.plot(x, y, "o", ms=9, mfc="none", mec=RING, mew=1.6, path_effects=edge)
    axes.set(xlim=box[:2], ylim=box[2:], aspect="auto")
    axes.set_axis_off()
    note(axes, "LPI"[plane.across], (0.0, 0.5), (7, 0))
    note(axes, "RAS"[plane.across], (1.0, 0.5), (-7, 0))


def _slice(array: Any, plane: Plane, at: Sequence[int]) -> Any:
    """(rows from below, columns)."""
    return array.take(at[plane.through], axis=plane.through).T


def _coloured(times: Any, highest: float) -> Any:
    """RGBA: clear up to the weight of a uniform attention, then on a logarithmic scale; at least ×4 is bright."""
    from matplotlib import colormaps

    level = np.clip(np.log(np.maximum(times, 1.0)) / np.log(max(highest, BRIGHT)), 0, 1)
    made = colormaps["inferno"](0.3 + 0.7 * level)
    made[..., 3] = 0.9 * level**0.7
    return made
