"""Pooling, resizing, padding, gathering and spreading."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from composer_blocks.modules.convolution import pad_high


class AveragePool3d(nn.AvgPool3d):
    """(B, C, D, H, W) -> (B, C, *grid / stride). Where the channels lie last in memory, whole windows side by side are
    added up cell by cell, because torch's kernel takes ten times as long there."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = (_per_axis(v, 3) for v in (self.kernel_size, self.stride, self.padding))
        last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d)
        if not last or kernel != stride or any(padding):
            return super().forward(x)
        ends = [n // k * k for n, k in zip(x.shape[2:], kernel, strict=True)]
        first, *others = itertools.product(*map(range, kernel))
        total = x[_window(first, ends, kernel)].clone(memory_format=torch.channels_last_3d)
        for offset in others:
            total += x[_window(offset, ends, kernel)]
        return total / len([first, *others])


def _window(offset: tuple[int, ...], ends: list[int], steps: tuple[int, ...]) -> tuple[slice, ...]:
    """One cell of every window of (B, C, *grid)."""
    return (slice(None), slice(None), *(slice(o, e, s) for o, e, s in zip(offset, ends, steps, strict=True)))


MAX: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: AveragePool3d}
ADAPTIVE: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class GridMean(nn.Module):
    """(B, *grid, C) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).mean(1)


class Resize(nn.Module):
    """(B, C, *grid) -> (B, C, *size)."""

    def __init__(self, rank: int, scale: Any, size: Any, mode: str, align_corners: bool):
        super().__init__()
        self.rank, self.scale, self.size = rank, _per_axis(scale, rank), _per_axis(size, rank)
        self.mode = LINEAR[rank] if mode == "linear" else mode
        self.align_corners = align_corners if mode == "linear" else None

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        grid = x.shape[2:]
        if like is not None:
            size = list(like.shape[2:])
        else:
            size = list(self.size) or [n * s for n, s in zip(grid, self.scale, strict=True)]
        if not x.is_floating_point():  # a mask
            return functional.interpolate(x.float(), size=size, mode=self.mode, align_corners=self.align_corners).to(x)
        return functional.interpolate(x, size=size, mode=self.mode, align_corners=self.align_corners)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, size={self.size}, mode={self.mode}, align_corners={self.align_corners}"


class PadTo(nn.Module):
    """Zeros at the far side of (B, C, *grid)."""

    def __init__(self, multiple: Any, rank: int):
        super().__init__()
        self.multiple = _per_axis(multiple, rank)

    def forward(self, x: Tensor) -> Tensor:
        return pad_high(x, [-(-n // m) * m for n, m in zip(x.shape[2:], self.multiple, strict=True)])


class RepeatChannels(nn.Module):
    """(B, C, *grid) -> (B, times·C, *grid)."""

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return x if self.times == 1 else x.repeat(1, self.times, *[1] * (x.dim() - 2))


class Gather(nn.Module):
    """(B, *grid, C) -> (B, *grid/f, f^rank·C)."""

    def __init__(self, rank: int, factor: int, order: str, pad: bool):
        super().__init__()
        self.factor, self.offsets, self.pad = factor, merge_order(rank, factor, order), pad

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        if self.pad:
            x = functional.pad(x, [0, 0, *(a for n in reversed(x.shape[1:-1]) for a in (0, -n % f))])
        return torch.cat([x[(slice(None), *(slice(o, None, f) for o in offset))] for offset in self.offsets], -1)


def merge_order(rank: int, factor: int, order: str) -> list[tuple[int, ...]]:
    """The offsets of the factor^rank cells that are merged."""
    offsets = list(itertools.product(range(factor), repeat=rank))
    if order == "row":
        return offsets
    if order == "column":
        return [o[::-1] for o in offsets]
    if order == "monai_duplicated" and rank == 3:
        return [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
    return sorted(offsets, key=lambda o: (sum(o), [-n for n in o]))


class Spread(nn.Module):
    """(B, *grid, f^rank·C) -> (B, *grid·f, C); the factors are ordered like the axes, before the channels."""

    def __init__(self, rank: int, factor: int):
        super().__init__()
        self.rank, self.factor = rank, factor

    def forward(self, x: Tensor) -> Tensor:
        grid, f, r = x.shape[1:-1], self.factor, self.rank
        x = torch.unflatten(x, -1, [f] * r + [-1])
        x = x.permute(0, *(a for k in range(r) for a in (1 + k, 1 + r + k)), 1 + 2 * r)
        return x.reshape(x.shape[0], *(n * f for n in grid), x.shape[-1])


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
