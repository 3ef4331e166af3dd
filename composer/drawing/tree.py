"""The tree: one aligned row per node for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from composer.drawing.shapes import roughly, shape_of
from composer.drawing.words import Description, Node, children_of, human, options_text, sources_of, type_text, unwrapped

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

ROWS_BY_DEFAULT: Final = 40
"""A tree is opened as deep as this many rows allow."""


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


def ends_of(node: Node) -> frozenset[str]:
    """The addresses under which a node's only output is known: `encoder`, `encoder.2`, `encoder.2.merge`."""
    inner = children_of(node) if node.get("kind") in ("for", "graph", "repeat") and type_text(node) else []
    return frozenset({str(node.get("address", ""))}).union(*map(ends_of, inner[-1:]))


def _siblings(nodes: Iterable[Node], above: frozenset[str]) -> tuple[View, ...]:
    """A view of each node; `above` are the addresses that the first of them continues."""
    views = []
    for node in map(unwrapped, nodes):
        views.append(_view([node], above))
        above = ends_of(node)
    return tuple(views)


def _view(copies: Sequence[Node], above: frozenset[str] = frozenset(), name: str | None = None) -> View:
    """The view of a node, or of copies of one structure."""
    node = copies[0]
    view = View(
        name=str(node.get("name", "")) if name is None else name,
        block=str(node.get("use") or ""),
        options=options_text(copies),
        type=type_text(node),
        parameters=sum(int(copy.get("parameters") or 0) for copy in copies),
        inputs=_inputs_text(node, above),
        is_slot=bool(node.get("slot")) or node.get("kind") == "slot",
    )
    return _with_copies(view, copies) if node.get("kind") == "repeat" else _with_children(view, copies)


def _with_children(view: View, copies: Sequence[Node]) -> View:
    """The inner nodes of copies of one structure, the first of one with the first of the other."""
    node, rows, above = copies[0], list(_outputs(copies[0])), frozenset(address for _, address in sources_of(copies[0]))
    for together in zip(*map(children_of, copies), strict=False):
        rows.append(_view(together, above, child_name(together[0], node)))
        above = ends_of(together[0])
    return replace(view, children=tuple(rows))


def _with_copies(view: View, nodes: Sequence[Node]) -> View:
    """A repeat: one row `×12` where the copies are equal, one row for each kind of copy where they are not."""
    copies = [copy for node in nodes for copy in children_of(node)]
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
    inner = tuple(map(_structure, children_of(node)))
    return node.get("kind"), node.get("use"), str(node.get("type")), node.get("parameters"), inner


def _numbers(copies: Sequence[Node], kind: Sequence[Node]) -> str:
    """Which of the copies: `0–10`, `0, 2, 4…`, `0, 3`."""
    chosen = [index for index, copy in enumerate(copies) if any(copy is one for one in kind)]
    steps = {b - a for a, b in pairwise(chosen)}
    if len(chosen) > 2 and steps == {1}:
        return f"{chosen[0]}–{chosen[-1]}"
    return ", ".join(map(str, chosen[:3])) + ("…" if len(chosen) > 3 else "")


def child_name(child: Node, parent: Node) -> str:
    """Instances of a loop keep the loop's name: `encoder.0`."""
    name = str(child.get("name", ""))
    return f"{parent.get('name')}.{name}" if parent.get("kind") == "for" and name.isdigit() else name


def _outputs(node: Node) -> Iterator[View]:
    """A row for each output, where there are several."""
    if isinstance(node.get("type"), Mapping):
        yield from (View(f"→ {name}", type=str(text)) for name, text in node["type"].items())


def _inputs_text(node: Node, above: frozenset[str]) -> str:
    """What a node reads besides the line above."""
    sources = sources_of(node)
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
    shape = shape_of(text)
    if len(shape.grid) < 2 or shape.extra:
        return text
    return f"(B, {', '.join([shape.channels, *(_about(axis) for axis in shape.grid)])})"


def _about(axis: str) -> str:
    rough = roughly(axis)
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
