"""Mutated blueprints: whatever a file holds, `check` passes or says what is wrong and where."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import composer
from composer.testing import MUTATIONS, mutated, outcome

FILES = sorted((Path(__file__).parents[1] / "blueprints").glob("*.yaml"))


@pytest.mark.parametrize("seed", [*range(40), 2030, 2778, 2888, 3427, 3448])
def test_a_mutated_file_passes_or_says_where_it_is_wrong(tmp_path: Path, seed: int) -> None:
    at = random.Random(seed)
    text = mutated(at.choice(FILES).read_text(), at)
    (tmp_path / "t.yaml").write_text(text)
    outcome(tmp_path / "t.yaml")


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_kind_of_mutation_breaks_something(tmp_path: Path, kind: str) -> None:
    found = set()
    for seed in range(12):
        at = random.Random(seed)
        (tmp_path / "t.yaml").write_text(MUTATIONS[kind](at.choice(FILES).read_text(), at))
        found.add(outcome(tmp_path / "t.yaml"))
    assert len(found) > 1


def test_a_grid_without_cells_is_refused_where_they_are_lost() -> None:
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load("nnformer", size=[64, 8, 8]).check()
    assert not {d.code for d in caught.value.diagnostics} & {"BP603", "BP901"}


def test_a_source_of_weights_that_is_no_list_is_said(tmp_path: Path) -> None:
    text = (FILES[-1]).read_text() + "\n"
    (tmp_path / "t.yaml").write_text(text.split("weights:")[0] + "weights: {official: 3}\n")
    outcome(tmp_path / "t.yaml")
