"""The boxes of a figure, and the edges between them: who reads whom, and which of it is a skip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from composer.drawing.shapes import Shape, shape_of
from composer.drawing.tree import child_name, ends_of
from composer.drawing.words import Description, Node, children_of, sources_of

ROLES: Final = {
    "tokens": ("Tokens", "#d6ecfa", "#2f86b8"),
    "position": ("Position", "#fbf3b8", "#a3921a"),
    "attention": ("Attention", "#c9dcee", "#0a5a94"),
    "convolution": ("Convolution", "#fae1b3", "#b87800"),
    "norm": ("Normalization", "#e8e8e8", "#7c7c7c"),
    "resample": ("Resampling", "#c6e9dd", "#06805b"),
    "decoder": ("Decoder, fusion", "#f3d9e7", "#a84c80"),
    "head": ("Linear, head", "#f7cdb4", "#b84a00"),
    "other": ("Other", "#ffffff", "#6b6b6b"),
}
"""Role: its name, the fill and the line of its boxes (tints and shades of Okabe and Ito's colours)."""

ROLE_OF_NAMESPACE: Final = {
    "tokenizer": "tokens",
    "tokens": "tokens",
    "repeat_channels": "tokens",
    "memory": "tokens",
    "position": "position",
    "attention": "attention",
    "encoder": "attention",
    "conv": "convolution",
    "residual": "convolution",
    "resnet": "convolution",
    "mlp": "head",
    "linear": "head",
    "norm": "norm",
    "act": "norm",
    "dropout": "norm",
    "pool": "resample",
    "down": "resample",
    "up": "resample",
    "resize": "resample",
    "pad": "resample",
    "scales": "resample",
    "decoder": "decoder",
    "fuse": "decoder",
    "gate": "decoder",
    "head": "head",
}
ROLE_OF_BLOCK: Final = {"block.transformer": "attention", "block.residual": "convolution"}
HEADS: Final = frozenset({"convolution", "other"})
"""Roles of which the last block, the one that makes an output, is the head."""


@dataclass(frozen=True)
class Box:
    """A box of a figure before it has a place; `kind` is node, input or output."""

    address: str
    title: str
    shape: Shape
    kind: str = "node"
    role: str = "other"
    subtitle: str = ""
    copies: int = 1
    sources: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    @property
    def is_node(self) -> bool:
        """Whether it is neither an input nor an output."""
        return self.kind == "node"


def boxes_of(description: Description) -> list[Box]:
    """Inputs, each before its first reader, nodes in order of computation, and outputs, each after the last node."""
    outputs = description.get("outputs") or []
    made = frozenset(str(output.get("from", "")) for output in outputs)
    nodes = [_as_head(box, made) for node in description.get("nodes") or [] for box in _node_boxes(node)]
    boxes = list(nodes)
    for given in description.get("inputs") or []:
        name = str(given["name"])
        first = next((i for i, box in enumerate(boxes) if name in box.sources), 0)
        boxes.insert(first, Box(name, name, shape_of(str(given.get("type", ""))), "input", names=frozenset({name})))
    ends = [
        Box(
            f"output {o['name']}",
            str(o["name"]),
            shape_of(str(o.get("type", ""))),
            "output",
            sources=(str(o.get("from", "")),),
        )
        for o in outputs
    ]
    return boxes + ends


def _node_boxes(node: Node) -> list[Box]:
    """One box for a node, one for each instance of a loop."""
    if node.get("kind") != "for" or not children_of(node):
        return [_box(node, str(node.get("name", "")))]
    boxes = [_box(child, child_name(child, node)) for child in children_of(node)]
    sources = tuple(address for _, address in sources_of(node))
    boxes = [
        box if box.sources else replace(box, sources=before)
        for box, before in zip(boxes, [sources, *((box.address,) for box in boxes)], strict=False)
    ]
    boxes[-1] = replace(boxes[-1], names=boxes[-1].names | {str(node.get("address", ""))})
    return boxes


def _box(node: Node, title: str) -> Box:
    address, copies = str(node.get("address", "")), copies_of(node)
    return Box(
        address,
        title,
        shape_of(_first_type(node)),
        "node",
        role_of(node),
        subtitle_of(node),
        copies,
        tuple(dict.fromkeys(source for _, source in sources_of(node))),
        ends_of(node) | {address},
    )


def copies_of(node: Node) -> int:
    """How many copies a repeat has; one for anything else."""
    return max(1, len(children_of(node))) if node.get("kind") == "repeat" else 1


def _first_type(node: Node) -> str:
    kinds = node.get("type")
    return str(next(iter(kinds.values()), "")) if isinstance(kinds, Mapping) else str(kinds or "")


def role_of(node: Node) -> str:
    """The role of a block by its namespace, of a graph by what it fuses or by its largest part."""
    use = str(node.get("use") or "")
    if use:
        return ROLE_OF_BLOCK.get(use) or ROLE_OF_NAMESPACE.get(use.split(".")[0], "other")
    inner = children_of(node)
    if "decoder" in map(role_of, inner):
        return "decoder"
    return role_of(max(inner, key=lambda child: int(child.get("parameters") or 0))) if inner else "other"


def _as_head(box: Box, made: frozenset[str]) -> Box:
    return replace(box, role="head") if box.role in HEADS and box.names & made else box


def subtitle_of(node: Node) -> str:
    """The block; for a graph its parts: `transformer ×2, merge`."""
    if node.get("use"):
        return str(node["use"])
    inner = children_of(node)
    if node.get("kind") == "repeat" and inner:
        return subtitle_of(inner[0])
    parts = [_part(child) for child in inner]
    return shortened(", ".join(parts) if len(parts) <= 3 else f"{len(parts)} nodes", 26)


def _part(node: Node) -> str:
    block = str(node.get("use") or node.get("name") or "")
    block = block if len(block) < 9 else block.rpartition(".")[2]
    return f"{block} ×{copies_of(node)}" if copies_of(node) > 1 else block


def shortened(text: str, letters: int) -> str:
    """The text, cut to a number of letters."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


# Edges: who reads whom, and which of it is a skip


@dataclass(frozen=True)
class Edge:
    """An arrow between two boxes, by their numbers."""

    source: int
    target: int
    is_skip: bool


def edges_of(boxes: Sequence[Box]) -> list[Edge]:
    """All arrows; of several into one box, those that are not the latest and jump over something are skips."""
    known = {name: number for number, box in reversed(list(enumerate(boxes))) for name in (box.address, *box.names)}
    edges = []
    for target, box in enumerate(boxes):
        sources = {_resolve(address, known) for address in box.sources} - {None, target}
        reads = sorted(source for source in sources if source is not None and source < target)
        edges += [Edge(s, target, s != reads[-1] and s < target - 1 and boxes[s].is_node) for s in reads]
    return edges


def _resolve(address: str, known: Mapping[str, int]) -> int | None:
    """The box that makes a value: the one of that address or of the nearest address around it."""
    while address and address not in known:
        address = address.rpartition(".")[0]
    return known.get(address)
