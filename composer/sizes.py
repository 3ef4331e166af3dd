"""Which sizes an input may have: constraints from the rules, and their solutions by enumeration.

Enumeration is exact, takes microseconds with NumPy, and cannot be wrong in the way a solver's simplification can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from composer.diagnostics import Diagnostic, Span
from composer.dims import Size, at, symbols_of

LIMIT = 2048
"""Sizes are looked for up to here."""


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
