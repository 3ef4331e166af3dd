"""Stage 3: Graph -> Program: every value gets a type, every axis its constraints, compounds become leaves.

The linked tree is walked once, in order of computation. A compound block composes itself here, because what it is made
of may depend on types (a residual block has a shortcut only where its body changes the type). What comes out is flat: a
list of `Step`s, each a leaf with its values; the compiler has put every value into the memory layout its reader wants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property, lru_cache, partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from composer.addresses import is_prefix
from composer.block import Block
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, Label, Span, listing, once, raised_at
from composer.dims import Dim, Size, at, product, symbols_of
from composer.frozen import dataclass, replace
from composer.graph import Body, Broken, Call, Given, Graph, GraphInput, Group, Input, Ref, Through
from composer.layouts import Flatten, Held, Part, ToFirst, ToLast, Unflatten
from composer.liveness import ids_of, needed
from composer.origins import with_origins
from composer.sizes import Constraint, violations
from composer.traits import Traits
from composer.types import AXES, UNKNOWN, Layout, Type, map_, vector

if TYPE_CHECKING:
    from composer.prepared import AnyStep


@dataclass(frozen=True)
class Value:
    """A value of the program: its number, its type, and the layout it is held in. `via` is how it came about."""

    id: int
    type: Type
    layout: Layout
    via: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A leaf at work. `inputs` and `outputs` are numbers of values; `keys` name several outputs."""

    address: str
    block: Block
    inputs: tuple[tuple[str, Any], ...]
    outputs: tuple[int, ...]
    types: Mapping[str, Any]
    module: str
    span: Span | None = None
    keys: tuple[Any, ...] | None = None
    unused: bool = False
    rank: int = 2
    layout: Layout = "flat"

    @cached_property
    def traits(self) -> Traits:
        """What the block promises, asked once: every pass wants to know."""
        return self.block.traits()

    @cached_property
    def reads(self) -> tuple[int, ...]:
        flat: list[int] = []
        for _, value in self.inputs:
            flat += value if isinstance(value, tuple) else [value] if value is not None else []
        return tuple(flat)


@dataclass(frozen=True)
class ProgramInput:
    """An input with its type, the number of its value, and the names of its axes."""

    name: str
    id: int
    type: Type
    optional: bool
    axes: tuple[str, ...]
    span: Span | None
    pad: str = "error"
    fill: str = "zero"


@dataclass(frozen=True)
class ProgramOutput:
    """An output: the numbers of its values, in dicts and lists as they are delivered."""

    name: str
    ids: Any
    training: bool


@dataclass(frozen=True)
class Program:
    """A typed, flat network: what passes rewrite and what is built."""

    graph: Graph
    inputs: tuple[ProgramInput, ...]
    steps: tuple[Step, ...]
    outputs: tuple[ProgramOutput, ...]
    values: tuple[Value, ...]
    constraints: tuple[Constraint, ...]
    built: Mapping[str, int]
    types: Mapping[str, Any] = field(default_factory=dict, repr=False)
    alternatives: Mapping[frozenset[str], Program] = field(default_factory=dict, repr=False)
    """The same network where optional inputs are given, by the names of these; above, none of them is."""
    evaluation: tuple[AnyStep, ...] | None = field(default=None, repr=False)
    """What runs at evaluation where no gradients are recorded, if passes made it differ from `steps`."""
    training: tuple[AnyStep, ...] | None = field(default=None, repr=False)
    """What runs in training, if passes prepared something for it."""


@dataclasses.dataclass(eq=False, repr=False, match_args=False)
class _Asked:
    """A constraint, and the steps of the part that asked for it: from `first` up to `end`, none if they are equal."""

    constraint: Constraint
    first: int
    end: int


MOST_OPTIONAL = 4
"""Each choice of optional inputs is a program of its own, so there cannot be many."""

MOST_ADDED = 2_000
"""Parts that one block may be made of; `layers: 1000000000` is a mistake."""

TRIED = 8
"""Fixes are tried for the first mistakes, and of each for the first types in sight, so that a check stays instant."""


def infer(graph: Graph) -> Program:
    """Types for a linked graph. Raises `BlueprintError` with all mistakes, fixes tried."""
    program, mistakes = infer_all(graph)
    if mistakes:
        raise BlueprintError(mistakes)
    return program


def infer_all(graph: Graph, types: Mapping[str, Type] | None = None) -> tuple[Program, list[Diagnostic]]:
    """The program as far as it could be typed, and every mistake on the way. `types` are those of inputs that no words
    can say, such as tokens: with them a part is typed by itself."""
    run = _Inference(graph, types=types)
    program = run.whole()
    mistakes = once(run.mistakes)
    mistakes = [run.with_fixes(m) for m in mistakes[:TRIED]] + mistakes[TRIED:]
    mistakes = with_origins(mistakes, graph)
    if not mistakes:
        mistakes = list(violations(program.constraints, program.built, _size_span(graph)))
    return (program, mistakes) if mistakes else _with_alternatives(program)


def _with_alternatives(program: Program) -> tuple[Program, list[Diagnostic]]:
    """The program with those for every choice of optional inputs, and the mistakes in these."""
    optional = [i for i in program.graph.inputs if i.optional]
    if len(optional) > MOST_OPTIONAL:
        text = f"{len(optional)} inputs are optional; there can be {MOST_OPTIONAL}"
        return program, [Diagnostic("BP201", text, optional[MOST_OPTIONAL].span)]
    found: dict[frozenset[str], Program] = {}
    mistakes: list[Diagnostic] = []
    for given in (frozenset(c) for n in range(len(optional)) for c in combinations((i.name for i in optional), n + 1)):
        run = _Inference(program.graph, given=given)
        found[given] = run.whole()
        said = list(violations(found[given].constraints, found[given].built, _size_span(program.graph)))
        mistakes += [run.with_fixes(m) for m in once(run.mistakes)] or said
    return replace(program, alternatives=found), once(mistakes)


def _size_span(graph: Graph) -> Span | None:
    """Where the size a network is built for was written."""
    params = graph.blueprint.params
    if "size" in params:
        return params["size"].value_span or params["size"].span
    return next((i.span for i in graph.inputs if i.size), None)


class _Inference:
    """One walk over a linked graph. `swap` replaces one input of one call, to try a fix."""

    def __init__(
        self,
        graph: Graph,
        swap: tuple[str, str, Ref] | None = None,
        given: frozenset[str] = frozenset(),
        types: Mapping[str, Type] | None = None,
    ):
        self.graph, self.swap, self.given, self.typed = graph, swap, given, types or {}
        self.mistakes: list[Diagnostic] = []
        self.blame: dict[int, tuple[Call, str]] = {}
        self.steps: list[Step] = []
        self.values: list[Value] = []
        self.named: dict[str, Any] = {}
        self.calls: dict[str, Call] = {}
        self.asked: list[_Asked] = []
        self.built: dict[str, int] = {}
        self.moved: dict[tuple[int, str], Value] = {}
        self.parted: dict[int, list[Value]] = {}
        self.owners: dict[str, tuple[Block, Any]] = {}
        self.frames: list[tuple[str, dict[tuple[str, str], Value]]] = []
        self.unused = 0
        self.rank = 2
        self.grids: dict[str, tuple[tuple[Size, ...], tuple[str, ...]]] = {}
        self.started: dict[str, int] = {}  # address of a call -> how many values there were before it
        self.shapes: set[int] = set()  # numbers of values that are only types
        self.absent: set[str] = set()  # addresses without a value, because an optional input is not given

    def whole(self) -> Program:
        inputs = tuple(self.input(i) for i in self.graph.inputs)
        for body in self.graph.members:
            self.run(body)
        outputs = []
        for output in self.graph.outputs:
            try:
                value = self.lookup(output.value)
            except BlueprintError as fault:
                self.mistakes += fault.diagnostics
                continue
            outputs.append(ProgramOutput(output.name, self.delivered(value), output.training))
        return Program(
            self.graph, inputs, tuple(self.steps), tuple(outputs), tuple(self.values),
            self.constraints(outputs), self.built, self.types(),
        )  # fmt: skip

    def constraints(self, outputs: Iterable[ProgramOutput]) -> tuple[Constraint, ...]:
        """What was asked of the input's size by what runs; what was asked twice stands where it was asked first."""
        live = needed(self.steps, (i for o in outputs for i in ids_of(o.ids)))
        runs = [not s.unused and bool(live & set(s.outputs)) for s in self.steps]
        kept: dict[Any, Constraint] = {}
        for asked in self.asked:
            if asked.first == asked.end or any(runs[asked.first : asked.end]):
                c = asked.constraint
                kept.setdefault((c.kind, c.size, c.number), c)
        return tuple(kept.values())

    def types(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            if isinstance(value, Value):
                return value.type
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            return [plain(v) for v in value] if isinstance(value, (list, tuple)) else None

        return {name: plain(value) for name, value in self.named.items()}

    def input(self, spec: GraphInput) -> ProgramInput:
        grid, axes = self.grids[spec.name] = self.axes(spec)
        type_ = self.typed.get(spec.name) or self.input_type(spec, grid)
        value = self.new(type_, _layout_for(type_, "first"), (spec.name,))
        absent = spec.optional and spec.name not in self.given
        self.named[spec.name] = None if absent else value
        self.absent |= {spec.name} if absent else set()
        return ProgramInput(spec.name, value.id, type_, spec.optional, axes, spec.span, spec.pad, spec.fill)

    def input_type(self, spec: GraphInput, grid: tuple[Size, ...]) -> Type:
        if spec.channels is not None:
            return map_(spec.channels, grid) if grid else vector(spec.channels)
        if spec.words:  # without words it was refused before
            text = f"the input `{spec.name}` of a network needs a type such as `B 3 H W`"
            self.mistakes.append(Diagnostic("BP201", text, spec.span))
        return UNKNOWN

    def axes(self, spec: GraphInput) -> tuple[tuple[Size, ...], tuple[str, ...]]:
        """The symbols of an input's grid; a second input with the same axes shares them."""
        words = spec.words[2:]
        if words and words[-1].startswith("*"):
            rank = len(spec.size) if spec.size else 2
            words = (*words[:-1], *AXES.get(rank, tuple(f"S{k}" for k in range(rank))))
        if not words:
            return (), ()
        self.rank = len(words)
        if spec.size and len(spec.size) != len(words):
            said = f"its size has {len(spec.size)}: {list(spec.size)}"
            text = f"`{spec.name}` has {len(words)} axes ({', '.join(words)}), {said}"
            self.mistakes.append(Diagnostic("BP502", text, spec.span))
            return tuple(Dim.symbol(w) for w in words), tuple(words)
        for word, number in zip(words, spec.size or (), strict=False):
            self.built.setdefault(word, number)
        grid = tuple(int(w) if w.isdigit() else Dim.symbol(w) for w in words)
        return grid, tuple(words)

    def new(self, type_: Type, layout: Layout, via: tuple[str, ...] = ()) -> Value:
        value = Value(len(self.values), type_, layout, via)
        self.values.append(value)
        return value

    # --- the walk ----------------------------------------------------------------------------------------------

    def run(self, body: Body) -> Any:
        if isinstance(body, Broken):
            value: Any = self.new(UNKNOWN, "first")
        elif isinstance(body, Through):
            value = self.safely(None, lambda: self.lookup(body.result))
        elif isinstance(body, Group):
            value = self.group(body)
        elif isinstance(body, Given):
            value = self.new(self.input_type(body.type, self.axes(body.type)[0]), "first")
        else:
            self.calls[body.address] = body
            value = self.incomplete(body) if body.incomplete else self.safely(body, lambda: self.call(body))
        self.name(body.address, value)
        return value

    def name(self, address: str, value: Any) -> None:
        self.named[address] = value
        if isinstance(value, dict):
            for key, part in value.items():
                self.named[f"{address}.{key}"] = part
        elif isinstance(value, (list, tuple)):
            for index, part in enumerate(value):
                self.named[f"{address}.{index}"] = part

    def safely(self, call: Call | None, work: Callable[[], Any]) -> Any:
        """A mistake inside one part is recorded, and its value unknown; a fault of a plugin's rule is named as such."""
        try:
            return work()
        except ComposerError as fault:
            self.mistakes += [d for d in fault.diagnostics if d not in self.mistakes]
        except ValidationError as fault:  # a part that a compound makes of sizes that do not work out
            if call is None:
                raise
            self.mistakes.append(_impossible(call, fault))
        except Exception as fault:
            if call is None:
                raise
            self.mistakes.append(_rule_fault(call, fault))
        return self.new(UNKNOWN, "first")

    def incomplete(self, call: Call) -> Any:
        """A part with a broken part in a slot: its type as far as it can be told, and nothing more is said about it."""
        said = len(self.mistakes)
        value = self.safely(call, lambda: self.call(call))
        del self.mistakes[said:]  # also a rule's that met an unknown type
        return value

    def group(self, group: Group) -> Any:
        for ref, wanted, span in group.checks:
            self.safely(None, partial(self.check_port, ref, wanted, span, group))
        if group.kind == "repeat":
            self.frames.append((group.address, {}))
        for member in group.members:
            self.run(member)
        self.dead(group.unused)
        if group.kind == "repeat":
            self.frames.pop()
        if isinstance(group.result, Mapping):
            results = group.result
            return self.safely(None, lambda: {k: self.lookup(v) for k, v in results.items()})
        result = group.result
        return self.safely(None, lambda: self.lookup(result))

    def dead(self, bodies: Sequence[Body]) -> None:
        """Parts that own weights and never run."""
        self.unused += 1
        for body in bodies:
            self.run(body)
        self.unused -= 1

    def check_port(self, ref: Ref, wanted: GraphInput, span: Span | None, group: Group) -> None:
        value = self.lookup(ref)
        if not isinstance(value, Value) or value.type is UNKNOWN or wanted.channels in (None, value.type.channels):
            return
        text = f"`{group.use}` takes {wanted.channels} channels as `{wanted.name}`, this has {value.type}"
        raise BlueprintError(Diagnostic("BP301", text, span, address=group.address))

    def lookup(self, ref: Input) -> Any:
        if ref is None:
            return None
        if isinstance(ref, tuple):
            return [self.lookup(r) for r in ref]
        if ref.name in self.named or "@" in ref.name:
            return self.named.get(ref.name)
        parent, _, last = ref.name.rpartition(".")
        while parent and parent not in self.named:
            parent = parent.rpartition(".")[0]
        owner = self.named.get(parent)
        if isinstance(owner, Value) and owner.type is UNKNOWN:
            return owner
        if isinstance(owner, (dict, list, tuple)):
            notes = (f"it has {listing(owner if isinstance(owner, dict) else range(len(owner)))}",)
            raise BlueprintError(Diagnostic("BP104", f"`{parent}` has no output `{last}`", ref.span, notes=notes))
        raise BlueprintError(Diagnostic("BP104", f"`{ref.name}` is not computed here", ref.span))

    def call(self, call: Call) -> Any:
        given: dict[str, Any] = {}
        self.started[call.address] = len(self.values)
        for port, ref in call.inputs.items():
            if self.swap and self.swap[:2] == (call.address, port):
                ref = self.swap[2]
            given[port] = self.single(call, port, ref, _present(self.lookup(ref)))
        if any(_unknown(v) for v in given.values()):
            return self.new(UNKNOWN, "first")
        for port in call.block.required:
            if given.get(port) is None:
                ref = call.inputs.get(port)
                if isinstance(ref, Ref) and ref.name in self.absent:
                    self.absent.add(call.address)
                    return None
                text = f"`{call.use}` needs the input `{port}`, which is absent here"
                raise BlueprintError(Diagnostic("BP203", text, call.span, address=call.address))
        result = self.compute(call, given)
        self.dead(call.unused)
        return result

    def single(self, call: Call, port: str, ref: Input, value: Any) -> Any:
        """A port takes one value, or a list where its block says so; of several outputs the reader names one."""
        items = value if isinstance(value, list) and call.block.takes_list(port) else [value]
        several = next((v for v in items if isinstance(v, (dict, list))), None)
        if several is None:
            return value
        name = ref.name if isinstance(ref, Ref) else "…"
        outputs = [f"{name}.{k}" for k in (several if isinstance(several, dict) else range(len(several)))]
        text = f"`{call.use}` takes one value as `{port}`; `{name}` has several: {listing(outputs)}"
        span = (ref.span if isinstance(ref, Ref) else None) or call.span
        help = (f"name one: `from: {outputs[0]}`",) if outputs else ()
        raise BlueprintError(Diagnostic("BP203", text, span, help=help, address=call.address))

    def compute(self, call: Call, given: dict[str, Any]) -> Any:
        scope = _Scope(self, call, given)
        if call.block.compound:
            ports = {p: v for p, v in given.items() if v is not None}
            return self.labelled(self.composed(scope, call.block, ports), call.address)
        return self.emit(scope, call.address, call.module, call.block, given)

    def composed(self, scope: _Scope, block: Block, ports: Mapping[str, Any]) -> Any:
        """A compound's result; what it asked itself, and no part of it did, is asked by all its steps."""
        first, before = len(self.steps), len(self.asked)
        result = block.compose(scope, **ports)  # type: ignore[attr-defined]
        for asked in self.asked[before:]:
            if asked.first == asked.end:
                asked.first, asked.end = first, len(self.steps)
        return result

    def labelled(self, value: Any, address: str) -> Any:
        if isinstance(value, Value):
            return replace(value, via=(*value.via[-7:], address))
        return value

    # --- leaves ------------------------------------------------------------------------------------------------

    def emit(self, scope: _Scope, address: str, module: str, block: Block, given: Mapping[str, Any]) -> Any:
        """One leaf: its inputs in the layout it wants, its rule, its step."""
        given = {p: v for p, v in given.items() if v is not None}
        self.check_shapes(scope, block, given)
        held: dict[str, Any] = {}
        for port in sorted(
            given, key=[*block.required, *block.optional, *given].index
        ):  # the first port leads the others
            held[port] = self.arranged(scope, block, port, given[port], held)
        types = {p: [x.type for x in v] if isinstance(v, list) else v.type for p, v in held.items()}
        scope.holds(held)
        before = len(self.asked)
        result = block.infer(scope, **types)
        for asked in self.asked[before:]:
            asked.first, asked.end = len(self.steps), len(self.steps) + 1
        ids = tuple((p, tuple(x.id for x in v) if isinstance(v, list) else v.id) for p, v in held.items())
        keys, kinds = _outputs(result)
        self.check_shared(scope, module, block, types)
        layout, gives = self.first_layout(held), self.result_layout(block, held)
        via = (*_first_via(held), address)[-8:]
        outputs = [self.new(self.sound(t, scope), _layout_for(t, gives), via) for t in kinds]
        self.steps.append(
            Step(
                address, block, ids, tuple(o.id for o in outputs), types, module, scope.call.span, keys,
                self.unused > 0, scope.rank, layout if held else "flat",
            )
        )  # fmt: skip
        return outputs[0] if keys is None else _keyed(keys, outputs)

    def check_shapes(self, scope: _Scope, block: Block, given: Mapping[str, Any]) -> None:
        """What has a type and no numbers goes to the blocks for it, and nothing else does."""
        for port, value in given.items():
            if any((v.id in self.shapes) != block.of_shapes for v in _flat([value])):
                text = f"`{scope.called(block)}` reads the numbers of `{port}`, and here is only a shape"
                if block.of_shapes:
                    text = f"`{scope.called(block)}` is made of a shape that a slot offers; `{port}` is a value"
                raise scope.refusal("BP302", text)

    def check_shared(self, scope: _Scope, module: str, block: Block, types: Mapping[str, Any]) -> None:
        """One set of weights serves several places only where they ask for the same ones."""
        mine = (block, tuple((p, _channels(t)) for p, t in types.items()))
        other = self.owners.setdefault(module, mine)
        if mine != other and not block.weightless:
            said = " and ".join(", ".join(f"{p} {c}" for p, c in widths) for _, widths in (other, mine))
            text = f"the weights of `{module}` are used twice, for different options or channels ({said})"
            scope.need(False, text, "BP304")

    def arranged(self, scope: _Scope, block: Block, port: str, value: Any, held: Mapping[str, Any]) -> Any:
        """A value in the layout that a port wants, or what is wrong with it; `held` are the ports before this one."""
        want = block.wanted_layout(port)
        if isinstance(value, list):
            items = [self.in_layout(scope, block, v, want) for v in value]
            if want == "any" and items:
                items = [self.held_as(v, items[0].layout) for v in items]
            return items
        if (
            want == "any" and held and block.wanted_layout(next(iter(held))) == "any"
        ):  # else it is none of the first's kin
            first = next(_flat(held.values()), None)
            if first is not None and first.type.kind == value.type.kind:
                return self.held_as(value, first.layout)
        return self.in_layout(scope, block, value, want)

    def in_layout(self, scope: _Scope, block: Block, value: Value, want: str) -> Value:
        kind = value.type.kind
        if want == "any" or kind == "vector":
            if kind == "vector" and want in ("map", "grid", "tokens"):
                raise scope.refusal("BP302", f"`{scope.called(block)}` needs a {want}, this is a vector {value.type}")
            return value
        if want in ("map", "grid"):
            if kind == "tokens":
                extra = f"{value.type.extra} extra token{'s' * (value.type.extra > 1)}"
                text = f"`{scope.called(block)}` needs a map; this has {extra} in front: {value.type}"
                raise scope.refusal("BP303", text, "drop them before it")
            if kind != "map":
                raise scope.refusal("BP302", f"`{scope.called(block)}` needs a map, this is {value.type}")
            return self.held_as(value, "first" if want == "map" else "last")
        if want == "tokens":
            return self.held_as(value, "flat")
        return self.held_as(value, "last") if value.layout == "first" else value

    def held_as(self, value: Value, layout: Layout) -> Value:
        """The same value in another memory layout; moved at most once."""
        if value.layout == layout or value.type.kind in ("vector", "queries", "scales", "unknown"):
            return value
        key = (value.id, layout)
        if key not in self.moved:
            made = self.moved[key] = self.move(value, layout)
            self.moved.setdefault((made.id, value.layout), value)  # and back is what it was
        return replace(self.moved[key], via=value.via)

    def move(self, value: Value, layout: Layout) -> Value:
        if value.layout == "flat":
            wide = self.moved_step(value, Unflatten(axes=self.sizes_of(value.type.grid)), "last")
            return wide if layout == "last" else self.held_as(wide, layout)
        if layout == "flat":
            return self.moved_step(self.held_as(value, "last"), Flatten(), "flat")
        return self.moved_step(value, ToLast() if layout == "last" else ToFirst(), layout)

    def moved_step(self, value: Value, block: Block, layout: Layout) -> Value:
        made = self.new(value.type, layout, value.via)
        address = f"{value.via[-1] if value.via else 'image'}+{block.name.rpartition('.')[2]}"
        inputs: tuple[tuple[str, Any], ...] = (("x", value.id),)
        if isinstance(block, Unflatten):
            inputs += (("images", tuple(self.named_inputs())),)
        own = f"{address}.{made.id}"  # two values of one node may move differently
        step = Step(address, block, inputs, (made.id,), {"x": value.type}, own, unused=self.unused > 0, rank=self.rank)
        self.steps.append(step)
        return made

    def parts(self, value: Value) -> list[Value]:
        """The maps of a value of several scales; it is taken apart at most once."""
        if value.id not in self.parted:
            address = f"{value.via[-1] if value.via else 'image'}+parts.{value.id}"
            block = Part(levels=tuple(self.sizes_of(grid) for grid in value.type.grids))
            made = [self.new(t, "last", value.via) for t in block.infer(None, value.type)]  # type: ignore[arg-type]
            inputs = (("x", value.id), ("images", tuple(self.named_inputs())))
            ids, keys = tuple(v.id for v in made), tuple(range(len(made)))
            self.steps.append(
                Step(address, block, inputs, ids, {"x": value.type}, address, None, keys, self.unused > 0, self.rank)
            )
            self.parted[value.id] = made
        return [replace(v, via=value.via) for v in self.parted[value.id]]

    def sound(self, type_: Type, scope: _Scope) -> Type:
        """A value has a channel at least. Where a rule refused what it was given its result may have none: then nothing
        more is said about it, and no other rule meets it."""
        if type_.kind == "unknown" or type_.channels > 0:
            return type_
        if not any(m.address == scope.address for m in self.mistakes):
            scope.report("BP400", f"the result would have {type_.channels} channels")
        return UNKNOWN

    def named_inputs(self) -> list[int]:
        """Values whose shapes tell every axis: the inputs with a grid."""
        return [k for k, i in enumerate(self.graph.inputs) if not i.optional and len(i.words) > 2]

    def sizes_of(self, grid: tuple[Size, ...]) -> tuple[tuple[tuple[int, int, str], ...], tuple[Size, ...]]:
        """The grid, and for each symbol which input (by position among those with a grid) and axis it is."""
        places: dict[str, tuple[int, int, str]] = {}
        inputs = [i for i in self.graph.inputs if not i.optional and len(i.words) > 2]
        for position, spec in enumerate(inputs):
            for axis, name in enumerate(self.grids[spec.name][1]):
                places.setdefault(name, (position, axis + 2, name))
        wanted = sorted(s for n in grid for s in symbols_of(n))
        return tuple(dict.fromkeys(places[s] for s in wanted)), grid

    def result_layout(self, block: Block, held: Mapping[str, Any]) -> Layout:
        if block.gives or block.signature is not None:
            gives = block.gives or (block.signature.result.layout if block.signature else "")
            if gives in ("map", "grid", "tokens"):
                return {"map": "first", "grid": "last", "tokens": "flat"}[gives]  # type: ignore[return-value]
        return self.first_layout(held)

    def first_layout(self, held: Mapping[str, Any]) -> Layout:
        first = next(_flat(held.values()), None)
        return first.layout if first else "flat"

    def delivered(self, value: Any) -> Any:
        """What leaves the network: maps channels first, sequences flat, in dicts and lists as they are."""
        if isinstance(value, dict):
            return {k: self.delivered(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.delivered(v) for v in value]
        if value is None:
            return None
        return self.held_as(value, "first").id if value.type.kind == "map" else value.id

    # --- help ---------------------------------------------------------------------------------------------------

    def with_fixes(self, mistake: Diagnostic) -> Diagnostic:
        """The mistake with every value in sight tried in the place of the one that does not fit."""
        if mistake.code not in ("BP301", "BP302") or mistake.address not in self.calls or self.swap:
            return mistake
        call = self.calls[mistake.address]
        fixes = []
        for owner, port in self.suspects(call):
            fixes += list(self.tried(owner, port, mistake))
            if fixes:
                break
        return mistake.with_help(*fixes[:3])

    def suspects(self, call: Call) -> list[tuple[Call, str]]:
        """Inputs of the call, or of the owner that offered them, that name a value of the user's choice."""
        found: list[tuple[Call, str]] = []
        for port, ref in call.inputs.items():
            owner, at_port = call, port
            while isinstance(ref, Ref) and "@" in ref.name:
                owner_address, _, at_port = ref.name.partition("@")
                parent = owner_address
                while (parent and parent not in self.calls) or parent == owner.address:
                    parent = parent.rpartition(".")[0]
                if not parent:
                    break
                owner = self.calls[parent]
                ref = owner.inputs.get(at_port)
            if isinstance(ref, Ref) and "@" not in ref.name and at_port in owner.inputs:
                found.append((owner, at_port))
        unique = {(owner.address, port): (owner, port) for owner, port in found}  # a call has no hash
        return sorted(unique.values(), key=lambda f: (f[1] == "x", f[1]))

    def tried(self, owner: Call, port: str, mistake: Diagnostic) -> Iterator[str]:
        """Values in sight that have another type and with which this mistake goes away."""
        seen = {self.type_of(owner.inputs[port])}
        for name, ref in owner.sight or ():
            value = self.named.get(ref.name)
            if not isinstance(value, Value) or value.type is UNKNOWN or value.id >= self.started[owner.address]:
                continue
            if value.type not in seen and len(seen) <= TRIED:
                seen.add(value.type)
                if self.cured(owner, port, ref, mistake):
                    yield f"`{name}` fits: {value.type}"

    def cured(self, owner: Call, port: str, ref: Ref, mistake: Diagnostic) -> bool:
        """Whether the node that holds `owner` types with `ref` at its port; nothing outside it is walked again."""
        trial = _Inference(self.graph, (owner.address, port, ref), self.given)
        trial.named, trial.values, trial.moved = dict(self.named), list(self.values), dict(self.moved)
        trial.parted, trial.shapes = dict(self.parted), set(self.shapes)
        trial.grids, trial.built, trial.absent, trial.rank = self.grids, self.built, self.absent, self.rank
        for member in self.graph.members:
            if is_prefix(member.address, owner.address):
                trial.run(member)
        here = (mistake.address, owner.address)
        return not any(m.address in here or (m.code == mistake.code and m.span == mistake.span) for m in trial.mistakes)

    def type_of(self, ref: Input) -> Type | None:
        value = self.named.get(ref.name) if isinstance(ref, Ref) else None
        return value.type if isinstance(value, Value) else None


class _Scope:
    """What rules and compounds talk to (the protocols `Rule` and `Scope`)."""

    def __init__(self, run: _Inference, call: Call, given: Mapping[str, Any]):
        self.run, self.call, self.address = run, call, call.address
        self.given = given
        self.added = 0
        ranks = [v.type.rank for v in _flat(given.values()) if v.type.rank]
        self.rank = ranks[0] if ranks else run.rank

    def holds(self, held: Mapping[str, Any]) -> None:
        ranks = [v.type.rank for v in _flat(held.values()) if v.type.rank]
        self.rank = ranks[0] if ranks else self.rank

    def called(self, block: Block) -> str:
        return self.call.use if self.call.use not in ("", block.name) and not self.call.block.compound else block.name

    # --- Rule ---

    def need(self, ok: bool, message: str, code: str = "BP400") -> bool:
        if not ok:
            self.report(code, message)
        return bool(ok)

    def report(self, code: str, message: str, *help: str) -> None:
        mistake = self.diagnostic(code, message, *help)
        known = ((m.code, m.message, m.address) for m in self.run.mistakes)
        if (code, message, mistake.address) not in known:
            self.run.mistakes.append(mistake)

    def refusal(self, code: str, message: str, *help: str) -> BlueprintError:
        return BlueprintError(self.diagnostic(code, message, *help))

    def diagnostic(self, code: str, message: str, *help: str) -> Diagnostic:
        """The message at the reference the user wrote, with the types on both sides and how they arose."""
        span, label = self.call.span, ""
        others: tuple[Label, ...] = ()
        if code in ("BP301", "BP302", "BP303"):
            for owner, port in self.run.suspects(self.call):
                ref = owner.inputs[port]
                if isinstance(ref, Ref) and ref.span is not None and port != "x":
                    others = (Label(span, f"`{self.call.use}` at {self.address}"),) if span else ()
                    span, label = ref.span, f"becomes `{port}` of {owner.address}"
                    break
        notes = [f"{p:<7} {v.type}   {_story(v.via)}".rstrip() for p, v in self.given.items() if isinstance(v, Value)]
        for port, value in self.given.items():
            items = enumerate(value) if isinstance(value, list) else ()
            notes += [f"{port}[{k}]   {v.type}   {_story(v.via)}" for k, v in items if isinstance(v, Value)]
        notes = notes if code.startswith("BP3") else notes[:1]
        return Diagnostic(code, message, span, label or f"at {self.address}", others, tuple(notes), help, self.address)

    def equal(self, left: Size, right: Size, message: str, code: str = "BP301") -> bool:
        if left == right:
            return True
        difference = left - right
        if isinstance(difference, int) or not _possible(left, right):
            self.report(code, message)
            return False
        self.constrain("equal", difference, 0, message)
        return True

    def multiple(self, size: Size, of: int, why: str) -> None:
        if isinstance(size, int):
            self.need(size % of == 0, f"{size} is not a multiple of {of} ({why})", "BP403")
        elif of > 1:
            self.constrain("multiple", size, of, why)

    def at_least(self, size: Size, least: int, why: str) -> None:
        if isinstance(size, int):
            self.need(size >= least, f"{size} is less than {least} ({why})", "BP403")
        else:
            self.constrain("least", size, least, why)

    def constrain(self, kind: str, size: Dim, number: int, why: str) -> None:
        if self.run.unused:  # what never runs asks nothing of the input
            return
        made = Constraint(kind, size, number, why, self.address, self.call.use, self.call.span)
        self.run.asked.append(_Asked(made, len(self.run.steps), len(self.run.steps)))

    def built(self, size: Size) -> int:
        if isinstance(size, int):
            return size
        missing = symbols_of(size) - set(self.run.built)
        if missing:
            text = f"`{self.call.use}` needs to know the size it is built for ({', '.join(sorted(missing))} is open)"
            raise self.refusal("BP402", text, "give the input a size: `{type: B $channels *S, size: $size}`")
        return int(at(size, self.run.built))

    def per_axis(self, value: Any, name: str = "value") -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)):
            return (value,) * self.rank
        if len(value) != self.rank:
            said = f"`{name}: {list(value)}` of `{self.call.use}`"
            text = f"{said} has {len(value)} numbers, the map has {self.rank} axes"
            raise self.refusal("BP201", text)
        return tuple(value)

    # --- Scope ---

    def has(self, slot: str) -> bool:
        spec = self.call.block.slots.get(slot)
        return any(self.call.parts.get(at_) is not None for at_ in (spec.at if spec else (slot,)))

    def slot(self, at: str, **offers: Any) -> Any:
        part = self.call.parts.get(at)
        if part is None:
            return next(iter(offers.values()), None)
        for name, value in offers.items():
            self.run.named[f"{part.address}@{name}"] = value
        result = self.run.run(part)
        if isinstance(result, dict) and len(result) == 1:
            return next(iter(result.values()))
        if _unknown(result):
            raise BlueprintError(())
        if isinstance(result, (dict, list)) and not (isinstance(part, Call) and not part.block.many):
            several = listing(result if isinstance(result, dict) else range(len(result)))
            raise self.refusal("BP203", f"the part `{part.address}` gives several values ({several}); a slot takes one")
        return result

    def add(self, name: str, block: Block, *values: Any, **ports: Any) -> Any:
        self.added += 1
        if self.added > MOST_ADDED:
            text = f"`{self.call.use}` is made of more than {MOST_ADDED:,} parts at `{self.address}`"
            raise BlueprintError(Diagnostic("BP002", text, self.call.span, address=self.address))
        given = dict(zip((*block.required, *block.optional), values, strict=False)) | ports
        suffix = f".{name}" if name else ""
        address, module = self.address + suffix, self.call.module + suffix
        inner = replace(self.call, address=self.address, block=block, parts={})
        scope = _Scope(self.run, inner, given)
        if block.compound:
            scope.call = replace(inner, address=address, module=module)
            scope.address = address
            return self.run.composed(scope, block, {p: v for p, v in given.items() if v is not None})
        return self.run.emit(scope, address, module, block, given)

    def maps(self, x: Value) -> list[Value]:
        return self.run.parts(x) if x.type.kind == "scales" else [x]

    def shape(self, type_: Type) -> Value:
        made = self.run.new(type_, "first")
        self.run.shapes.add(made.id)
        return made

    def state(self, name: str, shape: tuple[int, ...], std: float = 0.02) -> Any:
        if not self.run.frames:
            text = f"`{self.call.use}` has a state, which starts and ends at an enclosing `repeat`; there is none"
            raise self.refusal("BP404", text, "put the block it belongs to into a `repeat`")
        frame, known = self.run.frames[-1]
        rest = self.address[len(frame) + 1 :].partition(".")[2]
        if (rest, name) not in known:
            at_ = ".".join(filter(None, (frame, "state", rest, name)))
            held = Held(dims=shape, std=std)
            known[rest, name] = self.run.emit(self, at_, at_, held, {})
        return known[rest, name]

    def keep(self, name: str, value: Any) -> None:
        frame, known = self.run.frames[-1]
        rest = self.address[len(frame) + 1 :].partition(".")[2]
        known[rest, name] = value


def _channels(type_: Any) -> Any:
    return [t.channels for t in type_] if isinstance(type_, list) else type_.channels


def _present(value: Any) -> Any:
    """A list of values less those that are absent; None where nothing is left."""
    return [v for v in value if v is not None] or None if isinstance(value, list) else value


def _unknown(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_unknown(v) for v in value)
    return isinstance(value, Value) and value.type is UNKNOWN


def _flat(values: Any) -> Iterator[Value]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        elif isinstance(value, Value):
            yield value


def _outputs(result: Any) -> tuple[tuple[Any, ...] | None, list[Type]]:
    """What a rule returned: one type, or several by name or number."""
    if isinstance(result, dict):
        return tuple(result), list(result.values())
    if isinstance(result, (list, tuple)):
        return tuple(range(len(result))), list(result)
    return None, [result]


def _keyed(keys: tuple[Any, ...], values: list[Value]) -> Any:
    return values if keys and isinstance(keys[0], int) else dict(zip(keys, values, strict=True))


def _layout_for(type_: Type, layout: Layout) -> Layout:
    return layout if type_.kind == "map" else "flat"


def _first_via(held: Mapping[str, Any]) -> tuple[str, ...]:
    return next((v.via for v in _flat(held.values())), ())


def _story(via: Sequence[str]) -> str:
    """`image -> stem -> stage.0`: how a value came about, in nodes the user wrote."""
    names: list[str] = []
    for address in via:
        words = address.split("+")[0].split("@")[0].split(".")
        name = ".".join(words[:2]) if len(words) > 1 and words[1].isdigit() else words[0]
        if not names or names[-1] != name:
            names.append(name)
    return " -> ".join(names[-5:])


def is_move(address: str) -> bool:
    """Whether this is a step of the compiler's own; its address is unique only within one program."""
    return "+" in address


@lru_cache(maxsize=1024)
def _possible(left: Size, right: Size) -> bool:
    """Whether two sizes can agree and be more than nothing, at any size of an input whose axes are alike."""
    names = symbols_of(left) | symbols_of(right)
    if len(names) > 1:
        return True
    tried = (*range(1, 513), *range(513, 4097, 7))  # every remainder of a stride is among them
    envs = (dict.fromkeys(names, n) for n in tried)
    return any(at(left, env) == at(right, env) > 0 for env in envs)


def _impossible(call: Call, fault: ValidationError) -> Diagnostic:
    error = fault.errors()[0]
    said = ".".join(map(str, error["loc"])) or "it"
    why = error["msg"].replace("Input should be", "it must be")
    text = f"`{call.use}` cannot be made here: `{said}` would be {error.get('input')!r:.40}: {why}"
    return Diagnostic("BP201", text, call.span, f"at {call.address}", address=call.address)


def _rule_fault(call: Call, fault: Exception) -> Diagnostic:
    text = f"the rule of `{call.use}` failed at `{call.address}`: {type(fault).__name__}: {fault}"
    help = ("tell the author of the block",)
    return Diagnostic("BP603", text, call.span, notes=(f"at {raised_at(fault)}",), help=help, address=call.address)


__all__ = ["Program", "ProgramInput", "ProgramOutput", "Step", "Value", "infer", "infer_all", "is_move", "product"]
