"""Which sizes an exported network takes: those of the rules, as far as they are a progression.

constraints + the size that is asked for -> for each axis `step·k`, as `torch.export` writes dynamic sizes. The step is
the least with which every constraint holds and every level of the network (`H/32`) is whole. The rules may accept more
(`swin_unet` pads odd maps, `cotr` takes 31 and 32 but not 30). Every constraint is proven for all members together, by
putting `step·k` in the place of the axis; where that cannot be shown, the axis stays fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from composer.dims import Dim, Size, at, period, symbols_of
from composer.inference import Program
from composer.sizes import LIMIT, Constraint, valid

COARSEST = 512
"""Steps are looked for up to here."""


@dataclass(frozen=True)
class Opening:
    """The sizes step·k of an axis, for k from `first` up to `last`, where there is a last one."""

    axis: str
    step: int
    first: int
    last: int | None = None

    def size(self, k: int) -> int:
        return self.step * k

    def other(self, size: int, more: int = 0) -> int:
        """The least member that is not this size, or one of the next ones, as far as there are any."""
        members = (self.first, self.first + 1, self.first + 2)
        found = [self.size(k) for k in members if (self.last is None or k <= self.last) and self.size(k) != size]
        return found[min(more, len(found) - 1)] if found else size

    def __str__(self) -> str:
        """`H = 32·k from 64`."""
        name = self.axis if self.step == 1 else f"{self.axis} = {self.step}·k"
        return f"{name} from {self.size(self.first)}" + (f" to {self.size(self.last)}" if self.last is not None else "")


def openings(program: Program, env: Mapping[str, int]) -> dict[str, Opening]:
    """The axes that may stay open around the sizes in `env`, with what they may be."""
    known = [c for c in (*program.constraints, *_wider(program)) if c.symbols and c.symbols <= set(env)]
    levels = _sizes(program)
    found = {a: o for a in env if (o := _alone(known, a, env, _stride(levels, a))) is not None}
    return _together(known, found, env)


def _sizes(program: Program) -> list[Size]:
    """The open sizes of all maps and sequences."""
    types = [v.type for v in program.values]
    found = {n for t in types for n in (*t.grid, *(m for g in t.grids for m in g)) if symbols_of(n)}
    return sorted(found, key=str)


def _stride(sizes: Iterable[Size], axis: str) -> int:
    """The number of cells that every level of an axis divides."""
    return lcm(*(period(n, axis) or 1 for n in sizes))


def _wider(program: Program) -> list[Constraint]:
    """No map and no sequence may have the size one along an open axis: torch takes that for one that is stretched to
    another's, and what it traces then holds for no other size, and for a larger one not for this."""
    return [Constraint("least", n, 2, "more than one", "", "", None) for n in _sizes(program)]


def _alone(constraints: Sequence[Constraint], axis: str, env: Mapping[str, int], stride: int) -> Opening | None:
    """The finest progression through the size of one axis that goes on without end, or as far as any valid size does;
    the other axes as in `env`."""
    sizes = set(valid(constraints, axis, env))
    here, largest = env[axis], max(sizes, default=0)
    for step in range(stride, min(COARSEST, largest - here) + 1, stride):
        end = next((n for n in range(here, largest + step + 1, step) if n not in sizes), here)
        if here % step or end <= largest:
            continue
        start = next(n for n in range(here, -step, -step) if n not in sizes or n < 1) + step
        return Opening(axis, step, start // step, None if end > LIMIT else (end - step) // step)
    return None


def _together(
    constraints: Sequence[Constraint], found: Mapping[str, Opening], env: Mapping[str, int]
) -> dict[str, Opening]:
    """Those that hold for all members of all axes at a time. What breaks a constraint is narrowed, then fixed."""
    open_ = dict(found)
    for constraint in (c for c in constraints if len(c.symbols) > 1):  # those of one axis were enumerated
        if not _proven(constraint, open_, env):
            open_ |= _narrowed(constraint, open_, env)
        if not _proven(constraint, open_, env):
            open_ = {a: o for a, o in open_.items() if a not in constraint.symbols}
    return open_


def _narrowed(constraint: Constraint, open_: Mapping[str, Opening], env: Mapping[str, int]) -> dict[str, Opening]:
    """The openings of a constraint that limits a product, such as the rows of a table: no less than the size asked for,
    and as far up on all axes alike as it holds."""
    mine = {a: o for a, o in open_.items() if a in constraint.symbols}
    asked = {a: env[a] // o.step for a, o in mine.items()}
    for more in (1, 2, LIMIT):
        raised = {a: replace(o, first=min(o.first + more, asked[a])) for a, o in mine.items()}
        if _proven(constraint, raised, env):
            return raised
    for tenth in range(80, 10, -1):
        most = {a: env[a] * tenth // 10 // o.step for a, o in mine.items()}
        capped = {
            a: replace(o, first=mine[a].first, last=min(most[a], most[a] if o.last is None else o.last))
            for a, o in mine.items()
        }
        if all(o.last is not None and o.last >= asked[a] + 1 for a, o in capped.items()):
            for choice in (capped, {a: replace(o, first=asked[a]) for a, o in capped.items()}):
                if _proven(constraint, choice, env):
                    return choice
    return {}


def _proven(constraint: Constraint, open_: Mapping[str, Opening], env: Mapping[str, int]) -> bool:
    """Whether a constraint holds for all members of these openings, the other axes as in `env`."""
    axes: dict[str, Any] = {a: Dim.symbol(a) * open_[a].step if a in open_ else env[a] for a in constraint.symbols}
    try:
        size: Size = at(constraint.size, axes)
        rest = size % constraint.number if constraint.kind == "multiple" else size
    except TypeError:  # the larger of two sizes that are both open
        return False
    if isinstance(rest, int):
        return bool(constraint.fits(size if isinstance(size, int) else rest))
    box = {a: (open_[a].first, LIMIT if (last := open_[a].last) is None else last) for a in symbols_of(rest)}
    return replace(constraint, size=rest).must_hold(box)
