"""What prepared steps compute, on tensors: the arithmetic behind the passes of the evaluation plan.

Derived tensors are computed in double precision where the device has it, and stored in the dtype of the weights, so
that what is folded is as exact as a kernel's own rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd

from composer import onednn
from composer.orders import channels_last, is_channels_last

TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def weight_of(module: Any, attribute: str) -> Tensor:
    """The weight that a linear module uses, which may be computed from the one it holds."""
    found = getattr(module, attribute)
    weight: Tensor = found() if callable(found) and not isinstance(found, Tensor) else found
    return weight


def wide(tensor: Tensor) -> Tensor:
    """In double precision, where there is one."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def scaling(module: Any) -> tuple[Tensor, Tensor]:
    """y = scale · x + shift of a normalization by running statistics: (C,), (C,), wide."""
    scale = torch.rsqrt(wide(module.running_var) + module.eps)
    scale = scale if module.weight is None else scale * wide(module.weight)
    shift = -wide(module.running_mean) * scale
    return scale, shift if module.bias is None else shift + wide(module.bias)


def scaled(module: Any, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight whose results are `scale` times as large, one number per channel of the result."""
    if not isinstance(module, _ConvTransposeNd):
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))
    grouped = scale.view(module.groups, 1, -1)  # (in, out / groups, *kernel): the groups split the first axis
    parts = torch.unflatten(weight, 0, (module.groups, -1))
    return (parts * grouped.view(*grouped.shape, *[1] * (weight.dim() - 2))).flatten(0, 1)


def matrix(module: Any, attribute: str) -> Tensor:
    """W of a map of the channels of each cell: (out, in), wide."""
    return wide(weight_of(module, attribute)).flatten(1)


def applied(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a linear module computes, with another weight and bias."""
    if isinstance(module, nn.Linear):
        return functional.linear(x, weight, bias)
    if isinstance(module, _ConvTransposeNd):
        run: Any = TRANSPOSED[weight.dim() - 2]
        options = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
        made: Tensor = run(x, weight, bias, *options)
        return made
    made = module._conv_forward(x, weight, bias)
    return made


FEW = 32
"""A filter so many times as large as its map is used by torch's own kernel, which unfolds the map and does not put the
filter in another order: at 4³ 384 -> 384 channels took 4.0 ms and not 5.2, at 8³ 192 -> 192 took 7.8 and not 4.8."""


class Filters(NamedTuple):
    """What an `Operator` derived: the weight for each value, the bias, the norm where that is not folded into these,
    whether the map has few cells beside the filter, and the function of what comes out."""

    weights: list[Tensor]
    bias: Tensor | None
    affine: tuple[Tensor, Tensor] | None = None
    few: bool = False
    act: onednn.Function | None = None


@dataclass(frozen=True)
class Operator:
    """A linear module with a derived weight and bias.

    scales   the last part is a norm that is folded into it
    product  a convolution of single cells as one product of matrices
    last     channels lie last in memory, in the value and so in the result
    first    channels lie first in memory, in the value and so in the result
    out      channels lie first in memory in the result, because it is the user's
    splits   channels of each value, where the first part is their concatenation, which is never made
    cells    of its map; a filter that is larger than the map is not kept a second time. 0 where nobody says
    act      the function of `Traits` that the last part is
    """

    weight: str = "weight"
    scales: bool = False
    product: bool = False
    last: bool = False
    first: bool = False
    out: bool = False
    splits: tuple[int, ...] = ()
    cells: int = 0
    act: str = ""

    def prepare(self, modules: list[Any]) -> Filters:
        act = onednn.Function.of(self.act, modules[-1]) if self.act else None
        return self._filters(self._linear(modules))._replace(act=act)

    def _filters(self, modules: list[Any]) -> Filters:
        excess = self._excess(modules[0])
        if excess > 1:
            bias = None if modules[0].bias is None else modules[0].bias.detach()
            affine = _affine(modules) if self.scales else None
            return Filters([modules[0].weight.detach()], bias, affine, excess > FEW)
        weight, bias = self._folded(modules)
        weights = torch.split(weight, list(self.splits), 1) if self.splits else [weight]
        if self._turns(weight) and not self.product and weight.device.type == "cpu":  # else copied at every call
            return Filters([channels_last(w) for w in weights], bias)
        return Filters([w.contiguous() for w in weights] if self.splits else [weight], bias)

    def _linear(self, modules: list[Any]) -> list[Any]:
        """The parts from the linear map to its norm."""
        return modules[1 if self.splits else 0 : -1 if self.act else None]

    def _excess(self, module: Any) -> float:
        """How many times as large as its map the filter is, if that is a parameter as it stands."""
        known = self.cells and self.weight == "weight" and hasattr(module, "out_channels")
        return module.weight.numel() / (self.cells * module.out_channels) if known else 0

    def _folded(self, modules: list[Any]) -> tuple[Tensor, Tensor | None]:
        module = modules[0]
        weight, bias = weight_of(module, self.weight), module.bias
        if not self.scales:
            kept = [t if t is None or torch.is_grad_enabled() else t.detach() for t in (weight, bias)]
            return kept[0], kept[1]
        scale, shift = scaling(modules[-1])
        shift = shift if bias is None else shift + scale * wide(bias)
        return scaled(module, wide(weight), scale).to(weight.dtype), shift.to(weight.dtype)

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Tensor:
        (weights, bias, affine, few, act), (module, *rest) = derived, self._linear(modules)
        if len(weights) < len(values):
            values = (torch.cat(values, 1),)
        turns = self._turns(values[0])
        last = turns and not self.product and not few
        if last and values[0].device.type == "cpu":  # elsewhere it is not measured
            values = tuple(map(channels_last, values))
        first = self.first or (few and self.last and not self.product)
        values = tuple(x.contiguous() for x in values) if first else values
        joined = act if affine is None else None
        y = self._mapped(module, values[0], weights[0], bias, turns if self.product else last, joined)
        for x, weight in zip(values[1:], weights[1:], strict=True):
            self._add(y, module, x, weight)
        if affine is not None:
            y = _scaled_over(y, *affine)
            y = y if act is None else act.over(y)
        y = y.contiguous() if self.out else y
        for move in rest[: -1 if self.scales else None]:  # the compiler's own changes of layout
            y = move(y)
        return y

    def _turns(self, x: Tensor) -> bool:
        """Whether channels lie last in memory: not on a CPU where that gains nothing for such numbers."""
        return self.last and (x.device.type != "cpu" or onednn.computes(x.dtype))

    def _mapped(
        self,
        module: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        last: bool,
        act: onednn.Function | None = None,
    ) -> Tensor:
        if self.product:
            return product(x, weight, bias, last and not self.out)
        if last and onednn.takes(module, x, weight):
            return onednn.convolve(module, x, weight, bias, act)
        if act is not None and onednn.multiplies(module, x, weight):
            return onednn.multiply(x, weight, bias, act)
        y = applied(module, x, weight, bias)
        return y if act is None else act.over(y)

    def _add(self, total: Tensor, module: Any, x: Tensor, weight: Tensor) -> None:
        """Add what the module computes to a map that is there."""
        if self.product and is_channels_last(total) and is_channels_last(x):
            rows = total.movedim(1, -1).flatten(0, -2)
            rows.addmm_(x.movedim(1, -1).flatten(0, -2), weight.flatten(1).mT)
        elif self.last and not self.product and onednn.takes(module, x, weight):
            onednn.add_to(total, module, x, weight)
        else:
            total.add_(self._mapped(module, x, weight, None, self._turns(x)))


def _affine(modules: list[Any]) -> tuple[Tensor, Tensor]:
    """Scale and shift of the norm behind a convolution, for its map: (C, 1, …) each."""
    shape, dtype = (-1, *[1] * (modules[0].weight.dim() - 2)), modules[0].weight.dtype
    scale, shift = scaling(modules[-1])
    return scale.to(dtype).view(shape), shift.to(dtype).view(shape)


def _scaled_over(y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale · y + shift, written over y, which is new memory."""
    return y.mul_(scale).add_(shift)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, last: bool = False) -> Tensor:
    """x (B, C, *grid), in whichever order of memory -> (B, out, *grid), with channels first or `last` in memory."""
    cells = x.movedim(1, -1).flatten(1, -2) if is_channels_last(x) else x.flatten(2).mT
    rows = weight.flatten(1).expand(x.shape[0], -1, -1)
    one, two, shift = (cells, rows.mT, bias) if last else (rows, cells.mT, bias if bias is None else bias[:, None])
    y = torch.bmm(one, two) if shift is None else torch.baddbmm(shift, one, two)
    if last:  # by way of two axes, because the strides of a batch of one may be anything
        return y.reshape(-1, y.shape[2]).view(x.shape[0], *x.shape[2:], y.shape[2]).movedim(-1, 1)
    return reshaped(y, (*y.shape[:2], *x.shape[2:]))


def reshaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    """New memory in another shape, no view to autograd, so that it may be written over."""
    made: Tensor = torch.ops.aten._unsafe_view(x, shape)
    return made


@dataclass(frozen=True)
class Level:
    """One branch of a concatenation: its value and layout, the maps on the way as (part, attribute of the weight), and
    the resizes as (part, port, value that lends the grid); -1 where there is none."""

    value: int
    last: bool
    maps: tuple[tuple[int, str], ...]
    resizes: tuple[tuple[int, str, int], ...]
    channels: int


@dataclass(frozen=True)
class Levels:
    """Σ resize_i(A_i · x_i) + c; one matrix A_i stands for all linear maps of a branch and those of what follows.

    fuse   the part that maps the concatenation, and the attribute of its weight
    norm   the part that scales the sum, or -1
    last   whether the result is (B, *grid, C)
    """

    levels: tuple[Level, ...]
    fuse: tuple[int, str]
    norm: int
    last: bool

    def prepare(self, modules: list[Any]) -> tuple[list[Tensor], Tensor]:
        part, attribute = self.fuse
        whole, bias = matrix(modules[part], attribute), modules[part].bias
        dtype, shift = weight_of(modules[part], attribute).dtype, whole.new_zeros(whole.shape[0])
        shift = shift if bias is None else shift + wide(bias)
        matrices = []
        blocks = torch.split(whole, [n.channels for n in self.levels], 1)
        for level, block in zip(self.levels, blocks, strict=True):
            for part, attribute in level.maps:
                own = modules[part].bias
                shift = shift if own is None else shift + block @ wide(own)
                block = block @ matrix(modules[part], attribute)
            matrices.append(block)
        if self.norm >= 0:
            scale, more = scaling(modules[self.norm])
            matrices, shift = [m * scale[:, None] for m in matrices], shift * scale + more
        return [m.to(dtype) for m in matrices], shift.to(dtype)

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Tensor:
        matrices, shift = derived
        total: Tensor | None = None
        for k, (level, weight) in enumerate(zip(self.levels, matrices, strict=True)):
            x = values[level.value]
            y = functional.linear(x if level.last else x.movedim(1, -1), weight, shift if k == 0 else None)
            y = y.movedim(-1, 1)
            for part, port, like in level.resizes:
                if like >= 0 and values[like].shape[2:] == y.shape[2:]:
                    continue  # it has this grid: a copy would be one more map
                y = modules[part](y, **({port: values[like]} if like >= 0 else {}))
            total = y if total is None else total.add_(y)
            del y  # before the next one is there
        assert total is not None
        return total.movedim(1, -1).contiguous() if self.last else total


@dataclass(frozen=True)
class Constant:
    """A value that follows from weights alone; its ports, so many by position and others by name, have only types."""

    required: int = 0
    named: tuple[str, ...] = ()

    def prepare(self, modules: list[Any]) -> list[Any]:
        return _dated(modules[0](*[None] * self.required, **dict.fromkeys(self.named)))

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Any:
        if _is_spoilt(derived):
            with torch.inference_mode(False), torch.no_grad():
                derived[:] = self.prepare(modules)
        return derived[0]


def _dated(value: Tensor) -> list[Any]:
    """A constant with its version, which rises when somebody writes into it."""
    return [value, value._version]


def _is_spoilt(dated: list[Any]) -> bool:
    return bool(dated[0]._version != dated[1])


MOST_SHAPES = 4
"""Codes of so many shapes are kept."""


@dataclass(frozen=True)
class OfShape:
    """A value that follows from the shape of another, kept for each shape, dtype and device."""

    def prepare(self, modules: list[Any]) -> dict[Any, Any]:
        return {}

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Any:
        x = values[0]
        key = (x.shape, x.dtype, x.device)
        if key not in derived or _is_spoilt(derived[key]):
            if len(derived) >= MOST_SHAPES:
                derived.clear()
            with torch.inference_mode(False), torch.no_grad():
                derived[key] = _dated(modules[0](torch.empty_like(x)))
        return derived[key][0]


@dataclass(frozen=True)
class First:
    """What a step makes of its values, channels first in memory; `listed`: the module takes them as one."""

    listed: bool = False

    def prepare(self, modules: list[Any]) -> None:
        return None

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Tensor:
        made: Tensor = modules[0](list(values)) if self.listed else modules[0](*values)
        return made.contiguous()


def writing(act: Any) -> Any:
    """An activation that writes over its input, otherwise as the given one."""
    own = copy.copy(act)
    own.inplace = True
    return own


def may_write(x: Tensor) -> bool:
    """Whether autograd takes it well that new memory is written over: of a view it would copy the gradient."""
    return not (torch.is_grad_enabled() and x._is_view())


@dataclass(frozen=True)
class InPlace:
    """A function of each number, written over its input."""

    def prepare(self, modules: list[Any]) -> Any:
        return writing(modules[0])

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Any:
        return (derived if may_write(values[0]) else modules[0])(values[0])


@dataclass(frozen=True)
class Sum:
    """The sum of all values, written over one of them if all have its shape; `listed`: the module takes them as one."""

    over: int
    listed: bool = False

    def prepare(self, modules: list[Any]) -> None:
        return None

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Tensor:
        total: Tensor = values[self.over]
        others = [v for k, v in enumerate(values) if k != self.over]
        if not may_write(total) or any(v.shape != total.shape or v.dtype != total.dtype for v in others):
            made: Tensor = modules[0](list(values)) if self.listed else modules[0](*values)
            return made
        for value in others:
            total.add_(value)
        return total


def tensors_of(derived: Any) -> list[Tensor]:
    """All tensors of what a kernel derived."""
    if isinstance(derived, Tensor):
        return [derived]
    items: Sequence[Any] = ()
    if isinstance(derived, dict):
        items = list(derived.values())
    elif isinstance(derived, (list, tuple)):
        items = derived
    return [t for item in items for t in tensors_of(item)]
