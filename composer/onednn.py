"""Convolutions by oneDNN, on maps with the channels last in memory.

torch chooses by rules made for images: one sample of (C, D, H, W) with C · D · H up to 20480 goes to a kernel that
unfolds it, which takes 2 to 6 times as long. And torch's convolution always makes new memory; oneDNN can add to a map
that is there, as torch's own compiler has it do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.conv import _ConvNd

from composer.orders import LAST


def computes(dtype: torch.dtype) -> bool:
    """Whether convolutions of such numbers are oneDNN's on this CPU. torch's own kernels take channels last by way of
    copies: in bfloat16 a U-Net took 2.3 times as long with them as without, and 1.6 times the memory."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    return bool(torch.backends.mkldnn.enabled) and dtype in _known()


@cache
def _known() -> frozenset[torch.dtype]:
    """What oneDNN computes with here; float64 never."""
    halves = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return frozenset({torch.float32, *(d for d, asks in halves.items() if getattr(torch.ops.mkldnn, asks)())})


def takes(module: Any, x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute this convolution here: float32 of a CPU, or bfloat16 where it computes with that, or
    stand-ins without numbers, padded with zeros."""
    if type(x) not in (Tensor, FakeTensor) or x.device.type != "cpu" or x.dtype != weight.dtype:
        return False
    if x.dtype not in (torch.float32, torch.bfloat16) or not computes(x.dtype):
        return False
    plain = isinstance(module, _ConvNd) and not module.transposed and module.padding_mode == "zeros"
    return plain and not isinstance(module.padding, str) and not torch.is_autocast_enabled("cpu")


@dataclass(frozen=True)
class Function:
    """A function of each number that oneDNN applies to what it computes: its name there, its numbers, its variant."""

    name: str
    numbers: tuple[float, ...] = ()
    variant: str = ""

    @classmethod
    def of(cls, name: str, act: Any) -> Function:
        """That of a module, as `Traits.function` names it."""
        numbers = (act.negative_slope,) if name == "leaky_relu" else ()
        return cls(name, numbers, act.approximate if name == "gelu" else "")

    def over(self, y: Tensor) -> Tensor:
        """Written over a value, by torch."""
        if self.name == "gelu":
            made: Tensor = torch.ops.aten.gelu_(y, approximate=self.variant)
            return made
        return torch.nn.functional.leaky_relu_(y, *self.numbers) if self.numbers else torch.relu_(y)

    @property
    def options(self) -> tuple[str, list[float], str]:
        """As oneDNN takes them."""
        return self.name, list(self.numbers), self.variant


def convolve(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None, act: Function | None = None) -> Tensor:
    """What the module computes, with another weight and bias, and what a function makes of that."""
    if type(x) is FakeTensor:  # of which oneDNN knows nothing
        return _memory(module, x)
    options = (module.padding, module.stride, module.dilation, module.groups)
    joined = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)  # torch does not promise that there is one
    if act is not None and joined is not None:
        made: Tensor = joined(x, weight, bias, *options, *act.options)
        return made
    made = torch.mkldnn_convolution(x, weight, bias, *options)
    return made if act is None else act.over(made)


MANY = 2**25
"""Multiplications from which on oneDNN's product with a function takes no longer than torch's and the function."""


def multiplies(module: Any, x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute x · Wᵀ here, and a function of it, and does it in less time."""
    plain = type(module) is nn.Linear and type(x) is Tensor and x.device.type == "cpu"
    if not plain or not x.dtype == weight.dtype == torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    known = bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and weight.is_contiguous() and x.numel() * weight.shape[0] >= MANY


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, act: Function) -> Tensor:
    """act(x · Wᵀ + b) of the last axis."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *act.options)
    return made


def _memory(module: Any, x: Tensor) -> Tensor:
    """New memory as oneDNN makes it: (B, out, *grid) with the channels last."""
    axes = zip(x.shape[2:], module.kernel_size, module.stride, module.padding, module.dilation, strict=True)
    grid = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
    return torch.empty(x.shape[0], module.out_channels, *grid, dtype=x.dtype, memory_format=LAST[x.dim()])


def add_to(total: Tensor, module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The total with what the module computes added to it."""
    if type(x) is FakeTensor:
        return total  # no new memory
    adds = getattr(torch.ops.mkldnn, "_convolution_pointwise_", None)  # torch does not promise that there is one
    if adds is None:
        return total.add_(convolve(module, x, weight, None))
    options = (module.padding, module.stride, module.dilation, module.groups)
    made: Tensor = adds.binary(total, x, weight, None, *options, "add", 1.0, None, [], "")
    return made
