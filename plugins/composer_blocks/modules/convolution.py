"""Convolutions by rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from composer import make

PLAIN: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def convolution(
    rank: int,
    channels: int,
    *,
    out: int,
    kernel: Any,
    transposed: bool = False,
    output_padding: Any = 0,
    standardize: str | None = None,
    **options: Any,
) -> nn.Module:
    """The convolution of (B, channels, *grid), rank 1 to 3."""
    if transposed:
        made: nn.Module = make(TRANSPOSED[rank], channels, out, kernel, output_padding=output_padding, **options)
    elif standardize:
        made = _standardized(rank)(channels, out, kernel, standardize, **options)
    else:
        made = make(PLAIN[rank], channels, out, kernel, **options)
    return made


class Standardized:
    """Mixed into a convolution: each filter has mean 0 and deviation 1 when it is used (weights are stored raw).

    biased: (w - mean) / sqrt(var + 1e-5) with the population variance. unbiased: (w - mean) / sqrt(var + 1e-12)
    with the sample variance.
    """

    weight: Tensor

    def __init__(self, channels: int, out: int, kernel: Any, standardize: str, **options: Any):
        super().__init__(channels, out, kernel, **options)  # type: ignore[call-arg]
        self.standardize = standardize

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._conv_forward(x, self.standardized(), self.bias)  # type: ignore[attr-defined]
        return result

    def standardized(self) -> Tensor:
        axes = tuple(range(1, self.weight.dim()))
        centred = self.weight - self.weight.mean(axes, keepdim=True)
        if self.standardize == "biased":
            return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-5)
        return centred * torch.rsqrt(self.weight.var(axes, keepdim=True) + 1e-12)


class StandardizedConv1d(Standardized, nn.Conv1d):
    """(B, C, L)."""


class StandardizedConv2d(Standardized, nn.Conv2d):
    """(B, C, H, W)."""


class StandardizedConv3d(Standardized, nn.Conv3d):
    """(B, C, D, H, W)."""


def _standardized(rank: int) -> Any:
    return {1: StandardizedConv1d, 2: StandardizedConv2d, 3: StandardizedConv3d}[rank]


def pad_high(x: Tensor, sizes: Any) -> Tensor:
    """Zeros at the far side of (B, C, *grid), up to `sizes`."""
    grid = x.shape[2:]
    amounts = [a for n, size in reversed(list(zip(grid, sizes, strict=True))) for a in (0, size - n)]
    return functional.pad(x, amounts)


class Whole:
    """Refuses (B, C, *grid) with a remainder, where the convolution alone would leave out the far side; a pre-hook."""

    def __init__(self, multiple: Any, rank: int):
        self.multiple = multiple if isinstance(multiple, (tuple, list)) else (multiple,) * rank

    def __call__(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        if torch.compiler.is_compiling():
            return
        grid = tuple(inputs[0].shape[2:])
        if any(n % m for n, m in zip(grid, self.multiple, strict=True)):
            raise ValueError(f"a grid of {grid} does not split into patches of {tuple(self.multiple)}")

    @staticmethod
    def before(module: nn.Module, multiple: Any, rank: int) -> nn.Module:
        """The module, its input looked at first."""
        module.register_forward_pre_hook(Whole(multiple, rank))
        return module
