"""A blueprint made for a data set: as many channels and classes as there are, a patch that fits the images.

What the user gave stays as it is. A parameter that the blueprint calls `classes`, `channels`, `size` or `volume` is set
where it was not given; `size` only where the patch that the network is built for is larger than the smallest image, and
`volume`, of which an image is a crop, to the largest extent of all images along each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer import imaging, sizes
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic
from composer.segmenting import segmentation
from composer.training.cases import Case, Dataset
from composer.training.store import View

Loader = Callable[[Mapping[str, Any]], Blueprint]
"""The blueprint with further parameters."""


@dataclass(frozen=True)
class Suited:
    """The blueprint, what it takes, and what was set for the data, in words."""

    blueprint: Blueprint
    view: View
    said: tuple[str, ...]


def suit(
    load: Loader,
    given: Sequence[str],
    dataset: Dataset,
    axis: str = "axial",
    pad: bool = False,
    size: Sequence[int] | None = None,
    see: Callable[[Blueprint, str], View] | None = None,
) -> Suited:
    """The blueprint for a data set; `given` are the parameters that the user set, `size` is that of a patch where it
    has been chosen already, `see` says what a network takes."""
    see = see or view_of
    wanted: dict[str, Any] = {}
    loaded = load({})
    counts = {"channels": channels_of(dataset), "classes": len(dataset.labels)}
    for name, count in counts.items():
        if count and name in loaded.values and name not in given and loaded.values[name] != count:
            wanted[name] = count
    blueprint = load(wanted) if wanted else loaded
    view = see(blueprint, axis)
    _check(view, counts, blueprint)
    if "size" in loaded.values and "size" not in given:
        other = size or (None if pad else _fitting(blueprint, view, smallest(dataset, view)))
        if other and tuple(other) != view.size:
            wanted["size"] = list(other)
            blueprint = load(wanted)
            view = see(blueprint, axis)
    if "volume" in loaded.values and "volume" not in given:
        shapes = [view.size, *extents(dataset, view)]
        wanted["volume"] = [max(ns) for ns in zip(*shapes, strict=True)]
        blueprint = load(wanted)
    return Suited(blueprint, view, tuple(f"{k}={_short(v)}" for k, v in wanted.items()))


def _short(value: Any) -> str:
    return str(value).replace(" ", "")


def view_of(blueprint: Blueprint, axis: str = "axial") -> View:
    """What a network that segments takes and gives. BP805 where it does something else."""
    channels, classes, size = segmentation(blueprint.check(), blueprint.name)
    return View(channels, max(2, classes), size, axis)


def image_of(blueprint: Blueprint, axis: str = "axial") -> View:
    """What a network takes whose outputs do not matter: one class, of everything. BP805 where it takes no image."""
    program = blueprint.check()
    image = program.inputs[0]
    if not image.type.grid or not program.built:
        text = f"`{blueprint.name}` takes no image of a known size"
        raise BlueprintError(Diagnostic("BP805", text, help=("give its input a `size:`",)))
    return View(image.type.channels, 1, tuple(program.built[a] for a in image.axes), axis)


def channels_of(dataset: Dataset) -> int:
    """Channels of the images, 0 where that is not known before reading them."""
    if dataset.channels:
        return len(dataset.channels)
    counts = {len(c.images) for c in dataset.cases}
    return counts.pop() if len(counts) == 1 and counts != {1} else 0


def _check(view: View, counts: Mapping[str, int], blueprint: Blueprint) -> None:
    """Channels and classes are those of the data."""
    for name, has in (("channels", view.channels), ("classes", view.classes)):
        if counts[name] and counts[name] != has:
            text = f"`{blueprint.name}` has {has} {name}, the data {counts[name]}"
            raise BlueprintError(Diagnostic("BP821", text, help=(f"leave out `{name}=`, or correct the list",)))


def smallest(dataset: Dataset, view: View) -> tuple[int, ...]:
    """The smallest extent along each axis that the network sees, over all cases, from their headers."""
    return tuple(min(ns) for ns in zip(*extents(dataset, view), strict=True))


def extents(dataset: Dataset, view: View) -> list[tuple[int, ...]]:
    """How large each case is along the axes that the network sees, from its header."""
    return [_extent(case, view) for case in dataset.cases]


def _extent(case: Case, view: View) -> tuple[int, ...]:
    import numpy as np

    image = imaging.opened(case.images[0])
    hollow = np.broadcast_to(np.zeros((), np.uint8), image.shape[:3])
    return imaging.turned(hollow, np.asarray(image.affine), imaging.view_codes(view.axis)).shape[3 - view.rank :]


def _fitting(blueprint: Blueprint, view: View, room: Sequence[int]) -> tuple[int, ...] | None:
    """The largest valid patch that is no larger than the one built for, nor than the images. None where none is."""
    if all(s <= n for s, n in zip(view.size, room, strict=True)):
        return view.size
    return valid(blueprint, view, [min(s, n) for s, n in zip(view.size, room, strict=True)])


def valid(blueprint: Blueprint, view: View, room: Sequence[int]) -> tuple[int, ...] | None:
    """The largest valid patch in some room, as `composer sizes` has it. None where none is."""
    program = blueprint.check()
    env = dict(zip(program.inputs[0].axes, room, strict=True))
    found = sizes.nearest_valid(program.constraints, env, up=False)
    if found is None:
        return None
    size = tuple(found[a] for a in program.inputs[0].axes)
    return size if _valid(blueprint, size, view.channels) else None


def _valid(blueprint: Blueprint, size: tuple[int, ...], channels: int) -> bool:
    try:
        blueprint.check(**{next(iter(blueprint.inputs)): (1, channels, *size)})
    except ComposerError:
        return False
    return True
