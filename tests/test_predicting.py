"""What a run learned, on images: the same as in training, voted on, and scored as the slow way scores it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage
from test_training import NET, asked, ball, listed

from composer.cli.main import run

pytest.importorskip("lightning")
from composer.training.predicting import Ensemble, learned
from composer.training.scoring import means, scores


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two runs of one epoch, of different seeds, over four balls."""
    folder = tmp_path_factory.mktemp("runs")
    data = listed(folder, split={"validation": ["b0"], "test": ["b1"]})
    for seed in ("0", "1"):
        assert run([*asked(data, folder / f"run{seed}", epochs=1), "--seed", seed]) == 0
    return folder


def test_an_ensemble_is_the_mean_probability_over_networks_and_mirror_images() -> None:
    nets = [torch.nn.Conv2d(1, 3, 3, padding=1) for _ in range(2)]
    x, total = torch.randn(2, 1, 6, 5), torch.zeros(2, 3, 6, 5)
    for net in nets:
        for rows in (False, True):
            for columns in (False, True):
                axes = [a for a, on in ((2, rows), (3, columns)) if on]
                total += net(torch.flip(x, axes)).softmax(1).flip(axes)
    with torch.no_grad():
        assert torch.allclose(Ensemble(nets, flips=True)(x).exp(), total / 8, atol=1e-6)
        assert torch.allclose(Ensemble(nets[:1])(x).argmax(1), nets[0](x).argmax(1))


def test_a_label_map_lies_on_its_image(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, _ = ball(runs, "new", 9)
    turned = nibabel.load(image).slicer[::-1]
    nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine).to_filename(runs / "turned.nii.gz")
    for name in ("new", "turned"):
        words = ["predict", str(runs / f"{name}.nii.gz"), "-o", str(runs / f"{name}_found.nii.gz"), "--flips"]
        assert run([*words, "--run", str(runs / "run0"), "--run", str(runs / "run1")]) == 0
    found, again = (nibabel.load(runs / f"{name}_found.nii.gz") for name in ("new", "turned"))
    assert np.allclose(found.affine, nibabel.load(image).affine)
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(again.dataobj)[::-1])
    assert (runs / "new_found.png").is_file()


def test_scores_are_those_of_training(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = runs / "scores.csv"
    assert (
        run(["evaluate", "--run", str(runs / "run0"), "--part", "validation", "--overlap", "0.25", "-o", str(out)]) == 0
    )
    assert "ball" in capsys.readouterr().out
    (row,) = csv.DictReader(out.read_text().splitlines())
    (epoch,) = csv.DictReader((runs / "run0" / "metrics.csv").read_text().splitlines())
    assert float(row["dice"]) == pytest.approx(float(epoch["dice/ball"]), abs=1e-6)
    assert run(["evaluate", "--run", str(runs / "run0"), "-o", str(runs / "scores.json")]) == 0
    assert [s["case"] for s in json.loads((runs / "scores.json").read_text())] == ["b1"]


def slow_hd95(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> float:
    """From every border voxel of each mask to the nearest of the other; the larger of both 95th percentiles."""
    borders = [np.argwhere(m & ~ndimage.binary_erosion(m)) * np.array(spacing) for m in (one, other)]
    far = np.linalg.norm(borders[0][:, None] - borders[1][None], axis=-1)
    return float(max(np.percentile(far.min(1), 95), np.percentile(far.min(0), 95)))


def test_scores_against_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=(14, 12, 10)), 2) > 0.01
    found = ndimage.gaussian_filter(rng.normal(size=(14, 12, 10)), 2) > 0.02
    spacing = (1.0, 2.0, 0.5)
    (score,) = scores("a", found.astype(int), truth.astype(int), ("background", "thing"), spacing)
    assert score.dice == pytest.approx(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert score.hd95 == pytest.approx(slow_hd95(found, truth, spacing), rel=1e-4)


def test_what_is_not_there_counts_in_no_mean() -> None:
    truth = np.zeros((4, 4, 4), int)
    truth[:2] = 1
    scored = scores("a", truth, truth, ("background", "here", "nowhere"), (1, 1, 1))
    assert scored[0].dice == 1
    assert np.isnan(scored[1].dice)
    assert means(scored)["mean"].dice == 1


def test_what_cannot_be_done_is_said(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", str(runs / "b0.nii.gz"), "--run", str(tmp_path), "-o", str(tmp_path / "o.nii.gz")]) == 1
    assert "BP825" in capsys.readouterr().err
    assert run(["evaluate", "--run", str(runs / "run0"), "--weights", "worst"]) == 1
    assert "best or last" in capsys.readouterr().err
    assert learned([runs / "run0"]).labels == ("background", "ball")
    assert NET[0] == learned([runs / "run0"]).name
