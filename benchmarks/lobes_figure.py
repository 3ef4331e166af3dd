"""The picture of `make demo`: three planes of a brain as two networks see it, their errors, where attention lies.

Dark is left and light is right; the patient's left is on the left. Red is the right tissue in the wrong region, which
is a mistake about context; blue is the wrong tissue, which is one about a few voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import REGIONS, Brain
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from composer.attention_maps import Gaze
from composer.files import whole

HUES = (
    "#0072b2",
    "#7fbfe5",
    "#009e73",
    "#7fdfbf",
    "#b04a98",
    "#f2b0dd",
    "#d55e00",
    "#f8ae78",
    "#9c7500",
    "#fff07f",
    "#4b3fa8",
)
"""Of the regions, dark is left and light is right."""
WRONG_REGION, WRONG_TISSUE, RING = "#e8001c", "#3db7ff", "#3ddc5a"
BRIGHT = 4
"""Times a uniform attention that is shown brightest."""


@dataclass(frozen=True)
class Shown:
    """A network in the picture: its name, what it found (X, Y, Z), its Dice and how far it sees, in pixels."""

    title: str
    found: NDArray[Any]
    region: float
    field: int


@dataclass(frozen=True)
class Look:
    """Where the attention of a voxel (X, Y, Z) of a region lies."""

    region: str
    gaze: Gaze
    times: NDArray[np.float32]
    """(X, Y): the weight over that of a uniform attention."""


def draw(brain: Brain, shown: Sequence[Shown], looks: Sequence[Look], path: Path) -> None:
    """All of it, as PNG. The looks are of one slice, that of the first row."""
    figure = Figure(figsize=(15.2, 11.6), facecolor="white")
    FigureCanvasAgg(figure)
    cut = _box(brain.image)
    at = _planes(brain, looks[0].gaze.voxel)
    heights = [cut[1].stop - cut[1].start, *[cut[2].stop - cut[2].start] * 2, cut[1].stop - cut[1].start]
    room = {"left": 0.03, "right": 0.995, "top": 0.905, "bottom": 0.02, "wspace": 0.04, "hspace": 0.14}
    grid = figure.add_gridspec(4, 6, height_ratios=heights, **room)
    for row, (name, axis, k) in enumerate(at):
        for column, (head, overlay) in enumerate(_columns(brain, shown)):
            axes = figure.add_subplot(grid[row, column])
            _panel(axes, brain, overlay, axis, k, cut)
            if row == 0:
                axes.set_title(head, fontsize=11)
            if column == 0:
                axes.text(-0.04, 0.5, name, rotation=90, ha="right", va="center", transform=axes.transAxes, fontsize=10)
    for column, look in enumerate(looks):
        _attention(figure.add_subplot(grid[3, column]), brain, look, cut, shown[0].field)
    _legend(figure, grid[3, len(looks) :], shown[0].field)
    title = "The same small U-Net without and with self-attention at its bottleneck, on slabs that were held out"
    figure.suptitle(f"{title}\nMNI152 T1 and AAL lobes, one brain", fontsize=13)
    with whole(path) as draft:
        figure.savefig(draft, dpi=100)


def _box(image: NDArray[Any]) -> tuple[slice, ...]:
    """The brain with a little room."""
    inside = np.argwhere(image > 0)
    return tuple(
        slice(max(0, a - 3), min(n, b + 4)) for a, b, n in zip(inside.min(0), inside.max(0), image.shape, strict=True)
    )


def _planes(brain: Brain, voxel: Sequence[int]) -> list[tuple[str, int, int]]:
    """Title, axis and slice of each row: an axial one that was held out, a coronal, and one of the left half."""
    affine = brain.volume.affine
    planes = [("axial", 2, voxel[2]), ("coronal", 1, _index(affine, 1, -24)), ("sagittal", 0, _index(affine, 0, -38))]
    words = {0: "x", 1: "y", 2: "z"}
    return [(f"{n}, {words[a]} = {affine[a, a] * k + affine[a, 3]:.0f} mm", a, k) for n, a, k in planes]


def _index(affine: NDArray[Any], axis: int, mm: float) -> int:
    return round((mm - affine[axis, 3]) / affine[axis, axis])


def _columns(brain: Brain, shown: Sequence[Shown]) -> list[tuple[str, NDArray[Any] | None]]:
    """What stands above each column, and what lies over the image: RGBA (X, Y, Z, 4)."""
    said = [(f"{s.title}\nregion Dice {s.region:.2f}", _coloured(s.found)) for s in shown]
    wrong = [(f"errors of\n{s.title}", _errors(brain.truth, s.found)) for s in shown]
    return [("T1", None), ("truth", _coloured(brain.truth)), *said, *wrong]


def _coloured(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Regions in their colours; tissue stays grey, as it is easy."""
    return _painted([(labels == 3 + k, hue, 0.75) for k, hue in enumerate(HUES)], labels.shape)


def _errors(truth: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float32]:
    wrong, both = truth != found, (truth >= 3) & (found >= 3)
    dim = (np.ones(truth.shape, bool), "#000000", 0.45)
    return _painted([dim, (wrong & both, WRONG_REGION, 1.0), (wrong & ~both, WRONG_TISSUE, 1.0)], truth.shape)


def _painted(layers: Sequence[tuple[NDArray[Any], str, float]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    picture = np.zeros((*shape, 4), np.float32)
    for mask, hue, alpha in layers:
        picture[mask] = to_rgba(hue, alpha)
    return picture


def _panel(axes: Any, brain: Brain, overlay: NDArray[Any] | None, axis: int, k: int, cut: tuple[slice, ...]) -> None:
    """A slice, the patient's left on the left in two planes, and the front on the right in the third."""
    kept = tuple(s for a, s in enumerate(cut) if a != axis)
    axes.imshow(brain.image.take(k, axis)[kept].T, cmap="gray", origin="lower", vmin=0, vmax=1.15)
    if overlay is not None:
        axes.imshow(overlay.take(k, axis)[kept].swapaxes(0, 1), origin="lower", interpolation="nearest")
    for slab in brain.slabs if axis != 2 else ():
        for z in (slab.start, slab.stop):
            axes.axhline(z - cut[2].start - 0.5, color="white", lw=0.6, ls=(0, (4, 3)), alpha=0.8)
    axes.set_axis_off()


def _attention(axes: Any, brain: Brain, look: Look, cut: tuple[slice, ...], field: int) -> None:
    """Where a voxel looks, and the square that the short-sighted network would see from there."""
    x, y, z = look.gaze.voxel
    kept = cut[:2]
    axes.imshow(brain.image[:, :, z][kept].T, cmap="gray", origin="lower", vmin=0, vmax=1.2)
    level = np.clip(look.times[kept] / BRIGHT, 0, 1)
    from matplotlib import colormaps

    over = colormaps["inferno"](level)
    over[..., 3] = 0.85 * level**0.6
    axes.imshow(over.swapaxes(0, 1), origin="lower", interpolation="bilinear")
    x, y = x - kept[0].start, y - kept[1].start
    edge = [withStroke(linewidth=3, foreground="black")]
    axes.plot(x, y, "o", ms=10, mfc="none", mec=RING, mew=2, path_effects=edge)
    square = Rectangle((x - field / 2, y - field / 2), field, field, fill=False, ec=RING, lw=1, ls=(0, (4, 3)))
    axes.add_patch(square)
    width, height = (s.stop - s.start for s in kept)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))
    axes.set_axis_off()
    outside = f"{look.gaze.outside[0]:.0%} of it outside the brain"
    axes.set_title(f"attention of ○ {look.region}\n{outside}", fontsize=9.5)


def _legend(figure: Figure, place: Any, field: int) -> None:
    """Colours, and how to read the maps."""
    axes = figure.add_subplot(place)
    axes.set_axis_off()
    from matplotlib.cm import ScalarMappable

    bar = axes.inset_axes((0.0, 0.08, 0.025, 0.8))
    figure.colorbar(ScalarMappable(cmap="inferno"), cax=bar, ticks=[0, 0.5, 1])
    bar.set_yticklabels(["0", f"{BRIGHT // 2}", f"≥{BRIGHT}"], fontsize=8)
    bar.set_title("× uniform", fontsize=8)
    keys = [Patch(color=c, label=n) for n, c in zip(REGIONS, HUES, strict=True)]
    keys += [
        Patch(color=WRONG_REGION, label="right tissue, wrong region"),
        Patch(color=WRONG_TISSUE, label="wrong tissue"),
    ]
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0.12, 0.96), ncols=2, frameon=False, fontsize=9.5)
    text = (
        "Dark is left, light is right; left of the patient is on the left.\n"
        "Between dashed lines: slabs that were held out.\n"
        f"Green square: the {2 * field} mm that the short U-Net sees.\n"
        "Maps: mean of the heads of the last block. They show\nwhere attention lies, and explain no decision."
    )
    axes.text(0.14, 0.3, text, fontsize=9.5, va="top", transform=axes.transAxes, linespacing=1.4)
