"""A refusal instead of a crash: more memory than there is."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import composer
from composer import imaging, memory
from composer.cli.main import run
from composer.codes import CODES
from composer.testing import storages

VIT = dict(size=[32, 32], dim=64, depth=2, heads=2, classes=10)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.nii.gz"
    data = np.random.default_rng(0).normal(size=(40, 36, 30)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    return path


def have(monkeypatch: pytest.MonkeyPatch, amount: object) -> None:
    monkeypatch.setenv("COMPOSER_MEMORY", str(amount))


# --- building ---------------------------------------------------------------------------------------------------------


def test_build_refuses_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "100MB")
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load("vit").build()
    (found,) = caught.value.diagnostics
    assert found.code == "BP706"
    assert found.message == "building `vit` on cpu needs 346 MB of memory, and 100 MB are free"
    assert found.notes == ("blocks.0   28.4 MB", "blocks.1   28.4 MB", "blocks.2   28.4 MB")
    assert found.help[:2] == ("`vit:small` needs 88.2 MB", "`vit:tiny` needs 22.9 MB")
    assert "force=True" in found.help[-1]
    assert sum(p.nbytes for p in composer.load("vit:small").build().parameters()) == pytest.approx(88.2e6, rel=0.001)


def test_half_precision_is_offered_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = composer.load("vit", **VIT)
    needed = sum(p.nbytes for p in blueprint.build(device="meta").parameters())
    have(monkeypatch, int(needed * 0.6))
    with pytest.raises(composer.BlueprintError, match=r"`torch.set_default_dtype\(torch.bfloat16\)` before it needs"):
        blueprint.build()
    torch.set_default_dtype(torch.bfloat16)
    try:
        network = blueprint.build()
    finally:
        torch.set_default_dtype(torch.float32)
    assert network(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_build_is_overridable_and_asks_nothing_of_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "10kB")
    blueprint = composer.load("vit", **VIT)
    assert blueprint.build(force=True)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert next(blueprint.build(device="meta").parameters()).is_meta
    with pytest.raises(composer.BlueprintError, match="BP706"):
        blueprint.build()


def test_exactly_enough_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = composer.load("vit", **VIT)
    network = blueprint.build(device="meta")
    needed = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    have(monkeypatch, needed)
    blueprint.build()
    have(monkeypatch, needed - 1)
    with pytest.raises(composer.BlueprintError, match="BP706"):
        blueprint.build()


def test_weighing_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is weighed on the way (above a share of the memory) has the same random weights."""
    blueprint = composer.load("vit", **VIT)
    torch.manual_seed(4)
    plain = blueprint.build(force=True).state_dict()
    have(monkeypatch, "1MB")
    torch.manual_seed(4)
    weighed = blueprint.build().state_dict()
    assert all(torch.equal(plain[k], weighed[k]) for k in plain)


def test_one_giant_weight_is_refused_before_it_is_asked_for() -> None:
    blueprint = composer.load("vit", dim=2**20, heads=1, depth=1, size=[32, 32])
    with pytest.raises(composer.BlueprintError, match=r"BP706.*needs .* TB of memory"):
        blueprint.build()


def test_the_weights_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = composer.load("vit", **VIT)
    network = blueprint.build()
    path = tmp_path / "w.pt"
    torch.save(network.state_dict(), path)
    have(monkeypatch, int(1.5 * path.stat().st_size))
    blueprint.build()
    with pytest.raises(composer.BlueprintError, match="the weights file"):
        blueprint.build(weights=path)


# --- running ----------------------------------------------------------------------------------------------------------


def test_run_refuses_before_it_reads(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, "300MB")
    monkeypatch.setattr(imaging, "read_volume", lambda *_, **__: pytest.fail("the image was read"))
    out = tmp_path / "out.nii.gz"
    assert run(["run", "unet:volume", str(image), "-o", str(out), "--batch", "2"]) == 1
    err = capsys.readouterr().err
    assert "error[BP706]: running `unet:volume` on this image needs 388 MB of memory, and 300 MB are free" in err
    assert "up.3.upsample   113 MB" in err
    for way in ("--batch 1", "size=[48,96,96]", "--force"):
        assert f"`{way}`" in err
    assert not out.exists()


@pytest.mark.parametrize("way", ["size=[24,24,24]", "--dtype=bf16", "--force"])
def test_what_is_offered_runs(
    way: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "unet:demo", str(image), "-o", str(tmp_path / "out.nii.gz"), "--overlap", "0"]
    have(monkeypatch, "12MB")
    assert run(words) == 1
    assert way.replace("=bf16", " bf16") in capsys.readouterr().err
    assert run([*words, way]) == 0
    assert nibabel.load(tmp_path / "out.nii.gz").shape == (40, 36, 30)


def test_a_whole_image_that_does_not_fit_may_fit_in_windows(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "unet:demo", str(image), "image.pad=auto", "size=[16,16,16]", "-o", str(tmp_path / "out.nii.gz")]
    have(monkeypatch, "5MB")
    assert run([*words, "--whole"]) == 1
    assert "help: without `--whole` it needs" in capsys.readouterr().err
    assert run([*words, "--overlap", "0"]) == 0


@pytest.mark.parametrize(
    ("name", "size", "classes"), [("unet:demo", (48, 48, 48), 3), ("unet", (64, 64), 2)], ids=["volume", "slices"]
)
def test_buffers_are_those_of_a_real_run(name: str, size: tuple[int, ...], classes: int, tmp_path: Path) -> None:
    """Arrays and tensors on the processor around the network: never much more than was predicted, nor much less."""
    path, shape = tmp_path / "big.nii.gz", (100, 90, 80)
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4)), path)
    prepared, held = imaging.buffers(shape, 1, classes, size)
    network = _Thresholds(classes)
    imaging.segment(network, imaging.read_volume(path, 1, rank=len(size)), size=size, classes=classes)  # imports
    gc.collect()
    tracemalloc.start()
    volume = imaging.normalize(imaging.read_volume(path, 1, rank=len(size)), "zscore")
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    with storages.Tracker([]) as tracker:
        imaging.segment(network, volume, size=size, classes=classes, overlap=0.25)
    arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.6 * prepared < reading < 1.1 * prepared
    assert 0.6 * held < arrays + tracker.peak < 1.25 * held


class _Thresholds(torch.nn.Module):
    """Logits without a network worth mentioning."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(-1, self.classes, *x.shape[2:])


# --- how much there is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("500m", 5 * 10**8), ("12", 12), ("2 kb", 2000)],
)
def test_amounts(text: str, wanted: int) -> None:
    assert memory.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "lots", "8 XB", "-1GB", "8GBs"])
def test_no_amounts(text: str) -> None:
    with pytest.raises(composer.BlueprintError, match="is no amount of memory"):
        memory.parse(text)


def test_there_is_memory() -> None:
    found = memory.available()
    assert found is not None
    assert 10**7 < found < 10**15
    assert memory.available("xpu") is None


@pytest.mark.parametrize(
    ("line", "top", "limit", "used"),
    [
        ("0::/jobs/one", "", "memory.max", "memory.current"),
        ("4:cpu,memory:/jobs/one", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_limits_of_control_groups_count(line: str, top: str, limit: str, used: str, tmp_path: Path) -> None:
    """The tightest of a group and those around it; caches do not count as used."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    for path, bound, taken, cache in (("jobs/one", "8000", 3000, 500), ("jobs", "5000", 3500, 0), ("", "max", 0, 0)):
        folder = root / top / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(bound)
        (folder / used).write_text(str(taken))
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    own.write_text(line + "\n")
    assert sorted(memory._groups(root, own)) == [1500, 5500]


def test_the_code_is_explained() -> None:
    assert "COMPOSER_MEMORY" in CODES["BP706"].text
