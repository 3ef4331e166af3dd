"""Memory as a compile option: what is planned fits, by the cost model and by a real run, and changes no result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from test_passes import difference, scrambled
from torch import Tensor

import composer
from composer import imaging
from composer.cli.main import run
from composer.figures import size
from composer.module import Network
from composer.planning import JOINING
from composer.plans import MemoryPlan
from composer.sweeps import Sweep
from composer.testing import storages

UNET = dict(size=[24, 16, 16], widths=[4, 8, 16], classes=2)
VIT = dict(size=[16, 16], patch=1, dim=16, depth=1, heads=2, classes=3)


@pytest.fixture(scope="module")
def unet() -> composer.Blueprint:
    return composer.load("unet:volume", **UNET)


@pytest.fixture(scope="module")
def peak(unet: composer.Blueprint) -> int:
    return unet.cost(flops=False).peak.bytes


@pytest.fixture(scope="module")
def planned(unet: composer.Blueprint, peak: int) -> Network:
    """A network within two thirds of its memory."""
    return unet.build(memory=peak * 2 // 3)


def same(network: Network, plain: Network, *values: Tensor) -> bool:
    network.load_state_dict(plain.state_dict())
    with torch.no_grad():
        return difference(network.eval()(*values), plain.eval()(*values)) <= 1e-5


# --- inference --------------------------------------------------------------------------------------------------------


def test_a_unet_fits_into_a_part_of_its_memory(unet: composer.Blueprint, planned: Network, peak: int) -> None:
    plan, plain = planned.memory_plan, unet.build()
    scrambled(plain)
    assert plan is not None
    assert plan.fits
    assert plan.streams is not None
    assert plan.before.peak.bytes == peak
    x = torch.randn(1, 1, *UNET["size"])  # type: ignore[misc]
    assert same(planned, plain, x)
    real = storages.run(planned, {"image": x}, False).peak
    assert real <= 1.01 * plan.after.peak.bytes <= 1.01 * plan.budget
    assert abs(real - plan.after.peak.bytes) <= 0.01 * real


def test_nothing_is_done_where_it_fits(unet: composer.Blueprint, peak: int) -> None:
    network = unet.build(memory=peak)
    assert network.memory_plan is not None
    assert str(network.memory_plan).endswith("nothing has to be done")
    assert network.at_evaluation().stream is None


def test_attention_takes_some_queries_at_a_time() -> None:
    """Without a kernel that never holds the scores (a mask of keys asks for one that does) they are the peak."""
    blueprint = composer.load("vit", **VIT)
    before = blueprint.cost(flops=False).peak.bytes
    network, plain = blueprint.build(memory=int(0.8 * before)), blueprint.build()
    plan = network.memory_plan
    assert plan is not None and plan.streams is not None  # noqa: PT018
    assert "attend" in str(plan)
    scrambled(plain)
    assert same(network, plain, torch.randn(1, 3, 16, 16))


def test_sums_of_a_residual_stream_are_stored() -> None:
    """If all of them were computed anew, every branch would stay until the last, and nothing would be gained."""
    blueprint = composer.load("vit", size=[32, 32], patch=2, dim=16, depth=3, heads=2, hidden=64, classes=3)
    before = blueprint.cost(flops=False).peak
    fixed = before.parts["parameters"] + before.parts["inputs"]
    plan = blueprint.plan(fixed + (before.bytes - fixed) * 8 // 10)
    assert plan.fits
    sums = [n for n in plan.streams.nodes if len(n.rows) > 1]  # type: ignore[union-attr]
    stored = {a.value for a in plan.streams.actions if isinstance(a, Sweep)}  # type: ignore[union-attr]
    assert stored & {n.makes[0] for n in sums}


def test_the_plan_is_said(planned: Network) -> None:
    plan: Any = planned.memory_plan
    lines = plan.lines()
    assert lines[0].startswith(f"plan of unet:volume for {size(plan.budget)}: image (1, 1, 24, 16, 16), float32, inf")
    assert lines[1].startswith(f"  peak   {size(plan.before.peak.bytes)} -> {size(plan.after.peak.bytes)} at ")
    assert "times as many" in lines[2]
    assert any("strips of" in line and "written over" in line for line in lines)
    assert any("statistics only" in line for line in lines)
    assert isinstance(plan, MemoryPlan)
    assert hash(plan.streams.actions)


def test_another_size_than_that_it_was_built_for(unet: composer.Blueprint) -> None:
    before = unet.cost(image=(2, 1, 16, 16, 32), flops=False).peak.bytes
    network = unet.build(memory=int(0.6 * before), size=(16, 16, 32), batch=2)
    assert network.memory_plan is not None
    assert network.memory_plan.before.shapes == {"image": (2, 1, 16, 16, 32)}
    assert network.memory_plan.streams is not None
    assert network.memory_plan.streams.axis == 2
    plain = unet.build()
    assert same(network, plain, torch.randn(2, 1, 16, 16, 32))


def test_an_open_size_must_be_given(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(
        "blueprint: 1\nname: open\ninputs: {image: B 1 H W}\ngraph: {a: {use: conv, out: 4}}\noutputs: {y: a}\n"
    )
    blueprint = composer.load(path)
    with pytest.raises(composer.BlueprintError, match="BP402"):
        blueprint.build(memory="1MB")
    assert blueprint.build(memory="1MB", size=(16, 16)).memory_plan is not None


def test_too_little_is_refused_with_the_best_plan() -> None:
    small = composer.load("unet", size=[16, 16], widths=[4, 8])
    before = small.cost(flops=False).peak.bytes
    with pytest.raises(composer.BlueprintError) as caught:
        small.build(memory=before // 8)
    (found,) = caught.value.diagnostics
    assert found.code == "BP706"
    assert found.message.startswith(f"running `unet` does not fit into {size(before // 8)}: the best plan needs ")
    assert found.message.endswith(f"without one it is {size(before)}")
    assert found.notes
    assert found.help[-1] == "or take the best plan: `build(force=True)`"
    forced = small.build(memory=before // 8, force=True).memory_plan
    assert forced is not None
    assert not forced.fits
    assert forced.after.peak.bytes < before


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_computes_as_little_again_as_is_enough() -> None:
    unet = composer.load("unet:volume", **{**UNET, "widths": [4, 8]})
    before = unet.cost(train=True, flops=False).peak.bytes
    plan = unet.plan(int(0.8 * before), train=True)
    assert plan.fits
    assert plan.streams is None
    assert plan.checkpoint
    fewer = unet.cost(train=True, checkpoint=plan.checkpoint[:-1], flops=False).peak.bytes
    assert fewer > plan.budget
    network, plain = unet.build().planned(plan).train(), unet.build().train()
    network.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, *UNET["size"])  # type: ignore[misc]
    for each in (network, plain):
        each(x).square().sum().backward()
    for (name, a), b in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name  # type: ignore[arg-type]
    network.zero_grad()
    assert abs(storages.run(network, {"image": x}, True).peak - plan.after.peak.bytes) <= 0.01 * plan.budget


# --- commands ---------------------------------------------------------------------------------------------------------

SMALL = ["unet", "size=[32,16]", "widths=[4,8]"]


def test_cost_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    before = composer.load("unet", size=[32, 16], widths=[4, 8]).cost(flops=False).peak.bytes
    assert run(["cost", *SMALL, "--memory", str(before * 3 // 4)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("plan of unet for ")
    assert "strips of" in out
    assert run(["cost", *SMALL, "--memory", str(before * 3 // 4), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak"]["bytes"] <= before * 3 // 4
    assert found["plan"][0].startswith("plan of unet for ")
    assert {tuple(r["shape"]) for r in found["rows"]} >= {(1, 4, 32, 16)}


def test_run_keeps_to_the_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape, image, weights = (8, 8, 8), tmp_path / "image.nii.gz", tmp_path / "w.pt"
    net = composer.load("unet:volume", size=list(shape), widths=[4, 8])
    peak = net.cost(flops=False, without=JOINING).peak.bytes
    around = imaging.buffers(shape, 1, 2, shape)[1]
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), image)
    torch.save(net.build().state_dict(), weights)
    labels = []
    for more in ([], ["--memory", str(peak * 19 // 20 + around)]):
        out = tmp_path / f"out{len(more)}.nii.gz"
        words = ["run", "unet:volume", str(image), "size=[8,8,8]", "widths=[4,8]", "-o", str(out)]
        assert run([*words, "--weights", str(weights), *more]) == 0
        labels.append(np.asarray(nibabel.load(out).dataobj))
    assert "sweeps along axis" in capsys.readouterr().out
    assert (labels[0] == labels[1]).mean() > 0.999
    assert run([*words, "--memory", "1kB"]) == 1
    said = capsys.readouterr().err
    assert "error[BP706]: running `unet:volume` does not fit into " in said
    assert f"`--memory 1kB` less {size(around)} for the image and the sums of its windows" in said


def test_train_keeps_to_the_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    from test_training import asked, listed

    net = composer.load("unet:demo", size=[16, 16, 16], widths=[4, 8], classes=2)
    peak = net.cost(train=True, batch=2, optimizer="adamw", flops=False).peak.bytes
    data = listed(tmp_path)
    assert run([*asked(data, tmp_path / "run", epochs=1), "--memory", str(peak * 9 // 10)]) == 0
    said = capsys.readouterr().out
    assert f"peak   {size(peak)} -> " in said
    assert "computed again in the backward pass" in said
    assert run([*asked(data, tmp_path / "other", epochs=1), "--memory", "10kB"]) == 1
    assert "error[BP706]: training `unet:demo` does not fit into 10.0 kB: the best plan" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_strips_for_other_steps_are_refused() -> None:
    """A network built with passes that join steps has fewer of them than the plan."""
    net = composer.load("unet:volume", size=[16, 16, 16], widths=[4, 8])
    plan = net.plan(net.cost(flops=False, without=JOINING).peak.bytes * 4 // 5)
    assert plan.streams is not None
    net.build(without=plan.without).planned(plan)
    with pytest.raises(composer.BlueprintError, match=r"build\(without=plan.without\)"):
        net.build().planned(plan)
