"""The page: one HTML file with the graph, its costs and its text, which asks nothing of a network.

Everything that stands in it is written here, as text, and escaped; the script only folds, marks and draws the lines
between boxes. A policy in the head names that one script by its hash, so that nothing else could run even if it got in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

from composer.drawing.boxes import ROLES, copies_of, role_of
from composer.drawing.figure import svg
from composer.drawing.tree import child_name
from composer.drawing.words import Description, Node, children_of, human, sources_of, type_text

HERE: Final = Path(__file__).parent
OPEN: Final = 40
"""Boxes that are open at first; deeper groups begin folded."""

Figures = Mapping[str, int]


@dataclass(frozen=True)
class Text:
    """A file: the name it is shown under, and its lines."""

    name: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Marks:
    """What the page knows beside the description, by address.

    costs   FLOPs and the bytes of the outputs, as `flops` and `bytes`; those of a group are of all its nodes
    lines   (file, first line, last line), the number of the file in `texts`
    remark  why there are no costs, if there are none
    """

    texts: Sequence[Text] = ()
    lines: Mapping[str, Sequence[tuple[int, int, int]]] = field(default_factory=dict)
    costs: Mapping[str, Figures] = field(default_factory=dict)
    totals: Sequence[tuple[str, str]] = ()
    remark: str = ""


def page(description: Description, marks: Marks) -> str:
    """The whole page."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    name = escape(str(description.get("name", "")))
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title>",
            f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}{_colours()}</style>\n</head>\n<body>",
            *_header(description, marks),
            "<main>",
            '<section id="graph" aria-label="Graph">',
            *_graph(description, marks),
            "</section>",
            '<section id="text" aria-label="Blueprint">',
            *_aside(marks),
            "</section>",
            "</main>",
            f'<script type="application/json" id="lines">{_data(dict(marks.lines))}</script>',
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _data(value: Any) -> str:
    """JSON that cannot end the element that holds it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _colours() -> str:
    return "".join(f".{role}{{--role:{line}}}" for role, (_, _, line) in ROLES.items())


# ---- head -------------------------------------------------------------------------------------------------------


def _header(description: Description, marks: Marks) -> Iterator[str]:
    yield f"<header><h1>{escape(str(description.get('name', '')))}</h1>"
    if description.get("summary"):
        yield f"<p>{escape(str(description['summary']))}</p>"
    facts = [("parameters", human(int(description.get("parameters") or 0))), *marks.totals]
    facts += [("sizes", str(c)) for c in description.get("constraints") or []]
    yield "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts) + "</dl>"
    if marks.remark:
        yield f'<p class="remark">{escape(marks.remark)}</p>'
    yield (
        '<div id="tools"><input id="find" type="search" placeholder="find a node or block  ( / )" '
        'aria-label="Find a node or block"><button id="unfold" type="button">unfold all</button>'
        '<button id="fold" type="button">fold all</button><span id="found" aria-live="polite"></span></div></header>'
    )
    yield f'<details id="figure"><summary>Figure</summary><div>{svg(description)}</div></details>'


# ---- graph ------------------------------------------------------------------------------------------------------


def _graph(description: Description, marks: Marks) -> Iterator[str]:
    nodes = list(description.get("nodes") or [])
    most = max([int(c.get("flops", 0)) for c in marks.costs.values()], default=0)
    draw = _Tree(marks.costs, most, _depth(nodes))
    yield '<svg id="wires" aria-hidden="true"></svg><ul role="tree" aria-label="Nodes in order of computation">'
    for given in description.get("inputs") or []:
        yield _end(str(given["name"]), str(given.get("type", "")), "input", "")
    above: tuple[str, ...] = tuple(str(i["name"]) for i in description.get("inputs") or [])
    for node in nodes:
        yield from draw.node(node, str(node.get("name", "")), above, 1)
        above = (str(node.get("address", "")),)
    for made in description.get("outputs") or []:
        note = " · in training only" if made.get("training") else ""
        yield _end(str(made["name"]), str(made.get("type", "")) + note, "output", str(made.get("from", "")))
    yield "</ul>"


def _end(name: str, type_: str, kind: str, source: str) -> str:
    """An input or an output."""
    reads = escape(json.dumps([source] if source else []))
    return (
        f'<li role="treeitem" class="end {kind}" data-address="{escape("" if kind == "output" else name)}"'
        f' data-reads="{reads}" data-own="{reads}"><div class="row"><b>{escape(name)}</b><i>{kind}</i>'
        f'<span class="type">{escape(type_)}</span></div></li>'
    )


def _depth(nodes: Sequence[Node]) -> int:
    """The deepest level at which no more than `OPEN` boxes are seen."""
    depth, seen, level = 0, 0, list(nodes)
    while level and (depth == 0 or seen + len(level) <= OPEN):
        depth, seen = depth + 1, seen + len(level)
        level = [child for node in level for child in children_of(node)]
    return depth


@dataclass(frozen=True)
class _Tree:
    """Draws nodes as boxes in boxes."""

    costs: Mapping[str, Figures]
    most: int
    depth: int

    def node(self, node: Node, title: str, above: tuple[str, ...], level: int, part: str = "") -> Iterator[str]:
        address, inner = str(node.get("address", "")), children_of(node)
        reads = [a for _, a in sources_of(node) if not _is_one_of(a, above)]
        below = {a for n in inner for a in _all_sources(n)}
        own = [a for a in reads if a not in below]
        opened = "" if not inner else f' aria-expanded="{"true" if level < self.depth else "false"}"'
        yield (
            f'<li role="treeitem" class="{role_of(node)}{part}" data-address="{escape(address)}"{opened} '
            f'data-reads="{escape(json.dumps(reads))}" data-own="{escape(json.dumps(own))}">'
            f'<div class="row">{self.row(node, title, bool(inner))}</div>'
        )
        if inner:
            yield '<ul role="group">'
            part = " part" if node.get("kind") == "block" else ""  # parts of a block have no order of their own
            for child in inner:
                yield from self.node(child, child_name(child, node), above, level + 1, part)
                above = (str(child.get("address", "")),)
            yield "</ul>"
        yield f'<div class="edge">{self.types(node)}</div></li>'

    def row(self, node: Node, title: str, is_group: bool) -> str:
        address = str(node.get("address", ""))
        count = f'<span class="count">×{copies_of(node)}</span>' if copies_of(node) > 1 else ""
        slot = f"<i>{escape(str(node['slot']))}</i>" if node.get("slot") and node["slot"] != title else ""
        block = escape(str(node.get("use") or ("" if node.get("kind") == "block" else node.get("kind", ""))))
        options = ", ".join(f"{k} {_short(v)}" for k, v in (node.get("options") or {}).items())
        twisty = '<span class="twisty" aria-hidden="true"></span>' if is_group else ""
        return (
            f'{twisty}<b title="{escape(address)}">{escape(title)}</b>{count}{slot}<span class="block">{block}</span>'
            f'<span class="options">{escape(options)}</span>{self.cost(node, address)}'
        )

    def cost(self, node: Node, address: str) -> str:
        """Parameters, FLOPs and bytes, with a bar for the share of FLOPs."""
        found = self.costs.get(address, {})
        parameters, flops, size = int(node.get("parameters") or 0), found.get("flops", 0), found.get("bytes", 0)
        cells = [
            ("p", "parameters", human(parameters) if parameters else ""),
            ("f", "FLOPs", _amount(flops)),
            ("a", "bytes of activations", _bytes(size)),
        ]
        share = round(100 * flops / self.most) if self.most else 0
        bar = f'<span class="bar" style="width:{share * 0.4:.1f}px"></span>' if share else ""
        texts = "".join(f'<span class="{k}" title="{t}">{escape(v)}</span>' for k, t, v in cells)
        return f'<span class="cost">{texts}<span class="bars" title="share of FLOPs">{bar}</span></span>'

    def types(self, node: Node) -> str:
        """The type of what goes on, one for each output."""
        kinds = node.get("type")
        if isinstance(kinds, Mapping):
            return " · ".join(f"{escape(str(k))}: {escape(str(v))}" for k, v in kinds.items())
        return escape(type_text(node))


def _is_one_of(address: str, places: Sequence[str]) -> bool:
    """Whether a value comes from one of some places, or from inside them: then the box above shows it."""
    return any(address == p or address.startswith(f"{p}.") for p in places)


def _all_sources(node: Node) -> Iterator[str]:
    yield from (a for _, a in sources_of(node))
    for child in children_of(node):
        yield from _all_sources(child)


def _short(value: Any) -> str:
    text = str(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 24 else text[:23] + "…"


def _amount(count: int) -> str:
    """FLOPs in three digits, up to tera."""
    return f"{count / 1e12:.2f} T" if count >= 1e12 else human(count) if count else ""


def _bytes(count: int) -> str:
    return f"{human(count).replace(' G', ' GB').replace(' M', ' MB').replace(' k', ' kB')}" if count else ""


# ---- text -------------------------------------------------------------------------------------------------------


def _aside(marks: Marks) -> Iterator[str]:
    yield '<div id="chosen" aria-live="polite"><p>Choose a node, or a line of the text.</p></div>'
    for number, text in enumerate(marks.texts):
        yield f'<h2>{escape(text.name)}</h2><pre class="file" tabindex="0" data-file="{number}">'
        rows = (f'<span class="line" data-at="{number}:{n}">{_coloured(line)}</span>' for n, line in _numbered(text))
        yield "".join(rows) + "</pre>"


def _numbered(text: Text) -> Iterator[tuple[int, str]]:
    yield from enumerate(text.lines, 1)


WORDS: Final = re.compile(r"(?P<comment>(?:^|(?<=\s))#.*$)|(?P<key>[\w.]+(?=:(?:\s|$)))|(?P<value>\$\{[^}]*\}|\$\w+)")


def _coloured(line: str) -> str:
    """Keys, expressions and comments of a line of YAML, told apart; no more than that."""
    made, end = [], 0
    for found in WORDS.finditer(line):
        made += [escape(line[end : found.start()]), f'<span class="{found.lastgroup}">{escape(found[0])}</span>']
        end = found.end()
    return "".join([*made, escape(line[end:])]) or " "
