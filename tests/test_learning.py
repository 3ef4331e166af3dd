"""The table of what networks learn: a row of it from beginning to end, resumed and failed; Dice over pieces together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composer.training import demonstration
from composer.training.scoring import pooled

pytest.importorskip("lightning")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(demonstration, "lobes", lobes)
    import learning

    return learning


def lobes() -> Any:
    """Columns of all classes, as tall as the brain, instead of one made from packages."""
    rng = np.random.default_rng(0)
    labels = np.zeros((96, 96, 79), np.uint8)
    for k in range(len(demonstration.CLASSES)):
        labels[4 + 6 * k : 10 + 6 * k, 20:76] = k
    image = (labels + rng.uniform(0, 0.5, labels.shape)).astype(np.float32)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -96, -96, -72
    return image * (labels > 0), labels, affine


def test_a_row_from_its_blueprint_to_the_page(learning: Any, tmp_path: Path, capsys: Any) -> None:
    """In this process; then the page of a table in which another failed."""
    demonstration.write(tmp_path / "lobes")
    row = learning.learned("short_unet", tmp_path, steps=2, seed=0)
    assert (row.sees, row.parameters, row.why) == ("96×96", 58462, "")
    assert 0 <= row.region <= 1
    assert 0 < row.matter <= 1
    assert row.loss > 0
    assert row.seconds > 0
    table = tmp_path / "rows.csv"
    table.write_text(learning.as_csv([row, replace(row, name="unet", why="no memory")]))
    assert learning.read(table)["short_unet", 0, 2] == row
    page = learning.page(list(learning.read(table).values()))
    assert "| `short_unet` | 96×96 | 58,462 |" in page
    assert "- `unet`: no memory" in page
    assert "- `setr`: not run" in page


def test_rows_that_are_known_are_not_run_again(
    learning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """One that failed is; what went wrong is said, and the exit status says it too."""
    ran = []

    def apart(name: str, given: Any) -> Any:
        ran.append(name)
        return learning.Row(name, given.seed, given.steps, region=0.5, why="" if name == "unet" else "no memory")

    monkeypatch.setattr(learning, "apart", apart)
    asked = ["unet", "setr", "--out", str(tmp_path), "--page", str(tmp_path / "page.md")]
    assert learning.main(asked) == learning.main(asked) == 1
    assert ran == ["unet", "setr", "setr"]
    assert "no memory" in capsys.readouterr().out
    assert "`unet`" in (tmp_path / "page.md").read_text()


def test_every_row_is_a_network_of_the_lobes(learning: Any) -> None:
    """Of one channel and all classes, and no much larger than another."""
    from composer.training.suiting import view_of

    for name in learning.blueprints():
        view = view_of(learning.blueprint(name))
        assert (view.channels, view.classes) == (1, len(demonstration.CLASSES)), name
    assert set(learning.ABLATION) <= set(learning.blueprints())


def test_dice_over_all_pieces_together() -> None:
    """A class of which a piece shows a corner weighs there as much as its voxels do."""
    truth = [np.array([1, 1, 1, 1, 0]), np.array([1, 0, 2])]
    found = [np.array([1, 1, 1, 1, 0]), np.array([0, 1, 2])]
    dice = pooled(zip(found, truth, strict=True), ("none", "one", "two", "three"))
    assert dice["one"] == 2 * 4 / (5 + 5)
    assert dice["two"] == 1
    assert np.isnan(dice["three"])
