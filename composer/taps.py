"""Which nodes of a network attend, and which of them somebody wants to look into: `tap:`, `network.tap`, `run --tap`.

A leaf that promises `attends` (see `composer.traits`) belongs to the node that was written: `blocks.0.attention` is the
node of the leaf `blocks.0.attention.attend`. A pattern names attentions by node, by leaf, or by any node around them,
so `encoder.*.attention` means one in each copy, and `encoder` all of an encoder.

    tap: [blocks.*.attention]      the network gives, beside its outputs, `taps`: how each of these nodes weighed

`tap` is a key of the document and not an option of a node, because weights are asked for by address, as `edit` and
`init` ask, and so that a copy of a loop can be named. What extends a blueprint says it anew (`tap: []` takes all away);
that of a blueprint used as a block is not read, like its `weights`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from composer.addresses import Pattern
from composer.diagnostics import BlueprintError, Diagnostic, Span, listing
from composer.inference import Program, Step
from composer.reaching import near
from composer.segments import owners
from composer.types import Type

KEY = "taps"
"""What a network with `tap:` gives beside its outputs."""


@dataclass(frozen=True)
class Node:
    """An attention of a network: its `address`, that of the `leaf` at work, and what queries and keys stand on."""

    address: str
    leaf: str
    queries: Type
    keys: tuple[Type, ...]

    def fits(self, pattern: str) -> bool:
        return any(Pattern(pattern).matches(a) for a in owners(self.leaf))


def attentions(program: Program) -> list[Node]:
    """The attentions of a network in the order they run, with or without its optional inputs.

    Two in one node, whose address then tells them not apart, have those of their leaves.
    """
    found: dict[str, Node] = {}
    for each in (program, *program.alternatives.values()):
        for step in each.steps:
            ports = None if step.unused else step.traits.attends
            if ports is not None and step.address not in found:
                found[step.address] = _node(step, ports, each)
    count = Counter(n.address for n in found.values())
    return [n if count[n.address] == 1 else _by_leaf(n) for n in found.values()]


def _node(step: Step, ports: tuple[str, str], program: Program) -> Node:
    written = next((a for a in reversed(list(owners(step.address))) if a in program.types), step.address)
    queries, keys = (step.types[p] for p in ports)
    return Node(written, step.address, queries, tuple(keys) if isinstance(keys, list) else (keys,))


def _by_leaf(node: Node) -> Node:
    """A node under the address of its leaf."""
    return Node(node.leaf, node.leaf, node.queries, node.keys)


def fitting(nodes: Iterable[Node], patterns: Iterable[str]) -> list[Node]:
    """The attentions that patterns name, in the order they run."""
    patterns = list(patterns)
    return [n for n in nodes if any(n.fits(p) for p in patterns)]


def chosen(nodes: Sequence[Node], patterns: Mapping[str, Span | None], known: Iterable[str]) -> list[Node]:
    """`fitting`, where each pattern must name one, else it is a `BlueprintError` (BP112). `known` are the addresses of
    all nodes; patterns come with the places where they are written."""
    idle = [p for p in patterns if not fitting(nodes, [p])]
    if idle:
        raise BlueprintError([_nothing(p, nodes, known, patterns[p]) for p in idle])
    return fitting(nodes, patterns)


def _nothing(text: str, nodes: Sequence[Node], known: Iterable[str], span: Span | None) -> Diagnostic:
    """A pattern that names no attention, with the nearest that do."""
    others = [a for a in known if Pattern(text).matches(a)]
    said = f"no attention has the address `{text}`"
    if others:
        said = f"there is no attention in {listing((f'`{a}`' for a in others), 3)}"
    if not nodes:
        return Diagnostic("BP112", said, span, notes=("nothing in this network attends",))
    addresses = [n.address for n in nodes]
    close = near(text, addresses)
    help = (f"did you mean {listing(f'`{c}`' for c in close)}?",) if close else ()
    return Diagnostic("BP112", said, span, notes=(f"attentions: {listing(starred(addresses), 8)}",), help=help)


def starred(addresses: Iterable[str]) -> list[str]:
    """Addresses with their numbers as `*`, each once."""
    return list(dict.fromkeys(".".join("*" if w.isdigit() else w for w in a.split(".")) for a in addresses))


def mistakes(program: Program) -> list[Diagnostic]:
    """What is wrong with a blueprint's `tap:`."""
    wanted = program.graph.blueprint.tap
    clash = next((o for o in program.graph.outputs if o.name == KEY), None) if wanted else None
    if clash is not None:
        text = f"an output is named `{KEY}`, which is where a network with `tap:` gives its weights"
        return [Diagnostic("BP112", text, clash.span, help=("give the output another name",))]
    try:
        chosen(attentions(program) if wanted else [], wanted, program.types)
    except BlueprintError as fault:
        return list(fault.diagnostics)
    return []
