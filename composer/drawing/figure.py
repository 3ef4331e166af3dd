"""The figure: a standalone SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from composer.drawing.boxes import ROLES, Box, Edge, boxes_of, edges_of, shortened
from composer.drawing.panels import Panel, panels_of
from composer.drawing.places import EDGE, Item, placed, text_width
from composer.drawing.routes import Routes, heights_of
from composer.drawing.words import Description, human

FONT: Final = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
THEMES: Final = {
    "paper": {"ink": "#1d1d1f", "soft": "#5f6368", "line": "#3c4043", "skip": "#a84c80", "panel": "#fafafa"},
    "gray": {"ink": "#000000", "soft": "#444444", "line": "#222222", "skip": "#777777", "panel": "#ffffff"},
}


def svg(description: Description, *, theme: str = "paper") -> str:
    """The architecture as a figure: standalone SVG without scripts, fonts or anything else from outside.

    Themes: `paper` (colours that the colour-blind can tell apart), `gray`.
    """
    if theme not in THEMES:
        raise ValueError(f"no theme `{theme}`; there are {', '.join(THEMES)}")
    boxes = boxes_of(description)
    edges = edges_of(boxes)
    items = placed(boxes, edges)
    lines = Routes(items).all(edges)
    canvas = Canvas(THEMES[theme], is_gray=theme == "gray")
    heights = heights_of(items, lines, 44.0)
    for edge, stops in zip(edges, lines, strict=True):
        canvas.arrow([(x, heights.of(place)) for x, place in stops], edge, boxes)
    for item in items:
        (canvas.node if item.box.is_node else canvas.end)(item, heights.middles[item.row])
    left, width = canvas.left, max(canvas.right - canvas.left, 320.0)
    panels = panels_of(description)
    bottom = canvas.panels(panels, left, heights.bottom + 10, width)
    used = {box.role for box in boxes if box.is_node} | {role for panel in panels for *_, role in panel.lines}
    bottom = canvas.legend(used, any(edge.is_skip for edge in edges), left, bottom + 14, width)
    canvas.title(description, left, 16.0)
    return canvas.text(bottom, str(description.get("name", "")))


@dataclass
class Canvas:
    """Collects the shapes of a figure and how far they reach."""

    colors: Mapping[str, str]
    is_gray: bool = False
    shapes: list[str] = field(default_factory=list)
    left: float = 0.0
    right: float = 0.0

    def reach(self, *xs: float) -> None:
        """The figure has to reach these x."""
        self.left, self.right = min(self.left, *xs), max(self.right, *xs)

    def write(
        self,
        text: str,
        x: float,
        y: float,
        size: float,
        *,
        kind: str = "ink",
        anchor: str = "middle",
        style: str = "",
        more: str = "",
    ) -> None:
        """A line of text, `y` is its baseline; `more` follows it in a lighter colour."""
        width = text_width(f"{text}   {more}", size) if more else text_width(text, size)
        start = x - {"middle": width / 2, "start": 0.0, "end": width}[anchor]
        self.reach(start, start + width)
        soft = f'<tspan dx="7" fill="{self.colors["soft"]}">{_escaped(more)}</tspan>' if more else ""
        self.shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{self.colors[kind]}"'
            f' text-anchor="{anchor}"{style}>{_escaped(text)}{soft}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, role: str, extra: str) -> None:
        """A rectangle in the colours of a role; `extra` ends the tag."""
        fill, line = ("#ffffff", "#333333") if self.is_gray else ROLES[role][1:]
        self.shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5"'
            f' fill="{fill}" stroke="{line}" stroke-width="1.1" {extra}'
        )

    def node(self, item: Item, middle: float) -> None:
        """The box, cards behind it and a badge for copies, its texts, and its type below."""
        box, top = item.box, middle - item.height / 2
        for offset in (item.stack, item.stack / 2) if item.stack else ():
            self.box(item.left + offset, top - offset, item.width, item.height, box.role, 'class="card"/>')
        self.box(
            item.left,
            top,
            item.width,
            item.height,
            box.role,
            f'class="node" data-address="{_escaped(box.address)}"><title>{_escaped(box.address)}</title></rect>',
        )
        self.reach(item.left, item.right)
        title = shortened(box.title, 30)
        shift = -6.0 if box.copies > 1 else 0.0
        self.write(title, item.middle + shift, middle + (-1 if box.subtitle else 4), 11.5, style=BOLD)
        if box.copies > 1:
            self.badge(f"×{box.copies}", item.left + item.width - 1, top + 2)
        self.write(box.subtitle, item.middle, middle + 11, 8.5, kind="soft")
        self.write(str(box.shape), item.middle, middle + item.height / 2 + 11, 8.5, kind="ink")

    def badge(self, text: str, right: float, middle: float) -> None:
        """A count on the upper right corner of a box."""
        width = text_width(text, 8.5) + 8
        self.shapes.append(
            f'<rect x="{right - width:.1f}" y="{middle - 7:.1f}" width="{width:.1f}" height="14" rx="7"'
            f' fill="{self.colors["line"]}" class="badge"/>'
        )
        self.shapes.append(
            f'<text x="{right - width / 2:.1f}" y="{middle + 3:.1f}" font-size="8.5" fill="#ffffff"'
            f' text-anchor="middle" font-weight="bold">{text}</text>'
        )

    def end(self, item: Item, middle: float) -> None:
        """An input or output: only its name and type."""
        self.reach(item.left, item.right)
        self.write(shortened(item.box.title, 30), item.middle, middle + 1, 11.5, style=' font-style="italic"')
        self.write(str(item.box.shape), item.middle, middle + 12, 8.5, kind="soft")

    def arrow(self, points: Sequence[tuple[float, float]], edge: Edge, boxes: Sequence[Box]) -> None:
        """A line with round corners and a head."""
        kind = "skip" if edge.is_skip else "line"
        self.reach(*(x for x, _ in points))
        names = f'data-from="{_escaped(boxes[edge.source].address)}" data-to="{_escaped(boxes[edge.target].address)}"'
        self.shapes.append(
            f'<path d="{_rounded(points)}" fill="none" stroke="{self.colors[kind]}" class="edge {kind}"'
            f' stroke-width="1.3" {names} marker-end="url(#{kind})"/>'
        )

    def panels(self, panels: Sequence[Panel], left: float, y: float, width: float) -> float:
        """Details below the figure, side by side while there is room; gives where they end."""
        x, bottom = left, y
        for panel in panels:
            if x > left and x + panel.width > left + width:
                x, y = left, bottom + 12
            self.panel(panel, x, y)
            x, bottom = x + panel.width + 14, max(bottom, y + panel.height)
        return bottom

    def panel(self, panel: Panel, x: float, y: float) -> None:
        """A block's name, and a line for each of its slots."""
        self.shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{panel.width:.1f}" height="{panel.height:.1f}" rx="5"'
            f' fill="{self.colors["panel"]}" stroke="#c6c6c6" class="panel"/>'
        )
        self.reach(x, x + panel.width)
        self.write(panel.title, x + 10, y + 17, 10.5, anchor="start", style=BOLD)
        for number, (slot, block, options, role) in enumerate(panel.lines):
            line = y + 33 + 15 * number
            self.box(x + 10, line - 7.5, 8, 8, role, 'class="key"/>')
            self.write(shortened(slot, 10), x + 23, line, 8.5, anchor="start", style=' font-style="italic"')
            self.write(block, x + 76, line, 8.5, anchor="start", more=options)

    def legend(self, used: set[str], has_skips: bool, left: float, y: float, width: float) -> float:
        """The roles that occur, and what a coloured line means; gives where it ends."""
        entries = [(role, texts[0]) for role, texts in ROLES.items() if role in used and not self.is_gray]
        x = left
        for role, text in [*entries, *([("skip", "Skip connection")] if has_skips else [])]:
            length = 20 + text_width(text, 9) + 14
            if x > left and x + length > left + width:
                x, y = left, y + 16
            self.key(role, x, y)
            self.write(text, x + 20, y + 9, 9, kind="soft", anchor="start")
            x += length
        return y + 12

    def key(self, role: str, x: float, y: float) -> None:
        """The sample before a word of the legend."""
        if role != "skip":
            return self.box(x, y, 14, 11, role, 'class="key"/>')
        self.shapes.append(
            f'<path d="M{x:.1f} {y + 6:.1f}H{x + 16:.1f}" stroke="{self.colors["skip"]}"'
            ' stroke-width="1.5" class="key"/>'
        )

    def title(self, description: Description, left: float, y: float) -> None:
        """Name, summary and size of the network."""
        name = shortened(str(description.get("name", "")), 60)
        self.write(name, left, y, 16, anchor="start", style=BOLD)
        facts = [shortened(str(description.get("summary") or ""), 90)]
        if description.get("parameters") is not None:
            facts.append(f"{human(int(description['parameters']))} parameters")
        self.write(" · ".join(filter(None, facts)), left, y + 17, 10.5, kind="soft", anchor="start")

    def text(self, bottom: float, name: str) -> str:
        """The finished figure."""
        x, width, height = self.left - EDGE / 2, self.right - self.left + EDGE, bottom + EDGE / 2 + 8
        heads = "".join(_arrow_head(kind, self.colors[kind]) for kind in ("line", "skip"))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{x:.1f} -8 {width:.1f} {height:.1f}" width="{width:.0f}"'
            f' height="{height:.0f}" font-family="{FONT}" role="img">\n<title>{_escaped(name)}</title>\n'
            f'<defs>{heads}</defs>\n<rect x="{x:.1f}" y="-8" width="{width:.1f}" height="{height:.1f}"'
            ' fill="#ffffff" class="background"/>\n' + "\n".join(self.shapes) + "\n</svg>\n"
        )


BOLD: Final = ' font-weight="bold"'


def _arrow_head(kind: str, color: str) -> str:
    return (
        f'<marker id="{kind}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
        f' markerUnits="userSpaceOnUse"><path d="M0 0.8L8 4L0 7.2Z" fill="{color}"/></marker>'
    )


def _rounded(points: Sequence[tuple[float, float]], radius: float = 5.0) -> str:
    """A path along the points whose corners are round."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        (x1, y1), (x2, y2) = _towards(corner, before, radius), _towards(corner, after, radius)
        path += f"L{x1:.1f} {y1:.1f}Q{corner[0]:.1f} {corner[1]:.1f} {x2:.1f} {y2:.1f}"
    return path + f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"


def _towards(start: tuple[float, float], end: tuple[float, float], distance: float) -> tuple[float, float]:
    """The point at this distance, at most half the way."""
    length = math.dist(start, end)
    share = min(distance / length, 0.5) if length else 0.0
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _escaped(text: str) -> str:
    """Text as XML can hold it."""
    legal = re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return escape(legal, {'"': "&quot;"})
