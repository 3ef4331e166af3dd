"""Blueprints from numbers: forward construction, in which every part is chosen among those that fit what is there.

A blueprint is made of genes, tuples `(op, input, parameter, changes)` of natural numbers. Each gene adds one node: `op`
counts the blocks that can read something that is there, `input` the values it can read, `parameter` the options that
must be given, and each of the `changes` sets one more option, fills a slot or joins a further port. Every number is
taken modulo what is possible at that moment and zero is the simplest, so any numbers make a blueprint, smaller ones a
simpler blueprint, and one gene less a blueprint with one node less. Nothing is solved and nothing needs torch: after
each node its contract says what came of it (`typed`), and a node that is refused is left out, or kept (`free`) to see
what is said about it. What nothing reads is an output.

The blocks are those of a registry, their options those of their fields: a plugin's appear by themselves.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from composer.block import RESERVED, Block, SlotSpec
from composer.blueprint import VERSION
from composer.blueprint import Blueprint as Source
from composer.diagnostics import ComposerError, Diagnostic
from composer.dims import at
from composer.inference import infer_all
from composer.linking import link_all
from composer.registry import Registry
from composer.source import Map
from composer.testing.options import choices
from composer.types import Type

Spec = dict[str, Any]
Gene = tuple[int, int, int, Sequence[tuple[int, int]]]

CHANNELS = (8, 1, 3, 4, 12, 16)
SIZES = {2: ((8, 8), (16, 16), (7, 9), (16, 8), (1, 4), (12, 20)), 3: ((4, 4, 4), (8, 8, 8), (5, 3, 4), (4, 8, 8))}
MOST = 2**18
"""Numbers that a value may have at the size a network is built for."""
DEEPEST = 3
"""Blocks in slots of blocks in slots."""
TRIES = 8
"""Values tried for the options of a part that is refused."""
KINDS = {"map": ("map",), "grid": ("map",), "tokens": ("map", "tokens", "queries", "scales")}
"""What a layout can hold; any other holds everything."""


@dataclass(frozen=True)
class Setting:
    """The inputs that a blueprint may have: one image, and beside it what a block may ask for."""

    rank: int = 2
    channels: int = 8
    size: tuple[int, ...] = (8, 8)

    @staticmethod
    def of(number: int, rank: int | None = None) -> Setting:
        """The setting that a number counts; 0 is the simplest."""
        if rank is None:
            number, which = divmod(number, 2)
            rank = 2 + which
        number, size = divmod(number, len(SIZES[rank]))
        return Setting(rank, CHANNELS[number % len(CHANNELS)], SIZES[rank][size])

    @property
    def inputs(self) -> Spec:
        size = {"size": list(self.size)}
        return {
            "image": {"type": f"B {self.channels} *S", **size},
            "mask": {"type": "B 1 *S", **size},
            "position": f"B {self.rank}",
        }


@dataclass
class Node:
    """A block on its way into a graph, with its slots as nodes; `path` is where it stands in the outermost one."""

    block: type[Block]
    options: Spec = field(default_factory=dict)
    slots: dict[str, Node | None] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    copies: int = 0

    def spec(self) -> Any:
        """What is written for it: a name where that says everything."""
        made: Spec = {"use": self.block.name, **({"from": _wiring(self.ports)} if self.ports else {})}
        made |= {"repeat": self.copies} if self.copies else {}
        made |= self.options
        made |= {name: None if part is None else part.brief() for name, part in self.slots.items()}
        return made

    @property
    def alone(self) -> bool:
        """Whether nothing in its slots reads the graph around."""
        return not any(part.ports for part in _parts(self) if part is not self)

    def brief(self) -> Any:
        spec = self.spec()
        return spec["use"] if set(spec) == {"use"} else spec

    def copy(self) -> Node:
        slots = {k: v and v.copy() for k, v in self.slots.items()}
        return Node(self.block, dict(self.options), slots, dict(self.ports), self.copies)


def _wiring(ports: Mapping[str, str]) -> Any:
    return next(iter(ports.values())) if list(ports) == ["x"] else dict(ports)


def genes(at_: random.Random, most: int = 8) -> list[Gene]:
    """Random genes, as many as `most`; half of the numbers are small."""

    def number() -> int:
        return at_.choice((0, at_.randrange(8), at_.randrange(2**16), at_.randrange(2**16)))

    return [
        (at_.randrange(2**16), number(), number(), [(at_.randrange(2**16), at_.randrange(64)) for _ in range(changes)])
        for changes in (at_.choice((0, 0, 1, 2, 4)) for _ in range(at_.randint(1, most)))
    ]


def composed(given: Iterable[Gene], registry: Registry, setting: Setting | None = None, free: bool = False) -> Spec:
    """The document that some genes make, which checks; with `free`, parts that are refused stay in it."""
    making = Composition(registry, setting or Setting(), free)
    for gene in given:
        making.add(gene)
    return making.document()


class Composition:
    """A blueprint while it grows: its nodes and the values that there are, the newest first."""

    def __init__(self, registry: Registry, setting: Setting, free: bool = False):
        self.registry, self.setting, self.free = registry, setting, free
        self.blocks = simplest_first(registry)
        self.nodes: dict[str, Node] = {}
        self.inputs = setting.inputs
        self.values: dict[str, Type] = {}
        self.read: set[str] = set()
        self.asked: dict[str, tuple[dict[str, Type] | None, set[str]]] = {}
        self.codes: set[str] = set()
        """What the last node that was asked about was refused for."""
        self.values.update(typed({}, self.inputs, registry)[0])

    # --- one node ----------------------------------------------------------------------------------------------

    def add(self, gene: Gene) -> bool:
        """The node of one gene, unless it is refused; whether it was added."""
        op, source, parameter, changes = gene
        valid = [b for b in self.blocks if self.readable(b)]
        if not valid:
            return False
        block = valid[op % len(valid)]
        node = self.plain(block, source, parameter)
        if not self.free or changes:
            node = self.changed(node, changes)
        return self.placed(node) or (self.free and self.kept(node))

    def readable(self, block: type[Block]) -> bool:
        return all(self.fitting(block, port) for port in block.required)

    def fitting(self, block: type[Block], port: str) -> list[str]:
        """The values that a port's layout can hold, the newest first; inputs other than the image come last."""
        kinds = kinds_of(block, port)
        found = [n for n, t in reversed(self.values.items()) if not kinds or t.kind in kinds]
        return sorted(found, key=lambda n: n in self.inputs and n != "image")

    def plain(self, block: type[Block], source: int, parameter: int) -> Node:
        """A block that reads something and has the options it must have."""
        ports = {}
        for port in block.required:
            fitting = self.fitting(block, port)
            source, which = divmod(source, len(fitting))
            ports[port] = fitting[which]
        node = self.filled(block, parameter)
        node.ports = ports
        return node

    def filled(self, block: type[Block], parameter: int, depth: int = 0) -> Node:
        """A block with the options that it must have, and a block in each slot that must be filled."""
        node = Node(block)
        for name in required_options(block):
            made = choices(block, name, self.setting.rank)
            if made:
                parameter, which = divmod(parameter, len(made))
                node.options[name] = made[which]
        for slot in block.slots.values():
            if slot.required and slot.default is None:
                fits = [b for b in self.mates(slot) if depth < DEEPEST or not needs_slot(b)]
                if fits:
                    parameter, which = divmod(parameter, len(fits))
                    node.slots[slot.name] = self.inner(slot, fits[which], parameter, depth)
        return node

    def inner(self, slot: SlotSpec, block: type[Block], number: int, depth: int) -> Node:
        """A block in a slot; what the slot does not offer it takes from the graph around."""
        node = self.filled(block, number, depth + 1)
        offered = {*slot.offers} | ({block.required[0]} if block.required[:1] != ("x",) else set())
        for port in block.required:
            if port not in offered and port not in slot.offers:
                fitting = self.fitting(block, port)
                if fitting:
                    number, which = divmod(number, len(fitting))
                    node.ports[port] = f".{fitting[which]}"
        return node

    def mates(self, slot: SlotSpec) -> list[type[Block]]:
        """What may stand in a slot: blocks of its role, then any other; the contract decides."""
        role = [b for b in self.blocks if b.name.startswith(f"{slot.role}.") or b.name == slot.role]
        others = [b for b in self.blocks if b not in role and len(b.required) == 1]
        return role + others

    # --- changes -----------------------------------------------------------------------------------------------

    def changed(self, node: Node, changes: Iterable[tuple[int, int]]) -> Node:
        """The node after those of some changes that do not make it wrong."""
        for which, value in changes:
            made = node.copy()
            knobs = list(self.knobs(made))
            if not knobs:
                return node
            owner, name, depth = knobs[which % len(knobs)]
            self.turn(owner, name, depth, value)
            node = made if self.free else self.accepted(made) or node
        return node

    def knobs(self, node: Node, depth: int = 0) -> Iterator[tuple[Node, str, int]]:
        """What can be changed of a node and the blocks in its slots: options, slots, further ports, copies."""
        block = node.block
        for name in block.model_fields:
            if name in block.slots or len(choices(block, name, self.setting.rank)) > (name in node.options):
                yield node, name, depth
        if depth == 0:
            yield from ((node, port, depth) for port in block.optional if port not in node.ports)
        yield node, "repeat", depth
        for name, part in node.slots.items():
            if part is not None and depth < DEEPEST and name in block.slots:
                yield from self.knobs(part, depth + 1)

    def turn(self, node: Node, name: str, depth: int, value: int) -> None:
        """One change."""
        block = node.block
        if name == "repeat":
            node.copies = 2 + value % 2
        elif name in block.slots:
            slot = block.slots[name]
            value, any_role = divmod(value, 2)
            mates = self.mates(slot)
            kin = [b for b in mates if b.name.startswith(f"{slot.role}.")]
            others = [None] * (not slot.required and slot.default is not None) + mates
            fits: list[type[Block] | None] = [*kin] if kin and not any_role else others
            value, which = divmod(value, len(fits))
            chosen = fits[which]
            node.slots[name] = None if chosen is None else self.inner(slot, chosen, value, depth)
        elif name in block.model_fields:
            made = [
                v
                for v in choices(block, name, self.setting.rank)
                if v != node.options.get(name, made_default(block, name))
            ]
            if made:
                node.options[name] = made[value % len(made)]
        else:
            fitting = self.fitting(block, name)
            if fitting:
                node.ports[name] = fitting[value % len(fitting)]

    # --- what the contract says ---------------------------------------------------------------------------------

    def accepted(self, node: Node) -> Node | None:
        """The node, or one like it whose numbers fit (heads that divide the channels); None where there is none."""
        if self.result(node) is not None:
            return node
        for tried in self.mended(node):
            if self.result(tried) is not None:
                return tried
        return None

    def mended(self, node: Node) -> Iterator[Node]:
        """The same with 1 for every whole number, with one option more, then with other values of one."""
        codes = self.codes
        yield self.ones(node)
        if codes & {"BP304", "BP404"}:  # parts that do not go together, a state without copies
            yield from self.regrouped(node)
        if "BP202" in codes:  # an option is missing, and its field cannot say so
            for name in node.block.model_fields:
                for value in choices(node.block, name, self.setting.rank)[:1]:
                    other = node.copy()
                    other.options.setdefault(name, value)
                    yield other
        for name in node.options:
            for value in choices(node.block, name, self.setting.rank)[:TRIES]:
                other = node.copy()
                other.options[name] = value
                yield other

    def ones(self, node: Node, copies: int = 0) -> Node:
        """The node with 1 for every whole number that is not written."""
        made = node.copy()
        made.copies = made.copies or copies
        for part in _parts(made):
            for name in part.block.model_fields:
                known = choices(part.block, name, self.setting.rank)
                usual = made_default(part.block, name)
                if name not in part.options and 1 in known and type(usual) is int and usual > 1:
                    part.options[name] = 1
        return made

    def regrouped(self, node: Node) -> Iterator[Node]:
        """The node as copies, and with each block of its role in a slot that must be filled."""
        yield self.ones(node, copies=2)
        for slot in node.block.slots.values():
            for block in self.mates(slot) if slot.required else ():
                if block.name.startswith(f"{slot.role}."):
                    other = node.copy()
                    other.slots[slot.name] = self.inner(slot, block, 0, 0)
                    yield self.ones(other, copies=2)

    def result(self, node: Node) -> dict[str, Type] | None:
        """The types that a node gives, by name below it; None where it is refused, or larger than is good."""
        used = {n for part in _parts(node) for r in part.ports.values() if (n := r.lstrip(".")) in self.values}
        names = {n: n if n in self.inputs else f"v{k}" for k, n in enumerate(sorted(used))}
        values = {names[n]: self.values[n] for n in used if n not in self.inputs}
        spec = _renamed(node, names).spec()
        key = repr((spec, values))
        if key not in self.asked:
            types, mistakes = typed({"node": spec}, self.inputs, self.registry, values)
            fits = not mistakes and all(self.cells(t) <= MOST for t in types.values())
            self.asked[key] = types if fits else None, {m.code for m in mistakes}
        result, self.codes = self.asked[key]
        return result

    def cells(self, type_: Type) -> int:
        env = dict(zip(_axes(self.setting.rank), self.setting.size, strict=True))
        return int(at(type_.length, env)) * max(1, type_.channels) if type_.kind != "vector" else type_.channels

    def placed(self, node: Node) -> bool:
        fits = self.accepted(node) if not self.free else node if self.result(node) is not None else None
        if fits is None:
            return False
        self.put(fits, self.result(fits) or {})
        return True

    def kept(self, node: Node) -> bool:
        """A node that is refused, in a blueprint that shall have mistakes: its type is that of what it reads."""
        first = next(iter(node.ports.values()), "image")
        self.put(node, {"node": self.values[first]})
        return True

    def put(self, node: Node, types: Mapping[str, Type]) -> None:
        name = self.name_for(node.block)
        self.nodes[name] = node
        self.read |= {r.lstrip(".").split(".")[0] for part in _parts(node) for r in part.ports.values()}
        if "node" not in types and not node.block.many:  # an output of several that no reference can name
            return
        for key, type_ in types.items():
            if "." in key or len(types) == 1:
                self.values[key.replace("node", name, 1)] = type_

    def name_for(self, block: type[Block]) -> str:
        """The last word of the block's name, with a number where it is taken."""
        word = block.name.rpartition(".")[2]
        word = f"{word}_" if word in RESERVED else word
        taken = {*self.nodes, *self.inputs}
        return word if word not in taken else next(n for k in range(2, 10**6) if (n := f"{word}_{k}") not in taken)

    # --- the whole ---------------------------------------------------------------------------------------------

    def document(self) -> Spec:
        """The blueprint as data. Raises ValueError where no block of the registry reads an image."""
        if not self.nodes and not any(self.add((k, 0, 0, ())) for k in range(len(self.blocks))):
            raise ValueError("no block of this registry takes what a blueprint's inputs give")
        return {
            "blueprint": VERSION,
            "name": "composed",
            "inputs": {n: spec for n, spec in self.inputs.items() if n in self.read},
            "graph": self.graph(),
            "outputs": {n: n for n in self.nodes if n not in self.read},
        }

    def graph(self) -> Spec:
        """The nodes; one that reads the line above need not say so."""
        made: Spec = {}
        above = next((n for n in self.inputs if n in self.read), "")
        for name, node in self.nodes.items():
            spec = node.spec()
            if spec.get("from") == above:
                del spec["from"]
            made[name] = spec["use"] if set(spec) == {"use"} and "." in spec["use"] else spec
            above = name if name in self.values else ""
        return made


def _parts(node: Node) -> Iterator[Node]:
    yield node
    for part in node.slots.values():
        if part is not None:
            yield from _parts(part)


def _axes(rank: int) -> tuple[str, ...]:
    return ("D", "H", "W")[3 - rank :]


def typed(
    specs: Mapping[str, Any], inputs: Spec, registry: Registry, values: Mapping[str, Type] | None = None
) -> tuple[dict[str, Type], list[Diagnostic]]:
    """The types of a few nodes that read values of these types, and what is wrong: their contract, asked alone.

    The inputs of the network are there too, so that sizes are what they are in it.
    """
    values = values or {}
    document = Source(
        "composed",
        "",
        inputs=Map({**inputs, **dict.fromkeys(values, "B 1")}),
        graph=_mapped(specs or {"none": {"when": False}}),
        outputs=Map({f"out_{n}": n for n in (*(specs or ["none"]), *inputs, *values)}),
        library=registry.blueprints,
    )
    try:
        graph, mistakes = link_all(document, registry)
        if mistakes:
            return {}, mistakes
        program, mistakes = infer_all(graph, values)
    except ComposerError as fault:
        return {}, list(fault.diagnostics)
    wanted = specs or inputs
    flat = {k: t for k, t in program.types.items() if k.split(".")[0] in wanted and isinstance(t, Type)}
    return {k: t for k, t in flat.items() if k in wanted or _is_output(k, program.types)}, mistakes


def _is_output(key: str, types: Mapping[str, Any]) -> bool:
    """Whether `node.key` is one of several outputs of a node, not a part within it."""
    owner, _, name = key.partition(".")
    several = types.get(owner)
    return (
        "." not in name
        and isinstance(several, (dict, list))
        and (name in several if isinstance(several, dict) else name.isdigit())
    )


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    made = node.copy()
    for part in _parts(made):
        part.ports = {
            p: ("." if r.startswith(".") else "") + names.get(r.lstrip("."), r.lstrip("."))
            for p, r in part.ports.items()
        }
    return made


def _mapped(value: Any) -> Any:
    """Plain data as data of a file."""
    if isinstance(value, dict):
        return Map({k: _mapped(v) for k, v in value.items()})
    return [_mapped(v) for v in value] if isinstance(value, list) else value


@lru_cache(maxsize=64)
def _order(blocks: tuple[type[Block], ...]) -> tuple[type[Block], ...]:
    return tuple(
        sorted(
            blocks, key=lambda b: (len(b.required), len(required_options(b)), len(b.slots), len(b.model_fields), b.name)
        )
    )


def simplest_first(registry: Registry) -> tuple[type[Block], ...]:
    """The blocks of a registry: those with few ports, options and slots come first."""
    return _order(tuple(registry.blocks.values()))


def required_options(block: type[Block]) -> list[str]:
    """The options that must be written."""
    return [n for n, f in block.model_fields.items() if f.is_required() and n not in block.slots]


def needs_slot(block: type[Block]) -> bool:
    return any(s.required and s.default is None for s in block.slots.values())


def made_default(block: type[Block], name: str) -> Any:
    """The value an option has where nothing is written."""
    return block.model_fields[name].get_default(call_default_factory=True)


def kinds_of(block: type[Block], port: str) -> tuple[str, ...]:
    """The kinds of values that a port can hold; none where its contract does not say."""
    if hasattr(block, "compose"):
        return ()
    if block.signature is not None:
        return KINDS.get(block.signature.ports[port].layout, ())
    wanted = block.layout if isinstance(block.layout, str) else block.layout.get(port, "any")
    return () if "wanted_layout" in block.__dict__ else KINDS.get(wanted, ())


__all__ = ["Composition", "Gene", "Node", "Setting", "composed", "genes", "simplest_first", "typed"]
