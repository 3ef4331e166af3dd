"""A compiled network as plain data: what `composer show` draws and `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from composer import sizes
from composer.addresses import is_prefix
from composer.graph import Body, Broken, Call, Graph, Group, Input, Ref, Through
from composer.inference import Program
from composer.strides import multiples, readable
from composer.types import UNKNOWN, Type

if TYPE_CHECKING:
    from composer.module import Network


def describe(program: Program, network: Network | None = None) -> dict[str, Any]:
    """The network as a tree of nodes with types, options, places, and (if built; `meta` will do) parameters."""
    return _Description(program, _counts(network)).whole()


def _counts(network: Network | None) -> dict[str, int] | None:
    return {name: p.numel() for name, p in network.named_parameters()} if network is not None else None


class _Description:
    def __init__(self, program: Program, counts: Mapping[str, int] | None):
        self.program, self.counts = program, counts
        self.graph: Graph = program.graph
        self.passed: dict[str, Input] = {}
        self.strides = multiples(program.constraints)

    def whole(self) -> dict[str, Any]:
        blueprint, program = self.graph.blueprint, self.program
        nodes = [n for m in self.graph.members for n in self.node(m)]
        result: dict[str, Any] = {
            "name": blueprint.name,
            "summary": blueprint.summary,
            "source": dict(blueprint.source) or None,
            "file": blueprint.path,
            "params": {n: v for n, v in blueprint.values.items() if _plain(v)},
            "parameters": sum(self.counts.values()) if self.counts is not None else None,
            "inputs": [
                {"name": i.name, "type": str(i.type), "optional": i.optional, "pad": i.pad} for i in program.inputs
            ],
            "outputs": [self.output(o) for o in self.graph.outputs],
            "built_for": dict(program.built),
            "constraints": sizes.summary(program.constraints, program.built),
            "nodes": nodes,
        }
        return result

    def output(self, output: Any) -> dict[str, Any]:
        refs = list(_refs(output.value))
        types = [self.type(r.name) for r in refs]
        return {
            "name": output.name,
            "from": ", ".join(r.name for r in refs),
            "type": types[0] if len(types) == 1 else " · ".join(map(str, types)),
            "training": output.training,
        }

    def node(self, body: Body | None, slot: str = "", unknown: bool = False) -> Iterator[dict[str, Any]]:
        """A part; below one of an `unknown` type nothing was computed, and all that is written there is shown."""
        if isinstance(body, Through):
            self.passed[body.address] = body.result
        if isinstance(body, Broken) and body.use:
            yield self.missing(body, slot)
        if not isinstance(body, (Call, Group)) or (body.address not in self.program.types and not unknown):
            return  # left out, or a slot its owner has no use for
        made: dict[str, Any] = {
            "address": body.address,
            "name": _name(body.address),
            "kind": "block" if isinstance(body, Call) else body.kind,
            "use": body.use,
            "options": {k: _readable(v) for k, v in body.written.items() if _plain(v) and k not in _slots(body)},
            "type": self.type(body.address),
            "parameters": self.parameters(body.address),
            "from": self.sources(body),
            "place": _place(body),
        }
        if slot:
            made["slot"] = slot
        parts: list[tuple[Body | None, str]] = [(m, "") for m in _members(body)]
        unknown = self.program.types.get(body.address, UNKNOWN) is UNKNOWN
        made["children"] = [n for part, name in parts + _parts(body) for n in self.node(part, name, unknown)]
        yield made

    def missing(self, body: Broken, slot: str) -> dict[str, Any]:
        """A part whose block no installed plugin has."""
        made: dict[str, Any] = {
            "address": body.address,
            "name": _name(body.address),
            "kind": "missing",
            "use": body.use,
            "options": {k: _readable(v) for k, v in body.written.items()},
            "type": "unknown",
            "parameters": None,
            "from": self.sources(body),
            "place": _place(body),
            "children": [],
        }
        return {**made, "slot": slot} if slot else made

    def parameters(self, address: str) -> int | None:
        if self.counts is None:
            return None
        return sum(n for name, n in self.counts.items() if name.startswith(address + "."))

    def type(self, address: str) -> Any:
        return type_of(self.program.types.get(address), self.strides)

    def sources(self, body: Body) -> list[list[str]]:
        """What a part reads from outside itself, as [port, address] pairs."""
        found: dict[str, str] = {}
        for port, ref in _reads(body):
            for actual in self.actual(ref):
                if "@" not in actual and not is_prefix(body.address, actual):
                    found.setdefault(actual, port)
        return [[port, address] for address, port in found.items()]

    def actual(self, ref: Ref) -> list[str]:
        """Where a value really comes from, through parts that are left out."""
        if ref.name in self.passed:
            return [a for r in _refs(self.passed[ref.name]) for a in self.actual(r)]
        return [ref.name]


def _members(body: Body) -> tuple[Body, ...]:
    return body.members if isinstance(body, Group) else ()


def _parts(body: Body) -> list[tuple[Body | None, str]]:
    return [(part, at) for at, part in body.parts.items()] if isinstance(body, Call) else []


def _slots(body: Call | Group) -> Any:
    return body.block.slots if isinstance(body, Call) else ()


def _reads(body: Body | None) -> Iterator[tuple[str, Ref]]:
    """Every reference inside a part."""
    if isinstance(body, (Call, Broken)):
        for port, value in body.inputs.items():
            yield from ((port, r) for r in _refs(value))
    if isinstance(body, Call):
        for part in body.parts.values():
            yield from _reads(part)
    elif isinstance(body, Group):
        for member in body.members:
            yield from _reads(member)
    elif isinstance(body, Through):
        yield from (("x", r) for r in _refs(body.result))


def _refs(value: Input) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, tuple):
        yield from value


def _name(address: str) -> str:
    """The last word of an address; a copy keeps its owner: `blocks.0`."""
    words = address.split(".")
    return ".".join(words[-2:]) if words[-1].isdigit() and len(words) > 1 else words[-1]


def _place(body: Call | Group | Broken) -> str | None:
    return f"{body.span.source.name.rpartition('/')[2]}:{body.span.line}" if body.span else None


def type_of(type_: Any, strides: Mapping[str, int]) -> Any:
    """A type in words; of several outputs by their names; None where there is none."""
    if type_ is UNKNOWN:
        return "unknown"
    if isinstance(type_, Type):
        return readable(type_, strides)
    if isinstance(type_, Mapping):
        return {str(k): type_of(v, strides) for k, v in type_.items()}
    if isinstance(type_, (list, tuple)):
        return {str(k): type_of(v, strides) for k, v in enumerate(type_)}
    return None


def _plain(value: Any) -> bool:
    """Whether a value says something as data (a block handed through a parameter does not)."""
    return value is None or isinstance(value, (bool, int, float, str, list, dict))


def _readable(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value
