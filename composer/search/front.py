"""What a search found: trials as rows, those that no other beats, the table and the picture of them. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.files import whole, write_text


@dataclass(frozen=True)
class Row:
    """A trained trial: Dice from 0 to 1, FLOPs of a patch, parameters, bytes of a training step, what was chosen."""

    number: int
    dice: float
    flops: float
    parameters: int
    memory: int
    seconds: float
    chosen: Mapping[str, str]

    @property
    def figures(self) -> dict[str, float]:
        return {"flops": self.flops, "memory": self.memory, "parameters": self.parameters}


@dataclass(frozen=True)
class Found:
    """The rows of a search, how many compositions were not trained, by code, and why the first of each was not."""

    rows: tuple[Row, ...]
    pruned: Mapping[str, int]
    reasons: Mapping[str, str]

    @property
    def front(self) -> tuple[Row, ...]:
        """The rows that no other beats, the cheapest first."""
        kept = [self.rows[k] for k in front([(r.dice, r.flops) for r in self.rows])]
        return tuple(sorted(kept, key=lambda r: (r.flops, -r.dice, r.number)))

    @property
    def best(self) -> Row | None:
        """The row with the highest Dice, of equal ones the cheapest."""
        return max(self.rows, key=lambda r: (r.dice, -r.flops, -r.number), default=None)

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Found:
        """What `trials.json` says."""
        rows = tuple(Row(**{k: v for k, v in r.items() if k != "front"}) for r in said["trials"])
        pruned = said["pruned"]
        return cls(rows, {c: p["count"] for c, p in pruned.items()}, {c: p["first"] for c, p in pruned.items()})

    def to_json(self) -> dict[str, Any]:
        kept = [r.number for r in self.front]
        rows = [{**vars(r), "chosen": dict(r.chosen), "front": r.number in kept} for r in self.rows]
        best = self.best.number if self.best else None
        pruned = {c: {"count": n, "first": self.reasons[c]} for c, n in self.pruned.items()}
        return {"trials": rows, "front": kept, "best": best, "pruned": pruned}


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (gain, cost) no other point beats: one that is as good in both and better in one. Equal ones all stay.

    Sorted by cost, a point stays where it gains more than all that cost less, and no less than those that cost the
    same; so it takes n log n steps.
    """
    order = sorted(range(len(points)), key=lambda k: (points[k][1], -points[k][0]))
    kept: list[int] = []
    for k in order:
        last = points[kept[-1]] if kept else None
        if last is None or points[k][0] > last[0] or points[k] == last:
            kept.append(k)
    return sorted(kept)


def write(found: Found, folder: Path) -> None:
    """`trials.csv`, a line for each trained trial, and `trials.json`, with what was not trained too."""
    kept = {r.number for r in found.front}
    names = list(dict.fromkeys(k for r in found.rows for k in r.chosen))
    head = ["trial", "front", "dice", "flops", "parameters", "memory", "seconds", *names]
    with io.StringIO() as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head)
        for r in found.rows:
            own = [r.number, int(r.number in kept), r.dice, int(r.flops), r.parameters, r.memory, f"{r.seconds:.1f}"]
            writer.writerow([*own, *(r.chosen.get(n, "") for n in names)])
        write_text(folder / "trials.csv", text.getvalue())
    write_text(folder / "trials.json", json.dumps(found.to_json(), indent=2) + "\n")


def draw(found: Found, path: Path, title: str) -> None:
    """Dice against FLOPs of a patch, every trained trial; the front joined by the steps of what a budget buys."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from composer import figures

    kept = found.front
    rest = [r for r in found.rows if r not in kept]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter([r.flops for r in rest], [r.dice for r in rest], color="#9aa5b1", label="trained")
    axes.step([r.flops for r in kept], [r.dice for r in kept], where="post", color="#c2410c", linewidth=1)
    axes.scatter([r.flops for r in kept], [r.dice for r in kept], color="#c2410c", label="front", zorder=3)
    for r in found.rows:
        axes.annotate(str(r.number), (r.flops, r.dice), xytext=(4, 4), textcoords="offset points", fontsize=8)
    if max(r.flops for r in found.rows) > 4 * min(r.flops for r in found.rows):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: figures.number(value)))
    axes.set(xlabel="FLOPs of a patch, forward", ylabel="mean Dice in validation", title=title)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False)
    with whole(path) as draft:
        figure.savefig(draft, dpi=110)


def counted(pruned: Iterable[str]) -> dict[str, int]:
    """How often each code occurs, the most frequent first."""
    codes = list(pruned)
    return dict(sorted(((c, codes.count(c)) for c in dict.fromkeys(codes)), key=lambda p: (-p[1], p[0])))


__all__ = ["Found", "Row", "counted", "draw", "front", "write"]
