"""`composer bench`: who is measured against, equal weights, what is found, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import composer
from composer.bench import Case
from composer.bench.pair import apart, pair
from composer.bench.peaks import peak
from composer.bench.processes import fresh
from composer.bench.profiling import MOST, Spent, lines, profiled, reason
from composer.bench.report import geometric
from composer.bench.rivals import references, rival
from composer.bench.times import Times, timed
from composer.cli.main import run

VIT = ("size=[16,16]", "patch=8", "dim=8", "depth=1", "heads=2", "classes=3")
IMAGE = {"image": (1, 3, 16, 16)}
NET = """\
blueprint: 1
name: net
inputs: {image: {type: B 1 H W, size: [8, 8]}}
graph:
  stem: {use: conv, out: 4, kernel: 3, norm: batch}
  head: {use: conv, out: 2, kernel: 1}
outputs: {labels: head}
"""
MINE = """\
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.stem.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, image):
        return self.head(self.stem.norm(self.stem(image)))


def for_blueprint(blueprint):
    assert blueprint.name == "net"
    return Mine()


def other_keys(): return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
def broken(): raise RuntimeError("no GPU")
def wanting(): import nowhere_to_be_found
def nothing(): return {"layers": 3}
def asking(width, depth): return Mine()
def volumes(): return nn.Conv3d(1, 2, 3)
def wide(): return nn.Conv2d(1, 5, 3, padding=1)
def none(): return Silent()
number = 3


class Silent(nn.Module):
    def forward(self, image): return None
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a blueprint and factories."""
    (tmp_path / "net.yaml").write_text(NET)
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mine(name: str, **options: Any) -> Case:
    return Case("net.yaml", shapes={"image": (1, 1, 8, 8)}, against=f"mine.py:{name}", rounds=1, **options)


def refused(case: Case) -> str:
    with pytest.raises(composer.ComposerError) as caught:
        timed(case)
    assert [d.code for d in caught.value.diagnostics] == ["BP612"]
    return str(caught.value)


# --- who is measured against -------------------------------------------------------------------------------------

SMALL: dict[str, tuple[str, ...]] = {
    "vit": VIT,
    "swin": ("size=[16,16]", "patch=2", "dim=4", "depths=[1,1]", "heads=[1,2]", "window=4", "drop_path=0"),
    "segformer": ("size=[32,32]", "dims=[4,8,10,16]", "depths=[1,1,1,1]", "width=8", "eps=1e-5", "drop_path=0",
                  "head_dropout=0"),
    "detr": ("size=[32,40]", "depths=[1,1,1,1]", "stem=4", "widths=[4,8,8,12]", "dim=8", "layers=1", "heads=2",
             "queries=3", "hidden=8", "dropout=0"),
    "deformable_detr": ("size=[32,40]", "depths=[1,1,1,1]", "stem=4", "widths=[4,8,8,12]", "dim=32", "layers=2",
                        "heads=2", "queries=3", "hidden=8", "dropout=0"),
    "transformer:torch": ("dim=8", "hidden=12", "heads=2", "encoder_layers=1", "decoder_layers=1", "dropout=0"),
    "unetr": ("size=[16,16]", "dim=8", "heads=2", "hidden=8", "width=2"),
    "swin_unetr": ("size=[64,64]", "dim=12", "depths=[1,1,1,1]", "heads=[1,1,2,2]", "window=3"),
    "vnet": ("size=[16,16]",),
    "attention_unet_monai": ("size=[16,16]", "widths=[2,4,6]"),
    "unet": ("size=[16,16]", "widths=[2,2,4,8,16]"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", SMALL)
def test_every_reference_is_the_same_network(name: str) -> None:
    """Outputs and the gradients of all weights, on weights that are equal by the blueprint's rules."""
    sequences = {"source": (2, 8, 5), "target": (2, 8, 3)}
    case = Case(name, SMALL[name], {}, train=name != "vnet")  # its skips drop whatever the parameters say
    loaded = case.loaded()
    shapes = sequences if name.startswith("transformer") else {"image": _shape(loaded)}
    both = pair(Case(name, SMALL[name], shapes, train=case.train))
    found = apart(both)
    assert (both.unequal, found.why) == ("", "")
    assert found.outputs is not None
    assert found.outputs < 2e-4
    assert (found.gradients or 0) < 2e-3


def _shape(blueprint: composer.Blueprint) -> tuple[int, ...]:
    spec = blueprint.infer().inputs[0]
    return (2, spec.type.channels, *blueprint.values["size"])


def test_every_registered_reference_is_tested() -> None:
    known = composer.Registry.discover().references.values()
    assert {r.blueprint for r in known} == {name.partition(":")[0] for name in SMALL}


def test_a_blueprint_that_extends_another_has_its_references(here: Path) -> None:
    (here / "mine.yaml").write_text("blueprint: 1\nname: mine\nextends: vit\nparams: {classes: 4}\n")
    assert list(references(composer.load("mine.yaml"))) == ["transformers"]
    assert list(references(composer.load("vit:tiny"))) == ["transformers"]


def test_without_a_reference_it_is_the_network_without_passes(here: Path) -> None:
    chosen = rival("", composer.load("net.yaml"))
    assert chosen.label == "no passes"
    assert chosen.remark == "no plugin has a reference of `net`: it is measured against itself without passes"
    found = timed(Case("net.yaml", shapes={"image": (1, 1, 8, 8)}, rounds=1))
    assert found.apart.outputs is not None
    assert found.apart.outputs < 1e-5, "the batch norm is folded"


# --- a factory of the user's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Mine", "for_blueprint"])
def test_equal_keys_make_equal_weights(here: Path, name: str) -> None:
    found = timed(mine(name))
    assert (found.label, len(found.ours), len(found.theirs)) == (f"mine.py:{name}", 1, 1)
    assert found.apart.outputs is not None
    assert found.apart.outputs < 1e-5


def test_a_module_on_the_path(here: Path) -> None:
    assert timed(Case("net.yaml", shapes={"image": (1, 1, 8, 8)}, against="mine:Mine", rounds=1)).apart.why == ""


def test_other_keys_are_timed_and_not_compared(here: Path) -> None:
    found = timed(mine("other_keys"))
    assert found.apart.outputs is None
    said = "weights could not be made equal: its keys are not ours, and the blueprint has no `weights:`"
    assert found.apart.why == said
    assert len(found.ratios) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "`mine.py:broken` failed: RuntimeError: no GPU"),
        ("wanting", "`mine.py:wanting` needs the package `nowhere_to_be_found`, which is not installed"),
        ("nothing", "`mine.py:nothing` makes dict, not an nn.Module"),
        ("asking", "`mine.py:asking` asks for `width`, `depth`"),
        ("volumes", "`mine.py:volumes` cannot run on image (1, 1, 8, 8): RuntimeError"),
        ("wide", "`mine.py:wide` gives (1, 5, 8, 8), the blueprint (1, 2, 8, 8)"),
        ("none", "`mine.py:none` gives no tensor, the blueprint (1, 2, 8, 8)"),
        ("Mime", "`--against mine.py:Mime`: `Mime` is not there; did you mean `Mine`?"),
        ("number", "`--against mine.py:number`: `number` is not callable"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(here: Path, name: str, said: str) -> None:
    assert said in refused(mine(name))


def test_the_place_in_the_users_code_is_said(here: Path) -> None:
    line = next(k for k, text in enumerate(MINE.splitlines(), 1) if "no GPU" in text)
    assert f"mine.py:{line}" in refused(mine("broken"))


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("monia", "there is no reference `monia` of `unet`; did you mean `monai`?"),
        ("nowhere:net", "there is no module `nowhere`"),
        ("gone.py:net", "there is no file gone.py"),
        ("half:net", "importing `half` failed: NameError: name 'x' is not defined"),
        ("needy:net", "`needy` needs the package `absent_package`, which is not installed"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(here: Path, against: str, said: str) -> None:
    (here / "half.py").write_text("x")
    (here / "needy.py").write_text("import absent_package")
    assert said in refused(Case("unet", ("size=[16,16]",), {"image": (1, 1, 16, 16)}, against))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refused(Case("vit", VIT, IMAGE, "transformers"))
    assert "needs the package `transformers`, which is not installed" in said
    assert "pip install transformers" in said


def test_a_parameter_that_a_reference_does_not_have_is_refused() -> None:
    said = refused(Case("vit", (*VIT, "drop_path=0.1"), IMAGE))
    assert "transformers has nothing like the parameter `drop_path`, which is 0.1 here" in said
    assert "<command line>" in said


def test_what_a_reference_cannot_say_is_refused() -> None:
    said = refused(Case("transformer", (), {"source": (1, 512, 2), "target": (1, 512, 2)}))
    assert "torch has no `transformer` with these parameters: it has a norm at the end" in said


def test_a_reference_that_breaks_is_its_plugins_fault(here: Path) -> None:
    (here / "lab.py").write_text(
        "import composer\n@composer.hookimpl\ndef register_references():\n"
        "    return [composer.Reference('net', 'lab', lambda values: 1 / 0)]\n"
    )
    case = Case("net.yaml", shapes={"image": (1, 1, 8, 8)}, plugins=(here / "lab.py",))
    with pytest.raises(composer.PluginError, match="the reference `net lab` failed: ZeroDivisionError"):
        timed(case)


# --- what is measured --------------------------------------------------------------------------------------------


def test_ratios_are_of_rounds_and_the_median_counts() -> None:
    from composer.bench.pair import Apart

    found = Times("x", (1.0, 2.0, 4.0), (2.0, 2.0, 2.0), Apart(), 1)
    assert found.ratios == [0.5, 1.0, 2.0]
    assert found.ratio == 1.0
    assert geometric([2, 8]) == pytest.approx(4)


def test_other_weights_would_be_seen(here: Path) -> None:
    both = pair(mine("Mine", train=True))
    with torch.no_grad():
        both.theirs.network.get_parameter("head.bias").add_(0.1)
    found = apart(both)
    assert min(found.outputs or 0, found.gradients or 0) > 1e-3


def test_dropout_is_seen_and_not_compared() -> None:
    found = timed(Case("vit", (*VIT, "dropout=0.5"), IMAGE, train=True, rounds=1))
    assert found.apart.outputs is None
    assert "at random (dropout)" in found.apart.why


def test_the_peak_of_tensors_is_exact() -> None:
    """conv (1 -> 4 channels at 8²), then a product: the image's map, the next, and no weights."""
    found = peak(Case("unet", ("size=[16,16]", "widths=[2,4]"), {"image": (1, 1, 16, 16)}, "plain"), ours=False)
    assert found.tensors % 4 == 0
    assert 2 * 2 * 16 * 16 * 4 <= found.tensors <= 8 * 2 * 16 * 16 * 4


def test_a_wide_layer_has_the_peak_of_its_tensors(here: Path) -> None:
    (here / "one.yaml").write_text(
        "blueprint: 1\nname: one\ninputs: {image: {type: B 1 H W, size: [8, 8]}}\n"
        "graph: {head: {use: conv, out: 16, kernel: 1}}\noutputs: {y: head}\n"
    )
    found = peak(Case("one.yaml", shapes={"image": (1, 1, 8, 8)}, against="plain"), ours=True)
    assert found.tensors == 16 * 8 * 8 * 4


def test_half_precision(here: Path) -> None:
    both = pair(mine("Mine", dtype="bfloat16"))
    assert {p.dtype for r in (both.ours, both.theirs) for p in r.network.parameters()} == {torch.bfloat16}
    assert apart(both).outputs is not None


@pytest.mark.slow
def test_a_process_of_its_own_gives_what_it_gives_and_refuses_what_it_refuses(here: Path) -> None:
    """The command, from beginning to end: times, memory of each, a file; then a factory that fails in the child."""
    command = [sys.executable, "-m", "composer.cli.main", "bench", "net.yaml", "--rounds", "1", "--allocator", "tuned"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--against", "mine:Mine", "--json", "found.json"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "net against mine:Mine: image (1, 1, 8, 8), float32, inference" in done.stdout
    assert "peak of tensors" in done.stdout
    (found,) = json.loads((here / "found.json").read_text())["found"]
    assert (found["allocator"], found["why"], len(found["ratios"])) == ("tuned", "", 1)
    assert found["peaks"]["ours"]["tensors"] > 0


def test_the_command_in_this_process(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "net.yaml", "--against", "mine.py:Mine", "--train", "--no-memory", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert "a training step" in out
    assert "of their length" in out
    assert "peak" not in out
    assert run(["bench", "net.yaml", "--against", "mine.py:broken", "--no-memory"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run(["bench", "net.yaml", "--allocator", "jemalloc"]) == 1
    assert "known: default, tuned, both" in capsys.readouterr().err


def test_size_makes_the_network_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*VIT[1:], "--size", "24,16", "--batch", "2", "--no-memory", "--rounds", "1"]
    assert run(["bench", "vit", *words]) == 0
    assert "image (2, 3, 24, 16)" in capsys.readouterr().out


def _killed() -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_a_measurement_that_the_system_ends_is_said() -> None:
    with pytest.raises(composer.BlueprintError, match="most often memory ran out"):
        fresh(_killed)


def test_the_profile_names_kernels_of_both() -> None:
    found = profiled(Case("vit", VIT, IMAGE, train=True))
    by_name = {s.name: s for s in found}
    assert by_name["addmm"].calls[0] > 0 < by_name["addmm"].calls[1]
    assert [s.name for s in found] == [s.name for s in sorted(found, key=lambda s: -max(s.ours, s.theirs))]
    rows = list(lines(found))
    assert len(rows) == 2 + MOST
    assert reason(found).startswith(f"most in {max(found, key=lambda s: s.ours).name} ")


def test_the_reason_names_what_differs_most() -> None:
    rows = [Spent("conv", 0.5, 0.5, (3, 3)), Spent("copy", 0.3, 0.1, (9, 1)), Spent("add", 0.2, 0.25, (2, 3))]
    assert reason(rows) == "most in conv 50%, copy 30%, add 20%; beside theirs copy +200 ms, add -50 ms"
