"""The sizes that `composer sizes` says against really running the networks on `meta`, and how it says them."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from feeding import Feeder, disagreements, edges, pairs

import composer
from composer.blueprint import is_fragment, shipped
from composer.cli.main import run
from composer.phrases import phrase

BLUEPRINTS = [n for n, f in sorted(shipped().items()) if not is_fragment(f)]
PRESETS = [f"{n}:{p}" for n in BLUEPRINTS for p in composer.load(n).presets]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the rules against the networks ------------------------------------------------------------------------------------


def sample(feeder: Feeder, seed: int, count: int) -> Iterator[dict[str, int]]:
    """Valid sizes and their neighbours on each axis, the ends of the valid ones beyond 300, and random sizes of all."""
    rng = random.Random(seed)
    for axis in feeder.base:
        listed = sorted(feeder.listed(axis, 300)) or [1]
        chosen = {listed[0], listed[-1], *rng.sample(listed, min(count, len(listed)))}
        near = {max(1, n + d) for n in chosen for d in (-1, 0, 1)} | {1, 2, rng.randint(1, 300)}
        beyond = rng.sample(sorted(edges(feeder, axis, seed)), k=min(count, len(edges(feeder, axis, seed))))
        yield from ({**feeder.base, axis: n} for n in sorted({*near, *beyond}))
    yield from pairs(feeder, seed, count)


@pytest.mark.parametrize("name", ["swin_unet", "vit", "unet", "unetr", "setr_mla"])
def test_the_rules_agree_with_the_network(name: str) -> None:
    feeder = Feeder(name)
    assert list(disagreements(feeder, sample(feeder, 0, 2))) == []


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True], ids=["", "every input"])
@pytest.mark.parametrize("name", [*BLUEPRINTS, *PRESETS])
def test_the_rules_of_every_blueprint_agree_with_it(name: str, full: bool) -> None:
    if full and not any(i.optional for i in composer.load(name).infer().inputs):
        pytest.skip("it has no optional inputs")
    feeder = Feeder(name, full=full)
    assert list(disagreements(feeder, sample(feeder, 1, 6))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "swin_unet", "unet", "unetr", "setr", "swin:large384", "vnet", "transunet"])
def test_every_size_up_to_300_agrees(name: str) -> None:
    feeder = Feeder(name)
    every = ({**feeder.base, axis: n} for axis in feeder.base for n in range(1, 301))
    assert list(disagreements(feeder, every)) == []


@pytest.mark.parametrize("name", ["unet", "vit"])
def test_a_remembered_call_is_one_that_was_made(name: str) -> None:
    feeder = Feeder(name)
    for env in sample(feeder, 2, 1):
        assert bool(feeder.fault(env)) == bool(feeder.fault(env, plain=True)), env


SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "instance norm": ("unet", dict(widths=[2, 2, 2], size=[16, 16], norm="instance")),
    "no padding": ("unet", dict(widths=[2, 2, 2], size=[44, 44], norm=None, padding=0)),
    "reduction": (
        "segformer",
        dict(dims=[8, 8, 8, 8], depths=[1, 1, 1, 1], heads=[1, 1, 1, 1], width=8, size=[64, 64]),
    ),
    "windows": ("swin", dict(size=[32, 32], dim=4, depths=[2, 2], heads=[1, 1], window=4)),
    "shrunk windows": ("swin", dict(size=[24, 24], dim=4, depths=[2, 2], heads=[1, 1], window=7)),
}


@pytest.mark.parametrize("case", SMALL)
def test_the_processor_refuses_what_meta_refuses(case: str) -> None:
    """Kernels on `meta` might be laxer than those that compute."""
    name, params = SMALL[case]
    feeder, network = Feeder(name, params), composer.load(name, **params).build()
    for env in sample(feeder, 3, 2):
        if max(env.values()) > 96:
            continue
        (spec,) = [i for i in network.inputs if not i.optional]
        image = torch.zeros(2, spec.type.channels, *env.values())
        faults = 0
        for training in (True, False):
            network.train(training)
            try:
                network._plans[(training,)].run([image])
            except (RuntimeError, ValueError):
                faults += 1
        assert (faults > 0) is bool(feeder.fault(env)), env
        assert feeder.accepted(env) is (faults == 0), env


def test_what_never_runs_asks_nothing() -> None:
    """FINE's last downsampling has weights, and nothing reads what comes out of it."""
    assert not [c for c in composer.load("fine").infer().constraints if "encoder.3.down" in c.address]


# --- words and causes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (range(1, 101), "any"),
        (range(7, 101), "at least 7"),
        (range(1, 40), "at most 39"),
        (range(5, 40), "5 to 39"),
        ([64], "exactly 64"),
        (range(32, 101, 32), "multiples of 32"),
        (range(64, 101, 8), "multiples of 8, at least 64"),
        (range(6, 101, 4), "2 plus multiples of 4, at least 6"),
        ([n for n in range(1, 101) if n % 16 in (0, 15)], "multiples of 16, or up to 1 less"),
        ([n for n in range(16, 101) if n % 16 in (0, 1, 2)], "multiples of 16, or up to 2 more"),
        ([3, 4, 9, 10, 11], "3, 4, 9 to 11"),
        ([], "no size fits while the other axes stay"),
    ],
)
def test_phrases(sizes: Any, text: str) -> None:
    assert phrase(list(sizes), 100) == text


CHAINS = {
    "swin": ("multiples of 224", "224 = 4 (patches) × 2 × 2 × 2 (merges) × 7 (window)"),
    "swin:base384": ("multiples of 384", "384 = 4 (patches) × 2 × 2 × 2 (merges) × 12 (window)"),
    "swin_unet": ("multiples of 224", "224 = 4 (patches) × 2 × 2 × 2 (merges) × 7 (window)"),
    "unet": ("multiples of 16", "16 = 2 × 2 × 2 × 2 (pools)"),
    "vit": ("multiples of 16", "16 (patches)"),
    "nnunet": ("multiples of 32", "32 = 2 × 2 × 2 × 2 × 2 (strides)"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_multiple_says_what_it_is_made_of(name: str) -> None:
    axis = composer.load(name).sizes().axes["H"]
    assert (axis.text, axis.because[0].text) == CHAINS[name]
    assert math.prod(f.number for f in axis.because[0].factors) == int(axis.text.rpartition(" ")[2])


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_every_rule_has_a_cause_and_every_chain_its_product(name: str) -> None:
    found = composer.load(name).sizes()
    for axis in found.axes.values():
        assert bool(axis.because) is (axis.text != "any")
        assert set(found[axis.name]) <= set(axis.alone)
        if axis.text.startswith("multiples of ") and "," not in axis.text:
            chains = [math.prod(f.number for f in c.factors) for c in axis.because if "=" in c.text or "(" in c.text]
            assert math.lcm(*chains) == int(axis.text.split()[2]), axis


def test_a_window_shrinks_with_the_size_the_network_is_built_for() -> None:
    small = composer.load("swin", size=[112, 112], depths=[2, 2], dim=8, heads=[1, 1], window=40)
    assert small.sizes().axes["H"].because[0].text == "112 = 4 (patches) × 28 (window shrunk from 40)"


def test_axes_that_belong_together() -> None:
    (both,) = composer.load("vit").sizes().coupled
    assert both.axes == ("H", "W")
    assert both.text == "H/16 · W/16 must be 196: 224×224, 112×448, 448×112, 64×784 …"
    assert both.because.address == "position"
    assert both.valid is not None
    assert set(both.valid) == {
        (h, w) for h in range(16, 1025, 16) for w in range(16, 1025, 16) if h // 16 * (w // 16) == 196
    }
    (norm,) = composer.load("nnunet").sizes().coupled
    assert norm.text == "D/32 · H/32 · W/32 must be at least 2: not 32×32×32"
    assert (norm.valid, norm.invalid) == (None, ((32, 32, 32),))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sizes", "swin", "--size", "240,240"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "swin: built for 224 × 224"
    assert lines[1] == "  H, W  multiples of 224"
    assert "at patches · stage.1" in lines[3]
    assert lines[4:] == [
        "240 × 240 is not valid",
        "  H: 224 or 448 while the others stay",
        "  W: 224 or 448 while the others stay",
        "  nearest  224 × 224",
        "  larger   448 × 448",
        "  smaller  224 × 224",
    ]
    assert run(["sizes", "swin", "window=8", "size=[256, 256]", "--size", "256x512"]) == 0
    assert capsys.readouterr().out.endswith("256 × 512 is valid\n")
    assert run(["sizes", "nnunet", "--size", "240,240"]) == 1
    assert "has 2 numbers, the axes are D, H, W" in capsys.readouterr().err


def test_the_command_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sizes", "vit", "--json", "--limit", "500", "--size", "240,240"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["limit"] == 500
    assert found["axes"]["H"]["valid"] == [224]
    assert found["axes"]["H"]["alone"] == list(range(16, 501, 16))
    assert found["axes"]["H"]["because"][0]["factors"] == [{"number": 16, "word": "patches", "node": "patches"}]
    assert found["coupled"][0]["valid"] == [[112, 448], [224, 224], [448, 112]]
    assert found["size"]["nearest"] == {"H": 224, "W": 224}
    assert found["size"]["up"] is None


def test_no_torch_and_no_numpy() -> None:
    code = "import sys, composer; composer.load('nnformer').sizes(); print({'torch', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
