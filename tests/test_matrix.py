"""The swap matrix: any attention in any architecture, any fusion in any decoder, any position in any token model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import composer
from composer.blueprint import published
from composer.cli.main import run
from composer.diagnostics import ComposerError
from composer.swaps import Cell, cells, owners_of, smallest, swaps_of
from composer.usage import usage

REGISTRY = composer.Registry.discover()
FILE = swaps_of(REGISTRY)
CELLS = cells(REGISTRY)
LEAST = 0.95
"""Of the cells of each family, how many must build."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks are so small that threads wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cell", CELLS, ids=[c.id for c in CELLS])
def test_it_runs_forward_and_backward_or_says_why_not(cell: Cell) -> None:
    outcome = cell.run(REGISTRY)
    assert outcome.code == cell.refused, outcome.reason
    assert outcome.parameters > 0 or outcome.reason


@pytest.mark.parametrize("family", FILE["families"])
def test_most_cells_build(family: str) -> None:
    """What may not build is listed, with its code, and the test of each cell holds it to that."""
    mine = [c for c in CELLS if c.family == family]
    built = [c for c in mine if not c.refused]
    print(f"{family}: {len(built)} of {len(mine)} build, {100 * len(built) / len(mine):.1f} %")
    assert len(built) >= LEAST * len(mine)


def test_no_mistake_is_expected_where_there_is_no_cell() -> None:
    found = {(c.family, c.swap, c.blueprint) for c in CELLS}
    listed = {(f, s, b) for f, swaps in FILE["refused"].items() for s, names in swaps.items() for b in names}
    known = published()
    assert {entry for entry in listed if entry[2].partition(":")[0] in known} <= found


def test_every_architecture_with_a_place_is_in_the_matrix() -> None:
    owners = {family["owner"] for family in FILE["families"].values()}
    names = {n.partition(":")[0] for n in FILE["tiny"]}
    for variant in usage(REGISTRY, published()).variants:
        if variant.blocks & owners:
            assert variant.name in names, f"give `{variant.name}` a `tiny` entry in swaps.yaml"


@pytest.mark.parametrize("name", ["vit", "swin_unet", "unet"])
def test_a_swap_changes_the_network(name: str) -> None:
    """All swaps of a place are different networks: their types, options or parameters differ."""
    for family, count in Counter(c.family for c in CELLS if c.blueprint == name and not c.refused).items():
        seen = set()
        for cell in (c for c in CELLS if c.blueprint == name and c.family == family and not c.refused):
            steps = cell.edited(REGISTRY).infer().steps
            seen.add((cell.rank, tuple((s.address, repr(s.block)) for s in steps)))
        assert len(seen) == count


def test_owners_are_found_in_the_linked_graph() -> None:
    tiny = smallest(REGISTRY, "swin_unet")
    assert list(owners_of(tiny, "decoder.stage", None)) == ["decoder.0", "decoder.1", "decoder.2"]
    assert list(owners_of(tiny, "decoder.stage", ["decoder.1"])) == ["decoder.1"]


def test_the_command_prints_the_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = [c for c in CELLS if c.blueprint == "unet" and c.rank == 2]
    monkeypatch.setattr("composer.cli.tables.cells", lambda registry: few)
    assert run(["blocks", "--matrix"]) == 0
    assert "fusion: 6 of 6 build, 100.0 %" in capsys.readouterr().out
    assert run(["blocks", "--matrix", "--markdown"]) == 0
    assert "| unet 2-D | ✓ |" in capsys.readouterr().out
    assert run(["blocks", "--matrix", "--json"]) == 0
    assert all(row["built"] and row["parameters"] for row in json.loads(capsys.readouterr().out))


def test_a_cell_that_cannot_be_built_has_its_reason() -> None:
    outcome = Cell("attention", "window", "vit", 2).run(REGISTRY)
    assert outcome.code == ""
    assert outcome.parameters > 0
    tiny = smallest(REGISTRY, "vit")
    with pytest.raises(composer.BlueprintError, match="1 extra token in front"):
        composer.load("vit", **{**tiny.values, "blocks.*.attention": {"use": "attention.window", "heads": 2}}).check()


def test_who_uses_what(capsys: pytest.CaptureFixture[str]) -> None:
    found = usage(REGISTRY, published())
    assert {"vit", "swin_unet"} <= set(found.users("block.transformer"))
    assert found.presets("norm.instance", "unet") == ("volume",)
    assert found.presets("norm.batch", "unet") == ()
    assert {v.family for v in found.variants if v.name == "mt_transunet"} == {"transunet"}
    assert not set(found.blueprints) & set(found.fragments)
    assert run(["blocks", "--used-by", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["alone"], said["single"]) == (found.alone, found.single)
    assert {b["name"] for b in said["blocks"]} == {*REGISTRY.blocks, *found.fragments}
    assert run(["blocks", "--used-by"]) == 0
    assert f"Blocks in one family alone: {len(found.single)}: " in capsys.readouterr().out
    assert run(["blocks", "--used-by", "--markdown"]) == 0
    assert "| `conv` |" in capsys.readouterr().out


def test_no_block_belongs_to_one_architecture() -> None:
    """But for FINE's index arithmetic, some activations, and hidden tokens, which `composer pretrain` puts into every
    encoder; a block that no blueprint uses is a swap or a gate."""
    found = usage(REGISTRY, published())
    memory = {"memory.cells", "memory.volume_tokens"}
    hidden = {"tokens.mask", "tokens.unmask"}
    activations = {"act.elu": "vnet", "act.prelu": "attention_unet_monai"}
    alone = dict.fromkeys(memory, "fine") | dict.fromkeys(hidden, "vit_mae")
    assert found.alone == alone | activations | {"act.tanh": "mt_transunet"}
    assert set(found.single) == {*memory, *hidden, *activations, "act.tanh"}, "share it, or make it of shared blocks"
    assert set(found.unused) == {"act.silu", "act.softmax", "act.softplus", "attention.linear", "position.rotary"}
    assert len(found.blocks) <= 55


def test_a_blueprint_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("blueprint: 1\nname: broken\n")
    with pytest.raises(ComposerError):
        composer.load(broken)
    registry = composer.Registry(blocks=REGISTRY.blocks, blueprints={"broken": broken})
    assert set(usage(registry, ["broken", "vit"]).blueprints) == {"vit"}
