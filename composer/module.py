"""Stage 5: Program -> Network, an ordinary `nn.Module` (the first file that imports torch).

Modules stand under their node's address, so `state_dict` keys are addresses. The forward pass is a loop over a flat
list of steps that read and write numbered slots; a slot is emptied after its last reader. Measured against a
handwritten loop this costs about 0.1 µs a step, where a dictionary of names costs 1.3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch
from torch.utils.checkpoint import checkpoint, noop_context_fn

from composer.addresses import Pattern
from composer.attention import Taps, tapped, together
from composer.beginning import begin, begun
from composer.calls import NAMED, PLAIN, SINGLE, Call, Quick, called, callee, gathered, moved, run
from composer.diagnostics import BlueprintError, Diagnostic, PluginError, listing, nearest, raised_at
from composer.dims import Size
from composer.evaluating import Evaluated, Home, Trained, Watched, following, modules_in, recording
from composer.fitting import Fit, fit, grids_of
from composer.inference import Program, ProgramInput, ProgramOutput, Step, is_move
from composer.kernels import tensors_of
from composer.liveness import ids_of, needed
from composer.prepared import AnyStep, Prepared, Preparing, at_evaluation, at_training
from composer.pretrained import save
from composer.segments import Segment, owners, segments
from composer.sizes import Constraint, violations
from composer.sizing import Sizes
from composer.streaming import Streaming
from composer.sweeps import Streams
from composer.taps import KEY, attentions, chosen, fitting
from composer.waiting import Watch

if TYPE_CHECKING:
    from composer.blueprint import Blueprint
    from composer.plans import MemoryPlan


class InputError(BlueprintError, ValueError):
    """What was fed to a network does not fit it."""


def build(
    program: Program, device: Any = None, watch: Watch | None = None, prepare: Preparing | None = None
) -> Network:
    """The network of a program, initialized as its blueprint says. A `watch` hears of what its modules ask of torch;
    `prepare` are passes that are left for when evaluation, or training, first has use for them."""
    with torch.device(device) if device is not None else nullcontext():
        return begun(lambda: Network(program, prepare), program.graph.blueprint.init, watch)


def built(step: Step, sizes: Sizes) -> Any:
    """What the block of a step builds at these sizes. A fault of the block is said to be its own."""
    try:
        types = sizes.sized(step.types)
        made = step.block.build(**step.block.build_arguments(_Numbers(step.rank), types, step.layout))  # type: ignore[arg-type]
    except BlueprintError:
        raise
    except Exception as fault:
        text = f"`{step.block.name}` cannot be built at `{step.address}`: {type(fault).__name__}: {fault}"
        place = raised_at(fault, type(step.block).__module__)
        notes, help = (f"options: {step.block!r:.200}", f"at {place}"), ("tell the author of the block",)
        raise PluginError(Diagnostic("BP604", text, step.span, notes=notes, help=help)) from fault
    return made


class Network(nn.Module):
    """A compiled blueprint.

    Called with its inputs in order or by name, each (B, C, *grid). A blueprint with one output returns a tensor, one
    with several a dictionary of those it has in this mode (`when: training` outputs only while training). Optional
    inputs may be left out; what is made of them is then left out too.
    """

    blueprint: Blueprint
    memory_plan: MemoryPlan | None = None

    def __init__(self, program: Program, prepare: Preparing | None = None):
        super().__init__()
        self.blueprint = program.graph.blueprint
        self.inputs: tuple[ProgramInput, ...] = program.inputs
        self.outputs: tuple[ProgramOutput, ...] = program.outputs
        self.constraints: tuple[Constraint, ...] = program.constraints
        self._accepted: set[tuple[Any, ...]] = set()
        self._pads = any(i.pad != "error" for i in program.inputs)
        self._fits: dict[tuple[Any, ...], Fit | None] = {}
        self._optional = [k for k, i in enumerate(program.inputs) if i.optional]
        parts: dict[str, Home] = {}
        self._plans: dict[tuple[bool, ...], _Plan] = {}
        self._later: _Later | None = _Later(program, prepare)
        for given, each in {frozenset[str](): program, **program.alternatives}.items():
            parts = {address: home for address, home in parts.items() if not is_move(address)}
            sizes = Sizes(each.built)
            for step in each.steps:
                if step.module not in parts:
                    parts[step.module] = self._built(step, sizes)
            present = [program.inputs[k].name in given for k in self._optional]
            self._plans[False, *present], self._plans[True, *present] = _plans_of(each, parts)
            self._later.stand(given, tuple(present), parts)
        ran = {a for plan in self._plans.values() for a in plan.addresses}
        self._attentions = [n for n in attentions(program) if n.leaf in ran]
        self._taps: tuple[Taps, ...] = ()
        self._tapped: tuple[dict[tuple[bool, ...], _Plan], dict[tuple[bool, ...], _Plan]] | None = None
        for plan in (*self._plans.values(), *self._prepared.values()) if self.blueprint.tap else ():
            plan.__dict__ |= tapped(plan, dict.fromkeys(fitting(self._attentions, self.blueprint.tap))).__dict__
            plan.shown = plan.taps

    @cached_property
    def _prepared(self) -> dict[tuple[bool, ...], _Plan]:
        """What runs at evaluation while no gradients are recorded, where passes prepared anything."""
        return self._later.evaluated() if self._later else {}

    @cached_property
    def _trained(self) -> dict[tuple[bool, ...], _Plan]:
        """What runs in training, where passes prepared anything."""
        return self._later.trained() if self._later else {}

    def initialize(self) -> Self:
        """First values for every tensor, as `build` gives them: for a network that was built on `meta` and given memory
        by `to_empty(device=…)`. Returns the network."""
        begin(self, self._anew, self.blueprint.init)
        return self

    def _anew(self) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
        """What each step owns, made once more where the network is."""
        program: Program = self.blueprint.optimized()  # type: ignore[attr-defined]
        home = next((t.device for t in (*self.parameters(), *self.buffers())), torch.get_default_device())
        done: set[str] = set()
        for each in (program, *program.alternatives.values()):
            sizes = Sizes(each.built)
            for step in each.steps:
                if step.module not in done:
                    done.add(step.module)
                    with home:
                        made = built(step, sizes)
                    if isinstance(made, (nn.Module, nn.Parameter)):
                        yield step.module, made

    def _built(self, step: Step, sizes: Sizes) -> Home:
        """The module of a step, registered under its address."""
        made = built(step, sizes)
        if isinstance(made, nn.Module):
            return self._place(step.module, made)
        if isinstance(made, nn.Parameter):
            owner = self._container(step.module.rpartition(".")[0])
            name = step.module.rpartition(".")[2]
            if name in owner._modules or _taken(owner, name):
                raise _no_name(name, step.module)
            owner.register_parameter(name, made)
            return {"": _Held(owner, name)}, ""
        return {"": made}, ""

    def _container(self, address: str) -> nn.Module:
        module: nn.Module = self
        for word in address.split(".") if address else ():
            inner = module._modules.get(word)
            if inner is None:
                inner = nn.Module()
                _register(module, word, inner, address)
            module = inner
        return module

    def _place(self, address: str, module: nn.Module) -> Home:
        """Put a module at an address; what already stands below it moves into it."""
        parent, _, name = address.rpartition(".")
        owner = self._container(parent)
        before = owner._modules.get(name)
        for child, part in before.named_children() if before is not None else ():
            module.add_module(child, part)
        _register(owner, name, module, address)
        return owner._modules, name

    def forward(self, *values: Tensor, **named: Tensor) -> Any:
        given = self._ordered(values, named) if named or len(values) != len(self.inputs) else values
        plan = self._plan(given)
        fitted = self._fit(given, plan.constraints) if self._pads else None
        if fitted:
            given = tuple(g if g is None else fitted.input(g, i) for g, i in zip(given, self.inputs, strict=True))
        if not torch.compiler.is_compiling():
            self._check(given, plan.constraints)
        slots = plan.run(given)
        for taps in self._taps:
            taps.take(slots, plan, self._sizes(given))
        if fitted and not fitted.cut:
            for slot, grid in plan.grids.items():
                slots[slot] = fitted.output(slots[slot], grid)
        return plan.delivered(slots)

    def _plan(self, given: Sequence[Tensor | None]) -> _Plan:
        """The steps for these inputs: prepared ones, where nobody follows what happens."""
        present = tuple([given[k] is not None for k in self._optional])
        plain = (self._tapped or (self._plans,))[0][self.training, *present]
        if following() or plain.segments if self.training else recording():
            return plain
        if self._tapped:
            return plain if self.training else self._tapped[1].get(present, plain)
        return (self._trained if self.training else self._prepared).get(present, plain)

    def tap(self, *patterns: str, queries: Sequence[int] | Mapping[str, Sequence[int]] | None = None) -> Taps:
        """Look into attention: from now on the nodes that patterns name (`encoder.*.attention`) also give their
        weights, computed by the explicit formula; all others keep their kernels. A handle, and a context:

        >>> with network.tap("blocks.*.attention") as taps: network(x)
        >>> taps["blocks.0.attention"].weights

        Outputs and gradients stay equal up to rounding. Of some `queries` alone, by their numbers in all nodes or in
        each, weights take little memory and no node leaves its kernel; but what passes joined around one comes apart. A
        pattern that names no attention is a `BlueprintError` (BP112).
        """
        known = [a for plan in self._plans.values() for leaf in plan.addresses for a in owners(leaf)]
        nodes = chosen(self._attentions, dict.fromkeys(patterns), dict.fromkeys(known))
        made = Taps(nodes, self._untap, queries)
        self._taps += (made,)
        self._retap()
        return made

    def save_pretrained(self, folder: str | os.PathLike[str], labels: Sequence[str] = ()) -> None:
        """Write the network as a folder with its blueprint, weights and a model card, whole or not at all;
        `composer.from_pretrained` opens it. `labels` name the classes, from background on."""
        save(self, folder, labels)

    def _untap(self, taps: Taps) -> None:
        self._taps = tuple(t for t in self._taps if t is not taps)
        self._retap()

    def _retap(self) -> None:
        """Plans for all that is tapped now; none where nothing is."""
        nodes = together(a for taps in self._taps for a in taps.asks)
        both = ({k: tapped(p, nodes) for k, p in plans.items()} for plans in (self._plans, self._prepared))
        self._tapped = tuple(both) if nodes else None  # type: ignore[assignment]

    def _sizes(self, given: Sequence[Tensor | None]) -> dict[str, int]:
        """The size of every axis of these inputs."""
        pairs = [(i.axes, g.shape[2:]) for i, g in zip(self.inputs, given, strict=True) if g is not None]
        return {axis: size for axes, shape in pairs for axis, size in zip(axes, shape, strict=False)}

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle is not tapped, and has its plans."""
        ready = {"_prepared": self._prepared, "_trained": self._trained, "_later": None}
        return {**self.__dict__, **ready, "_taps": (), "_tapped": None}

    def prepare(self) -> list[Tensor]:
        """Derive now what evaluation keeps beside the weights, such as folded ones, and give these tensors. Without it
        the first call does so."""
        for step in self._evaluated():
            step.refresh()
        return [t for step in self._evaluated() if step.kept for t in tensors_of(step.kept[2])]

    def _evaluated(self) -> Iterator[Evaluated]:
        for plan in self._prepared.values():
            yield from (each for each in map(callee, plan.calls) if isinstance(each, Evaluated))

    def _forget(self) -> None:
        for step in self._evaluated() if "_prepared" in self.__dict__ else ():
            step.forget()

    def train(self, mode: bool = True) -> Self:
        """As every module's; what evaluation derived is dropped."""
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        self._forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """As every module's; what evaluation derived is dropped."""
        self._forget()
        return super().load_state_dict(*args, **options)

    def _fit(self, given: Sequence[Tensor | None], constraints: Sequence[Constraint]) -> Fit | None:
        """How inputs of these shapes are padded or cropped, looked up once for each shape; the batch, which is open
        when the network is exported, has no part in it."""
        shapes = tuple(None if g is None else tuple(g.shape[1:]) for g in given)
        if shapes not in self._fits:
            if len(self._fits) > 256:
                self._fits.clear()
            fed: dict[str, int] = {}
            for value, spec in zip(given, self.inputs, strict=True):
                if value is not None:
                    _agree(fed, _axes_of(value, spec), spec)
            self._fits[shapes] = fit(self.inputs, constraints, fed)
        return self._fits[shapes]

    def checkpoint(self, *patterns: str) -> Network:
        """Save memory in training: what lies between the ends of a node whose address fits a pattern (`encoder.*`)
        is not kept for the backward pass but computed again in it. Outputs and gradients stay equal up to rounding,
        as steps run as they are written, without what passes prepare for training; buffers too (a batch norm counts
        once). Patterns replace those given before, none switches it off; returns the network.
        """
        known = {a: None for plan in self._plans.values() for address in plan.addresses for a in owners(address)}
        for text in patterns:
            if not any(Pattern(text).matches(a) for a in known):
                close = nearest(text, dict.fromkeys(re.sub(r"\.\d+", ".*", a) for a in known), 3)
                help = (f"did you mean {listing(f'`{c}`' for c in close)}?",) if close else ()
                raise BlueprintError(Diagnostic("BP106", f"nothing to checkpoint has the address `{text}`", help=help))
        for plan in self._plans.values():
            plan.segments = segments(plan.addresses, plan.calls, plan.wanted, [Pattern(p) for p in patterns])
        self._retap()
        return self

    def stream(self, streams: Streams | None) -> Network:
        """Save memory at evaluation where no gradients are recorded: large maps are computed strip by strip, and some
        of them never as a whole (`composer.sweeps`). Outputs stay equal; None switches it off; returns the network.
        """
        for plan in (*self._plans.values(), *self._prepared.values()):
            plan.stream = None
        if streams is not None:
            plan = self.at_evaluation(streams.given)
            if len(streams.nodes) != len(plan.calls):
                text = f"these strips are for {len(streams.nodes)} steps, this network has {len(plan.calls)}"
                help = ("build it without the same passes: `build(without=plan.without)`, or by `build(memory=…)`",)
                raise BlueprintError(Diagnostic("BP706", text, help=help))
            plan.stream = Streaming(streams, plan.calls)
        return self

    def planned(self, plan: MemoryPlan) -> Network:
        """Run by a plan that fits an amount of memory."""
        self.memory_plan = plan
        return self.checkpoint(*plan.after.checkpoint) if plan.before.training else self.stream(plan.streams)

    def at_evaluation(self, given: Collection[str] = ()) -> _Plan:
        """The steps that run at evaluation where these optional inputs are given and no gradients are recorded."""
        present = tuple(self.inputs[k].name in given for k in self._optional)
        return self._prepared.get(present) or self._plans[False, *present]

    def _ordered(self, values: Sequence[Tensor], named: Mapping[str, Tensor]) -> tuple[Tensor | None, ...]:
        names = [i.name for i in self.inputs]
        unknown = [n for n in named if n not in names]
        if unknown or len(values) > len(names):
            said = f"`{unknown[0]}`" if unknown else f"{len(values)} inputs"
            raise InputError(Diagnostic("BP503", f"this network has no input {said}; it takes {', '.join(names)}"))
        given = {**dict(zip(names, values, strict=False)), **named}
        missing = [i.name for i in self.inputs if i.name not in given and not i.optional]
        if missing:
            raise InputError(Diagnostic("BP503", f"the input `{missing[0]}` is missing; it takes {', '.join(names)}"))
        return tuple(given.get(n) for n in names)

    def _check(self, given: Sequence[Tensor | None], constraints: Sequence[Constraint]) -> None:
        """Shapes against the constraints, once for each shape."""
        shapes = tuple([None if g is None else tuple(g.shape) for g in given])
        if shapes in self._accepted:
            return
        env: dict[str, int] = {}
        for value, spec in zip(given, self.inputs, strict=True):
            if value is not None:
                _agree(env, _axes_of(value, spec), spec)
        mistakes = list(violations(constraints, env, None))
        if mistakes:
            raise InputError(mistakes)
        if len(self._accepted) > 256:
            self._accepted.clear()
        self._accepted.add(shapes)

    def extra_repr(self) -> str:
        return f"blueprint={self.blueprint.name!r}"


def watch(network: Network, watcher: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `watcher(address, callable)` in the place of what every step calls, for good; its `__wrapped__` is that."""
    for plan in (*network._plans.values(), *network._prepared.values(), *network._trained.values()):
        for k, quick in enumerate(plan.calls):
            plan.calls[k] = moved(quick, watcher(plan.addresses[k], called(quick)))


def callables(network: Network) -> dict[str, Callable[..., Any]]:
    """What every step calls, by its address."""
    plans = network._plans.values()
    return {a: called(quick) for p in plans for a, quick in zip(p.addresses, p.calls, strict=True)}


def regroup(network: Network, change: Callable[[_Plan], None]) -> None:
    """Change the plans for good. From then on evaluation runs what training does: nothing is prepared for it."""
    network._prepared, network._trained, network._later = {}, {}, None
    for plan in network._plans.values():
        change(plan)


def uses(network: Network) -> Iterator[tuple[str, Any, list[nn.Parameter]]]:
    """The address of every step, in training and at evaluation, what it calls, and the parameters of that."""
    for plan in network._plans.values():
        for address, quick in zip(plan.addresses, plan.calls, strict=True):
            call = called(quick)
            if isinstance(call, nn.Module):
                yield address, call, list(call.parameters())
            elif isinstance(call, _Held):
                yield address, call, [call.owner._parameters[call.name]]  # type: ignore[list-item]


def values(network: Network, given: Sequence[Tensor | None]) -> dict[int, Any]:
    """Every value that a pass over these inputs computes, by its number in the program: to hold types against reality.

    Shapes are not checked and inputs not padded, so that also what the rules refuse can be tried.
    """
    plan = network._plans[network.training, *[given[k] is not None for k in network._optional]]
    kept = _Kept()
    kept.update(zip(plan.inputs, given, strict=True))
    run(plan.calls, kept)
    return kept


class _Kept(dict[int, Any]):
    """Slots that stay filled when nobody reads them any more."""

    def __missing__(self, slot: int) -> None:
        """A value that is only a type."""

    def __setitem__(self, slot: int, value: Any) -> None:
        if value is not None:
            super().__setitem__(slot, value)


def _register(owner: nn.Module, name: str, module: nn.Module, address: str) -> None:
    """As `add_module`, which asks for an attribute that there is not in three times the time."""
    if name not in owner._modules and _taken(owner, name):
        raise _no_name(name, address)
    if modules_of_torch._global_module_registration_hooks:
        owner.add_module(name, module)
    else:
        owner._modules[name] = module


def _taken(owner: nn.Module, name: str) -> bool:
    """Whether a module has an attribute, other than a module of its own."""
    return name in owner.__dict__ or name in owner._parameters or name in owner._buffers or hasattr(type(owner), name)


def _no_name(name: str, address: str) -> BlueprintError:
    """An address becomes an attribute, so it cannot be one that every module has."""
    text = f"`{address}` cannot stand in a network: every torch module has an attribute `{name}`"
    return BlueprintError(Diagnostic("BP107", text, help=("give the node another name",)))


class _Plan:
    """The steps that some outputs need, as calls on numbered slots."""

    def __init__(
        self,
        program: Program,
        steps: Sequence[AnyStep],
        built: Mapping[str, Home],
        outputs: Sequence[ProgramOutput],
        watched: Mapping[str, Sequence[Watched]] = MappingProxyType({}),
    ):
        self.wanted = wanted = [i for o in outputs for i in ids_of(o.ids)]
        self.constraints = program.constraints
        self.inputs = [i.id for i in program.inputs]
        self.size = len(program.values)
        self.calls = _calls(steps, built, wanted, watched)
        self.addresses = [s.address for s in steps]
        self.segments: list[Segment] = []
        self.taps: dict[str, int] = {}
        self.shown: dict[str, int] = {}
        self.rows: dict[str, tuple[int, ...] | None] = {}
        self.stream: Streaming | None = None
        self.outputs = [(o.name, o.ids) for o in outputs]
        self.grids = grids_of(program.values, wanted)
        self.single = len(program.outputs) == 1

    def twin(self) -> _Plan:
        """The same plan for another mode; what is set in one is not set in the other."""
        other = copy(self)
        other.calls, other.segments = [*self.calls], []
        return other

    def run(self, given: Sequence[Tensor | None]) -> list[Any]:
        slots: list[Any] = [None] * self.size
        for slot, value in zip(self.inputs, given, strict=True):
            slots[slot] = value
        if self.stream is not None and not recording() and self.stream.fits(self.calls):
            self.stream.run(self.calls, slots)
        else:
            perform(self.calls, self.segments, slots)
        return slots

    def delivered(self, slots: list[Any]) -> Any:
        if self.single and not self.shown:
            return gathered(self.outputs[0][1], slots) if self.outputs else None
        made = {name: gathered(ids, slots) for name, ids in self.outputs}
        return {**made, KEY: {a: slots[k] for a, k in self.shown.items()}} if self.shown else made


class _Later:
    """What is prepared when it is asked for: the passes that do so, and the modules as they were built, which a user
    may have replaced until then."""

    def __init__(self, program: Program, prepare: Preparing | None):
        self.unprepared, self.prepare = program, prepare
        self.standing: list[tuple[frozenset[str], tuple[bool, ...], dict[str, Home], dict[str, list[Watched]]]] = []

    def stand(self, given: frozenset[str], present: tuple[bool, ...], parts: dict[str, Home]) -> None:
        """Hear of the modules that run where these optional inputs are given."""
        self.standing.append((given, present, parts, {a: modules_in([home]) for a, home in parts.items()}))

    @cached_property
    def program(self) -> Program:
        return self.prepare(self.unprepared) if self.prepare else self.unprepared

    def evaluated(self) -> dict[tuple[bool, ...], _Plan]:
        return self._made(at_evaluation, training=False)

    def trained(self) -> dict[tuple[bool, ...], _Plan]:
        return self._made(at_training, training=True)

    def _made(self, steps_of: Callable[[Program], Sequence[AnyStep]], training: bool) -> dict[tuple[bool, ...], _Plan]:
        """Plans by the optional inputs that are given, where there is a prepared step in them."""
        made = {}
        for given, present, parts, watched in self.standing:
            each = self.program.alternatives[given] if given else self.program
            steps = steps_of(each)
            if any(isinstance(s, Prepared) for s in steps):
                outputs = [o for o in each.outputs if training or not o.training]
                made[present] = _Plan(each, steps, parts, outputs, watched)
        return made


def _plans_of(program: Program, parts: Mapping[str, Home]) -> tuple[_Plan, _Plan]:
    """At evaluation and in training."""
    outputs = [o for o in program.outputs if not o.training]
    plan = _Plan(program, _live(program, outputs), parts, outputs)
    if len(outputs) == len(program.outputs):
        return plan, plan.twin()
    return plan, _Plan(program, _live(program, program.outputs), parts, program.outputs)


def _live(program: Program, outputs: Iterable[ProgramOutput]) -> list[Step]:
    """The steps that some outputs need."""
    live = needed(program.steps, (i for o in outputs for i in ids_of(o.ids)))
    return [s for s in program.steps if live & set(s.outputs) and not s.unused]


def _calls(
    steps: Sequence[AnyStep],
    built: Mapping[str, Home],
    wanted: Iterable[int],
    watched: Mapping[str, Sequence[Watched]],
) -> list[Quick]:
    lasts = zip(steps, _last_reads(steps, wanted), strict=True)
    return [_call(s, _prepared(s, built, watched) if isinstance(s, Prepared) else built[s.module], d) for s, d in lasts]


def _call(step: AnyStep, home: Home, dead: tuple[int, ...]) -> Quick:
    """A step on the slots of its plan."""
    if isinstance(step, Prepared):
        kind, place = _kind(step.reads, step.outputs), f"`{step.address}`"
        return Call(*home, kind, step.reads, (), _one(step.outputs), dead, place).quick()
    kind, reads, named = _arguments(step)
    return Call(*home, kind, reads, named, _targets(step), dead, _place(step)).quick()


def _one(outputs: tuple[int, ...]) -> Any:
    """Where the value of a prepared step goes, or its values in order."""
    return outputs[0] if len(outputs) == 1 else tuple(enumerate(outputs))


def _prepared(step: Prepared, built: Mapping[str, Home], watched: Mapping[str, Sequence[Watched]]) -> Home:
    """The callable of a prepared step."""
    parts, guards = ([w for s in steps for w in watched[s.module]] for steps in (step.parts, step.guards))
    calls = _calls(step.parts, built, step.outputs, watched)
    plain = _Parts([s.address for s in step.parts], calls, step.reads, step.outputs)
    homes = [built[s.module] for s in step.parts]
    return {"": (Trained if step.trains else Evaluated)(step, homes, parts, guards, plain)}, ""


class _Parts:
    """Steps as one callable, on the values they need from outside; with what they give `also`, by slots."""

    def __init__(self, addresses: Sequence[str], calls: Sequence[Quick], reads: Sequence[int], targets: Sequence[int]):
        self.addresses, self.calls, self.reads, self.targets = addresses, calls, reads, targets
        self.also: tuple[int, ...] = ()

    def __call__(self, *values: Any) -> Any:
        slots = dict(zip(self.reads, values, strict=True))
        run(self.calls, slots)
        if self.also:
            return {k: slots[k] for k in (*self.targets, *self.also)}
        made = [slots[k] for k in self.targets]
        return made[0] if len(made) == 1 else made


def perform(calls: Sequence[Quick], segments: Sequence[Segment], slots: Any) -> None:
    """Run calls on slots; while gradients are recorded, segment by segment."""
    if not segments or not torch.is_grad_enabled():
        run(calls, slots)
        return
    for segment in segments:
        if segment.again:
            _checkpointed(calls[segment.start : segment.stop], segment, slots)
        else:
            run(calls[segment.start : segment.stop], slots)


def _checkpointed(calls: Sequence[Quick], segment: Segment, slots: list[Any]) -> None:
    """Run steps so that nothing inside them is kept: the backward pass runs them again."""

    def inside(*values: Any) -> tuple[Any, ...]:
        own = dict(zip(segment.reads, values, strict=True))
        run(calls, own)
        return tuple(own[k] for k in segment.writes)

    states = [b for quick in calls for b in _states(called(quick))]
    given = [slots[k] for k in segment.reads]
    for slot in segment.dead:
        slots[slot] = None
    contexts = partial(_rewinding, states) if states else noop_context_fn
    made = checkpoint(inside, *given, use_reentrant=False, context_fn=contexts)
    for slot, value in zip(segment.writes, made, strict=True):
        slots[slot] = value


def _states(module: Any) -> list[Tensor]:
    """Buffers that a module carries from one call to the next: those in its `state_dict`."""
    module = getattr(module, "__wrapped__", module)
    inside = module.modules() if isinstance(module, nn.Module) else ()  # `state_dict` would make FSDP give up weights
    return [
        b for m in inside for n, b in m._buffers.items() if b is not None and n not in m._non_persistent_buffers_set
    ]


def _rewinding(states: Sequence[Tensor]) -> tuple[nullcontext[None], _Rewound]:
    """What surrounds a segment at its first run, and when it runs again."""
    return nullcontext(), _Rewound(states)


class _Rewound:
    """While a segment runs again, buffers are what they were at its first run, and then what they had become."""

    def __init__(self, states: Sequence[Tensor]):
        self.states = states
        self.first = [s.clone() for s in states]

    def __enter__(self) -> None:
        self.last = [s.clone() for s in self.states]
        _fill(self.states, self.first)

    def __exit__(self, *exc: object) -> None:
        _fill(self.states, self.last)


@torch.no_grad()
def _fill(states: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for state, value in zip(states, values, strict=True):
        state.copy_(value)


def _arguments(step: Step) -> tuple[int, tuple[Any, ...], tuple[tuple[str, Any], ...]]:
    """Required ports go by position, optional ones by name; before them, how the step is called."""
    if len(step.inputs) == 1 and type(value := step.inputs[0][1]) is int and step.inputs[0][0] in step.block.required:
        return _kind((value,), step.outputs if step.keys is None else ()), (value,), ()
    given = dict(step.inputs)
    required = [p for p in step.block.required if p in given]
    rest = [p for p in given if p not in required]
    reads = tuple(given[p] for p in required)
    named = tuple((p, given[p]) for p in rest)
    plain = not named and all(isinstance(r, int) for r in reads)
    return _kind(reads, step.outputs if step.keys is None else ()) if plain else NAMED, reads, named


def _kind(reads: Sequence[int], outputs: Sequence[int]) -> int:
    """How a step is called that takes single values by position."""
    return SINGLE if len(reads) == len(outputs) == 1 else PLAIN


def _targets(step: Step) -> Any:
    if step.keys is None:
        return step.outputs[0]
    return tuple(zip(step.keys, step.outputs, strict=True))


def _place(step: Step) -> str:
    return f"`{step.address}`" + (f" ({step.span})" if step.span else "")


def _last_reads(steps: Sequence[AnyStep], outputs: Iterable[int]) -> list[tuple[int, ...]]:
    """For each step, the slots that nobody reads after it."""
    alive, result = set(outputs), []
    for step in reversed(steps):
        touched = set(step.reads) | set(step.outputs)
        result.append(tuple(sorted(touched - alive)))
        alive |= touched
    return result[::-1]


def _axes_of(value: Tensor, spec: ProgramInput) -> dict[str, int]:
    """The size of every axis of an input, or what is wrong with its shape."""
    shape, wanted = tuple(value.shape), spec.type
    rank = len(wanted.grid) + 2
    if len(shape) != rank:
        text = f"`{spec.name}` has shape {shape}: {len(shape)} axes, this network takes {rank}: {wanted}"
        raise InputError(Diagnostic("BP502", text, help=("the first two axes are batch and channels",)))
    if shape[1] != wanted.channels:
        text = f"`{spec.name}` has shape {shape}: {shape[1]} channels, this network takes {wanted.channels}: {wanted}"
        raise InputError(Diagnostic("BP504", text))
    fixed = [(n, s) for n, s in zip(wanted.grid, shape[2:], strict=True) if isinstance(n, int) and n != s]
    if fixed:
        raise InputError(Diagnostic("BP501", f"`{spec.name}` has shape {shape}, this network takes exactly {wanted}"))
    return dict(zip(spec.axes, shape[2:], strict=False))


def _agree(known: dict[str, int], axes: Mapping[str, int], spec: ProgramInput) -> None:
    """Inputs that name the same axis must have the same size there."""
    for axis, size in axes.items():
        if known.setdefault(axis, size) != size:
            text = f"`{spec.name}` has {axis} = {size}, another input has {axis} = {known[axis]}; they must be equal"
            raise InputError(Diagnostic("BP501", text))


class _Held:
    """A parameter that stands by itself, read anew at each call so that loading and moving reach it."""

    def __init__(self, owner: nn.Module, name: str):
        self.owner, self.name = owner, name

    def __call__(self) -> Tensor:
        value: Tensor = getattr(self.owner, self.name)
        return value


class _Numbers:
    """The rule that binds a notation when every size is known already."""

    def __init__(self, rank: int):
        self.rank = rank

    def need(self, ok: bool, message: str, code: str = "") -> bool:
        return ok

    def equal(self, left: Size, right: Size, message: str, code: str = "") -> bool:
        return True
