"""Which sizes an input may have: constraints from the rules, and their solutions by enumeration.

Enumeration is exact, takes microseconds with NumPy, and cannot be wrong in the way a solver's simplification can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from composer.diagnostics import Diagnostic, Span
from composer.dims import Size, at, bounds, period, symbols_of
from composer.frozen import dataclass
from composer.phrases import phrase

LIMIT = 2048
"""Sizes are looked for up to here."""

Box = tuple[tuple[int, int], ...]
"""The first and the last choice of each axis, by position."""


@dataclass(frozen=True)
class Constraint:
    """`size == 0` (equal), `size % number == 0` (multiple) or `size >= number` (least), and the node that wants it."""

    kind: str
    size: Size
    number: int
    why: str
    address: str
    use: str
    span: Span | None

    @property
    def symbols(self) -> frozenset[str]:
        return symbols_of(self.size)

    def holds(self, env: Mapping[str, Any]) -> Any:
        """Whether it holds, for ints or elementwise for arrays."""
        return self.fits(at(self.size, env))

    def fits(self, value: Any) -> Any:
        """Whether it holds where its size is `value`."""
        if self.kind == "equal":
            return value == 0
        return value % self.number == 0 if self.kind == "multiple" else value >= self.number

    def may_fail(self, box: Mapping[str, tuple[int, int]]) -> bool:
        """Whether it could fail somewhere in a box: false only where it cannot, exact for a box of one size."""
        low, high = bounds(self.size, box)
        return not self.fits(low) if self.kind == "least" or low == high else True

    def must_hold(self, box: Mapping[str, tuple[int, int]]) -> bool:
        """Whether it holds everywhere in a box (first and last size of each axis): true only where it does."""
        return not self.may_fail(box)

    def may_hold(self, box: Mapping[str, tuple[int, int]]) -> bool:
        """Whether it could hold somewhere in a box (first and last size of each axis): false only where it cannot."""
        low, high = bounds(self.size, box)
        if self.kind == "equal":
            return low <= 0 <= high
        if self.kind == "multiple":
            return low < high or low % self.number == 0
        return high >= self.number

    def __str__(self) -> str:
        if self.kind == "equal":
            return self.why
        sign = f"a multiple of {self.number}" if self.kind == "multiple" else f"at least {self.number}"
        return f"{self.size} must be {sign} ({self.why})"


def violations(constraints: Sequence[Constraint], env: Mapping[str, int], span: Span | None) -> Iterator[Diagnostic]:
    """One message for a size that is not valid: what is asked of it, by which nodes, and the nearest sizes that are."""
    bad = [c for c in constraints if c.symbols <= set(env) and not c.holds(env)]
    if not bad:
        return
    axes = sorted({s for c in bad for s in c.symbols}, key=list(env).index)
    said = ", ".join(f"{a} = {env[a]}" for a in axes)
    yield Diagnostic(
        "BP501",
        f"the size {' × '.join(str(n) for n in env.values())} is not valid: {said} does not fit",
        span,
        notes=tuple(
            f"{c.address}: {c}, and is {at(c.size, env)}" if c.kind != "equal" else f"{c.address}: {c}" for c in bad[:4]
        ),
        help=tuple(_advice(constraints, env, axes)),
    )


def _advice(constraints: Sequence[Constraint], env: Mapping[str, int], axes: Iterable[str]) -> Iterator[str]:
    for axis in axes:
        text = describe(constraints, axis, env)
        near = nearest(constraints, axis, env)
        if near:
            yield f"{axis}: {text}; nearest: {' or '.join(map(str, near))}"
    if not any(nearest(constraints, a, env) for a in axes):
        both = _together(constraints, env, list(axes))
        if both:
            yield f"nearest: {both} for {' and '.join(axes)}"


def valid(constraints: Iterable[Constraint], axis: str, env: Mapping[str, int], limit: int = LIMIT) -> list[int]:
    """The sizes 1..limit that one axis may have while the others stay as in `env`."""
    sizes: list[int] = list(range(1, limit + 1))
    mine = [c for c in constraints if axis in c.symbols and c.symbols <= {*env, axis}]
    # the cheap ones first: each leaves fewer sizes to the next
    for constraint in sorted(mine, key=lambda c: (len(c.symbols), c.kind != "multiple")):
        if sizes:
            sizes = kept(constraint, axis, env, sizes)
    return sizes


def kept(constraint: Constraint, axis: str, env: Mapping[str, int], sizes: list[int]) -> list[int]:
    """Those of some ascending sizes of an axis at which a constraint holds, the other axes as in `env`."""
    box = {**{a: (n, n) for a, n in env.items()}, axis: (sizes[0], sizes[-1])}
    if constraint.must_hold(box):
        return sizes
    step = period(constraint.size, axis)
    if step is None or 2 * step >= len(sizes):
        return [n for n in sizes if constraint.holds({**env, axis: n})]
    first = [at(constraint.size, {**env, axis: n}) for n in range(1, step + 2)]
    growth = first[step] - first[0]
    return [n for n in sizes if constraint.fits(first[(n - 1) % step] + (n - 1) // step * growth)]


def nearest(constraints: Iterable[Constraint], axis: str, env: Mapping[str, int]) -> list[int]:
    """The valid sizes of an axis just below and just above the one in `env`."""
    sizes = valid(constraints, axis, env)
    below = [n for n in sizes if n <= env[axis]][-1:]
    above = [n for n in sizes if n >= env[axis]][:1]
    return list(dict.fromkeys(below + above))


def nearest_valid(
    constraints: Iterable[Constraint], env: Mapping[str, int], up: bool | None = True
) -> dict[str, int] | None:
    """The valid size of all axes nearest to `env` (the smallest sum of changes; of several the least elongated).

    `up` asks that no axis become smaller (what padding can do), `up=False` that none become larger (cropping), None
    for either. None comes back where there is no such size within `LIMIT` of `env`.
    """
    known = [c for c in constraints if c.symbols and c.symbols <= set(env)]
    found: dict[str, int] = {}
    for axes in coupled(known, env):
        here = _nearest_of(axes, [c for c in known if c.symbols & set(axes)], env, up)
        if here is None:
            return None
        found |= here
    return {axis: found[axis] for axis in env}


def coupled(constraints: Iterable[Constraint], env: Iterable[str]) -> list[tuple[str, ...]]:
    """The axes in groups: two stand together where a constraint, or a chain of them, names both."""
    groups = [{axis} for axis in env]
    for constraint in constraints:
        touched = [g for g in groups if g & constraint.symbols]
        groups = [*(g for g in groups if g not in touched), *([set().union(*touched)] if touched else [])]
    order = list(env)
    return sorted((tuple(sorted(g, key=order.index)) for g in groups), key=lambda g: order.index(g[0]))


def _nearest_of(
    axes: Sequence[str], constraints: Sequence[Constraint], env: Mapping[str, int], up: bool | None
) -> dict[str, int] | None:
    """The nearest valid sizes of axes that belong together, looked for in a growing neighbourhood."""
    single = {a: [c for c in constraints if c.symbols == {a}] for a in axes}
    joint = [c for c in constraints if len(c.symbols) > 1]
    reach = 32
    while True:
        around = {a: range(*_span(env[a], reach, up)) for a in axes}
        choices = {a: [n for n in around[a] if all(c.holds({a: n}) for c in single[a])] for a in axes}
        found = _cheapest(choices, joint, env) if all(choices.values()) else None
        if found is not None and sum(abs(found[a] - env[a]) for a in axes) <= reach:
            return found
        if reach >= LIMIT:
            return found
        reach *= 4


def _span(n: int, reach: int, up: bool | None) -> tuple[int, int]:
    """The first size to look at and the one after the last."""
    return n if up else max(1, n - reach), n + 1 if up is False else n + reach + 1


def _cheapest(
    choices: Mapping[str, Sequence[int]],
    constraints: Sequence[Constraint],
    env: Mapping[str, int],
    broken: Constraint | None = None,
) -> dict[str, int] | None:
    """The choice of one size per axis that holds (and breaks one other constraint) and changes least: boxes of choices
    are split, the best first, and those in which a constraint cannot hold are left out."""
    axes = list(choices)

    def entry(box: Box) -> tuple[int, int, Box]:
        ends = [(choices[a][i], choices[a][j], env[a]) for a, (i, j) in zip(axes, box, strict=True)]
        return sum(max(low - n, n - high, 0) for low, high, n in ends), max(low for low, _, _ in ends), box

    heap = [entry(tuple((0, len(choices[a]) - 1) for a in axes))]
    while heap:
        box = heappop(heap)[-1]
        sizes = {a: (choices[a][i], choices[a][j]) for a, (i, j) in zip(axes, box, strict=True)}
        if not all(c.may_hold(sizes) for c in constraints):
            continue
        if broken is not None and not broken.may_fail(sizes):
            continue
        halves = _halves(box)
        if not halves:
            return {a: low for a, (low, _) in sizes.items()}
        for half in halves:
            heappush(heap, entry(half))
    return None


def implied(
    constraint: Constraint,
    others: Sequence[Constraint],
    choices: Mapping[str, Sequence[int]],
    env: Mapping[str, int],
) -> bool:
    """Whether a constraint holds at every choice of sizes at which the others do."""
    if not constraint.may_fail({a: (c[0], c[-1]) for a, c in choices.items()}):
        return True
    return _cheapest(choices, others, env, constraint) is None


def listed(
    choices: Mapping[str, Sequence[int]], constraints: Sequence[Constraint], most: int, fails: bool = False
) -> tuple[tuple[int, ...], ...] | None:
    """Every choice at which all hold (or, `fails`, at which none does), None for more than `most`."""
    found: list[tuple[int, ...]] = []
    boxes = [tuple((0, len(c) - 1) for c in choices.values())]
    while boxes and len(found) <= most:
        box = boxes.pop()
        sizes = {a: (c[i], c[j]) for (a, c), (i, j) in zip(choices.items(), box, strict=True)}
        if not all(c.may_fail(sizes) if fails else c.may_hold(sizes) for c in constraints):
            continue
        halves = _halves(box)
        boxes += halves[::-1]
        if not halves:
            found.append(tuple(low for low, _ in sizes.values()))
    return tuple(sorted(found)) if len(found) <= most else None


def _halves(box: Box) -> list[Box]:
    """A box in two, across its longest side; nothing where it is one choice."""
    widest = max(range(len(box)), key=lambda k: box[k][1] - box[k][0])
    first, last = box[widest]
    middle = (first + last) // 2
    halves = ((first, middle), (middle + 1, last)) if first < last else ()
    return [(*box[:widest], half, *box[widest + 1 :]) for half in halves]


def _together(constraints: Sequence[Constraint], env: Mapping[str, int], axes: list[str]) -> int | None:
    """The nearest one number that all of the axes may have."""
    for distance in range(LIMIT):
        for n in (env[axes[0]] - distance, env[axes[0]] + distance):
            if n > 0 and all(c.holds({**env, **dict.fromkeys(axes, n)}) for c in constraints if c.symbols <= set(env)):
                return n
    return None


def describe(constraints: Sequence[Constraint], axis: str, env: Mapping[str, int], limit: int = LIMIT) -> str:
    """The valid sizes of one axis as a person would say them."""
    return phrase(valid(constraints, axis, env, limit), limit)


def summary(constraints: Sequence[Constraint], env: Mapping[str, int]) -> list[str]:
    """One line for each group of axes with the same answer: `H, W: multiples of 224`."""
    groups: dict[str, list[str]] = {}
    for axis in env:
        groups.setdefault(describe(constraints, axis, env), []).append(axis)
    return [f"{', '.join(axes)}: {text}" for text, axes in groups.items() if text != "any"]
