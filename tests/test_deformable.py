"""Deformable attention against a loop over queries, heads, scales, points and the corners of a cell."""

from __future__ import annotations

import itertools
from math import floor, prod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import composer


def network_of(folder: Path, node: dict[str, Any], grid: list[int], channels: int = 6) -> nn.Module:
    """A network around one attention; everything it reads is an output too."""
    levels = {"x": ["image", "small"], "mask": ["mask", "less"]}
    graph = {
        "small": {"use": "pool.max"},
        "less": {"use": "resize", "from": {"x": "mask", "like": "small"}, "mode": "nearest"},
        "code": {"use": "scales.flatten", "from": levels},
        "queries": {"use": "tokens.learned", "count": 3, "from": "image"},
        "places": {"graph": {"linear": {"use": "linear", "out": len(grid)}, "act": "act.sigmoid"}},
        "sized": {
            "from": "queries",
            "graph": {"linear": {"use": "linear", "out": 2 * len(grid)}, "act": "act.sigmoid"},
        },
        "node": {"use": "attention.deformable", "heads": 2, "points": 3, **node},
    }
    names = {
        "y": "node",
        "tokens": "code.tokens",
        "code": "code.position",
        "q": "queries",
        "r2": "places",
        "r4": "sized",
    }
    image = {"type": f"B {channels} *S", "size": grid}
    mask = {"type": "B 1 *S", "size": grid, "optional": True}
    text = {"blueprint": 1, "name": "x", "inputs": {"image": image, "mask": mask}, "graph": graph, "outputs": names}
    path = folder / "deformable.yaml"
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    network = composer.load(path).build().double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.6)
    return network


def linear(module: nn.Module, x: Tensor) -> Tensor:
    return module.weight @ x + module.bias


def interpolated(map_: Tensor, at: list[float]) -> Tensor:
    """map_ (*grid, C) at a place in cells, where 0 is the centre of the first; zeros outside."""
    total = torch.zeros_like(map_.reshape(-1, map_.shape[-1])[0])
    for corner in itertools.product((0, 1), repeat=len(at)):
        cell = [floor(a) + c for a, c in zip(at, corner, strict=True)]
        share = prod(a - floor(a) if c else 1 - a + floor(a) for a, c in zip(at, corner, strict=True))
        if all(0 <= k < n for k, n in zip(cell, map_.shape[:-1], strict=True)):
            total = total + share * map_[tuple(cell)]
    return total


def slow(
    attention: nn.Module, queries: Tensor, context: Tensor, grids: list[tuple[int, ...]], references: Tensor | None,
    masks: list[Tensor] | None, read_as: list[int], heads: int = 2, points: int = 3,
) -> Tensor:  # fmt: skip
    """One sample: queries (N, C), context (M, C), references (N, rank or 2·rank), masks [grid].

    A place has one number per axis, and number k is computed for the axis `meant[k]`; it is read as the axis
    `read_as[k]` of the map, counted from the first.
    """
    rank, channels = len(grids[0]), queries.shape[1]
    meant = [0, 2, 1] if read_as == [2, 1, 0] and rank == 3 and attention.sample.axes == [0, 2, 1] else read_as
    width, starts = channels // heads, [0, *itertools.accumulate(map(prod, grids))]
    valid = [[1.0] * rank for _ in grids]
    if masks is not None:
        valid = [[line(m, a) for a in range(rank)] for m in masks]
    if references is None:
        cells = [(c, level) for level, g in enumerate(grids) for c in itertools.product(*map(range, g))]
        references = torch.tensor(
            [[(c[a] + 0.5) / (valid[level][a] * grids[level][a]) for a in meant] for c, level in cells],
            dtype=queries.dtype,
        )
    done = []
    for q, reference in zip(queries, references, strict=True):
        offsets = linear(attention.offsets, q).view(heads, len(grids), points, rank)
        weights = linear(attention.weights, q).view(heads, -1).softmax(-1).view(heads, len(grids), points)
        found = torch.zeros(channels, dtype=q.dtype)
        for h, level, p in itertools.product(range(heads), range(len(grids)), range(points)):
            grid, part = grids[level], slice(h * width, (h + 1) * width)
            value = torch.stack([linear(attention.value, c) for c in context[starts[level] : starts[level + 1]]])
            value = value[:, part].view(*grid, width)
            if masks is not None:
                value = value * masks[level][..., None]
            at = [0.0] * rank
            for k in range(rank):
                centre = float(reference[k]) * valid[level][meant[k]]
                step = float(offsets[h, level, p, k])
                if len(reference) == rank:
                    place = centre + step / grid[meant[k]]
                else:
                    place = centre + step / points * float(reference[rank + k]) * valid[level][meant[k]] / 2
                at[read_as[k]] = place * grid[read_as[k]] - 0.5
            found[part] += weights[h, level, p] * interpolated(value, at)
        done.append(linear(attention.project, found))
    return torch.stack(done)


def line(mask: Tensor, axis: int) -> float:
    """How much of the first line along an axis is valid."""
    cells = mask[tuple(slice(None) if a == axis else 0 for a in range(mask.dim()))]
    return float(cells.sum() / len(cells))


CASES = {
    "own cells": {"from": {"x": "code.tokens", "position": "code.position"}},
    "centres": {"from": {"x": "queries", "context": "code.tokens", "reference": "places"}},
    "boxes": {"from": {"x": "queries", "context": "code.tokens", "reference": "sized"}},
}
MASKED = {k: {"from": {**v["from"], "mask": "code.mask"}} for k, v in CASES.items()}


@pytest.mark.parametrize("grid", [[5, 4], [4, 2, 3]])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_deformable_attention_equals_a_loop(case: str, masked: bool, grid: list[int], tmp_path: Path) -> None:
    compare(tmp_path, (MASKED if masked else CASES)[case], masked, grid, list(range(len(grid)))[::-1])


@pytest.mark.parametrize("case", ["own cells", "centres"])
def test_cotr_reads_depth_width_height_as_x_y_z(case: str, tmp_path: Path) -> None:
    compare(tmp_path, {**CASES[case], "axes": "dwh_as_xyz"}, False, [4, 2, 6], [2, 1, 0])


@torch.no_grad()
def compare(folder: Path, node: dict[str, Any], masked: bool, grid: list[int], read_as: list[int]) -> None:
    network = network_of(folder, node, grid)
    torch.manual_seed(2)
    x, mask = torch.randn(2, 6, *grid, dtype=torch.float64), torch.ones(2, 1, *grid, dtype=torch.float64)
    mask[1, :, grid[0] - 2 :] = 0
    mask[1, ..., -1:] = 0
    y = network(x, mask) if masked else network(x)
    small = tuple(n // 2 for n in grid)
    less = torch.nn.functional.interpolate(mask, size=small, mode="nearest")
    source = node["from"]
    for b in range(2):
        queries = y["tokens"][b] + y["code"][b] if source["x"] == "code.tokens" else y["q"][b]
        references = y[{"places": "r2", "sized": "r4"}[source["reference"]]][b] if "reference" in source else None
        masks = [mask[b, 0], less[b, 0]] if masked else None
        wanted = slow(network.node, queries, y["tokens"][b], [tuple(grid), small], references, masks, read_as)
        torch.testing.assert_close(y["y"][b], wanted, atol=1e-10, rtol=1e-10)


REFUSED = {
    "no grid": ({"from": {"x": "queries", "context": "code.tokens"}}, "has no grid of its own: give the queries"),
    "no map": ({"from": {"x": "queries", "context": "queries"}}, "samples a map or several scales, not"),
    "axes": ({"from": "code.tokens", "axes": "dwh_as_xyz"}, "samples maps of 3 axes"),
    "heads": ({"from": "code.tokens", "heads": 4}, "6 channels do not split into 4 heads"),
    "reference": ({"from": {"x": "queries", "context": "image", "reference": "queries"}}, "have 2 or 4 channels"),
    "mask": ({"from": {"x": "image", "mask": "code.mask"}}, "needs a mask of one channel for each map"),
    "number": ({"from": {"x": "code.tokens", "reference": "places"}}, "as many reference points as queries"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    node, text = REFUSED[case]
    with pytest.raises(composer.BlueprintError) as caught:
        network_of(tmp_path, node, [4, 4])
    assert text in str(caught.value)


def test_a_mask_of_other_axes_is_refused() -> None:
    text = """blueprint: 1
name: x
inputs: {image: {type: B 4 H W, size: [4, 4]}, volume: {type: B 1 D E F, size: [4, 4, 4]}}
graph: {y: {use: attention.deformable, from: {x: image, mask: volume}, heads: 2, points: 1}}
outputs: {y: y}
"""
    with pytest.raises(composer.BlueprintError, match="needs a mask of one channel for each map"):
        composer.Blueprint.parse(text).check()


@pytest.mark.parametrize("grid", [[4, 6], [2, 4, 4]])
def test_split_is_the_inverse_of_flatten(grid: list[int], tmp_path: Path) -> None:
    text = f"""blueprint: 1
name: x
inputs: {{image: {{type: B 3 *S, size: {grid}}}}}
graph:
  small: pool.max
  scales: {{use: scales.flatten, from: [image, small, image], level_embedding: false}}
  maps: {{for: {{k: [0, 1, 2]}}, from: scales.tokens, use: tokens.take, scale: $k}}
outputs: {{a: maps.0, b: maps.1, c: maps.2, small: small}}
"""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for sizes in (grid, [n * 3 for n in grid]):
        x = torch.randn(2, 3, *sizes)
        y = composer.load(path).build()(x)
        assert torch.equal(y["a"], x)
        assert torch.equal(y["c"], x)
        assert torch.equal(y["b"], y["small"])


def test_places_are_precise_in_half_precision(tmp_path: Path) -> None:
    network = network_of(tmp_path, CASES["own cells"], [16, 128]).float()
    x = torch.randn(1, 6, 16, 128)
    with torch.no_grad():
        wanted, found = network(x)["y"], network.bfloat16()(x.bfloat16())["y"]
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().median() < 0.02 * wanted.std()


def test_heads_start_in_all_directions_of_space() -> None:
    from composer_blocks.modules.deformable import offsets

    rays = offsets(6, 4, 2, 3, 3).bias.detach().view(4, 2, 3, 3)
    wanted = torch.tensor([[1.0, 0, 0], [0, 0, 1], [-1, 0, 0], [0, 0, 1]])
    for point in range(3):
        for level in range(2):
            torch.testing.assert_close(rays[:, level, point], wanted * (point + 1), atol=1e-5, rtol=0)


def test_a_box_differs_from_its_reference_by_what_the_head_says() -> None:
    from composer_blocks.modules.detection import Boxes

    boxes = Boxes(eps=1e-5)
    x, at = torch.randn(2, 3, 4), torch.rand(2, 3, 4)
    at[0, 0] = torch.tensor([0.0, 1.0, -0.5, 1.5])  # bounded, not infinite
    for reference in (at, at[..., :2]):
        found = boxes(x, reference)
        for index in itertools.product(range(2), range(3), range(4)):
            shift = 0.0
            if index[2] < reference.shape[-1]:
                p = min(max(float(reference[index]), 0.0), 1.0)
                shift = float(torch.log(torch.tensor(max(p, 1e-5) / max(1 - p, 1e-5))))
            wanted = 1 / (1 + float(torch.exp(-(x[index] + shift))))
            assert found[index].item() == pytest.approx(wanted, abs=1e-6)
    torch.testing.assert_close(boxes(x), x.sigmoid())
    assert Boxes(eps=0)(x, at)[0, 0].tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(Boxes(eps=0)(x, at)[1], boxes(x, at)[1])
