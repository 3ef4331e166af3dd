"""What a description says, in few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Description = Mapping[str, Any]
Node = Mapping[str, Any]
"""Plain data, what `json.load` gives."""


def human(count: int) -> str:
    """Three digits and a unit: 27.2 M."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= limit * 0.9995:
            scaled = count / limit
            digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
            return f"{scaled:.{digits}f}{unit}"
    return str(count)


def expanded(node: Node) -> Node:
    """A node, or a whole description, with each copy of a `repeat` drawn by itself: as the instances of a `for` are."""
    inner = {k: [expanded(n) for n in node[k]] for k in ("nodes", "children") if k in node}
    return {**node, **inner, **({"kind": "for"} if node.get("kind") == "repeat" else {})}


def sources_of(node: Node) -> list[tuple[str, str]]:
    """What a node reads, as (port, address); bare addresses have the port ''."""
    given = node.get("from") or []
    pairs = given.items() if isinstance(given, Mapping) else given
    return [("", pair) if isinstance(pair, str) else (str(pair[0] or ""), str(pair[1])) for pair in pairs]


def children_of(node: Node) -> list[Node]:
    """Inner nodes; a slot that only wraps a node stands for that node."""
    return [unwrapped(child) for child in node.get("children") or []]


def unwrapped(node: Node) -> Node:
    """The node inside a slot that holds just one."""
    children = node.get("children") or []
    if node.get("kind") != "slot" or len(children) != 1 or node.get("use"):
        return node
    return {**unwrapped(children[0]), "name": node["name"], "slot": node["name"]}


def type_text(node: Node) -> str:
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


def options_text(nodes: Sequence[Node]) -> str:
    """The options of a node, or of copies of it."""
    merged: dict[str, list[Any]] = {}
    for node in nodes:
        for key, value in (node.get("options") or {}).items():
            merged.setdefault(key, []).append(value)
    return " · ".join(f"{key} {_values(values)}" for key, values in merged.items())
