"""What people do by accident: each a clear error with exit status 1, no traceback, nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from composer.cli.main import run

HEAD = "blueprint: 1\ninputs: {image: {type: B 1 *S, size: [16, 16]}}\n"
TAIL = "outputs: {logits: head}\n"


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(words) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "BP901" not in err
    assert re.match(r"error\[BP\d{3}\]: ", err)
    return err


FILES = {
    "binary garbage": (bytes(range(256)) * 8, "BP001"),
    "an empty file": ("", "BP006"),
    "only a comment": ("# nothing\n", "BP006"),
    "not a mapping": ("- a\n- b\n", "BP006"),
    "an alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{k}: &c{k} [*b, *b, *b]\n" for k in range(99)), "BP002"),
    "a merge bomb": ("a: &a {x: 1}\nb: {<<: *a}\n", "BP005"),
    "nested brackets": ("a: " + "[" * 200_000, "BP002"),
    "unknown key": (HEAD + "grph: {}\n", "did you mean `graph`?"),
    "unknown block": (HEAD + "graph: {head: {use: convv, out: 2}}\n" + TAIL, "did you mean `conv`?"),
    "unknown namespace": (HEAD + "graph: {head: {use: msda.attention}}\n" + TAIL, "no installed plugin provides the namespace `msda`"),
    "unknown option": (HEAD + "graph: {head: {use: conv, out: 2, kernell: 3}}\n" + TAIL, "did you mean `kernel`?"),
    "unknown reference": (HEAD + "graph: {a: {use: conv}, head: {use: conv, from: b}}\n" + TAIL, "no value is named `b`"),
    "a wrong type": (HEAD + "graph: {head: {use: conv, out: many}}\n" + TAIL, "BP201"),
    "a missing input": (HEAD + "graph: {head: {use: conv, from: {y: image}}}\n" + TAIL, "BP203"),
    "a circle": (HEAD + "graph: {a: {use: conv, from: head}, head: {use: conv, from: a}}\n" + TAIL, "BP109"),
    "a duplicate key": (HEAD + "graph: {head: {use: conv}}\ngraph: {}\n" + TAIL, "BP004"),
    "a missing parameter": (HEAD + "graph: {head: {use: conv, out: $width}}\n" + TAIL, "unknown name `width`"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, wanted = FILES[name]
    assert wanted in refused(["check", written(tmp_path, text)], capsys)


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "")
    err = refused(["check", str(tmp_path / "mine2.yaml")], capsys)
    assert "mine.yaml" in err


def test_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "directory" in refused(["check", str(tmp_path)], capsys)


def test_a_file_of_50_megabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "BP002" in refused(["check", written(tmp_path, b"a: " + b"x" * 50_000_000)], capsys)


def saved(folder: Path, data: np.ndarray) -> str:
    path = folder / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    return str(path)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def with_nan() -> np.ndarray:
    data = noise(8, 8, 8)
    data[1, 2, 3] = np.nan
    return data


IMAGES = {
    "NaN": (with_nan(), "1 of 512 voxels"),
    "2-D": (noise(8, 8), "2-D"),
    "4-D": (noise(8, 8, 8, 2), "4-D with shape 8 x 8 x 8 x 2"),
    "one slice": (noise(8, 8, 1), "one"),
    "constant": (np.zeros((8, 8, 8), np.float32), "BP804"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, wanted = IMAGES[name]
    path, out = saved(tmp_path, data), tmp_path / "out.nii.gz"
    err = refused(["run", "unet:volume", path, "-o", str(out)], capsys)
    assert wanted in err
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x1f\x8b\x08garbage"])
def test_files_that_are_no_image(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(content)
    assert "BP801" in refused(["run", "unet:volume", str(path), "-o", str(tmp_path / "o.nii.gz")], capsys)


def test_missing_image_directory_and_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "o.nii.gz")
    assert "BP801" in refused(["run", "unet:volume", str(tmp_path / "no.nii.gz"), "-o", out], capsys)
    assert "BP801" in refused(["run", "unet:volume", str(tmp_path), "-o", out], capsys)
    image = saved(tmp_path, noise(8, 8, 8))
    assert "BP806" in refused(["run", "unet:volume", image, "-o", str(tmp_path / "no" / "o.nii.gz")], capsys)
    assert "BP806" in refused(["run", "unet:volume", image, "-o", str(tmp_path / "o.txt")], capsys)
    assert "BP806" in refused(["run", "unet:volume", image, "-o", image], capsys)


def test_weights_that_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, weights = saved(tmp_path, noise(8, 8, 8)), tmp_path / "w.safetensors"
    weights.write_bytes(b"garbage")
    out = tmp_path / "o.nii.gz"
    words = ["run", "unet:volume", image, "-o", str(out), "--weights"]
    assert "BP702" in refused([*words, str(weights)], capsys)
    assert "BP702" in refused([*words, str(tmp_path / "none.safetensors")], capsys)
    assert not out.exists()
