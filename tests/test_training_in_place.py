"""Training on crops of a volume with tokens of its cells: crops know where they were cut, tokens of cells that no crop
shows stay as they are, what was seen outlives a killed run, and the place is learned from."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

import composer
from composer import imaging
from composer.cli.main import run
from composer.training import cases, store
from composer.training.recipe import Recipe
from composer.weights import load_file

pytest.importorskip("lightning")
from composer.lightning import Segmentation
from composer.training.patches import Patches
from composer.training.predicting import learned
from composer.training.tables import Unread, tables

SMALL = {"widths": [4, 8], "heads": 2, "window": 2}
"""Of `nnunet_fine`: an nnU-Net of two levels, with the tokens at its bottleneck."""


def network(size: int = 8, whole: int = 32) -> composer.module.Network:
    torch.manual_seed(0)
    made = composer.load("nnunet_fine", size=[8, size, size], volume=[8, whole, whole], classes=2, **SMALL).build()
    return made


def tokens(network: composer.module.Network) -> Tensor:
    """(cells, C)"""
    return next(p for name, p in network.named_parameters() if name.endswith("volume.tokens"))


def optimized(network: composer.module.Network, recipe: Recipe, places: list[list[float]]) -> list[Tensor]:
    """The tokens before, and after a step on a crop at each place, as Lightning takes it."""
    module = Segmentation(network, recipe)
    (optimizer,) = [module.configure_optimizers()["optimizer"]]
    network.train()
    found = [tokens(network).detach().clone()]
    for place in places:
        optimizer.zero_grad()
        size = module.size
        batch = {"image": torch.randn(1, 1, *size), "label": torch.randint(0, 2, (1, 1, *size)).float()}
        module.objective(network(batch["image"], torch.tensor([place])), batch["label"]).backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        found.append(tokens(network).detach().clone())
    return found


# ---- untouched cells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam"])
def test_tokens_of_untouched_cells_stay_bit_for_bit(optimizer: str) -> None:
    """Four by four cells of 8 voxels. A crop in the first corner shows cells 0, 1, 4 and 5, and the numbers of what was
    seen forbid attention to the others; then one in the last corner, which attends to what the first has seen."""
    made = network()
    recipe = Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.1, momentum=0.9)  # type: ignore[arg-type]
    before, one, two = optimized(made, recipe, [[0, -12, -12], [0, 12, 12]])
    first, last = [0, 1, 4, 5], [10, 11, 14, 15]
    others = [k for k in range(16) if k not in first]
    assert (one[first] != before[first]).any(1).all()
    assert torch.equal(one[others], before[others])
    never = [k for k in others if k not in last]
    assert torch.equal(two[never], before[never])
    assert (two[last] != one[last]).any(1).all()
    gradient = tokens(made).grad
    assert gradient is not None
    assert (gradient[never] == 0).all()
    assert (gradient[last] != 0).any(1).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_tokens_that_were_read_once_do_not_drift(optimizer: str) -> None:
    """Without attention among cells only the crop's own tokens are read: momentum and decay leave the others alone, and
    a cell that is read again goes on from its own moments."""
    made = network()
    table = torch.nn.Parameter(torch.randn(4, 3))
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    optimizer_ = kind([table], lr=0.1, weight_decay=0.1, **options)  # type: ignore[operator]
    unread = Unread(iter([table]), optimizer_)
    alone = torch.nn.Parameter(table.detach()[1:2].clone())
    other = kind([alone], lr=0.1, weight_decay=0.1, **options)  # type: ignore[operator]
    start = table.detach().clone()
    for rows in ([1], [1], [2], [1, 2]):
        optimizer_.zero_grad()
        table[rows].square().sum().backward()
        unread.remember()
        before = table.detach().clone()
        optimizer_.step()
        still = [k for k in range(4) if k not in rows]
        assert torch.equal(table[still], before[still])
        if 1 in rows and optimizer == "sgd":  # Adam counts the steps of a table, not those of its rows
            other.zero_grad()
            alone.square().sum().backward()
            other.step()
            assert torch.allclose(table[1:2], alone)
    assert torch.equal(table[[0, 3]], start[[0, 3]])
    assert [p is tokens(made) for p in tables(made, made.blueprint.check())].count(True) == 1


# ---- positions -------------------------------------------------------------------------------------------------------


def volume(folder: Path, name: str, size: tuple[int, ...] = (24, 26, 12), seed: int = 0) -> tuple[Path, Path]:
    """An image and its labels, both a ramp along each axis: a patch tells where it was cut. Axes as the network's."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
    files = folder / f"{name}.nii.gz", folder / f"{name}_labels.nii.gz"
    for file, voxels in zip(files, (grid[1].astype(np.float32), (grid[1] > 12).astype(np.uint8)), strict=True):
        nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(file)
    return files


def listed(folder: Path, pairs: list[tuple[Path, Path]], **more: object) -> Path:
    document = {"labels": ["background", "there"], "cases": [{"image": i.name, "label": m.name} for i, m in pairs]}
    path = folder / "list.yaml"
    path.write_text(json.dumps({**document, **more}))
    return path


def in_memory(folder: Path, image: np.ndarray) -> store.Example:
    """A prepared case (C, D, H, W), whose second class is everywhere."""
    label = np.ones(image.shape[1:], np.uint8)
    np.save(folder / "a.image.npy", image)
    np.save(folder / "a.label.npy", label)
    np.savez(folder / "a.places.npz", **{"1": np.argwhere(label).astype(np.int32)})
    return store.Example("a", "training", folder, (0, label.size))


@pytest.mark.parametrize("how", ["still", "mirrored", "turned", "shifted"])
def test_a_position_is_the_place_that_the_middle_of_a_patch_shows(how: str, tmp_path: Path) -> None:
    """The image holds its own coordinates, so that the middle of every patch can be asked for its place."""
    size, shape = (7, 9, 9), (15, 30, 31)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)
    plain = dict(often=1, flip=False, rotate=0, scale=0, gamma=0, brightness=0, noise=0, steps=20, epochs=1)
    change = {
        "still": {},
        "mirrored": {"flip": True},
        "turned": {"rotate": 40, "scale": 0.1},
        "shifted": {"shift": 0.3},
    }
    example, view = in_memory(tmp_path, grid), store.View(3, 2, size)
    patches, still = (
        Patches([example], view, Recipe(**{**plain, **more}), flip=True, position=True)  # type: ignore[arg-type]
        for more in (change[how], {})
    )
    for number in range(20):
        shown = patches[number]["image"][:, 3, 4, 4] - torch.tensor([n // 2 for n in shape])
        assert (shown - patches[number]["position"]).abs().max() <= 0.51
    moved = [not torch.equal(patches[k]["position"], still[k]["position"]) for k in range(20)]
    assert any(moved) is (how == "shifted")


def test_windows_of_a_padded_volume_are_told_the_same_in_training_and_in_prediction(tmp_path: Path) -> None:
    """A volume thinner than the patch: with one place to cut, both say the middle."""
    data = cases.read(listed(tmp_path, [volume(tmp_path, "a", (24, 26, 5))]))
    view = store.View(1, 2, (8, 26, 24))
    (example,) = store.prepare(data, view, store.scalings(data, 1), tmp_path / "prepared", pad=True)
    told: list[Tensor] = []

    class Hears(torch.nn.Module):
        def forward(self, x: Tensor, position: Tensor) -> Tensor:
            told.append(position)
            return torch.cat([x, -x], 1)

    still = Recipe(often=0, flip=False, steps=1, epochs=1)
    patch = Patches([example], view, still, flip=False, position=True)[0]
    seen = imaging.seen_along(store.volume_of(data.cases[0], 1))
    imaging.segment_seen(Hears(), seen, size=view.size, classes=2, position=True)
    assert all(torch.equal(p[0].float(), patch["position"]) for p in told)


# ---- runs ------------------------------------------------------------------------------------------------------------


def sided(folder: Path, count: int = 3) -> Path:
    """Long volumes of noise with four bright balls in a row, of which the last two count: what to call a ball is to be
    known by its place alone. They span four cells of a patch's size along Y."""
    pairs = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        shape = (8, 64, 4)  # X, Y, Z, which the network sees as Z, Y, X
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
        image, label = rng.normal(0, 0.3, shape), np.zeros(shape, np.uint8)
        for y in (8, 24, 40, 56):
            centre = np.array([4 + rng.integers(-1, 2), y + rng.integers(-3, 4), 2])
            inside = ((grid - centre[:, None, None, None]) ** 2).sum(0) < 10
            image[inside] += 3
            label[inside & (y > 32)] = 1
        files = folder / f"v{seed}.nii.gz", folder / f"v{seed}_labels.nii.gz"
        for file, voxels in zip(files, (image.astype(np.float32), label), strict=True):
            nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(file)
        pairs.append(files)
    return listed(folder, pairs, split={"validation": [f"v{count - 1}"], "test": []})


def asked(data: Path, out: Path, *more: str) -> list[str]:
    words = ["nnunet_fine", "size=[4,16,8]", "widths=[8,16]", "heads=2", "window=4"]
    recipe = ["--lr", "0.01", "--batch", "4", "--recipe", "often=0"]
    return ["train", *words, "--data", str(data), "--out", str(out), "--device", "cpu", *recipe, *more]


def test_the_place_is_learned_and_what_was_seen_outlives_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = sided(tmp_path), tmp_path / "run"
    words = asked(data, out, "--epochs", "3", "--steps", "24", "--recipe", "optimizer=adamw")
    assert run(words) == 0
    assert "volume=[4,64,8]" in capsys.readouterr().out
    rows = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    dice = float(rows[-1][rows[0].index("dice")])
    assert dice > 0.85, rows  # all balls called alike, wherever they lie, are 0.67 at most
    kept = load_file(out / "last.safetensors")
    (visits,) = [v for k, v in kept.items() if k.endswith("visits")]
    assert float(visits.min()) > 0
    assert float(visits.max()) == 72  # once in each step; validation is not counted
    known = learned([out], "last", flips=True)
    image = known.seen(cases.read(data).cases[0])
    one, two = (known.segment(image, 0.25) for _ in range(2))
    assert np.array_equal(one, two)
    assert torch.equal(dict(known.network.named_buffers())["networks.0.cell.visits"], visits)


def test_a_run_that_goes_on_remembers_what_it_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the first of two epochs, it comes to the same tokens and the same counts."""
    from composer.training import engine

    data = sided(tmp_path, 2)
    more = ["--epochs", "2", "--steps", "2", "--recipe", "optimizer=sgd"]
    assert run(asked(data, tmp_path / "whole", *more)) == 0
    kept = engine.Keeper.on_train_batch_start

    def dies(self: object, trainer: object, module: object, batch: object, number: int) -> None:
        if trainer.current_epoch == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        kept(self, trainer, module, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.Keeper, "on_train_batch_start", dies)
    assert run(asked(data, tmp_path / "cut", *more)) != 0
    monkeypatch.undo()
    assert run(asked(data, tmp_path / "cut", *more)) == 0
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[k], other[k]) for k in one)
