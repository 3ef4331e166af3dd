"""Linear maps folded through resizing and concatenation into one matrix per level, applied at the level's resolution.

    before   x0 -> project ------------> concat -> mix (1 × 1) -> norm      after   x0 -> A0 ----------> sum
             x1 -> project -> resize ->                                             x1 -> A1 -> resize ->

A map of channels and an interpolation commute, and the interpolation of a constant is the constant; so
norm(mix(concat(resize(project(x))))) = Σ resize(A·x) + c. It is done where it saves multiplications: SegFormer-b2 on
512 × 512 pixels multiplies 1.56 G times up to its norm, not 40.2 G, and never holds the 3072 channels side by side.
Products and sums have the channels last: their resize was the faster one. At evaluation the matrices are derived once;
in training A = mix·project is derived at every step, with gradients to both, and the norm stays behind the sum, whose
batch it has to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from composer.inference import Program, Step, is_move
from composer.layouts import ToFirst, ToLast
from composer.passes.cells import cells
from composer.prepared import Flow, Kernel, Prepared, traits_of

NAME = "levels"


def fold_levels(program: Program) -> Program:
    """Fold the maps before and after every concatenation where that saves multiplications, each mode by itself."""
    for training in (False, True):
        flow = Flow(program, training)
        for step in flow:
            found = _matched(flow, step) if traits_of(step).linear == "cells" else None
            if found is not None and found.pays(flow, program.built):
                flow.put(found.prepared(flow))
        program = flow.done() if flow.made or not training else program
    return program


@dataclass
class _Branch:
    """One input of a concatenation: where it comes from, and the steps on the way, the last first."""

    source: int
    channels: int
    steps: list[Step] = field(default_factory=list)


@dataclass
class _Match:
    """The branches of a concatenation, and the steps behind it: moves, the map, and perhaps a norm."""

    branches: list[_Branch]
    concat: Step
    moves: list[Step]
    fuse: Step
    after: list[Step]

    def pays(self, flow: Flow, built: Mapping[str, int]) -> bool:
        """Whether something is folded, and the maps at their levels multiply no more than those before."""
        out, whole = flow.values[self.fuse.outputs[0]].type, cells(flow, self.fuse.outputs[0], built)
        before, after, folded = whole * out.channels * sum(b.channels for b in self.branches), 0, False
        for branch in self.branches:
            for step in branch.steps:
                if traits_of(step).linear:
                    read, made = (flow.values[i].type.channels for i in (step.reads[0], step.outputs[0]))
                    before += cells(flow, step.outputs[0], built) * read * made
            folded |= any(not is_move(s.address) for s in branch.steps)
            after += cells(flow, branch.source, built) * flow.values[branch.source].type.channels * out.channels
            after += self._derives(flow, branch) * out.channels if flow.training else 0
        return folded and after <= before

    @staticmethod
    def _derives(flow: Flow, branch: _Branch) -> int:
        """Multiplications that a row of the matrix of a branch is derived with."""
        maps = [s for s in branch.steps if traits_of(s).linear]
        return sum(flow.values[s.reads[0]].type.channels * flow.values[s.outputs[0]].type.channels for s in maps)

    def prepared(self, flow: Flow) -> Prepared:
        parts = [*(s for b in self.branches for s in reversed(b.steps)), self.concat, *self.moves, self.fuse]
        parts += self.after
        order = {s.outputs: k for k, s in enumerate(parts)}
        inputs = list(dict.fromkeys([*(b.source for b in self.branches), *self._lenders()]))
        levels = tuple(_level(flow, b, order, inputs) for b in self.branches)
        norm = len(parts) - 1 if traits_of(parts[-1]).scales else -1
        fuse = (order[self.fuse.outputs], traits_of(self.fuse).weight)
        last = flow.values[parts[-1].outputs[0]].layout == "last"
        kernel = partial(_kernel, levels, fuse, norm, last)
        made = Prepared(self.fuse.address, (NAME,), tuple(parts), tuple(inputs), kernel, fresh=True)
        return replace(made, trains=flow.training)

    def _lenders(self) -> list[int]:
        return [lender for b in self.branches for s in b.steps for _, lender in _lent(s)]


def _kernel(levels: Any, fuse: tuple[int, str], norm: int, last: bool) -> Kernel:
    from composer import kernels

    return kernels.Levels(tuple(kernels.Level(*level) for level in levels), fuse, norm, last)


def _level(flow: Flow, branch: _Branch, order: Mapping[Any, int], inputs: list[int]) -> tuple[Any, ...]:
    """The fields of a `Level`. Maps are named from the concatenation back, resizes in the order they run."""
    maps = tuple((order[s.outputs], traits_of(s).weight) for s in branch.steps if traits_of(s).linear)
    resizes: list[tuple[int, str, int]] = []
    for step in reversed(branch.steps):
        if traits_of(step).interpolates:
            port, lender = next(_lent(step), ("", -1))
            resizes.append((order[step.outputs], port, inputs.index(lender) if port else -1))
    last = flow.values[branch.source].layout == "last"
    return inputs.index(branch.source), last, maps, tuple(resizes), branch.channels


def _lent(step: Step) -> Any:
    """The port and value that lends a resize its grid."""
    if traits_of(step).interpolates:
        yield from ((port, value) for port, value in step.inputs[1:] if value is not None)


def _matched(flow: Flow, fuse: Any) -> _Match | None:
    moves: list[Step] = []
    step = _before(flow, fuse)
    while step is not None and _is_turn(step):
        moves.insert(0, step)
        step = _before(flow, step)
    if step is None or not traits_of(step).concatenates:
        return None
    read = step.reads if traits_of(step).concatenates == "read" else step.reads[::-1]
    branches = [_branch(flow, i) for i in read]
    made = [flow.values[i] for i in (*(b.source for b in branches), fuse.outputs[0])]
    if len(set(read)) < len(read) or any(v.layout not in ("first", "last") or v.type.kind != "map" for v in made):
        return None
    return _Match(branches, step, moves, fuse, [] if flow.training else _norm(flow, fuse))


def _before(flow: Flow, step: Step) -> Step | None:
    """The step whose value this one reads, if nobody else does."""
    maker = flow.makers.get(step.reads[0])
    alone = isinstance(maker, Step) and flow.only_reader(maker) is step
    return maker if alone else None  # type: ignore[return-value]


def _is_turn(step: Any) -> bool:
    return isinstance(step, Step) and isinstance(step.block, (ToFirst, ToLast))


def _branch(flow: Flow, value: int) -> _Branch:
    """From a concatenation back, as long as the steps are maps of channels, resizes and changes of layout."""
    found = _Branch(value, flow.values[value].type.channels)
    step = flow.makers.get(value)
    while isinstance(step, Step) and flow.only_reader(step) is not None and _commutes(step):
        found.steps.append(step)
        found.source = step.reads[0]
        step = flow.makers.get(found.source)
    while found.steps and _is_turn(found.steps[-1]):  # a view at the beginning may stay outside
        found.source = found.steps.pop().outputs[0]
    return found


def _commutes(step: Step) -> bool:
    traits = traits_of(step)
    return _is_turn(step) or traits.linear == "cells" or (traits.interpolates and len(step.inputs) <= 2)


def _norm(flow: Flow, fuse: Step) -> list[Step]:
    """The norm behind the map, with the changes of layout before it."""
    found: list[Step] = []
    step = flow.only_reader(fuse)
    while isinstance(step, Step) and _is_turn(step):
        found.append(step)
        step = flow.only_reader(step)
    return [*found, step] if isinstance(step, Step) and traits_of(step).scales else []
