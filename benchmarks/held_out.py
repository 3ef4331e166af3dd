"""The brain of `make demo` and `make learning`, and how well a label map fits the slabs of it that were held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer import imaging
from composer.training import demonstration, scoring, store

CLASSES = demonstration.CLASSES
REGIONS = CLASSES[3:]


@dataclass(frozen=True)
class Brain:
    """Image and truth (X, Y, Z), and the slices along Z of the slabs that were held out.

    A network that sees in depth is shown the image beside a slab, too; its labels are nobody's.
    """

    volume: imaging.Volume
    truth: NDArray[Any]
    slabs: tuple[slice, ...]

    @property
    def image(self) -> NDArray[Any]:
        """From 0 in the background to 1."""
        data = self.volume.data[0]
        low, high = float(data.min()), float(np.quantile(data[data > data.min()], 0.999))
        return np.clip((data - low) / (high - low), 0, 1)

    def pairs(self, found: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Labels found and true of each slab."""
        return [(found[:, :, at], self.truth[:, :, at]) for at in self.slabs]

    def dice(self, found: NDArray[Any]) -> dict[str, float]:
        """Dice of every class, over all that was held out together."""
        return scoring.pooled(self.pairs(found), CLASSES)


def brain(folder: Path) -> Brain:
    """The brain of which `demonstration.write` made slabs in a folder."""
    case = demonstration.brain(folder)
    volume = store.volume_of(case, 1)
    image = volume.data[0]
    slabs = demonstration.slabs(image - image.min(), volume.affine)
    return Brain(volume, store.labels(case), tuple(slice(a, b) for part, a, b in slabs if part == "test"))


def region(dice: Mapping[str, float]) -> float:
    """The mean Dice of the lobes and the deep nuclei, which take context to tell apart."""
    return fmean(dice[name] for name in REGIONS)
