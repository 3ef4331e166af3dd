"""Draws a compiled network from its description: a tree for the terminal, a figure for the paper.

A description is plain data (what `json.load` gives), so that neither picture needs torch or the
compiler.
`tree` says everything and prefers one row to twelve equal ones. `svg` says what a reader of a paper wants first: the
order of computation, the resolutions, the skips. It knows no architectures: whether a network is a U is read off its
edges (something jumps over nodes and joins a later one) and its strides (they grow and shrink again).

Boxes of a figure never overlap by construction: every box has a row (its resolution, or its line of a long chain) and
in a row boxes only ever go right. Lines that are not plain arrows or elbows run in lanes between the rows and cross
rows where these are free, so no line runs through a box.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

Description = Mapping[str, Any]
Node = Mapping[str, Any]

ROWS_BY_DEFAULT: Final = 40
"""A tree is opened as deep as this many rows allow."""


# What a description says


def human(count: int) -> str:
    """Three digits and a unit: 27.2 M."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= limit * 0.9995:
            scaled = count / limit
            digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
            return f"{scaled:.{digits}f}{unit}"
    return str(count)


def _sources(node: Node) -> list[tuple[str, str]]:
    """What a node reads, as (port, address); bare addresses have the port ''."""
    given = node.get("from") or []
    pairs = given.items() if isinstance(given, Mapping) else given
    return [("", pair) if isinstance(pair, str) else (str(pair[0] or ""), str(pair[1])) for pair in pairs]


def _children(node: Node) -> list[Node]:
    """Inner nodes; a slot that only wraps a node stands for that node."""
    return [_unwrapped(child) for child in node.get("children") or []]


def _unwrapped(node: Node) -> Node:
    children = node.get("children") or []
    if node.get("kind") != "slot" or len(children) != 1 or node.get("use"):
        return node
    return {**_unwrapped(children[0]), "name": node["name"], "slot": node["name"]}


def _type_text(node: Node) -> str:
    """The output type; '' for several outputs."""
    return node["type"] if isinstance(node.get("type"), str) else ""


def _value(value: Any) -> str:
    """An option's value in the blueprint's spelling."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def _values(values: Sequence[Any]) -> str:
    """One option over several copies: `7`, `0, half`, `0…0.2`."""
    distinct = list(dict.fromkeys(map(_value, values)))
    if len(distinct) <= 4:
        return ", ".join(distinct)
    if all(isinstance(value, (int, float)) for value in values):
        return f"{distinct[0]}…{distinct[-1]}"
    return ", ".join([*distinct[:3], "…"])


def _options(nodes: Sequence[Node]) -> str:
    """The options of a node, or of copies of it."""
    merged: dict[str, list[Any]] = {}
    for node in nodes:
        for key, value in (node.get("options") or {}).items():
            merged.setdefault(key, []).append(value)
    return " · ".join(f"{key} {_values(values)}" for key, values in merged.items())


# The tree


@dataclass(frozen=True)
class View:
    """A row of the tree, which may stand for several equal copies, and the rows under it."""

    name: str
    block: str = ""
    options: str = ""
    type: str = ""
    parameters: int | None = None
    inputs: str = ""
    is_slot: bool = False
    children: tuple[View, ...] = ()


def tree(description: Description, *, depth: int | None = None, full: bool = False) -> RenderableType:
    """One row per node: name, block, options, output type, parameters; equal copies share a row.

    `depth` counts levels, 1 is the blueprint's own nodes; without it the tree is opened as deep as about 40 rows
    allow. `full` opens everything.
    """
    views = _siblings(description.get("nodes") or [], _line_above(description.get("inputs") or []))
    limit = _height(views) if full else depth or _fitting_depth(views)
    return _Tree(description, list(_rows(views, limit)))


def _line_above(inputs: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset({str(inputs[0]["name"])} if len(inputs) == 1 else ())


def _ends(node: Node) -> frozenset[str]:
    """The addresses under which a node's only output is known: `encoder`, `encoder.2`, `encoder.2.merge`."""
    inner = _children(node) if node.get("kind") in ("for", "graph", "repeat") and _type_text(node) else []
    return frozenset({str(node.get("address", ""))}).union(*map(_ends, inner[-1:]))


def _siblings(nodes: Iterable[Node], above: frozenset[str]) -> tuple[View, ...]:
    """A view of each node; `above` are the addresses that the first of them continues."""
    views = []
    for node in map(_unwrapped, nodes):
        views.append(_view([node], above))
        above = _ends(node)
    return tuple(views)


def _view(copies: Sequence[Node], above: frozenset[str] = frozenset(), name: str | None = None) -> View:
    """The view of a node, or of copies of one structure."""
    node = copies[0]
    view = View(
        name=str(node.get("name", "")) if name is None else name,
        block=str(node.get("use") or ""),
        options=_options(copies),
        type=_type_text(node),
        parameters=sum(int(copy.get("parameters") or 0) for copy in copies),
        inputs=_inputs_text(node, above),
        is_slot=bool(node.get("slot")) or node.get("kind") == "slot",
    )
    return _with_copies(view, copies) if node.get("kind") == "repeat" else _with_children(view, copies)


def _with_children(view: View, copies: Sequence[Node]) -> View:
    """The inner nodes of copies of one structure, the first of one with the first of the other."""
    node, rows, above = copies[0], list(_outputs(copies[0])), frozenset(address for _, address in _sources(copies[0]))
    for together in zip(*map(_children, copies), strict=False):
        rows.append(_view(together, above, _child_name(together[0], node)))
        above = _ends(together[0])
    return replace(view, children=tuple(rows))


def _with_copies(view: View, nodes: Sequence[Node]) -> View:
    """A repeat: one row `×12` where the copies are equal, one row for each kind of copy where they are not."""
    copies = [copy for node in nodes for copy in _children(node)]
    kinds: dict[object, list[Node]] = {}
    for copy in copies:
        kinds.setdefault(_structure(copy), []).append(copy)
    count = f"{view.name} ×{len(copies) // len(nodes)}"
    if len(kinds) != 1:
        rows = (_view(kind, name=_numbers(copies, kind)) for kind in kinds.values())
        return replace(view, name=count, children=tuple(replace(row, inputs="") for row in rows))
    inner = _view(copies)
    options = inner.options or view.options
    return replace(view, name=count, block=view.block or inner.block, options=options, children=inner.children)


def _structure(node: Node) -> object:
    """What equal copies share: everything but addresses and the values of options."""
    inner = tuple(map(_structure, _children(node)))
    return node.get("kind"), node.get("use"), str(node.get("type")), node.get("parameters"), inner


def _numbers(copies: Sequence[Node], kind: Sequence[Node]) -> str:
    """Which of the copies: `0–10`, `0, 2, 4…`, `0, 3`."""
    chosen = [index for index, copy in enumerate(copies) if any(copy is one for one in kind)]
    steps = {b - a for a, b in pairwise(chosen)}
    if len(chosen) > 2 and steps == {1}:
        return f"{chosen[0]}–{chosen[-1]}"
    return ", ".join(map(str, chosen[:3])) + ("…" if len(chosen) > 3 else "")


def _child_name(child: Node, parent: Node) -> str:
    """Instances of a loop keep the loop's name: `encoder.0`."""
    name = str(child.get("name", ""))
    return f"{parent.get('name')}.{name}" if parent.get("kind") == "for" and name.isdigit() else name


def _outputs(node: Node) -> Iterator[View]:
    """A row for each output, where there are several."""
    if isinstance(node.get("type"), Mapping):
        yield from (View(f"→ {name}", type=str(text)) for name, text in node["type"].items())


def _inputs_text(node: Node, above: frozenset[str]) -> str:
    """What a node reads besides the line above."""
    sources = _sources(node)
    named = len(sources) > 1
    shown = [(port, address) for port, address in sources if address not in above]
    if not shown or (node.get("slot") and not named):
        return ""
    return "← " + ", ".join(f"{port}: {address}" if named and port else address for port, address in shown)


def _height(views: Sequence[View]) -> int:
    return 1 + max((_height(view.children) for view in views), default=0)


def _fitting_depth(views: Sequence[View]) -> int:
    """The deepest level at which the tree still is `ROWS_BY_DEFAULT` rows or fewer; 1 if none is."""
    depths = range(1, _height(views) + 1)
    return max((d for d in depths if sum(1 for _ in _rows(views, d)) <= ROWS_BY_DEFAULT), default=1)


def _rows(views: Sequence[View], depth: int, guide: str = "") -> Iterator[tuple[str, View]]:
    """The views with the lines drawn before their names; the blueprint's own nodes have none."""
    top = not guide
    for view in views:
        last = view is views[-1]
        yield guide[1:] + ("" if top else "└─ " if last else "├─ "), view
        if depth > 1:
            yield from _rows(view.children, depth - 1, " " if top else guide + ("   " if last else "│  "))


COLUMNS: Final = ("node", "block", "options", "output", "params")
ASCII: Final = str.maketrans(
    {
        "├": "|",
        "└": "`",
        "─": "-",
        "│": "|",
        "×": "x",
        "…": "~",
        "·": "*",
        "←": "<",
        "→": ">",
        "–": "-",
        "≈": "~",
        "⌈": "(",
        "⌉": ")",
    }
)


@dataclass(frozen=True)
class _Tree:
    """The tree, laid out when the width is known."""

    description: Description
    rows: Sequence[tuple[str, View]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self._lines(options.max_width):
            if options.ascii_only:
                line.plain = line.plain.translate(ASCII)
            yield line

    def _lines(self, width: int) -> Iterator[Text]:
        from rich.text import Text

        yield from _header(self.description)
        table = [COLUMNS, *(_cells(guide, view, width) for guide, view in self.rows)]
        widths = _fit([_widest(column) for column in zip(*table, strict=True)], width)
        for cells, view in zip(table, [None, *(view for _, view in self.rows)], strict=True):
            yield _line(cells, widths, view)
        if self.description.get("parameters") is not None:
            total, used = f"{self.description['parameters']:,}", sum(widths) + 2 * sum(w > 0 for w in widths[1:])
            yield Text(total.rjust(used) if len(total) <= used <= width else total, "bold")
        yield Text()
        yield from _footer(self.description)


def _cells(guide: str, view: View, width: int) -> tuple[str, ...]:
    """The texts of a row; a type that would take more than two fifths of it is given without its borders."""
    type_ = view.type if 5 * len(view.type) <= 2 * width else _rough_type(view.type)
    options = "  ".join(filter(None, (view.inputs, view.options)))
    count = human(view.parameters) if view.parameters else ""
    return guide + view.name, view.block, options, type_, count


def _rough_type(text: str) -> str:
    """`(B, 256, ≈H/4, ≈W/4)` for `(B, 256, 4·(H + 4)/16 - 44, 4·(W + 4)/16 - 44)`."""
    shape = _shape(text)
    if len(shape.grid) < 2 or shape.extra:
        return text
    return f"(B, {', '.join([shape.channels, *(_about(axis) for axis in shape.grid)])})"


def _about(axis: str) -> str:
    rough = _roughly(axis)
    return axis if rough == axis else f"≈{rough}"


def _widest(column: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, column))


def _fit(natural: Sequence[int], width: int) -> list[int]:
    """Widths of the columns: options give way first, then blocks, then names, and only then types and numbers."""
    widths = list(natural)
    for column, least in ((2, 17), (1, 11), (2, 8), (1, 8), (2, 0), (1, 0), (0, 12), (3, 0), (4, 0), (0, 0)):
        excess = sum(widths) + 2 * (sum(w > 0 for w in widths) - 1) - width
        if excess > 0:
            widths[column] = max(min(least, widths[column]), widths[column] - excess)
            widths[column] *= widths[column] >= 4 or column == 0
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], view: View | None) -> Text:
    """A row of the table; the names of slots are in italics, headings and the total are bold."""
    from rich.text import Text

    name = "bold" if view is None else "italic" if view.is_slot else "bold"
    styles = (name, "cyan", "dim", "green", "") if view else ("dim",) * 4 + ("bold",)
    line = Text(no_wrap=True, overflow="crop", end="\n")
    for column, (cell, width, style) in enumerate(zip(cells, widths, styles, strict=True)):
        if width:
            line.append("  " if line.plain else "")
            line.append(_cut(cell, width, column), style)
    line.rstrip()
    return line


def _cut(text: str, width: int, column: int) -> str:
    """A cell of exactly this width; types and options are cut between words, blocks lose their namespaces first."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > width and column == 1:
        text = "…" + text[1 - width :] if width > 1 else "…"
    elif cell_len(text) > width:
        kept = set_cell_size(text, width - 1)
        if column in (2, 3) and text[len(kept) : len(kept) + 1] != " ":
            kept = kept[: kept.rfind(" ") + 1]
        text = kept.rstrip(" ·,") + "…"
    return " " * (width - cell_len(text)) + text if column == 4 else set_cell_size(text, width)


def _header(description: Description) -> Iterator[Text]:
    from rich.text import Text

    title = Text(str(description.get("name", "")), "bold")
    if description.get("parameters") is not None:
        title.append(f"  {human(description['parameters'])} parameters", "not bold")
    yield title
    if description.get("summary"):
        yield Text(str(description["summary"]), "dim")
    for given in description.get("inputs") or []:
        yield Text.assemble("→ ", (str(given["name"]), "bold"), "  ", (str(given.get("type", "")), "green"))
    yield Text()


def _footer(description: Description) -> Iterator[Text]:
    from rich.text import Text

    for made in description.get("outputs") or []:
        line = Text.assemble("→ ", (str(made["name"]), "bold"), "  ", (str(made.get("type", "")), "green"))
        line.append(f"  from {made['from']}" if made.get("from") else "", "dim")
        yield line.append("  in training only" if made.get("training") else "", "dim")
    for constraint in description.get("constraints") or []:
        yield Text.assemble(("sizes: ", "bold"), str(constraint))


# Types, as a figure shows them


@dataclass(frozen=True)
class Shape:
    """What a figure says about a type: channels, the grid's axes, and how many input pixels a step of it spans."""

    channels: str = ""
    grid: tuple[str, ...] = ()
    extra: str = ""

    @property
    def stride(self) -> float | None:
        """How many input pixels a step on the grid spans, if there is a grid."""
        return _stride(self.grid[0]) if self.grid else None

    @property
    def width(self) -> int:
        """The channels as a number, 0 where they are none."""
        return int(self.channels) if self.channels.isdecimal() and len(self.channels) < 10 else 0

    def __str__(self) -> str:
        grid = "×".join(self.grid)
        if " " in grid:
            grid = "≈" + "×".join(map(_roughly, self.grid))
        grid += f" + {self.extra}" if self.extra not in ("", "0") else ""
        return " · ".join(filter(None, (self.channels, grid)))


def _shape(text: str) -> Shape:
    """Reads `(B, 96, H/4, W/4)`, `(B, 1 + H/16·W/16, 768) tokens`, `(B, 768)`, `(B, 100, 256) queries`."""
    match = re.fullmatch(r"\(B, (.*)\)(?: (\w+))?", text)
    if not match:
        return Shape(text[:24])
    sizes, kind = _split(match[1], ","), match[2]
    if kind == "tokens" and len(sizes) == 2:
        extra, _, body = sizes[0].partition(" + ")
        return Shape(sizes[1], tuple(_axes(body or sizes[0])), extra if body else "")
    if kind in ("queries", "scales"):
        count = sizes[0] if kind == "queries" else f"{sizes[0].count(' + ') + 1} scales"
        return Shape(sizes[-1], (), count)
    return Shape(sizes[0], tuple(sizes[1:]))


def _split(text: str, separator: str) -> list[str]:
    """Parts of a list, leaving `min(H, 7)` whole."""
    parts, level = [""], 0
    for letter in text:
        level += (letter == "(") - (letter == ")")
        if letter == separator and not level:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _axes(body: str) -> Iterator[str]:
    """`H/16·W/16` is two axes; the 2 of `2·H/16` is a factor of one."""
    factor = ""
    for part in _split(body, "·"):
        if part.isdecimal():
            factor += f"{part}·"
        else:
            yield factor + part
            factor = ""
    if factor:
        yield factor[:-1]


def _stride(axis: str) -> float | None:
    """`H/4` steps over 4 pixels, `2·(H + 4)/16 - 20` over 8; a size that is a number over none that we know."""
    if not re.search(r"[A-Za-z]", axis):
        return None
    factor = re.match(r"(\d{1,6})·", axis)
    return math.prod(int(n) or 1 for n in re.findall(r"/(\d{1,6})", axis)[:8]) / (int(factor[1]) or 1 if factor else 1)


def _roughly(axis: str) -> str:
    """An axis without what borders take off: `H/8` for `2·(H + 4)/16 - 20`."""
    letter, stride = re.search(r"[A-Z]", axis), _stride(axis)
    if not letter or stride is None:
        return axis[:8]
    return letter[0] if stride == 1 else f"{letter[0]}/{stride:g}" if stride > 1 else f"{1 / stride:g}·{letter[0]}"


# The boxes of a figure

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


def _boxes(description: Description) -> list[Box]:
    """Inputs, each before its first reader, nodes in order of computation, and outputs, each after the last node."""
    outputs = description.get("outputs") or []
    made = frozenset(str(output.get("from", "")) for output in outputs)
    nodes = [_as_head(box, made) for node in description.get("nodes") or [] for box in _node_boxes(node)]
    boxes = list(nodes)
    for given in description.get("inputs") or []:
        name = str(given["name"])
        first = next((i for i, box in enumerate(boxes) if name in box.sources), 0)
        boxes.insert(first, Box(name, name, _shape(str(given.get("type", ""))), "input", names=frozenset({name})))
    ends = [
        Box(
            f"output {o['name']}",
            str(o["name"]),
            _shape(str(o.get("type", ""))),
            "output",
            sources=(str(o.get("from", "")),),
        )
        for o in outputs
    ]
    return boxes + ends


def _node_boxes(node: Node) -> list[Box]:
    """One box for a node, one for each instance of a loop."""
    if node.get("kind") != "for" or not _children(node):
        return [_box(node, str(node.get("name", "")))]
    boxes = [_box(child, _child_name(child, node)) for child in _children(node)]
    sources = tuple(address for _, address in _sources(node))
    boxes = [
        box if box.sources else replace(box, sources=before)
        for box, before in zip(boxes, [sources, *((box.address,) for box in boxes)], strict=False)
    ]
    boxes[-1] = replace(boxes[-1], names=boxes[-1].names | {str(node.get("address", ""))})
    return boxes


def _box(node: Node, title: str) -> Box:
    address, copies = str(node.get("address", "")), _copies(node)
    return Box(
        address,
        title,
        _shape(_first_type(node)),
        "node",
        _role(node),
        _subtitle(node),
        copies,
        tuple(dict.fromkeys(source for _, source in _sources(node))),
        _ends(node) | {address},
    )


def _copies(node: Node) -> int:
    return max(1, len(_children(node))) if node.get("kind") == "repeat" else 1


def _first_type(node: Node) -> str:
    kinds = node.get("type")
    return str(next(iter(kinds.values()), "")) if isinstance(kinds, Mapping) else str(kinds or "")


def _role(node: Node) -> str:
    """The role of a block by its namespace, of a graph by what it fuses or by its largest part."""
    use = str(node.get("use") or "")
    if use:
        return ROLE_OF_BLOCK.get(use) or ROLE_OF_NAMESPACE.get(use.split(".")[0], "other")
    inner = _children(node)
    if "decoder" in map(_role, inner):
        return "decoder"
    return _role(max(inner, key=lambda child: int(child.get("parameters") or 0))) if inner else "other"


def _as_head(box: Box, made: frozenset[str]) -> Box:
    return replace(box, role="head") if box.role in HEADS and box.names & made else box


def _subtitle(node: Node) -> str:
    """The block; for a graph its parts: `transformer ×2, merge`."""
    if node.get("use"):
        return str(node["use"])
    inner = _children(node)
    if node.get("kind") == "repeat" and inner:
        return _subtitle(inner[0])
    parts = [_part(child) for child in inner]
    return _short(", ".join(parts) if len(parts) <= 3 else f"{len(parts)} nodes", 26)


def _part(node: Node) -> str:
    block = str(node.get("use") or node.get("name") or "")
    block = block if len(block) < 9 else block.rpartition(".")[2]
    return f"{block} ×{_copies(node)}" if _copies(node) > 1 else block


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


# Edges: who reads whom, and which of it is a skip


@dataclass(frozen=True)
class Edge:
    """An arrow between two boxes, by their numbers."""

    source: int
    target: int
    is_skip: bool


def _edges(boxes: Sequence[Box]) -> list[Edge]:
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


# Rows and places

NARROW: Final = frozenset("fijlrtI.,:;·'| /()[]")
WIDE: Final = frozenset("mwMW@%…")
GAP: Final = 26.0
LANE: Final = 9.0
EDGE: Final = 24.0


@dataclass(frozen=True)
class Item:
    """A box with a row and a place along it; heights are known, where the row lies is not yet."""

    box: Box
    row: int
    left: float
    width: float
    height: float
    is_turn: bool = False
    """Whether the order of computation comes down to it and goes up from it."""

    @property
    def middle(self) -> float:
        """Where texts are centred."""
        return self.left + self.width / 2

    @property
    def entry(self) -> float:
        """Where elbows come down from above."""
        return self.left + self.width * (0.33 if self.is_turn else 0.55)

    @property
    def exit(self) -> float:
        """Where elbows leave upwards."""
        return self.left + self.width * (0.67 if self.is_turn else 0.45)

    @property
    def stack(self) -> float:
        """How far the cards behind a repeated box stick out."""
        return 5.0 if self.box.copies > 1 else 0.0

    @property
    def right(self) -> float:
        """Where it ends, cards included."""
        return self.left + self.width + self.stack


def _text_width(text: str, size: float) -> float:
    """A safe estimate: the fonts in use are narrower, but for bold capitals."""
    return size * sum(
        1.0 if letter in WIDE or letter > "\u2e7f" else 0.38 if letter in NARROW else 0.65 for letter in text
    )


def _place(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[Item]:
    """A U where something skips over a smaller resolution, lines of boxes otherwise."""
    levels = _levels(boxes, edges)
    sizes = [_size(box, level, boxes) for box, level in zip(boxes, levels, strict=True)]
    is_u = any(edge.is_skip and max(levels[edge.source : edge.target]) > levels[edge.target] for edge in edges)
    return _u(boxes, levels, sizes) if is_u else _lines_of_boxes(boxes, sizes)


def _levels(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[int]:
    """Each box's resolution, 0 the finest; what has no grid stays with what it reads, inputs with their readers."""
    before = {edge.target: edge.source for edge in edges}
    after = {edge.source: edge.target for edge in reversed(edges)}
    strides: list[float] = []
    for number, box in enumerate(boxes):
        source = before.get(number, number - 1)
        inherited = strides[source] if 0 <= source < number else 1.0
        own = None if box.kind == "output" else box.shape.stride
        strides.append(inherited if own is None else own)
    for number, box in enumerate(boxes):
        if box.kind == "input" and number in after:
            strides[number] = strides[after[number]]
    ranks = {stride: rank for rank, stride in enumerate(sorted(set(strides)))}
    return [ranks[stride] for stride in strides]


def _size(box: Box, level: int, boxes: Sequence[Box]) -> tuple[float, float]:
    """Wide enough for its texts and wider with more channels; lower with each level down."""
    texts = (_text_width(box.title, 11.5) + 12 * (box.copies > 1), _text_width(box.subtitle, 8.5), 36.0)
    label = _text_width(str(box.shape), 8.5)
    if not box.is_node:
        return max(*texts[:1], label) + 4, 34.0
    most = max(other.shape.width for other in boxes)
    share = math.log(box.shape.width) / math.log(most) if box.shape.width > 1 and most > 1 else 0.0
    return max(max(texts) + 12 + 12 * share, label), max(36.0, 60.0 - 6.0 * level)


def _u(boxes: Sequence[Box], rows: Sequence[int], sizes: Sequence[tuple[float, float]]) -> list[Item]:
    """Rows by resolution; a box on another row than the one before overlaps it from above or below."""
    items: list[Item] = []
    ends: dict[int, float] = {}
    around = [rows[0], *rows, rows[-1] + 1]
    for number, (box, row, (width, height)) in enumerate(zip(boxes, rows, sizes, strict=True)):
        item = Item(box, row, 0.0, width, height, is_turn=around[number] < row > around[number + 2])
        item = replace(item, left=max(_after(items[-1], item) if items else 0.0, ends.get(row, -GAP) + GAP))
        items.append(item)
        ends[row] = item.right
    return items


def _after(last: Item, item: Item) -> float:
    """The left end of a box, by the box before it."""
    if item.row == last.row:
        return last.right + GAP
    return last.right + 14 - item.entry if item.row > last.row else last.exit + 16


def _lines_of_boxes(boxes: Sequence[Box], sizes: Sequence[tuple[float, float]]) -> list[Item]:
    """One line, or as many of about equal length as a page needs."""
    total = sum(width + GAP for width, _ in sizes)
    longest = total / math.ceil(total / 1100) if total else 0.0
    items: list[Item] = []
    row, left = 0, 0.0
    for box, (width, height) in zip(boxes, sizes, strict=True):
        if left and left + width > longest + 60:
            row, left = row + 1, 0.0
        items.append(Item(box, row, left, width, height))
        left = items[-1].right + GAP
    return items


# Lines between boxes


@dataclass(frozen=True)
class Track:
    """A horizontal stretch of one line in the gap above a row; it gets a lane of its own there."""

    gap: int
    start: float
    end: float
    line: int

    @property
    def length(self) -> float:
        """How far it goes."""
        return abs(self.end - self.start)


@dataclass(frozen=True)
class Level:
    """A height in a row, measured from the row's middle."""

    row: int
    offset: float


Stop = tuple[float, Level | Track]
"""A corner of a line: x, and y as far as it is known."""


@dataclass
class Routes:
    """Finds lines that cross no box; keeps the verticals in use, so that no two lines lie on each other."""

    items: Sequence[Item]
    verticals: list[float] = field(default_factory=list)
    rows: dict[int, list[Item]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.items:
            self.rows.setdefault(item.row, []).append(item)

    def all(self, edges: Sequence[Edge]) -> list[list[Stop]]:
        """A line for each edge, the short ways first."""
        straight = {number: stops for number, edge in enumerate(edges) if (stops := self._straight(edge))}
        busy_sources = {edges[number].source for number in straight if edges[number].is_skip}
        busy_targets = {edges[number].target for number in straight if edges[number].is_skip}
        lines: dict[int, list[Stop]] = dict(straight)
        for number, edge in enumerate(edges):
            if number not in lines and (stops := self._elbow(edge, busy_sources, busy_targets)):
                lines[number] = stops
        for number, edge in enumerate(edges):
            if number not in lines:
                lines[number] = self._next_line(edge, number) or self._by_lanes(edge, number)
        return [lines[number] for number in range(len(edges))]

    def _straight(self, edge: Edge) -> list[Stop] | None:
        a, b = self.items[edge.source], self.items[edge.target]
        if a.row != b.row or not self._is_free(a.row, a.right, b.left):
            return None
        level = Level(a.row, -9.0 if edge.is_skip else 0.0)
        return [(a.right, level), (b.left, level)]

    def _elbow(self, edge: Edge, busy_sources: set[int], busy_targets: set[int]) -> list[Stop] | None:
        """To the right and down into the top of a box, or up out of the top and right into its side."""
        a, b = self.items[edge.source], self.items[edge.target]
        if a.row < b.row:
            x, start, end = b.entry, a.right, Level(a.row, 8.0 if edge.source in busy_sources else 0.0)
            corner: list[Stop] = [(start, end), (x, end), (x, _top(b))]
            side = (a.row, start, x)
        elif a.row > b.row:
            x, end = a.exit, Level(b.row, 8.0 if edge.target in busy_targets else 0.0)
            corner = [(x, _top(a)), (x, end), (b.left, end)]
            side = (b.row, x, b.left)
        else:
            return None
        between = range(min(a.row, b.row) + 1, max(a.row, b.row))
        if side[2] - side[1] < 6 or not self._is_free(*side) or not all(self._is_free(r, x, x) for r in between):
            return None
        self.verticals.append(x)
        return corner

    def _next_line(self, edge: Edge, number: int) -> list[Stop] | None:
        """From the last box of a line to the first of the next."""
        a, b = self.items[edge.source], self.items[edge.target]
        if b.row != a.row + 1 or self.rows[a.row][-1] is not a or self.rows[b.row][0] is not b:
            return None
        out, back = a.right + 12, b.left - 16
        track = Track(b.row, back, out, number)
        start, end = Level(a.row, 0.0), Level(b.row, 0.0)
        return [(a.right, start), (out, start), (out, track), (back, track), (back, end), (b.left, end)]

    def _by_lanes(self, edge: Edge, number: int) -> list[Stop]:
        """Out of the top into a lane, through the other rows where they are free, along a lane, in from the top."""
        a, b = self.items[edge.source], self.items[edge.target]
        start, end = a.middle + a.width / 3, b.middle - b.width / 3
        if a.row == b.row:
            track = Track(a.row, start, end, number)
            return [(start, _top(a)), (start, track), (end, track), (end, _top(b))]
        x = self._corridor(range(min(a.row, b.row), max(a.row, b.row)), start, end)
        first, second = Track(a.row, start, x, number), Track(b.row, x, end, number)
        return [(start, _top(a)), (start, first), (x, first), (x, second), (end, second), (end, _top(b))]

    def _corridor(self, rows: range, start: float, end: float) -> float:
        """The nearest x at which all these rows are free; far enough to the side there always is one."""
        taken = sorted(
            [(item.left - 9, item.right + 9) for row in rows for item in self.rows.get(row, [])]
            + [(x - 5, x + 5) for x in self.verticals]
        )
        edges = [x for left, right in _merged(taken) for x in (left, right)] or [end]
        chosen = min(edges, key=lambda x: (abs(x - start) + abs(x - end), x))
        self.verticals.append(chosen)
        return chosen

    def _is_free(self, row: int, start: float, end: float) -> bool:
        """Whether nothing stands in a row between two places."""
        return start <= end and not any(
            item.left - 4 < end and start < item.right + 4
            for item in self.rows.get(row, [])
            if start != item.right and end != item.left
        )


def _top(item: Item) -> Level:
    return Level(item.row, -item.height / 2 - item.stack)


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Overlapping spans, already sorted, as one."""
    merged: list[tuple[float, float]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _lanes(lines: Sequence[Sequence[Stop]]) -> dict[Track, int]:
    """A lane for each track, counted upwards from the row: short ones low, and none upon another."""
    tracks = {y for stops in lines for _, y in stops if isinstance(y, Track)}
    used: dict[tuple[int, int], list[tuple[float, float]]] = {}
    lanes: dict[Track, int] = {}
    for track in sorted(tracks, key=lambda t: (t.length, t.line, t.gap, t.start)):
        left, right, lane = min(track.start, track.end) - 6, max(track.start, track.end) + 6, 0
        while any(a < right and left < b for a, b in used.get((track.gap, lane), [])):
            lane += 1
        used.setdefault((track.gap, lane), []).append((left, right))
        lanes[track] = lane
    return lanes


@dataclass(frozen=True)
class Heights:
    """Where rows and lanes lie, top down."""

    middles: Mapping[int, float]
    tops: Mapping[int, float]
    lanes: Mapping[Track, int]
    bottom: float

    def of(self, place: Level | Track) -> float:
        """The y of a place."""
        if isinstance(place, Level):
            return self.middles[place.row] + place.offset
        return self.tops[place.gap] - 12 - LANE * self.lanes[place]


def _heights(items: Sequence[Item], lines: Sequence[Sequence[Stop]], y: float) -> Heights:
    """Rows under each other, each with room for its lanes above it and its labels below."""
    lanes = _lanes(lines)
    middles: dict[int, float] = {}
    tops: dict[int, float] = {}
    for row, group in groupby(sorted(items, key=lambda item: item.row), key=lambda item: item.row):
        height = max(item.height for item in group)
        count = 1 + max((lane for track, lane in lanes.items() if track.gap == row), default=-1)
        tops[row] = y + (14 if middles else 8) + (LANE * count + 8 if count else 0)
        middles[row] = tops[row] + height / 2
        y = tops[row] + height + 18
    return Heights(middles, tops, lanes, y)


# Details: what is inside of the blocks


@dataclass(frozen=True)
class Panel:
    """The slots of one kind of block: (slot, block, options, role)."""

    title: str
    lines: tuple[tuple[str, str, str, str], ...]

    @property
    def width(self) -> float:
        """Room for the longest line."""
        texts = [_text_width(self.title, 10.5)]
        return max(texts + [66 + _text_width(f"{block}  {options}", 8.5) for _, block, options, _ in self.lines]) + 20

    @property
    def height(self) -> float:
        """Room for all lines."""
        return 28 + 15.0 * len(self.lines)


def _panels(description: Description) -> list[Panel]:
    """One for each kind of block with slots, with the options of all its uses together."""
    uses: dict[object, list[Node]] = {}
    for node in _blocks_with_slots(description.get("nodes") or []):
        key = node["use"], tuple((child.get("name"), child.get("use")) for child in _children(node))
        uses.setdefault(key, []).append(node)
    return [_panel(nodes) for nodes in uses.values()][:4]


def _blocks_with_slots(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in map(_unwrapped, nodes):
        inner = _children(node)
        if node.get("kind") in ("block", "slot") and node.get("use") and inner:
            yield node
        yield from _blocks_with_slots(inner)


def _panel(nodes: Sequence[Node]) -> Panel:
    lines = []
    for slots in zip(*map(_children, nodes), strict=False):
        name, options = str(slots[0].get("name", "")), _options_within(_options(slots), 64)
        lines.append((name, _part_of(slots[0]), options, _role(slots[0])))
    return Panel(str(nodes[0]["use"]), tuple(lines))


def _options_within(text: str, letters: int) -> str:
    """As many whole options as there is room for."""
    parts = text.split(" · ")
    while len(" · ".join(parts)) > letters and len(parts) > 1:
        parts.pop()
    return _short(" · ".join(parts), letters)


def _part_of(node: Node) -> str:
    count = f" ×{_copies(node)}" if _copies(node) > 1 else ""
    return _subtitle(node) + count


# The figure

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
    boxes = _boxes(description)
    edges = _edges(boxes)
    items = _place(boxes, edges)
    lines = Routes(items).all(edges)
    canvas = Canvas(THEMES[theme], is_gray=theme == "gray")
    heights = _heights(items, lines, 44.0)
    for edge, stops in zip(edges, lines, strict=True):
        canvas.arrow([(x, heights.of(place)) for x, place in stops], edge, boxes)
    for item in items:
        (canvas.node if item.box.is_node else canvas.end)(item, heights.middles[item.row])
    left, width = canvas.left, max(canvas.right - canvas.left, 320.0)
    panels = _panels(description)
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
        width = _text_width(f"{text}   {more}", size) if more else _text_width(text, size)
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
        title = _short(box.title, 30)
        shift = -6.0 if box.copies > 1 else 0.0
        self.write(title, item.middle + shift, middle + (-1 if box.subtitle else 4), 11.5, style=BOLD)
        if box.copies > 1:
            self.badge(f"×{box.copies}", item.left + item.width - 1, top + 2)
        self.write(box.subtitle, item.middle, middle + 11, 8.5, kind="soft")
        self.write(str(box.shape), item.middle, middle + item.height / 2 + 11, 8.5, kind="ink")

    def badge(self, text: str, right: float, middle: float) -> None:
        """A count on the upper right corner of a box."""
        width = _text_width(text, 8.5) + 8
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
        self.write(_short(item.box.title, 30), item.middle, middle + 1, 11.5, style=' font-style="italic"')
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
            self.write(_short(slot, 10), x + 23, line, 8.5, anchor="start", style=' font-style="italic"')
            self.write(block, x + 76, line, 8.5, anchor="start", more=options)

    def legend(self, used: set[str], has_skips: bool, left: float, y: float, width: float) -> float:
        """The roles that occur, and what a coloured line means; gives where it ends."""
        entries = [(role, texts[0]) for role, texts in ROLES.items() if role in used and not self.is_gray]
        x = left
        for role, text in [*entries, *([("skip", "Skip connection")] if has_skips else [])]:
            length = 20 + _text_width(text, 9) + 14
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
        name = _short(str(description.get("name", "")), 60)
        self.write(name, left, y, 16, anchor="start", style=BOLD)
        facts = [_short(str(description.get("summary") or ""), 90)]
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
