"""`composer eject`: one file of Python that needs torch alone and is the network, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from teaching import HYBRIDS
from torch import Tensor

import composer
from composer.blueprint import shipped
from composer.eject import eject
from composer.swaps import swaps_of

TINY = swaps_of(composer.Registry.discover())["tiny"]
SMALL: list[tuple[str, dict[str, Any]]] = [
    *((name, {**(t.get("params") or {}), "size": size}) for name, t in TINY.items() for size in t["sizes"]),
    *HYBRIDS.items(),
    ("resnet", {"size": [64, 64], "depths": [1, 1, 1, 1]}),
    ("transformer", {"dim": 16, "hidden": 24, "heads": 4, "encoder_layers": 2, "decoder_layers": 2}),
]
"""Every shipped blueprint and hybrid, small, and those of two ranks in both."""

FAST = ("vit", "unet", "swin_unet", "nnunet", "fine", "detr", "deformable_detr", "transformer", "cotr_glam", "vnet")
"""Those in the fast suite: each way in which networks differ is in one of them."""


def is_fast(name: str, params: dict[str, Any]) -> bool:
    own = [p for n, p in SMALL if n == name]
    return name in FAST and params is own[0]


CASES = [pytest.param(k, id=f"{n}-{len(p.get('size', []))}d") for k, (n, p) in enumerate(SMALL) if is_fast(n, p)]
CASES += [
    pytest.param(k, id=f"{n}-{len(p.get('size', []))}d", marks=pytest.mark.slow)
    for k, (n, p) in enumerate(SMALL)
    if not is_fast(n, p)
]

ALONE = """
import importlib.util, json, sys, torch

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("composer", "composer_blocks", "monai", "scipy", "einops"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
torch.set_num_threads(1)

def loaded(path):
    spec = importlib.util.spec_from_file_location("ejected", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == "ejected"][-1]()

def told(case):
    network = loaded(case["path"])
    if set(network.state_dict()) != set(case["weights"]):
        return f"other keys: {set(network.state_dict()) ^ set(case['weights'])}"
    network.load_state_dict(case["weights"])
    for run in case["runs"]:
        network.train(run["training"])
        torch.manual_seed(1)
        with torch.no_grad():
            made = network(**run["inputs"])
        if str(made) != str(run["result"]) and str(type(made)) != str(type(run["result"])):
            return "another kind of result"
        mine, theirs = tree_leaves(made), tree_leaves(run["result"])
        if len(mine) != len(theirs) or not all(map(torch.equal, mine, theirs)):
            return f"other numbers, training={run['training']}, inputs {list(run['inputs'])}"
    return "equal"

said = {}
for path in sys.argv[1:]:
    try:
        said[path] = told(torch.load(path))
    except Exception as fault:
        said[path] = f"{type(fault).__name__}: {fault}"
print(json.dumps([said, sorted({m.partition(".")[0] for m in sys.modules} & {"composer", "composer_blocks"})]))
"""


def inputs_of(blueprint: composer.Blueprint, optional: bool) -> dict[str, Tensor]:
    """Random numbers for every input; a mask of an optional one leaves out the last cells."""
    program = blueprint.check()
    axes = {a: 7 for i in program.inputs for a in i.axes if not a.isdigit()} | dict(program.built)
    random = torch.Generator().manual_seed(0)
    found = {}
    for spec in program.inputs:
        shape = (2, spec.type.channels, *spec.type.at(axes).grid)
        if not spec.optional:
            found[spec.name] = torch.randn(shape, generator=random)
        elif optional:
            found[spec.name] = torch.ones(shape).index_fill(-1, torch.tensor([shape[-1] - 1]), 0)
    return found


def case(blueprint: composer.Blueprint, path: Path, inputs: list[dict[str, Tensor]] | None = None) -> Path:
    """The ejected file, and beside it weights, inputs and results of the network as it is without passes."""
    path.write_text(eject(blueprint))
    torch.manual_seed(0)
    network = blueprint.build(without="all")
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    several = any(i.optional for i in network.inputs)
    inputs = inputs or [inputs_of(blueprint, optional) for optional in ((False, True) if several else (False,))]
    runs = []
    for given in inputs:
        for training in (False, True):
            network.train(training)
            torch.manual_seed(1)
            with torch.no_grad():
                runs.append({"inputs": given, "training": training, "result": network(**given)})
    data = path.with_suffix(".pt")
    torch.save({"path": str(path), "weights": weights, "runs": runs}, data)
    return data


def alone(cases: list[Path]) -> dict[str, str]:
    """What became of each case in a process where Composer cannot be imported."""
    done = subprocess.run([sys.executable, "-c", ALONE, *map(str, cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, imported = json.loads(done.stdout)
    assert imported == []
    return said


@pytest.fixture(scope="module")
def ejected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What became of each network that this run asks for; all of them in one process."""
    folder = tmp_path_factory.mktemp("ejected")
    wanted = sorted(
        {i.callspec.params["k"] for i in request.session.items if "k" in getattr(i, "callspec", _NONE).params}
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    paths = {k: case(composer.load(SMALL[k][0], **SMALL[k][1]), folder / f"net{k}.py") for k in wanted}
    torch.set_num_threads(before)
    said = alone(list(paths.values()))
    return {k: (said[str(p)], p.with_suffix(".py")) for k, p in paths.items()}


class _NONE:
    params: tuple[str, ...] = ()


@pytest.mark.parametrize("k", CASES)
def test_an_ejected_network_is_the_network(k: int, ejected: dict[int, Any]) -> None:
    """Keys, and results bit for bit, in evaluation and in training under one seed, with optional inputs and without."""
    assert ejected[k][0] == "equal"


def test_every_shipped_network_is_among_them() -> None:
    fragments = {n for n in shipped() if "." in n}
    assert {n.partition(":")[0] for n, _ in SMALL} == set(shipped()) - fragments


def test_files_are_formatted(ejected: dict[int, Any]) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    files = [str(path) for _, path in ejected.values()]
    config = ["--config", str(Path(__file__).parent.parent / "pyproject.toml"), "--no-cache"]
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run([str(ruff), *command, *config, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
