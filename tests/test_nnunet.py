"""nnU-Net's planner and trainer, in what needs no nnU-Net: patch, batch, memory, outputs, and what is refused.

The plans of the paper are the reference: for the hippocampus of the Decathlon (35 × 51 × 35 voxels of 1 mm, 260 cases)
nnU-Net plans patches of 40 × 56 × 40, nine at a time, and four stages.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

import composer
from composer.cli.main import run
from composer.diagnostics import BlueprintError
from composer.nnunet import installing, reporting
from composer.nnunet.architecture import PLANNER, TRAINER, VARIABLE, Architecture, OtherRankError, asked, given
from composer.nnunet.heads import heads
from composer.nnunet.planning import SHARE, Data, Planned, Trial, plan, shrinking
from composer.nnunet.supervision import Maps, Supervised, coarser
from composer.nnunet.topology import parameters, stages

VOLUME = Data((1.0, 1.0, 1.0), (40, 48, 40), 1, 2, 40 * 48 * 40 * 20.0)


def planned(words: str, data: Data = VOLUME, gigabytes: float = 8) -> Planned:
    blueprint = asked(words)
    return plan(Architecture(blueprint.to_yaml()).load, data, gigabytes, given(blueprint))


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(BlueprintError) as caught:
        call()
    assert all(d.help for d in caught.value.diagnostics)
    return caught.value.diagnostics[0].code


def flat(folder: Path) -> str:
    """A blueprint on two axes, of one channel and two classes, that cannot be made for anything else."""
    path = folder / "net.yaml"
    path.write_text(
        "blueprint: 1\nname: net\ninputs: {image: {type: B 1 H W, size: [8, 8]}}\n"
        "graph: {head: {use: conv, out: 2, kernel: 1}}\noutputs: {labels: head}\n"
    )
    return str(path)


# ---------------------------------------------------------------- planning


def test_the_hippocampus_is_planned_as_in_the_paper() -> None:
    found = planned("nnunet", Data((1.0, 1.0, 1.0), (35, 51, 35), 1, 3, 35 * 51 * 35 * 260.0))
    assert (found.patch, found.batch) == ((40, 56, 40), 9)
    assert found.params["widths"] == [32, 64, 128, 256]
    assert found.params["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]


def test_a_patch_is_valid_fits_and_the_next_larger_does_not() -> None:
    load, words = Architecture(asked("unet widths=[4,8]").to_yaml()).load, "unet widths=[4,8]"
    found = planned(words, gigabytes=0.02)
    trial = Trial(load, VOLUME, frozenset({"widths"}))
    patches = list(shrinking(trial.program, VOLUME))
    assert patches[0] == (40, 48, 40)
    assert sorted(patches, key=prod, reverse=True) == patches
    k = patches.index(found.patch)
    assert k > 0
    assert trial.bytes(patches[k], 2) == found.bytes <= 0.02e9 * SHARE < trial.bytes(patches[k - 1], 2)
    found.blueprint.check(image=(2, 1, *found.patch))
    assert (found.params["size"], found.blueprint.values["classes"]) == (list(found.patch), 2)


def test_memory_that_is_left_over_goes_into_the_batch_up_to_a_twentieth_of_the_data() -> None:
    words = "unet widths=[4,8]"
    most = planned(words, VOLUME, 8)
    assert (most.patch, most.batch) == (VOLUME.shape, 2)  # a twentieth is one patch, and two is the least
    rich = Data(VOLUME.spacing, VOLUME.shape, 1, 2, VOLUME.voxels * 1000)
    some = planned(words, rich, 0.3)
    trial = Trial(Architecture(asked(words).to_yaml()).load, rich, frozenset())
    assert trial.bytes(some.patch, some.batch) <= 0.3e9 * SHARE < trial.bytes(some.patch, some.batch + 1)
    assert some.batch > 2


def test_a_patch_has_the_aspect_of_the_voxels() -> None:
    found = planned("unet widths=[4,8,8]", Data((4.0, 1.0, 1.0), (60, 200, 200), 1, 2, 1e9), 0.05)
    assert 3 < found.patch[1] / found.patch[0] < 5.1


def test_a_blueprint_of_any_rank_is_planned_for_slices_and_volumes() -> None:
    slices = Data((1.0, 1.0), (48, 40), 2, 4, 1e6)
    assert planned("unet widths=[4,8]", slices).patch == (48, 40)
    assert planned("unet widths=[4,8]").patch == (40, 48, 40)


def test_the_size_that_the_user_sets_is_the_patch() -> None:
    assert planned("unet widths=[4,8] size=[32,32,16]").patch == (32, 32, 16)


def test_anisotropic_voxels_are_halved_where_they_are_short() -> None:
    """Cells of 4 × 1 × 1 mm: the slices' axis is neither halved nor spanned until the others are as long."""
    assert stages((4, 1, 1), (16, 64, 64)) == [
        ([1, 1, 1], [1, 3, 3]),
        ([1, 2, 2], [1, 3, 3]),
        ([1, 2, 2], [3, 3, 3]),
        ([2, 2, 2], [3, 3, 3]),
        ([2, 2, 2], [3, 3, 3]),
    ]


def test_the_users_widths_keep_their_number_of_stages() -> None:
    known = {"widths": [8, 16, 32], "strides": [], "kernels": []}
    few = parameters(known, frozenset({"widths"}), (1, 1), (8, 8))
    assert few == {"widths": [8, 16, 32], "strides": [[1, 1], [2, 2], [1, 1]], "kernels": [[3, 3], [3, 3], [3, 3]]}
    many = parameters(known, frozenset(), (1, 1), (128, 128))
    assert many["widths"] == [8, 16, 32, 32, 32, 32]
    assert parameters(known, frozenset({"strides"}), (1, 1), (8, 8)) == {}
    assert parameters({"widths": []}, frozenset(), (1, 1), (8, 8)) == {}


@pytest.mark.parametrize(
    ("words", "data", "gigabytes", "said"),
    [
        ("vit:tiny", Data((1, 1), (64, 64), 1, 2, 1e6), 8, "BP832"),
        ("unet:original", Data((1, 1), (64, 64), 1, 2, 1e6), 8, "BP832"),
        ("unet widths=[4,8]", VOLUME, 1e-6, "BP833"),
    ],
)
def test_what_cannot_be_planned_is_said(words: str, data: Data, gigabytes: float, said: str) -> None:
    assert code(lambda: planned(words, data, gigabytes)) == said


def test_another_rank_can_be_told_from_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(OtherRankError):
        planned("unet widths=[4,8] size=[32,32]")
    with pytest.raises(OtherRankError):
        planned(flat(tmp_path))


# ---------------------------------------------------------------- outputs


def test_outputs_weigh_as_in_nnunet_and_the_coarsest_nothing() -> None:
    blueprint = composer.load("nnunet", widths=[4, 4, 4, 4, 4], size=[32, 32])
    found = heads(blueprint, (32, 32))
    assert [h.grid for h in found] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert [h.weight for h in found] == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    assert heads(blueprint, (32, 32), 1e-6)[-1].weight == pytest.approx(1e-6 * 4 / 7)
    assert [h.weight for h in heads(composer.load("unet", widths=[4, 8]), (224, 224))] == [1]


def test_the_loss_holds_every_output_against_labels_on_its_grid() -> None:
    blueprint = composer.load("nnunet", widths=[4, 4, 4], size=[16, 16], classes=3)
    network, found = blueprint.build(), heads(blueprint, (16, 16))
    keys = set(network.state_dict())
    network.register_forward_hook(Maps(found))
    image, labels = torch.randn(2, 1, 16, 16), torch.randint(0, 3, (2, 1, 16, 16))
    maps = network(image)
    assert [tuple(m.shape) for m in maps] == [(2, 3, 16, 16), (2, 3, 8, 8)]
    loss = torch.nn.CrossEntropyLoss()
    by_hand = 2 / 3 * loss(maps[0], labels[:, 0]) + 1 / 3 * loss(maps[1], labels[:, 0, 1::2, 1::2])
    said = Supervised(Squeezed(loss), found)(maps, labels)
    assert torch.allclose(said, by_hand)
    network.eval()
    assert network(image).shape == (2, 3, 16, 16)
    assert torch.equal(Supervised(Squeezed(loss), found)(network(image), labels), loss(network(image), labels[:, 0]))
    assert set(network.state_dict()) == keys


class Squeezed(torch.nn.Module):
    """A loss of labels (B, 1, *grid), as nnU-Net's take them."""

    def __init__(self, loss: torch.nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> Any:
        return self.loss(outputs, labels[:, 0])


def test_labels_keep_their_dtype() -> None:
    labels = torch.arange(16, dtype=torch.int16).reshape(1, 1, 4, 4)
    assert coarser(labels, (2, 2)).flatten().tolist() == [5, 7, 13, 15]
    assert coarser(labels, (2, 2)).dtype == torch.int16
    assert coarser(labels, (4, 4)) is labels


# ---------------------------------------------------------------- plans


def test_the_plans_hold_the_blueprint_itself() -> None:
    blueprint = asked("unet widths=[4,8] up.*.fuse=fuse.add")
    stored = json.loads(json.dumps(Architecture(blueprint.to_yaml(), {"size": [16, 16]}).to_plans()))
    read = Architecture.of_plans({"architecture": stored}, TRAINER)
    made = read.made(2, 5)
    assert (made.values["channels"], made.values["classes"], made.values["size"]) == (2, 5, [16, 16])
    assert made.values["widths"] == [4, 8]
    assert "fuse.add" in {s.block.name for s in made.check().steps}


def test_a_person_may_write_a_name_into_the_plans() -> None:
    by_hand = {"architecture": {"arch_kwargs": {"blueprint": "unet", "params": {"widths": [4, 8]}}}}
    assert Architecture.of_plans(by_hand, TRAINER).made(1, 3).values["widths"] == [4, 8]


def test_channels_that_a_blueprint_cannot_have_are_said(tmp_path: Path) -> None:
    path = flat(tmp_path)
    assert Architecture(path).made(1, 2).name == "net"
    assert code(lambda: Architecture(path).made(2, 2)) == "BP832"
    assert code(lambda: Architecture(path).made(1, 3)) == "BP832"


def test_plans_of_another_planner_and_no_blueprint_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"architecture": {"network_class_name": "a.b", "arch_kwargs": {"n_stages": 3}}}
    assert code(lambda: Architecture.of_plans(other, TRAINER)) == "BP832"
    monkeypatch.delenv(VARIABLE, raising=False)
    assert code(asked) == "BP832"
    monkeypatch.setenv(VARIABLE, "unet widths=[4,8]")
    assert asked().values["widths"] == [4, 8]


# ---------------------------------------------------------------- installation


def test_two_files_are_written_and_taken_away_again(tmp_path: Path) -> None:
    for folder in ("experiment_planning/experiment_planners", "training/nnUNetTrainer"):
        (tmp_path / folder).mkdir(parents=True)
    written = installing.install(tmp_path)
    assert {p.name for p in written} == {f"{PLANNER}.py", f"{TRAINER}.py"}
    assert [p.read_text().split()[-1] for p in written] == [PLANNER, TRAINER]
    assert installing.install(tmp_path) == written
    assert installing.remove(tmp_path) == written
    assert installing.remove(tmp_path) == []


def test_without_nnunet_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installing, "find_spec", lambda name: None)
    assert run(["nnunet", "install"]) == 1
    assert "pip install 'blueprint-composer[nnunet]'" in capsys.readouterr().err


def test_a_mistake_in_nnunets_commands_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, fault, trace: others.append(fault))
    reporting.without_traceback()
    hook = sys.excepthook
    reporting.without_traceback()
    assert sys.excepthook is hook
    with pytest.raises(BlueprintError) as caught:
        asked("")
    hook(BlueprintError, caught.value, None)
    assert capsys.readouterr().err.startswith("error[BP832]: no blueprint is named")
    hook(ValueError, fault := ValueError("another"), None)
    assert others == [fault]


def test_the_plan_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nnunet", "plan", "unet", "widths=[4,8]", "--spacing", "1,1", "--shape", "48x40"]) == 0
    assert capsys.readouterr().out.startswith("unet: patches of 48 × 40, ")
    assert run(["nnunet", "plan", "unet", "--spacing", "1,0,1"]) == 1
    assert "numbers above 0" in capsys.readouterr().err
