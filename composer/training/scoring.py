"""How good label maps are, per class and case: Dice, and the 95th percentile of the Hausdorff distance (MONAI).

A class that the truth does not show has no score there: its Dice is NaN and counts in no mean. Where only one of both
shows it, the distance has no value either.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from composer.files import write_text


@dataclass(frozen=True)
class Score:
    """Dice from 0 to 1, and the distance in mm, of one class of one case; `voxels` of it in the truth."""

    case: str
    label: str
    dice: float
    hd95: float
    voxels: int


def scores(
    case: str, found: NDArray[Any], truth: NDArray[Any], labels: Sequence[str], spacing: Sequence[float]
) -> list[Score]:
    """The scores of every class but the background; arrays are (X, Y, Z), `spacing` in mm."""
    return [_score(case, name, found == k, truth == k, spacing) for k, name in enumerate(labels) if k]


def _score(case: str, label: str, found: NDArray[Any], truth: NDArray[Any], spacing: Sequence[float]) -> Score:
    from monai.metrics.meandice import compute_dice

    one, other = (torch.from_numpy(m[None, None]).float() for m in (found, truth))
    dice = float(compute_dice(one, other, include_background=True))
    return Score(case, label, dice, _distance(found, truth, spacing), int(truth.sum()))


def _distance(found: NDArray[Any], truth: NDArray[Any], spacing: Sequence[float]) -> float:
    """Within the box around both masks, which is all that counts and much smaller than the image."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    if not (found.any() and truth.any()):
        return nan
    at = np.argwhere(found | truth)
    box = tuple(slice(max(0, low - 1), high + 2) for low, high in zip(at.min(0), at.max(0), strict=True))
    one, other = (torch.from_numpy(np.ascontiguousarray(m[box])[None, None]) for m in (found, truth))
    with warnings.catch_warnings():  # MONAI warns of an argument that it gives itself
        warnings.simplefilter("ignore", FutureWarning)
        far: Any = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=list(spacing))
    return float(far)


def means(scored: Iterable[Score]) -> dict[str, Score]:
    """The mean over cases of each class, by its name, and of all classes under `mean`."""
    scored = list(scored)
    by = {name: [s for s in scored if s.label == name] for name in dict.fromkeys(s.label for s in scored)}
    rows = {name: _mean(name, rows) for name, rows in by.items()}
    return {**rows, "mean": _mean("mean", list(rows.values()))}


def _mean(label: str, rows: Sequence[Score]) -> Score:
    dice, hd95 = (_over(getattr(r, k) for r in rows) for k in ("dice", "hd95"))
    return Score("mean", label, dice, hd95, sum(r.voxels for r in rows))


def _over(values: Iterable[float]) -> float:
    known = [v for v in values if not isnan(v)]
    return fmean(known) if known else nan


def pooled(pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]], labels: Sequence[str]) -> dict[str, float]:
    """The Dice of every class but the background over the voxels of all pairs (found, truth) together, as if they were
    one image: where cases are pieces of one, a corner of a class in one of them weighs no more than its voxels do."""
    count = len(labels)
    total = np.zeros((count, count), np.int64)
    for found, truth in pairs:
        both = truth.ravel().astype(np.int64) * count + found.ravel()
        total += np.bincount(both, minlength=count * count).reshape(count, count)
    sizes = total.sum(0) + total.sum(1)
    return {name: float(2 * total[k, k] / sizes[k]) if sizes[k] else nan for k, name in enumerate(labels) if k}


def write(scored: Sequence[Score], path: Path) -> None:
    """As CSV, or as JSON with `null` where there is no value, by the ending."""
    rows = [asdict(s) for s in scored]
    if path.suffix == ".json":
        plain = [{k: None if isinstance(v, float) and isnan(v) else v for k, v in r.items()} for r in rows]
        return write_text(path, json.dumps(plain, indent=2) + "\n")
    with io.StringIO() as text:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
