"""The fully resolved blueprint: no `extends`, presets, parameters or expressions, every copy written out.

    encoder: {for: {depth: $depths}, use: …}      ->      encoder: {for: [{repeat: 2, …}, {repeat: 2, …}]}

A linked graph is written as a document again. A value is named from where it is read (`skip`, `.stem`, `..encoder.1`),
so the scopes of the language are followed here as the linker followed them there. What is equal in all copies of a loop
stands once, beside the loop; parts that are left out vanish. The document builds the same network, with the same names
of weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from composer.addresses import is_prefix
from composer.block import Block, SlotSpec
from composer.blueprint import merge_specs
from composer.diagnostics import Diagnostic, InternalError
from composer.document import heading
from composer.graph import Body, Call, Given, Graph, GraphInput, Group, Input, Ref, Through
from composer.writing import dump

Spec = dict[str, Any]
Ports = Mapping[str, Input]


def flat(graph: Graph) -> str:
    """A linked blueprint as the text of one that says everything itself."""
    return dump(document(graph))


def document(graph: Graph) -> Spec:
    """A linked blueprint as plain data."""
    return _Flat(graph).whole()


@dataclass
class _Frame:
    """The names that one graph sees, and the graph around it."""

    names: dict[str, Input] = field(default_factory=dict)
    outer: _Frame | None = None

    def outward(self) -> Iterator[tuple[str, _Frame]]:
        """This frame and those around it, each with the dots that reach it."""
        dots, frame = "", self
        while frame is not None:
            yield dots, frame
            dots, frame = f"{dots}.", frame.outer  # type: ignore[assignment]  # the loop ends

    def name_of(self, address: str) -> str | None:
        """The shortest way to say an address here."""
        for dots, frame in self.outward():
            held = {n: v.name for n, v in frame.names.items() if isinstance(v, Ref)}
            exact = next((n for n, a in held.items() if a == address), None)
            below = [n for n, a in held.items() if "@" not in a and address.startswith(f"{a}.")]
            nearest = max(below, key=lambda n: len(held[n]), default=None)
            if exact or nearest:
                return f"{dots}{exact or f'{nearest}{address[len(held[str(nearest)]) :]}'}"
        return None


@dataclass(frozen=True)
class _Place:
    """Where a part stands: the ports it has without a `from`, what its `from` sees, the graph around it, and the values
    its slot offers, if it is in one. A `from` that `adds` leaves the other ports as they are. `tied` parts have the
    weights of another copy as it is."""

    ports: Ports
    sees: _Frame
    frame: _Frame
    offers: Ports | None = None
    tied: bool = False
    adds: bool = False


class _Flat:
    """One graph on its way back to a document."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.passed: dict[str, Input] = {}
        self.edits: list[Spec] = []
        for member in graph.members:
            self.note_passed(member)

    def note_passed(self, body: Body | None) -> None:
        """What comes out of parts that are left out, and of loops without copies: what goes in."""
        if isinstance(body, Through) or (isinstance(body, Group) and body.kind != "graph" and not body.members):
            self.passed[body.address] = body.result  # type: ignore[assignment]  # a loop has one result
        for part in _below(body):
            self.note_passed(part)

    def actual(self, value: Input) -> Input:
        """A value as it is computed, through the parts that are left out."""
        if isinstance(value, tuple):
            found = [self.actual(v) for v in value]
            return tuple(r for v in found for r in (v if isinstance(v, tuple) else [v] if v is not None else []))
        return self.actual(self.passed[value.name]) if value is not None and value.name in self.passed else value

    # --- the document ------------------------------------------------------------------------------------------

    def whole(self) -> Spec:
        blueprint, inputs = self.graph.blueprint, self.graph.inputs
        frame = _Frame({i.name: Ref(i.name) for i in inputs})
        nodes, _ = self.nodes(self.graph.members, "", frame, Ref(inputs[0].name) if inputs else None)
        outputs = {o.name: self.output(o.value, o.training, frame) for o in self.graph.outputs}
        weights = {origin: list(rules) for origin, rules in blueprint.weights.items()}
        made = {
            **heading(blueprint),
            "inputs": {i.name: _typed(i) for i in inputs},
            "graph": {name: _short(spec) for name, spec in nodes.items()},
            "outputs": outputs,
            "edit": self.edits,
            "init": list(blueprint.init),
            "weights": weights["official"] if set(weights) == {"official"} else weights,
            "tap": list(blueprint.tap),
        }
        return {key: value for key, value in made.items() if value or key == "blueprint"}

    def output(self, value: Input, training: bool, frame: _Frame) -> Any:
        named = self.named(value, frame)
        return {"from": named, "when": "training"} if training else named

    def named(self, value: Input, frame: _Frame) -> Any:
        """A value by the name it has in a frame: a text, a list of them, or null."""
        found = self.actual(value)
        if isinstance(found, tuple):
            return [self.named(v, frame) for v in found]
        if found is None:
            return None
        name = frame.name_of(found.name)
        if name is None:
            text = f"`{found.name}` has no name where it is read, so this blueprint cannot be written flat"
            raise InternalError(Diagnostic("BP901", text, found.span, help=("please report this",)))
        return name

    # --- graphs ------------------------------------------------------------------------------------------------

    def nodes(
        self, members: Sequence[Body], prefix: str, frame: _Frame, line: Input, tied: bool = False
    ) -> tuple[Spec, Input]:
        """The nodes of one graph, and the value of the last."""
        made: Spec = {}
        for body in members:
            if isinstance(body, Given) or body.address in self.passed:
                continue
            name = body.address[len(prefix) :]
            if isinstance(body, Group) and body.kind == "for":
                frame.names[name] = Ref(body.address)
            made[name] = self.part(body, _Place({"": line}, frame, frame, tied=tied))
            frame.names[name] = line = Ref(body.address)
        return made, line

    def part(self, body: Body, place: _Place) -> Spec:
        """What is written for a part."""
        if isinstance(body, Through):
            return self.through(body, place)
        if not isinstance(body, (Call, Group)):
            raise InternalError(Diagnostic("BP901", f"`{body.address}` has a mistake and cannot be written flat"))
        if isinstance(body, Group) and body.kind == "for":
            return self.instances(body, place)
        if isinstance(body, Group) and body.kind == "repeat":
            return self.copies(body, place)
        share = not place.tied and _is_tied(body)
        place = replace(place, tied=place.tied or share)
        made = self.call(body, place) if isinstance(body, Call) else self.inline(body, place)
        return {**made, "share": True} if share else made

    def through(self, body: Through, place: _Place) -> Spec:
        """A part left out that must stay, because a slot or a loop counts it."""
        usual = place.ports.get("", place.ports.get("x", next(iter(place.ports.values()), None)))
        same = self.actual(usual) == self.actual(body.result)
        return {"when": False} if same else {"when": False, "from": self.named(body.result, place.sees)}

    def inline(self, group: Group, place: _Place) -> Spec:
        made: Spec = {}
        ports = {name or "x": value for name, value in place.ports.items()}
        if group.unused:
            given = next((v for b in group.unused for v in _first_reads(b) if "@" not in v.name), None)
            if given is not None and self.actual(given) != self.actual(next(iter(ports.values()), None)):
                made["from"] = self.named(given, place.sees)
                ports = {"x": given}
        frame = _Frame(dict(ports), place.frame)
        first = ports.get("x", next(iter(ports.values()), None) if len(ports) == 1 else None)
        nodes, line = self.nodes(group.members, f"{group.address}.", frame, first, place.tied)
        if isinstance(group.result, Mapping):
            outputs = {n: self.named(v, frame) for n, v in group.result.items()}
            return {**made, "graph": nodes, "outputs": outputs, **self.unused(group, ports)}
        if self.actual(group.result) != self.actual(line):
            free = next(n for n in ("result", "the_result", "its_result") if n not in frame.names)
            nodes[free] = {"when": False, "from": self.named(group.result, frame)}
        return {**made, "graph": nodes, **self.unused(group, ports)}

    # --- loops -------------------------------------------------------------------------------------------------

    def instances(self, group: Group, place: _Place) -> Spec:
        """`for` with each instance written out."""
        items: list[Spec | None] = []
        previous = place.ports.get("")
        for body in group.members:
            items += [None] * (_number(body) - len(items))
            items.append(self.part(body, _Place({"": previous}, place.sees, place.frame, tied=place.tied)))
            previous = Ref(body.address)
        common, rest = _factored(items)
        return {"for": rest, **common}

    def copies(self, group: Group, place: _Place) -> Spec:
        """`repeat` with each copy written out, or their number where they are alike."""
        leader, made = group.members[0], Spec()
        kinds = {(m.use if isinstance(m, Call) else "") for m in group.members}
        if isinstance(leader, Call) and (len(kinds) == 1 or place.offers is None):
            place = self.offered(leader.block, place) if len(kinds) == 1 else place
            inputs = self.common_inputs(leader, group.members)
            made |= (wiring := self.wiring(leader.block, inputs, place))
            place = self.after(wiring, inputs, place)
        flow = "" if "" in place.ports else "x" if "x" in place.ports else next(iter(place.ports), "")
        share = not place.tied and all(_is_tied(m) for m in group.members[1:]) and len(group.members) > 1
        items: list[Spec | None] = []
        previous = place.ports.get(flow)
        for body in group.members:
            items += [None] * (_number(body) - len(items))
            ports = {**place.ports, flow: previous}
            offers = ports if place.offers is not None and len(kinds) > 1 else None
            own = replace(place, ports=ports, offers=offers, tied=place.tied or share, adds=True)
            items.append(self.part(body, own))
            previous = Ref(body.address)
        common, rest = _factored(items, apart=("from",))
        made |= {"share": True} if share else {}
        made |= {"use": common["use"]} if "use" in common else {}
        made["repeat"] = len(rest) if all(item == {} for item in rest) else rest
        return made | common

    def common_inputs(self, leader: Call, members: Sequence[Body]) -> dict[str, Input]:
        """What the first copy reads: what flows through the copies, and the ports that are alike in all."""
        calls = [m for m in members if isinstance(m, Call)]
        chained = (p for c in calls[1:2] for p in leader.inputs if c.inputs.get(p) == Ref(leader.address))
        lead = next(chained, next(iter(leader.inputs), None))
        wanted = {p: self.actual(v) for p, v in leader.inputs.items()}
        alike = {p for p, v in wanted.items() if all(self.actual(c.inputs.get(p)) == v for c in calls)}
        return {p: v for p, v in leader.inputs.items() if p == lead or p in alike}

    def after(self, wiring: Spec, inputs: Ports, place: _Place) -> _Place:
        """The place of the copies of a loop, after its `from`."""
        if not wiring:
            return replace(place, offers=None)
        ports = dict(inputs) if isinstance(wiring["from"], dict) else {"": next(iter(inputs.values()))}
        return replace(place, ports={**place.ports, **ports} if place.adds else ports, offers=None)

    # --- blocks ------------------------------------------------------------------------------------------------

    def call(self, call: Call, place: _Place) -> Spec:
        made: Spec = {"use": call.use, **self.wiring(call.block, call.inputs, self.offered(call.block, place))}
        slots = call.block.slots
        made |= {k: v for k, v in call.written.items() if k not in slots}
        for slot in slots.values():
            bodies = {at: call.parts.get(at) for at in slot.at}
            specs = {at: self.slot(call, slot, at, b, place) if b is not None else None for at, b in bodies.items()}
            usual = next((s for s in specs.values() if s is not None), None)
            if usual is not None or slot.default is not None:
                made[slot.name] = usual
            self.edits += [_edit(f"{call.address}.{at}", s) for at, s in specs.items() if s != usual]
        return {**made, **self.unused(call, call.inputs)}

    def slot(self, call: Call, slot: SlotSpec, at: str, body: Body, place: _Place) -> Spec:
        """The part in a slot: it sees what its owner offers, and through a dot the graph around the owner."""
        block, own = call.block, f"{call.address}.{at}"
        extra = [p for p in call.inputs if block.open_ports and p not in (*block.required, *block.optional)]
        offers = {o: Ref(f"{own}@{o}") for o in (*slot.offers, *extra)}
        sees = _Frame(dict(offers), place.frame)
        return self.part(body, _Place(offers, sees, place.frame, offers, place.tied, adds=True))

    def offered(self, block: Block, place: _Place) -> _Place:
        """What a block takes of the offers of its slot without a `from`."""
        if place.offers is None:
            return place
        known = (*block.required, *block.optional)
        ports = {p: place.offers[p] for p in known if p in place.offers}
        if not any(p in place.offers for p in known[:1]):
            ports[""] = next(iter(place.offers.values()), None)
        return replace(place, ports=ports)

    def wiring(self, block: type[Block] | Block, inputs: Ports, place: _Place) -> Spec:
        """The `from` of a block, where it reads anything else than it would without."""
        known = (*block.required, *block.optional)
        reads = {p: self.actual(v) for p, v in inputs.items() if self.actual(v) is not None}
        usual = {p: self.actual(v) for p, v in _bound(place.ports, known).items() if self.actual(v) is not None}
        if reads == usual or not (known or block.open_ports):
            return {}
        if place.adds:
            asked: dict[str, Input] = dict.fromkeys(p for p in usual if p not in reads)
            asked |= {p: v for p, v in reads.items() if usual.get(p) != v}
            return {"from": {p: self.named(v, place.sees) for p, v in asked.items()}}
        if list(reads) == list(known[:1]):
            return {"from": self.named(inputs[known[0]], place.sees)}
        return {"from": {p: self.named(v, place.sees) for p, v in reads.items()}}

    def unused(self, owner: Call | Group, ports: Ports) -> Spec:
        """Parts that own weights and never run; one may have a type in place of an input."""
        made: Spec = {}
        types = {b.address: b.type for b in owner.unused if isinstance(b, Given)}
        for body in owner.unused:
            if isinstance(body, Given):
                continue
            type_ = types.get(f"{body.address}@x")
            given = Ref(f"{body.address}@x") if type_ else next(iter(ports.values()), None)
            frame = _Frame({"x": given})
            spec = self.part(body, _Place({"x": given}, frame, frame, {"x": given}, adds=True))
            made[body.address[len(owner.address) + 1 :]] = {**spec, "from": _words(type_)} if type_ else spec
        return {"unused": made} if made else {}


def _bound(ports: Ports, known: Sequence[str]) -> dict[str, Input]:
    """Values by port: an unnamed one goes to the first."""
    given = dict(ports)
    if "" in given:
        value = given.pop("")
        if known:
            given.setdefault(known[0], value)
    if known and known[0] not in given and "x" in given and "x" not in known:
        given[known[0]] = given.pop("x")
    return given


def _factored(items: Sequence[Spec | None], apart: Sequence[str] = ()) -> tuple[Spec, list[Spec | None]]:
    """What all copies have in common, and what each has besides; `apart` are keys that stay with the copies."""
    present = [i for i in items if i is not None]
    common = _common([{k: v for k, v in i.items() if k not in apart} for i in present])
    rest = [None if i is None else _besides(i, common) for i in items]
    for item, own in zip(items, rest, strict=True):
        if item is not None and _ordered(merge_specs(common, own)) != _ordered(item):
            return {}, list(items)
    return common, rest


def _common(items: Sequence[Spec]) -> Spec:
    """The keys, and of inner mappings the keys, that are alike in all."""
    first, made = items[0], Spec()
    if len({i.get("use") for i in items}) > 1 or len({"graph" in i for i in items}) > 1:
        return made
    for key, value in first.items():
        values = [i.get(key) for i in items]
        if all(key in i for i in items) and all(_ordered(v) == _ordered(value) for v in values):
            made[key] = value
        elif key not in ("from", "outputs", "unused", "for") and all(isinstance(v, dict) for v in values):
            mappings = [v for v in values if isinstance(v, dict)]
            inner = _common(mappings)
            if inner and (key != "graph" or all(list(v) == list(value) for v in mappings)):
                made[key] = inner
    return made


def _besides(item: Spec, common: Spec) -> Spec:
    made = Spec()
    for key, value in item.items():
        if key not in common:
            made[key] = value
        elif _ordered(value) != _ordered(common[key]):
            made[key] = _besides(value, common[key])
    return made


def _ordered(value: Any) -> Any:
    """Data in a form that tells the order of nodes, ports and outputs, which has a meaning, but not that of options."""
    if isinstance(value, Mapping):
        items = [(k, tuple(v) if k in ("graph", "from", "outputs") and isinstance(v, Mapping) else (), _ordered(v))
                 for k, v in value.items()]  # fmt: skip
        return sorted(items, key=lambda i: i[0])
    return [_ordered(v) for v in value] if isinstance(value, (list, tuple)) else (type(value).__name__, value)


def _short(spec: Any) -> Any:
    """`{use: conv}` as `conv`; not inside a loop, whose copies may add to it."""
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"use"}:
        return spec["use"]
    if any(isinstance(spec.get(loop), list) for loop in ("for", "repeat")):
        return spec
    return {k: {n: _short(v) for n, v in s.items()} if k == "graph" else _short(s) for k, s in spec.items()}


def _edit(address: str, spec: Spec | None) -> Spec:
    return {"at": address, "remove": True} if spec is None else {"at": address, "replace": spec}


def _typed(given: GraphInput) -> Any:
    """An input with the channels and the size that it has."""
    chosen = {k: v for k, v, usual in (("pad", given.pad, "error"), ("fill", given.fill, "zero")) if v != usual}
    if given.size is None and not given.optional and not chosen:
        return _words(given)
    made: Spec = {"type": _words(given)}
    made |= {"size": list(given.size)} if given.size else {}
    return made | ({"optional": True} if given.optional else {}) | chosen


def _words(given: GraphInput) -> str:
    words = list(given.words)
    if given.channels is not None:
        words[1] = str(given.channels)
    return " ".join(words)


def _number(body: Body) -> int:
    return int(body.address.rpartition(".")[2])


def _below(body: Body | None) -> Iterator[Body | None]:
    if isinstance(body, Group):
        yield from (*body.members, *body.unused)
    elif isinstance(body, Call):
        yield from (*body.parts.values(), *body.unused)


def _calls(body: Body | None) -> Iterator[Call]:
    if isinstance(body, Call):
        yield body
    for part in _below(body):
        yield from _calls(part)


def _first_reads(body: Body) -> Iterator[Ref]:
    """The values from outside that a part which never runs takes its type from."""
    for call in _calls(body):
        for value in call.inputs.values():
            refs = value if isinstance(value, tuple) else [value] if value is not None else []
            yield from (r for r in refs if not is_prefix(body.address, r.name))


def _is_tied(body: Body) -> bool:
    """Whether all of a part has the weights of another copy."""
    calls = list(_calls(body))
    return bool(calls) and all(c.module != c.address for c in calls)
