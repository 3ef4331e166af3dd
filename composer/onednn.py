"""Convolutions by oneDNN, on maps with the channels last in memory.

torch chooses by rules made for images: one sample of (C, D, H, W) with C · D · H up to 20480 goes to a kernel that
unfolds it, which takes 2 to 6 times as long. And torch's convolution always makes new memory; oneDNN can add to a map
that is there, as torch's own compiler has it do.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
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


def convolve(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the module computes, with another weight and bias."""
    if type(x) is FakeTensor:  # of which oneDNN knows nothing
        return _memory(module, x)
    options = (module.padding, module.stride, module.dilation, module.groups)
    made: Tensor = torch.mkldnn_convolution(x, weight, bias, *options)
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
