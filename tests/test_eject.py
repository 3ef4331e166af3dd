"""`composer eject`: one file of Python that needs torch alone and is the network, bit for bit."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from teaching import HYBRIDS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import composer
from composer.addresses import Pattern
from composer.blueprint import parse_overrides, shipped
from composer.cli.main import run
from composer.eject import eject
from composer.eject.classes import Said
from composer.eject.expressions import things
from composer.eject.initial import filled
from composer.eject.names import Speech
from composer.eject.recording import Recording
from composer.eject.sources import Sources, globals_of
from composer.graph import Call
from composer.inference import is_move
from composer.init import FILLS, Rule
from composer.module import build
from composer.swaps import swaps_of
from composer.testing import blueprints
from composer.usage import walk

TINY = swaps_of(composer.Registry.discover())["tiny"]
SMALL: list[tuple[str, dict[str, Any]]] = [
    *((name, {**(t.get("params") or {}), "size": size}) for name, t in TINY.items() for size in t["sizes"]),
    *HYBRIDS.items(),
    ("resnet", {"size": [64, 64], "depths": [1, 1, 1, 1]}),
    ("transformer", {"dim": 16, "hidden": 24, "heads": 4, "encoder_layers": 2, "decoder_layers": 2}),
]
"""Every shipped blueprint and hybrid, small, and those of two ranks in both."""

FAST = ("vit", "unet", "swin_unet", "fine", "detr", "deformable_detr", "transformer", "cotr_glam")
"""Those in the fast suite: each way in which networks differ is in one of them."""


ODD = """\
blueprint: 1
name: odd
inputs: {in: {type: B 2 H W, size: [8, 8]}, more: {type: B 2 H W, size: [8, 8], optional: true}}
graph:
  lambda: {use: conv, from: in, out: 4, norm: batch, act: relu}
  functional: {use: conv, out: 4}
  torch: {use: conv, out: 4}
  join: {use: fuse.add, from: [lambda, torch]}
  class: {repeat: 2, use: block.residual, body: {use: conv, out: 4}, act: relu}
  x: {use: conv, out: 4}
  list: {use: conv, from: more, out: 4}
  nn: {use: fuse.concat, from: [x, in, list]}
outputs: {print: nn, self: x}
"""
"""Nodes and inputs whose names mean something to Python, and one that is left out."""

PLUGIN = """\
import math

import composer
import torch.nn.functional as F
from torch import nn

SCALE = math.sqrt(2)
TABLE = {"a": SCALE}
TABLE["b"] = SCALE / 2


def helper(x):
    return F.relu(x) * TABLE["b"]


class Inner(nn.Module):
    def __init__(self, dim, act=nn.ReLU, inner=None, *, n=2):
        super().__init__()
        self.act, self.inner = act(), inner
        self.map = nn.Linear(dim, dim)

    def forward(self, x):
        Linear = helper(self.map(self.act(x)))
        return Linear + self.inner(x)


class Linear(Inner):
    "Of a name that torch has, too."


def scaled(module, by):
    nn.init.constant_(module.map.bias, by)
    return module


class Gated(composer.Block):
    "A gate instead of attention: (B, N, C) -> (B, N, C)."

    name = "attention.gated"
    shape = "batch tokens dim -> batch tokens dim"

    def build(self, dim):
        gate = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GLU(), nn.Linear(2 * dim, dim))
        return scaled(Linear(dim, nn.GELU, gate), by=0.25)
"""

VIT = {"size": [8, 8], "patch": 4, "dim": 8, "depth": 2, "heads": 2, "classes": 3}


def with_plugin(folder: Path, text: str, name: str, overrides: list[str]) -> composer.Blueprint:
    path = folder / "lab.py"
    path.write_text(text)
    return composer.Blueprint.load(name, composer.Registry.discover([path]), parse_overrides(overrides))


def gated(folder: Path) -> composer.Blueprint:
    words = [f"{k}={str(v).replace(' ', '')}" for k, v in VIT.items()]
    return with_plugin(folder, PLUGIN, "vit", [*words, "blocks.*.attention=attention.gated"])


def padded(folder: Path, **options: str) -> composer.Blueprint:
    return composer.load("unet", size=[16, 16], widths=[4, 8], **{f"image.{k}": v for k, v in options.items()})


OTHERS: dict[str, Callable[[Path], composer.Blueprint]] = {
    "odd names": lambda folder: composer.Blueprint.parse(ODD),
    "a plugin": gated,
    "padded": partial(padded, pad="auto", fill="reflect"),
    "cropped": partial(padded, pad="crop"),
    "padded with pairs of axes": lambda folder: composer.load(
        "segformer",
        size=[64, 64],
        dims=[8, 8, 8, 8],
        heads=[1, 1, 1, 1],
        depths=[1, 1, 1, 1],
        width=8,
        **{"image.pad": "auto"},
    ),
}
"""Networks that are no shipped ones."""

NETWORKS: dict[str, Callable[[Path], composer.Blueprint]] = {
    **{f"{n}-{len(p.get('size', []))}d": lambda folder, n=n, p=p: composer.load(n, **p) for n, p in SMALL},
    **OTHERS,
}
FIRST = {n: next(f"{n}-{len(p.get('size', []))}d" for other, p in SMALL if other == n) for n in FAST}
CASES = [n if n in (*FIRST.values(), *OTHERS) else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]

ALONE = """
import importlib.util, json, keyword, sys, torch
from torch.utils._pytree import tree_leaves

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
            made = network(**{f"{k}_" if keyword.iskeyword(k) else k: v for k, v in run["inputs"].items()})
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


def inputs_of(program: composer.Program, optional: bool) -> dict[str, Tensor]:
    """Random numbers for every input; a mask of an optional one leaves out the last cells."""
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


def case(name: str, blueprint: composer.Blueprint, path: Path) -> Path:
    """The ejected file, and beside it weights, inputs and results of the network as it is without passes."""
    path.write_text(eject(blueprint))
    torch.manual_seed(0)
    program = blueprint.optimized("all")
    network = build(program)
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    several = any(i.optional for i in network.inputs)
    inputs = [inputs_of(program, optional) for optional in ((False, True) if several else (False,))]
    if name.startswith(("padded", "cropped")):
        (given,) = inputs
        sizes = ((13, 18), (16, 5), (21, 34))
        inputs += [{"image": torch.randn(2, given["image"].shape[1], *size)} for size in sizes]
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
def ejected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """What became of each network that this run asks for, and its file; all of them in one process."""
    folder = tmp_path_factory.mktemp("ejected")
    params = [i.callspec.params for i in request.session.items if hasattr(i, "callspec")]
    wanted = sorted({p["ejectable"] for p in params if "ejectable" in p})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    paths = {n: case(n, NETWORKS[n](folder), folder / f"net{k}.py") for k, n in enumerate(wanted)}
    torch.set_num_threads(before)
    said = alone(list(paths.values()))
    return {n: (said[str(p)], p.with_suffix(".py")) for n, p in paths.items()}


@pytest.mark.parametrize("ejectable", CASES)
def test_an_ejected_network_is_the_network(ejectable: str, ejected: dict[str, tuple[str, Path]]) -> None:
    """Keys, and results bit for bit, in evaluation and in training under one seed, with optional inputs and without."""
    assert ejected[ejectable][0] == "equal"


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(blueprints())
def test_random_compositions_are_ejected_too(blueprint: composer.Blueprint) -> None:
    names: dict[str, Any] = {"__name__": "ejected"}
    exec(compile(eject(blueprint), "ejected", "exec"), names)
    mine = [v for v in names.values() if isinstance(v, type) and v.__module__ == "ejected"][-1]().eval()
    program = blueprint.optimized("all")
    network = build(program).eval()
    mine.load_state_dict(network.state_dict())
    inputs = inputs_of(program, optional=False)
    with torch.no_grad():
        made, wanted = tree_leaves(mine(**inputs)), tree_leaves(network(**inputs))
    assert len(made) == len(wanted)
    for one, other in zip(made, wanted, strict=True):
        assert one is other is None or torch.equal(one.nan_to_num(), other.nan_to_num())


def test_every_shipped_network_is_among_them() -> None:
    fragments = {n for n in shipped() if "." in n}
    assert {n.partition(":")[0] for n, _ in SMALL} == set(shipped()) - fragments


def test_files_are_formatted(ejected: dict[str, tuple[str, Path]]) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    files = [str(path) for name, (_, path) in ejected.items() if name != "a plugin"]  # as its author formatted it
    config = ["--config", str(Path(__file__).parent.parent / "pyproject.toml"), "--no-cache"]
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run([str(ruff), *command, *config, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def vit() -> str:
    return eject(composer.load("vit", **VIT))


@pytest.mark.parametrize("name", ["vit", "swin_unet", "unet"])
def test_comments_name_every_node_and_its_line(name: str) -> None:
    blueprint = composer.load(name, **next(p for n, p in SMALL if n == name))
    text = eject(blueprint)
    globs = [Pattern(g) for g in re.findall(r"[\w*]+(?:\.[\w*]+)*", " ".join(_comments(text)))]
    below = {g.removeprefix("….") for g in re.findall(r"….[\w.*]+", text)}
    steps = [s for s in blueprint.infer().steps if not is_move(s.address)]
    unsaid = {s.address for s in steps if not any(g.matches(s.address) for g in globs)}
    assert {a for a in unsaid if not any(a.endswith(b) or Pattern(f"**.{b}").matches(a) for b in below)} == set()
    nodes = [b for m in blueprint.link().members for b in walk(m) if isinstance(b, Call) and b.span]
    said = {int(n) for found in re.findall(r"\(\w+\.yaml:([\d, ]+)\)", text) for n in found.split(", ")}
    assert {b.span.line for b in nodes if b.span} <= said


def _comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line] + re.findall(r'"""(.*)', text)


def test_equal_copies_are_one_class_and_a_loop(vit: str) -> None:
    assert "self.blocks = nn.ModuleList(TransformerBlock() for _ in range(2))  # blocks.* (vit.yaml:18)" in vit
    assert "        for block in self.blocks:\n            x = block(x)\n" in vit
    assert vit.count("class TransformerBlock") == 1


def test_copies_that_differ_in_numbers_share_a_class() -> None:
    text = eject(composer.load("unet", size=[16, 16], widths=[4, 8, 16]))
    assert text.count("class Conv(nn.Conv2d)") == text.count("class DecoderStage") == 1
    assert "[DecoderStage(in_channels=16, channels=8), DecoderStage(in_channels=8, channels=4)]" in text


def test_the_head_says_what_it_is(vit: str) -> None:
    head = vit.partition("from __future__")[0]
    for words in ("Vision Transformer", "arXiv:2010.11929", "image (B, 3, H, W) -> logits (B, 3)", "from vit.yaml"):
        assert words in head
    assert "Apache License, Version 2.0" in head


def test_ejecting_leaves_random_numbers_alone(vit: str) -> None:
    before = torch.get_rng_state()
    eject(composer.load("vit", **VIT))
    assert torch.equal(torch.get_rng_state(), before)


def test_ejecting_twice_gives_the_same_text(vit: str) -> None:
    assert eject(composer.load("vit", **VIT)) == vit


FILLINGS = [
    *("zeros", "ones", "constant(0.5)", "values(0.25, 0.75)", "normal", "normal(0.5)", "normal(0.25, 0.75)"),
    *("trunc_normal", "trunc_normal(0.5)", "uniform", "uniform(-0.5)", "uniform(0.25, 0.75)"),
    *("xavier_uniform", "xavier_uniform_flat", "xavier_uniform(0.5)", "xavier_normal", "xavier_normal(0.5)"),
    *("kaiming_normal", "kaiming_normal(0.5)", "kaiming_uniform", "kaiming_uniform(0.5)"),
    *("kaiming_fan_out", "kaiming_fan_out(0.5)"),
]


@pytest.mark.parametrize("filling", FILLINGS)
def test_every_filling_can_be_said(filling: str) -> None:
    """A function of torch alone fills the same numbers as Composer's."""
    mine, theirs = (torch.zeros(2) if filling.startswith("values") else torch.zeros(4, 3) for _ in range(2))
    with torch.no_grad():
        torch.manual_seed(0)
        eval(filled(filling), {"nn": nn, "torch": torch})(mine)
        torch.manual_seed(0)
        Rule({"at": "**", "weight": filling}, None).fills["weight"](theirs)
    assert torch.equal(mine, theirs)
    assert mine.any() or filling == "zeros"


def test_no_filling_is_forgotten() -> None:
    assert {f.partition("(")[0] for f in FILLINGS} == set(FILLS)


BLOCK = """\
import enum

import composer
import numpy
from torch import nn


class Level(enum.IntEnum):
    LOW = 1


def grown(x):
    return numpy.abs(x)


class Mine(composer.Block):
    "x (B, C, *grid) -> the same."

    name = "lab.mine"
    layout = "map"

    def infer(self, rule, x):
        return x

    def build(self):
        {}
"""

REFUSED = {
    "return lambda x: x": "a lambda is defined inside of `Mine.build`",
    "class Own(nn.Module): pass\n        return Own()": "`Own` is defined inside of `Mine.build`",
    "return grown": "needs `numpy`, and an ejected file has torch alone",
    "made = nn.PReLU()\n        made.weight.data.fill_(3)\n        made.tag = 3\n        return made": "changes the `PReLU` after",
    "return nn.Threshold(Level.LOW, 1)": "is made with `<Level.LOW: 1>`, which is no literal",
    "return nn.Parameter(__import__('torch').zeros(2))": "a parameter by itself",
}


def refused(blueprint: composer.Blueprint) -> composer.Diagnostic:
    with pytest.raises(composer.BlueprintError) as fault:
        eject(blueprint)
    (said,) = fault.value.diagnostics
    assert said.code == "BP810"
    return said


@pytest.mark.parametrize("build", REFUSED)
def test_what_has_no_text_is_refused_at_its_node(build: str, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(
        "blueprint: 1\nname: net\ninputs: {image: {type: B 2 H W, size: [4, 4]}}\ngraph:\n  half: lab.mine\n"
        "outputs: {half: half}\n"
    )
    said = refused(with_plugin(tmp_path, BLOCK.format(build), str(tmp_path / "net.yaml"), []))
    assert said.span
    assert said.span.line == 5
    assert "`lab.mine` at `half` cannot be ejected: " in said.message
    assert REFUSED[build] in said.message


def test_what_is_no_module_cannot_be_counted(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(
        "blueprint: 1\nname: net\ninputs: {image: {type: B 2 H W, size: [4, 4]}}\ngraph:\n  half: {repeat: 2, use: lab.mine}\n"
        "outputs: {half: half}\n"
    )
    text = BLOCK.format("return Half()") + "\n\nclass Half:\n    def __call__(self, x):\n        return x / 2\n"
    said = refused(with_plugin(tmp_path, text, str(tmp_path / "net.yaml"), []))
    assert "`lab.mine` at `half.0` cannot be ejected: it is no module" in said.message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(a, b=B): return a + c", {"B", "c"}),
        ("def f(x: T) -> R:\n    a = x\n    return [a + b for b in c if b]", {"T", "R", "c"}),
        ("def f():\n    global g\n    g = 1\n    return g", {"g"}),
        ("class C(Base):\n    y = 1\n    z: T = y\n    def f(self): return y", {"Base", "T", "y"}),
        ("def f(x):\n    def inner(): return x + out\n    return inner", {"out"}),
        ("def f(offsets):\n    return (lambda s: s + t + offsets)(u)", {"t", "u"}),
        ("A = {k: v for k, v in B.items()}", {"B"}),
    ],
)
def test_names_that_mean_something_outside(text: str, found: set[str]) -> None:
    (statement,) = ast.parse(text).body
    assert {n.id for n in globals_of(statement)} == found


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: nn.Conv2d(3, 4, (3, 3), padding=(1, 1)), "nn.Conv2d(3, 4, 3, padding=1)"),
        (lambda: nn.Conv3d(3, 4, (1, 3, 3), bias=False), "nn.Conv3d(3, 4, (1, 3, 3), bias=False)"),
        (lambda: nn.Dropout(0.5), "nn.Dropout()"),
        (
            lambda: nn.Sequential(nn.Linear(2, 3), nn.GELU("tanh")),
            'nn.Sequential(nn.Linear(2, 3), nn.GELU(approximate="tanh"))',
        ),
        (lambda: nn.LayerNorm(torch.Size([2, 3])), "nn.LayerNorm((2, 3))"),
        (lambda: nn.Hardtanh(float("-inf"), 1.0), 'nn.Hardtanh(min_val=float("-inf"))'),
        (lambda: partial(nn.functional.hardtanh, min_val=-2.0), "partial(functional.hardtanh, min_val=-2.0)"),
        (lambda: torch.Tensor.detach, "torch.Tensor.detach"),
    ],
)
def test_an_object_is_said_as_it_was_made(build: Callable[[], Any], text: str) -> None:
    with Recording(build) as recording:
        made = build()
    expression = recording.expression(made)
    sources = Sources()
    for thing in things(expression):
        sources.take(thing)
    said = Said(Speech(sources, sources.settle()))
    assert str(said.expression(expression, iter([None] * 20))) == text


def test_the_command_writes_a_file_or_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], vit: str) -> None:
    words = [f"{k}={str(v).replace(' ', '')}" for k, v in VIT.items()]
    path = tmp_path / "net.py"
    assert run(["eject", "vit", *words, "-o", str(path)]) == 0
    assert "its network is the class Vit" in capsys.readouterr().out
    assert path.read_text() == vit
    for to_stdout in ([], ["-o", "-"]):
        assert run(["eject", "vit", *words, *to_stdout]) == 0
        assert capsys.readouterr().out == vit
    assert [p.name for p in tmp_path.iterdir()] == ["net.py"]


@pytest.mark.parametrize(("name", "said"), [("net.txt", "is a .py file"), ("nowhere/net.py", "there is no folder")])
def test_a_place_it_cannot_write_to_is_said_first(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eject", "no such blueprint", "-o", str(tmp_path / name)]) == 1
    err = capsys.readouterr().err
    assert "error[BP806]" in err
    assert said in err
