"""Convolutions by oneDNN, on maps with the channels last in memory.

torch chooses by rules made for images: one sample of (C, D, H, W) with C · D · H up to 20480 goes to a kernel that
unfolds it, which takes 2 to 6 times as long. And torch's convolution always makes new memory; oneDNN can add to a map
that is there, as torch's own compiler has it do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd


def takes(module: Any, x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute this convolution here: real float32 numbers of a CPU, padded with zeros."""
    if type(x) is not Tensor or x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
        return False
    plain = isinstance(module, _ConvNd) and not module.transposed and module.padding_mode == "zeros"
    usual = plain and not isinstance(module.padding, str) and not torch.is_autocast_enabled("cpu")
    return usual and bool(torch.backends.mkldnn.enabled)


def convolve(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the module computes, with another weight and bias."""
    options = (module.padding, module.stride, module.dilation, module.groups)
    made: Tensor = torch.mkldnn_convolution(x, weight, bias, *options)
    return made


def add_to(total: Tensor, module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The total with what the module computes added to it."""
    adds = getattr(torch.ops.mkldnn, "_convolution_pointwise_", None)  # torch does not promise that there is one
    if adds is None:
        return total.add_(convolve(module, x, weight, None))
    options = (module.padding, module.stride, module.dilation, module.groups)
    made: Tensor = adds.binary(total, x, weight, None, *options, "add", 1.0, None, [], "")
    return made
