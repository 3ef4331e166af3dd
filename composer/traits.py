"""What a leaf promises about the function that it computes, so that passes may rewrite it, and taps and pictures look
into it, without knowing its name.

A block says so in `traits()`. One that promises nothing is left as it is; one that promises what is not true gives a
network whose passes change its results, which the conformance of `tests/test_passes.py` would show.
"""

from __future__ import annotations

from typing import Literal

from composer.frozen import dataclass


@dataclass(frozen=True)
class Traits:
    """Promises of a leaf; all hold at evaluation, where gradients are off, and `linear`, `interpolates`, `concatenates`
    and `pure` in training too. No gradient of a `linear`, `scales`, `standardizes` or `adds` leaf needs y.

    linear        y = W·x + b. cells: on the channels of each cell by itself. grid: over neighbours as well. The module
                  is torch's `Linear` or a convolution of its, plain or transposed, or a subclass
    whole         a linear map whose W is (out, channels of x, …): without groups, and not transposed
    side          of the window of a linear map of the grid, the longest, in cells
    weight        the attribute of that module that is the W in use; a method computes it from the parameters
    scales        y = scale · x + shift, one number of each per channel: batch normalization by `running_mean`,
                  `running_var` and `eps` of the module, and by its `weight` and `bias` where they are not None
    interpolates  each cell of y is a weighted mean of cells of x, with the same weights for every channel; further
                  ports lend their grid only, and on the grid that x has y is x
    concatenates  y is the channels of all inputs side by side: `read`, in the order they are read, or `turned`
    in_place      each number by itself, by a module without parameters whose `inplace` may be switched on
    function      which function of each number it is, if it is one of these; the module is that of torch
    from_result   such a module's gradient follows from y, so that it may be switched on in training too
    adds          y is the sum of all inputs, numbers of one shape
    standardizes  each channel of each sample over its grid to mean 0 and variance 1, with the `eps` of the module, and
                  then scale · x + shift by its `weight` and `bias` where they are not None
    fresh         y is new memory, that of no input, parameter or earlier call; as it is of linear and scaling leaves
    tokenwise     each token of y, the channels of one cell, follows from the same token of every input; the module
                  takes them as rows (N, C), whatever stood before the channels
    groups        names of the ports, each a map, whose tokens fall into groups that do not see each other; the first
                  output is a map of the same tokens. What the module has for this says `composer.chunking.Grouped`
    shared        names of ports whose value all groups have in common, such as a bias
    constant      what y depends on. weights: on the parameters and buffers of the module itself. shape: on the
                  shape, dtype and device of the first port, as long as no other port is connected
    attends       y is a sum of values with weights. Named are the ports on whose tokens queries and keys stand. Called
                  with `need_weights=True` besides, the module gives y and how it weighed (see `composer.attention`),
                  and computes y from these weights; called with the numbers of some queries, a tensor (R,), it gives
                  those of these
    position      y tells tokens where they are. code: what it adds to its first port, or y alone, of numbers for each
                  token. angles: by which they turn. bias: (heads, n, n), added to the scores of attention. It depends
                  on the numbers of no port but the first, to which it adds
    pure          y depends on nothing but the inputs and the parameters, in training too, and nothing else changes: it
                  draws no random number, counts nothing, and writes into no input
    local         which cells of x a cell of y depends on, so that y may be computed in strips (`composer.locality`).
                  cells: the same one, whatever the size of the map, or token. window: those of a pooling module of
                  torch, by its `kernel_size`, `stride` and `padding`. spread: each cell of x becomes a block of cells
                  of y, `factor` of the module along every axis. Linear and scaling leaves are local too
    entire        the ports that every cell of y depends on as a whole, such as keys and values
    enlarges      y is x this many times as large, each cell between the two nearest centres of x; per axis or for all
    statistics    y = (x - mean) / sqrt(var + eps) · weight + bias by a module with these attributes, mean and variance
                  over the grid: of each channel, or of each of `num_groups` groups of channels
    """

    linear: Literal["", "cells", "grid"] = ""
    whole: bool = False
    side: int = 1
    weight: str = "weight"
    scales: bool = False
    interpolates: bool = False
    concatenates: Literal["", "read", "turned"] = ""
    in_place: bool = False
    function: Literal["", "relu", "leaky_relu", "gelu"] = ""
    from_result: bool = False
    adds: bool = False
    standardizes: bool = False
    fresh: bool = False
    tokenwise: bool = False
    groups: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    constant: Literal["", "weights", "shape"] = ""
    attends: tuple[str, str] | None = None
    position: Literal["", "code", "angles", "bias"] = ""
    pure: bool = False
    local: Literal["", "cells", "window", "spread"] = ""
    entire: tuple[str, ...] = ()
    enlarges: int | tuple[int, ...] = 0
    statistics: Literal["", "channel", "group"] = ""
