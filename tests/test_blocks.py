"""Every shipped block: what it promises against what it does, and its numbers against slow references."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import cos, erf, prod, sin
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from composer_blocks.modules import attention
from torch import Tensor, nn

import composer
from composer import source
from composer.testing import ASPECTS
from composer.testing.contract import cases_of, held
from composer.testing.examples import FILE, Case

BLOCKS = {n: b for n, b in composer.Registry.discover().blocks.items() if b.__module__.startswith("composer_blocks.")}


@dataclass(frozen=True)
class Use:
    """One tiny blueprint around a block: its node, what stands before it, and the ranks it is for."""

    node: dict[str, Any]
    before: dict[str, Any] | None = None
    ranks: tuple[int, ...] = (1, 2, 3)
    channels: int = 4
    side: int = 4

    def blueprint(self, path: Path, rank: int) -> composer.Blueprint:
        graph = {**(self.before or {}), "node": self.node}
        grid = [self.side, *[self.side * 2] * (rank - 1)]
        image = {"type": f"B {self.channels} *S", "size": grid}
        text = {"blueprint": 1, "name": "use", "inputs": {"image": image}, "graph": graph, "outputs": {"y": "node"}}
        path.write_text(yaml.safe_dump(text, sort_keys=False, default_flow_style=None))
        return composer.load(path)


BOTH = {"x": "image", "skip": "other"}

# --- contracts --------------------------------------------------------------------------------------------------------

SLOW = ("cost", "compile", "export")
"""Aspects of the contract that take half of the time of all."""


@cache
def cases(name: str) -> tuple[Case, ...]:
    return cases_of(BLOCKS[name], composer.Registry.discover())


def test_every_block_has_examples() -> None:
    """Those that are made from types reach few of the combinations that matter."""
    file = Path(inspect.getfile(sys.modules[BLOCKS["conv"].__module__])).parent / FILE
    assert set(source.read(file)) == set(BLOCKS), "a new block needs examples in examples.yaml"


@pytest.mark.parametrize("aspect", [pytest.param(a, marks=pytest.mark.slow) if a in SLOW else a for a in ASPECTS])
@pytest.mark.parametrize("name", BLOCKS)
def test_contracts_hold(name: str, aspect: str) -> None:
    check = held(aspect, BLOCKS[name], cases(name))
    assert check.status != "fail", str(check)


def test_few_promises_are_not_made() -> None:
    """What a block does not promise is said here too, so that nobody silences a check in passing."""
    waived = {
        (name, aspect)
        for name in BLOCKS
        for source_ in (BLOCKS[name].not_promised, *(c.example.not_promised for c in cases(name)))
        for aspect in source_
    }
    assert waived == {("memory.cells", "buffers"), ("memory.volume_tokens", "buffers"), ("position.rotary", "bfloat16")}


# --- declarations -----------------------------------------------------------------------------------------------------

OBVIOUS = frozenset(
    [
        "out",
        "ratio",
        "kernel",
        "stride",
        "padding",
        "dilation",
        "groups",
        "bias",
        "norm",
        "act",
        "eps",
        "momentum",
        "affine",
        "rate",
        "dropout",
        "heads",
        "window",
        "dim",
        "patch",
        "hidden",
        "layers",
        "count",
        "index",
        "factor",
        "scale",
        "size",
        "mode",
        "std",
        "slope",
        "drop_path",
    ]
)
"""Options that say what they are by their name, as everybody in the field uses it."""


@pytest.mark.parametrize("name", BLOCKS)
def test_docstrings_say_shapes_or_paper_and_every_option(name: str) -> None:
    block = BLOCKS[name]
    text = inspect.getdoc(block) or ""
    own = block.__dict__.get("__doc__")
    assert own, f"{name} has no docstring of its own"
    whole = " ".join(inspect.getdoc(b) or "" for b in block.__mro__ if b.__module__.startswith("composer_blocks."))
    role = inspect.getdoc(sys.modules[block.__module__]) or ""
    for option, field in block.model_fields.items():
        assert option in OBVIOUS or re.search(rf"\b{option}\b", whole) or field.description, (
            f"{name}.{option} is explained nowhere"
        )
    assert len(text) > 3
    assert role.endswith(".")


def test_importing_the_blocks_does_not_import_torch() -> None:
    code = "import sys, composer_blocks; sys.exit(any(m == 'torch' or m.startswith('torch.') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_blocks_import_only_public_names() -> None:
    folder = Path(inspect.getfile(sys.modules[BLOCKS["conv"].__module__])).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
            assert not [n for n in names if n and n.startswith("composer.")], path


# --- numbers against slow references ----------------------------------------------------------------------------------


def network_of(folder: Path, node: dict[str, Any], grid: list[int], channels: int = 4, before: Any = None) -> nn.Module:
    """A network around one node, in double precision, with random weights."""
    path = folder / "one.yaml"
    image = {"type": f"B {channels} *S", "size": grid}
    graph = {**(before or {}), "node": node}
    text = {"blueprint": 1, "name": "one", "inputs": {"image": image}, "graph": graph, "outputs": {"y": "node"}}
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    network = composer.load(path).build().double().eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5)
    return network


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def noise(*shape: int) -> Tensor:
    torch.manual_seed(4)
    return torch.randn(*shape, dtype=torch.float64)


def slow_window_attention(
    module: nn.Module, table: Tensor | None, x: Tensor, context: Tensor, window: list[int], shift: list[int],
        heads: int,
    mask: float | None, roll_first: bool,
) -> Tensor:  # fmt: skip
    """Window attention of one sample (C, *grid), cell by cell: no rolling, no partitioning, no broadcasting.

    A cell p of the (padded) grid stands at (p - shift) mod size after the shift; its window is that place over the
    window. Two cells of a window see each other fully when neither or both went around the edge, on every axis.
    """
    grid = list(x.shape[1:])
    padded = [-(-n // w) * w for n, w in zip(grid, window, strict=True)]
    sizes = grid if roll_first else padded

    def place(cell: tuple[int, ...]) -> tuple[int, ...]:
        return tuple((p - s) % n for p, s, n in zip(cell, shift, sizes, strict=True))

    cells = {place(c): c for c in itertools.product(*map(range, sizes))}
    result = torch.zeros_like(x)
    width = x.shape[0] // heads

    def linear(name: str, v: Tensor) -> Tensor:
        made = getattr(module, name)
        if made is None:
            return v
        return made.weight @ v + (made.bias if made.bias is not None else 0)

    def value(source: Tensor, at: tuple[int, ...]) -> Tensor:
        cell = cells.get(at)
        inside = cell is not None and all(p < n for p, n in zip(cell, grid, strict=True))
        return source[(slice(None), *cell)] if inside else torch.zeros(source.shape[0], dtype=x.dtype)

    def region(at: tuple[int, ...]) -> list[int]:
        return [(p >= n - w) + (p >= n - s) if s else 0 for p, n, w, s in zip(at, padded, window, shift, strict=True)]

    for corner in itertools.product(*(range(0, n, w) for n, w in zip(padded, window, strict=True))):
        offsets = list(itertools.product(*map(range, window)))
        places = [tuple(c + o for c, o in zip(corner, offset, strict=True)) for offset in offsets]
        q = [linear("query", value(x, p)) for p in places]
        k = [linear("key", value(context, p)) for p in places]
        v = [linear("value", value(context, p)) for p in places]
        for i, at in enumerate(places):
            out = []
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                scores = []
                for j, other in enumerate(places):
                    score = (q[i][part] * k[j][part]).sum() / width**0.5
                    if table is not None:
                        row = 0
                        for a, b, w in zip(offsets[i], offsets[j], window, strict=True):
                            row = row * (2 * w - 1) + a - b + w - 1
                        score = score + table[row, h]
                    if mask is not None and any(shift) and region(at) != region(other):
                        score = score + mask
                    scores.append(score)
                weights = torch.softmax(torch.stack(scores), 0)
                out.append(sum(w * v[j][part] for j, w in enumerate(weights)))
            cell = cells.get(at)
            if cell is not None and all(p < n for p, n in zip(cell, grid, strict=True)):
                result[(slice(None), *cell)] = linear("project", torch.cat(out))
    return result


WINDOWS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "2-D": ({}, [4, 6]),
    "2-D shifted": ({"shift": "half"}, [4, 6]),
    "2-D uneven": ({"window": [2, 3], "shift": [1, 2]}, [4, 6]),
    "3-D shifted": ({"shift": "half"}, [4, 2, 4]),
    "3-D one axis": ({"shift": [0, 1, 0]}, [2, 4, 4]),
    "unmasked": ({"shift": 1, "mask": None}, [4, 4]),
    "weak mask": ({"shift": 1, "mask": -1.5}, [4, 4]),
    "padded": ({"window": 3, "pad": "high"}, [5, 4]),
    "padded, shifted": ({"window": 3, "pad": "high", "shift": 1}, [5, 4]),
    "padded 3-D": ({"window": 2, "pad": "high", "shift": 1}, [3, 3, 2]),
    "shifted, padded": ({"window": 3, "pad": "high", "shift": 1, "pad_order": "roll pad"}, [5, 4]),
    "raw query": ({"project_query": False}, [4, 4]),
    "no qkv bias": ({"qkv_bias": False}, [4, 4]),
    "no position": ({"bias": None, "shift": 1}, [4, 4]),
    "context": ({"shift": 1, "from": {"x": "image", "context": "other"}}, [4, 4]),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_window_attention_equals_a_loop(case: str, tmp_path: Path) -> None:
    options, grid = WINDOWS[case]
    node = {"use": "attention.window", "heads": 2, "window": 2, "shrink": "none", **options}
    before = {"other": {"use": "conv", "out": 4, "kernel": 3}} if "from" in options else None
    network = network_of(tmp_path, node, grid, before=before)
    x = noise(2, 4, *grid)
    with torch.no_grad():
        context = network.other(x) if before else x
        ours = network(x)
    window, shift = network.node.window, network.node.shift
    table = None if options.get("bias", 1) is None else network.node.bias.table
    roll_first = options.get("pad_order") == "roll pad"
    with torch.no_grad():
        for k in range(2):
            slow = slow_window_attention(
                network.node,
                table,
                x[k],
                context[k],
                list(window),
                list(shift),
                2,
                options.get("mask", -100),
                roll_first,
            )
            close(ours[k], slow)


def test_weights_that_would_be_denormal_are_zero_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of -100 makes weights of exp(-100), with which a CPU multiplies slowly; one that overcomes it stays."""
    scores = torch.tensor([[0.0, -100.0, -86.9, -87.1], [2.0, -98.0, 0.0, -200.0], [5.0, -95.0, 1.0, 95.0]])
    kept, tiny = attention._without_denormals(scores.clone()).softmax(-1), torch.finfo(torch.float32).tiny
    assert not ((kept > 0) & (kept < tiny)).any()
    torch.testing.assert_close(kept, scores.softmax(-1), atol=2 * tiny, rtol=0)
    assert (kept > 0).int().tolist() == [[1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    module = attention.WindowAttention(
        4, 4, (4, 4), window=(2, 2), shift=(1, 1), heads=2, pad=False, pad_first=True, mask=-100.0, dropout=0.0,
        project_query=True, qkv_bias=True, scale="head",
    )  # fmt: skip
    found = []
    for change in (attention._without_denormals, lambda scores: scores):
        monkeypatch.setattr(attention, "_without_denormals", change)
        x = noise(2, 4, 4, 4).float().requires_grad_()
        module.zero_grad()
        y = module(x)
        y.square().sum().backward()
        found.append([y.detach(), x.grad, *(p.grad.clone() for p in module.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=tiny, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "grid", "window", "shift"),
    [
        ({"window": 4, "shift": 2}, [3, 8], (3, 3), (0, 0)),
        ({"window": 4, "shift": 2, "shrink": "axis"}, [3, 8], (3, 4), (0, 2)),
        ({"window": 4, "shift": 2, "shrink": "equal"}, [4, 4], (4, 4), (0, 0)),
        ({"window": 4, "shift": 2, "shrink": "equal"}, [4, 8], (4, 4), (2, 2)),
        ({"window": 4, "shift": 2, "shrink": "none"}, [4, 4], (4, 4), (2, 2)),
        ({"window": 4, "shift": 2}, [4, 8], (4, 4), (0, 0)),
        ({"window": [2, 4], "shift": "half"}, [8, 8], (2, 4), (1, 2)),
    ],
)
def test_window_policies(options: dict[str, Any], grid: list[int], window: Any, shift: Any, tmp_path: Path) -> None:
    network = network_of(tmp_path, {"use": "attention.window", "heads": 1, "pad": "high", **options}, grid)
    assert (network.node.window, network.node.shift) == (window, shift)


def test_the_relative_index_counts_offsets() -> None:
    from composer_blocks.modules.positions import offsets

    for cells, table in (((3,), (3,)), ((2, 3), (2, 3)), ((2, 3, 2), (2, 3, 2)), ((2, 2), (4, 3))):
        index = offsets(cells, table, "exact")
        places = list(itertools.product(*map(range, cells)))
        for i, a in enumerate(places):
            for j, b in enumerate(places):
                row = 0
                for p, q, n in zip(a, b, table, strict=True):
                    row = row * (2 * n - 1) + (p - q + n - 1)
                assert index[i, j] == row
        assert index.max() < prod(2 * n - 1 for n in table)


def test_the_index_of_nnformer_is_its_own() -> None:
    """nnFormer multiplies the first axis by 3·h - 1, so different offsets share a row."""
    from composer_blocks.modules.positions import offsets

    window = (2, 3, 4)
    index = offsets(window, window, "nnformer")
    places = list(itertools.product(*map(range, window)))
    for i, (a, b, c) in enumerate(places):
        for j, (d, e, f) in enumerate(places):
            assert index[i, j] == (a - d + 1) * (3 * 3 - 1) + (b - e + 2) * (2 * 3 - 1) + (c - f + 3)


def test_cut_takes_the_corner_of_the_full_index() -> None:
    from composer_blocks.modules.positions import Relative, offsets

    cut = Relative((2, 2), (3, 3), 1, "exact", "cut", 0.02)
    assert torch.equal(cut.index.view(4, 4), offsets((3, 3), (3, 3), "exact")[:4, :4])
    rebuilt = Relative((2, 2), (3, 3), 1, "exact", "rebuild", 0.02)
    assert not torch.equal(cut.index, rebuilt.index)


SINES: dict[str, tuple[dict[str, Any], int, tuple[int, ...]]] = {
    "transformer": ({}, 8, (5,)),
    "detr": ({"origin": 1, "normalize": True}, 12, (3, 4)),
    "deformable_detr": ({"origin": 0.5, "normalize": True}, 12, (3, 4)),
    "cotr": ({"origin": 0.5, "normalize": True, "group": 3}, 24, (2, 3, 4)),
    "cotr, a rest": ({"origin": 0.5, "normalize": True, "group": 3}, 20, (2, 3, 4)),
    "u_transformer": ({"arrange": "halves"}, 12, (3, 4)),
    "columns first": ({"axes": "reversed", "temperature": 50}, 14, (3, 4)),
}


def slow_sine(channels: int, masks: Tensor, **options: Any) -> Tensor:
    """The code cell by cell and channel by channel: masks (B, *grid) -> (B, C, *grid)."""
    given = {"origin": 0, "normalize": False, "group": 2, "arrange": "interleaved", "axes": "spatial",
        "temperature": 10000} | options  # fmt: skip
    grid = masks.shape[1:]
    rank = len(grid)
    part = channels // rank - (channels // rank) % 2
    widths = [channels - part * (rank - 1)] + [part] * (rank - 1)
    code = torch.zeros(len(masks), channels, *grid, dtype=torch.float64)
    for b, cell in itertools.product(range(len(masks)), itertools.product(*map(range, grid))):
        done = 0
        for axis in reversed(range(rank)) if given["axes"] == "reversed" else range(rank):
            line = [bool(masks[(b, *cell[:axis], k, *cell[axis + 1 :])]) for k in range(grid[axis])]
            at = sum(line[: cell[axis] + 1]) - 1 + given["origin"]
            if given["normalize"]:
                at = at / (sum(line) + 1e-6) * 2 * 3.141592653589793
            width = widths[axis]
            for i in range(width):
                angle = at / given["temperature"] ** (given["group"] * (i // given["group"]) / width)
                place = i if given["arrange"] == "interleaved" else i // 2 + i % 2 * (width // 2)
                code[(b, done + place, *cell)] = sin(angle) if i % 2 == 0 else cos(angle)
            done += width
    return code


@pytest.mark.parametrize("case", SINES)
@pytest.mark.parametrize("add", [False, True])
def test_sine_position_equals_a_loop(case: str, add: bool, tmp_path: Path) -> None:
    options, channels, grid = SINES[case]
    network = network_of(tmp_path, {"use": "position.sine", "add": add, **options}, list(grid), channels)
    x = noise(2, channels, *grid)
    slow = slow_sine(channels, torch.ones(2, *grid), **options)
    close(network(x), x + slow if add else slow)
    assert not network.state_dict()


@pytest.mark.parametrize("case", ["detr", "cotr", "u_transformer"])
def test_sine_position_counts_valid_cells(case: str) -> None:
    from composer_blocks.positions import SinePosition

    options, channels, grid = SINES[case]
    masks = torch.ones(2, *grid, dtype=torch.bool)
    masks[1, ..., -1:] = masks[1, -1:] = False
    x = composer.Type("map", channels, grid)
    module = SinePosition(**options).build(x, len(grid))
    ours = module(torch.zeros(2, *grid, channels, dtype=torch.float64), masks[..., None])
    counts = masks[1].sum(-1).flatten()
    assert counts[0] == grid[-1] - 1
    slow = slow_sine(channels, masks, **options).movedim(1, -1)
    seen = masks[..., None].expand_as(slow)
    close(ours[seen], slow[seen])


@pytest.mark.parametrize("options", [{}, {"arrange": "halves"}, {"group": 3, "temperature": 20}, {"normalize": True}])
def test_sine_of_places_equals_a_loop(options: dict[str, Any]) -> None:
    """A place is what a cell of a line would be, its origin at that place."""
    from composer_blocks.positions import SinePosition

    x = torch.rand(2, 3, 4, dtype=torch.float64) * 5
    module = SinePosition(places=6, **options).build(composer.queries(3, 4), 2)
    places = x * 2 * torch.pi if options.pop("normalize", False) else x
    slow = [slow_sine(6, torch.ones(1, 1), **options, origin=p.item()).flatten() for p in places.flatten()]
    close(module(x), torch.stack(slow).view(2, 3, 24))


def test_the_best_are_in_the_order_of_their_first_score() -> None:
    from composer_blocks.tokens import Best

    x, score = noise(2, 5, 3), torch.tensor([[0.1, 3, -2, 5, 1], [9, 8, 7, 6, 5]])
    best = Best(best=3).build()(x, torch.stack([score, -score], -1))
    assert torch.equal(best[0], x[0, [3, 1, 4]])
    assert torch.equal(best[1], x[1, :3])


BOXES_MASK = torch.ones(2, 4, 5, dtype=torch.bool)
BOXES_MASK[1, 3:] = BOXES_MASK[1, :, 2:] = False


@pytest.mark.parametrize("masked", [False, True])
def test_a_box_stands_around_each_cell(masked: bool) -> None:
    """Relative to the valid part; those that leave it, or are not of it, are ones."""
    from composer_blocks.scales import CellBoxes

    grids, size = [(4, 5), (2, 3)], 0.5
    masks = [BOXES_MASK if masked else torch.ones_like(BOXES_MASK), torch.ones(2, 2, 3, dtype=torch.bool)]
    made = CellBoxes(size=size).build(2)(
        [torch.zeros(2, *g, 1) for g in grids], [m[..., None] for m in masks] if masked else None
    )
    wanted, inside = [], []
    for b in range(2):
        for k, (grid, mask) in enumerate(zip(grids, masks, strict=True)):
            rows, columns = mask[b, :, 0].sum().item(), mask[b, 0].sum().item()
            for i, j in itertools.product(*map(range, grid)):
                box = [(j + 0.5) / columns, (i + 0.5) / rows, size * 2**k, size * 2**k]
                fits = all(0.01 < n < 0.99 for n in box) and bool(mask[b, i, j])
                wanted.append(box if fits else [1.0] * 4)
                inside.append(fits)
    assert torch.equal(made["inside"].flatten(), torch.tensor(inside).float())
    close(made["boxes"].view(-1, 4), torch.tensor(wanted))
    assert sum(inside) == (20 + 6 if masked else 2 * 20)  # of the second map all are as large as the image


def slow_turn(q: Tensor, grid: tuple[int, ...], base: float) -> Tensor:
    """One head (N, C) in row-major order over the grid: each pair of channels as a complex number, times e^(i·angle)."""
    width = q.shape[1] // (2 * len(grid)) * 2
    turned = q.clone()
    for n, cell in enumerate(itertools.product(*map(range, grid))):
        for axis, place in enumerate(cell):
            for i in range(width // 2):
                at, angle = axis * width + 2 * i, place * base ** (-2 * i / width)
                z = complex(q[n, at], q[n, at + 1]) * complex(cos(angle), sin(angle))
                turned[n, at], turned[n, at + 1] = z.real, z.imag
    return turned


@pytest.mark.parametrize("grid", [(5,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("extra", [0, 2])
def test_rotary_position_turns_every_head(grid: tuple[int, ...], extra: int, tmp_path: Path) -> None:
    node = {"use": "attention.multihead", "heads": 2, "rotate": {"use": "position.rotary", "temperature": 50}}
    before = {"cls": {"use": "tokens.prepend", "count": extra}} if extra else None
    network, x = network_of(tmp_path, node, list(grid), 28, before), noise(1, 28, *grid)
    tokens = x[0].flatten(1).T
    if extra:
        tokens = torch.cat([network.cls.token, tokens])
    q, k, v = (getattr(network.node, name)(tokens).detach() for name in ("query", "key", "value"))
    parts = []
    for h in (slice(0, 14), slice(14, 28)):
        a, b = (torch.cat([t[:extra, h], slow_turn(t[extra:, h], grid, 50)]) for t in (q, k))
        parts.append((a @ b.T / 14**0.5).softmax(-1) @ v[:, h])
    wanted = network.node.project(torch.cat(parts, 1))
    ours = network(x)[0]
    close(ours if extra else ours.flatten(1).T, wanted)


def test_rotary_scores_depend_on_distances_alone() -> None:
    from composer_blocks.modules.rotation import Angles, Turn

    angles = Angles(3, 7, 100.0)(torch.zeros(1, 6, 7, 14, dtype=torch.float64)).reshape(1, 42, 7)
    q, k = (noise(14).expand(1, 42, 14), noise(2, 14)[1].expand(1, 42, 14))
    scores = (Turn(1, 0)(q, angles) @ Turn(1, 0)(k, angles).transpose(1, 2)).view(6, 7, 6, 7)
    close(scores[1, 2, 3, 5], scores[2, 1, 4, 4])
    assert (scores[1, 2, 3, 5] - scores[3, 5, 1, 2]).abs() > 1e-3


def test_rotary_position_refuses_what_has_no_grid(tmp_path: Path) -> None:
    node = {"use": "attention.multihead", "heads": 2, "rotate": "position.rotary"}
    with pytest.raises(composer.BlueprintError, match="a pair for each axis, not 2"):
        network_of(tmp_path, node, [3, 4], 4)
    asked = {**node, "from": {"x": "image", "context": "pooled"}}
    with pytest.raises(composer.BlueprintError):
        network_of(tmp_path, asked, [3, 4], 8, {"pooled": {"use": "pool.average", "kernel": "grid"}})


def test_linear_attention_equals_a_loop() -> None:
    from composer_blocks.modules.linear_attention import AttendLinear

    def f(x: float) -> float:
        return x + 1 if x > 0 else 2.718281828459045**x

    q, k, v = noise(2, 3, 4), noise(2, 5, 4) + 0.3, noise(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0]])[..., None]
    ours, masked = AttendLinear(2, 1e-6)(q, k, v), AttendLinear(2, 1e-6)(q, k, v, mask)
    for result, seen in ((ours, torch.ones_like(mask)), (masked, mask)):
        for b, i, h in itertools.product(range(2), range(3), range(2)):
            at = range(2 * h, 2 * h + 2)
            keys = [j for j in range(5) if seen[b, j]]
            scores = [sum(f(float(q[b, i, c])) * f(float(k[b, j, c])) for c in at) for j in keys]
            for c in at:
                total = sum(s * float(v[b, j, c]) for s, j in zip(scores, keys, strict=True))
                assert float(result[b, i, c]) == pytest.approx(total / (sum(scores) + 1e-6), rel=1e-9)


def test_the_orders_of_monai_are_those_of_its_code() -> None:
    from composer_blocks.modules.resampling import merge_order

    def said(rank: int, order: str) -> str:
        return " ".join("".join(map(str, o)) for o in merge_order(rank, 2, order))

    assert said(3, "monai") == "000 100 010 001 110 101 011 111"
    assert said(3, "monai_duplicated") == "000 100 010 001 101 010 001 111"
    assert said(2, "monai") == said(2, "monai_duplicated") == said(2, "column") == "00 10 01 11"


def test_dropout_stands_where_the_order_says(tmp_path: Path) -> None:
    def parts(**options: Any) -> list[str]:
        node = {"use": "conv", "norm": "batch", "act": "relu", "drop": "dropout", **options}
        names = {"Conv2d": "conv", "BatchNorm2d": "norm", "ReLU": "act", "Dropout": "drop"}
        met: list[str] = []
        network = network_of(tmp_path, node, [4, 4])
        for module in network.modules():
            if type(module).__name__ in names:
                module.register_forward_hook(lambda m, i, o: met.append(names[type(m).__name__]))
        network(noise(1, 4, 4, 4))
        return met

    assert parts() == ["conv", "norm", "drop", "act"]
    for order in ("conv drop norm act", "conv drop act norm"):
        assert parts(order=order) == order.split()
    assert parts(order="conv act norm") == ["conv", "drop", "act", "norm"]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_additive_gate_equals_a_loop(stride: int, tmp_path: Path) -> None:
    """Where the grids differ, the signal and the score are interpolated to the grid that they meet."""
    one = {"use": "conv", "kernel": 1}
    node = {
        "use": "gate.additive", "from": {"x": "image", "gate": "other"},
        "x_project": {**one, "out": 3, "stride": stride},
        "gate_project": {**one, "out": 3}, "score": {**one, "out": 1},
    }  # fmt: skip
    network = network_of(tmp_path, node, [4, 8], before={"other": {**one, "out": 5, "stride": 2 * stride}})
    gate, x = network.node, noise(2, 4, 4, 8)

    def linear(m: nn.Module, v: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", m.weight[:, :, 0, 0], v) + m.bias.view(1, -1, 1, 1)

    def resized(v: Tensor, size: Any) -> Tensor:
        return nn.functional.interpolate(v, size=tuple(size), mode="bilinear", align_corners=False)

    with torch.no_grad():
        own = linear(gate.x_project, x[:, :, ::stride, ::stride])
        other = network.other
        signal = linear(gate.gate_project, linear(other, x[:, :, :: 2 * stride, :: 2 * stride]))
        score = linear(gate.score, (own + resized(signal, own.shape[2:])).clamp(min=0))
        close(network(x), resized(1 / (1 + (-score).exp()), x.shape[2:]))


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize(("grid", "f"), [((4, 6), 2), ((2, 4, 6), 2), ((3, 4), 2), ((5, 3, 1), 2), ((5, 9), 3)])
def test_gather_equals_a_loop(order: str, grid: tuple[int, ...], f: int) -> None:
    from composer_blocks.modules.resampling import Gather

    x = noise(1, *grid, 3)
    ours = Gather(len(grid), f, order, True)(x)[0]
    for cell in itertools.product(*(range(-(-n // f)) for n in grid)):
        parts = []
        for number in range(f ** len(grid)):
            bits = [number // f**k % f for k in range(len(grid))]  # the first axis runs fastest
            offset = bits if order == "column" else bits[::-1]
            at = tuple(f * c + o for c, o in zip(cell, offset, strict=True))
            inside = all(a < n for a, n in zip(at, grid, strict=True))
            parts.append(x[(0, *at)] if inside else torch.zeros(3, dtype=x.dtype))
        close(ours[cell], torch.cat(parts))


@pytest.mark.parametrize(("grid", "factor"), [((2, 3), 2), ((2, 1, 3), 2), ((2, 2), 4), ((3,), 3)])
def test_spread_equals_a_loop(grid: tuple[int, ...], factor: int) -> None:
    from composer_blocks.modules.resampling import Spread

    rank, c = len(grid), 2
    x = noise(1, *grid, factor**rank * c)
    ours = Spread(rank, factor)(x)[0]
    for cell in itertools.product(*(range(n * factor) for n in grid)):
        group = 0
        for p in cell:
            group = group * factor + p % factor
        source = x[(0, *(p // factor for p in cell))]
        close(ours[cell], source[group * c : (group + 1) * c])


def test_merge_refuses_odd_sides_unless_told(tmp_path: Path) -> None:
    with pytest.raises(composer.BlueprintError, match="merge"):
        network_of(tmp_path, {"use": "merge"}, [3, 4])
    assert network_of(tmp_path, {"use": "merge", "odd": "pad"}, [3, 4])(noise(1, 4, 3, 4)).shape == (1, 8, 2, 2)


@pytest.mark.parametrize("kind", ["biased", "unbiased"])
@pytest.mark.parametrize("grid", [[5, 4], [3, 4, 5]])
def test_standardized_weights(kind: str, grid: list[int], tmp_path: Path) -> None:
    network = network_of(tmp_path, {"use": "conv", "out": 3, "standardize": kind}, grid)
    x, plain = noise(2, 4, *grid), torch.empty_like(network.node.weight)
    for k, w in enumerate(network.node.weight.detach()):
        mean = w.sum() / w.numel()
        if kind == "biased":
            plain[k] = (w - mean) / ((w - mean).pow(2).sum() / w.numel() + 1e-5).sqrt()
        else:
            plain[k] = (w - mean) / ((w - mean).pow(2).sum() / (w.numel() - 1) + 1e-12).sqrt()
    run = torch.nn.functional.conv2d if len(grid) == 2 else torch.nn.functional.conv3d
    close(network(x), run(x, plain, network.node.bias, padding=1))


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((2, 3, 4, 5, 6), (2, 3))))
def test_same_transposed_convolutions_multiply_the_size(kernel: int, stride: int, tmp_path: Path) -> None:
    network = network_of(tmp_path, {"use": "conv", "transposed": True, "kernel": kernel, "stride": stride}, [4, 5])
    assert network(noise(1, 4, 4, 5)).shape == (1, 4, 4 * stride, 5 * stride)


def joined(fit: str, use: str, x: Tensor, skip: Tensor, **options: Any) -> Tensor:
    """A fusion's module on two maps."""
    block = BLOCKS[use](fit=fit, **options)
    wanted = inspect.signature(block.build).parameters
    return block.build(**({"layout": "first"} if "layout" in wanted else {}))(x, skip)


def test_fusions_fit_as_they_say() -> None:
    x, small, large = noise(1, 2, 4, 5), noise(1, 2, 3, 3), noise(1, 2, 7, 7)
    padded = torch.zeros_like(x)
    padded[:, :, :3, :3] = small
    assert torch.equal(joined("pad_skip", "fuse.add", x, small), x + padded)
    assert torch.equal(joined("crop_skip", "fuse.concat", x, large), torch.cat([x, large[:, :, 1:5, 1:6]], 1))
    assert torch.equal(
        joined("crop_skip", "fuse.concat", x, large, order="skip x"), torch.cat([large[:, :, 1:5, 1:6], x], 1)
    )
    assert torch.equal(joined("crop_x", "fuse.multiply", x, small), x[:, :, :3, :3] * small)
    assert torch.equal(joined("none", "fuse.multiply", x, x[:, :1]), x * x[:, :1])


@pytest.mark.parametrize(("fit", "wanted"), [("crop_skip", "BP403"), ("pad_skip", "")])
def test_a_skip_that_cannot_be_cut_is_refused(fit: str, wanted: str, tmp_path: Path) -> None:
    use = Use({"use": "fuse.concat", "fit": fit, "from": BOTH}, {"other": {"use": "conv", "padding": 0}})
    blueprint = use.blueprint(tmp_path / "x.yaml", 2)
    if not wanted:
        blueprint.check()
        return
    with pytest.raises(composer.BlueprintError, match=r"fit: crop_skip"):
        blueprint.check()


def test_values_meet_in_one_layout(tmp_path: Path) -> None:
    """A sum of a map held channels first and one held channels last: shapes that agree by chance would hide a
    mistake."""
    before = {"far": {"use": "linear", "out": 4}, "near": {"use": "conv", "kernel": 1, "from": "image"}}
    x = noise(1, 4, 4, 4)
    for order in (["near", "far"], ["far", "near"]):
        network = network_of(tmp_path, {"use": "fuse.add", "from": order}, [4, 4], before=before)
        close(network(x), network.near(x) + network.far(x.movedim(1, -1)).movedim(-1, 1))
        named = network_of(
            tmp_path, {"use": "fuse.add", "from": dict(zip(("skip", "x"), order, strict=True))}, [4, 4], before=before
        )
        close(named(x), named.near(x) + named.far(x.movedim(1, -1)).movedim(-1, 1))
    many = network_of(tmp_path, {"use": "fuse.concat", "from": ["far", "near", "image"]}, [4, 4], before=before)
    close(many(x), torch.cat([many.far(x.movedim(1, -1)).movedim(-1, 1), many.near(x), x], 1))


def test_drop_path_rates() -> None:
    from composer_blocks.modules.stages import DropPath

    x = torch.ones(4000, 2, 3)
    assert DropPath(0).train()(x) is x
    assert DropPath(0.7).eval()(x) is x
    assert not DropPath(1).train()(x).any()
    torch.manual_seed(0)
    y = DropPath(0.25).train()(x)
    kept = y[:, 0, 0] > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(y, (kept / 0.75).view(-1, 1, 1).expand_as(x).to(y.dtype))


def test_attention_over_queries_and_masked_keys() -> None:
    from composer_blocks.modules.attention import Attend

    q, k, v = noise(2, 3, 4), noise(2, 5, 4) + 1, noise(2, 5, 6)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]])[..., None]
    for softmax, axis in (("keys", 1), ("queries", 0)):
        ours = Attend(2, "head", softmax, 0.0)(q, k, v, mask)
        for b in range(2):
            seen = [j for j in range(5) if mask[b, j]]
            for h in range(2):
                scores = q[b, :, 2 * h : 2 * h + 2] @ k[b, seen, 2 * h : 2 * h + 2].T / 2**0.5
                close(ours[b, :, 3 * h : 3 * h + 3], scores.softmax(axis) @ v[b, seen, 3 * h : 3 * h + 3])


@pytest.mark.parametrize("masked", [False, True])
def test_causal_attention_looks_back(masked: bool) -> None:
    from composer_blocks.modules.attention import Attend

    q, k, v = noise(2, 5, 4), noise(2, 5, 4) + 1, noise(2, 5, 6)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]])[..., None] if masked else None
    ours = Attend(2, "head", "keys", 0.0, causal=True)(q, k, v, mask)
    for b, n, h in itertools.product(range(2), range(5), range(2)):
        seen = [m for m in range(n + 1) if not masked or mask[b, m]]
        part = slice(2 * h, 2 * h + 2)
        weights = (k[b, seen][:, part] @ q[b, n, part] / 2**0.5).softmax(0)
        close(ours[b, n, 3 * h : 3 * h + 3], weights @ v[b, seen][:, 3 * h : 3 * h + 3])


@pytest.mark.parametrize(("scale", "factor"), [("head", 2**-0.5), ("width", 0.5), ("none", 1.0)])
def test_attention_scales(scale: str, factor: float) -> None:
    from composer_blocks.modules.attention import Attend

    q, k, v = noise(1, 3, 4), noise(1, 5, 4) * 2, noise(1, 5, 4)
    parts = [
        ((q[..., p] @ k[..., p].transpose(1, 2)) * factor).softmax(-1) @ v[..., p] for p in (slice(0, 2), slice(2, 4))
    ]
    close(Attend(2, scale, "keys", 0.0)(q, k, v), torch.cat(parts, -1))


def test_frozen_batch_norm_is_constant(tmp_path: Path) -> None:
    network = network_of(tmp_path, {"use": "norm.batch", "frozen": True, "eps": 0.5}, [3, 4])
    assert not list(network.parameters())
    state = {k: torch.rand(4, dtype=torch.float64) for k in network.state_dict()}
    network.load_state_dict(state)
    x = noise(2, 4, 3, 4)
    weight, bias, mean, var = (
        state[f"node.{k}"].view(1, 4, 1, 1) for k in ("weight", "bias", "running_mean", "running_var")
    )
    wanted = (x - mean) / (var + 0.5).sqrt() * weight + bias
    close(network.train()(x), wanted)
    close(network.eval()(x), wanted)
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2,
    "elu": lambda x: x if x > 0 else 2.718281828459045**x - 1,
    "silu": lambda x: x / (1 + 2.718281828459045**-x),
    "sigmoid": lambda x: 1 / (1 + 2.718281828459045**-x),
    "tanh": lambda x: (2.718281828459045 ** (2 * x) - 1) / (2.718281828459045 ** (2 * x) + 1),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(act: str, tmp_path: Path) -> None:
    network = network_of(tmp_path, {"use": f"act.{act}"}, [2, 2], channels=1)
    x = torch.tensor([[[[-2.0, -0.3], [0.1, 1.7]]]], dtype=torch.float64)
    close(network(x), torch.tensor([ACTIVATIONS[act](v) for v in x.flatten().tolist()], dtype=torch.float64).view_as(x))


def test_softmax_adds_up_to_one_over_the_channels(tmp_path: Path) -> None:
    x = noise(1, 3, 2, 2)
    e = x.exp()
    close(network_of(tmp_path, {"use": "act.softmax"}, [2, 2], channels=3)(x), e / (e[:, :1] + e[:, 1:2] + e[:, 2:]))


def test_prelu_has_a_slope_for_each_channel(tmp_path: Path) -> None:
    network = network_of(tmp_path, {"use": "act.prelu", "shared": False}, [2, 2], channels=3)
    x = noise(1, 3, 2, 2)
    close(network(x), torch.where(x > 0, x, x * network.node.weight.view(1, 3, 1, 1)))


def test_resize_global_and_pad(tmp_path: Path) -> None:
    x = noise(1, 4, 3, 5)
    near = network_of(tmp_path, {"use": "resize", "scale": [2, 3], "mode": "nearest"}, [3, 5])(x)
    for i, j in itertools.product(range(6), range(15)):
        assert torch.equal(near[0, :, i, j], x[0, :, i // 2, j // 3])
    corners = network_of(tmp_path, {"use": "resize", "size": [5, 9], "align_corners": True}, [3, 5])(x)
    assert torch.allclose(corners[..., ::2, ::2], x)
    assert torch.allclose(corners[..., 1, 0], (x[..., 0, 0] + x[..., 1, 0]) / 2)
    mean = network_of(tmp_path, {"use": "pool.average", "kernel": "grid"}, [3, 5])(x)
    close(mean, x.sum((2, 3)) / 15)
    padded = network_of(tmp_path, {"use": "pad", "multiple": [2, 4]}, [3, 5])(x)
    assert padded.shape == (1, 4, 4, 8)
    assert torch.equal(padded[..., :3, :5], x)
    assert not padded[..., 3, :].any()
    assert not padded[..., 5:].any()
    with pytest.raises(composer.BlueprintError, match=r"needs one of scale, size and the input `like`"):
        network_of(tmp_path, {"use": "resize"}, [3, 5])


def test_patches_pad_or_crop_what_is_left_over(tmp_path: Path) -> None:
    x = noise(1, 4, 5, 5)
    node = {"use": "tokenizer.patch", "dim": 3, "patch": 3}
    pad = network_of(tmp_path, node, [5, 5], before={"padded": {"use": "pad", "multiple": 3}})
    crop = network_of(tmp_path, {"use": "tokenizer.patch", "dim": 3, "patch": 3, "remainder": "crop"}, [5, 5])
    whole = torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    whole[..., :5, :5] = x
    assert list(pad.state_dict()) == list(crop.state_dict()) == ["node.weight", "node.bias"]
    filters, bias = pad.node.weight, pad.node.bias
    for i, j in itertools.product(range(2), range(2)):
        cube = whole[0, :, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
        close(pad(x)[0, :, i, j], (filters * cube).sum((1, 2, 3)) + bias)
    assert crop(x).shape == (1, 3, 1, 1)
    with pytest.raises(composer.BlueprintError, match=r"patches"):
        network_of(tmp_path, {"use": "tokenizer.patch", "dim": 3, "patch": 3}, [5, 5])
    reaching = network_of(tmp_path, {"use": "tokenizer.patch", "dim": 3, "patch": 3, "padding": "half"}, [5, 5])
    assert reaching(x).shape == (1, 3, 2, 2)


def test_the_approximate_gelu_is_the_papers(tmp_path: Path) -> None:
    x = noise(1, 1, 3, 3)
    wanted = 0.5 * x * (1 + ((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)).tanh())
    close(network_of(tmp_path, {"use": "act.gelu", "approximate": True}, [3, 3], channels=1)(x), wanted)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "heads": ({"use": "attention.multihead", "heads": 3}, "4 channels do not split into 3 heads; nearest: 2 or 4"),
    "window heads": ({"use": "attention.window", "heads": 3}, "4 channels do not split into 3 heads; nearest: 2 or 4"),
    "shift": ({"use": "attention.window", "heads": 1, "window": 2, "shift": 2}, "is not inside the window"),
    "window": ({"use": "attention.window", "heads": 1, "window": 3}, "must be a multiple of 3"),
    "groups": ({"use": "norm.group", "groups": 3}, "4 channels do not split into 3 groups"),
    "conv groups": ({"use": "conv", "out": 6, "groups": 4}, "4 -> 6 channels do not split into 4 groups"),
    "kernel": ({"use": "conv", "kernel": 9, "padding": 0}, "at least 9"),
    "axes": ({"use": "conv", "kernel": [3, 3, 3]}, "has 3 numbers, the map has 2 axes"),
    "pool padding": ({"use": "pool.max", "kernel": 3, "padding": 2}, "padding of 2 is more than half of the kernel 3"),
    "output padding": ({"use": "conv", "transposed": True, "stride": 2, "padding": 0, "output_padding": 2},
        "smaller than the stride"),
    "voxel": ({"use": "norm.instance", "from": "one"}, "more than one voxel"),
    "channels": ({"use": "repeat_channels", "to": 6}, "4 channels cannot be repeated to 6"),
    "extra tokens": ({"use": "tokens.drop"}, "has no 1 extra tokens to drop"),
    "map": ({"use": "conv", "from": "cls"}, "has 1 extra token in front"),
    "vector": ({"use": "conv", "from": "mean"}, "needs a map, this is a vector"),
    "odd channels": ({"use": "position.sine", "from": "odd"}, "needs an even number of channels"),
    "waves of scales": ({"use": "position.learned", "fixed": True, "from": "scales.tokens"}, "each axis need a grid"),
    "sine mask": ({"use": "position.sine", "from": {"x": "image", "mask": "image"}}, "one channel, not"),
    "part of a grid": ({"use": "pool.average", "bins": 2}, "say `kernel: grid`"),
    "steps of a grid": ({"use": "pool.average", "kernel": "grid", "stride": 2}, "neither stride nor padding"),
    "scale": ({"use": "tokens.take", "scale": 1}, "no scale 1 in"),
    "spread order": ({"use": "merge", "transposed": True, "order": "column"}, "spreads in the order `row`"),
    "doubled": ({"use": "merge", "factor": 3, "order": "monai_duplicated", "odd": "pad"}, "merges by 2, not 3"),
    "residual": ({"use": "block.residual", "body": {"use": "conv", "out": 6}}, "give a `shortcut`"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_found_before_torch_sees_them(case: str, tmp_path: Path) -> None:
    node, text = REFUSED[case]
    aside = {
        "one": {"use": "pool.average", "kernel": "grid", "bins": 1},
        "odd": {"use": "conv", "out": 5},
        "cls": {"use": "tokens.prepend"},
        "mean": {"use": "pool.average", "kernel": "grid"},
        "scales": {"use": "scales.flatten"},
    }
    source = str(node.get("from", "")).partition(".")[0]
    before = {k: {**v, "from": "image"} for k, v in aside.items() if k == source}
    with pytest.raises(composer.BlueprintError, match=text.replace("(", r"\(")):
        network_of(tmp_path, node, [4, 4], before=before)
