"""`composer.parallel`: two processes on half of a batch each compute what one does on the whole of it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import devices
import pytest
import torch
import torch.distributed.checkpoint as dcp

import composer
from composer.module import regroup
from composer.sharding import _divide, _patterns, _unit, fitting

LIMIT = 120
"""Seconds after which the processes are ended."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes leave what they computed; they find a checkpoint of one process there."""
    path = tmp_path_factory.mktemp("processes")
    dcp.save(devices.network("vit").state_dict(), checkpoint_id=path / "of_one", no_dist=True)
    command = [sys.executable, "-W", "error::UserWarning", devices.__file__]
    running = [
        subprocess.Popen([*command, str(rank), str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(devices.WORLD)
    ]
    try:
        said = [p.communicate(timeout=LIMIT)[0] for p in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [p.returncode for p in running] == [0] * devices.WORLD, "\n".join(said)
    return path


@pytest.fixture(scope="module")
def done(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(devices.WORLD)]


def alone(case: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    made = devices.network(case)
    return devices.stepped(made, devices.batch(case)), devices.gradients(made)


def equal(got: Any, case: str) -> None:
    (loss, found), (wanted, expected) = got, alone(case)
    torch.testing.assert_close(loss, wanted)
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=1e-6 * scale, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # that is what is meant


def divided(case: str) -> tuple[Any, list[str]]:
    """A network whose units run as one module each, in one process and not sharded, and their names."""
    made, how = devices.network(case), devices.CASES[case][2]
    units, again = (_patterns(how.get(k, ())) for k in ("units", "checkpoint"))
    found = fitting(made, partial(_unit, units=units, again=again))
    regroup(made, partial(_divide, units=found, again=again))
    return made, list(found)


@pytest.mark.parametrize("case", devices.CASES)
def test_a_divided_network_computes_the_same(case: str) -> None:
    made, units = divided(case)
    wanted = devices.network(case)
    assert list(made.state_dict()) == list(wanted.state_dict())
    equal((devices.stepped(made, devices.batch(case)), devices.gradients(made)), case)
    assert units
    called = []
    for unit in units:
        made.get_submodule(unit).register_forward_hook(lambda *_, u=unit: called.append(u))
    with torch.no_grad():
        made.eval()(*devices.batch(case))
    assert called == units


def test_units_own_their_parameters() -> None:
    """Weights that copies share, or that somebody tied, belong to the whole."""
    assert divided("shared weights")[1] == ["blocks.0", "blocks.1"]
    made = devices.network("vit")
    assert list(fitting(made, partial(_unit, units=[], again=[]))) == ["blocks.0", "blocks.1", "blocks.2"]
    made.get_submodule("blocks.1.mlp.fc1").weight = made.get_submodule("blocks.2.mlp.fc1").weight
    assert list(fitting(made, partial(_unit, units=[], again=[]))) == ["blocks.0"]


@pytest.mark.parametrize(
    ("case", "units", "said"),
    [
        ("vit", "block.*", r"`block.\*` names no unit(.|\n)*no such node; did you mean `blocks.*`"),
        ("shared weights", "rounds.0", "`rounds.0` names no unit(.|\n)*shared with other nodes"),
    ],
)
def test_what_is_no_unit_is_refused(case: str, units: str, said: str) -> None:
    with pytest.raises(composer.BlueprintError, match=said):
        composer.parallel(devices.network(case), None, units=units)


@pytest.mark.slow
@pytest.mark.parametrize("case", devices.CASES)
def test_losses_and_gradients_are_those_of_one_process(case: str, done: list[dict[str, Any]]) -> None:
    for each in done:
        equal(each[case], case)
        equal(each[f"{case}, again"], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", devices.CASES)
def test_evaluation_gives_the_same(case: str, done: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        wanted = devices.network(case).eval()(*devices.batch(case))
    made = torch.utils._pytree.tree_map(lambda *y: torch.cat(y), *(each[f"{case}, evaluated"] for each in done))
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", devices.CASES)
def test_each_process_holds_its_share(case: str, done: list[dict[str, Any]]) -> None:
    total = sum(p.numel() for p in devices.network(case).parameters())
    held = [each[f"{case}, held"] for each in done]
    assert sum(held) == total
    assert max(held) < 0.7 * total


@pytest.mark.slow
def test_the_plain_wrapper_of_torch_and_meshes_of_two_axes(done: list[dict[str, Any]]) -> None:
    for each in done:
        equal(each["ddp"], "vit")
        equal(each["replicas (1, 2)"], "vit")
        equal(each["replicas (2, 1)"], "vit")


@pytest.mark.slow
def test_checkpoints_go_from_one_process_to_two_and_back(folder: Path, done: list[dict[str, Any]]) -> None:
    wanted = devices.network("vit").state_dict()
    for each in done:
        assert each["loaded"].keys() == wanted.keys()
        assert all(torch.equal(each["loaded"][n], v) for n, v in wanted.items())
    state = {n: torch.zeros_like(v) for n, v in wanted.items()}
    dcp.load(state, checkpoint_id=folder / "of_two", no_dist=True)
    assert all(torch.equal(state[n], v + 1) for n, v in wanted.items())
