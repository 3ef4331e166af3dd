"""Looking into attention: weights of tapped nodes, each kind against a slow obvious version, and nothing else changes."""

from __future__ import annotations

import copy
import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import composer
from composer.attention import Attention, rollout
from composer.blueprint import shipped
from composer.compose import fed
from composer.diagnostics import BlueprintError
from composer.exporters.tracing import _tap_names
from composer.swaps import swaps_of
from composer.taps import attentions, starred

TINY = swaps_of(composer.Registry.discover())["tiny"]

TAPPABLE = {
    "cotr": ["context.blocks.*.attention"],
    "deformable_detr": ["encoder.*.attention", "decoder.*.layer.attention", "decoder.*.layer.cross_attention"],
    "detr": ["encoder.*.attention", "decoder.*.attention", "decoder.*.cross_attention"],
    "fine": [
        *("encoder.*.blocks.*.attention", "encoder.*.blocks.*.memory.attention"),
        *("encoder.*.blocks.*.memory.volume.attention", "decoder.*.block.*.attention"),
        *("decoder.*.block.*.memory.attention", "decoder.*.block.*.memory.volume.attention"),
    ],
    "glam_nnformer": [
        *("encoder.*.blocks.*.attention", "encoder.*.blocks.*.memory.attention"),
        *("decoder.*.block.*.attention", "decoder.*.block.*.memory.attention"),
    ],
    "glam_swin_unet": [
        *("encoder.*.blocks.*.attention", "encoder.*.blocks.*.memory.attention"),
        *("decoder.*.block.*.attention", "decoder.*.block.*.memory.attention"),
    ],
    "glam_unet": ["down.*.convs.context.*.attention", "down.*.convs.context.*.memory.attention"],
    "cotr_glam": ["context.blocks.*.attention", "context.glam.*.attention", "context.glam.*.memory.attention"],
    "nnunet_fine": ["context.*.attention", "context.*.memory.volume.attention", "context.*.memory.attention"],
    "segformer_attention_unet": ["stage.*.blocks.*.attention"],
    "swin_unet_hybrid": [
        *("encoder.*.blocks.*.attention", "encoder.*.blocks.*.memory.attention"),
        *("decoder.*.fuse.join.attend", "decoder.*.block.*.attention"),
    ],
    "nnformer": ["encoder.*.blocks.*.attention", "decoder.*.block.*.attention"],
    "nonlocal_unet": ["down.*.nonlocal.body"],
    "swin_unet": ["encoder.*.blocks.*.attention", "decoder.*.block.*.attention"],
    "transformer": ["encoder.*.attention", "decoder.*.attention", "decoder.*.cross_attention"],
    "u_transformer": ["bottom", "up.*.fuse.attend"],
    "vit_mae": ["blocks.*.attention", "reconstruct.blocks.*.attention"],
    **{n: ["stage.*.blocks.*.attention"] for n in ("segformer", "swin", "swin_unetr")},
    **{
        n: ["blocks.*.attention"] for n in ("mt_transunet", "setr", "setr_mla", "transunet", "unetr", "vit", "vit_vnet")
    },
}
"""Every attention of the shipped networks, by its node."""

NOT = {
    **dict.fromkeys(
        ["attention_unet", "attention_unet_monai"],
        "its gates weigh the cells of a skip one by one: a map that is the value of `gate`, with no queries and keys",
    ),
    **dict.fromkeys(["nnunet", "resnet", "unet", "unet3d", "vnet"], "nothing attends"),
}


def test_every_attention_of_the_shipped_networks_is_tappable_or_has_a_reason() -> None:
    found = {}
    for name in shipped():
        try:
            blueprint = composer.load(name)
        except BlueprintError:
            continue  # a fragment
        if any(isinstance(i, dict) for i in blueprint.inputs.values()):
            program = blueprint.infer()
            nodes = attentions(program)
            found[name] = starred(n.address for n in nodes)
            runs = [s.address for s in program.steps]
            assert all(runs.count(n.leaf) <= 1 for n in nodes), "a node that runs twice would need a number"
    assert found == {**TAPPABLE, **{name: [] for name in NOT}}


# ---------------------------------------------------------------- each kind against a slow version

SMALL: dict[str, tuple[str, tuple[int, ...]]] = {
    "all": ("{use: attention.multihead, heads: 2}", (4, 5)),
    "one head, no scale, no projection": ("{use: attention.multihead, heads: 1, scale: none, out: false}", (4, 5)),
    "over queries": ("{use: attention.multihead, heads: 2, scale: width, softmax: queries}", (4, 5)),
    "position": ("{use: attention.multihead, heads: 2, from: {x: stem, position: code}}", (4, 4)),
    "rotary": ("{use: attention.multihead, heads: 1, rotate: position.rotary}", (4, 4)),
    "causal": ("{use: attention.multihead, heads: 2, causal: true}", (7,)),
    "reduced keys": ("{use: attention.multihead, heads: 2, reduce: {use: pool.average}}", (4, 6)),
    "pooled keys": ("{use: attention.multihead, heads: 1, pool: {use: pool.max}}", (4, 6)),
    "cross": ("{use: attention.multihead, heads: 2, from: {x: stem, context: other, value: other}}", (4, 5)),
    "linear": ("{use: attention.linear, heads: 2}", (4, 5)),
    "windows": ("{use: attention.window, heads: 2, window: 2}", (4, 6)),
    "shifted windows": ("{use: attention.window, heads: 2, window: 4, shift: 2}", (8, 8)),
    "padded windows": ("{use: attention.window, heads: 2, window: 3, shift: 1, pad: high, shrink: none}", (4, 5)),
    "roll, then pad": ("{use: attention.window, heads: 2, window: 3, shift: 1, pad: high, pad_order: roll pad, shrink: none}", (4, 5)),
    "windows in a volume": ("{use: attention.window, heads: 2, window: 2, shift: 1, shrink: none}", (2, 4, 4)),
    "deformable": ("{use: attention.deformable, heads: 2, points: 3}", (4, 5)),
    "deformable in a volume": ("{use: attention.deformable, heads: 2, points: 2, axes: dwh_as_xyz}", (3, 4, 5)),
}  # fmt: skip


def small(kind: str, **more: Any) -> composer.Blueprint:
    spec, size = SMALL[kind]
    axes = " ".join("DHW"[-len(size) :]) if len(size) > 1 else "L"
    graph = ["stem: {use: conv, out: 8, kernel: 1}"]
    graph += ["other: {use: pool.average, from: stem}"] if "other" in spec else []
    graph += ["code: {use: position.sine, from: stem}"] if "code" in spec else []
    node = spec if "from" in spec else spec[:-1] + ", from: stem}"
    lines = [f"inputs: {{x: {{type: B 3 {axes}, size: {list(size)}}}}}", "graph:", *(f"  {g}" for g in graph)]
    return composer.Blueprint.parse("\n".join(["blueprint: 1", *lines, f"  node: {node}", "outputs: {y: node}", ""]))


def network_of(kind: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    network = small(kind).build().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return network, torch.randn(2, 3, *SMALL[kind][1])


@pytest.mark.parametrize("kind", SMALL)
def test_weights_sum_to_one_and_make_the_output(kind: str) -> None:
    """Outputs with and without a tap are equal, and the values that a slow loop weighs by them are the output."""
    network, x = network_of(kind)
    leaf = network._attentions[0].leaf
    values: dict[str, Any] = {}
    module = network.get_submodule(leaf)
    hook = module.register_forward_hook(
        lambda m, args, named, out: values.update(args=args, named=named, out=out), with_kwargs=True
    )
    with torch.no_grad():
        plain = network(x)
        with network.tap("node") as taps:
            tapped = network(x)
            found = taps["node"]
            assert taps[leaf] is found
    hook.remove()
    assert torch.allclose(plain, tapped, atol=1e-5, rtol=1e-5)
    sums = found.weights.sum(-2 if kind == "over queries" else -1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-4 if kind == "linear" else 1e-5)
    y, _ = values["out"]
    slow = by_hand(found, module, values["args"], values["named"])
    assert torch.allclose(slow, y, atol=1e-5), (slow - y).abs().max()


def by_hand(found: Attention, module: Any, args: tuple[Tensor, ...], named: dict[str, Any]) -> Tensor:
    """The output of a leaf by a loop over queries, heads and keys, from the values and these weights."""
    if found.kind == "windows":
        return of_windows(found, module, args[0])
    if found.kind == "samples":
        return of_samples(found, args[3])
    v = args[2]
    b, heads, n, m = found.weights.shape
    width = v.shape[-1] // heads
    y = torch.zeros(b, n, v.shape[-1])
    for s, h, i, j in itertools.product(range(b), range(heads), range(n), range(m)):
        part = slice(h * width, (h + 1) * width)
        y[s, i, part] += found.weights[s, h, i, j] * v[s, j, part]
    return y


def of_windows(found: Attention, module: Any, x: Tensor) -> Tensor:
    """Cells are found again by `cells`; what is padding has the value of a cell of zeros."""
    v = module.value(x).flatten(1, -2)
    nothing = module.value(torch.zeros(x.shape[-1]))
    b, windows, heads, n, _ = found.weights.shape
    width = v.shape[-1] // heads
    y = torch.zeros_like(v)
    for s, w, i, j in itertools.product(range(b), range(windows), range(n), range(n)):
        query, key = int(found.cells[w, i]), int(found.cells[w, j])
        if query < 0:
            continue
        value = v[s, key] if key >= 0 else nothing
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            y[s, query, part] += found.weights[s, w, h, i, j] * value[part]
    return module.project(y).view(x.shape)


def of_samples(found: Attention, maps: list[Tensor]) -> Tensor:
    """Each sample interpolated by hand between the cells around its place."""
    (x,) = maps
    grid = x.shape[1:-1]
    b, heads, n, points = found.weights.shape
    width = x.shape[-1] // heads
    y = torch.zeros(b, n, x.shape[-1])
    for s, h, i, p in itertools.product(range(b), range(heads), range(n), range(points)):
        at = [float(c) * size - 0.5 for c, size in zip(found.places[s, h, i, p], grid, strict=True)]
        part = slice(h * width, (h + 1) * width)
        for cell in itertools.product(*((math.floor(a), math.floor(a) + 1) for a in at)):
            if all(0 <= c < size for c, size in zip(cell, grid, strict=True)):
                share = math.prod(1 - abs(a - c) for a, c in zip(at, cell, strict=True))
                y[s, i, part] += found.weights[s, h, i, p] * share * x[(s, *cell)][part]
    return y


@pytest.mark.parametrize("kind", SMALL)
def test_some_queries_have_the_weights_they_have_among_all(kind: str) -> None:
    """And the map of a query is its row on the grid of keys; nothing leaves its kernel then."""
    network, x = network_of(kind)
    with torch.no_grad():
        plain = network(x)
        with network.tap("node") as every:
            network(x)
        with network.tap("node", queries=[1, 3]) as some:
            y = network(x)
    joined = "windows" in kind or kind == "roll, then pad"  # with what stands around them, but for a tap
    assert torch.allclose(y, plain, atol=1e-5 if joined else 0, rtol=0)
    for query in (1, 3):
        for a, b in zip(every["node"].of(query, 1)[1], some["node"].of(query, 1)[1], strict=True):
            assert torch.allclose(a, b, atol=1e-6)
    if "windows" not in kind and kind != "roll, then pad":  # a window is kept as a whole
        with pytest.raises(BlueprintError, match=r"BP841.*query 2 of `node` was not asked for, only 1, 3"):
            some["node"].of(2)
    with pytest.raises(BlueprintError, match="has no query 1000: it has"):
        some["node"].of(1000)


def test_the_map_of_a_query() -> None:
    """Tokens in front are apart; a window lies where it lies in the image; what samples miss is lost."""
    network, x = network_of("shifted windows")
    with torch.no_grad(), network.tap("node") as taps:
        network(x)
    found = taps["node"]
    assert (found.grid, found.kind) == ((8, 8), "windows")
    tokens, (seen,) = found.of((2, 2))
    assert (tokens.shape, seen.shape) == ((2, 0), (2, 8, 8))
    assert seen[:, 2:6, 2:6].sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert seen[:, :2].abs().max() < 1e-20
    _, (corner,) = found.of((0, 0))  # shifted: its window wraps around, and the mask lets it see its own corner only
    assert corner[:, :2, :2].sum(dim=(1, 2)).tolist() == pytest.approx([1, 1], abs=1e-4)

    vit = composer.load("vit", size=[32, 32], dim=16, depth=1, heads=2).build().eval()
    with torch.no_grad(), vit.tap("blocks.0.attention") as taps:
        vit(torch.randn(1, 3, 32, 32))
    tokens, (seen,) = taps["blocks.0.attention"].of((1, 0))
    row = taps["blocks.0.attention"].weights[0, :, 1 + 2]
    assert torch.equal(tokens, row[:, :1])
    assert torch.equal(seen, row[:, 1:].view(2, 2, 2))
    with pytest.raises(BlueprintError, match="has no query"):
        taps["blocks.0.attention"].of((2, 0))


@pytest.mark.parametrize("seen", ["some", "none"])
def test_masked_keys_weigh_nothing(seen: str) -> None:
    from composer_blocks.modules.attention import Attend

    q, k, v = torch.randn(3, 2, 6, 8).unbind(0)
    mask = torch.ones(2, 6, 1)
    mask[1, 2 if seen == "some" else 0 :] = 0
    module = Attend(2, "head", "keys", 0.0)
    y, found = module(q, k, v, mask, need_weights=True)
    assert torch.allclose(y, module(q, k, v, mask), atol=1e-6)
    assert found["weights"][1, :, :, 2:].abs().max() == 0
    assert torch.allclose(found["weights"].sum(-1)[1], torch.full((2, 6), 1.0 if seen == "some" else 0.0))


def test_tokens_of_windows_and_their_memory() -> None:
    """GLAM: a window's tokens stand in front of its cells, and attend to those of all windows."""
    overrides = dict(size=[64, 64], widths=[4, 8, 16, 16], window=2, heads=2, tokens=3)
    network = composer.load("glam_unet", **overrides).build().eval()
    x = torch.randn(1, network.inputs[0].type.channels, 64, 64)
    with torch.no_grad():
        plain = network(x)
        with network.tap("down.**") as taps:
            tapped = network(x)
    assert torch.allclose(plain, tapped, atol=1e-5)
    windows = next(t for t in taps.values() if t.kind == "windows")
    tokens, (seen,) = windows.of((0, 0))
    assert tokens.shape[1] == 3
    assert (tokens.sum(1) + seen.sum(dim=(1, 2))).tolist() == pytest.approx([1, 1])
    assert int((windows.cells < -1).sum()) == 3 * len(windows.cells)
    memory = next(t for a, t in taps.items() if a.endswith("memory.attention"))
    assert memory.grid[-1] == 3
    assert memory.weights.shape[-1] == math.prod(memory.grid)


# ---------------------------------------------------------------- a network and its taps


def vit(depth: int = 3) -> Any:
    torch.manual_seed(0)
    return composer.load("vit", size=[32, 32], dim=16, depth=depth, heads=2).build()


IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_tap_takes_nothing_and_leaves_nothing() -> None:
    network = vit().eval()
    before = {k: v for k, v in network.__dict__.items() if k not in ("_accepted", "_fits")}
    with torch.no_grad():
        y = network(IMAGE)
        taps = network.tap("blocks.1.attention")
        with network.tap("blocks.*") as others:
            network(IMAGE)
        assert list(others) == ["blocks.0.attention", "blocks.1.attention", "blocks.2.attention"]
        assert list(taps) == ["blocks.1.attention"]
        assert others["blocks.1.attention"].weights is taps["blocks.1.attention"].weights
        network(IMAGE[:1])
        assert (len(taps["blocks.1.attention"].weights), len(others["blocks.1.attention"].weights)) == (1, 2)
        taps.close()
        taps.close()
        assert torch.equal(network(IMAGE), y)
    assert {k: v for k, v in network.__dict__.items() if k in before} == before


def test_only_tapped_nodes_leave_their_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = vit().eval(), []
    fused = torch.nn.functional.scaled_dot_product_attention
    count = lambda *a, **k: calls.append(1) or fused(*a, **k)  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
    for patterns, expected in (((), 3), (("blocks.1.attention",), 2), (("**",), 0)):
        calls.clear()
        taps = network.tap(*patterns) if patterns else None
        with torch.no_grad():
            network(IMAGE)
        assert len(calls) == expected
        if taps:
            taps.close()


def test_gradients_are_equal_and_flow_through_the_weights() -> None:
    network = vit().train()
    network(IMAGE).square().sum().backward()
    plain = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    for again in ((), ("blocks.*",)):  # also where the block is computed again in the backward pass
        network.checkpoint(*again)
        with network.tap("blocks.0.attention") as taps:
            y = network(IMAGE)
            weights = taps["blocks.0.attention"].weights
            weights.retain_grad()
            y.square().sum().backward()
        if not again:
            assert weights.grad.abs().sum() > 0
        for name, p in network.named_parameters():
            if name in plain:
                assert torch.allclose(p.grad, plain[name], atol=1e-4, rtol=1e-3), name
        assert taps["blocks.0.attention"].weights is weights
        network.zero_grad()


def test_prepared_steps_fall_back_for_a_tapped_node_alone() -> None:
    """A pass that swallows attention is replaced by its parts where a tap looks into it."""
    from dataclasses import replace

    from composer.inference import Program, Step
    from composer.module import build
    from composer.prepared import Flow, Prepared

    runs = []

    class Swallowed:
        def prepare(self, modules: list[Any]) -> Any:
            return ()

        def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Any:
            runs.append(1)
            return modules[1](modules[0](*values))

    def swallow(program: Program) -> Program:
        flow = Flow(program)
        for step in flow:
            after = flow.only_reader(step)
            if isinstance(step, Step) and step.address.endswith("attend") and isinstance(after, Step):
                flow.put(Prepared(step.address, ("swallow",), (step, after), step.reads, Swallowed))
        return flow.done()

    program = composer.load("vit", size=[32, 32], dim=16, depth=3, heads=2).check()
    network = build(swallow(replace(program))).eval()
    with torch.no_grad():
        y = network(IMAGE)
        assert len(runs) == 3
        with network.tap("blocks.1.attention") as taps:
            assert torch.allclose(network(IMAGE), y, atol=1e-5)
        assert len(runs) == 5
        assert taps["blocks.1.attention"].weights.shape == (2, 2, 5, 5)
        assert torch.equal(network(IMAGE), y)
    assert len(runs) == 8


def test_a_copy_and_a_pickle_are_not_tapped() -> None:
    network = vit().eval()
    with network.tap("**") as taps:
        network(IMAGE)
        other = copy.deepcopy(network)
        file = io.BytesIO()
        torch.save(network, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert len(taps) == 3
    for each in (other, loaded):
        assert (each._taps, each._tapped) == ((), None)
        assert torch.equal(each(IMAGE), network(IMAGE))


def test_under_torch_compile() -> None:
    """A compiled network sees taps that open and close; it is compiled anew for them, as one graph."""
    network = vit(depth=1).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        y = compiled(IMAGE)
        with network.tap("blocks.*.attention") as taps:
            assert torch.allclose(compiled(IMAGE), y, atol=1e-5)
            mine = taps["blocks.0.attention"].weights
            network(IMAGE)
            assert torch.allclose(taps["blocks.0.attention"].weights, mine, atol=1e-6)
        assert torch.equal(compiled(IMAGE), y)


@pytest.mark.parametrize("masked", [False, True])
def test_with_and_without_optional_inputs(masked: bool) -> None:
    """Each choice of inputs is a plan of its own; sizes are those of the pass; causal and masked keys weigh nothing."""
    small = dict(dim=16, hidden=16, heads=2, encoder_layers=1, decoder_layers=1)
    network = composer.load("transformer", **small).build().eval()
    inputs = {"source": torch.randn(2, 16, 5), "target": torch.randn(2, 16, 4)}
    if masked:
        seen = torch.ones(2, 1, 5, dtype=torch.bool)
        seen[1, :, 3:] = False
        inputs |= {"source_mask": seen, "target_mask": torch.ones(2, 1, 4, dtype=torch.bool)}
    with torch.no_grad():
        plain = network(**inputs)
        with network.tap("encoder", "decoder.**") as taps:
            assert torch.allclose(network(**inputs), plain, atol=1e-5)
    assert list(taps) == ["encoder.0.attention", "decoder.0.attention", "decoder.0.cross_attention"]
    across = taps["decoder.0.cross_attention"]
    assert (across.grid, across.keys[0].grid, across.weights.shape) == ((4,), (5,), (2, 2, 4, 5))
    assert (across.weights[1, :, :, 3:].abs().max() == 0) == masked
    assert taps["decoder.0.attention"].weights.triu(1).abs().max() == 0


def test_mistakes() -> None:
    network = vit()
    with pytest.raises(BlueprintError, match=r"BP112.*no attention has the address `blocks.0.atention`") as fault:
        network.tap("blocks.0.atention")
    assert "did you mean `blocks.0.attention`" in str(fault.value)
    with pytest.raises(BlueprintError, match=r"there is no attention in `blocks\.0\.mlp`"):
        network.tap("blocks.0.mlp")
    taps = network.tap("blocks.0.attention")
    with pytest.raises(BlueprintError, match=r"BP841.*`blocks.0.attention` is tapped and has not run"):
        taps["blocks.0.attention"]
    with pytest.raises(KeyError, match=r"BP112.*`blocks.9.attention` is not tapped"):
        taps["blocks.9.attention"]
    assert taps.get("blocks.9.attention") is None
    assert "blocks.0.attention" not in taps
    plain = composer.load("unet", size=[16, 16], widths=[4, 8]).build()
    with pytest.raises(BlueprintError, match="nothing in this network attends"):
        plain.tap("**")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(n for n in TINY if TINY[n]["sizes"]))
def test_outputs_of_every_shipped_network_are_equal_with_all_its_attentions_tapped(name: str) -> None:
    tiny = TINY[name]
    blueprint = composer.load(
        name, **({"size": tiny["sizes"][0]} if tiny["sizes"] else {}), **(tiny.get("params") or {})
    )
    torch.manual_seed(0)
    network = blueprint.build().eval()
    inputs = {n: torch.randn(s) for n, s in fed(blueprint.infer(), {}, 2).items()}
    with torch.no_grad():
        copied = copy.deepcopy(network)  # some networks count what they have seen
        plain = tree_leaves(copied(**inputs))
        if not network._attentions:
            assert name.partition(":")[0] in NOT
            return
        with network.tap("**") as taps:
            tapped = tree_leaves(network(**inputs))
    assert set(taps) == set(taps.nodes)
    for a, b in zip(plain, tapped, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))
    for found in taps.values():
        sums = found.weights.sum(-2 if name.startswith("u_transformer:hx") else -1)
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-4), found.address


# ---------------------------------------------------------------- rollout


def test_rollout_is_the_product_of_half_and_half() -> None:
    network = vit().eval()
    with torch.no_grad(), network.tap("blocks.*.attention") as taps:
        network(IMAGE)
    found = taps.rollout()
    for sample in range(2):
        total = [[float(i == j) for j in range(5)] for i in range(5)]
        for k in range(3):
            weights = taps[f"blocks.{k}.attention"].weights[sample]
            step = [[(float(weights[:, i, j].mean()) + (i == j)) / 2 for j in range(5)] for i in range(5)]
            step = [[v / sum(row) for v in row] for row in step]
            total = [[sum(step[i][m] * total[m][j] for m in range(5)) for j in range(5)] for i in range(5)]
        assert torch.allclose(found[sample], torch.tensor(total), atol=1e-6)
    assert torch.allclose(found.sum(-1), torch.ones(2, 5))
    assert torch.equal(rollout(list(taps.values())), found)


def test_rollout_refuses_what_is_no_stack_of_self_attention() -> None:
    with pytest.raises(BlueprintError, match=r"BP841.*nothing to roll out"):
        rollout({})
    for kind in ("windows", "reduced keys"):
        network, x = network_of(kind)
        with torch.no_grad(), network.tap("node") as taps:
            network(x)
        with pytest.raises(BlueprintError, match="`node` is no attention of all tokens to one another"):
            taps.rollout()


# ---------------------------------------------------------------- `tap:` in a blueprint

TAPPED = """\
blueprint: 1
extends: vit
params: {size: [32, 32], dim: 16, depth: 3, heads: 2}
tap: [blocks.0.attention, "blocks.2.*"]
"""


def test_a_blueprint_says_which() -> None:
    """The network gives them beside its outputs; the text, the flat one and the lock say so too."""
    blueprint = composer.Blueprint.parse(TAPPED)
    torch.manual_seed(0)
    network = blueprint.build().eval()
    plain = vit().eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        made, y = network(IMAGE), plain(IMAGE)
    assert list(made) == ["logits", "taps"]
    assert list(made["taps"]) == ["blocks.0.attention", "blocks.2.attention"]
    assert torch.allclose(made["logits"], y, atol=1e-5)
    with torch.no_grad(), network.tap("**") as taps:
        again = network(IMAGE)
    assert list(again["taps"]) == ["blocks.0.attention", "blocks.2.attention"]
    for address, found in made["taps"].items():
        assert torch.allclose(found["weights"], taps[address].weights, atol=1e-6)
    assert len(taps) == 3
    for text in (blueprint.to_yaml(), blueprint.flat(), blueprint.to_lock()):
        assert list(composer.Blueprint.parse(text).tap) == ["blocks.0.attention", "blocks.2.*"]


def test_presets_and_children_say_it_anew() -> None:
    both = TAPPED + "presets: {none: {tap: []}, one: {tap: [blocks.1.attention]}}\n"
    blueprint = composer.Blueprint.parse(both)
    assert list(blueprint.tap) == ["blocks.0.attention", "blocks.2.*"]
    from composer.blueprint import _Layers
    from composer.diagnostics import Source
    from composer.source import parse

    layers = _Layers.of(parse(Source("t", both)), __import__("pathlib").Path("t"), dict(shipped()), ())
    assert [list(layers.with_preset(p).tap) for p in ("none", "one")] == [[], ["blocks.1.attention"]]


def test_it_is_exported_and_compiled() -> None:
    network = composer.Blueprint.parse(TAPPED).build().eval()
    with torch.no_grad():
        made = network(IMAGE)
        exported = torch.export.export(network, (IMAGE,), strict=False)
        assert _tap_names(exported) == ["taps.blocks.0.attention.weights", "taps.blocks.2.attention.weights"]
        for other in (exported.module()(IMAGE), torch.compile(network, backend="eager", fullgraph=True)(IMAGE)):
            weights = other["taps"]["blocks.2.attention"]["weights"]
            assert torch.allclose(weights, made["taps"]["blocks.2.attention"]["weights"], atol=1e-6)


@pytest.mark.parametrize(
    ("tap", "said"),
    [
        ("[blocks.*.atention]", "BP112]: no attention has the address `blocks.*.atention`\n  --> <text>:4:7"),
        ("[head, blocks.0.attention]", "BP112]: there is no attention in `head`\n  --> <text>:4:7"),
        ("[3]", "BP201]: `tap` lists addresses such as `blocks.*.attention`, not 3\n  --> <text>:4:7"),
        ("blocks", "BP201]: `tap` must be a list"),
    ],
)
def test_mistakes_of_a_blueprint(tap: str, said: str) -> None:
    text = TAPPED.rpartition("tap:")[0] + f"tap: {tap}\n"
    with pytest.raises(BlueprintError) as fault:
        composer.Blueprint.parse(text).check()
    assert said in str(fault.value)


def test_an_output_cannot_have_its_name() -> None:
    text = TAPPED + "outputs: {taps: head}\n"
    with pytest.raises(BlueprintError, match=r"BP112.*an output is named `taps`"):
        composer.Blueprint.parse(text).check()


def test_a_difference_names_taps() -> None:
    from composer.diff import Network, difference

    a, b = (composer.Blueprint.parse(t).check() for t in (TAPPED, TAPPED.rpartition("tap:")[0]))
    found = difference(Network(a), Network(b))
    assert "tap blocks.0.attention, blocks.2.* -> (none)" in found.text()
    assert found.to_json()["taps"] == [["blocks.0.attention", "blocks.2.*"], []]
