"""Runs a schedule of sweeps: the evaluation plan of a network with maps that are never whole (`composer.sweeps`).

It stands in the place of the loop over steps, calls the same modules on pieces of their inputs, and computes the same
function at any size; only its strips are chosen for one. Statistics are merged from strip to strip in double precision
(Chan, Golub and LeVeque, 1983). Where a module has a hook or trains, or gradients are recorded, the steps run as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from composer.calls import Quick, by_name, called, callee, moved, run
from composer.evaluating import Evaluated
from composer.inference import Program, Step, Value
from composer.locality import locality, trimmed
from composer.prepared import AnyStep, Prepared, at_evaluation
from composer.sweeps import Alone, Node, Streams, Sweep, needs
from composer.traits import Traits

FRESH = {"levels", "norms", "filters", "products", "activations"}
"""Passes whose steps give new memory."""


# ---------------------------------------------------------------- steps -> nodes


def nodes_of(program: Program, calls: Sequence[Quick], axis: int) -> tuple[Node, ...]:
    """Every step of the evaluation plan with what a sweep needs to know of it; maps are cut along an axis of the grid,
    sequences along their tokens."""
    flat = {v.id for v in program.values if v.layout == "flat"}
    dims = dims_of(program, axis)
    steps = zip(at_evaluation(program), calls, strict=True)
    return tuple(_node(k, s, _first(callee(c)), axis, dims, flat) for k, (s, c) in enumerate(steps))


def _first(called: Any) -> Any:
    """The module of a step, of a prepared one that of its first part."""
    if not isinstance(called, Evaluated):
        return called
    home, name = called.homes[0]
    return home[name]


def dims_of(program: Program, axis: int) -> dict[int, int]:
    """Of each value that has rows, the dimension of its tensor that they lie along."""
    return {v.id: dim for v in program.values if (dim := _dim(v, axis)) is not None}


def _dim(value: Value, axis: int) -> int | None:
    kind, layout = value.type.kind, value.layout
    if layout == "flat":
        return 1 if kind in ("map", "tokens", "scales") else None
    return ({"first": 2, "last": 1}[layout] + axis) if kind == "map" and axis < value.type.rank else None


def _node(place: int, step: AnyStep, module: Any, axis: int, dims: Mapping[int, int], flat: set[int]) -> Node:
    plain = Node(place, step.address, step.outputs, (), tuple(dict.fromkeys(step.reads)))
    traits = _traits(step)
    by_rows, whole = _read(step, traits)
    one = len({v in flat for v in (*by_rows, *step.outputs)}) == 1 and all(v in dims for v in (*by_rows, *step.outputs))
    local = locality(traits, module, axis) if one and by_rows and step.keys is None else None
    if local is None:
        return plain
    writes = isinstance(step, Prepared) and "in_place" in step.by
    heavy = bool(traits.linear) or bool(traits.entire)
    fresh = heavy or traits.scales or traits.fresh or writes or bool(traits.statistics) or traits.local == "window"
    return replace(
        plain, rows=by_rows, whole=whole, local=local, norm=traits.statistics, heavy=heavy, fresh=fresh, writes=writes
    )


def _traits(step: AnyStep) -> Traits:
    """The promises of a step; a prepared one keeps those of the step it computes in the place of."""
    if isinstance(step, Step):
        return step.block.traits()
    known = step.by == ("in_place",) or (set(step.by) <= FRESH - {"levels"} and step.inputs == step.parts[0].reads)
    return step.parts[0].block.traits() if known else Traits()


def _read(step: AnyStep, traits: Traits) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The values that a step reads by rows, and those that it needs whole."""
    if isinstance(step, Prepared):
        return tuple(dict.fromkeys(step.reads)), ()
    rows: list[int] = []
    whole: list[int] = []
    for port, value in step.inputs:
        into = whole if port in traits.entire else rows
        into += value if isinstance(value, tuple) else [value] if value is not None else []
    return tuple(dict.fromkeys(rows)), tuple(dict.fromkeys(whole))


# ---------------------------------------------------------------- running


class Streaming:
    """The sweeps of one plan. Holds no tensor between two runs."""

    def __init__(self, streams: Streams, calls: Sequence[Quick]):
        self.nodes, self.actions, self.dims = streams.nodes, streams.actions, streams.dims
        self.axis = streams.axis
        sweeps = (a for a in self.actions if isinstance(a, Sweep))
        places = sorted({p for a in sweeps for p in (*a.places, a.norm) if p >= 0})
        self.kinds = {k: type(callee(calls[k])) for k in places}

    def fits(self, calls: Sequence[Quick]) -> bool:
        """Whether every module that would see pieces of its input is as it was built, at evaluation, and nobody listens
        to its calls."""
        return all(_is_as_built(callee(calls[k]), kind) for k, kind in self.kinds.items())

    def run(self, calls: Sequence[Quick], slots: list[Any]) -> None:
        scales: dict[int, tuple[Tensor, Tensor]] = {}
        for action in self.actions:
            if isinstance(action, Alone):
                run([_without_dead(calls[action.place])], slots)
            else:
                _Work(self, action, calls, slots, scales).go()
            for value in action.dead:
                slots[value] = None


@dataclass
class _Tail:
    """Rows from `start` of a map that is being written over, as they were."""

    start: int
    rows: Tensor


class _Work:
    """One sweep at work."""

    def __init__(
        self,
        streaming: Streaming,
        sweep: Sweep,
        calls: Sequence[Quick],
        slots: list[Any],
        scales: dict[int, tuple[Tensor, Tensor]],
    ):
        self.dims, self.sweep, self.calls = streaming.dims, sweep, calls
        self.axis = streaming.axis
        self.slots, self.scales = slots, scales
        self.nodes = [streaming.nodes[k] for k in sweep.places]
        self.norm = streaming.nodes[sweep.norm] if sweep.norm >= 0 else None
        self.lengths = self._lengths()
        self.done, self.tail = 0, _Tail(0, torch.empty(0))

    def _lengths(self) -> dict[int, int]:
        """Rows of every value that is touched, from those that are stored."""
        made = {v for n in self.nodes for v in n.makes}
        read = {v for n in self.nodes for v in n.rows} | {self.sweep.value}
        found = {v: self.slots[v].shape[self.dims[v]] for v in read - made}
        for node in self.nodes:
            assert node.local is not None
            found[node.makes[0]] = node.local.length(found[node.rows[0]])
        return found

    def go(self) -> None:
        value, height = self.sweep.value, self.sweep.height
        length = self.lengths[value]
        if self.norm is not None:
            statistics = Statistics(callee(self.calls[self.norm.place]), self.norm.norm)
            for a in range(0, length, height):
                statistics.add(self.strip(a, min(a + height, length)))
            self.scales[self.norm.place] = statistics.scaling()
        elif height >= length:
            self.slots[value] = self.strip(0, length)
        else:
            self._store(value, length, height)

    def _store(self, value: int, length: int, height: int) -> None:
        made: Tensor | None = None
        dim, over = self.dims[value], self.sweep.over
        for a in range(0, length, height):
            b = min(a + height, length)
            strip = self.strip(a, b)
            if made is None:
                shape = [length if d == dim else n for d, n in enumerate(strip.shape)]
                lent = self.slots[over] if over >= 0 else None
                fits = lent is not None and list(lent.shape) == shape and lent.dtype == strip.dtype
                made = lent if fits else strip.new_empty(shape)
            assert made is not None
            if over >= 0 and made is self.slots[over]:
                self._keep_tail(over, b, min(b + height, length), length)
                self.done = b
            made.narrow(dim, a, b - a).copy_(strip)
            del strip
        self.slots[value] = made

    def _keep_tail(self, over: int, b: int, until: int, length: int) -> None:
        """Copy the rows before b that the next strip, b to `until`, reads."""
        if b < length:
            start = self._needs(b, until).get(over, (b, b))[0]
            rows = self._stored(over, min(start, b), b).clone()
            self.tail = _Tail(min(start, b), rows)

    def _stored(self, value: int, lo: int, hi: int) -> Tensor:
        """Rows of a stored value as they were before the sweep."""
        whole, dim = self.slots[value], self.dims[value]
        if value != self.sweep.over or lo >= self.done:
            return _cut(whole, dim, lo, hi - lo)
        tail = self.tail.rows.narrow(dim, lo - self.tail.start, min(hi, self.done) - lo)
        return tail if hi <= self.done else torch.cat([tail, whole.narrow(dim, self.done, hi - self.done)], dim)

    def _needs(self, a: int, b: int) -> dict[int, tuple[int, int]]:
        """The rows of every value that rows a to b of the result take."""
        return needs(self.sweep, self.nodes, self.lengths, a, b)

    def strip(self, a: int, b: int) -> Tensor:
        """Rows a to b of the value of the sweep."""
        if not self.nodes:
            return self._stored(self.sweep.value, a, b)
        wanted = self._needs(a, b)
        held: dict[int, Tensor] = {}
        for node, gone in zip(self.nodes, self.sweep.gone, strict=True):
            made, (first, last) = node.makes[0], wanted[node.makes[0]]
            assert node.local is not None
            lo, hi = node.local.reads(first, last, self.lengths[node.rows[0]])
            pieces = {v: self._piece(v, lo, hi, wanted, held, node.writes) for v in node.rows}
            for value in gone:
                held.pop(value, None)
            inner = node.local.inner(first, last, self.lengths[node.rows[0]])
            y = self._made(node, pieces, inner)
            start = first if inner else node.local.starts(lo)
            held[made] = _cut(y, self.dims[made], first - start, last - first)
            del pieces, y
        return held[self.sweep.value]

    def _piece(
        self, value: int, lo: int, hi: int, wanted: Mapping[int, Any], held: Mapping[int, Tensor], writes: bool
    ) -> Tensor:
        if value in held:
            return _cut(held[value], self.dims[value], lo - wanted[value][0], hi - lo)
        rows = self._stored(value, lo, hi)
        return rows.clone() if writes else rows

    def _made(self, node: Node, pieces: dict[int, Any], inner: bool) -> Tensor:
        if node.norm:
            (x,) = pieces.values()
            return applied(x, *self.scales[node.place])
        pieces |= {v: self.slots[v] for v in node.whole}
        call, rank = self.calls[node.place], pieces[node.rows[0]].dim() - 2
        run([_without_dead(_trimmed(call, self.axis, rank) if inner else call)], pieces)
        made: Tensor = pieces[node.makes[0]]
        return made


def _cut(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """Rows of a tensor; the tensor itself where that is all of them."""
    return x if x.shape[dim] == length else x.narrow(dim, start, length)


def _trimmed(call: Quick, axis: int, rank: int) -> Quick:
    """A call whose module does without its padding along an axis; watched as the call is."""
    module = callee(call)
    prepared = isinstance(module, Evaluated)
    made = partial(module.without_padding, axis, rank) if prepared else trimmed(module, axis, rank)
    again = getattr(called(call), "again", None)
    return moved(call, again(made) if again else made)


def _is_as_built(called: Any, kind: type) -> bool:
    if isinstance(called, Evaluated):
        return called.refresh()
    if not isinstance(called, nn.Module):
        return True
    listens = called._forward_hooks or called._forward_pre_hooks or "forward" in called.__dict__
    return type(called) is kind and not called.training and not listens


def _without_dead(call: Quick) -> Quick:
    return by_name(call)._replace(dead=()).quick()


# ---------------------------------------------------------------- statistics


class Statistics:
    """Mean and variance of each channel, or group of channels, of each sample of (B, C, *grid), piece by piece."""

    def __init__(self, module: Any, kind: str):
        self.module, self.kind = module, kind
        self.count = 0
        self.mean: Any = None
        self.squares: Any = None

    def add(self, piece: Tensor) -> None:
        """Take in some rows."""
        groups = self.module.num_groups if self.kind == "group" else piece.shape[1]
        parts = torch.unflatten(piece, 1, (groups, -1))
        parts = parts if parts.dtype.itemsize > 2 else parts.float()
        count = prod(parts.shape[2:])
        variance, mean = torch.var_mean(parts, list(range(2, parts.dim())), correction=0)
        mean, squares = mean.double(), variance.double() * count
        if self.mean is None:
            self.mean, self.squares, self.count = mean, squares, count
            return
        total, difference = self.count + count, mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.squares = self.squares + squares + difference.square() * (self.count * count / total)
        self.count = total

    def scaling(self) -> tuple[Tensor, Tensor]:
        """y = scale · x + shift, each (B, C), wide."""
        module, mean = self.module, self.mean
        scale = torch.rsqrt(self.squares / self.count + module.eps)
        channels = module.num_channels if self.kind == "group" else mean.shape[1]
        scale, mean = (t.repeat_interleave(channels // t.shape[1], 1) for t in (scale, mean))
        scale = scale if module.weight is None else scale * module.weight.double()
        shift = -mean * scale
        return scale, shift if module.bias is None else shift + module.bias.double()


def applied(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale · x + shift for x (B, C, *grid)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    shape = (*scale.shape, *[1] * (x.dim() - 2))
    made = torch.addcmul(shift.to(dtype).view(shape), x.to(dtype), scale.to(dtype).view(shape))
    return made.to(x.dtype)
