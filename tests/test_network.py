"""Network: an ordinary `nn.Module`, for everything that is done with modules."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import composer
from composer.module import InputError, Network
from composer.weights import load_into

Write = Callable[[str], composer.Blueprint]

TINY: dict[str, dict[str, Any]] = {
    "vit": dict(size=[16, 16], patch=8, dim=8, depth=2, heads=2, channels=1, classes=3),
    "unet": dict(size=[16, 16], widths=[4, 8], classes=3),
    "swin_unet": dict(size=[64, 64], dim=4, heads=[1, 1, 2, 2], depths=[2, 2, 1, 1], window=2, classes=3),
}

PLAIN = """\
blueprint: 1
name: plain
inputs: {image: {type: B 2 *S, size: [8, 8]}}
graph:
  stem: {use: conv, out: 4, norm: batch}
  body:
    use: block.transformer
    repeat: 2
    attention: {use: attention.multihead, heads: 2, qkv_bias: false}
  head: {use: linear, out: 3, bias: false}
outputs: {y: head}
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Loads a blueprint from text."""

    def load(text: str) -> composer.Blueprint:
        path = tmp_path / "written.yaml"
        path.write_text(text)
        return composer.load(path)

    return load


def tiny(name: str, **more: Any) -> tuple[Network, Tensor]:
    torch.manual_seed(1)
    network = composer.load(name, **TINY[name], **more).build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return network, torch.randn(2, 1, *TINY[name]["size"])


# --- state ------------------------------------------------------------------------------------------------------------


def test_state_dict_keys_are_node_addresses(write: Write) -> None:
    block = ["norm1.weight", "norm1.bias", "attention.query.weight", "attention.key.weight", "attention.value.weight",
             "attention.project.weight", "attention.project.bias"]  # fmt: skip
    wanted = ["stem.weight", "stem.bias", "stem.norm.weight", "stem.norm.bias", "stem.norm.running_mean",
              "stem.norm.running_var", "stem.norm.num_batches_tracked"]  # fmt: skip
    wanted += [f"body.{j}.{name}" for j in range(2) for name in block] + ["head.weight"]
    assert list(write(PLAIN).build().state_dict()) == wanted


def test_shared_weights_are_there_once(write: Write) -> None:
    network = write(
        "blueprint: 1\nname: t\ninputs: {image: B 4 H W}\ngraph:\n  loop:\n    for: {k: [0, 1, 2]}\n    graph:\n"
        "      own: {use: conv, kernel: 1}\n      tied: {use: conv, share: true, kernel: 1}\noutputs: {y: loop}\n"
    ).build()
    convs = ["loop.0.own", "loop.0.tied", "loop.1.own", "loop.2.own"]
    assert list(network.state_dict()) == [f"{c}.{p}" for c in convs for p in ("weight", "bias")]
    x = torch.randn(1, 4, 3, 3)
    wanted = x
    for k in range(3):
        wanted = network.loop.get_submodule("0.tied")(network.loop.get_submodule(f"{k}.own")(wanted))
    torch.testing.assert_close(network(x), wanted)


def test_the_network_knows_its_blueprint() -> None:
    network, _ = tiny("unet")
    assert network.blueprint.name == "unet"
    assert "blueprint='unet'" in repr(network)
    assert network.blueprint.build().state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_copies_compute_the_same_and_are_independent(name: str, way: str) -> None:
    network, x = tiny(name)
    if way == "deepcopy":
        other = copy.deepcopy(network)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(network))
    else:
        file = io.BytesIO()
        torch.save(network, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    y = network(x)
    assert torch.equal(other(x), y)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(network(x), y)
    assert not other(x).any()
    load_into(other, network.state_dict())
    assert torch.equal(other(x), y)
    assert other.blueprint.name == name


def test_a_training_network_copies_as_one() -> None:
    network, x = tiny("unet")
    other = copy.deepcopy(network.train())
    other(x).sum().backward()
    assert all(p.grad is not None for p in other.parameters())
    assert all(p.grad is None for p in network.parameters())


def test_a_replaced_module_is_really_replaced() -> None:
    """SyncBatchNorm, adapters and quantization all put another module in the place of the first."""
    network, x = tiny("unet")
    network.head = nn.Conv2d(4, 5, 1)
    assert network(x).shape == (2, 5, 16, 16)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    seen = []
    for module in synced.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.register_forward_hook(lambda *_: seen.append(1))
    synced(x)
    assert len(seen) == 6
    other = copy.deepcopy(network)
    other.head = nn.Identity()
    assert other(x).shape[1] == 4
    assert network(x).shape[1] == 5


def test_hooks_on_submodules_see_their_values() -> None:
    network, x = tiny("vit")
    seen: dict[str, tuple[int, ...]] = {}
    for name in ("patches", "blocks.0.attention.query", "head"):
        network.get_submodule(name).register_forward_hook(lambda m, i, o, n=name: seen.update({n: tuple(o.shape)}))
    network(x)
    assert seen == {"patches": (2, 8, 2, 2), "blocks.0.attention.query": (2, 5, 8), "head": (2, 3)}


# --- devices and numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_network_made_on_meta_can_be_filled(name: str) -> None:
    """Also what is not in a `state_dict`: the index of relative positions and the mask of shifted windows."""
    network, x = tiny(name)
    empty = composer.load(name, **TINY[name]).build(device="meta")
    assert {t.device.type for t in (*empty.parameters(), *empty.buffers())} == {"meta"}
    assert empty(x.to("meta")).shape == network(x).shape
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(network.state_dict())
    assert torch.equal(filled(x), network(x))
    again = filled.to_empty(device="cpu")
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))


def test_filling_does_not_rely_on_luck() -> None:
    """Buffers of a network made on `meta` equal those of one made at once, whatever was in memory."""
    network, _ = tiny("swin_unet")
    empty = composer.load("swin_unet", **TINY["swin_unet"]).build(device="meta").to_empty(device="cpu")
    wanted, found = dict(network.named_buffers()), dict(empty.named_buffers())
    assert {k.rpartition(".")[2] for k in wanted} == {"index", "masks", "kinds"}
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert found.keys() == wanted.keys()


@pytest.mark.parametrize("name", TINY)
def test_double_precision(name: str) -> None:
    network, x = tiny(name)
    double = copy.deepcopy(network).to(torch.float64)
    y = double(x.double())
    assert y.dtype == torch.float64
    torch.testing.assert_close(y.float(), network(x), atol=1e-4, rtol=1e-4)
    index = [b for n, b in double.named_buffers() if n.endswith("index")]
    assert all(b.dtype == torch.int64 for b in index)


def test_autocast_runs() -> None:
    network, x = tiny("swin_unet")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(x).isfinite().all()


def test_another_size_than_it_was_built_for() -> None:
    """A mask of shifted windows is made anew; the answer is that of a network built for the other size."""
    network, _ = tiny("swin_unet")
    params = TINY["swin_unet"] | dict(size=[128, 64])
    other = composer.load("swin_unet", **params).build().eval()
    other.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 128, 64)
    torch.testing.assert_close(network(x), other(x))


# --- compilers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_compiles_as_one_graph(name: str) -> None:
    torch._dynamo.reset()
    network, x = tiny(name)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), network(x))


def test_compiled_training() -> None:
    torch._dynamo.reset()
    network, x = tiny("unet")
    compiled = torch.compile(copy.deepcopy(network).train(), fullgraph=True, backend="aot_eager")
    compiled(x).square().mean().backward()
    network.train()(x).square().mean().backward()
    for ours, theirs in zip(network.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor about torch.jit
def test_compiles_with_inductor() -> None:
    torch._dynamo.reset()
    network, x = tiny("unet")
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(network, fullgraph=True)(x), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_exports(name: str, strict: bool) -> None:
    network, x = tiny(name)
    program = torch.export.export(network, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), network(x))
    assert {k.removeprefix("p_") for k in program.state_dict} == set(network.state_dict())


def test_exports_strictly() -> None:
    network, x = tiny("unet")
    torch.testing.assert_close(torch.export.export(network, (x,), strict=True).module()(x), network(x))


# --- inputs and outputs -----------------------------------------------------------------------------------------------

TWO = """\
blueprint: 1
name: two
inputs: {scan: {type: B 1 *S, size: [8, 8]}, prior: {type: B 2 *S, size: [8, 8]}}
graph:
  a: {use: conv, out: 3, from: scan}
  b: {use: conv, out: 3, from: prior}
  sum: {use: fuse.add, from: [a, b]}
  aux: {use: conv, out: 5, from: a}
outputs: {sum: sum, first: a, aux: {from: aux, when: training}}
"""


def test_inputs_by_name_and_in_order(write: Write) -> None:
    network = write(TWO).build().eval()
    scan, prior = torch.randn(1, 1, 8, 8), torch.randn(1, 2, 8, 8)
    wanted = network(scan, prior)
    for given in (network(prior=prior, scan=scan), network(scan, prior=prior)):
        assert given.keys() == wanted.keys() == {"sum", "first"}
        assert all(torch.equal(given[k], wanted[k]) for k in wanted)
    torch.testing.assert_close(wanted["sum"], network.a(scan) + network.b(prior))


def test_training_outputs_appear_only_in_training(write: Write) -> None:
    network = write(TWO).build()
    scan, prior = torch.randn(1, 1, 8, 8), torch.randn(1, 2, 8, 8)
    ran: list[str] = []
    network.aux.register_forward_hook(lambda *_: ran.append("aux"))
    assert set(network.train()(scan, prior)) == {"sum", "first", "aux"}
    assert ran == ["aux"]
    assert set(network.eval()(scan, prior)) == {"sum", "first"}
    assert ran == ["aux"]
    assert "aux.weight" in network.state_dict()


def test_a_dead_branch_does_not_run(write: Write) -> None:
    text = PLAIN.replace(
        "outputs: {y: head}",
        "  aside: {use: conv, out: 2, from: stem}\noutputs: {y: head, z: {from: aside, when: training}}",
    )
    network = write(text).build().eval()
    network.aside.register_forward_hook(lambda *_: pytest.fail("it runs"))
    assert set(network(torch.randn(1, 2, 8, 8))) == {"y"}


WRONG: dict[str, tuple[tuple[tuple[int, ...], ...], str, str]] = {
    "rank": (((1, 1, 8), (1, 2, 8, 8)), "BP502", "3 axes, this network takes 4"),
    "channels": (((1, 4, 8, 8), (1, 2, 8, 8)), "BP504", "4 channels, this network takes 1"),
    "missing": (((1, 1, 8, 8),), "BP503", "`prior` is missing; it takes scan, prior"),
    "too many": (((1, 1, 8, 8),) * 3, "BP503", "no input 3 inputs|takes scan, prior"),
    "different": (((1, 1, 8, 8), (1, 2, 16, 8)), "BP501", "`prior` has H = 16, another input has H = 8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs(case: str, write: Write) -> None:
    shapes, code, text = WRONG[case]
    network = write(TWO).build().eval()
    with pytest.raises(InputError, match=text) as caught:
        network(*(torch.zeros(s) for s in shapes))
    assert isinstance(caught.value, ValueError)
    assert caught.value.diagnostics[0].code == code


def test_an_unknown_name(write: Write) -> None:
    with pytest.raises(InputError, match="no input `mask`"):
        write(TWO).build()(torch.zeros(1, 1, 8, 8), mask=torch.zeros(1))


def test_an_invalid_size_is_refused_each_time() -> None:
    network, _ = tiny("unet")
    for _ in range(2):
        with pytest.raises(InputError, match=r"multiples of 2; nearest: 14 or 16|nearest"):
            network(torch.zeros(1, 1, 15, 16))
    assert network(torch.zeros(1, 1, 14, 16)).shape == (1, 3, 14, 16)


# --- running ----------------------------------------------------------------------------------------------------------


def test_an_exception_names_its_node_and_line(write: Write) -> None:
    network = write(PLAIN).build()

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    network.get_submodule("body.1.attention.query").register_forward_hook(fail)
    with pytest.raises(RuntimeError) as caught:
        network(torch.zeros(1, 2, 8, 8))
    [note] = caught.value.__notes__
    assert note.startswith("in the node `body.1.attention.query` (")
    assert "written.yaml:9:" in note


def test_values_are_freed_after_their_last_reader(write: Write) -> None:
    text = "blueprint: 1\nname: t\ninputs: {image: B 2 H W}\ngraph:\n"
    text += "".join(f"  {n}: {{use: conv, kernel: 1}}\n" for n in "abc") + "outputs: {y: c}\n"
    network = write(text).build().eval()
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []

    def watch(module: nn.Module, given: Any, made: Tensor) -> None:
        counts.append(sum(r() is not None for r in alive))
        alive.append(weakref.ref(made))

    for name in "abc":
        network.get_submodule(name).register_forward_hook(watch)
    gc.collect()
    with torch.no_grad():
        y = network(torch.randn(1, 2, 4, 4))
    assert counts == [0, 1, 1]  # when c runs, only what b made is left
    assert [r() is not None for r in alive] == [False, False, True]
    assert y.shape == (1, 2, 4, 4)


def test_a_name_that_every_module_has_is_refused(write: Write) -> None:
    with pytest.raises(composer.BlueprintError, match="`train` cannot stand in a network"):
        write(PLAIN.replace("  head:", "  train:").replace("y: head", "y: train")).build()


def test_one_set_of_weights_for_two_widths_is_refused(write: Write) -> None:
    """norm1 serves query and context, so they need the same channels: said when checking, not by torch when running."""
    text = (
        "blueprint: 1\nname: t\ninputs: {image: B 4 H W}\ngraph:\n  wide: {use: conv, out: 6}\n  cross:\n"
        "    use: block.transformer\n    from: {x: image, context: wide}\n"
        "    attention: {use: attention.multihead, heads: 2}\noutputs: {y: cross}\n"
    )
    with pytest.raises(composer.BlueprintError, match=r"weights of `cross.norm1` are used twice"):
        write(text).check()
    network = write(text.replace("out: 6", "out: 4")).build()
    assert network(torch.randn(1, 4, 3, 3)).shape == (1, 4, 3, 3)


def test_a_fault_in_build_names_the_block(write: Write) -> None:
    class Fragile(composer.Block):
        """Fails."""

        name = "fragile"
        shape = "batch dim *grid -> batch dim *grid"

        def build(self, dim: int) -> Any:
            raise KeyError("broken")

    path = Path(write(PLAIN).path).with_name("fragile.yaml")
    path.write_text("blueprint: 1\nname: t\ninputs: {image: B 2 H W}\ngraph:\n  f: {use: fragile}\noutputs: {y: f}\n")
    with pytest.raises(composer.PluginError, match=r"`fragile` cannot be built at `f`: KeyError: 'broken'"):
        composer.load(path, composer.Registry.of(Fragile)).build()


def test_a_module_joins_what_already_stands_below_its_address(write: Write) -> None:
    """The relative bias of a window is made before the attention it belongs to."""
    network = write(
        "blueprint: 1\nname: t\ninputs: {image: {type: B 4 *S, size: [4, 4]}}\n"
        "graph: {w: {use: attention.window, heads: 2, window: 2}}\noutputs: {y: w}\n"
    ).build()
    assert [n for n, _ in network.w.named_children()] == ["query", "key", "value", "project", "bias"]
    assert type(network.w).__name__ == "WindowAttention"
