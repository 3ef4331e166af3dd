"""Spacing, shapes and memory -> patch, batch and parameters of a blueprint. Knows nothing of nnU-Net's code.

The rules are nnU-Net's (Isensee et al., 2021, supplementary note 2): a patch begins with the aspect of the voxels, as
large as the median image at most, and becomes smaller along its relatively longest axis until a step with two patches
fits into the memory; what is left over goes into the batch, up to a twentieth of the data set's voxels. The two facts
about the network come from Composer: its valid sizes from the derived constraints, what a step needs from the cost
model, and not from the number of feature maps of a U-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic
from composer.dims import Dim
from composer.figures import size
from composer.inference import Program
from composer.liveness import ids_of
from composer.nnunet import topology
from composer.nnunet.architecture import fitting, ranked
from composer.nnunet.heads import Head, heads
from composer.sizes import Constraint, nearest_valid

Loader = Callable[[Mapping[str, Any]], Blueprint]
"""The blueprint with further parameters."""
Patch = tuple[int, ...]
Programs = Callable[[Patch], Program]
"""The program whose constraints hold about a patch."""

START = {2: 2048**2, 3: 256**3}
"""Voxels of the first patch, before it is cut to the images."""
LEAST_BATCH = 2
MOST_SEEN = 0.05
"""The share of the data set's voxels in one batch, at most."""
SHARE = 0.85
"""Of the memory: the rest is for what kernels allocate inside themselves and for the fragmentation of the allocator."""
LOSS_MAPS = 4
"""Maps of classes in float32 that the loss keeps: the logits cast, log-softmax, softmax, and the labels as one-hot."""


@dataclass(frozen=True)
class Data:
    """A configuration of a data set: the spacing and the median shape its images are resampled to, axes in nnU-Net's
    order, and the number of all voxels."""

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    channels: int
    classes: int
    voxels: float

    @property
    def rank(self) -> int:
        return len(self.spacing)


@dataclass(frozen=True)
class Planned:
    """What was found: the blueprint with the parameters set, and the bytes of a training step."""

    blueprint: Blueprint
    params: Mapping[str, Any]
    patch: Patch
    batch: int
    bytes: int
    heads: tuple[Head, ...]

    def __str__(self) -> str:
        patch, weights = " × ".join(map(str, self.patch)), ", ".join(f"{h.weight:.2f}" for h in self.heads)
        outputs = f"{len(self.heads)} outputs weighing {weights}" if len(self.heads) > 1 else "one output"
        return f"patches of {patch}, {self.batch} at a time, {size(self.bytes)} a step; {outputs}"


def plan(load: Loader, data: Data, gigabytes: float = 8, given: Sequence[str] = ()) -> Planned:
    """The largest patch that fits, and the batch. `given` are the parameters that the user set, which stay: with `size`
    among them the patch is the user's.

    BP832 for a blueprint that is none for such data, BP833 where no patch is valid, or none fits."""
    room = gigabytes * 1e9 * SHARE  # GB, not GiB: the 7 % between them are what a device's context takes
    trial = Trial(load, data, frozenset(given))
    program = trial.first().check()
    own = tuple(program.built[a] for a in program.inputs[0].axes) if "size" in given else None
    patches = [own] if own else list(shrinking(trial.program, data))
    k = _first(lambda k: trial.bytes(patches[k], LEAST_BATCH) <= room, len(patches))
    if k is None:
        raise _none(trial, patches, gigabytes)
    batch = _batch(lambda n: trial.bytes(patches[k], n), room, round(data.voxels * MOST_SEEN / prod(patches[k])))
    params, made = trial.at(patches[k])
    return Planned(made, params, patches[k], batch, trial.bytes(patches[k], batch), heads(made, patches[k]))


class Trial:
    """A blueprint, made for one patch after another and weighed."""

    def __init__(self, load: Loader, data: Data, given: frozenset[str]):
        self.load, self.data, self.given = load, data, given
        self.at, self.bytes = lru_cache(None)(self._at), lru_cache(None)(self._bytes)
        self.values = load({}).values
        self._programs: dict[str, Program] = {}

    def first(self) -> Blueprint:
        """The blueprint with as many axes as the data, at the size it was written for."""
        loaded = self.load({})
        program, rank = loaded.check(), self.data.rank
        axes = program.inputs[0].axes
        if len(axes) != rank:
            try:
                loaded = self.at(((program.built.get(axes[0]) or 1),) * rank)[1]
            except ComposerError:
                loaded = self.load({})
        ranked(loaded, rank)
        return loaded

    def program(self, patch: Patch) -> Program:
        """That whose constraints hold about a patch; strides follow from it, a blueprint without has one program."""
        shaped = topology.parameters(self.values, self.given, self.data.spacing, patch)
        key = str(shaped)
        if key not in self._programs:
            whole = {"size": [16 * 2 ** len(shaped["widths"])] * len(patch)} if shaped and "size" in self.values else {}
            self._programs[key] = self.load({**shaped, **whole}).check() if shaped else self.first().check()
        return self._programs[key]

    def _at(self, patch: Patch) -> tuple[dict[str, Any], Blueprint]:
        """The parameters set, and the blueprint with them, checked at the patch."""
        data, known = self.data, self.values
        wanted: dict[str, Any] = {"channels": data.channels, "classes": data.classes, "size": list(patch)}
        params = {k: v for k, v in wanted.items() if k in known and not (k == "size" and k in self.given)}
        params |= topology.parameters(known, self.given, data.spacing, patch)
        made = self.load(params)
        fitting(made, data.channels, data.classes)
        made.check(**{made.check().inputs[0].name: (1, data.channels, *patch)})
        return params, made

    def _bytes(self, patch: Patch, batch: int) -> int:
        """Bytes of a step in mixed precision: weights, gradients and momentum in float32, a copy of the weights and the
        activations in half of that, and the loss. In float32, as on a CPU, it is about twice as much."""
        made, data = self.at(patch)[1], self.data
        shapes: Any = {made.check().inputs[0].name: (batch, data.channels, *patch)}
        cost = made.cost(train=True, dtype="bfloat16", optimizer="momentum", flops=False, **shapes)
        parts = cost.peak.parts
        masters = sum(parts.get(k, 0) for k in ("parameters", "gradients", "optimizer", "buffers", "inputs"))
        cells = sum(prod(h.grid) for h in heads(made, patch) if h.weight)
        return cost.peak.bytes + masters + parts.get("parameters", 0) + LOSS_MAPS * 4 * data.classes * batch * cells


def shrinking(programs: Programs, data: Data) -> Iterator[Patch]:
    """Valid patches, from the first one down, each smaller than the one before. BP833 where there is none."""
    start = _start(data)
    here = _rounded(programs, start)
    if here is None:
        made: Any = programs(start).graph.blueprint
        heads(made, [programs(start).built[a] for a in programs(start).inputs[0].axes])  # may say why
        text = f"no patch near {' × '.join(map(str, start))} is valid for `{made.name}`"
        raise BlueprintError(Diagnostic("BP833", text, help=("`composer sizes NAME` lists the valid ones",)))
    while here is not None:
        yield here
        here = _smaller(programs, here, data.shape)


def _start(data: Data) -> Patch:
    """The aspect of voxels, that is to say a cube in millimetres, no larger than the median image."""
    inverse = [1 / s for s in data.spacing]
    scale = (START[data.rank] / prod(inverse)) ** (1 / data.rank)
    return tuple(max(1, min(round(scale * i), n)) for i, n in zip(inverse, data.shape, strict=True))


def _rounded(programs: Programs, wanted: Patch) -> Patch | None:
    """The next valid size up, where that is not more than twice the voxels, or else the nearest."""
    above = _valid(programs, wanted, up=True)
    return above if above and prod(above) <= 2 * prod(wanted) else _valid(programs, wanted, up=None)


def _smaller(programs: Programs, here: Patch, shape: Patch) -> Patch | None:
    """The next valid size down along the axis that is longest beside the image; along another where there is none."""
    for axis in sorted(range(len(here)), key=lambda a: here[a] / shape[a], reverse=True):
        step = max(1, here[axis] // 32)
        found = _valid(programs, (*here[:axis], here[axis] - step, *here[axis + 1 :]), up=False)
        if found is not None:
            return found
    return None


def _valid(programs: Programs, wanted: Patch, up: bool | None) -> Patch | None:
    """The valid size nearest to the one wanted; None where none is, and where a patch is too small for a network."""
    if min(wanted) < 1:
        return None
    try:
        program = programs(wanted)
    except BlueprintError:
        return None
    axes = program.inputs[0].axes
    constraints = (*program.constraints, *_whole(program, axes))
    found = nearest_valid(constraints, dict(zip(axes, wanted, strict=True)), up=up)
    return tuple(found[a] for a in axes) if found else None


def _whole(program: Program, axes: Sequence[str]) -> Iterator[Constraint]:
    """nnU-Net's own constraint: the main output has as many cells as the patch, along every axis."""
    grid = program.values[ids_of(program.outputs[0].ids)[0]].type.grid
    for axis, cells in zip(axes, grid, strict=False):
        why = f"the output must have as many cells as the patch along {axis}"
        yield Constraint("equal", cells - Dim.symbol(axis), 0, why, "", "", None)


def _first(fits: Callable[[int], bool], count: int) -> int | None:
    """The first of `count` things, each smaller than the one before, that fits; by halving."""
    low, high = 0, count - 1
    if _tried(fits, 0):
        return 0
    if not _tried(fits, high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _tried(fits, middle) else (middle, high)
    return high


def _tried(fits: Callable[[int], bool], k: int) -> bool:
    """A size that the constraints allow and a block refuses does not fit; for the last, the reason is said."""
    try:
        return fits(k)
    except BlueprintError as fault:
        if any(d.code == "BP832" for d in fault.diagnostics):
            raise
        return False


def _batch(needs: Callable[[int], int], room: float, most: int) -> int:
    """The largest batch that fits, up to `most`; what a patch adds is nearly the same for each."""
    if most <= LEAST_BATCH:
        return LEAST_BATCH
    two, four = needs(LEAST_BATCH), needs(2 * LEAST_BATCH)
    batch = min(most, LEAST_BATCH + int((room - two) / max(1, (four - two) / LEAST_BATCH)))
    while batch > LEAST_BATCH and needs(batch) > room:
        batch -= 1
    return batch


def _none(trial: Trial, patches: Sequence[Patch], gigabytes: float) -> BlueprintError:
    """Why not even the smallest patch will do."""
    patch = patches[-1]
    try:
        needed = trial.bytes(patch, LEAST_BATCH)
    except ComposerError as fault:
        return BlueprintError(list(fault.diagnostics))
    name, said = trial.load({}).name, " × ".join(map(str, patch))
    smallest = "" if len(patches) == 1 else " even"
    text = f"a step of `{name}` does not fit into {gigabytes:g} GB{smallest} with two patches of {said}"
    notes = (
        f"it needs {size(needed)} of {size(int(gigabytes * 1e9 * SHARE))}; the rest is for kernels and fragmentation",
    )
    help = ("a smaller network, by its parameters or presets", "more memory: `-gpu_memory_target`")
    return BlueprintError(Diagnostic("BP833", text, notes=notes, help=help))
