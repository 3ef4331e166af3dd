"""Attention over an image: the right voxels whatever the orientation of the file, and pictures and numbers of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import composer
from composer import attention_maps, imaging
from composer.attention_maps import Sight, as_seen, as_stored
from composer.cli.main import run
from composer.imaging import Volume, read_volume

SHAPE = (9, 11, 7)
NET = """\
blueprint: 1
name: bright
params: {{size: {size}}}
inputs: {{image: {{type: B 1 *S, size: $size}}}}
graph:
  stem: {{use: conv, out: 2, kernel: 1}}
  context: {{use: attention.multihead, heads: 1, scale: none}}
  around: {{use: attention.window, heads: 1, window: 4}}
  head: {{use: conv, out: 2, kernel: 1}}
outputs: {{labels: head}}
"""


def bright(*size: int) -> Any:
    """A network whose attention `context` is the softmax of the intensities, whatever the query."""
    network = composer.Blueprint.parse(NET.format(size=list(size))).build().eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.startswith(("stem", "context.query", "context.key")):
                value.zero_()
        network.stem.weight[0, 0] = 1
        network.context.query.bias[0] = 1
        network.context.key.weight[0, 0] = 1
    return network


def scan(folder: Path, at: tuple[int, ...], orientation: str = "RAS", shape: tuple[int, ...] = SHAPE) -> Volume:
    """A faint ellipsoid with one bright voxel, stored in some orientation."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    inside = sum(((a - (n - 1) / 2) / (n / 2.2)) ** 2 for a, n in zip(axes, shape, strict=True)) < 1
    voxels = inside * np.linspace(1, 1.2, inside.size).reshape(shape)
    voxels[at] = 30
    image = nibabel.Nifti1Image(voxels.astype(np.float32), np.diag([1.0, 1.5, 2, 1]))
    to = nibabel.orientations.axcodes2ornt(orientation)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), to))
    path = folder / f"{orientation}.nii.gz"
    image.to_filename(path)
    return read_volume(path, 1)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPL", "AIR"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("rank", [2, 3])
def test_what_is_attended_to_lies_where_it_lies_in_the_file(
    orientation: str, axis: str, rank: int, tmp_path: Path
) -> None:
    volume = scan(tmp_path, (3, 8, 4), orientation)
    (target,) = np.argwhere(volume.data[0] == 30)
    seen = as_seen(volume, [int(v) for v in target], axis)
    assert as_stored(volume, seen, axis) == tuple(target)
    size = (8, 8, 8)[:rank]
    sight = Sight(bright(*size), volume, size, axis)
    (gaze,) = sight.gazes([sight.network._attentions[0]], [seen])[0]
    assert gaze.voxel == tuple(target)
    assert gaze.times.shape == tuple(b - a for a, b in gaze.window)
    place = np.unravel_index(gaze.times.argmax(), gaze.times.shape)
    found = tuple(int(p) + a for p, (a, _) in zip(place, gaze.window, strict=True))
    assert as_stored(volume, found, axis) == tuple(target)
    assert gaze.times.max() == pytest.approx(8**rank, rel=1e-3)  # all of the weight on one cell of so many
    assert gaze.outside[0] < 1e-6 < gaze.outside[1]
    assert (gaze.heads, gaze.on_tokens) == (1, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1)), min_size=3, max_size=3))
def test_a_window_holds_its_voxel_and_leaves_the_image_only_where_it_must(axes: list[tuple[int, int, float]]) -> None:
    shape, size = [n for n, _, _ in axes], tuple(s for _, s, _ in axes)
    seen = [min(n - 1, int(f * n)) for n, _, f in axes]
    window = Sight(None, None, size).window(shape, seen)  # type: ignore[arg-type]
    for (a, b), n, s, v in zip(window, shape, size, seen, strict=True):
        assert b - a == s
        assert a <= v < b
        assert (a >= 0 and b <= n) if s <= n else (a <= 0 and b >= n)


def test_windows_are_within_their_keys_and_foreground(tmp_path: Path) -> None:
    """Of window attention a uniform weight is one over the cells of the window, and only they count as area."""
    volume = scan(tmp_path, (4, 5, 3))
    network = bright(8, 8)
    nodes = network._attentions
    gazes = Sight(network, volume, (8, 8)).gazes(nodes, [(3, 5, 4), (3, 2, 7)])
    assert [[g.address for g in of] for of in gazes] == [["context"] * 2, ["around"] * 2]
    around = gazes[1][0]
    assert int((around.times > 0).sum()) == 16
    assert around.times.sum() == pytest.approx(16, rel=1e-4)
    assert gazes[0][0].times.sum() == pytest.approx(64, rel=1e-4)
    arrays = attention_maps.arrays([g for of in gazes for g in of])
    assert {k: v.shape for k, v in arrays.items()} == {
        "context": (2, 1, 8, 8), "around": (2, 1, 8, 8), "voxels": (2, 3), "windows": (2, 3, 2)
    }  # fmt: skip
    assert arrays["around"].sum(axis=(1, 2, 3)).tolist() == pytest.approx([1, 1])


def test_voxels_that_nobody_chose_lie_inside(tmp_path: Path) -> None:
    volume = scan(tmp_path, (4, 5, 3))
    noise = np.random.default_rng(0).uniform(1, 2, volume.data.shape)
    volume = replace(volume, data=((volume.data > 0) * noise).astype(np.float32))
    inside = imaging.seen_along(volume)[0] > 0
    for rank, count in ((2, 4), (3, 3)):
        voxels = attention_maps.chosen_voxels(volume, rank, "axial")
        assert len(voxels) == len(set(voxels)) == count
        assert all(inside[v] for v in voxels)
    assert len({v[0] for v in attention_maps.chosen_voxels(volume, 2, "axial")}) == 1


@pytest.mark.parametrize("rank", [2, 3])
def test_run_draws_what_is_tapped(
    rank: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path, (4, 5, 3))
    (tmp_path / "net.yaml").write_text(NET.format(size=[8] * rank))
    monkeypatch.chdir(tmp_path)
    given = ["run", "net.yaml", "RAS.nii.gz", "-o", "out.nii.gz", "--overlap", "0"]
    assert run([*given, "--tap", "context", "--tap", "around", "--query", "4,5,3"]) == 0
    assert "do not explain" in capsys.readouterr().out
    made = sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out") or p.name.startswith("."))
    assert made == ["out.around.png", "out.context.png", "out.nii.gz", "out.png", "out.taps.npz", "out.taps.png"]
    arrays = np.load("out.taps.npz")
    assert arrays["context"].shape == (1, 1, *[8] * rank)
    assert arrays["voxels"].tolist() == [[4, 5, 3]]
    for name in ("out.around.png", "out.context.png", "out.taps.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tap", "contxt"], "no attention has the address `contxt`"),
        (["--query", "4,5,3"], "no `--tap` says of which node"),
        (["--tap", "context", "--query", "4,5"], "`--query 4,5` is no voxel"),
        (["--tap", "context", "--query", "4,5,7"], "the image has no voxel 4, 5, 7: it has 9 × 11 × 7"),
    ],
)
def test_mistakes_are_said_before_any_work(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path, (4, 5, 3))
    (tmp_path / "net.yaml").write_text(NET.format(size=[8, 8]))
    monkeypatch.chdir(tmp_path)
    assert run(["run", "net.yaml", "RAS.nii.gz", "-o", "out.nii.gz", *words]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_the_three_levels_of_u_transformer_in_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the lecture: cross-attention of every skip, from one voxel; queries and keys are cells of the deep map."""
    volume = scan(tmp_path, (8, 9, 4), shape=(17, 19, 8))
    network = composer.load("u_transformer", channels=1, size=[32, 32], widths=[4, 8, 8, 8], heads=2).build().eval()
    nodes = [n for n in network._attentions if n.fits("up.*.fuse.attend")]
    sight = Sight(network, volume, (32, 32))
    gazes = sight.gazes(nodes, [(4, 9, 8)])
    assert [g[0].maps[0].shape for g in gazes] == [(2, 4, 4), (2, 8, 8), (2, 16, 16)]
    from composer import attention_figure

    rows = []
    monkeypatch.setattr(attention_figure, "_draw", lambda s, r, *rest: rows.extend(r))
    attention_figure.draw_nodes(sight, [g[0] for g in gazes], tmp_path / "x.png", "")
    assert [[p.title for p in row] for row in rows] == [[f"up.{k}.fuse.attend" for k in range(3)]]


def test_attention_to_a_padded_image_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path, (4, 5, 3))
    (tmp_path / "net.yaml").write_text(NET.format(size=[8, 8]).replace("size: $size", "size: $size, pad: auto"))
    monkeypatch.chdir(tmp_path)
    assert run(["run", "net.yaml", "RAS.nii.gz", "-o", "out.nii.gz", "--whole", "--tap", "context"]) == 1
    assert "BP841]: the network pads an image of 11 × 9" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
