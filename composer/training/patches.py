"""Random patches of prepared cases, changed at random: what a network is shown in training.

Patch number n of a run is the same whatever came before it: all that is drawn for it comes from the pair (seed, n). So
a run that was interrupted goes on as if it had not been, on any number of workers and devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity import dictionary as intensity
from monai.transforms.spatial import dictionary as spatial
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from composer.training.recipe import Recipe
from composer.training.store import Example, View


class Patches(Dataset[dict[str, Any]]):
    """Patches {image (C, *size), label (1, *size)} by number, and `position` (axes,) where the network takes it.

    A position is the place in the volume that the middle of a patch shows, less the volume's centre, in whole voxels; a
    volume that was padded has the centre of what it became, as in prediction. It goes with what is seen, not with how:
    a patch that is mirrored, turned, scaled or bent about its middle shows the same place as before (as in the official
    code of FINE), one that is shifted another. Else a class that is known by its place would be learned everywhere.
    """

    def __init__(self, examples: Sequence[Example], view: View, recipe: Recipe, flip: bool, position: bool = False):
        self.examples, self.view, self.recipe, self.position = examples, view, recipe, position
        self.change = changes(recipe, view, flip)
        shown = [[k for k, e in enumerate(examples) if e.counts[c]] for c in range(view.classes)]
        slices = [e.label.shape[0] if view.rank == 2 else 1 for e in examples]
        self.shares = np.array(slices) / sum(slices)  # each slice, or each volume, as often as any other
        self.showing = {c: cases for c, cases in enumerate(shown) if c and cases}

    def __len__(self) -> int:
        return self.recipe.total * self.recipe.batch * self.recipe.accumulate

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.recipe.seed, number))
        case, start = self._place(rng)
        example, size = self.examples[case], self._box
        at = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        image, label = (np.array(a, np.float32) for a in (example.image[(slice(None), *at)], example.label[at][None]))
        if self.view.rank == 2:
            image, label = image[:, 0], label[:, 0]
        self.change.set_random_state(state=np.random.RandomState(rng.integers(2**32, dtype=np.uint64)))
        changed: Any = self.change({"image": torch.from_numpy(image), "label": torch.from_numpy(label)})
        patch = {k: _plain(changed[k]).contiguous() for k in ("image", "label")}
        if self.position:
            centre = [s + n // 2 - whole // 2 for s, n, whole in zip(start, size, example.label.shape, strict=True)]
            patch["position"] = torch.tensor(centre[3 - self.view.rank :]) + _shift(changed["image"])
        return patch

    @property
    def _box(self) -> tuple[int, ...]:
        """The patch as a part of a volume (D, H, W): a slice is one voxel thick."""
        return (1,) * (3 - self.view.rank) + self.view.size

    def _place(self, rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
        """A case, and where the patch starts in it."""
        if self.showing and rng.random() < self.recipe.foreground:
            kind = int(rng.choice(list(self.showing)))
            case = int(rng.choice(self.showing[kind]))
            about = rng.choice(self.examples[case].places(kind))
            centre = [int(a) - n // 2 for a, n in zip(about, self._box, strict=True)]
            room = self._room(case)
            return case, tuple(min(max(0, c), r) for c, r in zip(centre, room, strict=True))
        case = int(rng.choice(len(self.examples), p=self.shares))
        return case, tuple(int(rng.integers(r + 1)) for r in self._room(case))

    def _room(self, case: int) -> list[int]:
        """The last start along each axis."""
        return [n - b for n, b in zip(self.examples[case].label.shape, self._box, strict=True)]


def changes(recipe: Recipe, view: View, flip: bool) -> Compose:
    """The random changes of a recipe, of MONAI; each deformation moves image and labels alike."""
    r, rank, both = recipe, view.rank, ["image", "label"]
    modes: dict[str, Any] = {"mode": ["bilinear", "nearest"], "padding_mode": "border"}
    angle, way = np.deg2rad(r.rotate), [r.shift * n for n in view.size]
    found: list[Any] = []
    if r.rotate or r.scale or r.shift:
        about = [angle] * (1 if rank == 2 else 3)
        found.append(
            spatial.RandAffined(
                both, prob=r.often, rotate_range=about, scale_range=[r.scale] * rank, translate_range=way, **modes
            )
        )
    if r.bend and rank == 2:
        spacing: Any = tuple(max(2, n // 6) for n in view.size)
        found.append(spatial.Rand2DElasticd(both, spacing=spacing, magnitude_range=(0, r.bend), prob=r.often, **modes))
    elif r.bend:
        found.append(
            spatial.Rand3DElasticd(both, sigma_range=(5, 8), magnitude_range=(0, 50 * r.bend), prob=r.often, **modes)
        )
    if flip and r.flip:
        found += [spatial.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(rank)]
    if r.field:
        found.append(intensity.RandBiasFieldd("image", coeff_range=(-r.field, r.field), prob=r.often))
    if r.gamma:
        found.append(
            intensity.RandAdjustContrastd(
                "image", prob=r.often, gamma=(np.exp(-r.gamma), np.exp(r.gamma)), retain_stats=True
            )
        )
    if r.brightness:
        found += [
            intensity.RandScaleIntensityd("image", factors=r.brightness, prob=r.often),
            intensity.RandShiftIntensityd("image", offsets=r.brightness, prob=r.often),
        ]
    if r.noise:
        found.append(intensity.RandGaussianNoised("image", prob=r.often, std=r.noise, sample_std=True))
    return Compose(found)


def _plain(patch: Any) -> Tensor:
    """Without what MONAI keeps beside it, which would go through every step of the network."""
    plain: Tensor = patch.as_tensor() if isinstance(patch, MetaTensor) else patch
    return plain


def _shift(patch: Any) -> Tensor:
    """Voxels (axes,) from the middle of a patch to what its middle shows, by the affine that MONAI keeps of all changes
    but bending."""
    affine = torch.as_tensor(getattr(patch, "affine", torch.eye(4)), dtype=torch.float64)
    middle = (torch.tensor(patch.shape[1:], dtype=torch.float64) - 1) / 2
    rank = len(middle)
    return (affine[:rank, :rank] @ middle + affine[:rank, -1] - middle).round().float()


class Numbers(Sampler[int]):
    """The numbers of an epoch's patches, of which each of several processes takes its share in turn."""

    def __init__(self, count: int, rank: int = 0, world: int = 1):
        self.count, self.rank, self.world, self.epoch = count, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.world

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.count
        return iter(range(first + self.rank, first + self.count - self.count % self.world, self.world))


class Whole(Dataset[Mapping[str, Any]]):
    """Whole cases for validation: name, image (C, D, H, W), label (D, H, W)."""

    def __init__(self, examples: Sequence[Example]):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, k: int) -> Mapping[str, Any]:
        e = self.examples[k]
        arrays: dict[str, NDArray[Any]] = {"image": np.array(e.image), "label": np.array(e.label)}
        return {"name": e.name, **arrays}
