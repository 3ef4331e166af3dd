"""The details below a figure: what is in the slots of the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from composer.drawing.boxes import copies_of, role_of, shortened, subtitle_of
from composer.drawing.places import text_width
from composer.drawing.words import Description, Node, children_of, options_text, unwrapped


@dataclass(frozen=True)
class Panel:
    """The slots of one kind of block: (slot, block, options, role)."""

    title: str
    lines: tuple[tuple[str, str, str, str], ...]

    @property
    def width(self) -> float:
        """Room for the longest line."""
        texts = [text_width(self.title, 10.5)]
        return max(texts + [66 + text_width(f"{block}  {options}", 8.5) for _, block, options, _ in self.lines]) + 20

    @property
    def height(self) -> float:
        """Room for all lines."""
        return 28 + 15.0 * len(self.lines)


def panels_of(description: Description) -> list[Panel]:
    """One for each kind of block with slots, with the options of all its uses together."""
    uses: dict[object, list[Node]] = {}
    for node in _blocks_with_slots(description.get("nodes") or []):
        key = node["use"], tuple((child.get("name"), child.get("use")) for child in children_of(node))
        uses.setdefault(key, []).append(node)
    return [_panel(nodes) for nodes in uses.values()][:4]


def _blocks_with_slots(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in map(unwrapped, nodes):
        inner = children_of(node)
        if node.get("kind") in ("block", "slot") and node.get("use") and inner:
            yield node
        yield from _blocks_with_slots(inner)


def _panel(nodes: Sequence[Node]) -> Panel:
    lines = []
    for slots in zip(*map(children_of, nodes), strict=False):
        name, options = str(slots[0].get("name", "")), _options_within(options_text(slots), 64)
        lines.append((name, _part_of(slots[0]), options, role_of(slots[0])))
    return Panel(str(nodes[0]["use"]), tuple(lines))


def _options_within(text: str, letters: int) -> str:
    """As many whole options as there is room for."""
    parts = text.split(" · ")
    while len(" · ".join(parts)) > letters and len(parts) > 1:
        parts.pop()
    return shortened(" · ".join(parts), letters)


def _part_of(node: Node) -> str:
    count = f" ×{copies_of(node)}" if copies_of(node) > 1 else ""
    return subtitle_of(node) + count
