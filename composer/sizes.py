"""Which sizes an input may have: constraints from the rules, and their solutions by enumeration.

Enumeration is exact, takes microseconds with NumPy, and cannot be wrong in the way a solver's simplification can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

from composer.diagnostics import Diagnostic, Span
from composer.dims import Size, at, bounds, symbols_of

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
        value = at(self.size, env)
        if self.kind == "equal":
            return value == 0
        return value % self.number == 0 if self.kind == "multiple" else value >= self.number

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
    sizes = range(1, limit + 1)
    mine = [c for c in constraints if axis in c.symbols and c.symbols <= {*env, axis}]
    # the cheap ones first: each leaves so few sizes that plain Python beats the 0.1 s it takes to import NumPy
    for constraint in sorted(mine, key=lambda c: (len(c.symbols), c.kind != "multiple")):
        sizes = [n for n in sizes if constraint.holds({**env, axis: n})]  # type: ignore[assignment]
    return list(sizes)


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
    choices: Mapping[str, Sequence[int]], constraints: Sequence[Constraint], env: Mapping[str, int]
) -> dict[str, int] | None:
    """The choice of one size per axis that holds and changes least: boxes of choices are split, the best first, and
    those in which a constraint cannot hold are left out."""
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
        widest = max(range(len(box)), key=lambda k: box[k][1] - box[k][0])
        first, last = box[widest]
        if first == last:
            return {a: low for a, (low, _) in sizes.items()}
        middle = (first + last) // 2
        for half in ((first, middle), (middle + 1, last)):
            heappush(heap, entry((*box[:widest], half, *box[widest + 1 :])))
    return None


def _together(constraints: Sequence[Constraint], env: Mapping[str, int], axes: list[str]) -> int | None:
    """The nearest one number that all of the axes may have."""
    for distance in range(LIMIT):
        for n in (env[axes[0]] - distance, env[axes[0]] + distance):
            if n > 0 and all(c.holds({**env, **dict.fromkeys(axes, n)}) for c in constraints if c.symbols <= set(env)):
                return n
    return None


def describe(constraints: Sequence[Constraint], axis: str, env: Mapping[str, int], limit: int = LIMIT) -> str:
    """The valid sizes of one axis as a person would say them."""
    sizes = valid(constraints, axis, env, limit)
    if not sizes:
        return "no size fits while the other axes stay"
    if len(sizes) == limit:
        return "any"
    if sizes == list(range(sizes[0], limit + 1)):
        return f"at least {sizes[0]}"
    if len(sizes) == 1:
        return f"exactly {sizes[0]}"
    step = sizes[1] - sizes[0]
    regular = all(b - a == step for a, b in pairwise(sizes)) and sizes[-1] + step > limit
    if regular and sizes[0] % step == 0:
        return f"multiples of {step}" + (f", at least {sizes[0]}" if sizes[0] > step else "")
    if regular:
        return f"{sizes[0]} plus multiples of {step}"
    return ", ".join(map(str, sizes[:6])) + (" …" if len(sizes) > 6 else "")


def summary(constraints: Sequence[Constraint], env: Mapping[str, int]) -> list[str]:
    """One line for each group of axes with the same answer: `H, W: multiples of 224`."""
    groups: dict[str, list[str]] = {}
    for axis in env:
        groups.setdefault(describe(constraints, axis, env), []).append(axis)
    return [f"{', '.join(axes)}: {text}" for text, axes in groups.items() if text != "any"]
