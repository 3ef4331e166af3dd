"""The cost of a network without allocating it: against a real run, against torch's counter, against hand counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import CASES
from test_blueprints import networks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import composer
from composer.cli.main import run
from composer.cost import OPTIMIZERS
from composer.figures import Cost, number, size
from composer.testing import storages

SMALL: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit", dict(size=[64, 64], dim=96, depth=3, heads=4, classes=10, dropout=0.1), 3),
    "unet": ("unet:volume", dict(size=[32, 32, 32]), 1),
    "swin_unet": ("swin_unet", dict(size=[64, 64], dim=16, heads=[1, 2, 2, 4], depths=[1, 2, 1, 1], window=2), 2),
    "cotr": ("cotr:star", dict(size=[16, 64, 32], widths=[8, 16, 24, 24], heads=3, layers=2), 1),
}
PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit", {}, 8),
    "unet": ("unet:volume", {}, 1),
    "swin_unet": ("swin_unet", {}, 4),
    "cotr": ("cotr", dict(size=[24, 96, 96]), 1),
}
TINY: dict[str, dict[str, Any]] = {
    **{params[0]: params[1] for params in CASES.values()},
    "vit": dict(size=[32, 32], dim=16, depth=2, heads=2),
    "unet": dict(size=[32, 32], widths=[4, 8, 16]),
    "unet3d": dict(size=[64, 64, 64], widths=[4, 8, 16, 16, 16, 16]),
    "swin": dict(depths=[1, 2, 1, 1]),
    "resnet": dict(depths=[1, 2, 1, 1]),
    "detr": dict(size=[64, 64], depths=[1, 1, 1, 1], layers=1),
    "deformable_detr": dict(size=[128, 128], depths=[1, 1, 1, 1], layers=1),
    "deformable_detr:two_stage": dict(size=[128, 128], depths=[1, 1, 1, 1], layers=1, queries=100),
    "transformer": dict(encoder_layers=1, decoder_layers=1),
}


def within_a_percent(found: int, real: int) -> bool:
    return abs(found - real) <= 0.01 * real


SHAPES = {"transformer": dict(source=(2, 512, 7), target=(2, 512, 5))}


def both(name: str, params: dict[str, Any], batch: int, train: bool, **options: Any) -> tuple[Cost, storages.Measured]:
    """Predicted and real."""
    blueprint = composer.load(name, **params)
    found = blueprint.cost(train=train, batch=batch, flops=False, **options)
    dtype = getattr(torch, found.dtype)
    network = blueprint.build(checkpoint=options.get("checkpoint", ())).to(dtype)
    inputs = {n: torch.randn(s, dtype=dtype) for n, s in found.shapes.items()}
    return found, storages.run(network, inputs, train)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", SMALL)
def test_memory_is_that_of_a_real_run(name: str, train: bool) -> None:
    found, real = both(*SMALL[name], train)
    assert within_a_percent(found.peak.bytes, real.peak)
    assert within_a_percent(found.saved, real.saved)
    assert (found.saved > 0) == train


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_memory_is_that_of_a_real_run_at_published_size(name: str, train: bool) -> None:
    found, real = both(*PUBLISHED[name], train)
    assert within_a_percent(found.peak.bytes, real.peak)
    assert within_a_percent(found.saved, real.saved)


@pytest.mark.parametrize(("name", "pattern"), [("vit", "*.*"), ("unet", "*.*"), ("swin_unet", "*.*"), ("unet", "*")])
def test_memory_with_checkpoints_is_that_of_a_real_run(name: str, pattern: str) -> None:
    found, real = both(*SMALL[name], True, checkpoint=pattern)
    assert within_a_percent(found.peak.bytes, real.peak)
    assert within_a_percent(found.saved, real.saved)
    whole = composer.load(SMALL[name][0], **SMALL[name][1]).cost(train=True, batch=SMALL[name][2], flops=False)
    assert found.saved < whole.saved / 2


@pytest.mark.parametrize("name", ["vit", "unet"])
def test_memory_in_half_precision_is_that_of_a_real_run(name: str) -> None:
    found, real = both(*SMALL[name], True, dtype="bf16")
    assert within_a_percent(found.peak.bytes, real.peak)
    assert found.dtype == "bfloat16"


def test_the_tracker_of_the_tests_weighs_what_lives() -> None:
    x = torch.zeros(250)
    with storages.Tracker([x]) as tracker:
        y = x + 1
        z = y.view(10, 25)
        del y
        assert (tracker.now, tracker.peak) == (2000, 2000)
        del z
        assert (tracker.now, tracker.peak) == (1000, 2000)


def test_the_figure_of_the_lecture() -> None:
    """A 3-D U-Net at 512 × 512 × 256, batch 1, float32: "180 GB". Nothing of it is allocated."""
    blueprint = composer.load("unet3d", size=[512, 512, 256])
    training = blueprint.cost(train=True, flops=False, without="all")
    assert 165e9 < training.peak.bytes < 180e9
    assert 160e9 < training.saved < training.peak.bytes
    assert 135e9 < blueprint.cost(train=True, flops=False).peak.bytes < 140e9  # activations are written over norms
    assert 30e9 < blueprint.cost(flops=False, without="all").peak.bytes < 40e9
    assert 25e9 < blueprint.cost(flops=False).peak.bytes < 27e9  # no concatenation at the finest level


def test_the_peak_is_explained() -> None:
    found = composer.load("unet:volume", size=[96, 96, 96]).cost(train=True)
    peak = found.peak
    assert sum(peak.parts.values()) == peak.bytes
    assert (peak.address, peak.phase) == ("up.3.block.1.act", "backward")
    stocked = sum(peak.parts[k] for k in ("parameters", "inputs"))
    assert sum(n for _, n in peak.live) == sum(r.at_peak for r in found.rows) == peak.bytes - stocked
    assert [address for address, _ in peak.live[:2]] == ["up.3.block.1.act", "up.3.fuse"]
    assert max(r.live for r in found.rows) <= peak.bytes


def test_where_the_peak_lies_is_also_so_in_a_real_run() -> None:
    """What is alive when a node returns, as measured around the real modules, of a network without passes: where one
    listens, steps that are joined run one after the other, but keep what they read until the last has returned."""
    blueprint = composer.load("unet:volume", size=[32, 32, 32])
    rows = {r.address: r.live for r in blueprint.cost(flops=False, without="all").rows}
    network, x = blueprint.build(without="all").eval(), torch.zeros(1, 1, 32, 32, 32)
    seen: dict[str, int] = {}
    with storages.Tracker([*network.parameters(), *network.buffers(), x]) as tracker, torch.no_grad():
        for name, module in network.named_modules():
            if name in rows:
                module.register_forward_hook(lambda *_, name=name: seen.update({name: tracker.now}))
        network(x)
    assert len(seen) > 30
    assert seen == {name: rows[name] for name in seen}


def test_optimizer_and_gradients() -> None:
    blueprint = composer.load("vit", **SMALL["vit"][1])
    weights = 4 * sum(p.numel() for p in blueprint.build(device="meta").parameters())
    plain = blueprint.cost(train=True, flops=False)
    for name, states in OPTIMIZERS.items():
        peak = blueprint.cost(train=True, flops=False, optimizer=name).peak
        assert peak.bytes == plain.peak.bytes + states * weights
        assert peak.parts.get("optimizer", 0) == states * weights
    kept = blueprint.cost(train=True, flops=False, gradients="kept").peak
    assert kept.parts["gradients"] >= weights
    assert "gradients" not in blueprint.cost(train=True, flops=False, gradients="none").peak.parts


def test_gradients_that_are_kept_are_those_of_a_second_step() -> None:
    blueprint = composer.load("unet:volume", size=[32, 32, 32])
    found = blueprint.cost(train=True, flops=False, gradients="kept")
    network, x = blueprint.build().train(), torch.randn(1, 1, 32, 32, 32)
    network(x).sum().backward()
    present = [*network.parameters(), *network.buffers(), x, *(p.grad for p in network.parameters())]
    with storages.Tracker(present) as tracker:
        y = network(x)
        y.backward(torch.ones_like(y))
    assert within_a_percent(found.peak.bytes, tracker.peak)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_state_of_an_optimizer_is_that_of_torch(name: str, kind: type[torch.optim.Optimizer]) -> None:
    network = composer.load("vit", **SMALL["vit"][1]).build()
    network(torch.randn(1, 3, 64, 64)).sum().backward()
    optimizer = kind(network.parameters())
    optimizer.step()
    state = sum(t.nbytes for s in optimizer.state.values() for t in s.values())
    assert within_a_percent(OPTIMIZERS[name] * sum(p.nbytes for p in network.parameters()), state)


# --- FLOPs and parameters ---------------------------------------------------------------------------------------------


def test_every_network_is_counted_below() -> None:
    mine = {n.partition(":")[0] for n in (*TINY, *FULL)}
    assert mine == {n.partition(":")[0] for n in networks()}


FULL = sorted({n for n in networks() if ":" not in n} - {n.partition(":")[0] for n in TINY})


FAST = ("vit", "unet", "swin_unet", "cotr", "transformer", "detr")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in (*TINY, *FULL)])
def test_flops_are_those_of_torch_on_meta(name: str) -> None:
    blueprint = composer.load(name, **TINY.get(name, {}))
    found = blueprint.cost(train=True, **SHAPES.get(name, {}))
    network = blueprint.build(device="meta").train()
    inputs = {n: torch.empty(s, device="meta") for n, s in found.shapes.items()}
    with FlopCounterMode(display=False) as forward:
        outputs = [o for o in tree_leaves(network(**inputs)) if o.requires_grad]  # a mask has no gradient
    with FlopCounterMode(display=False) as backward:
        torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    assert found.flops == forward.get_total_flops() > 0
    assert found.backward_flops == backward.get_total_flops() > 0
    assert found.parameters == sum(p.numel() for p in network.parameters())


def test_flops_of_inference_leave_out_what_only_training_computes() -> None:
    blueprint = composer.load("nnunet", size=[32, 32, 32], widths=[4, 8, 16])
    training, inference = blueprint.cost(train=True), blueprint.cost()
    aux = {r.address for r in training.rows if r.flops} - {r.address for r in inference.rows if r.flops}
    assert aux == {"head.1"}
    assert inference.backward_flops == 0


def test_a_hand_count(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "blueprint: 1\nname: two\ninputs: {image: {type: B 3 H W, size: [16, 20]}}\ngraph:\n"
        "  stem: {use: conv, out: 8, kernel: 3}\n  act: act.gelu\n  head: {use: linear, out: 5}\noutputs: {y: head}\n"
    )
    found = composer.load(path).cost(batch=2, train=True)
    rows = {r.address: r for r in found.rows}
    pixels = 2 * 16 * 20
    assert (rows["stem"].parameters, rows["head"].parameters) == (8 * 3 * 9 + 8, 8 * 5 + 5)
    assert rows["stem"].flops == 2 * pixels * 8 * 3 * 9
    assert rows["head"].flops == 2 * pixels * 8 * 5
    assert rows["stem"].backward_flops == rows["stem"].flops  # the image needs no gradient
    assert rows["head"].backward_flops == 2 * rows["head"].flops
    assert (rows["stem"].activations, rows["act"].activations) == (4 * pixels * 8, 4 * pixels * 8)
    assert rows["stem"].saved == 4 * pixels * 3  # its input
    assert rows["act"].saved == 4 * pixels * 8
    assert rows["stem"].shape == (2, 8, 16, 20)


def test_checkpoints_compute_again_and_say_so() -> None:
    blueprint = composer.load("vit", **SMALL["vit"][1])
    plain, again = blueprint.cost(train=True), blueprint.cost(train=True, checkpoint="blocks.*")
    inside = sum(r.flops for r in plain.rows if r.address.startswith("blocks."))
    more = again.backward_flops - plain.backward_flops
    assert again.flops == plain.flops
    assert 0.5 * inside < more <= inside  # what comes after the last tensor that is needed is not computed again


# --- the figures ------------------------------------------------------------------------------------------------------


def test_rows_add_up_however_they_are_taken_together() -> None:
    found = composer.load("swin_unet", **SMALL["swin_unet"][1]).cost(train=True)
    for by in ("node", "stage", "block"):
        rows = found.by(by)
        for field in ("parameters", "flops", "backward_flops", "activations", "saved"):
            assert sum(getattr(r, field) for r in rows) == getattr(found, field)
    stages = [r.address for r in found.by("stage")]
    assert {"encoder.0", "encoder.2", "head"} <= set(stages)
    saved = [r.saved for r in found.sorted("stage", "saved")]
    assert saved == sorted(saved, reverse=True)
    assert [r.address for r in found.sorted("stage", "place")] == stages


def test_as_dict_is_json() -> None:
    found = composer.load("unet", **TINY["unet"]).cost(train=True)
    data = json.loads(json.dumps(found.as_dict()))
    assert data["peak"]["bytes"] == found.peak.bytes
    assert data["shapes"] == {"image": [1, 1, 32, 32]}
    assert [r["address"] for r in data["rows"]] == [r.address for r in found.rows]


def test_shapes_by_name_and_by_batch() -> None:
    blueprint = composer.load("unet", **TINY["unet"])
    assert blueprint.cost(image=(3, 1, 64, 32)).shapes == {"image": (3, 1, 64, 32)}
    assert blueprint.cost(batch=3).flops == 3 * blueprint.cost().flops
    with pytest.raises(composer.BlueprintError, match="BP501"):
        blueprint.cost(image=(1, 1, 33, 32))


@pytest.mark.parametrize("options", [dict(dtype="bf61"), dict(optimizer="adamm"), dict(gradients="ne")])
def test_unknown_words_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(composer.BlueprintError, match="did you mean"):
        composer.load("unet", **TINY["unet"]).cost(**options)


def test_a_module_that_asks_for_numbers_is_named(tmp_path: Path) -> None:
    (tmp_path / "peeking.py").write_text(
        "import composer\n\n\nclass Peeking(composer.Block):\n    '''Looks at a number.'''\n    name = 'peek'\n"
        "    shape = 'batch ... dim -> batch ... dim'\n\n    def build(self):\n"
        "        return lambda x: x if x.sum().item() > 0 else -x\n"
    )
    path = tmp_path / "peeks.yaml"
    path.write_text(
        "blueprint: 1\nname: peeks\ninputs: {image: {type: B 3 H W, size: [8, 8]}}\n"
        "graph: {look: peek}\noutputs: {y: look}\n"
    )
    blueprint = composer.load(path, composer.Registry.discover([tmp_path / "peeking.py"]))
    with pytest.raises(composer.PluginError, match=r"BP605.*in the node `look`"):
        blueprint.cost()


def test_numbers_are_short() -> None:
    assert [size(n) for n in (0, 999, 1000, 999_600, 1.44e9, 174.2e9, 2e12)] == [
        "0 B", "999 B", "1.00 kB", "1.00 MB", "1.44 GB", "174 GB", "2.00 TB",
    ]  # fmt: skip
    assert [number(n) for n in (7, 31_200_000, 30.5e12)] == ["7", "31.2 M", "30.5 T"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_totals_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cost", "unet3d", "--size", "512,512,256", "--train", "--by", "stage"]) == 0
    out = capsys.readouterr().out
    assert "unet3d  image (1, 1, 512, 512, 256), float32, training" in out
    assert "saved        119 GB for the backward pass" in out
    assert "peak         137 GB at up.4.block.1.act, backward" in out
    (row,) = [line for line in out.splitlines() if line.strip().startswith("up.4")]
    assert row.rstrip().endswith("████████")


def test_the_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["vit", "dim=16", "depth=2", "heads=2", "--size", "32,32", "--batch", "2", "--train"]
    assert run(["cost", *words, "--by", "stage", "--sort", "flops", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["shapes"] == {"image": [2, 3, 32, 32]}
    rows = [r["flops"] + r["backward_flops"] for r in data["rows"]]
    assert rows == sorted(rows, reverse=True)
    assert sum(r["parameters"] for r in data["rows"]) == data["parameters"]
    wanted = composer.load("vit", dim=16, depth=2, heads=2, size=[32, 32]).cost(train=True, batch=2)
    assert data["peak"]["bytes"] == wanted.peak.bytes


def test_a_size_among_the_parameters_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """A network made for one size, fed another."""
    assert run(["cost", "unet", "size=[32,32]", "widths=[4,8]", "--size", "64,64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shapes"] == {"image": [1, 1, 64, 64]}
    assert run(["cost", "vit", "size=[224,224]", "--size", "256,256"]) == 1
    assert "BP501" in capsys.readouterr().err


def test_rows_are_few_unless_all_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "unet", "size=[32,32]", "widths=[4,8]"]
    assert run([*words, "--top", "3"]) == 0
    assert "more; `--top 0` shows all" in capsys.readouterr().out
    assert run([*words, "--top", "0"]) == 0
    out = capsys.readouterr().out
    assert "more; " not in out
    assert "down.1.convs.0.norm" in out


@pytest.mark.parametrize("words", [["--by", "stages"], ["--sort", "flop"], ["--dtype", "bf61"], ["--size", "3"]])
def test_wrong_words_are_a_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cost", "unet", "size=[32,32]", "widths=[4,8]", *words]) == 1
    assert "error[BP" in capsys.readouterr().err


def test_a_limit_refuses_with_ways_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "unet:volume", "--size", "64,64,64", "--batch", "2", "--train", "--json"]
    assert run([*words, "--memory", "300MB"]) == 1
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error["code"] == "BP706"
    assert "training `unet:volume` does not fit into 300 MB: the best plan needs 39" in error["message"]
    assert error["message"].endswith("without one it is 563 MB")
    assert error["notes"][0].startswith("up.3")
    offered = dict(h.split("` needs ") for h in error["help"] if "needs" in h)
    assert "`--checkpoint '*.*' --dtype bf16" in offered
    for option, figure in offered.items():
        kept = words[:-1] if "--batch" not in option else [w for w in words[:-1] if w not in ("--batch", "2")]
        assert run([*kept, *option.strip("`").replace("'", "").split(), "--memory", "300MB"]) == 0, option
        assert f"peak         {figure} at" in capsys.readouterr().out


def test_importing_the_command_imports_no_torch() -> None:
    code = "import sys, composer.cli.costing, composer.remedies; print({'torch', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
