"""What a leaf promises about the function that it computes, so that passes may rewrite it without knowing its name.

A block says so in `traits()`. One that promises nothing is left as it is; one that promises what is not true gives a
network whose passes change its results, which the conformance of `tests/test_passes.py` would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Traits:
    """Promises of a leaf; all hold at evaluation, where gradients are off.

    linear        y = W·x + b. cells: on the channels of each cell by itself. grid: over neighbours as well. The module
                  is torch's `Linear` or a convolution of its, plain or transposed, or a subclass
    weight        the attribute of that module that is the W in use; a method computes it from the parameters
    scales        y = scale · x + shift, one number of each per channel: batch normalization by `running_mean`,
                  `running_var` and `eps` of the module, and by its `weight` and `bias` where they are not None
    interpolates  each cell of y is a weighted mean of cells of x, with the same weights for every channel; further
                  ports lend their grid only
    concatenates  y is the channels of all inputs side by side: `read`, in the order they are read, or `turned`
    in_place      each number by itself, by a module without parameters whose `inplace` may be switched on
    fresh         y is new memory, that of no input, parameter or earlier call; as it is of linear and scaling leaves
    constant      what y depends on. weights: on the parameters and buffers of the module itself. shape: on the
                  shape, dtype and device of the first port, as long as no other port is connected
    local         which cells of x a cell of y depends on, so that y may be computed in strips (`composer.locality`).
                  cells: the same one, whatever the size of the map, or token. window: those of a pooling module of
                  torch, by its `kernel_size`, `stride` and `padding`. Linear and scaling leaves are local too
    whole         the ports that every cell of y depends on as a whole, such as keys and values
    enlarges      y is x this many times as large, each cell between the two nearest centres of x; per axis or for all
    statistics    y = (x - mean) / sqrt(var + eps) · weight + bias by a module with these attributes, mean and variance
                  over the grid: of each channel, or of each of `num_groups` groups of channels
    """

    linear: Literal["", "cells", "grid"] = ""
    weight: str = "weight"
    scales: bool = False
    interpolates: bool = False
    concatenates: Literal["", "read", "turned"] = ""
    in_place: bool = False
    fresh: bool = False
    constant: Literal["", "weights", "shape"] = ""
    local: Literal["", "cells", "window"] = ""
    whole: tuple[str, ...] = ()
    enlarges: int | tuple[int, ...] = 0
    statistics: Literal["", "channel", "group"] = ""
