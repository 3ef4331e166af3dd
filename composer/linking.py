"""Stage 2: Blueprint + Registry -> Graph: names become blocks, slots are filled, loops unrolled, edits applied.

Every reference is resolved here. All of one linking shares a `_Linker`: the addresses that exist so far, the edits and
what they hit, and the mistakes, which are collected so that one run shows them all.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from pydantic import ValidationError

from composer import blueprint as blueprints
from composer import reaching, renewing
from composer.addresses import Pattern, is_prefix
from composer.block import RESERVED, Block, SlotSpec
from composer.blueprint import Blueprint, Edit, merge_specs, replaced, without
from composer.diagnostics import BlueprintError, Diagnostic, Label, Span, did_you_mean, listing, nearest, once
from composer.edits import as_inline, changed
from composer.expressions import ExpressionError
from composer.frozen import dataclass, replace
from composer.graph import (
    Body,
    Broken,
    Call,
    Changed,
    Given,
    Graph,
    GraphInput,
    GraphOutput,
    Group,
    Input,
    Ref,
    Through,
)
from composer.names import Closure, Names, evaluate, is_var
from composer.origins import with_origins
from composer.registry import Registry, clash
from composer.requirements import absent, unmet
from composer.scopes import Missing, Scope, circle
from composer.source import NOWHERE, Map, span_of


def link(blueprint: Blueprint, registry: Registry) -> Graph:
    """Resolve every name of a blueprint. Raises `BlueprintError` with all mistakes found."""
    graph, mistakes = link_all(blueprint, registry)
    if mistakes:
        raise BlueprintError(mistakes)
    return graph


def link_all(blueprint: Blueprint, registry: Registry) -> tuple[Graph, list[Diagnostic]]:
    """The graph as far as it could be linked, and every mistake on the way."""
    while True:
        linker = _Linker(registry, blueprint)
        graph = linker.whole(blueprint)
        fuller = linker.completed(blueprint)
        if fuller is None:
            return graph, with_origins(once(linker.mistakes), graph)
        blueprint = fuller


@dataclass(frozen=True)
class _Site:
    """A part about to be linked: what is written and where, the names and values it sees, and what it is given.

    `sees` is what a slot's own `from` sees, where that is not the graph around the node. `tied` copies of a `repeat`
    have the weights of the first.
    """

    address: str
    spec: Any
    names: Names
    scope: Scope
    ports: Mapping[str, Input]
    span: Span | None
    slot: str = ""
    sees: Scope | None = None
    tied: bool = False


INPUT_CHOICES = {"pad": ("error", "auto", "crop"), "fill": ("zero", "reflect")}
"""What an input may do with a size that is not valid, and what it pads with; the first is the default."""

MAX_PARTS = 50_000
"""Parts that loops may make; a file has at most 100,000 values, and no network of a paper 2,000 parts."""

PARTS: ContextVar[int] = ContextVar("PARTS", default=MAX_PARTS)
"""The same where fewer are worth the time: when only a suggestion is tried."""

MAX_DOCUMENTS = 400
"""Blueprints used as blocks: a few files that use each other twice would make billions."""

INPUT_KEYS = ("type", "size", "optional", "pad", "fill", "doc")


@contextmanager
def at_most(parts: int) -> Iterator[None]:
    """While it lasts, loops that make more parts than this are refused."""
    before = PARTS.set(parts)
    try:
        yield
    finally:
        PARTS.reset(before)


class _Linker:
    """Carries what all of one linking shares: known addresses, edits and their hits, mistakes."""

    def __init__(self, registry: Registry, blueprint: Blueprint):
        self.registry, self.blueprint = registry, blueprint
        self.library = {**registry.blueprints, **blueprint.library}
        self.mistakes: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.unknown: dict[str, Diagnostic] = {}  # blocks that nobody brings, and what is said of them
        self.addresses: dict[str, bool] = {}  # address -> whether it has several outputs
        self.parts: dict[str, dict[str, None]] = {}  # address -> its copies and outputs
        self.loops: set[str] = set()
        self.broken: set[str] = set()
        self.edits: list[tuple[str, Edit, Pattern]] = []
        self.hits: Counter[int] = Counter()
        self.on_inputs: set[int] = set()  # edits that say something of an input
        self.redone: set[tuple[int, str]] = set()  # what an edit replaced or removed
        self.refused: dict[int, list[str]] = {}  # parts that do not have the option of a short edit
        self.trail: dict[str, list[Edit]] = {}  # address -> the edits that changed it
        self.declared: dict[str, Span | None] = {}  # address -> where the part stands that they changed
        self.specs: dict[str, Any] = {}  # address -> what stands there after them
        self.shared: list[tuple[str, str]] = []
        self.old_names = renewing.old_names(registry)
        self.depth = 0
        self.times = 1  # copies that the loops around this place make
        self.stopped = False  # there are too many parts or documents, so that loops end
        self.documents = 0  # blueprints used as blocks so far

    # --- addresses ---------------------------------------------------------------------------------------------

    def known(self, address: str) -> bool:
        if address in self.addresses or "@" in address:
            return True
        parent = address.rpartition(".")[0]
        return bool(self.addresses.get(parent)) or self.is_broken(address)

    def is_broken(self, address: str) -> bool:
        """Whether a mistake in this part, or in one around it, was reported already."""
        words = address.split(".")
        return bool(self.broken) and any(".".join(words[: k + 1]) in self.broken for k in range(len(words)))

    def values_under(self, name: str, address: str) -> Iterator[tuple[str, str]]:
        """A value, and those a reference may name below it: copies and outputs."""
        yield name, address
        for word in tuple(self.parts.get(address, ())):
            yield from self.values_under(f"{name}.{word}", f"{address}.{word}")

    def register(self, address: str, many: bool = False, of: str = "") -> None:
        """A new address; `of` is the value that it is a copy or an output of."""
        if of:
            self.parts.setdefault(of, {})[address[len(of) + 1 :]] = None
        self.addresses[address] = many

    # --- the whole ---------------------------------------------------------------------------------------------

    def whole(self, blueprint: Blueprint) -> Graph:
        self.requirements(blueprint)
        self.mistakes += blueprint.unread
        inputs = tuple(self.inputs(blueprint))
        for i in inputs:
            self.register(i.name)
        scope = Scope(self, {i.name: Ref(i.name) for i in inputs}, None, blueprint.graph)
        names = self.closed(blueprint, scope)
        first = Ref(inputs[0].name) if inputs else None
        members, _ = self.document(blueprint, "", names, scope, first)
        outputs = tuple(self.outputs(blueprint, names, scope))
        self.unread(blueprint, scope)
        self.missed_edits(0)
        self.mistakes += reaching.undone(self.trail)
        changes = {a: Changed(self.declared.get(a), tuple(edits)) for a, edits in self.trail.items()}
        return Graph(blueprint, inputs, members, outputs, changes, self.specs, tuple(once(self.warnings)))

    def requirements(self, blueprint: Blueprint) -> None:
        for wanted, span in blueprint.requires.items():
            fault = unmet(wanted, self.registry)
            if fault is not None:
                self.report(replace(fault, span=span or blueprint.span))

    def document(
        self, blueprint: Blueprint, prefix: str, names: Names, scope: Scope, first: Input
    ) -> tuple[tuple[Body, ...], Input]:
        """The nodes of a blueprint, its edits applied below `prefix`."""
        self.documents += 1
        if self.documents > MAX_DOCUMENTS:
            self.stopped = True
            text = f"more than {MAX_DOCUMENTS:,} blueprints are used as blocks, the last one at `{prefix.rstrip('.')}`"
            raise BlueprintError(Diagnostic("BP002", text, blueprint.span))
        for edit in blueprint.edits:
            self.edits += [(prefix, edit, Pattern(prefix + at)) for at in edit.at or ("",)]
        adding = [e.change for e in blueprint.edits if e.action == "add"]
        graph = Map()
        for part in (*adding, blueprint.graph):
            for name in (n for n in part if n in graph):
                text = f"an edit adds `{name}`, which is a node already"
                taken = graph.key_spans.get(name)
                others = (Label(taken, "added here"),) if taken else ()
                self.report(Diagnostic("BP107", text, getattr(part, "key_spans", {}).get(name), others=others))
            graph = blueprints.joined(graph, part)
        scope.later = graph
        return self.members(prefix, graph, names, scope, first, aside={n for part in adding for n in part})

    def closed(self, blueprint: Blueprint, scope: Scope) -> Names:
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
                yield self.input(name, self.edited_input(name, spec, blueprint.edits), names, span)
            except BlueprintError as fault:
                self.mistakes += fault.diagnostics
                self.broken.add(name)
                yield GraphInput(name, (), None, False, span, None)

    def edited_input(self, name: str, spec: Any, edits: Iterable[Edit]) -> Any:
        """An input with the options that edits set: `image.pad=auto`."""
        for edit in edits:
            if edit.action == "set" and name in edit.at and isinstance(edit.change, dict):
                self.on_inputs.add(id(edit))
                own = spec if isinstance(spec, Map) else Map({"type": spec})
                values, keys = {**own.value_spans}, {**own.key_spans}
                values |= getattr(edit.change, "value_spans", {}) or dict.fromkeys(edit.change, edit.span)
                keys |= getattr(edit.change, "key_spans", {}) or dict.fromkeys(edit.change, edit.span)
                spec = Map({**own, **edit.change}, key_spans=keys, value_spans=values)
        return spec

    def input(self, name: str, spec: Any, names: Names, span: Span | None) -> GraphInput:
        spec = spec if isinstance(spec, dict) else Map({"type": spec})
        for key in spec:
            if key not in INPUT_KEYS:
                text = f"an input has no `{key}`{did_you_mean(key, INPUT_KEYS)}"
                raise BlueprintError(Diagnostic("BP101", text, getattr(spec, "key_spans", {}).get(key, span)))
        words = tuple(str(spec.get("type") or "").split())
        size = evaluate(spec.get("size"), names, span_of(spec, "size") or span)
        if size is not None and not (isinstance(size, list) and size and all(type(n) is int and n > 0 for n in size)):
            text = f"the size of `{name}` must be a list of whole numbers above 0, not {size!r}"
            raise BlueprintError(Diagnostic("BP201", text, span_of(spec, "size") or span))
        optional = bool(evaluate(spec.get("optional"), names, span_of(spec, "optional") or span))
        if words in (("map",), ("any",)):
            return GraphInput(name, words, None, optional, span, None)
        channels = self.channels(words[1], names, span) if len(words) > 1 and words[0] == "B" else None
        if channels is None:
            text = f"the type of `{name}` reads like `B $channels *S` or `B 3 H W`, not `{spec.get('type')}`"
            raise BlueprintError(Diagnostic("BP201", text, span_of(spec, "type") or span))
        pad, fill = (self.choice(name, spec, key, names, span) for key in ("pad", "fill"))
        return GraphInput(name, words, tuple(size) if size else None, optional, span, channels, pad, fill)

    def choice(self, name: str, spec: Any, key: str, names: Names, span: Span | None) -> str:
        """One of the words that an input's `pad` or `fill` may be."""
        value = evaluate(spec.get(key, INPUT_CHOICES[key][0]), names, span_of(spec, key) or span)
        if value not in INPUT_CHOICES[key]:
            near = did_you_mean(str(value), INPUT_CHOICES[key])
            text = f"`{key}` of the input `{name}` is {' or '.join(INPUT_CHOICES[key])}, not {value!r}{near}"
            raise BlueprintError(Diagnostic("BP201", text, span_of(spec, key) or span))
        return str(value)

    def channels(self, word: str, names: Names, span: Span | None) -> int | None:
        value = int(word) if word.isascii() and word.isdigit() and len(word) < 10 else evaluate(word, names, span)
        return value if type(value) is int and value > 0 else None

    def outputs(self, blueprint: Blueprint, names: Names, scope: Scope) -> Iterator[GraphOutput]:
        for name, spec in blueprint.outputs.items():
            span = span_of(blueprint.outputs, name)
            try:
                yield self.output(name, spec, names, scope, span)
            except BlueprintError as fault:
                self.mistakes += fault.diagnostics
                scope.read |= {*_words(spec), *list(scope.names)[-1:]}

    def output(self, name: str, spec: Any, names: Names, scope: Scope, span: Span | None) -> GraphOutput:
        training = False
        if isinstance(spec, dict):
            odd = next((k for k in spec if k not in ("from", "when", "note")), None)
            if odd or spec.get("when", "training") != "training":
                text = f"an output is a reference, or {{from: …, when: training}}; `{name}` is {dict(spec)!r}"
                raise BlueprintError(Diagnostic("BP201", text, span))
            training = "when" in spec
            span, spec = span_of(spec, "from") or span, spec.get("from")
        return GraphOutput(name, self.reference(spec, names, scope, span), training, span)

    def unread(self, blueprint: Blueprint, scope: Scope) -> None:
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
                span = span or brought_by(blueprint, name)
                text = f"nothing uses the {what} `{name}`"
                help = ("read it in a `from:` or in `outputs:`, or remove it",)
                self.report(Diagnostic("BP108", text, span, help=help))

    def missed_edits(self, start: int) -> None:
        """An edit that matches nothing says why, and names the nearest addresses."""
        hit = {id(self.edits[k][1]) for k in self.hits} | self.on_inputs
        for k, (_, edit, pattern) in enumerate(self.edits[start:], start):
            if edit.action != "add" and id(edit) not in hit and not self.broken and not self.overruled(k, pattern):
                hit.add(id(edit))
                self.report(self.missed(k, edit, pattern))

    def forget(self, start: int) -> None:
        """Numbers of edits from here on will be those of another blueprint."""
        del self.edits[start:]
        self.redone = {(k, address) for k, address in self.redone if k < start}
        for k in [k for k in (*self.hits, *self.refused) if k >= start]:
            self.hits.pop(k, None)
            self.refused.pop(k, None)

    def missed(self, number: int, edit: Edit, pattern: Pattern) -> Diagnostic:
        blocks = self.registry.blocks
        if number in self.refused:
            return reaching.refused(edit, self.refused[number], self.specs, blocks)
        words = pattern.text.split(".")
        around = [Pattern(".".join(words[:n])) for n in range(1, len(words) + 1)]
        for k, address in sorted(self.redone):
            if k < number and any(p.matches(address) for p in around):
                return reaching.removed(edit, self.edits[k][1], address)
        return reaching.nothing(edit, self.specs, self.addresses, blocks)

    def completed(self, blueprint: Blueprint) -> Blueprint | None:
        """The blueprint with the segments that short edits left out; None where there is nothing to complete."""
        reached = {id(self.edits[k][1]) for k in self.hits} | self.on_inputs
        made = {
            id(e): full
            for e in blueprint.edits
            if e.short and e.action == "set" and id(e) not in reached
            if (full := reaching.completed(e, self.specs, self.registry.blocks)) is not None
        }
        return replace(blueprint, edits=tuple(made.get(id(e), e) for e in blueprint.edits)) if made else None

    def overruled(self, number: int, pattern: Pattern) -> bool:
        """Whether a later edit put something else where this one would have found its place."""
        words = pattern.text.split(".")
        around = [Pattern(".".join(words[:n])) for n in range(1, len(words))]
        return any(k > number and any(p.matches(address) for p in around) for k, address in self.redone)

    def report(self, diagnostic: Diagnostic) -> None:
        self.mistakes.append(diagnostic)

    # --- edits -------------------------------------------------------------------------------------------------

    def edited(self, address: str, spec: Any, empty: bool = False) -> Any:
        """The spec after every `set`, `replace`, `wrap` and `remove` at its address; None when it is removed. Old names
        of blocks and options become the new ones.

        An `empty` slot is filled by an edit that names it, not by a glob such as `blocks.*` that means what is there.
        """
        spec = self.renewed(spec)
        for k, (_, edit, pattern) in enumerate(self.edits):
            if empty and pattern.text.endswith("*"):
                continue
            if edit.action in ("set", "replace", "wrap", "remove") and edit.at and pattern.matches(address):
                if edit.short and edit.action == "set" and not self.takes(spec, edit):
                    self.refused.setdefault(k, []).append(address)
                    continue
                self.hits[k] += 1
                self.trail.setdefault(address, []).append(edit)
                self.declared.setdefault(address, written_at(spec))
                self.redone |= {(k, address)} if edit.action in ("replace", "remove") else set()
                spec = self.renewed(changed(spec, renewing.in_edit(edit, spec, self.old_names, self.warnings)))
                if spec is None:
                    return None
        self.specs[address] = spec
        return spec

    def takes(self, spec: Any, edit: Edit) -> bool:
        """Whether the part of a short edit has its option."""
        key = renewing.option(spec, reaching.option_of(edit), self.old_names)
        return reaching.takes(spec, key, self.registry.blocks)

    def renewed(self, spec: Any) -> Any:
        """A spec with the names that its block and options have today; each old one is a warning."""
        return renewing.renewed(spec, self.old_names, self.warnings) if self.old_names else spec

    def inserted(self, address: str) -> list[tuple[str, Any, bool, Span | None]]:
        found: list[tuple[str, Any, bool, Span | None]] = []
        for k, (_, edit, pattern) in enumerate(self.edits):
            if edit.action == "insert_after" and pattern.matches(address):
                self.hits[k] += 1
                for name, spec in edit.change.items():
                    aside = isinstance(spec, dict) and ("from" in spec or "for" in spec)
                    found.append((name, spec, not aside, getattr(edit.change, "key_spans", {}).get(name)))
        return found

    # --- graphs ------------------------------------------------------------------------------------------------

    def members(
        self, prefix: str, graph: Map, names: Names, scope: Scope, first: Input, aside: set[str] | None = None
    ) -> tuple[tuple[Body, ...], Input]:
        """The nodes of one graph in order, and the value of the last."""
        names = replace(names, functions={"refs": scope.copies})
        bodies: list[Body] = []
        line = _Line(first, next((n for n, v in scope.names.items() if v is not None and v == first), ""))
        queue = deque((n, s, "", graph.key_spans.get(n)) for n, s in graph.items())
        seen: set[str] = set()
        while queue:
            name, spec, alias, span = queue.popleft()
            address = prefix + name
            if name in seen or not self.allowed(name, span):
                self.report(Diagnostic("BP107", f"two nodes are named `{address}`", span)) if name in seen else None
                continue
            seen.add(name)
            body = self.member(address, name, spec, names, scope, line, span)
            if body is None:
                continue
            bodies.append(body)
            scope.names[name] = Ref(address)
            self.addresses.setdefault(address, False)
            if alias:
                scope.names[alias] = Ref(address)
                scope.read.add(name)  # it is read by the name it stands for
            if name not in (aside or ()):
                line = _Line(Ref(address), name)
            for n, s, inline, place in reversed(self.inserted(address)):
                queue.appendleft((n, s, (alias or name) if inline else "", place))
        return tuple(bodies), line.value

    def member(
        self, address: str, name: str, spec: Any, names: Names, scope: Scope, line: _Line, span: Span | None
    ) -> Body | None:
        """One node, or where it has a mistake, that it is broken."""
        try:
            if is_var(spec):
                return self.handed_in(_Site(address, spec, names, scope, {"x": line.value}, span), name, line)
            return self.node(address, name, self.as_spec(spec, name, span), names, scope, line, span)
        except BlueprintError as fault:
            self.mistakes += fault.diagnostics
            self.broken.add(address)
            scope.read |= {line.name, *_words(spec)}  # what it would have read is not unused
            return Broken(address)

    def handed_in(self, site: _Site, name: str, line: _Line) -> Body:
        """`up: $upsample`: the block that a parameter holds, as in a slot offered the line above; null passes it."""
        site.scope.read.add(line.name)
        body = self.filled(site, name)
        if body is None:
            self.register(site.address)
            return Through(site.address, line.value, site.span)
        return body

    def allowed(self, name: str, span: Span | None) -> bool:
        if name in RESERVED or not name.replace("_", "").isalnum() or name[0].isdigit():
            why = "a word of the language" if name in RESERVED else "letters, digits and underscores, not a digit first"
            self.report(Diagnostic("BP107", f"`{name}` cannot name a node ({why})", span))
            return False
        return True

    def as_spec(self, spec: Any, role: str, span: Span | None) -> Map:
        if isinstance(spec, str):
            short = "." not in spec and any(n.startswith(f"{role}.") for n in self.registry.blocks)
            use = spec if self.exists(spec) or not short else f"{role}.{spec}"
            made = Map({"use": use})
            made.span = span  # type: ignore[assignment]
            made.value_spans = {"use": span} if span else {}
            return made
        if isinstance(spec, dict):
            return spec if isinstance(spec, Map) else Map(spec)
        text = f"`{role}` takes a block: `{{use: …}}`, a name or an inline graph, not {spec!r:.60}"
        raise BlueprintError(Diagnostic("BP207", text, span))

    def exists(self, name: str) -> bool:
        known = name in self.registry.blocks or name in self.registry.clashes or name in self.old_names
        return known or name.partition(":")[0] in self.library

    def node(
        self, address: str, name: str, spec: Map, names: Names, scope: Scope, line: _Line, span: Span | None
    ) -> Body | None:
        edited = self.edited(address, spec)
        if edited is None:
            return None
        spec = self.as_spec(edited, name, span)
        if "from" not in spec and "carry" not in spec and self.takes_input(spec):
            scope.read.add(line.name)
        if "for" in spec or ("carry" in spec and "repeat" in spec):
            return self.loop(address, name, spec, names, scope, line.value, span)
        self.odd_words(spec, ("carry",), "without `for` or `repeat`")
        return self.instance(address, without(spec, "from"), spec, names, scope, line.value, span)

    def takes_input(self, spec: Map) -> bool:
        """Whether a node continues the line above; a block without ports starts anew."""
        block = self.registry.blocks.get(spec["use"]) if isinstance(spec.get("use"), str) else None
        return block is None or bool(block.required or block.optional or block.open_ports)

    def odd_words(self, spec: Map, words: Iterable[str], why: str) -> None:
        for word in words:
            if word in spec:
                raise BlueprintError(Diagnostic("BP201", f"`{word}` {why}", spec.key_spans.get(word)))

    def loop(
        self, address: str, name: str, spec: Map, names: Names, scope: Scope, previous: Input, span: Span | None
    ) -> Group:
        """`for`: instances over equal lists; each takes the value before it, or what `carry` names."""
        written = self.written(spec, "for", name)
        rows, row_spans = self.rows(spec, names, span, written)
        base = without(spec, "for", "carry", "from", *(["repeat"] if "for" not in spec else []))
        carried = self.carried(spec, names, scope, previous)
        self.register(address)
        self.loops.add(address)
        scope.names[name] = Ref(address)
        bodies: list[Body] = []
        result: Input = previous
        times = self.times_over(len(rows), base, span_of(spec, "for") or span_of(spec, "repeat") or span)
        for i, row in each_within(times, rows):
            if self.stopped:
                break
            own = f"{address}.{i}"
            inner_names = names.plus({**row, "i": i}, row_spans[i])
            inner_scope = scope.with_names(carried)
            own_spec = merge_specs(base, written[i]) if written else base
            edited = self.edited(own, own_spec) if own_spec is not None else None
            if edited is None:
                continue
            made = self.as_spec(edited, name, span)
            wiring = made if "from" in made else spec if "from" in spec else Map({"from": "carry"})
            source = without(wiring, *(k for k in wiring if k != "from"))
            if source.get("from") == "carry" and "carry" not in carried:
                each = ", ".join(f"{k.removeprefix('carry.')}: {k}" for k in carried)
                text = f"`carry` names several values, so the loop says where they go: `from: {{{each}}}`"
                raise BlueprintError(Diagnostic("BP203", text, span_of(spec, "carry")))
            self.shared.append((own, f"{address}.0"))
            body = self.instance(own, without(made, "from"), source, inner_names, inner_scope, None, span)
            self.shared.pop()
            self.register(own, self.addresses.get(own, False), address)
            bodies.append(body)
            result = Ref(own)
            carried = self.handed_on(carried, own, body, span_of(spec, "carry"))
        return Group(address, "for", tuple(bodies), result, span)

    def written(self, spec: Map, word: str, role: str) -> list[Any] | None:
        """The copies of a loop where each is written out: `repeat: [{…}, {…}]`; null where there is none."""
        raw = spec.get(word)
        if not isinstance(raw, list) or not all(v is None or isinstance(v, (dict, str)) for v in raw):
            return None
        return [v if v is None else self.as_spec(v, role, span_of(raw, k)) for k, v in enumerate(raw)]

    def rows(
        self, spec: Map, names: Names, span: Span | None, written: list[Any] | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The loop variables of each instance, and their places; one that is written out has none."""
        if "for" not in spec or written is not None:
            count = self.count(spec, names) if written is None else len(written)
            return [{} for _ in range(count)], [{} for _ in range(count)]
        lists, loop = {}, spec["for"]
        if not isinstance(loop, dict) or not loop:
            text = "`for` is a mapping of names to lists: `for: {out: [32, 64]}`"
            raise BlueprintError(Diagnostic("BP206", text, span_of(spec, "for") or span))
        for key, raw in loop.items():
            place = span_of(loop, key)
            if key in ("i", "j"):
                text = f"`{key}` counts {'instances' if key == 'i' else 'copies'}; give the loop variable another name"
                raise BlueprintError(Diagnostic("BP206", text, place))
            if names.get(key) is not None:
                raise BlueprintError(Diagnostic("BP206", f"the loop variable `{key}` hides a name in sight", place))
            values = evaluate(raw, names, place)
            if not isinstance(values, list):
                raise BlueprintError(Diagnostic("BP206", f"`for` needs lists; `{key}` is {values!r:.60}", place))
            spans = getattr(raw, "item_spans", None) or [place] * len(values)
            lists[key] = (values, spans)
        lengths = {k: len(v) for k, (v, _) in lists.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{k} has {n}" for k, n in lengths.items())
            text = f"the lists of `for` differ in length: {said}"
            raise BlueprintError(Diagnostic("BP206", text, span_of(spec, "for")))
        count = next(iter(lengths.values()))
        rows = [{k: v[i] for k, (v, _) in lists.items()} for i in range(count)]
        return rows, [{k: s[i] for k, (_, s) in lists.items()} for i in range(count)]

    def carried(self, spec: Map, names: Names, scope: Scope, previous: Input) -> dict[str, Input]:
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

    @contextmanager
    def times_over(self, count: int, spec: Any, span: Span | None) -> Iterator[None]:
        """The inside of a loop, refused before it runs where it would make more parts than any network has."""
        parts = self.times * count * parts_in(spec)
        if parts > (most := PARTS.get()):
            self.stopped = True
            text = f"{parts:,} parts would come of this loop and those around it; a network has at most {most:,}"
            raise BlueprintError(Diagnostic("BP002", text, span))
        before, self.times = self.times, self.times * max(count, 1)
        try:
            yield
        finally:
            self.times = before

    def instance(
        self, address: str, spec: Map, source: Map, names: Names, scope: Scope, previous: Input, span: Span | None
    ) -> Body:
        """One node, or one instance of a loop: `source` holds its `from`."""
        ports: Mapping[str, Input] = {"": previous}
        if "from" in source:
            ports = self.ports(source["from"], names, scope, span_of(source, "from"))
        return self.placed(_Site(address, spec, names, scope, ports, span))

    def placed(self, site: _Site) -> Body:
        """The part at a site, unless `when` leaves it out; with `share`, its weights are those of the first copy."""
        spec, ports = site.spec, site.ports
        if "when" in spec and not evaluate(spec["when"], site.names, span_of(spec, "when")):
            passed = ports.get("", ports.get("x", next(iter(ports.values()), None)))
            self.register(site.address)
            return Through(site.address, passed, site.span, site.slot)
        shared = "share" in spec and evaluate(spec["share"], site.names, span_of(spec, "share"))
        site = replace(site, spec=without(spec, "when", "share", "note"))
        if not shared or not self.shared:
            return self.copies(replace(site, tied=bool(shared)))
        self.shared.append((self.shared[-1][0], self.shared[-1][1].rstrip("!") + "!"))
        body = self.copies(site)
        self.shared.pop()
        return body

    def module(self, address: str) -> str:
        """Where the weights of an address live: in the first copy, if it shares them."""
        for own, first in reversed(self.shared):
            if first.endswith("!") and is_prefix(own, address):
                return first.rstrip("!") + address[len(own) :]
        return address

    def copies(self, site: _Site) -> Body:
        """`repeat`: copies in a row with weights of their own; `j` counts them. A `from` in `first` or `last` sees what
        the slot is offered (`sees`), or else the graph that the node stands in."""
        if "repeat" not in site.spec:
            self.odd_words(site.spec, ("first", "last"), "without `repeat`")
            return self.one(site)
        written = self.written(site.spec, "repeat", site.address.rpartition(".")[2])
        count = self.count(site.spec, site.names) if written is None else len(written)
        with self.times_over(count, site.spec, span_of(site.spec, "repeat") or site.span):
            return self.row(site, count, written)

    def row(self, site: _Site, count: int, written: Any) -> Group:
        """The copies of a `repeat`, each fed by the one before it."""
        flow = _flowing(site.ports)
        self.register(site.address)
        self.loops.add(site.address)
        bodies: list[Body] = []
        result = site.ports.get(flow)
        for j in range(count):
            if self.stopped:
                break
            own = {} if written is None else written[j]
            copy = None if own is None else self.copy(replace(site, ports={**site.ports, flow: result}), j, count, own)
            if copy is None:
                continue
            bodies.append(self.beside(copy, f"{site.address}.0", site.tied))
            self.register(copy.address, self.addresses.get(copy.address, False), site.address)
            result = Ref(copy.address)
        return Group(site.address, "repeat", tuple(bodies), result, site.span, slot=site.slot)

    def beside(self, site: _Site, first: str, tied: bool) -> Body:
        """A copy beside the first one, whose weights it has, or those that nodes within it `share`."""
        self.shared.append((site.address, first + "!" * tied))
        body = self.placed(site)
        self.shared.pop()
        return body

    def copy(self, site: _Site, j: int, count: int, written: Mapping[str, Any]) -> _Site | None:
        """The site of one copy of a `repeat`, with what is `written` of it alone; None when an edit removes it."""
        own, names = f"{site.address}.{j}", site.names.plus({"j": j})
        spec = self.override(without(site.spec, "repeat", "first", "last"), site.spec, j, count)
        edited = self.edited(own, merge_specs(spec, written) if written else spec)
        if edited is None:
            return None
        spec, ports = self.as_spec(edited, site.address.rpartition(".")[2], site.span), dict(site.ports)
        if "use" in written and site.sees:  # of what the slot offers, this copy takes what its block names
            ports = {p: v for p, v in ports.items() if p == _flowing(ports) or self.has_port(written["use"], p)}
        if "from" in spec:
            ports |= self.ports(spec["from"], names, site.sees or site.scope, span_of(spec, "from"))
        return replace(
            site, address=own, spec=without(spec, "from"), names=names, ports=ports, slot="", sees=None, tied=False
        )

    def has_port(self, use: Any, port: str) -> bool:
        block = self.registry.blocks.get(use) if isinstance(use, str) else None
        return block is None or block.open_ports or port in (*block.required, *block.optional)

    def override(self, base: Map, spec: Map, j: int, count: int) -> Map:
        if j == 0 and spec.get("first"):
            base = merge_specs(base, spec["first"])
        if j == count - 1 and spec.get("last"):
            base = merge_specs(base, spec["last"])
        return base

    def one(self, site: _Site) -> Body:
        self.depth += 1
        address, spec = site.address, site.spec
        if self.depth > 60:
            raise BlueprintError(Diagnostic("BP109", f"blocks nest without end at `{address}`", site.span))
        try:
            if "graph" in spec:
                self.odd_words(spec, ("use",), f"and `graph:` both say what `{address}` is; give one of them")
                return self.inline(site)
            if "use" not in spec:
                text = f"`{address}` needs `use:` (a block) or `graph:` (an inline graph)"
                raise BlueprintError(Diagnostic("BP202", text, site.span))
            return self.used(site)
        finally:
            self.depth -= 1

    def inline(self, site: _Site) -> Group:
        """An inline graph: it sees its ports and its own nodes, and the graph around it through a leading dot."""
        address, spec, graph = site.address, site.spec, self.inline_graph(site)
        named = {(k or "x"): v for k, v in site.ports.items()}
        inner = Scope(self, named, site.scope, graph)
        unused = self.unused(site)
        first = named.get("x", next(iter(named.values()), None) if len(named) == 1 else None)
        members, last = self.members(f"{address}.", graph, site.names, inner, first)
        result: Any = last
        if "outputs" in spec:
            outputs = spec["outputs"]
            result = {n: self.reference(v, site.names, inner, span_of(outputs, n)) for n, v in outputs.items()}
            for name in result:
                self.register(f"{address}.{name}", of=address)
        self.register(address, "outputs" not in spec and self.addresses.get(address, False))
        return Group(address, "graph", members, result, site.span, slot=site.slot, unused=unused)

    def inline_graph(self, site: _Site) -> Map:
        """The nodes of an inline graph; what cannot stand beside them is refused."""
        spec = site.spec
        odd = next((k for k in spec if k not in RESERVED), None)
        if odd:
            text = f"`{site.address}` holds an inline graph, which has no option `{odd}`; nodes stand below `graph:`"
            raise BlueprintError(Diagnostic("BP204", text, spec.key_spans.get(odd)))
        for word, what in (("graph", "nodes"), ("outputs", "names to values")):
            if not isinstance(spec.get(word, {}), dict):
                text = f"`{word}` is a mapping of {what}, not {spec[word]!r:.40}"
                raise BlueprintError(Diagnostic("BP207", text, span_of(spec, word)))
        return spec["graph"] if isinstance(spec["graph"], Map) else Map(spec["graph"])

    def unused(self, site: _Site) -> tuple[Body, ...]:
        """Parts that own weights and never run. As nothing flows, `from` is a type: `from: B 512 1 1`."""
        bodies: list[Body] = []
        parts = site.spec.get("unused") or {}
        if not isinstance(parts, dict):
            text = f"`unused` is a mapping of names to blocks, not {parts!r:.40}"
            raise BlueprintError(Diagnostic("BP207", text, span_of(site.spec, "unused")))
        for name in parts:
            own = f"{site.address}.{name}"
            part, names, scope, span = self.opened(parts[name], site.names, site.scope, span_of(parts, name))
            given: dict[str, Input] = {"x": next(iter(site.ports.values()), None)}
            if isinstance(part, dict) and "from" in part:
                type_ = self.input(own, part["from"], names, span_of(part, "from") or span)
                bodies.append(Given(f"{own}@x", type_))
                given, part = {"x": Ref(f"{own}@x")}, without(part, "from")
            body = self.filled(_Site(own, part, names, scope, given, span, name), name)
            bodies += [body] if body is not None else []
        return tuple(bodies)

    # --- blocks ------------------------------------------------------------------------------------------------

    def used(self, site: _Site) -> Body:
        """A block, or a blueprint used as one."""
        spec, names, address = site.spec, site.names, site.address
        use, place = evaluate(spec["use"], names, span_of(spec, "use")), span_of(spec, "use") or site.span
        if not isinstance(use, str):
            raise BlueprintError(Diagnostic("BP207", f"`use` is the name of a block, not {use!r:.60}", place))
        known = use in self.registry.blocks or use in self.registry.clashes
        if not known and (use.rpartition(":")[0] in self.library or use in self.library or use.endswith(".yaml")):
            return self.nested(replace(site, span=place), use)
        if use in self.old_names and use != spec["use"]:  # an expression's value
            spec = self.renewed(replaced(spec, use=use))
            site, use = replace(site, spec=spec), spec["use"]
        if use not in self.registry.blocks:
            return self.without_block(site, use, place)
        block_class = self.registry.blocks[use]
        if block_class.stands_in and site.slot not in block_class.stands_in:
            where = listing(f"`{s}`" for s in block_class.stands_in)
            raise BlueprintError(Diagnostic("BP203", f"`{use}` stands only in a slot named {where}", place))
        inputs = self.bound(block_class, site.ports, address, place)
        written, spans = self.options(block_class, spec, names)
        block = self.configured(block_class, written, spans, place, spec, address)
        parts: dict[str, Body | None] = {}
        for slot in block_class.slots.values():
            parts |= self.slots(replace(site, ports=inputs, span=place), slot, block_class)
        self.register(address, block_class.many)
        return Call(
            address, use, block, inputs, parts, written, self.module(address), place, spans,
            site.scope.sight(), site.slot, self.unused(site), any(map(unfinished, parts.values())),
        )  # fmt: skip

    def without_block(self, site: _Site, use: str, span: Span | None) -> Broken:
        """A part whose block nobody brings: reported, and the graph around it goes on."""
        if use not in self.unknown:  # the nearest names take a millisecond to find, which 10,000 parts would add up
            self.unknown[use] = self.no_block(use)
        self.report(replace(self.unknown[use], span=span, address=site.address))
        self.broken.add(site.address)
        site.scope.read |= _words(site.spec)  # what its slots would have read is not unused
        self.register(site.address, many=True)
        plain = {k: v for k, v in site.spec.items() if k not in RESERVED and not isinstance(v, (dict, list))}
        return Broken(site.address, use, site.ports, plain, span)

    def no_block(self, use: str) -> Diagnostic:
        if use in self.registry.clashes:
            return clash(use, self.registry.clashes[use])
        names = [*self.registry.blocks, *self.library]
        namespace = use.split(".")[0]
        advice = absent(self.blueprint, self.registry)
        if "." in use and not any(n.startswith(f"{namespace}.") for n in names):
            text = f"unknown block `{use}`; no installed plugin provides the namespace `{namespace}`"
            close = nearest(use.split(".")[-1], names) or nearest(use, names)
            help = (f"did you mean `{close[0]}`?",) if close and not advice else ()
            return Diagnostic("BP103", text, help=(*advice, *help))
        siblings = [n for n in names if n.startswith(f"{namespace}.")] if "." in use else []
        note = (f"`{namespace}.…`: {listing(siblings)}",) if siblings else ()
        text = f"unknown block `{use}`{did_you_mean(use, names)}"
        return Diagnostic("BP102", text, notes=note, help=advice)

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
                self.report(Diagnostic("BP204", text, spec.key_spans.get(key), notes=(note,)))
                continue  # the rest of the node is still checked
            written[key] = spec[key] if key in block.slots else evaluate(spec[key], names, spans[key])
        return written, spans

    def configured(
        self,
        block: type[Block],
        written: Mapping[str, Any],
        spans: Mapping[str, Span | None],
        span: Span | None,
        spec: Map,
        address: str,
    ) -> Block:
        try:
            return block(**written)
        except ValidationError as fault:
            raise BlueprintError(list(invalid(block, fault, written, spans, span, address))) from None

    def bound(
        self, block: type[Block], ports: Mapping[str, Input], address: str, span: Span | None
    ) -> dict[str, Input]:
        """Values by port name, in the order of the ports: an unnamed value goes to the first one, which leads."""
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
                place = _place(given[port]) or span
                raise BlueprintError(Diagnostic("BP203", text, place, notes=note, address=address))
        missing = [p for p in block.required if given.get(p) is None]
        if missing:
            text = f"`{block.name}` needs the input `{missing[0]}`"
            raise BlueprintError(Diagnostic("BP203", text, span, help=("give it with `from:`",), address=address))
        many = [p for p, v in given.items() if isinstance(v, tuple) and not block.takes_list(p)]
        if many:
            text = f"`{block.name}` takes one value as `{many[0]}`, not a list of {len(given[many[0]] or ())}"  # type: ignore[arg-type]
            raise BlueprintError(Diagnostic("BP203", text, span, help=("name the inputs: `from: {x: …, …: …}`",)))
        return {p: given[p] for p in sorted(given, key=lambda p: known.index(p) if p in known else len(known))}

    def slots(self, owner: _Site, slot: SlotSpec, block: type[Block]) -> dict[str, Body | None]:
        """The bodies of one slot, at every address where its block comes into being."""
        raw = owner.spec.get(slot.name, slot.default)
        place = span_of(owner.spec, slot.name) or owner.span
        if raw is None and slot.required:
            text = f"`{block.name}` needs a block in its slot `{slot.name}`"
            raise BlueprintError(Diagnostic("BP202", text, owner.span, help=(f"give it `{slot.name}: {{use: …}}`",)))
        extra = [p for p in owner.ports if block.open_ports and p not in block.required and p not in block.optional]
        bodies: dict[str, Body | None] = {}
        for at in slot.at:
            own = f"{owner.address}.{at}"
            offers = {o: Ref(f"{own}@{o}") for o in (*slot.offers, *extra)}
            bodies[at] = self.filled(_Site(own, raw, owner.names, owner.scope, offers, place, slot.name), slot.role)
        return bodies

    def filled(self, site: _Site, role: str) -> Body | None:
        """The body of a slot: a name, a block or an inline graph, offered values by its owner (the site's ports)."""
        raw, names, scope, span = self.opened(site.spec, site.names, site.scope, site.span)
        if raw is None or raw is False:
            spec = self.edited(site.address, Map(), empty=True) or None
        else:
            spec = self.edited(site.address, self.as_spec(raw, role, span))
        if spec is None:
            return None
        spec = self.as_spec(spec, role, span)
        if "use" not in spec and "graph" not in spec:
            spec = as_inline(spec)
        inner = Scope(self, site.ports, scope, {})
        given = self.offered(spec, names, inner, site.ports)
        return self.placed(_Site(site.address, without(spec, "from"), names, scope, given, span, site.slot, inner))

    def opened(self, raw: Any, names: Names, scope: Scope, span: Span | None) -> tuple[Any, Names, Scope, Span | None]:
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

    def offered(self, spec: Map, names: Names, inner: Scope, offers: Mapping[str, Input]) -> dict[str, Input]:
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

    def nested(self, site: _Site, use: str) -> Group:
        """A blueprint used as a block: its inputs are ports, its parameters are options."""
        address, span = site.address, site.span
        inner = self.loaded(use, site.spec, site.names, site.scope, span)
        given = self.nested_ports(inner, site.ports, use, span)
        own = Scope(self, {w: given.get(w) for w in inner.inputs}, None, inner.graph)
        names, start = self.closed(inner, own), len(self.edits)
        members, _ = self.document(inner, f"{address}.", names, own, given.get(next(iter(inner.inputs))))
        result = {n: self.output(n, s, names, own, span).value for n, s in inner.outputs.items()}
        self.unread(inner, own)
        self.missed_edits(start)
        self.forget(start)
        for name in result:
            self.register(f"{address}.{name}", of=address)
        self.register(address, False)
        options = {k: inner.values.get(k, v) for k, v in site.spec.items() if k not in RESERVED}
        checks = tuple((given[i.name], i, span) for i in self.inputs(inner) if isinstance(given.get(i.name), Ref))
        single = next(iter(result.values())) if len(result) == 1 else result
        return Group(address, "graph", members, single, span, use, options, site.slot, checks)  # type: ignore[arg-type]

    def nested_ports(
        self, inner: Blueprint, ports: Mapping[str, Input], use: str, span: Span | None
    ) -> dict[str, Input]:
        """The values for the inputs of a blueprint used as a block."""
        given, wanted = dict(ports), list(inner.inputs)
        if "" in given:
            given.setdefault(wanted[0], given.pop(""))
        if wanted[0] not in given and "x" in given:
            given[wanted[0]] = given["x"]
        missing = [w for w in wanted if given.get(w) is None and not _optional(inner.inputs[w])]
        if missing:
            raise BlueprintError(Diagnostic("BP203", f"`{use}` needs the input `{missing[0]}`", span))
        return given

    def loaded(self, use: str, spec: Map, names: Names, scope: Scope, span: Span | None) -> Blueprint:
        given = Map()
        for key in spec:
            if key in RESERVED:
                continue
            raw = spec[key]
            lazy = isinstance(raw, dict) or (is_var(raw) and isinstance(names.get(is_var(raw) or ""), Closure))
            place = span_of(spec, key)
            given[key] = Closure(raw, names, scope, place) if lazy else evaluate(raw, names, place)
            given.key_spans[key] = spec.key_spans.get(key)  # type: ignore[assignment]
            given.value_spans[key] = place  # type: ignore[assignment]
        near = self.blueprint.files[0].parent if self.blueprint.files else None
        inner = blueprints.load(use, given, self.library, near, addresses=False)
        if inner.unread:
            raise BlueprintError(inner.unread)
        return inner

    # --- references --------------------------------------------------------------------------------------------

    def ports(self, raw: Any, names: Names, scope: Scope, span: Span | None) -> dict[str, Input]:
        """`from:` → values by port; an unnamed one stands under the empty name."""
        if isinstance(raw, dict):
            return {k: self.reference(v, names, scope, span_of(raw, k) or span) for k, v in raw.items()}
        return {"": self.reference(raw, names, scope, span)}

    def reference(self, raw: Any, names: Names, scope: Scope, span: Span | None) -> Input:
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

    def named(self, name: str, scope: Scope, span: Span | None) -> Input:
        if name.endswith(".*"):
            return self.all_copies(name, scope, span)
        found = scope.find(name)
        if found is Missing:
            raise BlueprintError(self.no_value(name, scope, span))
        return Ref(found.name, span) if isinstance(found, Ref) else found  # type: ignore[return-value]

    def all_copies(self, name: str, scope: Scope, span: Span | None) -> Input:
        node = scope.find(name[:-2])
        try:
            copies = scope.copies(name[:-2]) if node is not Missing else []
        except ExpressionError as fault:
            raise BlueprintError(Diagnostic("BP104", fault.message, span)) from None
        if node is Missing:
            raise BlueprintError(self.no_value(name[:-2], scope, span))
        return tuple(Ref(r.name, span) for c in copies if isinstance(r := scope.find(c), Ref))

    def remover(self, name: str) -> Edit | None:
        """The edit that removes a node of this name."""
        found = (self.edits[k][1] for k, a in sorted(self.redone) if a == name or a.endswith(f".{name}"))
        return next((e for e in found if e.action == "remove"), None)

    def no_value(self, name: str, scope: Scope, span: Span | None) -> Diagnostic:
        few = islice(scope.visible(), 400 if len(self.mistakes) < 20 else 0)  # each of 10,000 would take minutes
        names = list(dict.fromkeys(n for n, _ in few))
        head = name.lstrip(".").split(".")[0]
        if head in scope.later and head not in scope:
            place = scope.later.key_spans.get(head) if isinstance(scope.later, Map) else None
            around = circle(scope.later, head)
            text = f"`{name}` is defined below" + (f" (line {place.line})" if place else "")
            if around:
                return Diagnostic("BP109", f"the graph goes in a circle: {' -> '.join(around)}", span)
            if by := self.remover(head):
                others = (Label(by.span, "removed here"),) if by.span else ()
                advice = "let an edit `set` another `from` there, or keep it"
                return Diagnostic(
                    "BP104", f"an edit removes `{head}`, which is read here", span, "", others, (), (advice,)
                )
            return Diagnostic("BP104", text, span, help=("nodes are computed in order: move it above this one",))
        outward = f".{name}" if scope.outer and scope.outer.find_outward(name) is not Missing else ""
        inner = [n for n in names if n.startswith(f"{head}.")]
        if head in scope and inner:
            text = f"`{head}` has no value `{name[len(head) + 1 :]}`"
            return Diagnostic("BP104", text, span, notes=(f"it has {listing(inner)}",))
        help = (f"`{outward}` is outside this graph: a leading dot reaches it",) if outward else ()
        text = f"no value is named `{name}` here{did_you_mean(name, names) if not outward else ''}"
        scope.read |= {n.split(".")[0] for n in nearest(name, names)}
        notes = (f"values in sight: {listing(names)}",) if names else ()
        return Diagnostic("BP104", text, span, notes=notes, help=help)


def unfinished(body: Body | None) -> bool:
    """Whether a part of this body is broken."""
    if isinstance(body, Group):
        return any(map(unfinished, body.members))
    return isinstance(body, Broken) or (isinstance(body, Call) and body.incomplete)


def written_at(spec: Any) -> Span | None:
    """Where a spec stands in a file; None for what was made."""
    span: Span | None = getattr(spec, "span", None)
    return span if span is not NOWHERE else None


def _flowing(ports: Mapping[str, Input]) -> str:
    """The port through which copies are chained."""
    return next((p for p in ("", "x") if p in ports), next(iter(ports), ""))


def _flattened(values: Iterable[Input]) -> tuple[Ref, ...]:
    flat: list[Ref] = []
    for value in values:
        flat += value if isinstance(value, tuple) else [value] if value is not None else []
    return tuple(flat)


@dataclass(frozen=True)
class _Line:
    """The value a node without `from` continues, and its name in the graph."""

    value: Input
    name: str


def _words(spec: Any) -> set[str]:
    """The first word of every text in a spec: the nodes it may have meant to read."""
    waiting, found = [spec], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.add(item.lstrip(".").split(".")[0])
        elif isinstance(item, (dict, list)):
            waiting += item.values() if isinstance(item, dict) else item
    return found


def _optional(spec: Any) -> bool:
    return isinstance(spec, dict) and bool(spec.get("optional"))


def _place(value: Input) -> Span | None:
    return value.span if isinstance(value, Ref) else None


def invalid(
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
        told = (r.removeprefix("Value error, ").replace("Input should be", "it must be") for r in reasons)
        told = (r.replace("a valid tuple", "a list").replace("a valid list", "a list") for r in told)
        why = "; or ".join(r[0].lower() + r[1:] for r in told)
        said = f"`{key}: {written[key]!r}`" if key in written else f"`{block.name}`"
        yield Diagnostic("BP201", f"{said} does not fit `{block.name}`: {why}", spans.get(key, span), address=address)


def each_within(block: AbstractContextManager[None], rows: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """The rows with their numbers, inside a `with` block."""
    with block:
        yield from enumerate(rows)


def brought_by(blueprint: Blueprint, name: str) -> Span | None:
    """Where an edit brought a node."""
    bringing = (e for e in blueprint.edits if e.action in ("add", "insert_after") and name in e.change)
    return next((getattr(e.change, "key_spans", {}).get(name) or e.span for e in bringing), blueprint.span)


def parts_in(spec: Any) -> int:
    """How many blocks are written in a part, itself included."""
    if isinstance(spec, dict):
        return ("use" in spec) + sum(parts_in(v) for v in spec.values() if isinstance(v, (dict, list))) or 1
    return sum(map(parts_in, spec)) if isinstance(spec, list) else 0
