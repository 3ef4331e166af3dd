"""Images and labels as the network sees them: checked, turned, normalized once, and kept on disk.

    RUN/prepared/NAME.image.npy    (C, D, H, W) float32       NAME.label.npy    (D, H, W) uint8 or uint16
    RUN/prepared/NAME.json         what it was made of; where that is the same, it is not made again

Training reads patches from the mapped files, so a data set need not fit into memory. Everything that is wrong with the
data is said before training starts: grids that differ (BP821), values that are no class (BP822), nothing to learn from
(BP823), volumes smaller than the patch (BP824), and what `composer.imaging` refuses.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer import imaging
from composer.diagnostics import BlueprintError, Diagnostic, listing
from composer.files import whole, write_text
from composer.imaging import Volume
from composer.training.cases import Case, Dataset

PLACES = 10_000
"""Voxels of each class that are remembered, to draw patches about."""


@dataclass(frozen=True)
class Scaling:
    """How a channel's intensities become the network's numbers: `zscore`, `minmax` or `none` of each image by itself,
    or, as CT has units, `fixed`: cut to low..high, then less `mean` and over `deviation`, the same for all."""

    how: str = "zscore"
    low: float = 0
    high: float = 0
    mean: float = 0
    deviation: float = 1

    def of(self, volume: Volume) -> Volume:
        """A volume of one channel, scaled."""
        if self.how != "fixed":
            return imaging.normalize(volume, self.how)
        data = (np.clip(volume.data, self.low, self.high) - self.mean) / self.deviation
        return replace(volume, data=data.astype(np.float32))


@dataclass(frozen=True)
class View:
    """What a network takes: channels, classes, the size of a patch, the plane it looks along."""

    channels: int
    classes: int
    size: tuple[int, ...]
    axis: str = "axial"

    @property
    def rank(self) -> int:
        return len(self.size)


@dataclass(frozen=True)
class Example:
    """A prepared case: its arrays are mapped from disk when they are asked for."""

    name: str
    part: str
    folder: Path
    counts: tuple[int, ...]
    """Voxels of each class."""

    @property
    def image(self) -> NDArray[np.float32]:
        mapped: NDArray[np.float32] = np.load(self.folder / f"{self.name}.image.npy", mmap_mode="r")
        return mapped

    @property
    def label(self) -> NDArray[Any]:
        mapped: NDArray[Any] = np.load(self.folder / f"{self.name}.label.npy", mmap_mode="r")
        return mapped

    def places(self, kind: int) -> NDArray[np.int32]:
        """Voxels (n, 3) of a class that occurs."""
        with np.load(self.folder / f"{self.name}.places.npz") as kept:
            return np.asarray(kept[str(kind)])


def scalings(dataset: Dataset, channels: int, how: str = "auto", known: Sequence[Scaling] = ()) -> tuple[Scaling, ...]:
    """The scaling of each channel: by what the list says it is, unless `how` says it for all. Of what is scaled alike
    for all images, those `known` from before are taken, for which every image would have to be read."""
    if how != "auto":
        return (Scaling(how),) * channels
    named = dataset.channels or ("",) * channels
    before = [*known, *[None] * len(named)]
    return tuple(_named(dataset, k, name.lower(), before[k]) for k, name in enumerate(named))


def _named(dataset: Dataset, channel: int, name: str, known: Scaling | None = None) -> Scaling:
    """As nnU-Net reads names: CT has units, `noNorm` is scaled already."""
    if "ct" in name.split():
        return known if known and known.how == "fixed" else _of_ct(dataset, channel)
    return Scaling("none" if name == "nonorm" else "zscore")


def _of_ct(dataset: Dataset, channel: int) -> Scaling:
    """Percentiles 0.5 and 99.5, mean and deviation of the labelled voxels of the training images (nnU-Net: Isensee et
    al., 2021); without labels, of those brighter than the mean, which is the body and not the air."""
    rng, found = np.random.default_rng(0), []
    for case in dataset.parts["training"]:
        data = _channel(case, channel).data[0]
        inside = data[labels(case) > 0 if case.label else data > data.mean()]
        found.append(rng.choice(inside, min(len(inside), PLACES), replace=False))
    values = np.concatenate(found) if found else np.zeros(0)
    if not len(values):
        raise nothing("no voxel of a training image is labelled")
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return Scaling("fixed", low, high, float(values.mean()), float(values.std()) or 1.0)


def _channel(case: Case, channel: int) -> Volume:
    """One channel of a case: a file of its own, or a part of the only one."""
    if len(case.images) > 1:
        return imaging.read_volume(case.images[channel], 1)
    return _part(volume_of(case, 0), channel)


def _part(volume: Volume, channel: int) -> Volume:
    return replace(volume, data=volume.data[channel : channel + 1])


def scaled(volume: Volume, scalings: Sequence[Scaling]) -> Volume:
    """A volume, each channel by its own scaling."""
    parts = [s.of(_part(volume, k)).data for k, s in enumerate(scalings)]
    return replace(volume, data=np.concatenate(parts))


def volume_of(case: Case, channels: int) -> Volume:
    """All channels of a case on one grid; `channels` 0 takes as many as the file has."""
    if len(case.images) == 1:
        (file,) = case.images
        return imaging.read_volume(file, channels or _channels_in(file))
    volumes = [imaging.read_volume(file, 1) for file in case.images]
    for other, file in zip(volumes[1:], case.images[1:], strict=True):
        _same_grid(case, other, file, volumes[0], case.images[0])
    return replace(volumes[0], data=np.concatenate([v.data for v in volumes]))


def _channels_in(file: Path) -> int:
    import nibabel

    shape: tuple[int, ...] = nibabel.load(file).shape  # type: ignore[attr-defined]
    return shape[3] if len(shape) == 4 else 1


def _same_grid(case: Case, one: Volume, its: Path, other: Volume, others: Path) -> None:
    """Voxels of two files mean the same places, or BP821."""
    if one.shape != other.shape:
        text = f"the case `{case.name}`: `{its.name}` has {_by(one.shape)} voxels, `{others.name}` {_by(other.shape)}"
        raise BlueprintError(Diagnostic("BP821", text, case.span, help=("resample one onto the grid of the other",)))
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in one.shape), 1]], float)
    gap = np.abs((one.affine - other.affine) @ corners.T).max()
    if gap > 0.1 * min(one.spacing):
        text = f"the case `{case.name}`: `{its.name}` and `{others.name}` lie {gap:.3g} mm apart, by their affines"
        notes = tuple(f"{f.name}: {np.round(v.affine[:3], 4).tolist()}" for f, v in ((its, one), (others, other)))
        help = ("resample one onto the other, or copy the affine where only the header is wrong",)
        raise BlueprintError(Diagnostic("BP821", text, case.span, notes=notes, help=help))


def labels(case: Case) -> NDArray[Any]:
    """The label map of a case (X, Y, Z), as stored."""
    assert case.label is not None
    try:
        values = np.asarray(imaging.opened(case.label).dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as fault:  # cut off, or a wrong checksum
        raise imaging.unreadable(case.label, fault) from fault
    return values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values


def prepare(
    dataset: Dataset,
    view: View,
    scaled: Sequence[Scaling],
    folder: Path,
    *,
    pad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """Every labelled case, prepared in a folder; all mistakes of the data are raised together. A view of one class has
    nothing to label: then every case, and all of it is that class."""
    folder.mkdir(parents=True, exist_ok=True)
    examples: list[Example] = []
    mistakes: list[Diagnostic] = []
    alone = view.classes == 1
    todo = [(part, case) for part, cases in dataset.parts.items() for case in cases if case.label or alone]
    for done, (part, case) in enumerate(todo):
        try:
            examples.append(_prepared(case, part, view, scaled, folder, pad))
        except BlueprintError as fault:
            mistakes += [d if d.span else replace(d, span=case.span) for d in fault.diagnostics]
        if progress:
            progress(done + 1, len(todo))
    if mistakes:
        raise BlueprintError(mistakes)
    if not alone:
        _check_counts(examples, dataset, view)
    return examples


def _prepared(case: Case, part: str, view: View, scaled: Sequence[Scaling], folder: Path, pad: bool) -> Example:
    made_of = _made_of(case, view, scaled, pad)
    record = folder / f"{case.name}.json"
    if record.is_file():
        found = json.loads(record.read_text())
        if found["made_of"] == made_of:
            return Example(case.name, part, folder, tuple(found["counts"]))
    image, label = _seen(case, view, scaled)
    image, label = _large_enough(case, image, label, view, pad)
    counts = tuple(int(n) for n in np.bincount(label.ravel(), minlength=view.classes))
    for kind, array in (("image", image), ("label", label)):
        with whole(folder / f"{case.name}.{kind}.npy") as draft:
            np.save(draft, array)
    with whole(folder / f"{case.name}.places.npz") as draft:
        np.savez(draft, **_places(label, counts))  # type: ignore[arg-type]
    write_text(record, json.dumps({"made_of": made_of, "counts": counts}))
    return Example(case.name, part, folder, counts)


def _made_of(case: Case, view: View, scaled: Sequence[Scaling], pad: bool) -> Any:
    """What decides the arrays of a case, as JSON gives it back."""
    files = [*case.images, *([case.label] if case.label else [])]
    stamps = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    smallest = list(view.size) if pad else []
    said = [stamps, [asdict(s) for s in scaled], view.axis, view.channels, view.classes, view.rank, smallest]
    return json.loads(json.dumps(said))


def _seen(case: Case, view: View, scalings: Sequence[Scaling]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Image (C, D, H, W) and label (D, H, W) with axes as the network sees them."""
    volume = volume_of(case, view.channels)
    if len(volume.data) != view.channels:
        text = f"the case `{case.name}` has {len(volume.data)} channels, the network takes {view.channels}"
        raise BlueprintError(Diagnostic("BP821", text, case.span, help=(f"channels={len(volume.data)}",)))
    label = classes_of(case, volume, view.classes) if case.label else np.zeros(volume.data.shape[1:], np.uint8)
    codes = imaging.view_codes(view.axis)
    image = np.stack([imaging.turned(c, volume.affine, codes) for c in scaled(volume, scalings).data])
    return np.ascontiguousarray(image), np.ascontiguousarray(imaging.turned(label, volume.affine, codes))


def classes_of(case: Case, volume: Volume, classes: int) -> NDArray[Any]:
    """The label map (X, Y, Z) on the grid of the image (BP821), once each value is known to be a class (BP822)."""
    label = _classes(case, classes)
    assert case.label is not None
    affine = np.asarray(imaging.opened(case.label).affine, np.float64)
    _same_grid(case, replace(volume, data=label[None], affine=affine), case.label, volume, case.images[0])
    return label


def _classes(case: Case, classes: int) -> NDArray[Any]:
    values = labels(case)
    found, counts = np.unique(values, return_counts=True)
    wrong = [(v, n) for v, n in zip(found, counts, strict=True) if not (0 <= v < classes and float(v).is_integer())]
    if wrong:
        shown = listing(f"{v:g} ({n:,} voxel{'s' if n > 1 else ''})" for v, n in wrong[:8])
        text = f"`{case.label}` has values that are no class: {shown}; the {classes} classes are 0 to {classes - 1}"
        whole_numbers = all(float(v).is_integer() and v >= 0 for v, _ in wrong)
        help = (
            f"classes={int(found.max()) + 1}, or map the values" if whole_numbers else "a label map holds whole numbers"
        )
        raise BlueprintError(Diagnostic("BP822", text, case.span, help=(help,)))
    return values.astype(np.uint8 if classes <= 256 else np.uint16)


def _large_enough(
    case: Case, image: NDArray[np.float32], label: NDArray[Any], view: View, pad: bool
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The arrays, where they are smaller than a patch padded by reflection if that is asked for, else refused."""
    seen = label.shape[3 - view.rank :]
    missing = [max(0, s - n) for n, s in zip(seen, view.size, strict=True)]
    if not any(missing):
        return image, label
    if not pad:
        whose = "whose slices have" if view.rank == 2 else "which has"
        text = f"the patch {_by(view.size)} is larger than the case `{case.name}`, {whose} {_by(seen)} voxels"
        help = ("a smaller `size=[…]`, or `--pad`: smaller images are continued by reflection, as in `composer run`",)
        raise BlueprintError(Diagnostic("BP824", text, case.span, help=help))
    widths = [(0, 0)] * (3 - view.rank) + [(m // 2, m - m // 2) for m in missing]
    return np.pad(image, [(0, 0), *widths], mode="reflect"), np.pad(label, widths, mode="reflect")


def _places(label: NDArray[Any], counts: Sequence[int]) -> dict[str, NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    found = {}
    for k, count in enumerate(counts):
        if k and count:
            at = np.flatnonzero(label.ravel() == k)
            at = rng.choice(at, PLACES, replace=False) if count > PLACES else at
            found[str(k)] = np.stack(np.unravel_index(np.sort(at), label.shape), 1).astype(np.int32)
    return found


def nothing(text: str, *help: str, notes: Iterable[str] = ()) -> BlueprintError:
    """There is nothing to learn from."""
    return BlueprintError(Diagnostic("BP823", text, notes=tuple(notes), help=help))


def _check_counts(examples: Sequence[Example], dataset: Dataset, view: View) -> None:
    """Every class occurs in the training part."""
    training = [e.counts for e in examples if e.part == "training"]
    totals = [sum(counts[k] for counts in training) for k in range(view.classes)]
    names = dataset.labels or tuple(f"class {k}" for k in range(view.classes))
    if not any(totals[1:]):
        raise nothing("every label map for training is empty: all voxels are background")
    absent = [names[k] for k in range(1, view.classes) if not totals[k]]
    if absent:
        table = (
            f"{names[k]}: {totals[k]:,} voxels in {sum(c[k] > 0 for c in training)} of {len(training)} images"
            for k in range(view.classes)
        )
        way = "move a case that shows it into the training part, or take the class out of `labels`"
        raise nothing(f"no training image shows {listing(f'`{n}`' for n in absent)}", way, notes=table)


def empty(examples: Sequence[Example]) -> Iterator[Example]:
    """Training cases with nothing but background, which are worth a warning."""
    return (e for e in examples if e.part == "training" and not any(e.counts[1:]))


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
