"""Stage 2: Blueprint + Registry -> Graph: names become blocks, slots are filled, loops unrolled, edits applied.

A graph is a tree of values named by their address. `Call` is a block with its inputs and the bodies of its slots,
`Group` an inline graph, a loop or a blueprint used as a block, `Through` a value that passes (`when: false`). Every
reference is resolved here; types come later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Union

from pydantic import ValidationError

from composer import blueprint as blueprints
from composer.addresses import Pattern, is_prefix
from composer.block import RESERVED, Block, SlotSpec
from composer.blueprint import Blueprint, Edit, merge_specs, without
from composer.diagnostics import BlueprintError, Diagnostic, Span, did_you_mean, listing, nearest
from composer.names import Closure, Names, evaluate, is_var
from composer.registry import Registry, clash
from composer.source import Map, span_of


@dataclass(frozen=True)
class Ref:
    """A value by its address, and where it was mentioned."""

    name: str
    span: Span | None = field(default=None, compare=False)


Input = Union[Ref, tuple[Ref, ...], None]


@dataclass(frozen=True)
class Call:
    """A block at an address. `parts` are the bodies of its slots, by address below this one."""

    address: str
    use: str
    block: Block
    inputs: Mapping[str, Input]
    parts: Mapping[str, Body | None]
    written: Mapping[str, Any]
    module: str
    span: Span | None = None
    spans: Mapping[str, Span | None] = field(default_factory=dict)
    candidates: tuple[tuple[str, Ref], ...] = ()
    slot: str = ""
    unused: tuple[Body, ...] = ()


@dataclass(frozen=True)
class Group:
    """Several bodies under one address: an inline graph, the copies of a `repeat`, the instances of a `for`."""

    address: str
    kind: str
    members: tuple[Body, ...]
    result: Input | Mapping[str, Input]
    span: Span | None = None
    use: str | None = None
    written: Mapping[str, Any] = field(default_factory=dict)
    slot: str = ""
    checks: tuple[tuple[Ref, Any, Span | None], ...] = ()
    unused: tuple[Body, ...] = ()


@dataclass(frozen=True)
class Through:
    """A part left out: its value is its input."""

    address: str
    result: Input
    span: Span | None = None
    slot: str = ""


@dataclass(frozen=True)
class Broken:
    """A part with a mistake, already reported; nothing more is said about what depends on it."""

    address: str


Body = Union[Call, Group, Through, Broken]


@dataclass(frozen=True)
class GraphInput:
    """An input: its name, the words of its type, and the size the network is built for."""

    name: str
    words: tuple[str, ...]
    size: tuple[int, ...] | None
    optional: bool
    span: Span | None
    channels: int | None


@dataclass(frozen=True)
class GraphOutput:
    name: str
    value: Input
    training: bool
    span: Span | None


@dataclass(frozen=True)
class Graph:
    """A linked blueprint."""

    blueprint: Blueprint
    inputs: tuple[GraphInput, ...]
    members: tuple[Body, ...]
    outputs: tuple[GraphOutput, ...]


def link(blueprint: Blueprint, registry: Registry) -> Graph:
    """Resolve every name of a blueprint. Raises `BlueprintError` with all mistakes found."""
    graph, mistakes = link_all(blueprint, registry)
    if mistakes:
        raise BlueprintError(mistakes)
    return graph


def link_all(blueprint: Blueprint, registry: Registry) -> tuple[Graph, list[Diagnostic]]:
    """The graph as far as it could be linked, and every mistake on the way."""
    linker = _Linker(registry, blueprint)
    return linker.whole(blueprint), linker.mistakes


class _Scope:
    """The names one graph sees: its ports, its nodes so far, and through a leading dot the graph around it."""

    def __init__(self, linker: _Linker, ports: Mapping[str, Input], outer: _Scope | None, later: Mapping[str, Any]):
        self.linker, self.outer = linker, outer
        self.names: dict[str, Input] = dict(ports)
        self.later = later
        self.read: set[str] = set()

    def with_names(self, extra: Mapping[str, Input]) -> _Scope:
        inner = _Scope(self.linker, {**self.names, **extra}, self.outer, self.later)
        inner.read = self.read
        return inner

    def find(self, name: str) -> Input | type[_Missing]:
        if name.startswith("."):
            return self.outer.find_outward(name[1:]) if self.outer else _Missing
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            head = ".".join(parts[:cut])
            if head in self.names:
                return self._below(head, parts[cut:])
        return _Missing

    def find_outward(self, name: str) -> Input | type[_Missing]:
        found = self.find(name)
        return self.outer.find_outward(name) if found is _Missing and self.outer else found

    def _below(self, head: str, rest: list[str]) -> Input | type[_Missing]:
        self.read.add(head.split(".")[0])
        value = self.names[head]
        if not rest:
            return value if not isinstance(value, Ref) or self.linker.known(value.name) else _Missing
        if isinstance(value, tuple):
            index = rest[0]
            return value[int(index)] if index.isdigit() and int(index) < len(value) else _Missing
        if value is None:
            return _Missing
        address = ".".join([value.name, *rest])
        return Ref(address) if self.linker.known(address) else _Missing

    def copies(self, name: str, inner: str | None = None) -> list[str]:
        """`refs('encoder', 'norm')`: the addresses of all copies of a node, or of a part of each."""
        found: list[str] = []
        while True:
            path = ".".join(filter(None, (name, str(len(found)), inner)))
            value = self.find(path)
            if not (isinstance(value, Ref) and value.name in self.linker.addresses):
                return found
            found.append(path)

    def visible(self) -> Iterator[tuple[str, Ref]]:
        """Every value in sight, for suggestions that are tried."""
        for name, value in self.names.items():
            if isinstance(value, Ref):
                yield from ((n, Ref(a)) for n, a in self.linker.values_under(name, value.name))
        if self.outer:
            yield from ((f".{n.lstrip('.')}", r) for n, r in self.outer.visible())


class _Missing:
    """No such name."""


class _Linker:
    """Carries what all of one linking shares: known addresses, edits and their hits, mistakes."""

    def __init__(self, registry: Registry, blueprint: Blueprint):
        self.registry, self.blueprint = registry, blueprint
        self.library = {**registry.blueprints, **blueprint.library}
        self.mistakes: list[Diagnostic] = []
        self.addresses: dict[str, bool] = {}  # address -> whether it has several outputs
        self.broken: set[str] = set()
        self.edits: list[tuple[str, Edit, Pattern]] = []
        self.hits: Counter[int] = Counter()
        self.shared: list[tuple[str, str]] = []
        self.depth = 0

    # --- addresses ---------------------------------------------------------------------------------------------

    def known(self, address: str) -> bool:
        if address in self.addresses or "@" in address:
            return True
        parent = address.rpartition(".")[0]
        return bool(self.addresses.get(parent)) or any(is_prefix(b, address) for b in self.broken)

    def values_under(self, name: str, address: str) -> Iterator[tuple[str, str]]:
        yield name, address
        for other in self.addresses:
            rest = other[len(address) + 1 :]
            if other.startswith(address + ".") and rest.replace(".", "").isdigit():
                yield f"{name}.{rest}", other

    def register(self, address: str, many: bool = False) -> None:
        self.addresses[address] = many

    # --- the whole ---------------------------------------------------------------------------------------------

    def whole(self, blueprint: Blueprint) -> Graph:
        self.requirements(blueprint)
        inputs = tuple(self.inputs(blueprint))
        for i in inputs:
            self.register(i.name)
        scope = _Scope(self, {i.name: Ref(i.name) for i in inputs}, None, blueprint.graph)
        names = self.closed(blueprint, scope)
        first = Ref(inputs[0].name) if inputs else None
        members, _ = self.document(blueprint, "", names, scope, first)
        outputs = tuple(self.outputs(blueprint, names, scope))
        self.unread(blueprint, scope)
        self.missed_edits(0)
        return Graph(blueprint, inputs, members, outputs)

    def requirements(self, blueprint: Blueprint) -> None:
        have = {p.distribution for p in self.registry.plugins} | {p.name for p in self.registry.plugins}
        for wanted in blueprint.requires:
            name = wanted.split(">")[0].split("=")[0].split("<")[0].strip()
            if name not in have:
                text = f"this blueprint requires the plugin `{wanted}`, which is not installed"
                self.report(Diagnostic("BP103", text, blueprint.span, help=(f"pip install '{wanted}'",)))

    def document(
        self, blueprint: Blueprint, prefix: str, names: Names, scope: _Scope, first: Input
    ) -> tuple[tuple[Body, ...], Input]:
        """The nodes of a blueprint, its edits applied below `prefix`."""
        for edit in blueprint.edits:
            self.edits += [(prefix, edit, Pattern(prefix + at)) for at in edit.at or ("",)]
        added = [(k, v) for e in blueprint.edits if e.action == "add" for k, v in (e.change or {}).items()]
        graph = Map(dict(added) | dict(blueprint.graph))
        for part in [*(e.change for e in blueprint.edits if e.action == "add"), blueprint.graph]:
            graph.key_spans.update(getattr(part, "key_spans", {}))
            graph.value_spans.update(getattr(part, "value_spans", {}))
        scope.later = graph
        return self.members(prefix, graph, names, scope, first, aside={k for k, _ in added})

    def closed(self, blueprint: Blueprint, scope: _Scope) -> Names:
        """Parameters of a document; one that holds a block becomes a closure over this document."""
        names = replace(blueprint.names, functions={"refs": scope.copies})
        blocks = {
            p.name: Closure(p.value, names, scope, p.value_span or p.span)
            for p in blueprint.params.values()
            if p.type == "block" and not isinstance(p.value, Closure) and p.value is not None
        }
        return names.plus(blocks)

    def inputs(self, blueprint: Blueprint) -> Iterator[GraphInput]:
        names = blueprint.names
        for name, spec in blueprint.inputs.items():
            span = span_of(blueprint.inputs, name)
            try:
                yield self.input(name, spec, names, span)
            except BlueprintError as fault:
                self.mistakes += fault.diagnostics

    def input(self, name: str, spec: Any, names: Names, span: Span | None) -> GraphInput:
        spec = spec if isinstance(spec, dict) else Map({"type": spec})
        for key in spec:
            if key not in ("type", "size", "optional", "doc"):
                text = f"an input has no `{key}`{did_you_mean(key, ('type', 'size', 'optional', 'doc'))}"
                raise BlueprintError(Diagnostic("BP101", text, getattr(spec, "key_spans", {}).get(key, span)))
        words = tuple(str(spec.get("type") or "").split())
        size = evaluate(spec.get("size"), names, span_of(spec, "size") or span)
        if size is not None and not (isinstance(size, list) and size and all(type(n) is int and n > 0 for n in size)):
            text = f"the size of `{name}` must be a list of whole numbers above 0, not {size!r}"
            raise BlueprintError(Diagnostic("BP201", text, span_of(spec, "size") or span))
        channels = evaluate(words[1], names, span) if len(words) > 1 else None
        if words == ("map",) or words == ("any",):
            return GraphInput(name, words, None, bool(spec.get("optional")), span, None)
        if not words or words[0] != "B" or type(channels) is not (int if str(channels).isdigit() else type(None)):
            if not (words and words[0] == "B" and (isinstance(channels, int) or len(words) == 1)):
                text = f"the type of `{name}` reads like `B $channels *S` or `B 3 H W`, not `{spec.get('type')}`"
                raise BlueprintError(Diagnostic("BP201", text, span))
        if isinstance(channels, str):
            channels = int(channels)
        return GraphInput(name, words, tuple(size) if size else None, bool(spec.get("optional")), span, channels)

    def outputs(self, blueprint: Blueprint, names: Names, scope: _Scope) -> Iterator[GraphOutput]:
        for name, spec in blueprint.outputs.items():
            span = span_of(blueprint.outputs, name)
            try:
                yield self.output(name, spec, names, scope, span)
            except BlueprintError as fault:
                self.mistakes += fault.diagnostics

    def output(self, name: str, spec: Any, names: Names, scope: _Scope, span: Span | None) -> GraphOutput:
        training = False
        if isinstance(spec, dict):
            odd = next((k for k in spec if k not in ("from", "when", "note")), None)
            if odd or spec.get("when", "training") != "training":
                text = f"an output is a reference, or {{from: …, when: training}}; `{name}` is {dict(spec)!r}"
                raise BlueprintError(Diagnostic("BP201", text, span))
            training = "when" in spec
            span, spec = span_of(spec, "from") or span, spec.get("from")
        return GraphOutput(name, self.reference(spec, names, scope, span), training, span)

    def unread(self, blueprint: Blueprint, scope: _Scope) -> None:
        removed = {a for p, e, _ in self.edits for a in e.at if e.action == "remove" and not p}
        for name in scope.names:
            if name not in scope.read and "." not in name and name not in removed and name not in self.broken:
                if name in blueprint.inputs:
                    spec = blueprint.inputs[name]
                    span, what = blueprint.inputs.key_spans.get(name), "input"
                    if isinstance(spec, dict) and spec.get("optional"):
                        continue
                else:
                    span, what = scope.later.key_spans.get(name) if isinstance(scope.later, Map) else None, "node"
                text = f"nothing uses the {what} `{name}`"
                self.report(Diagnostic("BP108", text, span, help=("read it in a `from:` or in `outputs:`, or remove it",)))

    def missed_edits(self, start: int) -> None:
        """An edit that matches nothing names the nearest addresses."""
        hit = {id(self.edits[k][1]) for k in self.hits}
        for _, edit, pattern in self.edits[start:]:
            if edit.action != "add" and id(edit) not in hit and not self.broken:
                hit.add(id(edit))
                text = f"this edit matches nothing: no part has the address `{edit.where}`"
                close = nearest(pattern.text, self.addresses, 3)
                help = (f"did you mean {listing(f'`{c}`' for c in close)}?",) if close else ()
                self.report(Diagnostic("BP106", text, edit.span, help=help))

    def report(self, diagnostic: Diagnostic) -> None:
        self.mistakes.append(diagnostic)

    # --- edits -------------------------------------------------------------------------------------------------

    def edited(self, address: str, spec: Any) -> Any:
        """The spec after every `set`, `replace`, `wrap` and `remove` at its address; None when it is removed."""
        for k, (_, edit, pattern) in enumerate(self.edits):
            if edit.action in ("set", "replace", "wrap", "remove") and edit.at and pattern.matches(address):
                self.hits[k] += 1
                spec = _changed(spec, edit)
                if spec is None:
                    return None
        return spec

    def inserted(self, address: str) -> list[tuple[str, Any, bool]]:
        found: list[tuple[str, Any, bool]] = []
        for k, (_, edit, pattern) in enumerate(self.edits):
            if edit.action == "insert_after" and pattern.matches(address):
                self.hits[k] += 1
                found += [(n, s, not (isinstance(s, dict) and ("from" in s or "for" in s))) for n, s in edit.change.items()]
        return found

    # --- graphs ------------------------------------------------------------------------------------------------

    def members(
        self, prefix: str, graph: Map, names: Names, scope: _Scope, first: Input, aside: set[str] | None = None
    ) -> tuple[tuple[Body, ...], Input]:
        """The nodes of one graph in order, and the value of the last."""
        names = replace(names, functions={"refs": scope.copies})
        bodies: list[Body] = []
        previous = first
        queue: list[tuple[str, Any, str | None]] = [(n, s, None) for n, s in graph.items()]
        seen: set[str] = set()
        while queue:
            name, spec, alias = queue.pop(0)
            address, span = prefix + name, graph.key_spans.get(name)
            if name in seen or not self.allowed(name, span):
                self.report(Diagnostic("BP107", f"two nodes are named `{address}`", span)) if name in seen else None
                continue
            seen.add(name)
            try:
                body = self.node(address, name, self.as_spec(spec, name, span), names, scope, previous, span)
            except BlueprintError as fault:
                self.mistakes += fault.diagnostics
                body = Broken(address)
                self.broken.add(address)
            if body is None:
                continue
            bodies.append(body)
            scope.names[name] = Ref(address)
            self.addresses.setdefault(address, False)
            if alias:
                scope.names[alias] = Ref(address)
            if name not in (aside or ()):
                previous = Ref(address)
            for n, s, inline in reversed(self.inserted(address)):
                queue.insert(0, (n, s, (alias or name) if inline else None))
        return tuple(bodies), previous

    def allowed(self, name: str, span: Span | None) -> bool:
        if name in RESERVED or not name.replace("_", "").isalnum() or name[0].isdigit():
            why = "a word of the language" if name in RESERVED else "letters, digits and underscores, not a digit first"
            self.report(Diagnostic("BP107", f"`{name}` cannot name a node ({why})", span))
            return False
        return True

    def as_spec(self, spec: Any, role: str, span: Span | None) -> Map:
        if isinstance(spec, str):
            use = spec if self.exists(spec) or not self.exists(f"{role}.{spec}") else f"{role}.{spec}"
            made = Map({"use": use})
            made.span = span  # type: ignore[assignment]
            made.value_spans = {"use": span} if span else {}
            return made
        if isinstance(spec, dict):
            return spec if isinstance(spec, Map) else Map(spec)
        text = f"`{role}` takes a block: `{{use: …}}`, a name or an inline graph, not {spec!r:.60}"
        raise BlueprintError(Diagnostic("BP207", text, span))

    def exists(self, name: str) -> bool:
        return name in self.registry.blocks or name in self.registry.clashes or name.partition(":")[0] in self.library

    def node(
        self, address: str, name: str, spec: Map, names: Names, scope: _Scope, previous: Input, span: Span | None
    ) -> Body | None:
        edited = self.edited(address, spec)
        if edited is None:
            return None
        spec = self.as_spec(edited, name, span)
        if previous is not None and isinstance(previous, Ref) and "from" not in spec and "carry" not in spec:
            scope.read.add(_local(previous.name, scope))
        if "for" in spec or ("carry" in spec and "repeat" in spec):
            return self.loop(address, name, spec, names, scope, previous, span)
        self.odd_words(spec, ("carry",), "without `for` or `repeat`")
        return self.instance(address, without(spec, "from"), spec, names, scope, previous, span)

    def odd_words(self, spec: Map, words: Iterable[str], why: str) -> None:
        for word in words:
            if word in spec:
                raise BlueprintError(Diagnostic("BP201", f"`{word}` {why}", spec.key_spans.get(word)))

    def loop(
        self, address: str, name: str, spec: Map, names: Names, scope: _Scope, previous: Input, span: Span | None
    ) -> Group:
        """`for`: instances over equal lists; each takes the value before it, or what `carry` names."""
        rows, row_spans = self.rows(spec, names, span)
        base = without(spec, "for", "carry", "from", *(["repeat"] if "for" not in spec else []))
        carried = self.carried(spec, names, scope, previous)
        self.register(address)
        scope.names[name] = Ref(address)
        bodies: list[Body] = []
        result: Input = previous
        for i, row in enumerate(rows):
            own = f"{address}.{i}"
            inner_names = names.plus({**row, "i": i}, row_spans[i])
            inner_scope = scope.with_names(carried)
            source = without(spec, *(k for k in spec if k != "from")) if "from" in spec else Map({"from": "carry"})
            if source.get("from") == "carry" and "carry" not in carried:
                first = ", ".join(f"{k}: {k}" for k in carried)
                text = f"`carry` names several values, so the loop needs `from: {{…}}` with {first}"
                raise BlueprintError(Diagnostic("BP203", text, span_of(spec, "carry")))
            edited = self.edited(own, base)
            if edited is None:
                continue
            self.shared.append((own, f"{address}.0"))
            body = self.instance(own, self.as_spec(edited, name, span), source, inner_names, inner_scope, None, span)
            self.shared.pop()
            self.addresses.setdefault(own, False)
            bodies.append(body)
            result = Ref(own)
            carried = self.handed_on(carried, own, body, span_of(spec, "carry"))
        return Group(address, "for", tuple(bodies), result, span)

    def rows(self, spec: Map, names: Names, span: Span | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The loop variables of each instance, and their places."""
        if "for" not in spec:
            count = self.count(spec, names)
            return [{} for _ in range(count)], [{} for _ in range(count)]
        lists, loop = {}, spec["for"]
        if not isinstance(loop, dict) or not loop:
            text = "`for` is a mapping of names to lists: `for: {out: [32, 64]}`"
            raise BlueprintError(Diagnostic("BP206", text, span_of(spec, "for") or span))
        for key, raw in loop.items():
            place = span_of(loop, key)
            if key in names and key not in ("i", "j") and names.get(key) is not None:
                raise BlueprintError(Diagnostic("BP206", f"the loop variable `{key}` hides a name in sight", place))
            values = evaluate(raw, names, place)
            if not isinstance(values, list):
                raise BlueprintError(Diagnostic("BP206", f"`for` needs lists; `{key}` is {values!r:.60}", place))
            spans = getattr(raw, "item_spans", None) or [place] * len(values)
            lists[key] = (values, spans)
        lengths = {k: len(v) for k, (v, _) in lists.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{k} has {n}" for k, n in lengths.items())
            raise BlueprintError(Diagnostic("BP206", f"the lists of `for` differ in length: {said}", span_of(spec, "for")))
        count = next(iter(lengths.values()))
        rows = [{k: v[i] for k, (v, _) in lists.items()} for i in range(count)]
        return rows, [{k: s[i] for k, (_, s) in lists.items()} for i in range(count)]

    def carried(self, spec: Map, names: Names, scope: _Scope, previous: Input) -> dict[str, Input]:
        if "carry" not in spec:
            return {"carry": previous}
        raw, span = spec["carry"], span_of(spec, "carry")
        if isinstance(raw, dict):
            return {f"carry.{k}": self.reference(v, names, scope, span_of(raw, k) or span) for k, v in raw.items()}
        return {"carry": self.reference(raw, names, scope, span)}

    def handed_on(self, carried: Mapping[str, Input], own: str, body: Body, span: Span | None) -> dict[str, Input]:
        if set(carried) == {"carry"}:
            return {"carry": Ref(own, span)}
        return {k: Ref(f"{own}.{k.removeprefix('carry.')}", span) for k in carried}

    def count(self, spec: Map, names: Names) -> int:
        span = span_of(spec, "repeat")
        count = evaluate(spec["repeat"], names, span)
        if type(count) is not int or count < 0 or count > 10_000:
            text = f"`repeat` needs a whole number from 0 to 10000, not {count!r}"
            raise BlueprintError(Diagnostic("BP201", text, span))
        return count

    def instance(
        self, address: str, spec: Map, source: Map, names: Names, scope: _Scope, previous: Input, span: Span | None
    ) -> Body:
        """One node, or one instance of a loop: `source` holds its `from`."""
        if "from" in source:
            ports = self.ports(source["from"], names, scope, span_of(source, "from"))
        else:
            ports = {"": previous}
        return self.placed(address, spec, names, scope, ports, span)

    def placed(
        self,
        address: str,
        spec: Map,
        names: Names,
        scope: _Scope,
        ports: Mapping[str, Input],
        span: Span | None,
        slot: str = "",
    ) -> Body:
        if "when" in spec and not evaluate(spec["when"], names, span_of(spec, "when")):
            passed = ports.get("", ports.get("x", next(iter(ports.values()), None)))
            self.register(address)
            return Through(address, passed, span, slot)
        shared = "share" in spec and evaluate(spec["share"], names, span_of(spec, "share"))
        spec = without(spec, "when", "share", "note")
        if not shared or not self.shared:
            return self.copies(address, spec, names, scope, ports, span, slot)
        self.shared.append((self.shared[-1][0], self.shared[-1][1] + "!"))
        body = self.copies(address, spec, names, scope, ports, span, slot)
        self.shared.pop()
        return body

    def module(self, address: str) -> str:
        """Where the weights of an address live: in the first copy, if it shares them."""
        for own, first in reversed(self.shared):
            if first.endswith("!") and is_prefix(own, address):
                return first.rstrip("!") + address[len(own) :]
        return address

    def copies(
        self, address: str, spec: Map, names: Names, scope: _Scope, ports: Mapping[str, Input], span: Span | None, slot: str
    ) -> Body:
        """`repeat`: copies in a row with weights of their own; `j` counts them."""
        if "repeat" not in spec:
            self.odd_words(spec, ("first", "last"), "without `repeat`")
            return self.one(address, spec, names, scope, ports, span, slot)
        count = self.count(spec, names)
        base = without(spec, "repeat", "first", "last")
        flow = _flowing(ports)
        self.register(address)
        bodies: list[Body] = []
        result = ports.get(flow)
        for j in range(count):
            own, ports = f"{address}.{j}", {**ports, flow: result}
            copy = self.override(base, spec, j, count)
            edited = self.edited(own, copy)
            if edited is None:
                continue
            own_names, copy = names.plus({"j": j}), self.as_spec(edited, address.rpartition(".")[2], span)
            given = dict(ports)
            if "from" in copy:
                given |= self.ports(copy["from"], own_names, scope, span_of(copy, "from"))
            bodies.append(self.placed(own, without(copy, "from"), own_names, scope, given, span))
            self.addresses.setdefault(own, False)
            result = Ref(own)
        return Group(address, "repeat", tuple(bodies), result, span, slot=slot)

    def override(self, base: Map, spec: Map, j: int, count: int) -> Map:
        if j == 0 and spec.get("first"):
            base = merge_specs(base, spec["first"])
        if j == count - 1 and spec.get("last"):
            base = merge_specs(base, spec["last"])
        return base

    def one(
        self, address: str, spec: Map, names: Names, scope: _Scope, ports: Mapping[str, Input], span: Span | None, slot: str
    ) -> Body:
        self.depth += 1
        if self.depth > 60:
            raise BlueprintError(Diagnostic("BP109", f"blocks nest without end at `{address}`", span))
        try:
            if "graph" in spec:
                return self.inline(address, spec, names, scope, ports, span, slot)
            if "use" not in spec:
                text = f"`{address}` needs `use:` (a block) or `graph:` (an inline graph)"
                raise BlueprintError(Diagnostic("BP202", text, span))
            return self.used(address, spec, names, scope, ports, span, slot)
        finally:
            self.depth -= 1

    def inline(
        self, address: str, spec: Map, names: Names, scope: _Scope, ports: Mapping[str, Input], span: Span | None, slot: str
    ) -> Group:
        """An inline graph: it sees its ports and its own nodes, and the graph around it through a leading dot."""
        odd = next((k for k in spec if k not in RESERVED), None)
        if odd:
            text = f"`{address}` holds an inline graph, which has no option `{odd}`; nodes stand below `graph:`"
            raise BlueprintError(Diagnostic("BP204", text, spec.key_spans.get(odd)))
        graph = spec["graph"]
        if not isinstance(graph, dict):
            raise BlueprintError(Diagnostic("BP207", f"`graph` is a mapping of nodes, not {graph!r:.40}", span_of(spec, "graph")))
        graph = graph if isinstance(graph, Map) else Map(graph)
        named = {(k or "x"): v for k, v in ports.items()}
        inner = _Scope(self, named, scope, graph)
        unused = self.unused(address, spec, names, scope, ports)
        first = named.get("x", next(iter(named.values()), None) if len(named) == 1 else None)
        members, last = self.members(f"{address}.", graph, names, inner, first)
        if "outputs" not in spec:
            self.addresses.setdefault(address, False)
            return Group(address, "graph", members, last, span, slot=slot, unused=unused)
        outputs, result = spec["outputs"], {}
        for name, value in outputs.items():
            result[name] = self.reference(value, names, inner, span_of(outputs, name))
            self.register(f"{address}.{name}")
        self.register(address, False)
        return Group(address, "graph", members, result, span, slot=slot, unused=unused)

    def unused(
        self, address: str, spec: Map, names: Names, scope: _Scope, ports: Mapping[str, Input]
    ) -> tuple[Body, ...]:
        """Parts that own weights and never run."""
        bodies = []
        for name, part in (spec.get("unused") or {}).items():
            span = span_of(spec["unused"], name)
            given = {"x": v for v in list(ports.values())[:1]}
            bodies.append(self.filled(f"{address}.{name}", part, names, scope, given, name, span, name))
        return tuple(b for b in bodies if b is not None)

    # --- blocks ------------------------------------------------------------------------------------------------

    def used(
        self, address: str, spec: Map, names: Names, scope: _Scope, ports: Mapping[str, Input], span: Span | None, slot: str
    ) -> Body:
        use, place = evaluate(spec["use"], names, span_of(spec, "use")), span_of(spec, "use") or span
        if isinstance(use, str) and use not in self.registry.blocks and use not in self.registry.clashes:
            if use.rpartition(":")[0] in self.library or use in self.library or use.endswith(".yaml"):
                return self.nested(address, use, spec, names, scope, ports, place, slot)
        block_class = self.block_class(use, place)
        inputs = self.bound(block_class, ports, address, place)
        written, spans = self.options(block_class, spec, names)
        block = self.configured(block_class, written, spans, place, spec, address)
        parts: dict[str, Body | None] = {}
        for slot_spec in block_class.slots.values():
            parts |= self.slots(address, slot_spec, spec, names, scope, inputs, block_class, place)
        self.register(address, block_class.many)
        return Call(
            address, use, block, inputs, parts, written, self.module(address), place, spans,
            tuple(scope.visible()), slot, self.unused(address, spec, names, scope, ports),
        )  # fmt: skip

    def block_class(self, use: Any, span: Span | None) -> type[Block]:
        if isinstance(use, str) and use in self.registry.blocks:
            return self.registry.blocks[use]
        if use in self.registry.clashes:
            raise BlueprintError(replace(clash(use, self.registry.clashes[use]), span=span))
        names = [*self.registry.blocks, *self.library]
        namespace = str(use).split(".")[0]
        if "." in str(use) and not any(n.startswith(f"{namespace}.") for n in names):
            text = f"unknown block `{use}`; no installed plugin provides the namespace `{namespace}`"
            close = nearest(str(use).split(".")[-1], names) or nearest(str(use), names)
            help = (f"did you mean `{close[0]}`?",) if close else ()
            raise BlueprintError(Diagnostic("BP103", text, span, help=help))
        siblings = [n for n in names if n.startswith(f"{namespace}.")] if "." in str(use) else []
        note = (f"`{namespace}.…`: {listing(siblings)}",) if siblings else ()
        raise BlueprintError(Diagnostic("BP102", f"unknown block `{use}`{did_you_mean(use, names)}", span, notes=note))

    def options(self, block: type[Block], spec: Map, names: Names) -> tuple[dict[str, Any], dict[str, Span | None]]:
        """The options written at a node, evaluated; slots stay as written."""
        written, spans = {}, {}
        for key in spec:
            if key in RESERVED:
                continue
            spans[key] = span_of(spec, key)
            if key not in block.model_fields:
                text = f"`{block.name}` has no option `{key}`{did_you_mean(key, block.model_fields)}"
                note = f"options: {listing(block.model_fields, 20)}" if block.model_fields else "it has no options"
                raise BlueprintError(Diagnostic("BP204", text, spec.key_spans.get(key), notes=(note,)))
            written[key] = spec[key] if key in block.slots else evaluate(spec[key], names, spans[key])
        return written, spans

    def configured(
        self, block: type[Block], written: Mapping[str, Any], spans: Mapping[str, Span | None], span: Span | None, spec: Map, address: str
    ) -> Block:
        try:
            return block(**written)
        except ValidationError as fault:
            raise BlueprintError(list(_invalid(block, fault, written, spans, span, address))) from None

    def bound(
        self, block: type[Block], ports: Mapping[str, Input], address: str, span: Span | None
    ) -> dict[str, Input]:
        """Values by port name: an unnamed value goes to the first port."""
        known = (*block.required, *block.optional)
        given = dict(ports)
        if "" in given:
            value = given.pop("")
            if known:
                given.setdefault(known[0], value)
        if known and known[0] not in given and "x" in given and "x" not in known:
            given[known[0]] = given.pop("x")
        for port in list(given):
            if port not in known and not block.open_ports:
                text = f"`{block.name}` has no input `{port}`{did_you_mean(port, known)}"
                note = (f"inputs: {listing(known)}",) if known else ("it has no inputs",)
                raise BlueprintError(Diagnostic("BP203", text, _place(given[port]) or span, notes=note, address=address))
        missing = [p for p in block.required if given.get(p) is None]
        if missing:
            text = f"`{block.name}` needs the input `{missing[0]}`"
            raise BlueprintError(Diagnostic("BP203", text, span, help=("give it with `from:`",), address=address))
        many = [p for p, v in given.items() if isinstance(v, tuple) and not (block.lists and p == known[0])]
        if many:
            text = f"`{block.name}` takes one value as `{many[0]}`, not a list of {len(given[many[0]] or ())}"  # type: ignore[arg-type]
            raise BlueprintError(Diagnostic("BP203", text, span, help=("name the inputs: `from: {x: …, …: …}`",)))
        return given

    def slots(
        self,
        address: str,
        slot: SlotSpec,
        spec: Map,
        names: Names,
        scope: _Scope,
        inputs: Mapping[str, Input],
        block: type[Block],
        span: Span | None,
    ) -> dict[str, Body | None]:
        raw = spec[slot.name] if slot.name in spec else slot.default
        place = span_of(spec, slot.name) or span
        if raw is None and slot.required:
            text = f"`{block.name}` needs a block in its slot `{slot.name}`"
            raise BlueprintError(Diagnostic("BP202", text, span, help=(f"give it `{slot.name}: {{use: …}}`",)))
        extra = [p for p in inputs if block.open_ports and p not in block.required and p not in block.optional]
        bodies: dict[str, Body | None] = {}
        for at in slot.at:
            own = f"{address}.{at}"
            offers = {o: Ref(f"{own}@{o}") for o in (*slot.offers, *extra)}
            bodies[at] = self.filled(own, raw, names, scope, offers, slot.role, place, slot.name)
        return bodies

    def filled(
        self,
        address: str,
        raw: Any,
        names: Names,
        scope: _Scope,
        offers: Mapping[str, Input],
        role: str,
        span: Span | None,
        slot: str,
    ) -> Body | None:
        """The body of a slot: a name, a block or an inline graph, offered values by its owner."""
        raw, names, scope, span = self.opened(raw, names, scope, span)
        if raw is None or raw is False:
            if self.edited(address, Map()) != {}:  # an edit may fill an empty slot
                raw = Map()
            else:
                return None
        spec = self.edited(address, self.as_spec(raw, role, span))
        if spec is None:
            return None
        spec = self.as_spec(spec, role, span)
        if "use" not in spec and "graph" not in spec:
            spec = _as_inline(spec)
        inner = _Scope(self, offers, scope, {})
        return self.placed(address, without(spec, "from"), names, scope, self.offered(spec, names, inner, offers), span, slot)

    def opened(self, raw: Any, names: Names, scope: _Scope, span: Span | None) -> tuple[Any, Names, _Scope, Span | None]:
        """What a parameter that holds a block stands for, and the names of the place where it was written."""
        while True:
            var = is_var(raw)
            if var and var in names:
                raw = names[var]
            elif isinstance(raw, str) and raw.startswith("$"):
                return evaluate(raw, names, span), names, scope, span
            elif isinstance(raw, Closure):
                raw, names, scope, span = raw.spec, raw.names, raw.scope, raw.span or span
            else:
                return raw, names, scope, span

    def offered(self, spec: Map, names: Names, inner: _Scope, offers: Mapping[str, Input]) -> dict[str, Input]:
        """What a slot's block gets: the offers its contract names, and what its own `from:` asks for."""
        first = next(iter(offers), "x")
        given: dict[str, Input]
        if "use" in spec:
            use = spec["use"]
            block = self.registry.blocks.get(use) if isinstance(use, str) else None
            if block is not None:
                known = (*block.required, *block.optional)
                given = {p: offers[p] for p in known if p in offers}
                if not any(p in offers for p in known[:1]):
                    given[""] = offers.get(first)
            else:
                given = dict(offers) if isinstance(use, str) and use in self.library else {"": offers.get(first)}
        else:
            given = dict(offers)
        if "from" not in spec:
            return given
        asked = self.ports(spec["from"], names, inner, span_of(spec, "from"))
        if "" in asked:
            given.pop(first, None)
        return {**given, **asked}

    def nested(
        self, address: str, use: str, spec: Map, names: Names, scope: _Scope, ports: Mapping[str, Input], span: Span | None, slot: str
    ) -> Group:
        """A blueprint used as a block: its inputs are ports, its parameters are options."""
        inner = self.loaded(use, spec, names, scope, span)
        given = dict(ports)
        wanted = list(inner.inputs)
        if "" in given:
            given.setdefault(wanted[0], given.pop(""))
        if wanted[0] not in given and "x" in given:
            given[wanted[0]] = given["x"]
        missing = [w for w in wanted if given.get(w) is None and not _optional(inner.inputs[w])]
        if missing:
            raise BlueprintError(Diagnostic("BP203", f"`{use}` needs the input `{missing[0]}`", span))
        own = _Scope(self, {w: given.get(w) for w in wanted}, None, inner.graph)
        inner_names, start = self.closed(inner, own), len(self.edits)
        members, _ = self.document(inner, f"{address}.", inner_names, own, given.get(wanted[0]))
        result = {n: self.output(n, s, inner_names, own, span).value for n, s in inner.outputs.items()}
        self.unread(inner, own)
        self.missed_edits(start)
        del self.edits[start:]
        for name in result:
            self.register(f"{address}.{name}")
        self.register(address, False)
        options = {k: v for k, v in spec.items() if k not in RESERVED}
        checks = tuple(
            (given[i.name], i, span) for i in self.inputs(inner) if isinstance(given.get(i.name), Ref)
        )
        single = next(iter(result.values())) if len(result) == 1 else result
        return Group(address, "graph", members, single, span, use, options, slot, checks)  # type: ignore[arg-type]

    def loaded(self, use: str, spec: Map, names: Names, scope: _Scope, span: Span | None) -> Blueprint:
        given = Map()
        for key in spec:
            if key in RESERVED:
                continue
            raw = spec[key]
            lazy = isinstance(raw, dict) or is_var(raw) and isinstance(names.get(is_var(raw) or ""), Closure)
            place = span_of(spec, key)
            given[key] = Closure(raw, names, scope, place) if lazy else evaluate(raw, names, place)
            given.key_spans[key] = spec.key_spans.get(key)  # type: ignore[assignment]
            given.value_spans[key] = place  # type: ignore[assignment]
        near = self.blueprint.files[0].parent if self.blueprint.files else None
        return blueprints.load(use, given, self.library, near)

    # --- references --------------------------------------------------------------------------------------------

    def ports(self, raw: Any, names: Names, scope: _Scope, span: Span | None) -> dict[str, Input]:
        """`from:` → values by port; an unnamed one stands under the empty name."""
        if isinstance(raw, dict):
            return {k: self.reference(v, names, scope, span_of(raw, k) or span) for k, v in raw.items()}
        return {"": self.reference(raw, names, scope, span)}

    def reference(self, raw: Any, names: Names, scope: _Scope, span: Span | None) -> Input:
        """A reference, a list of them, or null."""
        var = is_var(raw)
        if var and names.spans.get(var):
            span = names.spans[var]
        if isinstance(raw, list):
            spans = getattr(raw, "item_spans", None) or [span] * len(raw)
            return _flattened([self.reference(r, names, scope, s) for r, s in zip(raw, spans, strict=False)])
        value = evaluate(raw, names, span)
        if isinstance(value, list):
            return self.reference(list(value), names, scope, span)
        if value is None:
            return None
        if not isinstance(value, str):
            raise BlueprintError(Diagnostic("BP104", f"a reference is the name of a value, not {value!r:.60}", span))
        return self.named(value, scope, span)

    def named(self, name: str, scope: _Scope, span: Span | None) -> Input:
        if name.endswith(".*"):
            copies = scope.copies(name[:-2])
            if not copies and scope.find(name[:-2]) is not _Missing and self.is_broken(name[:-2], scope):
                return scope.find(name[:-2])  # type: ignore[return-value]
            if not copies:
                raise BlueprintError(self.no_value(name, scope, span))
            return tuple(Ref(r.name, span) for c in copies if isinstance(r := scope.find(c), Ref))
        found = scope.find(name)
        if found is _Missing:
            raise BlueprintError(self.no_value(name, scope, span))
        return Ref(found.name, span) if isinstance(found, Ref) else found  # type: ignore[return-value]

    def is_broken(self, name: str, scope: _Scope) -> bool:
        found = scope.find(name)
        return isinstance(found, Ref) and any(is_prefix(b, found.name) for b in self.broken)

    def no_value(self, name: str, scope: _Scope, span: Span | None) -> Diagnostic:
        names = list(dict.fromkeys(n for n, _ in scope.visible()))
        head = name.lstrip(".").split(".")[0]
        if head in scope.later and head not in scope.names:
            place = scope.later.key_spans.get(head) if isinstance(scope.later, Map) else None
            circle = _circle(scope.later, head)
            text = f"`{name}` is defined below" + (f" (line {place.line})" if place else "")
            if circle:
                return Diagnostic("BP109", f"the graph goes in a circle: {' -> '.join(circle)}", span)
            return Diagnostic("BP104", text, span, help=("nodes are computed in order: move it above this one",))
        outward = f".{name}" if scope.outer and scope.outer.find_outward(name) is not _Missing else ""
        inner = [n for n in names if n.startswith(f"{head}.")]
        if head in scope.names and inner:
            return Diagnostic("BP104", f"`{head}` has no value `{name[len(head) + 1:]}`", span, notes=(f"it has {listing(inner)}",))
        help = (f"`{outward}` is outside this graph: a leading dot reaches it",) if outward else ()
        text = f"no value is named `{name}` here{did_you_mean(name, names) if not outward else ''}"
        return Diagnostic("BP104", text, span, notes=(f"values in sight: {listing(names)}",), help=help)


def _changed(spec: Any, edit: Edit) -> Any:
    if edit.action == "remove":
        return None if edit.change else spec
    if isinstance(spec, str):
        spec = Map({"use": spec})
    if edit.action == "set":
        return merge_specs(spec, edit.change)
    if edit.action == "wrap":
        return _wrapped(edit.change, without(spec, "from"), spec)
    kept = {k: spec[k] for k in ("from", "for", "carry") if isinstance(spec, dict) and k in spec and k not in _keys(edit)}
    change = edit.change if isinstance(edit.change, dict) else Map({"use": edit.change})
    return merge_specs(Map(kept), change) if kept else change


def _keys(edit: Edit) -> Iterable[str]:
    return edit.change if isinstance(edit.change, dict) else ()


def _wrapped(change: Any, original: Any, spec: Any) -> Any:
    """`$original` in a wrap is what was there; its inputs stay at the outside."""

    def put(value: Any) -> Any:
        if value == "$original":
            return original
        return merge_specs(Map(), Map({k: put(v) for k, v in value.items()})) if isinstance(value, dict) else value

    wrapped = put(change)
    if isinstance(spec, dict) and "from" in spec and "from" not in wrapped:
        wrapped = merge_specs(wrapped, Map({"from": spec["from"]}))
    return wrapped


def _as_inline(spec: Map) -> Map:
    """A mapping of nodes in a slot is an inline graph."""
    nodes = without(spec, *(k for k in spec if k in RESERVED))
    outer = without(spec, *(k for k in spec if k not in RESERVED))
    return merge_specs(outer, Map({"graph": nodes}))  # type: ignore[no-any-return]


def _flowing(ports: Mapping[str, Input]) -> str:
    """The port through which copies are chained."""
    return next((p for p in ("", "x") if p in ports), next(iter(ports), ""))


def _flattened(values: Iterable[Input]) -> tuple[Ref, ...]:
    flat: list[Ref] = []
    for value in values:
        flat += value if isinstance(value, tuple) else [value] if value is not None else []
    return tuple(flat)


def _local(address: str, scope: _Scope) -> str:
    """The name under which a scope knows an address."""
    return next((n for n, v in scope.names.items() if isinstance(v, Ref) and v.name == address), address)


def _optional(spec: Any) -> bool:
    return isinstance(spec, dict) and bool(spec.get("optional"))


def _place(value: Input) -> Span | None:
    return value.span if isinstance(value, Ref) else None


def _invalid(
    block: type[Block],
    fault: ValidationError,
    written: Mapping[str, Any],
    spans: Mapping[str, Span | None],
    span: Span | None,
    address: str,
) -> Iterator[Diagnostic]:
    """One message per option that does not fit; alternatives of a union are said once."""
    seen: set[str] = set()
    for error in fault.errors():
        key = str(error["loc"][0]) if error["loc"] else ""
        if key in seen:
            continue
        seen.add(key)
        if error["type"] == "missing":
            text = f"`{block.name}` needs the option `{key}`"
            yield Diagnostic("BP202", text, span, help=(f"give it: `{key}: …`",), address=address)
            continue
        reasons = dict.fromkeys(e["msg"] for e in fault.errors() if e["loc"] and str(e["loc"][0]) == key)
        why = "; or ".join(r[0].lower() + r[1:].removeprefix("alue error, ") for r in reasons)
        said = f"`{key}: {written[key]!r}`" if key in written else f"`{block.name}`"
        yield Diagnostic("BP201", f"{said} does not fit `{block.name}`: {why}", spans.get(key, span), address=address)


def _circle(graph: Mapping[str, Any], start: str) -> list[str]:
    """The names along a circle of references through `start`, if there is one."""
    import networkx  # 0.3 s to import, and only needed for this message

    edges = networkx.DiGraph()
    previous = None
    for name, spec in graph.items():
        mentioned = _mentions(spec) if isinstance(spec, dict) else set()
        if previous and not (isinstance(spec, dict) and "from" in spec):
            mentioned.add(previous)
        edges.add_edges_from((m.split(".")[0], name) for m in mentioned if m.split(".")[0] in graph)
        previous = name
    try:
        found = networkx.find_cycle(edges, start)
    except (networkx.NetworkXNoCycle, networkx.NodeNotFound):
        return []
    return [a for a, _ in found] + [found[-1][1]]


def _mentions(spec: Any) -> set[str]:
    """Names in the `from` and `carry` of one node."""
    raw = [spec.get("from"), spec.get("carry")]
    found: set[str] = set()
    while raw:
        value = raw.pop()
        if isinstance(value, dict):
            raw += value.values()
        elif isinstance(value, list):
            raw += value
        elif isinstance(value, str):
            found.add(value)
    return found
