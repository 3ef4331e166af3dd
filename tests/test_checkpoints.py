"""Official checkpoints: every published key has its place, nothing is lost on the way there and back, and the command
line writes what `build(weights=…)` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from goldens import Case, golden
from parity import CASES
from torch import Tensor

import composer
from composer.cli.main import run
from composer.keymap import match
from composer.weights import convert, export, load_file, save_file

SIZES = {model: {case["size"] for case in golden(model)["cases"]} for model in CASES}
PUBLISHED = [model for model, sizes in SIZES.items() if "published" in sizes]


def official_shapes(case: Case) -> dict[str, list[int]]:
    """The shape of every tensor of an official checkpoint, without a single number."""
    explicit = {name: list(torch.tensor(v).shape) for name, v in case.data.get("explicit_tensors", {}).items()}
    return {name: entry[0] for name, entry in case.data["tensors"].items()} | explicit


def tiny(model: str) -> composer.Blueprint:
    name, params = CASES[model]
    return composer.load(name, **params)


def test_every_golden_has_a_tiny_and_a_published_case() -> None:
    assert all("tiny" in sizes for sizes in SIZES.values())
    assert set(CASES) - set(PUBLISHED) == {"fine_depth3"}  # not a published size: FINE's other depth


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_keys_map_completely(model: str) -> None:
    """On names and shapes alone: the network stands on the meta device."""
    blueprint = composer.load(CASES[model][0])
    wanted = {name: tuple(t.shape) for name, t in blueprint.build(device="meta").state_dict().items()}
    plan = match(blueprint.weights["official"], official_shapes(Case(model, "published")), wanted)
    assert plan.complete, plan
    reached = [address for move in plan.moves.values() for address in move.addresses]
    assert len(reached) == len(set(reached))
    assert {a for a in wanted if not a.endswith("num_batches_tracked")} <= set(reached)


@pytest.mark.parametrize("model", CASES)
def test_there_and_back_gives_the_same_tensors(model: str) -> None:
    official, blueprint = Case(model, "tiny").weights(), tiny(model)
    state = blueprint.build(device="meta").state_dict()
    ours, plan = convert(official, blueprint.weights["official"], state)
    assert plan.complete, plan
    again = export(ours, blueprint.weights["official"], {name: t.shape for name, t in official.items()})
    assert set(again) == set(plan.moves) == set(official) - set(plan.dropped)
    assert all(torch.equal(again[name], official[name]) for name in again)


@pytest.mark.parametrize("model", CASES)
def test_the_other_way_round_loses_nothing(model: str) -> None:
    """Ours -> official -> ours: what is trained here can be used there."""
    official, blueprint = Case(model, "tiny").weights(), tiny(model)
    shapes = {name: t.shape for name, t in official.items()}
    state = numbered(blueprint.build(device="meta").state_dict())
    theirs = export(state, blueprint.weights["official"], shapes)
    kept = {k: theirs.get(k, t) for k, t in official.items()}
    ours, _ = convert(kept, blueprint.weights["official"], state)
    assert all(torch.equal(ours[name], state[name]) for name in state if not name.endswith("num_batches_tracked"))


def numbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of these shapes, no two numbers of one tensor alike, and no two tensors either."""
    made = {}
    for k, (name, t) in enumerate(state.items()):
        made[name] = torch.arange(t.numel(), dtype=torch.float64).reshape(t.shape) + 1_000_000 * k
    return made


@pytest.mark.parametrize("model", CASES)
def test_what_the_command_line_converts_is_read(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, params = CASES[model]
    official, blueprint = Case(model, "tiny").weights(), tiny(model)
    save_file(official, tmp_path / "official.safetensors")
    words = [f"{key}={json.dumps(value)}" for key, value in params.items()]
    target = tmp_path / "ours.safetensors"
    source = str(tmp_path / "official.safetensors")
    assert run(["weights", "convert", source, *words, "--to", name, "--from", "official", "-o", str(target)]) == 0
    assert "complete" in capsys.readouterr().out.splitlines()
    state = blueprint.build(weights=target).state_dict()
    wanted, _ = convert(official, blueprint.weights["official"], state)
    assert all(torch.equal(state[address], tensor) for address, tensor in wanted.items())
    assert set(load_file(target)) == set(wanted)


def test_a_checkpoint_of_training_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As training writes them: a pickle, nested, with the prefix of DataParallel and the buffers of the constructor."""
    name, params = CASES["swin_unet"]
    official = Case("swin_unet", "tiny").weights()
    extra = {"swin_unet.layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long)}
    nested = {"model": {f"module.{k}": v for k, v in (official | extra).items()}, "epoch": 150}
    torch.save(nested, tmp_path / "epoch_149.pth")
    words = [f"{key}={json.dumps(value)}" for key, value in params.items()]
    assert run(["weights", "convert", str(tmp_path / "epoch_149.pth"), *words, "--to", name]) == 0
    assert "dropped 1" in capsys.readouterr().out
    network = composer.load(name, **params).build(weights=tmp_path / "epoch_149.safetensors")
    assert torch.equal(network.get_parameter("norm.weight"), official["swin_unet.norm.weight"])


def test_a_missing_tensor_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, params = CASES["unetr"]
    official = Case("unetr", "tiny").weights()
    del official["vit.norm.weight"]
    save_file(official, tmp_path / "official.safetensors")
    words = [f"{key}={json.dumps(value)}" for key, value in params.items()]
    target = tmp_path / "ours.safetensors"
    source = str(tmp_path / "official.safetensors")
    assert run(["weights", "convert", source, *words, "--to", name, "-o", str(target)]) == 1
    assert "missing, no key for: norm.weight" in capsys.readouterr().out
    assert not target.exists()
