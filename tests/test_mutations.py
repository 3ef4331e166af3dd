"""Mutated blueprints: whatever a file holds, `check` passes or says what is wrong and where."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

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


def test_a_word_in_the_place_of_a_first_is_an_unknown_block(tmp_path: Path) -> None:
    """Found by mutated files: the first of each loop is a word, while the others are mappings."""
    document = yaml.safe_load((FILES[0].parent / "nnunet.yaml").read_text())
    document["graph"]["encoder"]["first"] = "**"
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    assert "BP102" in outcome(tmp_path / "t.yaml")


def test_a_suggestion_that_makes_a_huge_network_is_not_tried(tmp_path: Path) -> None:
    text = "blueprint: 1\nparams: {widths: [9000]}\ninputs: {image: {type: B 1 H W, size: [8, 8]}}\ngraph:\n"
    text += "  a: {use: linear, out: 1, repeat: '${sum(width)}'}\noutputs: {a: a}\n"
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load(tmp_path / "t.yaml").check()
    assert "unknown name `width`" in str(caught.value)
    assert "did you mean" not in str(caught.value)
