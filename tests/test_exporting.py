"""`composer export`: what other programs read is the same network, and what cannot be written is refused by name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import composer
from composer.cli.main import run
from composer.inference import Program, Step, is_move
from composer.liveness import ids_of, needed
from composer.registry import Registry

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "blueprints" / "weights" / "unet_demo.safetensors"

CASES = [
    ("vit", {"size": [32, 32], "dim": 32, "depth": 2, "heads": 4, "classes": 5, "patch": 8}, (32, 32)),
    ("unet", {"size": [32, 32], "widths": [4, 8, 16]}, (32, 32)),
    ("swin_unet", {"size": [56, 56], "dim": 12, "depths": [2, 2], "heads": [2, 4]}, (56, 56)),
    ("unet3d", {"size": [16, 16, 16], "widths": [4, 8]}, (16, 16, 16)),
]
SLOW = [
    ("unet", {"size": [48, 64], "widths": [8, 16, 32, 64], "image.pad": "auto"}, (50, 61)),
    ("unet", {"size": [32, 32], "widths": [4, 8, 16], "image.pad": "auto", "image.fill": "reflect"}, (31, 33)),
    ("segformer", {}, (64, 64)),
    ("vnet", {}, (32, 32, 32)),
]
PADDED = ("unet", {"size": [32, 32], "widths": [4, 8], "image.pad": "auto"}, (29, 31))


def words(values: dict) -> list[str]:
    return [f"{k}={str(v).replace(' ', '')}" for k, v in values.items()]


def built(name: str, values: dict, size: tuple[int, ...], folder: Path) -> tuple[list[str], torch.nn.Module]:
    """The words of a command and the network of the same weights, which stand in a file."""
    from safetensors.torch import save_file

    from composer.blueprint import parse_overrides

    torch.manual_seed(0)
    network = composer.Blueprint.load(name, None, parse_overrides(words(values))).build().eval()
    save_file({k: v.contiguous().clone() for k, v in network.state_dict().items()}, folder / "weights.safetensors")
    command = ["export", name, *words(values), "--weights", str(folder / "weights.safetensors")]
    return [*command, "--size", ",".join(map(str, size))], network


def fed(network: torch.nn.Module, size: tuple[int, ...], batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, network.inputs[0].type.channels, *size, generator=generator)


def equal(network: torch.nn.Module, x: torch.Tensor, made: list[torch.Tensor]) -> None:
    with torch.no_grad():
        wanted = network(x)
    wanted = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    assert len(made) == len(wanted)
    for one, other in zip(made, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def runs(path: Path, x: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(y) for y in session.run(None, {session.get_inputs()[0].name: x.numpy()})]


@pytest.mark.parametrize(
    ("name", "values", "size"),
    [*CASES, PADDED, *(pytest.param(*c, marks=pytest.mark.slow) for c in SLOW)],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_onnx_is_the_network(name: str, values: dict, size: tuple[int, ...], tmp_path: Path) -> None:
    command, network = built(name, values, size, tmp_path)
    path = tmp_path / "net.onnx"
    assert run([*command, "--onnx", str(path)]) == 0
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == [o.name for o in network.outputs if not o.training]
    modules = dict(network.named_modules())
    addressed = [n.name.rpartition("/")[0] for n in model.graph.node if "/" in n.name]
    assert addressed
    assert set(addressed) <= set(modules)
    for batch in (1, 3):
        x = fed(network, size, batch)
        equal(network, x, runs(path, x))


def test_sizes_stay_open_as_the_rules_allow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, network = built(*CASES[1], tmp_path)
    assert run([*command, "--onnx", str(tmp_path / "net.onnx"), "--torch", str(tmp_path / "net.pt2")]) == 0
    out = capsys.readouterr().out
    assert out.count("the sizes may be H = 4·k from 8, W = 4·k from 8") == 2
    assert out.count("run beside the network on image (1, 1, 32, 32) and image (2, 1, 8, 12): at most ") == 2
    shape = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 1, "4*h", "4*w"]
    program = torch.export.load(tmp_path / "net.pt2").module()
    for batch, size in ((1, (8, 8)), (2, (12, 20)), (1, (64, 36))):
        x = fed(network, size, batch)
        equal(network, x, runs(tmp_path / "net.onnx", x))
        equal(network, x, [program(x)])


@pytest.mark.slow
def test_fixed_sizes_and_no_run_where_that_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, _ = built(*CASES[1], tmp_path)
    assert run([*command, "--onnx", str(tmp_path / "net.onnx"), "--fixed", "--no-verify"]) == 0
    out = capsys.readouterr().out
    assert "the sizes may be" not in out
    assert "run beside" not in out
    shape = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 1, 32, 32]


def test_a_file_that_is_another_network_is_refused() -> None:
    from composer.exporters.verifying import verified

    network = composer.load("unet", size=[16, 16], widths=[4, 8]).build().eval()
    shapes = [{"image": (1, 1, 16, 16)}]
    with torch.no_grad():
        assert "at most 0.0e+00 apart" in verified(network, shapes, lambda x: [network(**x)])
        wrong = {
            "gives other results": lambda x: [network(**x) + 1],
            "gives other shapes": lambda x: [network(**x)[..., 1:]],
            "does not run on image (1, 1, 16, 16)": lambda x: [network(x)],
        }
        for said, runner in wrong.items():
            with pytest.raises(composer.BlueprintError, match=re.escape(said)):
                verified(network, shapes, runner)


@pytest.mark.parametrize(("name", "values", "size"), [CASES[1], PADDED])
def test_a_torch_program_is_the_network(name: str, values: dict, size: tuple[int, ...], tmp_path: Path) -> None:
    command, network = built(name, values, size, tmp_path)
    path = tmp_path / "net.pt2"
    assert run([*command, "--torch", str(path)]) == 0
    program = torch.export.load(path).module()
    for batch in (1, 3):
        x = fed(network, size, batch)
        equal(network, x, [program(x)])
        assert program(x).shape[2:] == size


def test_a_torch_program_runs_without_composer(tmp_path: Path) -> None:
    command, network = built(*CASES[1], tmp_path)
    assert run([*command, "--torch", str(tmp_path / "net.pt2")]) == 0
    code = (
        "import sys, torch; y = torch.export.load(sys.argv[1]).module()(torch.zeros(2, 1, 32, 32)); "
        "print(tuple(y.shape), 'composer' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "net.pt2"], capture_output=True, text=True)
    assert done.stdout.strip() == f"(2, {network.outputs[0].ids and 2}, 32, 32) False", done.stderr


def _run(program: Program) -> list[Step]:
    """The steps that the outputs of evaluation depend on."""
    live = needed(program.steps, [i for o in program.outputs if not o.training for i in ids_of(o.ids)])
    return [s for s in program.steps if live & set(s.outputs) and not s.unused]


NETRON = ["unet", "swin_unet", "detr"]
ALL = sorted(p.stem for p in (ROOT / "blueprints").glob("*.yaml"))


@pytest.mark.parametrize("name", [*NETRON, *(pytest.param(n, marks=pytest.mark.slow) for n in ALL if n not in NETRON)])
def test_netron_sees_blocks_and_types(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    blueprint = composer.load(name)
    sizes = ["--size", "source=5", "--size", "target=7"] if name == "transformer" else []
    assert run(["export", name, *sizes, "--netron", str(path)]) == 0
    model = onnx.load(path)
    onnx.checker.check_model(model)
    program = blueprint.optimized()
    blocks = {s.address: s.block.name for s in program.steps}
    own = [n for n in model.graph.node if n.op_type != "output"]
    assert own
    assert all(blocks[n.name].replace(".", "/") == n.op_type for n in own)
    assert {n.name for n in own} >= {s.address for s in _run(program) if not is_move(s.address)}
    known = {v.name: v for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    for node in own:
        for value in (*filter(None, node.input), *node.output):
            dims = known[value].type.tensor_type.shape.dim
            assert dims[0].dim_param == "B"
            assert all(d.dim_value > 0 for d in dims[1:]), value
    counted = {a.name: a.i for n in own for a in n.attribute if a.name == "parameters"}
    assert counted
    assert len(path.read_bytes()) < 500_000, "no weights"


def test_the_sum_of_parameters_in_netron_is_that_of_the_network(tmp_path: Path) -> None:
    assert run(["export", "unet", "--netron", str(tmp_path / "net.onnx")]) == 0
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    total = sum(a.i for n in nodes for a in n.attribute if a.name == "parameters")
    assert total == sum(p.numel() for p in composer.load("unet").build("meta").parameters())


PLUGIN = '''
import composer, torch
from torch import nn

class _Peek(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class _Odd(nn.Module):
    def forward(self, x):
        return torch.special.i1e(x)

class _Rigid(nn.Module):
    def forward(self, x):
        return x.reshape(int(x.shape[0]), *x.shape[1:]) if int(x.shape[0]) == 1 else x + x.shape[0] * int(x.sum() > 0)

class _Count(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, x):
        self.calls += 1
        return x * self.calls.clone()

class Count(composer.Block):
    """Keeps something from call to call."""
    name = "toy.count"
    shape = "batch dim *grid -> batch dim *grid"
    def build(self): return _Count()

class Peek(composer.Block):
    """Looks at the numbers."""
    name = "toy.peek"
    shape = "batch dim *grid -> batch dim *grid"
    def build(self): return _Peek()

class Odd(composer.Block):
    """An operation that ONNX does not have."""
    name = "toy.odd"
    shape = "batch dim *grid -> batch dim *grid"
    def build(self): return _Odd()

class Rigid(composer.Block):
    """Only traced with one image."""
    name = "toy.rigid"
    shape = "batch dim *grid -> batch dim *grid"
    def build(self): return _Rigid()

def names(network, path, **options):
    path.write_text("\\n".join(sorted(n for n, _ in network.named_parameters())) + f"\\n{options['shapes']}")
    return "these are its parameters"

def broken(network, path, **options):
    path.write_text("half")
    raise KeyError("nothing")

def never():
    raise ImportError("no such library")

@composer.hookimpl
def register_blocks(): return (Peek, Odd, Rigid, Count)

@composer.hookimpl
def register_exporters(): return (("names", lambda: names), ("broken", lambda: broken), ("never", never))
'''
NET = """\
blueprint: 1
name: net
params: {inner: {type: block, default: toy.odd}}
inputs: {image: {type: B 1 H W, size: [8, 8]}}
graph:
  stem: {use: conv, out: 4}
  odd: $inner
  head: {use: conv, out: 2}
outputs: {y: head}
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NET)
    Path("plug.py").write_text(PLUGIN)
    return ["export", "net.yaml", "--plugin", "plug.py"]


def left(but: tuple[str, ...] = ("net.yaml", "plug.py")) -> list[str]:
    return sorted(p.name for p in Path().iterdir() if p.name not in (*but, "__pycache__"))


@pytest.mark.parametrize(
    ("inner", "how", "place"),
    [
        ("toy.odd", "--onnx", "cannot be written as ONNX at `odd`"),
        ("toy.peek", "--onnx", "cannot be traced at `odd` (<command line>"),
        ("toy.peek", "--torch", "cannot be traced at `odd` (<command line>"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_node(
    inner: str, how: str, place: str, net: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*net, f"inner={inner}", how, "out.file"]) == 1
    out, err = capfd.readouterr()
    assert "error[BP809]: `net` " + place in err
    assert "swap this node" in err
    assert len(err.splitlines()) < 9, err
    assert out == ""
    assert left() == []


def test_state_is_kept_by_a_torch_program_alone(net: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*net, "inner=toy.count", "--onnx", "out.onnx"]) == 1
    err = capsys.readouterr().err
    assert "error[BP809]: `net` cannot be written as ONNX: it changes `odd.calls` at evaluation" in err
    assert "`--torch FILE` keeps it" in err
    assert left() == []
    assert run([*net, "inner=toy.count", "--torch", "out.pt2"]) == 0
    assert "at most" in capsys.readouterr().out


def test_a_batch_that_cannot_stay_open_is_said(net: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*net, "inner=toy.rigid", "--torch", "out.pt2"]) == 0
    assert "the batch is fixed" in capsys.readouterr().out


def test_a_plugin_adds_a_format(net: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*net, "--format", "names", "-o", "names.txt"]) == 0
    assert Path("names.txt").read_text().splitlines()[0] == "head.bias"
    assert "(1, 1, 8, 8)" in Path("names.txt").read_text()
    assert "these are its parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--format", "nmaes", "-o", "x"], "BP201", "did you mean `names`?"),
        (["--format", "names"], "BP201", "go together"),
        (["-o", "x"], "BP201", "go together"),
        ([], "BP201", "--onnx FILE, --torch FILE, --netron FILE"),
        (["--format", "broken", "-o", "x"], "BP809", "the exporter of `broken` failed: KeyError: 'nothing'"),
        (["--format", "never", "-o", "x"], "BP809", "the exporter of `never` failed: ImportError: no such library"),
        (["--torch", "nowhere/x.pt2"], "BP806", "cannot write nowhere/x.pt2: No such file or directory"),
        (["--torch", "."], "BP806", "it is a folder"),
        (["--torch", "x", "--size", "8,8,8"], "BP502", "8"),
        (["--torch", "x", "--size", "target=8,8"], "BP503", "no input `target`"),
    ],
)
def test_mistakes(words: list[str], code: str, said: str, net: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*net, *words]) == 1
    err = capsys.readouterr().err
    assert f"error[{code}]" in err
    assert said in err
    assert left() == []


def test_an_existing_file_stays_when_the_export_fails(net: list[str]) -> None:
    Path("x").write_text("before")
    assert run([*net, "--format", "broken", "-o", "x"]) == 1
    assert Path("x").read_text() == "before"
    assert left() == ["x"]


def test_a_missing_package_is_named(
    net: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from composer.exporters import wanting

    monkeypatch.setattr(wanting, "find_spec", lambda name: None)
    assert run([*net, "--netron", "x.onnx"]) == 1
    err = capsys.readouterr().err
    assert "needs the package onnx" in err
    assert "blueprint-composer[export]" in err


def test_weights_are_those_given_and_random_ones_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.pt2"
    assert run(["export", "unet:demo", "--size", "16,16,16", "--torch", str(path)]) == 0
    assert "its weights are random" in capsys.readouterr().out
    assert run(["export", "unet:demo", "--size", "16,16,16", "--torch", str(path), "--weights", str(DEMO)]) == 0
    assert "random" not in capsys.readouterr().out
    network = composer.load("unet:demo").build(weights=DEMO).eval()
    x = fed(network, (16, 16, 16), 1)
    equal(network, x, [torch.export.load(path).module()(x)])


def test_shipped_formats_enter_by_the_hook() -> None:
    found = Registry.discover()
    assert {"onnx", "torch", "netron"} <= set(found.exporters)
    code = "import sys, composer; composer.Registry.discover(); print({'torch', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


SEVERAL = """\
blueprint: 1
name: several
inputs:
  first: {type: B 2 H W, size: [8, 8], optional: true}
  image: {type: B 2 H W, size: [8, 8]}
  last: {type: B 3 H W, size: [8, 8], optional: true}
graph:
  stem: {use: conv, from: image, out: 4}
  head: {use: conv, out: 2}
outputs: {low: head, high: stem}
"""


@pytest.mark.parametrize("inputs", ["", "{type: B 2 H W, size: [8, 8], optional: true}"], ids=["in front", "behind"])
def test_optional_inputs_are_left_out_and_outputs_keep_their_names(inputs: str, tmp_path: Path) -> None:
    text = SEVERAL.replace("  first: {type: B 2 H W, size: [8, 8], optional: true}\n", "") if inputs else SEVERAL
    (tmp_path / "several.yaml").write_text(text)
    path = tmp_path / "net.onnx"
    command, network = built(str(tmp_path / "several.yaml"), {}, (8, 8), tmp_path)
    assert run([*command[:2], "--size", "image=8,8", *command[2:4], "--onnx", str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert [o.name for o in session.get_outputs()] == ["low", "high"]
    x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network(image=x)
    for made, name in zip(session.run(None, {"image": x.numpy()}), ("low", "high"), strict=True):
        torch.testing.assert_close(torch.from_numpy(made), wanted[name], atol=1e-4, rtol=1e-4)
