"""From a NIfTI image to a label map and a picture of it: the work behind `composer run`.

    read_volume -> normalize -> segment -> write_labels, draw_overlay

A network has learned images whose axes point a certain way, a file stores them in any of 48 ways. So the volume keeps
the file's own voxel order, the network is shown a fixed anatomical order (`VIEWS`), and labels are turned back before
they are written: how the file happens to be stored cannot change the answer. Voxels are not resampled.

Windows are laid out on the network's *output*. For most networks input and output have one size; for one with
unpadded convolutions (the U-Net of 2015: 572 -> 388) the output is the centre of the window, so the image is padded by
the margin that the convolutions eat, by reflection as in the paper, and windows advance by a share of the output.
One rule serves both, since the margin of the former is zero.

Only numpy is imported here; torch, monai (8 s), nibabel and matplotlib are imported by the functions that need them.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean, listing

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Names = Sequence[str] | Mapping[int, str]
Progress = Callable[[int, int], None]

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
NORMALIZATIONS = ("zscore", "minmax", "none")

VIEWS: Mapping[str, str] = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
"""The way D, H and W of each view point. `axial` is the array of a DICOM series: slices from the feet up, rows from
anterior to posterior, columns from the patient's right to left."""


@dataclass(frozen=True)
class Volume:
    """An image as stored: `data` (channels, X, Y, Z) in the file's voxel order, `affine` (4, 4) from voxel to RAS."""

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    path: Path
    image: Any = field(repr=False)  # nibabel's, without its voxels in memory: what writing back needs

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along X, Y, Z."""
        return self.data.shape[1:]

    @property
    def unit(self) -> float:
        """Millimetres in one unit of the affine: 1 unless the header says metres or micrometres."""
        read = getattr(self.image.header, "get_xyzt_units", None)
        return {"meter": 1000.0, "micron": 0.001}.get(read()[0], 1.0) if read else 1.0

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along X, Y, Z in mm."""
        return tuple(float(s) * self.unit for s in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def axcodes(self) -> tuple[str, ...]:
        """The anatomical direction nearest to each voxel axis, such as ('L', 'A', 'S')."""
        return tuple(str(code) for code in _nibabel().aff2axcodes(self.affine))


def _nibabel() -> Any:
    """The package, imported late; it declares no types."""
    import nibabel

    return nibabel


# --- reading --------------------------------------------------------------------------------------------------------


def read_volume(path: str | os.PathLike[str], channels: int, *, rank: int = 3, axis: str = "axial") -> Volume:
    """The image at `path` for a network of `channels` inputs and `rank` spatial axes that looks along `axis`.

    One channel asks for a 3-D image (X, Y, Z), more for a 4-D one (X, Y, Z, channels). Refused: what nibabel cannot
    read (BP801), a wrong rank or dtype (BP802), NaN and infinity (BP803), an image that is empty, constant or too thin
    (BP804), an affine without directions (BP807).
    """
    codes, file = view_codes(axis), Path(path)
    image = opened(file)
    _check_shape(file, tuple(image.shape), channels)
    _check_dtype(file, image.get_data_dtype())
    _check_affine(file, image.affine)
    volume = Volume(_channels_first(_voxels(file, image)), np.asarray(image.affine, np.float64), file, image)
    _check_values(volume)
    _check_depth(volume, rank, codes)
    return volume


def shape_of(path: str | os.PathLike[str], channels: int) -> tuple[int, ...]:
    """Voxels along X, Y, Z of the image at `path`, from its header alone; refused as by `read_volume`."""
    image = opened(Path(path))
    _check_shape(Path(path), tuple(image.shape), channels)
    return tuple(image.shape[:3])


def buffers(
    shape: Sequence[int], channels: int, classes: int, size: Sequence[int], batch: int = 1, axis: str = "axial"
) -> tuple[int, int]:
    """Bytes on the processor for an image of `shape` (X, Y, Z), the network aside: while it is read and normalized, and
    while its windows go through the network, where the sums of their logits are kept for every voxel.

    A network of rank 2 goes through `batch` slices at a time; which axis they lie in is not known before the image is
    read, so the largest slices are taken.
    """
    voxels = math.prod(shape)
    prepared = voxels * (4 * channels + max(20, 4 + 5 * channels))  # of one channel two float64 and one float32
    seen = sorted(shape)[-len(size) :]
    count = 1 if len(size) == 3 else min(batch, max(shape))
    window = _Window(tuple(size), tuple(size), 0.0)
    padded = count * math.prod(n + sum(p) for n, p in zip(seen, window.padding(seen), strict=True))
    held = 8 * channels * voxels + (3 * voxels if len(size) == 2 else 0)  # as read, as seen; labels of slices
    decided = max(8, classes) * count * math.prod(seen)
    return prepared, held + 4 * padded * (channels + classes + 1) + decided


def stem(path: Path) -> str:
    """The name of an image file without its ending."""
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s)), path.stem)


def view_codes(axis: str) -> str:
    """Directions of D, H, W for a view's name, or for three letters as in `RAS`: the order a network was trained in."""
    codes = VIEWS.get(axis, axis.upper())
    if sorted({"R": "L", "P": "A", "I": "S"}.get(c, c) for c in codes) != ["A", "L", "S"]:
        raise _refusal(
            "BP808",
            f"unknown view `{axis}`{did_you_mean(axis, VIEWS)}",
            f"one of {listing(VIEWS)}, or three letters, one of each of L/R, A/P and I/S, such as RAS",
        )
    return codes


def _refusal(code: str, message: str, *help: str) -> BlueprintError:
    return BlueprintError(Diagnostic(code, message, help=help))


def opened(path: Path) -> Any:
    """The image of nibabel; its voxels are still on disk."""
    if not path.exists():
        raise _refusal("BP801", f"there is no file `{path}`", f"the folder searched is `{path.absolute().parent}`")
    if not path.is_file():
        raise _refusal(
            "BP801", f"`{path}` is not a file but a folder or a device", "name one image, such as scan.nii.gz"
        )
    if not path.name.lower().endswith(SUFFIXES):
        raise _refusal(
            "BP801",
            f"`{path}` is not named as a NIfTI image: known are {listing(SUFFIXES)}",
            "a DICOM series becomes a NIfTI image by `dcm2niix -z y FOLDER`",
        )
    try:
        image = _nibabel().load(path)
    except Exception as error:  # a broken header can raise anything, and all of it is the file's fault
        raise unreadable(path, error) from error
    if not isinstance(image, _nibabel().spatialimages.SpatialImage):
        raise _refusal("BP801", f"`{path}` holds a {type(image).__name__}, not an image on a grid of voxels")
    return image


def unreadable(path: Path, error: Exception) -> BlueprintError:
    """A file that its reader gave up (BP801)."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return _refusal(
        "BP801",
        f"`{path}` ({path.stat().st_size} bytes) cannot be read as an image: {reason}",
        "the file may be cut off or of another format: copy it again, or export it again as .nii.gz",
    )


def _voxels(path: Path, image: Any) -> NDArray[np.float32]:
    """Scaled intensities, (X, Y, Z) or (X, Y, Z, channels), float32."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # too large for float32 is infinite, and refused as such
            return np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"), np.float32)
    except Exception as error:  # cut off, a wrong checksum, more voxels than memory
        raise unreadable(path, error) from error


def _channels_first(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    return voxels[None] if voxels.ndim == 3 else np.ascontiguousarray(np.moveaxis(voxels, -1, 0))


def _check_shape(path: Path, shape: tuple[int, ...], channels: int) -> None:
    if 0 in shape:
        raise _refusal("BP804", f"`{path}` is empty: its shape is {_by(shape)}", "export the image again")
    wanted = "3-D (X, Y, Z)" if channels == 1 else f"4-D (X, Y, Z, {channels})"
    if len(shape) == (3 if channels == 1 else 4) and (channels == 1 or shape[-1] == channels):
        return
    raise _refusal(
        "BP802",
        f"`{path}` is {len(shape)}-D with shape {_by(shape)}; a network with {channels} input "
        f"channel{'s' * (channels > 1)} takes a {wanted} image",
        *_reshapings(shape, channels),
    )


def _reshapings(shape: tuple[int, ...], channels: int) -> tuple[str, ...]:
    """Ways out of a wrong shape, by what the shape is."""
    if len(shape) < 3:
        return ("make it 3-D with one slice: nibabel.Nifti1Image(data[:, :, None], affine)",)
    if channels == 1 and len(shape) == 4:
        return (f"take one of its {shape[3]} volumes: nibabel.load(FILE).slicer[..., 0].to_filename(NEW)",)
    if channels > 1 and len(shape) == 3:
        return (f"stack {channels} images on one grid: nibabel.concat_images([A, B, …]).to_filename(NEW)",)
    if len(shape) == 4:
        return (
            f"choose the {channels} volumes that the network was trained on",
            f"or build it for this image: channels={shape[3]}",
        )
    return ("drop the axes behind the third: numpy.squeeze, or take one index of each",)


def _check_dtype(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind in "biuf" and dtype.fields is None:
        return
    kind = "complex" if dtype.kind == "c" else "colours (RGB)" if dtype.fields else f"dtype {dtype}"
    way = "take the magnitude: numpy.abs(data)" if dtype.kind == "c" else "convert them to one grey value per voxel"
    raise _refusal("BP802", f"`{path}` holds {kind}, {dtype}; one real number per voxel is needed", way)


def _check_affine(path: Path, affine: Any) -> None:
    """Without three independent directions nobody can say which axis runs from left to right."""
    matrix = np.asarray(affine, np.float64)
    if np.isfinite(matrix).all() and np.linalg.matrix_rank(matrix[:3, :3]) == 3:
        return
    raise _refusal(
        "BP807",
        f"the affine of `{path}` gives its axes no directions: {matrix[:3, :3].tolist()}",
        "set voxel sizes and orientation in the header: nibabel.Nifti1Image(data, numpy.diag([dx, dy, dz, 1]))",
    )


def _check_values(volume: Volume) -> None:
    finite = np.isfinite(volume.data)
    if not finite.all():
        bad = np.argwhere(~finite)
        value = volume.data[tuple(bad[0])]
        raise _refusal(
            "BP803",
            f"{len(bad)} of {finite.size} voxels of `{volume.path}` are NaN or infinite; "
            f"the first is {value} at voxel {tuple(int(i) for i in bad[0][1:])}",
            "replace them, for example by the background: numpy.nan_to_num(data, posinf=0, neginf=0)",
        )
    if volume.data.min() == volume.data.max():
        raise _refusal(
            "BP804",
            f"`{volume.path}` is empty: all {finite.size} voxels are {volume.data.flat[0]:g}",
            "look at the image, and at scl_slope in its header",
        )


def _check_depth(volume: Volume, rank: int, codes: str) -> None:
    """A network of rank 3 needs depth along all axes, one of rank 2 within its slices only."""
    seen = turned(volume.data[0], volume.affine, codes).shape
    if 1 not in seen[3 - rank :]:
        return
    raise _refusal(
        "BP804",
        f"`{volume.path}` has one slice only: its shape is {_by(volume.shape)} along {''.join(volume.axcodes)}, and a "
        f"{rank}-D network needs more than one voxel along each axis{' of a slice' * (rank == 2)}",
        "give the whole volume"
        if rank == 3
        else "choose the axis that has one voxel as the slicing axis: " + listing(VIEWS),
        *(["or take a 2-D network, which works slice by slice"] if rank == 3 else []),
    )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


# --- normalizing ----------------------------------------------------------------------------------------------------


def normalize(volume: Volume, how: str) -> Volume:
    """The same volume with other intensities, each channel for itself.

    `zscore`: mean 0 and standard deviation 1 over the foreground. Where more than 5 % of the voxels have the lowest
    value, that value is taken for background (air, a mask) and the foreground is the rest; otherwise it is all voxels.
    The background is shifted and scaled along with it. `minmax`: to [0, 1]. `none`: as stored.
    """
    if how not in NORMALIZATIONS:
        raise _refusal(
            "BP808", f"unknown normalization `{how}`{did_you_mean(how, NORMALIZATIONS)}", listing(NORMALIZATIONS)
        )
    if how == "none":
        return volume
    scaled = standardized if how == "zscore" else _stretched
    return replace(volume, data=np.stack([scaled(channel) for channel in volume.data]))


def standardized(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """One channel with mean 0 and deviation 1 over its foreground (see `normalize`)."""
    above = channel > channel.min()
    values = channel[above] if 0 < above.mean() < 0.95 else channel
    # float64: summed in float32, the mean of 10 million voxels is off in the third digit
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return np.asarray((channel - mean) / (deviation or 1.0), np.float32)


def _stretched(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(channel.min()), float(channel.max())
    return np.asarray((channel - low) / (high - low or 1.0), np.float32)


# --- turning --------------------------------------------------------------------------------------------------------


def turn_to(affine: NDArray[np.float64], axis: str) -> NDArray[Any]:
    """For X, Y and Z of a file: which of D, H and W it becomes, and whether it keeps (1) or turns (-1) its way."""
    tools = _nibabel().orientations
    return np.asarray(tools.ornt_transform(tools.io_orientation(affine), tools.axcodes2ornt(view_codes(axis))))


def to_ras(array: NDArray[Any], axis: str) -> NDArray[Any]:
    """An array (D, H, W) of a view with its axes to the right, to the front and up."""
    tools = _nibabel().orientations
    turn = tools.ornt_transform(tools.axcodes2ornt(view_codes(axis)), tools.axcodes2ornt("RAS"))
    return np.asarray(tools.apply_orientation(array, turn))


def turned(array: NDArray[Any], affine: NDArray[np.float64], codes: str, *, back: bool = False) -> NDArray[Any]:
    """An array (X, Y, Z) of the file with axes permuted and flipped to point along `codes`; `back` is the inverse."""
    tools = _nibabel().orientations
    stored, wanted = tools.io_orientation(affine), tools.axcodes2ornt(codes)
    turn = tools.ornt_transform(wanted, stored) if back else tools.ornt_transform(stored, wanted)
    return np.asarray(tools.apply_orientation(array, turn))


# --- segmenting -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """What one call of the network reads (`size`) and gives: the centre of it (`core`), both per spatial axis."""

    size: tuple[int, ...]
    core: tuple[int, ...]
    overlap: float

    @property
    def margins(self) -> list[tuple[int, int]]:
        """Voxels that the network reads around its output, before and behind, per axis."""
        return [((s - c) // 2, s - c - (s - c) // 2) for s, c in zip(self.size, self.core, strict=True)]

    @property
    def steps(self) -> tuple[int, ...]:
        """How far windows advance: outputs overlap by the share asked for, so no voxel is left out."""
        return tuple(max(1, int(c * (1 - self.overlap))) for c in self.core)

    def padding(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """Voxels to add to an image so that outputs cover it and one window fits, before and behind, per axis."""
        pads = []
        for length, size, (before, behind) in zip(shape, self.size, self.margins, strict=True):
            missing = max(0, size - length - before - behind)
            pads.append((before + missing // 2, behind + missing - missing // 2))
        return pads

    def count(self, shape: Sequence[int]) -> int:
        """Windows that an image takes."""
        spans = [n + sum(pad) - s for n, pad, s in zip(shape, self.padding(shape), self.size, strict=True)]
        return math.prod(math.ceil(span / step) + 1 for span, step in zip(spans, self.steps, strict=True))

    def weights(self) -> torch.Tensor:
        """How much each voxel of a window counts, (*size): a Gaussian over the output, nothing in the margin."""
        import torch
        from monai.data.utils import compute_importance_map

        gaussian = compute_importance_map(self.core, mode="gaussian", sigma_scale=0.125, device="cpu")
        return torch.nn.functional.pad(gaussian, _flat(self.margins))


def _flat(pads: list[tuple[int, int]]) -> list[int]:
    """Padding as torch wants it: last axis first."""
    return [n for pair in reversed(pads) for n in pair]


def segment(
    network: torch.nn.Module,
    volume: Volume,
    *,
    size: tuple[int, ...],
    classes: int,
    axis: str = "axial",
    overlap: float = 0.5,
    batch: int = 1,
    position: bool = False,
    progress: Progress | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The most probable class of every voxel, (X, Y, Z) in the file's order; uint8 up to 256 classes, else uint16.

    `size` is the window, (D, H, W) or (H, W), in voxels; a network of rank 2 goes through the slices of `axis`, one of
    rank 3 sees them stacked. The network maps (B, channels, *size) to logits (B, classes, *size), or to the centre of
    it where its convolutions are unpadded; of a dict `logits` or the first entry counts, of a tuple the first. Two
    classes may be one logit, positive for class 1. Logits of overlapping windows are averaged under a Gaussian
    (MONAI). It runs on the network's device in eval mode, which is undone afterwards. One window runs before the
    others, to learn the size of the output. With `position` the network also takes `position` (B, axes), the centre of
    the window less that of the (padded) image, in voxels. `progress` hears (windows done, windows in total). What does
    not fit is BP805.
    """
    codes = view_codes(axis)
    seen = seen_along(volume, axis)
    labels = segment_seen(
        network, seen, size=size, classes=classes, overlap=overlap, batch=batch, position=position, progress=progress
    )
    return np.ascontiguousarray(turned(labels, volume.affine, codes, back=True))


def segment_seen(
    network: torch.nn.Module,
    seen: NDArray[Any],
    *,
    size: tuple[int, ...],
    classes: int,
    overlap: float = 0.5,
    batch: int = 1,
    position: bool = False,
    progress: Progress | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """`segment` of an image (C, D, H, W) whose axes point as the network sees them: labels (D, H, W)."""
    import torch

    stack = seen[None] if len(size) == 3 else seen.swapaxes(0, 1)  # (1, C, D, H, W) or (D, C, H, W)
    with torch.inference_mode(), evaluating(network):
        with untouched(network):
            window = _Window(size, _probe(network, seen.shape[0], size, classes, position), overlap)
        predict = _Predictor(network, window, len(stack) * window.count(stack.shape[2:]), position, progress)
        parts = [_sweep(predict, stack[i : i + batch], window, batch, classes) for i in range(0, len(stack), batch)]
    return np.concatenate(parts).reshape(seen.shape[1:])


def seen_along(volume: Volume, axis: str = "axial") -> NDArray[np.float32]:
    """The image as a network sees it: (channels, D, H, W)."""
    return np.stack([turned(channel, volume.affine, view_codes(axis)) for channel in volume.data])


def extent(volume: Volume, rank: int, axis: str = "axial") -> tuple[int, ...]:
    """The size of the whole volume (D, H, W), or of its slices (H, W), as a network of this rank sees it."""
    return tuple(turned(volume.data[0], volume.affine, view_codes(axis)).shape[-rank:])


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Eval mode for a while; each module gets its own mode back, as some may have been frozen on purpose."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def untouched(network: torch.nn.Module) -> Iterator[None]:
    """Buffers as they were: some networks count what they have seen."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _probe(
    network: torch.nn.Module, channels: int, size: tuple[int, ...], classes: int, position: bool
) -> tuple[int, ...]:
    """The spatial size of the logits for one window, after checking that these are logits of the window's centre."""
    import torch

    more = {"position": torch.zeros(1, len(size), **home_of(network))} if position else {}
    logits = logits_of(network(torch.zeros(1, channels, *size, **home_of(network)), **more))
    core = tuple(logits.shape[2:])
    if logits.ndim != len(size) + 2:
        raise _misfit(logits, size, "has no value per voxel", "choose a network that segments, not one that classifies")
    if logits.shape[1] != classes and (logits.shape[1], classes) != (1, 2):
        raise _misfit(
            logits, size, f"has {logits.shape[1]} channels for {classes} classes", f"classes={logits.shape[1]}"
        )
    if any(c > s for c, s in zip(core, size, strict=True)):
        raise _misfit(logits, size, "is larger than its input", "resize the output to the input's size")
    if core != size and all(s % c == 0 for c, s in zip(core, size, strict=True)):
        # a whole fraction is a coarse map, not a centre: unpadded networks take off a constant
        raise _misfit(logits, size, "is a coarser map", "add an upsampling to the window's size at the end")
    return core


def _misfit(logits: torch.Tensor, size: tuple[int, ...], what: str, *help: str) -> BlueprintError:
    shape = ", ".join(str(n) for n in logits.shape)
    return _refusal("BP805", f"the network's output ({shape}) for a window of {_by(size)} {what}", *help)


def logits_of(output: Any) -> torch.Tensor:
    """The main output: networks with deep supervision or several heads give more than one."""
    if isinstance(output, Mapping):
        output = output["logits"] if "logits" in output else next(iter(output.values()))
    elif isinstance(output, (tuple, list)):
        output = output[0]
    return output  # type: ignore[no-any-return]


def home_of(network: torch.nn.Module) -> dict[str, Any]:
    """Device and dtype of the network's weights; a network without any is at home on the processor."""
    import torch

    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    return {"device": weight.device, "dtype": weight.dtype}


class _Predictor:
    """The network as MONAI calls it: output padded to the window's size, calls counted."""

    def __init__(
        self, network: torch.nn.Module, window: _Window, total: int, position: bool, progress: Progress | None
    ):
        self.network, self.home, self.position = network, home_of(network), position
        self.pads = _flat(window.margins)
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, windows: torch.Tensor, places: Any = (), shape: Sequence[int] = ()) -> torch.Tensor:
        """(B, C, *size) -> (B, classes, *size) float32, zero in the margin. `places` are the slices of each window in
        an image of this `shape`."""
        import torch

        more = {"position": self._positions(places, shape).to(**self.home)} if self.position else {}
        logits = logits_of(self.network(windows.to(**self.home), **more)).float()
        self.done += len(windows)
        if self.progress:
            self.progress(self.done, self.total)
        # pad always copies, which matters: MONAI weighs the result in place, and it may be a view of the image
        return torch.nn.functional.pad(logits, self.pads)

    @staticmethod
    def _positions(places: Any, shape: Sequence[int]) -> torch.Tensor:
        """Centres of windows less that of the image, in voxels: (B, axes)."""
        import torch

        centres = [[(at.start + at.stop) // 2 for at in place[2:]] for place in places]
        return torch.tensor(centres) - torch.tensor([n // 2 for n in shape])


def _sweep(predict: _Predictor, images: NDArray[Any], window: _Window, batch: int, classes: int) -> NDArray[Any]:
    """Labels (N, *shape) of images (N, C, *shape)."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    shape = images.shape[2:]
    pads = window.padding(shape)
    # numpy's reflection goes back and forth as often as needed, torch's only once
    padded = np.pad(images, [(0, 0), (0, 0), *pads], mode="reflect")
    # MONAI takes the step as a share of the window and rounds down: aim at the middle of the whole number
    shares = [max(0.0, 1 - (step + 0.5) / size) for step, size in zip(window.steps, window.size, strict=True)]
    logits: Any = sliding_window_inference(
        torch.from_numpy(padded),
        window.size,
        batch,
        partial(predict, shape=padded.shape[2:]),
        overlap=shares,
        roi_weight_map=window.weights(),
        sw_device=predict.home["device"],
        device="cpu",
        with_coord=predict.position,
    )
    inside = tuple(slice(before, before + n) for (before, _), n in zip(pads, shape, strict=True))
    return _decided(logits[(slice(None), slice(None), *inside)], classes)


def _decided(logits: Any, classes: int) -> NDArray[Any]:
    """Logits (N, K, *shape) -> labels (N, *shape)."""
    import torch

    if torch.isnan(logits).any():
        raise _refusal(
            "BP805",
            "the network's output holds NaN",
            "look at its weights, and at the image's range (--normalize zscore)",
        )
    labels = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)
    return np.asarray(labels.numpy()).astype(_label_dtype(classes - 1))


def _label_dtype(highest: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if highest < 256 else np.uint16


# --- writing --------------------------------------------------------------------------------------------------------


def check_output(
    path: str | os.PathLike[str], *, source: Path | None = None, suffixes: tuple[str, ...] = (".nii.gz", ".nii")
) -> Path:
    """The path, if a file can be written there; called before any work, since a run may take an hour (BP806)."""
    file = Path(path)
    folder = file.absolute().parent
    if not file.name.lower().endswith(suffixes):
        way = f"name it `{str(file).removesuffix(file.suffix)}{suffixes[0]}`"
        raise _refusal("BP806", f"the output `{file}` must end in {' or '.join(suffixes)}", way)
    if not folder.is_dir():
        raise _refusal("BP806", f"there is no folder `{folder}` for the output `{file.name}`", f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refusal("BP806", f"the folder `{folder}` cannot be written to", "choose another folder, or chmod u+wx")
    if file.is_dir():
        raise _refusal("BP806", f"the output `{file}` is a folder", "name a file inside it")
    if source is not None and file.exists() and source.exists() and file.samefile(source):
        raise _refusal("BP806", f"the output `{file}` is the input; it would be lost", "choose another name")
    return file


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` at the end, and vanishes on failure."""
    suffix = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    draft = path.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_labels(labels: NDArray[Any], volume: Volume, path: str | os.PathLike[str]) -> None:
    """A NIfTI image of labels (X, Y, Z) that lies on `volume` voxel by voxel: same affine, form codes, zooms, units."""
    file = check_output(path, source=volume.path)
    if labels.shape != volume.shape:
        raise ValueError(f"labels {labels.shape} are not on the grid of the image {volume.shape}")
    image = _label_image(labels.astype(_label_dtype(int(labels.max()))), volume)
    with _replacing(file) as draft:
        image.to_filename(draft)


def _label_image(labels: NDArray[Any], volume: Volume) -> Any:
    """The header is the image's own but for what speaks of intensities: dtype, scaling, display range, extensions."""
    nibabel = _nibabel()
    if not isinstance(volume.image, nibabel.Nifti1Image):  # .mgz: a NIfTI header with the same geometry
        image = nibabel.Nifti1Image(labels, volume.affine)
        image.header.set_xyzt_units("mm")
        return image
    header = volume.image.header.copy()
    header.set_data_dtype(labels.dtype)
    header.set_intent("label")
    header["cal_min"] = header["cal_max"] = 0
    header.extensions.clear()
    return type(volume.image)(labels, volume.affine, header)


# --- drawing --------------------------------------------------------------------------------------------------------

# Okabe and Ito (2008) without black, then after Paul Tol's "muted": told apart by colour-blind readers
PALETTE = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
    *("#7F6BD6", "#999933", "#882255", "#44AA99", "#DDCC77", "#AA4499", "#117733"),
)
LEGEND_LIMIT = 14
INK, FAINT, GROUND = "#e8e8e8", "#9a9a9a", "#000000"


@dataclass(frozen=True)
class Plane:
    """One of the three pictures: `across` and `up` are its axes in RAS order, `through` the one it cuts."""

    name: str
    across: Literal[0, 1, 2]
    up: Literal[0, 1, 2]
    through: Literal[0, 1, 2]


PLANES = (Plane("Axial", 0, 1, 2), Plane("Coronal", 0, 2, 1), Plane("Sagittal", 1, 2, 0))


@dataclass(frozen=True)
class _Scene:
    """Everything that is drawn, in RAS order: grey (X, Y, Z) in [0, 1], labels (X, Y, Z), spacing in mm, the cut."""

    grey: NDArray[np.float32]
    labels: NDArray[Any]
    spacing: tuple[float, ...]
    focus: tuple[int, ...]
    point: tuple[float, ...]
    """The focus in mm, in the affine's coordinates: where the three planes meet."""

    @property
    def extent(self) -> tuple[float, ...]:
        """Size of the image along X, Y, Z in mm."""
        return tuple(n * s for n, s in zip(self.grey.shape, self.spacing, strict=True))

    @property
    def planes(self) -> list[Plane]:
        """Those that show more than a line of voxels."""
        return [p for p in PLANES if min(self.grey.shape[p.across], self.grey.shape[p.up]) > 1]

    def caption(self, plane: Plane) -> str:
        position = f"{'xyz'[plane.through]} = {round(self.point[plane.through])} mm"
        return f"{plane.name}   {position}".replace("-", "\N{MINUS SIGN}")

    def cut(self, array: NDArray[Any], plane: Plane) -> NDArray[Any]:
        """A slice as a picture: (rows from below, columns)."""
        return np.asarray(array.take(self.focus[plane.through], axis=plane.through).T)


def draw_overlay(
    volume: Volume,
    labels: NDArray[Any],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    names: Names | None = None,
) -> None:
    """A PNG of three orthogonal slices of the first channel with the labels over it.

    The patient's left is on the left whatever the file's orientation, all slices have one scale, and they meet in the
    centre of mass of the labelled voxels (of the image, where there are none). `names` are the classes', from
    background on.
    """
    file = check_output(path, source=volume.path, suffixes=(".png",))
    figure = _figure(_scene(volume, labels), title, names)
    with _replacing(file) as draft:
        figure.savefig(draft, dpi=200, facecolor=GROUND)


def _scene(volume: Volume, labels: NDArray[Any]) -> _Scene:
    grey, shown = (turned(a, volume.affine, "RAS") for a in (volume.data[0], labels))
    axes = [next(i for i, c in enumerate(volume.axcodes) if c in pair) for pair in ("LR", "AP", "IS")]
    focus = centre(shown > 0) if shown.any() else centre(grey - grey.min())
    stored = [n - 1 - f if volume.axcodes[a] in "LPI" else f for a, f, n in zip(axes, focus, grey.shape, strict=True)]
    voxel = np.array([stored[axes.index(a)] for a in range(3)])
    point = (volume.affine[:3, :3] @ voxel + volume.affine[:3, 3]) * volume.unit
    spacing = tuple(volume.spacing[a] for a in axes)
    grey = windowed(grey)
    box = _box((grey > 0.1) | (shown > 0))
    focus = tuple(f - part.start for f, part in zip(focus, box, strict=True))
    return _Scene(grey[box], shown[box], spacing, focus, tuple(float(v) for v in point))


def centre(mass: NDArray[Any]) -> tuple[int, ...]:
    """The voxel nearest to the centre of mass."""
    profiles = [mass.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64) for axis in range(3)]
    return tuple(round(float(np.average(np.arange(len(p)), weights=p if p.any() else None))) for p in profiles)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The part of an image that shows something, with a rim for the letters."""
    parts = []
    for axis, length in enumerate(mask.shape):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(inside[0]), int(inside[-1])) if inside.size else (0, length - 1)
        rim = 1 + (last - first) // 10
        parts.append(slice(max(0, first - rim), min(length, last + 1 + rim)))
    return tuple(parts)


def windowed(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """To [0, 1] with the darkest and brightest of the foreground cut off, as one sets a window by hand."""
    inside = grey[grey > grey.min()]
    low, high = np.percentile(inside, [0.5, 99.7]) if inside.size else (0.0, 1.0)
    return np.clip((grey - low) / (high - low or 1.0), 0, 1).astype(np.float32)


def _figure(scene: _Scene, title: str, names: Names | None) -> Figure:
    """Panels side by side on one scale of mm per inch, their names above, scale and legend below; inches throughout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    planes, extent, gap, width = scene.planes, scene.extent, 0.25, 10.0
    broad, tall = sum(extent[p.across] for p in planes), max(extent[p.up] for p in planes)
    scale = min((width - gap * (len(planes) + 1)) / broad, 6.5 / tall)
    entries = _legend(scene.labels, names)
    columns, rows = _arranged([text for _, text in entries], width - 3.2)  # the scale bar is beside it
    head, foot = 0.45 + 0.35 * bool(title), 0.4 + 0.24 * rows
    height = head + tall * scale + foot
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    FigureCanvasAgg(figure)
    left = (width - broad * scale - gap * (len(planes) - 1)) / 2
    for plane in planes:
        w, h = extent[plane.across] * scale, extent[plane.up] * scale
        bottom = foot + (tall * scale - h) / 2
        _draw_plane(figure.add_axes((left / width, bottom / height, w / width, h / height)), scene, plane)
        write(figure, scene.caption(plane), left + w / 2, height - head + 0.12)
        left += w + gap
    _draw_bar(figure, width - gap, scale, extent[planes[0].across] / 3)
    write(figure, title, width / 2, height - 0.35, size=13)
    _draw_legend(figure, entries, columns)
    return figure


def write(figure: Figure, text: str, x: float, y: float, **style: Any) -> None:
    """Text on a figure at a place in inches."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, parse_math=False, **{"color": INK, "size": 9.5, "ha": "center", **style})


def _draw_plane(axes: Axes, scene: _Scene, plane: Plane) -> None:
    grey, labels = scene.cut(scene.grey, plane), scene.cut(scene.labels, plane)
    box = (0.0, scene.extent[plane.across], 0.0, scene.extent[plane.up])
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, origin="lower", extent=box, interpolation="bilinear")
    axes.imshow(_coloured(labels), origin="lower", extent=box, interpolation="nearest")
    _outline(axes, labels, box)
    axes.set(xlim=box[:2], ylim=box[2:], aspect="equal")
    axes.set_axis_off()
    for x, y, letter in (
        (0.0, 0.5, "LPI"[plane.across]),
        (1.0, 0.5, "RAS"[plane.across]),
        (0.5, 0.0, "LPI"[plane.up]),
        (0.5, 1.0, "RAS"[plane.up]),
    ):
        note(axes, letter, (x, y), (7 - 14 * x, 7 - 14 * y))


def note(axes: Axes, letter: str, place: tuple[float, float], shift: tuple[float, float]) -> None:
    """A letter at a share of the panel, moved by some points; readable on black and on bright tissue."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        letter,
        place,
        shift,
        xycoords="axes fraction",
        textcoords="offset points",
        color=FAINT,
        size=9,
        ha="center",
        va="center",
        path_effects=[withStroke(linewidth=2, foreground=GROUND)],
    )


def _coloured(labels: NDArray[Any]) -> NDArray[np.float32]:
    """RGBA (rows, columns, 4): each class in its colour, half transparent; background clear."""
    from matplotlib.colors import to_rgb

    table = np.array([to_rgb(c) for c in PALETTE], np.float32)
    alpha = np.where(labels > 0, 0.45, 0.0).astype(np.float32)
    return np.dstack([table[(labels.astype(np.int64) - 1) % len(table)], alpha])


def _outline(axes: Axes, labels: NDArray[Any], box: tuple[float, float, float, float]) -> None:
    """A thin line around each class, so that the grey beneath stays readable and borders exact."""
    for label in np.unique(labels[labels > 0]):
        axes.contour(
            (labels == label).astype(np.float32),
            levels=[0.5],
            colors=[PALETTE[(int(label) - 1) % len(PALETTE)]],
            linewidths=0.6,
            origin="lower",
            extent=box,
        )


def _legend(labels: NDArray[Any], names: Names | None) -> list[tuple[str, str]]:
    """Colour and text of the classes that occur; the rest beyond the limit is one entry `…`."""
    found = [int(k) for k in np.unique(labels) if k > 0]
    entries = [(PALETTE[(k - 1) % len(PALETTE)], _name(k, names)) for k in found[:LEGEND_LIMIT]]
    return entries + ([(GROUND, f"… {len(found) - LEGEND_LIMIT} more")] if len(found) > LEGEND_LIMIT else [])


def _name(label: int, names: Names | None) -> str:
    known = names if isinstance(names, Mapping) else dict(enumerate(names or ()))
    name = known.get(label, f"class {label}")
    return name if len(name) <= 40 else name[:39] + "…"


def _arranged(texts: list[str], width: float) -> tuple[int, int]:
    """Columns and rows of a legend that is `width` inches wide; one column is as wide as the longest text."""
    longest = max((len(t) for t in texts), default=0) * 0.085 + 0.55
    columns = max(1, min(len(texts), int(width / longest)))
    rows = math.ceil(len(texts) / columns)
    return (math.ceil(len(texts) / rows) if rows else 1), rows


def _draw_legend(figure: Figure, entries: list[tuple[str, str]], columns: int) -> None:
    """The legend reads row by row, while matplotlib fills column by column."""
    from matplotlib.patches import Patch

    if not entries:
        return
    ordered = [entry for column in range(columns) for entry in entries[column::columns]]
    legend = figure.legend(
        handles=[Patch(color=colour) for colour, _ in ordered],
        labels=["·"] * len(ordered),
        loc="lower center",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.8,
        borderaxespad=0.3,
    )
    for text, (_, name) in zip(legend.get_texts(), ordered, strict=True):
        text.set_parse_math(False)  # names are data: `$` is no formula and a leading `_` hides nothing
        text.set_text(name)


def _draw_bar(figure: Figure, right: float, scale: float, longest: float) -> None:
    """A bar of a round length, of `longest` mm at most, at the right end of the captions' line from the bottom."""
    from matplotlib.lines import Line2D

    power = 10.0 ** math.floor(math.log10(longest))
    length = max(m * power for m in (1, 2, 5) if m * power <= longest)
    width, height = figure.get_size_inches()
    ends, level = [(right - length * scale) / width, right / width], 0.2 / height
    figure.add_artist(Line2D(ends, [level, level], color=INK, linewidth=1.5, solid_capstyle="butt"))
    write(figure, f"{length:g} mm", right - length * scale / 2, 0.26, size=8)
