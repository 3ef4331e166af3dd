"""Plain data as the text of a YAML file, in the style of the shipped blueprints.

Short mappings and lists stand in one line (`{use: conv, out: 8}`), long ones are opened; what can stand without quotes
has none. The text reads back as the same data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from composer import source
from composer.diagnostics import ComposerError, Source

WIDTH = 120
OPENED = frozenset(["graph", "presets", "edit", "weights", "init"])
"""Keys of a document whose values stand on lines of their own."""

_ALONE = re.compile(r"[^\s\-?:,\[\]{}#&*!|>'\"%@`=<~+.\d][^#\n]*(?<![\s:])")
_OLD = frozenset(["y", "n", "yes", "no", "on", "off"])
"""Words that other readers of YAML take for truth values."""
_PLAIN = re.compile(r"[^\s\-?:,\[\]{}#&*!|>'\"%@`=<~+.\d][^,\[\]{}#\n]*(?<![\s:])")


def dump(document: Mapping[str, Any], width: int = WIDTH) -> str:
    """A document, its keys in the order given."""
    return "".join(f"{line}\n" for key, value in document.items() for line in _entry(key, value, "", width, top=True))


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: Any, alone: bool = False) -> str:
    """A number, a truth value, nothing or a text; quoted where it would be read as something else. One that stands
    `alone` behind its key may have commas and brackets."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return value if _stands_plain(value, alone) else json.dumps(value, ensure_ascii=False)
    return str(value)


def _float(value: float) -> str:
    if value != value:
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    return repr(value)


def _stands_plain(text: str, alone: bool) -> bool:
    shape = _ALONE if alone else _PLAIN
    if not shape.fullmatch(text) or ": " in text or not text.isprintable() or text.lower() in _OLD:
        return False
    try:
        read = source.parse(Source("", f"k: {text}" if alone else f"k: [{text}]"))
        return bool(read == {"k": text if alone else [text]})
    except ComposerError:
        return False


def _entry(key: str, value: Any, indent: str, width: int, top: bool = False) -> Iterator[str]:
    """`key: value`, opened where it does not fit or where a document has it open."""
    head = f"{indent}{scalar(key)}:"
    line = f"{head} {scalar(value, alone=True) if isinstance(value, str) else flow(value)}"
    opened = (top and key in OPENED) or key == "graph"
    if not isinstance(value, (Mapping, list, tuple)) or not value or (len(line) <= width and not opened):
        yield line
    elif isinstance(value, Mapping):
        yield head
        for k, v in value.items():
            yield from _entry(k, v, f"{indent}  ", width)
    elif all(not isinstance(v, (Mapping, list, tuple)) for v in value):
        yield from _filled(head, [scalar(v) for v in value], width)
    else:
        yield head
        for v in value:
            yield from _item(v, f"{indent}  ", width)


def _item(value: Any, indent: str, width: int) -> Iterator[str]:
    line = f"{indent}- {flow(value)}"
    if not isinstance(value, Mapping) or not value or len(line) <= width or all(map(_flat, value.values())):
        yield line
        return
    lines = [x for k, v in value.items() for x in _entry(k, v, f"{indent}  ", width)]
    yield f"{indent}- {lines[0].strip()}"
    yield from lines[1:]


def _flat(value: Any) -> bool:
    """A rule such as `{from: …, to: [a, b]}` stays on its line, however long."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return not any(isinstance(v, (Mapping, list, tuple)) for v in items)


def _filled(head: str, words: list[str], width: int) -> Iterator[str]:
    """A long list of numbers or words, filled into lines."""
    line = f"{head} ["
    margin = " " * len(line)
    for k, word in enumerate(words):
        piece = word + ("]" if k == len(words) - 1 else ",")
        if len(line) + len(piece) + 1 > width and line.strip() and not line.endswith("["):
            yield line.rstrip()
            line = margin
        line += piece if line.endswith("[") or line == margin else f" {piece}"
    yield line
