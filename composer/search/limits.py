"""The budget of a search: `flops<50G, memory<8GB, parameters<5M` -> `Limits`. Imports no torch.

flops        of a forward pass of one patch           parameters   of the network
memory       of a training step: weights, gradients, the optimizer's state and what is kept for the backward pass
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from composer import figures
from composer.diagnostics import BlueprintError, Diagnostic, Source, Span, did_you_mean, listing

FIGURES: Mapping[str, Callable[[float], str]] = {
    "flops": figures.number,
    "memory": figures.size,
    "parameters": figures.number,
}
"""What can be limited, and how its amounts are said."""
_THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
UNITS: Mapping[str, Mapping[str, int]] = {
    "flops": {f"{k}{end}": n for k, n in _THOUSANDS.items() for end in ("", "FLOP", "FLOPs")},
    "memory": {"B": 1, **{f"{k}B": n for k, n in _THOUSANDS.items() if k}}
    | {f"{k}iB": 2 ** (10 * n) for n, k in enumerate("KMGT", 1)},
    "parameters": _THOUSANDS,
}
"""The units of each; their case does not matter."""
_LIMIT = re.compile(r"\s*(?P<name>[A-Za-z_]+)\s*(?P<sign><=?|≤)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")
EXAMPLE = "write for example 'flops<50G, memory<8GB, parameters<5M'"


@dataclass(frozen=True)
class Limits:
    """The most that each figure may be, by its name; what is not in it may be anything."""

    most: Mapping[str, float]

    def exceeded(self, found: Mapping[str, float]) -> Diagnostic | None:
        """What is too much of what is known of a composition, or nothing."""
        over = [n for n, most in self.most.items() if found.get(n, 0) > most]
        said = [f"{n} {FIGURES[n](found[n])}, at most {FIGURES[n](self.most[n])}" for n in over]
        return Diagnostic("BP849", f"over the budget: {', '.join(said)}") if over else None


def parse(text: str | None) -> Limits:
    """The limits that a command line says; all that is wrong with it is BP847, each with its place."""
    if text is None:
        return Limits({})
    most: dict[str, float] = {}
    mistakes: list[Diagnostic] = []
    start = 0
    for part in text.split(","):
        mistake = _read(text, part, start, most)
        mistakes += [mistake] if mistake else []
        start += len(part) + 1
    if mistakes:
        raise BlueprintError(mistakes)
    return Limits(most)


def _read(text: str, part: str, start: int, most: dict[str, float]) -> Diagnostic | None:
    """Add what a part says, or say what is wrong with it."""
    match = _LIMIT.fullmatch(part)
    if match is None:
        said = f"`{part.strip()}` is no limit" if part.strip() else "a limit is missing beside a comma"
        at = _span(text, start + len(part) - len(part.lstrip()), start + len(part.rstrip()))
        return Diagnostic("BP847", said, at, help=(EXAMPLE,))
    name, unit = match["name"], match["unit"]
    if name not in FIGURES:
        said = f"nothing is called `{name}`{did_you_mean(name, FIGURES)}"
        at = _span(text, start + match.start("name"), start + match.end("name"))
        return Diagnostic("BP847", said, at, notes=(f"a budget limits {listing(FIGURES)}",))
    known = {u.lower(): n for u, n in UNITS[name].items()}
    if unit.lower() not in known:
        said = f"`{name}` has no unit `{unit}`{did_you_mean(unit, UNITS[name])}" if unit else f"`{name}` needs a unit"
        at = _span(text, start + match.start("number"), start + match.end("unit"))
        return Diagnostic("BP847", said, at, notes=(f"units: {listing(filter(None, UNITS[name]), 20)}",))
    if name in most:
        at = _span(text, start + match.start("name"), start + match.end("name"))
        return Diagnostic("BP847", f"`{name}` is limited twice", at, help=("limit it once",))
    most[name] = float(match["number"]) * known[unit.lower()]
    return None


def _span(text: str, start: int, end: int) -> Span:
    return Span(Source("<command line>", text), 1, start + 1, 1, max(start + 2, end + 1))
