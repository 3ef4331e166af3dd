"""What runs chunk by chunk is what runs as a whole: windows of any kind, tokens of any number, changed weights."""

from __future__ import annotations

import copy
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from composer_blocks.modules.attention import WindowAttention
from test_passes import TINY, difference, inputs_of, scrambled

import composer
from composer import chunking
from composer.inference import is_move
from composer.liveness import ids_of
from composer.module import Network
from composer.prepared import at_evaluation, fired


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.passes.chunks.WORTH", 0)


BLOCK = """
blueprint: 1
name: windowed
inputs: {{image: {{type: B 4 *S, size: {size}}}}}
graph:
  {before}
  blocks:
    use: block.transformer
    {more}
    attention: {{use: attention.window, heads: 2, shrink: none, {attention}}}
    mlp: {{use: mlp, ratio: 2, dropout: 0.1}}
    drop_path: 0.1
outputs: {{y: blocks}}
"""
WINDOWS: dict[str, tuple[list[int], str, str]] = {
    "no shift": ([4, 6], "window: 2", ""),
    "shift": ([4, 6], "window: 2, shift: 1", ""),
    "uneven": ([4, 9], "window: [2, 3], shift: [1, 2]", ""),
    "one axis": ([4, 6], "window: 2, shift: [0, 1]", ""),
    "1-D": ([12], "window: 4, shift: 2", ""),
    "3-D": ([4, 4, 2], "window: 2, shift: half", ""),
    "padded": ([5, 4], "window: 3, pad: high", ""),
    "padded, shifted": ([5, 4], "window: 3, pad: high, shift: 1", ""),
    "padded, shifted, 3-D": ([3, 5, 2], "window: 2, pad: high, shift: 1", ""),
    "shifted, padded": ([5, 4], "window: 3, pad: high, shift: 1, pad_order: roll pad", ""),
    "window larger than the grid": ([2, 3], "window: 4, pad: high", ""),
    "one window": ([4, 4], "window: 4", ""),
    "one shifted window": ([4, 4], "window: 4, shift: 2", ""),
    "long windows": ([20, 10], "window: [10, 10], shift: 5, pad: high", ""),
    "no mask": ([5, 4], "window: 3, pad: high, shift: 1, mask: null", ""),
    "no bias": ([5, 4], "window: 3, pad: high, shift: 1, bias: null", ""),
    "nothing added": ([4, 6], "window: 2, bias: null", ""),
    "no bias of queries": ([5, 4], "window: 3, pad: high, shift: 1, qkv_bias: false", ""),
    "own scale": ([5, 4], "window: 3, pad: high, scale: 0.3, out_dropout: 0.1", ""),
    "context": ([5, 4], "window: 3, pad: high, shift: 1", "from: {x: image, context: other}"),
    "narrow context": ([5, 4], "window: 3, pad: high, shift: 1", "order: post, from: {x: image, context: narrow}"),
    "query as it is": ([5, 4], "window: 3, pad: high, project_query: false", "from: {x: image, context: other}"),
    "post-norm": ([5, 4], "window: 3, pad: high, shift: 1", "order: post"),
    "tokens": ([5, 4], "window: 3, pad: high, shift: 1", "memory: {use: memory.global_tokens, count: 2}, repeat: 3"),
    "tokens that stay": ([4, 4], "window: 2", "memory: {use: memory.global_tokens, attention: {use: attention.multihead, heads: 2}}, tokens: residual, repeat: 2"),
}  # fmt: skip
BEFORE = {"other": "other: {use: conv, out: 4}", "narrow": "narrow: {use: conv, out: 3}"}


def written(folder: Path, case: str) -> composer.Blueprint:
    size, attention, more = WINDOWS[case]
    before = next((text for word, text in BEFORE.items() if word in more), "")
    lines = "\n    ".join(part.strip() for part in _parts(more))
    text = BLOCK.format(size=size, attention=attention, more=lines or "repeat: 1", before=before)
    path = folder / "windowed.yaml"
    path.write_text(text if before else text.replace("  \n", ""))
    return composer.load(path)


def _parts(more: str) -> list[str]:
    """A line for each option; commas inside of braces do not count."""
    parts, depth = [""], 0
    for letter in more:
        depth += (letter == "{") - (letter == "}")
        parts = [*parts, ""] if letter == "," and not depth else [*parts[:-1], parts[-1] + letter]
    return [p for p in parts if p.strip()]


def both(loaded: composer.Blueprint) -> tuple[Network, Network]:
    """With all passes and with none, at evaluation, on equal weights."""
    ours, plain = loaded.build().eval(), loaded.build(without="all").eval()
    scrambled(plain)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


@pytest.mark.parametrize("case", WINDOWS)
@torch.no_grad()
def test_windows_equal_those_of_the_whole_map(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = written(tmp_path, case)
    ours, plain = both(loaded)
    assert "windows" in {name for name, _ in fired(loaded.optimized())}
    for tokens in (10**6, 15, 1):  # chunks of all windows, of some, of one
        monkeypatch.setattr(chunking, "BYTES", tokens * 4 * 12)
        ours.eval()
        for batch in (1, 3, 0):
            values = inputs_of(ours, batch)
            found, wanted = ours(*values), plain(*values)
            assert found.shape == wanted.shape
            assert batch == 0 or difference(found, wanted) <= 1e-5
    ours, plain = ours.double(), plain.double()
    values = [v.double() for v in inputs_of(ours)]
    assert difference(ours(*values), plain(*values)) <= 1e-12


# --- which cells stand in which window --------------------------------------------------------------------------------


@pytest.mark.parametrize("pad_first", [True, False])
def test_windows_in_numbers_are_those_of_the_module(pad_first: bool) -> None:
    for grid, window, shift in (((5, 4), (3, 3), (1, 2)), ((7,), (3,), (0,)), ((3, 5, 2), (2, 2, 2), (1, 0, 1))):
        options: dict[str, Any] = dict(project_query=True, qkv_bias=True, scale="head", dropout=0.0, heads=1)
        module = WindowAttention(
            1, 1, grid, window=window, shift=shift, pad=True, pad_first=pad_first, mask=-7.0, **options
        )
        padded = module._padded(grid)
        numbers = torch.arange(1.0, 1 + prod(grid)).view(1, *grid, 1)
        wanted = module._windows(numbers, padded, None)[0, :, :, 0]
        places, groups = module.groups(grid)
        found = torch.zeros(len(groups), places)
        for row, (cells, at, _) in zip(found, groups, strict=True):
            row[list(at)] = torch.tensor(cells).float() + 1
        assert torch.equal(found, wanted)
        masks = [module.scores(kind, torch.zeros(1, places, places)) for _, _, kind in groups]
        assert torch.equal(torch.stack([m for m in masks if m is not None]), module._mask(padded, "cpu"))
        assert len({kind for _, _, kind in groups}) <= 2 ** sum(s > 0 for s in shift)


# --- what the region is -----------------------------------------------------------------------------------------------


def parts_of(loaded: composer.Blueprint, name: str) -> list[list[str]]:
    """The addresses that each step of a pass stands for, less changes of layout."""
    found = [step.parts for by, step in fired(loaded.optimized()) if by == name]
    return [[p.address for p in parts if not is_move(p.address)] for parts in found]


def test_a_region_is_the_whole_block_if_nobody_else_reads_inside(tmp_path: Path) -> None:
    loaded = written(tmp_path, "padded, shifted")
    inside = "attention.bias norm1 attention attention_drop_path attention_sum norm2 mlp.fc1 mlp.act mlp.drop1 mlp.fc2"
    whole = [*inside.split(), "mlp.drop2", "mlp_drop_path", "mlp_sum"]
    assert parts_of(loaded, "windows") == [[f"blocks.0.{part}" for part in whole]]
    assert parts_of(loaded, "chunks") == []
    path = Path(loaded.path)
    path.write_text(path.read_text().replace("outputs: {y: blocks}", "outputs: {y: blocks, z: blocks.0.norm2}"))
    loaded = composer.load(path)
    assert parts_of(loaded, "windows") == [[f"blocks.0.{part}" for part in whole[:5]]]
    assert parts_of(loaded, "chunks") == [[f"blocks.0.{part}" for part in whole[6:]]]
    ours, plain = both(loaded)
    with torch.no_grad():
        values = inputs_of(ours)
        assert difference(ours(*values), plain(*values)) <= 1e-5


CHAIN = """
blueprint: 1
name: chain
inputs: {image: {type: B 4 H W, size: [5, 3]}}
graph:
  a: {use: linear, out: 6}
  b: act.gelu
  c: {use: linear, out: 4}
  d: {use: fuse.concat, from: [c, image]}
outputs: {y: d}
"""


@pytest.mark.parametrize("tokens", [1, 4, 29, 30, 31])
def test_chunks_of_any_size(tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "BYTES", tokens * 4 * 6)
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN)
    loaded = composer.load(path)
    assert parts_of(loaded, "chunks") == [["a", "b", "c"]]
    ours, plain = both(loaded)
    with torch.no_grad():
        for batch in (2, 0):
            values = inputs_of(ours, batch)
            assert ours(*values).shape == plain(*values).shape
            assert batch == 0 or difference(ours(*values), plain(*values)) <= 1e-5


def test_a_value_read_elsewhere_or_no_wider_one_makes_no_chunk(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN.replace("from: [c, image]", "from: [c, b]"))
    assert parts_of(composer.load(path), "chunks") == []
    path.write_text(CHAIN.replace("out: 6", "out: 4"))
    assert parts_of(composer.load(path), "chunks") == []


# --- weights that change, and who listens -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Network]:
    return both(written(tmp_path_factory.mktemp("shifted"), "padded, shifted"))


def in_place(network: Network) -> None:
    network.get_parameter("blocks.0.attention.bias.table").mul_(3)


def in_place_below(network: Network) -> None:
    network.get_parameter("blocks.0.attention.query.weight").mul_(3)


def loaded_anew(network: Network) -> None:
    network.load_state_dict({k: v + 0.5 for k, v in network.state_dict().items()})


def trained(network: Network) -> None:
    network.train()
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    network.eval()


@pytest.mark.parametrize("change", [in_place, in_place_below, loaded_anew, trained])
@torch.no_grad()
def test_a_change_of_weights_is_followed(change: Any, shifted: tuple[Network, Network]) -> None:
    ours, plain = (copy.deepcopy(n) for n in shifted)
    values = inputs_of(ours)
    before = ours(*values)
    for network in (ours, plain):
        change(network)
    assert difference(ours(*values), plain(*values)) <= 1e-5
    assert difference(ours(*values), before) > 1e-3


@pytest.mark.parametrize("at", ["attention", "attention.query", "mlp.fc1"])
@torch.no_grad()
def test_a_hook_inside_sees_what_it_would(at: str, shifted: tuple[Network, Network]) -> None:
    seen: list[torch.Tensor] = []
    for network in (copy.deepcopy(n) for n in shifted):
        network.get_submodule(f"blocks.0.{at}").register_forward_hook(lambda module, given, made: seen.append(made))
        network(*inputs_of(network))
    assert len(seen) == 2
    assert difference(*seen) <= 1e-5


@torch.no_grad()
def test_few_shapes_are_kept(shifted: tuple[Network, Network]) -> None:
    ours, plain = (copy.deepcopy(n) for n in shifted)
    for n in range(3, 9):
        x = torch.randn(1, 4, n, 4)
        assert difference(ours(x), plain(x)) <= 1e-5
    (step,) = ours._evaluated()
    assert step.kept is not None
    assert 1 <= len(step.kept[2]["plans"]) <= 4


# --- dead work --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dead", "unread"),
    [
        ("nnformer", {"head.1"}, set()),  # deep supervision
        ("fine", {"head.1"}, {"decoder.0.block.0.memory.volume.attention.query", "encoder.2.down.conv"}),
        ("glam_nnformer", {"head.1"}, {"encoder.0.blocks.1.memory.attention.query", "encoder.2.down.conv"}),
        ("glam_swin_unet", set(), {"encoder.0.blocks.1.memory.attention.query"}),
    ],
)
def test_nothing_runs_at_evaluation_that_nobody_reads(name: str, dead: set[str], unread: set[str]) -> None:
    """The last attention between windows' tokens, a merge behind the last stage, heads that are only for training."""
    tiny = TINY[name]
    program = composer.load(name, size=tiny["sizes"][0], **tiny["params"]).optimized()
    steps = at_evaluation(program)
    outputs = {i for o in program.outputs if not o.training for i in ids_of(o.ids)}
    assert [s.address for s in steps if not (outputs | {i for t in steps for i in t.reads}) & set(s.outputs)] == []
    runs = {p.address for s in steps for p in getattr(s, "parts", (s,))}
    assert {s.address for s in program.steps if not s.unused} - runs == dead
    assert {s.address for s in program.steps if s.unused} >= unread
    assert not runs & (dead | unread)


@torch.no_grad()
def test_scores_of_windows_are_kept_or_made_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias that all windows have is derived once, and is itself what windows without a mask add to their scores."""
    monkeypatch.setattr(chunking, "BYTES", 15 * 4 * 12)
    loaded = written(tmp_path, "padded, shifted")
    keeps, anew = loaded.build().eval(), loaded.build(without="scores").eval()
    scrambled(keeps)
    anew.load_state_dict(keeps.state_dict())
    assert difference(keeps(*inputs_of(keeps, 3)), anew(*inputs_of(keeps, 3))) <= 1e-5
    found = []
    for network in (keeps, anew):
        (step,) = (s for s in network._evaluated() if "windows" in s.by)
        assert step.kept is not None
        (bias,), (plan,) = step.kept[2]["shared"].values(), step.kept[2]["plans"].values()
        found.append([s.scores is bias for chunk in plan for s in chunk.spans if s.scores is not None])
    assert any(found[0])
    assert not found[1]
