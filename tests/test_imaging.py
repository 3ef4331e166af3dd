"""Images in every orientation, networks whose answer is known voxel by voxel, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import itertools
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from composer import imaging
from composer.diagnostics import BlueprintError
from composer.imaging import check_output, draw_overlay, normalize, read_volume, segment, write_labels

ORIENTATIONS = ["RAS", "LPS", "LAS", "SPL", "PIR", "ASR"]
SHAPE = (19, 23, 14)


class Levels(nn.Module):
    """Class k where the intensity is nearest to k: right whatever the windows, so tiling can be judged exactly."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.levels = nn.Parameter(torch.arange(classes, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -((x[:, :1] - self.levels.view(1, -1, *[1] * (x.ndim - 2))) ** 2)


class Ahead(nn.Module):
    """One logit that asks whether a voxel exceeds the one before it along the last axis: it sees orientation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] - x[:, :1].roll(1, -1)


class Edges(nn.Module):
    """A convolution over 5 voxels, zero-padded or unpadded; two classes in one logit."""

    def __init__(self, rank: int, padding: int):
        super().__init__()
        make = nn.Conv3d if rank == 3 else nn.Conv2d
        self.conv = make(1, 1, 5, padding=padding)
        torch.manual_seed(3)
        nn.init.normal_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Place(nn.Module):
    """Class 1 in the half of an image behind its centre along the last axis, whatever is in it, by `position` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        steps = torch.arange(x.shape[-1]) - x.shape[-1] // 2
        place = position[:, -1].view(-1, *[1] * (x.ndim - 1)) + steps + 0.5
        return place.expand_as(x[:, :1])


def tilted(spacing: tuple[float, float, float] = (0.8, 1.3, 2.5), degrees: float = 11) -> np.ndarray:
    """An oblique affine, nearest to RAS."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = (-20, 13.5, 40)
    return affine


def scan(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.4, 3.4, shape).astype(np.float32)


def oriented(data: np.ndarray, affine: np.ndarray, codes: str) -> nibabel.Nifti1Image:
    """The same anatomy stored with its axes along `codes`."""
    image = nibabel.Nifti1Image(data, affine)
    start, end = nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(start, end))


def save(path: Path, data: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    nibabel.Nifti1Image(scan() if data is None else data, tilted() if affine is None else affine).to_filename(path)
    return path


@pytest.fixture
def volume(tmp_path):
    return read_volume(save(tmp_path / "scan.nii.gz"), 1)


def refused(code: str, call, *args, **options) -> str:
    with pytest.raises(BlueprintError) as caught:
        call(*args, **options)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


# --- reading


def test_a_volume_keeps_the_files_own_order(tmp_path):
    data = scan()
    for codes in ORIENTATIONS:
        image = oriented(data, tilted(), codes)
        image.to_filename(tmp_path / "scan.nii.gz")
        volume = read_volume(tmp_path / "scan.nii.gz", 1)
        assert "".join(volume.axcodes) == codes
        assert volume.data.dtype == np.float32
        np.testing.assert_array_equal(volume.data[0], image.get_fdata(dtype=np.float32))
        np.testing.assert_allclose(volume.spacing, image.header.get_zooms(), rtol=1e-5)


def test_channels_come_first(tmp_path):
    data = scan((5, 6, 7, 4))
    volume = read_volume(save(tmp_path / "four.nii.gz", data), 4)
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, -1, 0))
    assert volume.shape == (5, 6, 7)


def test_scaled_integers_are_read_as_intensities(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    image.to_filename(tmp_path / "ct.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "ct.nii", 1).data.ravel(), np.arange(60) * 0.5 - 10)


def test_spacing_is_in_millimetres(tmp_path):
    image = nibabel.Nifti1Image(scan((4, 4, 4)), np.diag([50.0, 50, 200, 1]))
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "microscopy.nii")
    assert read_volume(tmp_path / "microscopy.nii", 1).spacing == pytest.approx((0.05, 0.05, 0.2))


def test_freesurfer_images_are_read_and_answered_with_a_nifti(tmp_path):
    affine = tilted((1, 1, 1))
    nibabel.MGHImage(scan(), affine).to_filename(tmp_path / "scan.mgz")
    volume = read_volume(tmp_path / "scan.mgz", 1)
    write_labels(np.ones(SHAPE, np.uint8), volume, tmp_path / "labels.nii.gz")
    written = nibabel.load(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    assert written.shape == SHAPE


# --- what is refused


def test_missing_files_and_folders(tmp_path):
    assert f"there is no file `{tmp_path / 'no.nii'}`" in refused("BP801", read_volume, tmp_path / "no.nii", 1)
    assert "is not a file but a folder" in refused("BP801", read_volume, tmp_path, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("garbage.nii.gz", b"garbage"),
        ("garbage.nii", b"\x00" * 1000),
        ("empty.nii.gz", b""),
        ("gzipped_garbage.nii.gz", gzip.compress(b"not an image " * 100, mtime=0)),
    ],
)
def test_what_is_no_nifti(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = refused("BP801", read_volume, tmp_path / name, 1)
    assert f"({len(content)} bytes) cannot be read as an image" in message


@pytest.mark.parametrize("name", ["cut.nii.gz", "cut.nii"])
def test_truncated_files(tmp_path, name):
    whole = save(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as an image" in refused("BP801", read_volume, tmp_path / name, 1)


def test_a_header_that_promises_more_voxels_than_there_is_memory(tmp_path):
    raw = bytearray(save(tmp_path / "bomb.nii").read_bytes())
    raw[42:48] = np.array([32767] * 3, "<i2").tobytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    assert "cannot be read as an image" in refused("BP801", read_volume, tmp_path / "bomb.nii.gz", 1)


def test_other_formats(tmp_path):
    (tmp_path / "slice.dcm").write_bytes(b"DICM")
    assert "dcm2niix" in refused("BP801", read_volume, tmp_path / "slice.dcm", 1)


@pytest.mark.parametrize(
    ("shape", "channels", "words"),
    [
        ((8, 9), 1, ["2-D with shape 8 x 9", "takes a 3-D (X, Y, Z) image", "data[:, :, None]"]),
        ((8, 9, 7, 3), 1, ["4-D with shape 8 x 9 x 7 x 3", "one of its 3 volumes", "slicer[..., 0]"]),
        ((8, 9, 7, 1), 1, ["4-D with shape 8 x 9 x 7 x 1"]),
        (
            (8, 9, 7),
            4,
            ["3-D with shape 8 x 9 x 7", "4 input channels takes a 4-D (X, Y, Z, 4) image", "concat_images"],
        ),
        ((8, 9, 7, 3), 4, ["8 x 9 x 7 x 3", "choose the 4 volumes", "channels=3"]),
        ((8, 9, 7, 1, 3), 1, ["5-D with shape 8 x 9 x 7 x 1 x 3", "squeeze"]),
        ((8, 9, 7, 2, 3), 3, ["5-D with shape 8 x 9 x 7 x 2 x 3"]),
    ],
)
def test_wrong_ranks(tmp_path, shape, channels, words):
    message = refused("BP802", read_volume, save(tmp_path / "scan.nii.gz", scan(shape)), channels)
    assert all(word in message for word in words), message


def test_complex_and_colour_images(tmp_path):
    save(tmp_path / "complex.nii", scan().astype(np.complex64))
    assert "holds complex, complex64" in refused("BP802", read_volume, tmp_path / "complex.nii", 1)
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(tmp_path / "rgb.nii", colours)
    assert "colours (RGB)" in refused("BP802", read_volume, tmp_path / "rgb.nii", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, value):
    data = scan()
    data[3, 4, 5] = data[7, 0, 0] = value
    message = refused("BP803", read_volume, save(tmp_path / "scan.nii.gz", data), 1)
    assert f"2 of {data.size} voxels" in message
    assert f"the first is {value} at voxel (3, 4, 5)" in message


def test_numbers_beyond_float32(tmp_path):
    data = scan().astype(np.float64)
    data[0, 1, 2] = 1e300
    assert "at voxel (0, 1, 2)" in refused("BP803", read_volume, save(tmp_path / "scan.nii", data), 1)


def test_empty_and_constant_images(tmp_path):
    raw = bytearray(save(tmp_path / "scan.nii").read_bytes())
    raw[44:46] = b"\0\0"  # the second axis
    (tmp_path / "none.nii").write_bytes(raw)
    assert "is empty: its shape is 19 x 0 x 14" in refused("BP804", read_volume, tmp_path / "none.nii", 1)
    save(tmp_path / "flat.nii", np.full(SHAPE, 7, np.float32))
    assert f"all {np.prod(SHAPE)} voxels are 7" in refused("BP804", read_volume, tmp_path / "flat.nii", 1)


def test_one_slice(tmp_path):
    path = save(tmp_path / "slice.nii.gz", scan((12, 13, 1)))
    message = refused("BP804", read_volume, path, 1)
    assert "has one slice only: its shape is 12 x 13 x 1 along RAS" in message
    assert "a 3-D network needs more than one voxel along each axis" in message
    assert read_volume(path, 1, rank=2).shape == (12, 13, 1)
    assert "of a slice" in refused("BP804", read_volume, path, 1, rank=2, axis="coronal")


def test_an_affine_without_directions(tmp_path):
    raw = bytearray(save(tmp_path / "scan.nii").read_bytes())
    raw[252:256] = np.array([0, 1], "<i2").tobytes()  # only the sform counts, and it is zero
    raw[280:328] = bytes(48)
    (tmp_path / "scan.nii").write_bytes(raw)
    assert "gives its axes no directions" in refused("BP807", read_volume, tmp_path / "scan.nii", 1)


def test_unknown_options(volume):
    assert "did you mean `sagittal`" in refused("BP808", imaging.view_codes, "saggital")
    assert "unknown view `RAL`" in refused("BP808", imaging.view_codes, "RAL")
    assert imaging.view_codes("ras") == "RAS"
    assert "did you mean `zscore`" in refused("BP808", normalize, volume, "z-score")


# --- normalizing


def with_data(volume, data):
    return imaging.replace(volume, data=np.asarray(data, np.float32)[None])


def test_zscore_leaves_the_background_out(volume):
    data = scan()
    data[:8] = -5
    inside = data[8:].astype(np.float64)
    made = normalize(with_data(volume, data), "zscore").data[0]
    np.testing.assert_allclose(made, (data - inside.mean()) / inside.std(), rtol=1e-4, atol=1e-5)
    assert made[8:].mean() == pytest.approx(0, abs=1e-4)


def test_zscore_takes_all_voxels_where_there_is_no_background(volume):
    made = normalize(volume, "zscore").data
    assert made.mean() == pytest.approx(0, abs=1e-4)
    assert made.std() == pytest.approx(1, abs=1e-4)


def test_each_channel_is_normalized_for_itself(tmp_path):
    data = scan((6, 7, 8, 2)) * [1, 100] + [0, 5000]
    made = normalize(read_volume(save(tmp_path / "two.nii", data), 2), "minmax").data
    assert made.min(axis=(1, 2, 3)).tolist() == [0, 0]
    assert made.max(axis=(1, 2, 3)).tolist() == [1, 1]


def test_a_binary_image_has_no_deviation_to_divide_by(volume):
    data = np.zeros(SHAPE)
    data[5:9] = 1
    assert np.isfinite(normalize(with_data(volume, data), "zscore").data).all()
    assert normalize(volume, "none") is volume


# --- segmenting


@pytest.mark.parametrize("size", [(8, 8, 8), (7, 11, 5), (32, 40, 48), (14, 23, 19), (30, 8, 9)])
@pytest.mark.parametrize(("overlap", "batch"), [(0.5, 1), (0.0, 3), (0.7, 4)])
def test_windows_cover_a_volume_of_any_size(volume, size, overlap, batch):
    labels = segment(Levels(), volume, size=size, classes=4, overlap=overlap, batch=batch)
    np.testing.assert_array_equal(labels, np.clip(np.rint(volume.data[0]), 0, 3))
    assert labels.dtype == np.uint8


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_slices_equal_a_loop(tmp_path, axis, codes):
    """A network that sees its neighbourhood: each slice must have been shown alone, upright, and put back."""
    oriented(scan(), tilted(), codes).to_filename(tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii", 1, rank=2, axis=axis)
    network = Edges(2, 2)
    labels = segment(network, volume, size=(32, 32), classes=2, axis=axis, batch=3)
    seen, along = upright(volume, axis)
    expected = np.zeros(seen.shape, np.uint8)
    for index in range(seen.shape[0]):
        expected[index] = by_hand(network, seen[index], (32, 32))
    np.testing.assert_array_equal(along(labels), expected)


def upright(volume, axis):
    """The volume (D, H, W) by numpy's own transposing and flipping, and the function that does so to labels."""
    wanted = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}[axis]
    pairs = {"L": "LR", "R": "LR", "A": "AP", "P": "AP", "I": "IS", "S": "IS"}
    order = [next(i for i, c in enumerate(volume.axcodes) if pairs[c] == pairs[w]) for w in wanted]
    flips = [k for k, (i, w) in enumerate(zip(order, wanted, strict=True)) if volume.axcodes[i] != w]

    def turn(array):
        return np.flip(array.transpose(order), flips)

    return turn(volume.data[0]), turn


def by_hand(network, image, size):
    """One image in one window that is larger than it, reflected in front and behind."""
    pads = [((s - n) // 2, s - n - (s - n) // 2) for s, n in zip(size, image.shape, strict=True)]
    padded = torch.from_numpy(np.pad(image, pads, mode="reflect").copy())
    with torch.no_grad():
        logits = network(padded[None, None])[0, 0].numpy()
    return logits[tuple(slice(a, a + n) for (a, _), n in zip(pads, image.shape, strict=True))] > 0


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal", "RAS"])
@pytest.mark.parametrize("rank", [2, 3])
def test_the_answer_does_not_depend_on_how_the_file_is_stored(tmp_path, rank, axis):
    answers = []
    for codes in ORIENTATIONS:
        oriented(scan(), tilted(), codes).to_filename(tmp_path / "scan.nii")
        volume = read_volume(tmp_path / "scan.nii", 1, rank=rank, axis=axis)
        labels = segment(Ahead(), volume, size=(16,) * rank, classes=2, axis=axis, batch=8)
        answers.append(nibabel.as_closest_canonical(nibabel.Nifti1Image(labels, volume.affine)).get_fdata())
    assert 0.2 < answers[0].mean() < 0.8
    assert all(np.array_equal(answers[0], other) for other in answers[1:])


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("side", [9, 12, 40])
def test_unpadded_convolutions_see_a_reflected_margin(volume, rank, side):
    """Away from the reflection the answer is that of the convolution over the whole image."""
    network = Edges(rank, 0)
    labels = segment(network, volume, size=(side,) * rank, classes=2, batch=32)
    seen, along = upright(volume, "axial")
    pads = [(2, 2)] * rank
    images = seen[None] if rank == 3 else seen
    with torch.no_grad():
        padded = np.pad(images, [(0, 0), *pads], mode="reflect")
        logits = network(torch.from_numpy(padded.copy())[:, None])[:, 0].numpy().reshape(seen.shape)
    clear = abs(logits) > 1e-4  # nearer to zero, the order of summation decides
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(along(labels)[clear], (logits > 0)[clear])


class Trim(nn.Module):
    """An uneven margin: one voxel before, two behind, on the last axis only."""

    def forward(self, x):
        return torch.cat([1.5 - x, x - 1.5], 1)[..., 1:-2]


def test_an_uneven_margin_stays_in_place(volume):
    labels = segment(Trim(), volume, size=(8, 8, 9), classes=2, batch=4)
    np.testing.assert_array_equal(labels, volume.data[0] > 1.5)


class Spread(nn.Module):
    """Says what it was given: dicts, tuples, half precision."""

    def __init__(self, form):
        super().__init__()
        self.form, self.inner = form, Levels()

    def forward(self, x):
        return self.form(self.inner(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda y: {"coarse": y * 0, "logits": y},
        lambda y: {"out": y, "aux": y * 0},
        lambda y: (y, y * 0),
        lambda y: [y],
    ],
)
def test_outputs_with_several_heads(volume, form):
    labels = segment(Spread(form), volume, size=(16, 16, 16), classes=4)
    np.testing.assert_array_equal(labels, np.clip(np.rint(volume.data[0]), 0, 3))


def test_the_image_is_left_alone_by_a_network_that_returns_its_input(volume):
    before = volume.data.copy()
    labels = segment(nn.Identity(), volume, size=(8, 8, 8), classes=2)
    np.testing.assert_array_equal(volume.data, before)
    np.testing.assert_array_equal(labels, before[0] > 0)


def test_networks_in_lower_precision(volume):
    labels = segment(Levels().to(torch.bfloat16), volume, size=(16, 16, 16), classes=4)
    assert (labels == np.clip(np.rint(volume.data[0]), 0, 3)).mean() > 0.98


def test_many_classes_need_two_bytes(volume):
    assert segment(Levels(300), volume, size=(32, 32), classes=300, batch=2).dtype == np.uint16


def test_progress_counts_every_window(volume):
    for size, batch in (((8, 8, 8), 3), ((9, 7), 4), ((64, 64), 1)):
        heard = []
        segment(Levels(), volume, size=size, classes=4, batch=batch, progress=lambda *now, to=heard: to.append(now))
        assert heard == sorted(heard)
        assert heard[-1][0] == heard[-1][1]
        assert len({total for _, total in heard}) == 1


def test_modes_are_given_back_even_after_a_failure(volume):
    network = nn.Sequential(nn.Dropout(0.9), nn.Dropout(0.9), Levels())
    network.train()
    network[1].eval()
    segment(network, volume, size=(16, 16, 16), classes=4)
    assert [m.training for m in network] == [True, False, True]
    with pytest.raises(BlueprintError):
        segment(network, volume, size=(16, 16, 16), classes=5)
    assert [m.training for m in network] == [True, False, True]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(Levels(), nn.AdaptiveAvgPool3d(1), nn.Flatten()), ["(1, 4) for a window of 8 x 8 x 8 has no"]),
        (Levels(5), ["(1, 5, 8, 8, 8)", "has 5 channels for 4 classes", "classes=5"]),
        (nn.Sequential(Levels(), nn.Upsample(scale_factor=2)), ["(1, 4, 16, 16, 16)", "is larger than its input"]),
        (nn.Sequential(Levels(), nn.AvgPool3d(2)), ["(1, 4, 4, 4, 4)", "coarser map", "upsampling"]),
        (nn.Sequential(Levels(), nn.Threshold(99, float("nan"))), ["holds NaN"]),
    ],
)
def test_networks_that_do_not_fit(volume, network, words):
    message = refused("BP805", segment, network, volume, size=(8, 8, 8), classes=4, batch=16)
    assert all(word in message for word in words), message


# --- writing


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_labels_lie_on_the_image(tmp_path, codes, kind):
    stored = oriented(scan(), tilted(), codes)
    image = kind(stored.dataobj, stored.affine)
    image.set_sform(stored.affine, 4)
    image.set_qform(stored.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 900
    image.to_filename(tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz", 1)
    labels = (volume.data[0] > 1).astype(np.uint8)
    write_labels(labels, volume, tmp_path / "labels.nii.gz")
    old, new = nibabel.load(tmp_path / "scan.nii.gz"), nibabel.load(tmp_path / "labels.nii.gz")
    assert type(new) is kind
    assert new.shape == old.shape
    for part in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "xyzt_units"):
        np.testing.assert_array_equal(new.header[part], old.header[part], err_msg=part)
    np.testing.assert_array_equal(new.affine, old.affine)
    assert new.get_data_dtype() == np.uint8
    assert (new.dataobj.slope, new.dataobj.inter) == (1, 0)
    assert new.header["cal_max"] == 0
    np.testing.assert_array_equal(np.asarray(new.dataobj), labels)


@pytest.mark.parametrize(("sform", "qform"), [(0, 1), (0, 0), (2, 0)])
def test_form_codes_are_kept_when_one_is_missing(tmp_path, sform, qform):
    image = nibabel.Nifti1Image(scan(), None)
    image.header.set_qform(tilted(), qform)
    image.header.set_sform(tilted(), sform)
    image.to_filename(tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii", 1)
    write_labels(np.ones(SHAPE, np.uint8), volume, tmp_path / "labels.nii")
    old, new = nibabel.load(tmp_path / "scan.nii"), nibabel.load(tmp_path / "labels.nii")
    assert (int(new.header["sform_code"]), int(new.header["qform_code"])) == (sform, qform)
    np.testing.assert_array_equal(new.affine, old.affine)


def test_scaling_of_the_image_does_not_touch_labels(tmp_path):
    image = nibabel.Nifti1Image(np.arange(210, dtype=np.int16).reshape(5, 6, 7), np.eye(4))
    image.header.set_slope_inter(2.5, -1000)
    image.to_filename(tmp_path / "ct.nii")
    labels = (np.arange(210).reshape(5, 6, 7) * 3).astype(np.uint16)
    write_labels(labels, read_volume(tmp_path / "ct.nii", 1), tmp_path / "labels.nii")
    written = nibabel.load(tmp_path / "labels.nii")
    assert written.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(written.get_fdata(), labels)


def test_labels_of_several_channels_are_3d(tmp_path):
    volume = read_volume(save(tmp_path / "two.nii.gz", scan((*SHAPE, 2))), 2)
    labels = segment(Levels(), volume, size=(16, 16, 16), classes=4)
    write_labels(labels, volume, tmp_path / "labels.nii.gz")
    written = nibabel.load(tmp_path / "labels.nii.gz")
    assert written.shape == SHAPE
    np.testing.assert_array_equal(written.affine, volume.affine)


def test_labels_of_another_grid_are_a_mistake_of_ours(volume, tmp_path):
    with pytest.raises(ValueError, match=r"not on the grid"):
        write_labels(np.zeros((3, 3, 3), np.uint8), volume, tmp_path / "labels.nii")


def test_a_failure_leaves_what_was_there(volume, tmp_path, monkeypatch):
    target = tmp_path / "labels.nii.gz"
    target.write_bytes(b"before")

    def half(image, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_filename", half)
    with pytest.raises(OSError, match="no space"):
        write_labels(np.ones(SHAPE, np.uint8), volume, target)
    assert target.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.nii.gz", "scan.nii.gz"]


class Stumbles(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = itertools.count()

    def forward(self, x):
        if next(self.calls) > 3:
            raise RuntimeError("out of memory")
        return x


def test_a_network_that_fails_midway_writes_nothing(volume, tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        write_labels(segment(Stumbles(), volume, size=(8, 8, 8), classes=2), volume, tmp_path / "labels.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_outputs_are_checked_before_any_work(tmp_path, monkeypatch):
    source = save(tmp_path / "scan.nii.gz")
    assert check_output(tmp_path / "labels.nii.gz", source=source) == tmp_path / "labels.nii.gz"
    assert "mkdir -p" in refused("BP806", check_output, tmp_path / "no" / "labels.nii.gz")
    assert "must end in .nii.gz or .nii" in refused("BP806", check_output, tmp_path / "labels.png")
    assert "is the input" in refused("BP806", check_output, source, source=source)
    (tmp_path / "link.nii.gz").symlink_to(source)
    assert "is the input" in refused("BP806", check_output, tmp_path / "link.nii.gz", source=source)
    (tmp_path / "folder.nii").mkdir()
    assert "is a folder" in refused("BP806", check_output, tmp_path / "folder.nii")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written to" in refused("BP806", check_output, tmp_path / "labels.nii.gz")


# --- drawing


def picture(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def test_a_picture_shows_the_labels(volume, tmp_path):
    plain, over = tmp_path / "plain.png", tmp_path / "over.png"
    draw_overlay(volume, np.zeros(SHAPE, np.uint8), plain)
    draw_overlay(volume, (volume.data[0] > 1).astype(np.uint8), over, title="Cost $5", names=["none", "_liver$"])
    assert np.ptp(picture(plain), axis=-1).max() < 0.01, "grey without labels"
    assert np.ptp(picture(over), axis=-1).max() > 0.5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["over.png", "plain.png", "scan.nii.gz"]


def test_a_picture_does_not_depend_on_how_the_file_is_stored(tmp_path):
    pictures = []
    for codes in ("RAS", "LPS", "PIR"):
        data = scan()
        data[:9] *= 0.3
        oriented(data, tilted(), codes).to_filename(tmp_path / "scan.nii")
        volume = read_volume(tmp_path / "scan.nii", 1)
        draw_overlay(volume, (volume.data[0] > 1.2).astype(np.uint8), tmp_path / "over.png")
        pictures.append(picture(tmp_path / "over.png"))
    assert all(np.allclose(pictures[0], other, atol=0.02) for other in pictures[1:])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_slices_meet_in_the_labels(tmp_path, codes):
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:7, 10:13, 6:9] = 1
    image = oriented(labels, tilted(), codes)
    scene = imaging._scene(imaging.Volume(scan(image.shape)[None], image.affine, Path("x"), image), image.get_fdata())
    np.testing.assert_allclose(scene.point, nibabel.affines.apply_affine(tilted(), (5, 11, 7)), atol=1e-4)
    assert scene.labels[scene.focus] == 1
    assert all(scene.cut(scene.labels, plane).sum() == 9 for plane in scene.planes)


def test_thin_volumes_show_what_they_have(tmp_path):
    volume = read_volume(save(tmp_path / "slice.nii.gz", scan((30, 40, 1))), 1, rank=2)
    labels = (volume.data[0] > 1).astype(np.uint8)
    assert [plane.name for plane in imaging._scene(volume, labels).planes] == ["Axial"]
    draw_overlay(volume, labels, tmp_path / "over.png")
    assert picture(tmp_path / "over.png").size


def test_a_legend_of_many_classes_ends_in_dots():
    entries = imaging._legend(np.arange(25), {3: "spleen", 4: "x" * 60})
    assert [text for _, text in entries[:4]] == ["class 1", "class 2", "spleen", "x" * 39 + "…"]
    assert entries[-1][1] == "… 10 more"
    assert len(entries) == 15


def test_pictures_are_checked_too(volume, tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    assert "must end in .png" in refused("BP806", draw_overlay, volume, labels, tmp_path / "over.jpg")


def test_drawing_leaves_matplotlib_as_it_was(volume, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_overlay(volume, np.ones(SHAPE, np.uint8), tmp_path / "over.png")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_importing_is_cheap():
    heavy = "{'torch', 'monai', 'nibabel', 'matplotlib'}"
    code = f"import sys, composer.imaging; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [(8, 9, 6), (5, 4, 7), (7, 5)])
def test_a_network_learns_where_its_window_is(size: tuple[int, ...], tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii"), 1)
    network = Place()
    heard: list[tuple[int, int]] = []
    labels = segment(network, volume, size=size, classes=2, batch=3, position=True, progress=lambda *n: heard.append(n))
    seen = imaging.turned(labels, volume.affine, imaging.view_codes("axial"))
    wanted = np.arange(seen.shape[-1]) >= seen.shape[-1] // 2
    assert (seen == wanted).all()
    assert network.seen.item() == heard[-1][1], "the first window, which only asks for the size, left no trace"
