"""What differs between two networks, node by node: blocks, options, wiring, types, parameters and FLOPs.

A node of both is compared by its own words; what differs in it only because something before it does `follows`, and is
said once, for the outermost node of which that is all. Copies that change alike are one line with `*`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer import sizes
from composer.addresses import is_prefix
from composer.blueprint import Blueprint
from composer.describe import describe
from composer.drawing.words import human, options_text
from composer.graph import Call, Group
from composer.inference import Program
from composer.usage import walk

Node = Mapping[str, Any]
Figures = Mapping[str, int]
"""Numbers by address."""

FIGURES = ("parameters", "flops")


@dataclass(frozen=True)
class Network:
    """One side of a difference: a checked blueprint, and what it costs as far as that was counted."""

    program: Program
    parameters: Figures = field(default_factory=dict)
    flops: Figures = field(default_factory=dict)

    @property
    def blueprint(self) -> Blueprint:
        return self.program.graph.blueprint

    @property
    def sizes(self) -> list[str]:
        return sizes.summary(self.program.constraints, self.program.built)

    def nodes(self) -> list[Node]:
        """The tree of nodes, with options as they are written and figures of each with all below it."""
        bodies = (b for member in self.program.graph.members for b in walk(member))
        linked = {b.address: b for b in bodies if isinstance(b, (Call, Group))}
        return [self._node(n, linked) for n in describe(self.program)["nodes"]]

    def _node(self, node: Node, linked: Mapping[str, Call | Group]) -> Node:
        address = node["address"]
        body = linked[address]
        options = {k: body.written[k] for k in node["options"]}
        return {
            "address": address,
            "use": node["use"] or node["kind"],
            "options": options,
            "from": dict(_reads(body)) if isinstance(body, Call) else {},
            "type": node["type"],
            "parameters": _under(self.parameters, address),
            "flops": _under(self.flops, address),
            "children": [self._node(n, linked) for n in node["children"]],
        }


def _reads(call: Call) -> Iterator[tuple[str, str]]:
    """What a block reads by port, less what its owner hands it."""
    for port, value in call.inputs.items():
        refs = value if isinstance(value, tuple) else [value] if value is not None else []
        names = [r.name for r in refs if "@" not in r.name]
        if names:
            yield port, ", ".join(names)


def _under(figures: Figures, address: str) -> int:
    return sum(n for name, n in figures.items() if is_prefix(address, name))


@dataclass(frozen=True)
class Change:
    """One node, or copies that change alike. `kind` is added, removed, changed, or follows: no word of it changed."""

    address: str
    kind: str
    before: tuple[Node, ...]
    after: tuple[Node, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(n["address"] for n in self.after or self.before)

    def values(self, key: str) -> tuple[Any, Any]:
        """A fact before and after; None where there is no such node."""
        return tuple(side[0][key] if side else None for side in (self.before, self.after))  # type: ignore[return-value]

    def total(self, key: str) -> tuple[int, int]:
        return sum(n[key] for n in self.before), sum(n[key] for n in self.after)

    def to_json(self) -> dict[str, Any]:
        def side(nodes: Sequence[Node]) -> Any:
            return [{k: v for k, v in n.items() if k != "children"} for n in nodes]

        found = {"address": self.address, "addresses": self.addresses, "kind": self.kind}
        return {**found, "before": side(self.before), "after": side(self.after)}


@dataclass(frozen=True)
class Difference:
    """All changes from one network to another."""

    before: Network
    after: Network
    changes: tuple[Change, ...]

    @property
    def params(self) -> dict[str, tuple[Any, Any]]:
        """Parameters of the blueprints that have other values, or that only one of them has."""
        a, b = self.before.blueprint.values, self.after.blueprint.values
        return {n: (a.get(n), b.get(n)) for n in {**a, **b} if _plain(a.get(n)) != _plain(b.get(n))}

    @property
    def taps(self) -> tuple[list[str], list[str]]:
        """The attentions that each of them gives the weights of, as it names them."""
        return list(self.before.blueprint.tap), list(self.after.blueprint.tap)

    @property
    def edits(self) -> int:
        """How many edits the second has beyond those of the first."""
        return sum(e not in self.before.blueprint.edits for e in self.after.blueprint.edits)

    def outputs(self) -> tuple[dict[str, str], dict[str, str]]:
        """The types of the outputs by name."""
        return _outputs(self.before.program), _outputs(self.after.program)

    def totals(self, key: str) -> tuple[int, int]:
        return sum(getattr(self.before, key).values()), sum(getattr(self.after, key).values())

    def to_json(self) -> dict[str, Any]:
        sides = (self.before, self.after)
        return {
            "networks": [s.blueprint.name for s in sides],
            "params": {n: list(map(_plain, pair)) for n, pair in self.params.items()},
            "edits": self.edits,
            "taps": list(self.taps),
            "changes": [c.to_json() for c in self.changes],
            "outputs": list(self.outputs()),
            "sizes": [s.sizes for s in sides],
            **{key: list(self.totals(key)) for key in FIGURES},
        }

    def text(self) -> str:
        """All changes, a line or two each, and a summary."""
        names = [s.blueprint.name for s in (self.before, self.after)]
        head = [f"{names[0]} -> {names[1]}"]
        head += [f"  {n} {_said(a)} -> {_said(b)}" for n, (a, b) in self.params.items()]
        taps = [", ".join(side) or "(none)" for side in self.taps]
        head += [f"  tap {taps[0]} -> {taps[1]}"] if taps[0] != taps[1] else []
        width = min(40, max((len(c.address) for c in self.changes), default=0))
        rows = [line for c in self.changes for line in _rows(c, width)]
        return "\n".join([*head, "", *rows, *([""] if rows else []), self.summary()])

    def summary(self) -> str:
        """`5 places changed by 2 edits; output types unchanged; …`"""
        own = sum(c.kind != "follows" for c in self.changes)
        by = f" by {self.edits} edit{'s' * (self.edits != 1)}" if self.edits and own else ""
        said = [f"{own} place{'s' * (own != 1)} changed{by}" if self.changes else "no node differs"]
        a, b = self.outputs()
        changed = [f"{n} {a.get(n, '(none)')} -> {b.get(n, '(none)')}" for n in {**a, **b} if a.get(n) != b.get(n)]
        said.append(f"outputs {', '.join(changed)}" if changed else "output types unchanged")
        before, after = ("; ".join(s.sizes) or "any" for s in (self.before, self.after))
        said.append(f"sizes {before} -> {after}" if before != after else f"sizes unchanged ({after})")
        for key, name in zip(FIGURES, ("parameters", "FLOPs"), strict=True):
            was, is_ = self.totals(key)
            said += [f"{name} {_change(was, is_)}"] if was or is_ else []
        return "; ".join(said)


def difference(before: Network, after: Network) -> Difference:
    """Compare two networks."""
    a, b = before.nodes(), after.nodes()
    inputs = ({i.name for i in side.program.inputs} for side in (before, after))
    both = set.intersection(*inputs) | (_addresses(a) & _addresses(b))
    return Difference(before, after, tuple(_together(list(_changes(a, b, both)), _copies([*a, *b]))))


def _addresses(nodes: Iterable[Node]) -> set[str]:
    return {a for n in nodes for a in (n["address"], *_addresses(n["children"]))}


def _changes(before: Iterable[Node], after: Iterable[Node], both: set[str]) -> Iterator[Change]:
    """The changes in two lists of nodes and below them, in the order of the second; what is gone stands where it was.

    `both` are the addresses that both networks have.
    """
    a, b = ({n["address"]: n for n in nodes} for nodes in (before, after))
    for address in _merged(list(a), list(b)):
        if address not in a:
            yield Change(address, "added", (), (b[address],))
        elif address not in b:
            yield Change(address, "removed", (a[address],), ())
        else:
            yield from _compared(a[address], b[address], both)


def _compared(a: Node, b: Node, both: set[str]) -> Iterator[Change]:
    address = a["address"]
    if a["use"] != b["use"]:
        yield Change(address, "changed", (a,), (b,))
        return
    own = a["options"] != b["options"] or _rewired(a, b, both)
    inner = list(_changes(a["children"], b["children"], both))
    if own:
        yield Change(address, "changed", (a,), (b,))
    if own or any(c.kind != "follows" for c in inner):
        yield from inner
    elif a["from"] != b["from"] or any(a[key] != b[key] for key in ("type", *FIGURES)):
        yield Change(address, "follows", (a,), (b,))
    else:
        yield from inner


def _rewired(a: Node, b: Node, both: set[str]) -> bool:
    """Whether a node reads something else, and not because that came or went."""
    sources = {s for reads in (a["from"], b["from"]) for value in reads.values() for s in value.split(", ")}
    return bool(a["from"] != b["from"] and sources <= both)


def _merged(a: list[str], b: list[str]) -> list[str]:
    """All words of both: those of the second in order, and before each what stood before it in the first alone."""
    made: list[str] = []
    waiting = list(a)
    for word in b:
        if word in waiting:
            cut = waiting.index(word)
            made += [w for w in waiting[:cut] if w not in b]
            waiting = waiting[cut + 1 :]
        made.append(word)
    return list(dict.fromkeys([*made, *(w for w in waiting if w not in b)]))


# --- copies ----------------------------------------------------------------------------------------------------------


def _copies(nodes: Iterable[Node]) -> dict[str, set[int]]:
    """The numbers of the copies at each address."""
    found: dict[str, set[int]] = {}
    for node in nodes:
        head, _, last = node["address"].rpartition(".")
        if last.isdigit():
            found.setdefault(head, set()).add(int(last))
        for inner, numbers in _copies(node["children"]).items():
            found.setdefault(inner, set()).update(numbers)
    return found


def _together(changes: list[Change], copies: Mapping[str, set[int]]) -> list[Change]:
    """Changes that are alike in copies as one; the innermost copies first."""
    deepest = max((c.address.count(".") for c in changes), default=0)
    for position in range(deepest, 0, -1):
        groups: dict[Any, list[Change]] = {}
        for k, change in enumerate(changes):
            words = change.address.split(".")
            number = len(words) > position and words[position].isdigit()
            rest = (*words[:position], None, *words[position + 1 :])
            groups.setdefault((rest, *_alike(change)) if number else k, []).append(change)
        changes = [_one(group, position, copies) for group in groups.values()]
    return changes


def _alike(change: Change) -> tuple[Any, ...]:
    """What changes of copies share; the values of options may differ."""
    sides = (change.before, change.after)
    facts = [(n[0]["use"], str(n[0]["type"]), n[0]["parameters"]) if n else () for n in sides]
    before, after = (n[0]["options"] if n else {} for n in sides)
    return (change.kind, *facts, *(k for k in {**before, **after} if before.get(k) != after.get(k)))


def _one(group: list[Change], position: int, copies: Mapping[str, set[int]]) -> Change:
    first = group[0]
    if len(group) == 1:
        return first
    words = first.address.split(".")
    numbers = sorted(int(c.address.split(".")[position]) for c in group)
    head = first.addresses[0].split(".")[:position]
    words[position] = _numbers(numbers, copies.get(".".join(head), set()))
    before, after = (tuple(n for c in group for n in side(c)) for side in (_before, _after))
    return Change(".".join(words), first.kind, before, after)


def _before(change: Change) -> tuple[Node, ...]:
    return change.before


def _after(change: Change) -> tuple[Node, ...]:
    return change.after


def _numbers(numbers: list[int], known: set[int]) -> str:
    """`*` for all copies, `12–23` for a row of them."""
    if set(numbers) == known:
        return "*"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}–{numbers[-1]}"
    return ",".join(map(str, numbers))


# --- words -----------------------------------------------------------------------------------------------------------


def _rows(change: Change, width: int) -> Iterator[str]:
    """A change as one line, and what follows from it as a second."""
    yield f"{change.address:<{width}}  {_what(change)}".rstrip()
    facts = list(_facts(change))
    if facts:
        yield " " * (width + 2) + "   ".join(facts)


def _what(change: Change) -> str:
    use, other = change.values("use")
    if change.kind == "follows":
        return "  ".join([f"{other}  (follows)", *_own(change)])
    if use != other:
        return f"{_called(use, change.before)} -> {_called(other, change.after)}"
    return f"{use}  {'   '.join(_own(change))}"


def _called(use: str | None, nodes: Sequence[Node]) -> str:
    """A block with its options, or that there is none."""
    inner = nodes[0]["children"] if use == "repeat" else ()
    if inner:
        return f"{inner[0]['use']} ×{len(inner)}"
    options = options_text(nodes)
    return "(none)" if use is None else f"{use}({options.replace(' · ', ', ')})" if options else use


def _own(change: Change) -> Iterator[str]:
    """Options and wiring before and after."""
    for what in ("options", "from"):
        before, after = change.values(what)
        for key in {**before, **after}:
            was, is_ = (_values(nodes, what, key) for nodes in (change.before, change.after))
            if before.get(key) != after.get(key):
                yield f"{f'from {key}'.strip() if what == 'from' else key} {was} -> {is_}"


def _values(nodes: Sequence[Node], what: str, key: str) -> str:
    present = [{"options": {"": n[what][key]}} for n in nodes if key in n[what]]
    return options_text(present).strip() or "(none)"


def _facts(change: Change) -> Iterator[str]:
    """Type, parameters and FLOPs, where they change."""
    before, after = change.values("type")
    if before != after and isinstance(before or "", str) and isinstance(after or "", str):
        yield f"{before} -> {after}" if before and after else str(before or after)
    for key, name in zip(FIGURES, ("parameters", "FLOPs"), strict=True):
        was, is_ = change.total(key)
        if was != is_:
            yield f"{name} {_change(was, is_)}"


def _change(was: int, is_: int) -> str:
    exact = human(was) == human(is_) and was != is_
    said: Callable[[int], str] = (lambda n: f"{n:,}") if exact else human
    return said(is_) if was == is_ else f"{said(was)} -> {said(is_)}"


def _outputs(program: Program) -> dict[str, str]:
    outputs = describe(program)["outputs"]
    return {o["name"]: str(o["type"]) for o in outputs}


def _said(value: Any) -> str:
    return options_text([{"options": {"": _plain(value)}}]).strip()


def _plain(value: Any) -> Any:
    """A parameter as data; a block written through another blueprint as what it says."""
    value = getattr(value, "spec", value)
    return "(none)" if value is None else value
