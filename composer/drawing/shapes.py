"""Types as a figure shows them: channels, and the grid as strides."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass


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
            grid = "≈" + "×".join(map(roughly, self.grid))
        grid += f" + {self.extra}" if self.extra not in ("", "0") else ""
        return " · ".join(filter(None, (self.channels, grid)))


def shape_of(text: str) -> Shape:
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


def roughly(axis: str) -> str:
    """An axis without what borders take off: `H/8` for `2·(H + 4)/16 - 20`."""
    letter, stride = re.search(r"[A-Z]", axis), _stride(axis)
    if not letter or stride is None:
        return axis[:8]
    return letter[0] if stride == 1 else f"{letter[0]}/{stride:g}" if stride > 1 else f"{1 / stride:g}·{letter[0]}"
