"""The walk: load -> link -> infer -> optimize -> build. Each arrow is a pure function on frozen values.

What a check of a blueprint without mistakes does not need is imported where it is used: half of the time of a cold
`composer check` is that of imports.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import blueprint as stage
from composer import faults, sizes
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, Span, did_you_mean, listing
from composer.frozen import dataclass
from composer.graph import Graph
from composer.inference import Program, ProgramInput, infer_all
from composer.linking import at_most, link_all
from composer.mending import tried
from composer.registry import Registry, clash
from composer.source import Map, standing_in

if TYPE_CHECKING:
    from composer.causes import Sizes
    from composer.figures import Cost
    from composer.module import Network
    from composer.plans import MemoryPlan
    from composer.prepared import Preparing

Grids = Sequence[int] | Mapping[str, Sequence[int]]
"""The size of the first input, or sizes of inputs by name."""


def compose(
    source: str | os.PathLike[str], registry: Registry | None = None, overrides: Mapping[str, Any] | None = None
) -> Network:
    """A blueprint's network, in one call."""
    return load(source, registry, **(overrides or {})).build()


def load(source: str | os.PathLike[str], registry: Registry | None = None, /, **overrides: Any) -> Blueprint:
    """A blueprint by shipped name (`"swin_unet"`), preset (`"vit:large"`) or path, with parameters set by name.

    >>> load("vit", classes=10).build()
    """
    return Blueprint.load(source, registry, overrides)


@dataclass(frozen=True)
class Blueprint(stage.Blueprint):
    """A loaded blueprint with the rest of the walk attached. Immutable, so that what was inferred is inferred once."""

    registry: Registry = field(default_factory=Registry)
    asked: Asked | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        registry: Registry | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Blueprint:
        registry = registry or Registry.discover()
        name = str(source).partition(":")[0]
        if ("blueprint", name) in registry.disputed and name not in stage.shipped():
            raise BlueprintError(clash(name, registry.disputed["blueprint", name], "blueprint"))
        return cls._made(Asked(source, stage.arguments(overrides or {}), registry))

    @classmethod
    def _made(cls, asked: Asked) -> Blueprint:
        try:
            with uncollected(), faults.named([Path(asked.source)], {"<text>": asked.text} if asked.text else {}):
                loaded = asked.load()
        except BlueprintError as fault:
            raise BlueprintError(tried(fault.diagnostics, asked.again)) from None
        own = {f: getattr(loaded, f) for f in stage.Blueprint.__dataclass_fields__}
        return cls(**own, registry=asked.registry, asked=asked)

    @classmethod
    def parse(
        cls,
        text: str,
        registry: Registry | None = None,
        overrides: Mapping[str, Any] | None = None,
        name: str = "<text>",
    ) -> Blueprint:
        """A blueprint by its text, which messages call `name`."""
        return cls._made(Asked(name, stage.arguments(overrides or {}), registry or Registry.discover(), text))

    def link(self) -> Graph:
        """Names -> blocks, slots and edges."""
        graph, mistakes = _linked(self, self.registry)
        if mistakes:
            raise BlueprintError(mistakes)
        return graph

    def infer(self) -> Program:
        """Types, constraints and a flat program; all mistakes of the blueprint in one error."""
        with uncollected():
            return self._inferred

    @cached_property
    def _inferred(self) -> Program:
        """Computed once, or all mistakes: checking, weighing and building a network ask for the same value."""
        program, mistakes = self._attempted()
        if program is None or mistakes:
            raise faults.error(mistakes, self.registry)
        return program

    def _attempted(self) -> tuple[Program | None, list[Diagnostic]]:
        with faults.named(self.files):
            program, mistakes = attempted(self, self.registry)
        return program, tried(mistakes, self.asked.again) if self.asked and mistakes else mistakes

    def attempt(self) -> tuple[Program | None, list[Diagnostic]]:
        """What can be said of a blueprint with mistakes, and these: parts that no plugin brings have unknown types."""
        with uncollected():
            return self._attempted()

    def check(self, **shapes: tuple[int, ...]) -> Program:
        """Everything short of building: `check(image=(1, 3, 224, 224))` also checks a shape. Needs no torch."""
        program = self.infer()
        mistakes = _shape_mistakes(program, shapes)
        if mistakes:
            raise BlueprintError(mistakes)
        return program

    def to_yaml(self) -> str:
        """What was asked for as one document: bases, preset and overrides are in it, expressions stay as written.

        The text loads to an equal blueprint; comments and presets are not in it. See also `flat`.
        """
        from composer.document import document
        from composer.writing import dump

        return dump(document(self))

    def to_lock(self) -> str:
        """The network resolved, with what it was made with: versions, interfaces of blocks, parameters and types.

        The text loads to a blueprint that builds the same network, and says where what is installed is another.
        """
        from composer.locking import locked

        of, overrides = (str(self.asked.source), self.asked.overrides) if self.asked else (self.name, Map())
        if self.lock is not None:
            of, overrides = self.lock.of
        name = of if of.partition(":")[0] in self.library else Path(of).name
        return locked(self.infer().graph, self.registry, name, overrides)

    def flat(self) -> str:
        """The fully resolved blueprint as YAML, every copy written out; it builds the same network."""
        from composer.flat import flat

        return flat(self.infer().graph)

    def sizes(self, limit: int = 1024) -> Sizes:
        """The valid sizes 1..limit of each axis while the others stay as built for, by axis; `axes` and `coupled` of
        the result say them in words, with the nodes that cause them."""
        from composer.causes import explain

        return explain(self.infer(), limit)

    def build(
        self,
        device: Any = None,
        weights: str | os.PathLike[str] | None = None,
        *,
        checkpoint: str | Sequence[str] = (),
        without: str | Sequence[str] = (),
        force: bool = False,
        memory: int | str | None = None,
        size: Grids | None = None,
        batch: int = 1,
        train: bool = False,
    ) -> Network:
        """The network: a plain `torch.nn.Module` whose `state_dict` keys are node addresses.

        Its modules and weights are made. What its passes prepare for evaluation follows at the first call that has use
        for it, or at `Network.prepare`.

        `checkpoint` names nodes that training computes again instead of keeping (`Network.checkpoint`). `without` names
        passes that are left out, or is `all`. Weights that do not fit into the memory of the device are refused before
        they are made (BP706), unless `force` is given.

        `memory` ("8GB", or bytes) plans how a pass over `batch` inputs of `size` fits into so much, in inference or
        with `train` (see `plan`); `network.memory_plan` says what was chosen, and what cannot fit is refused.
        """
        plan = None
        if memory is not None:
            plan = self._plan_for_build(memory, size, batch, train, _words(checkpoint), without, force)
            checkpoint = plan.after.checkpoint if train else checkpoint
        from composer.budget import Budget  # torch, 2 s: nothing before this needs it
        from composer.module import build

        with uncollected():
            program, prepare = self._staged((*_words(without), *(plan.without if plan else ())))
            watch = None if force else Budget(self, program, device, weights).watch
            network = build(program, device, watch, prepare)
        if weights is not None:
            from composer.weights import load_file, load_into

            load_into(network, load_file(Path(weights)), name=str(weights))
        network = network.checkpoint(*_words(checkpoint)) if checkpoint else network
        return network.planned(plan) if plan else network

    def plan(
        self,
        memory: int | str,
        *,
        size: Grids | None = None,
        batch: int = 1,
        train: bool = False,
        dtype: str = "float32",
        checkpoint: str | Sequence[str] = (),
        optimizer: str = "none",
        gradients: str = "new",
        without: str | Sequence[str] = (),
        **shapes: tuple[int, ...],
    ) -> MemoryPlan:
        """How a pass fits into `memory` ("8GB", or bytes), by the cost model; nothing is allocated. The best plan there
        is, where none fits (`MemoryPlan.fits`).

        >>> print(load("unet3d", size=[512, 512, 256]).plan("12GB"))

        In training nodes are computed again in the backward pass. In inference large maps are computed strip by strip,
        and attention some queries at a time. `size` is that of the first input, or sizes by name of the input; without
        it inputs are of the size that the network is built for. The other options are those of `cost`.
        """
        program = self.check()
        first = program.inputs[0].name
        grids = {} if size is None else dict(size) if isinstance(size, Mapping) else {first: size}
        channels = {i.name: i.type.channels for i in program.inputs}
        shapes = {n: (batch, channels.get(n, 1), *g) for n, g in grids.items()} | shapes
        optimized = self.optimized(without, **shapes)
        from composer.memory import amount
        from composer.planning import planned

        return planned(
            optimized, fed(optimized, shapes, batch), amount(memory), training=train, dtype=dtype,
            apart=lambda more: self.optimized((*_words(without), *more), **shapes),
            checkpoint=_words(checkpoint), optimizer=optimizer, gradients=gradients,
        )  # fmt: skip

    def _plan_for_build(
        self,
        memory: int | str,
        size: Grids | None,
        batch: int,
        train: bool,
        checkpoint: Sequence[str],
        without: str | Sequence[str],
        force: bool,
    ) -> MemoryPlan:
        import torch

        dtype = str(torch.get_default_dtype()).removeprefix("torch.")
        options: dict[str, Any] = dict(train=train, dtype=dtype, checkpoint=checkpoint, without=without)
        plan = self.plan(memory, size=size, batch=batch, **options)
        if plan.fits or force:
            return plan
        from composer.planning import refused
        from composer.remedies import Request, ways

        request = Request(self, plan.before.shapes, options)
        help = ways(request, lambda c: c.peak.bytes, lambda c: c.peak.bytes <= plan.budget)
        raise refused(plan, help, "or take the best plan: `build(force=True)`")

    def optimized(self, without: str | Sequence[str] = (), /, **shapes: tuple[int, ...]) -> Program:
        """The program that is built, after every pass but those named; `shapes` are checked."""
        from composer.passes import optimize

        program = self.check(**shapes)
        with faults.named(self.files):
            return optimize(program, self.registry.passes, _words(without))

    def _staged(self, without: Sequence[str]) -> tuple[Program, Preparing]:
        """The program whose modules are made, and what prepares it afterwards."""
        from composer.passes import staged

        program = self.check()
        with faults.named(self.files):
            return staged(program, self.registry.passes, without)

    def cost(
        self,
        *,
        train: bool = False,
        batch: int = 1,
        dtype: str = "float32",
        checkpoint: str | Sequence[str] = (),
        optimizer: str = "none",
        gradients: str = "new",
        flops: bool = True,
        without: str | Sequence[str] = (),
        **shapes: tuple[int, ...],
    ) -> Cost:
        """Parameters, FLOPs and memory of one pass, per node and in total, without allocating any of it.

        >>> load("unet", size=[512, 512, 256]).cost(train=True).peak.bytes

        Inputs are of the size that the network is built for, `batch` of them, unless a shape is given by name:
        `image=(8, 3, 224, 224)`. With `train` it is a step of training. The other options are those of
        `composer.cost.measure`: `dtype` float32, bfloat16 or float16; `optimizer` none, sgd, momentum, adam or adamw;
        `gradients` new, kept or none; `checkpoint` and `without` as in `build`.
        """
        program = self.optimized(without, **shapes)
        from composer.cost import measure

        return measure(
            program, fed(program, shapes, batch), training=train, dtype=dtype, checkpoint=_words(checkpoint),
            optimizer=optimizer, gradients=gradients, flops=flops,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """What a notebook shows: the figure, types, sizes and cost, or the mistakes."""
        from composer.notebook import cell

        return cell(self)

    def __reduce__(self) -> Any:
        """A pickle holds the data; blocks are looked up among the plugins installed where it is opened."""
        own = {f: getattr(self, f) for f in stage.Blueprint.__dataclass_fields__}
        return _restored, (own, None if self.registry is Registry.discover() else self.registry)


TRIED_PARTS = 5_000
"""A suggestion that makes a larger network than any of a paper is not worth the time of trying it."""


@dataclass(frozen=True)
class Asked:
    """What a blueprint was loaded from, so that it can be loaded again with a change in a text."""

    source: str | os.PathLike[str]
    overrides: Map
    registry: Registry
    text: str | None = None

    def load(self) -> stage.Blueprint:
        if self.text is None:
            return stage.load(self.source, self.overrides, self.registry.blueprints)
        return stage.parse(self.text, self.overrides, self.registry.blueprints, str(self.source))

    def again(self, place: Span, text: str) -> list[Diagnostic]:
        """What is wrong where the source of a place has this text."""
        try:
            with standing_in({place.source.name: text}), at_most(TRIED_PARTS):
                loaded = self._with(place, text).load()
                return attempted(loaded, self.registry)[1]
        except ComposerError as fault:
            return list(fault.diagnostics)

    def _with(self, place: Span, text: str) -> Asked:
        if self.text is not None and place.source.name == str(self.source):
            return replace(self, text=text)
        if place.source.name == "<name>":
            return replace(self, source=text)
        words = {span.source: key for key, span in self.overrides.key_spans.items()}
        return replace(self, overrides=_said_again(self.overrides, words.get(place.source), text))


def _said_again(given: Map, key: str | None, text: str) -> Map:
    """Overrides with another word in the place of that of a key. An argument of a call can only be named otherwise."""
    if key is None:
        return given
    if given.key_spans[key].source.name == "<command line>":
        other = stage.parse_overrides([text])
    else:
        other = stage.arguments({text.partition("=")[0]: given[key]})
    result = stage.without(given, key)
    result.update(other)
    result.key_spans.update(other.key_spans)
    result.value_spans.update(other.value_spans)
    return result


def attempted(blueprint: stage.Blueprint, registry: Registry) -> tuple[Program | None, list[Diagnostic]]:
    """The program of a blueprint, as far as there is one, and all its mistakes."""
    graph, mistakes = _linked(blueprint, registry)
    if any(m.code in _STOPS for m in mistakes):
        return None, mistakes
    program, more = infer_all(graph)
    if blueprint.tap and not (mistakes or more):
        from composer import taps

        more = taps.mistakes(program)
    if mistakes:
        more = [m for m in more if m not in mistakes and m.code != "BP104"]
    if blueprint.lock is not None and not mistakes and not more:
        from composer.locking import retyped

        more = retyped(blueprint.lock, program)
    return program, [*mistakes, *more]


def _linked(blueprint: stage.Blueprint, registry: Registry) -> tuple[Graph, list[Diagnostic]]:
    """The graph as far as it could be linked, and every mistake; a lock is compared with what is installed."""
    if blueprint.lock is not None:
        from composer.locking import linked

        return linked(blueprint, blueprint.lock, registry)
    return link_all(blueprint, registry)


def fed(program: Program, shapes: Mapping[str, Sequence[int]], batch: int = 1) -> dict[str, tuple[int, ...]]:
    """A shape for every input: those given, and for the others that must be there the size the network is built for."""
    env = dict(program.built)
    for spec in program.inputs:
        env |= dict(zip(spec.axes, shapes.get(spec.name, ())[2:], strict=False))
    batch = next((s[0] for s in shapes.values()), batch)
    return {i.name: shapes.get(i.name) or _shape(i, env, batch) for i in program.inputs if _is_fed(i, shapes)}  # type: ignore[misc]


def _is_fed(spec: ProgramInput, shapes: Mapping[str, Any]) -> bool:
    return not spec.optional or spec.name in shapes


def _shape(spec: ProgramInput, env: Mapping[str, int], batch: int) -> tuple[int, ...]:
    missing = [a for a in spec.axes if a not in env and not a.isdigit()]
    if missing:
        text = f"the input `{spec.name}` has no size: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} open"
        help = (f"give one: `{spec.name}=(…)`, in a command `--size {spec.name}=…`, or `size:` of the input",)
        raise BlueprintError(Diagnostic("BP402", text, spec.span, help=help))
    return (batch, spec.type.channels, *(int(a) if a.isdigit() else env[a] for a in spec.axes))


def _words(text: str | Sequence[str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection: the walk makes many small values and no cycles, and a third of its time would go there."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_STOPS = ("BP106",)


def _restored(fields: Mapping[str, Any], registry: Registry | None) -> Blueprint:
    return Blueprint(**fields, registry=registry or Registry.discover())


def _shape_mistakes(program: Program, shapes: Mapping[str, Iterable[int]]) -> list[Diagnostic]:
    """What is wrong with feeding inputs of these shapes, without feeding them."""
    mistakes: list[Diagnostic] = []
    env: dict[str, int] = {}
    for name, shape in shapes.items():
        spec = next((i for i in program.inputs if i.name == name), None)
        if spec is None:
            known = [i.name for i in program.inputs]
            text, first = f"the network has no input `{name}`{did_you_mean(name, known)}", program.inputs[0].span
            mistakes.append(Diagnostic("BP503", text, first, notes=(f"inputs: {listing(known)}",)))
            continue
        sizes_of = tuple(shape)
        wrong = _misfit(spec, sizes_of)
        mistakes += wrong
        for axis, size in zip(spec.axes, sizes_of[2:], strict=False) if not wrong else ():
            if env.setdefault(axis, size) != size:
                text = f"`{name}` has {axis} = {size}, another input has {axis} = {env[axis]}"
                mistakes.append(Diagnostic("BP501", text, spec.span))
    span = next((i.span for i in program.inputs if i.name in shapes), None)
    pads = {i.pad for i in program.inputs} - {"error"}
    if pads and not mistakes and sizes.nearest_valid(program.constraints, env, up="auto" in pads):
        return []
    return mistakes or list(sizes.violations(program.constraints, env, span))


def _misfit(spec: ProgramInput, shape: tuple[int, ...]) -> list[Diagnostic]:
    """A wrong number of axes or channels."""
    if len(shape) != len(spec.type.grid) + 2:
        text = f"`{spec.name}` of shape {shape} has {len(shape)} axes; the network takes {spec.type}"
        return [Diagnostic("BP502", text, spec.span)]
    if shape[1] != spec.type.channels:
        count = f"{shape[1]} channel{'s' * (shape[1] != 1)}"
        text = f"`{spec.name}` of shape {shape} has {count}; the network takes {spec.type}"
        return [Diagnostic("BP504", text, spec.span)]
    return []
