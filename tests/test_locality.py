"""Which rows a leaf reads: pieces of an input give, put together, what the whole input gives."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from composer.locality import Cells, Enlarged, Locality, locality, trimmed
from composer.traits import Traits

GRID = Traits(linear="grid")
WINDOW = Traits(local="window")


def by_pieces(module: Any, x: Tensor, local: Locality, axis: int, height: int) -> Tensor:
    """The output of (B, C, *grid), `height` rows at a time."""
    n, dim = x.shape[2 + axis], 2 + axis
    strips = []
    for a in range(0, local.length(n), height):
        b = min(a + height, local.length(n))
        lo, hi = local.reads(a, b, n)
        assert 0 <= lo < hi <= n
        inner = local.inner(a, b, n)
        y = (trimmed(module, axis, x.dim() - 2) if inner else module)(x.narrow(dim, lo, hi - lo))
        assert not inner or y.shape[dim] == b - a
        strips.append(y.narrow(dim, 0 if inner else a - local.starts(lo), b - a))
    return torch.cat(strips, dim)


def holds(module: Any, traits: Traits, x: Tensor, axis: int, height: int) -> None:
    local = locality(traits, module, axis)
    assert local is not None
    with torch.no_grad():
        whole = module(x)
        assert local.length(x.shape[2 + axis]) == whole.shape[2 + axis]
        torch.testing.assert_close(by_pieces(module, x, local, axis, height), whole, atol=1e-10, rtol=1e-10)


def maps(draw: Any, rank: int, most: int) -> Tensor:
    grid = [draw(st.integers(1, most)) for _ in range(rank)]
    return torch.randn(2, 4, *grid, dtype=torch.float64)


NUMBERS = st.integers


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_convolution_of_strips(data: st.DataObject) -> None:
    rank = data.draw(NUMBERS(1, 3))
    axis = data.draw(NUMBERS(0, rank - 1))
    per_axis = {
        name: tuple(data.draw(NUMBERS(low, high)) for _ in range(rank))
        for name, low, high in (("kernel_size", 1, 5), ("stride", 1, 3), ("padding", 0, 5), ("dilation", 1, 2))
    }
    x = maps(data.draw, rank, 11 if rank < 3 else 7)
    fits = all(
        n + 2 * p >= d * (k - 1) + 1
        for n, k, p, d in zip(
            x.shape[2:], per_axis["kernel_size"], per_axis["padding"], per_axis["dilation"], strict=True
        )
    )
    assume(fits)
    mode = data.draw(st.sampled_from(["zeros", "replicate"]))
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    module = conv(4, 2, groups=data.draw(st.sampled_from([1, 2])), padding_mode=mode, dtype=torch.float64, **per_axis)
    holds(module, GRID, x, axis, data.draw(NUMBERS(1, 6)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_transposed_convolution_of_strips(data: st.DataObject) -> None:
    rank = data.draw(NUMBERS(1, 3))
    axis = data.draw(NUMBERS(0, rank - 1))
    kernel, stride, dilation = data.draw(NUMBERS(1, 4)), data.draw(NUMBERS(1, 3)), data.draw(NUMBERS(1, 2))
    padding, more = data.draw(NUMBERS(0, 3)), data.draw(NUMBERS(0, 2))
    x = maps(data.draw, rank, 7 if rank < 3 else 4)
    assume(more < max(stride, dilation))
    assume(all((n - 1) * stride + dilation * (kernel - 1) + 1 + more - 2 * padding >= 1 for n in x.shape[2:]))
    conv = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[rank]
    module = conv(4, 2, kernel, stride, padding, more, dilation=dilation, dtype=torch.float64)
    holds(module, GRID, x, axis, data.draw(NUMBERS(1, 6)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pools_of_strips(data: st.DataObject) -> None:
    rank = data.draw(NUMBERS(1, 3))
    kernel, stride = data.draw(NUMBERS(1, 4)), data.draw(NUMBERS(1, 3))
    padding = data.draw(NUMBERS(0, kernel // 2))
    x = maps(data.draw, rank, 9 if rank < 3 else 6)
    largest = data.draw(st.booleans())
    counted = 2 * padding if largest or rank < 3 else 0  # torch's average of volumes asks for a whole window
    assume(all(n + counted >= kernel for n in x.shape[2:]))
    pools: dict[int, Any] = (
        {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
        if largest
        else {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
    )
    holds(pools[rank](kernel, stride, padding), WINDOW, x, data.draw(NUMBERS(0, rank - 1)), data.draw(NUMBERS(1, 5)))


@settings(max_examples=40, deadline=None)
@given(NUMBERS(1, 9), NUMBERS(1, 4), st.sampled_from(["nearest", "bilinear"]), NUMBERS(1, 7))
def test_a_map_enlarged_in_strips(n: int, factor: int, mode: str, height: int) -> None:
    module = nn.Upsample(scale_factor=factor, mode=mode)
    x = torch.randn(1, 3, n, 4, dtype=torch.float64)
    holds(module, Traits(enlarges=(factor, factor)), x, 0, height)


def test_what_is_not_local_says_nothing() -> None:
    assert locality(Traits(), nn.ReLU(), 0) is None
    assert locality(GRID, nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), 0) is None
    assert locality(GRID, nn.Conv2d(1, 1, 3, padding="same"), 0) is None
    assert locality(WINDOW, nn.MaxPool2d(2, ceil_mode=True), 0) is None
    assert locality(Traits(statistics="channel"), nn.InstanceNorm2d(2, track_running_stats=True), 0) is None
    assert locality(Traits(interpolates=True), nn.Upsample(size=4), 0) is None
    assert locality(Traits(statistics="group"), nn.GroupNorm(1, 2), 0) == Cells()
    assert locality(Traits(enlarges=(2, 3)), None, 1) == Enlarged(3)
