"""Why sizes are valid: for each axis the nodes that divide its grid on the way to the one that asks.

Every step that divides a grid is an edge between two sizes, such as H/4 -> H/8. A constraint stands on one of these
sizes, and the path from the input to it is the chain of its causes:

    224 = 4 (patches) × 2 × 2 × 2 (merges) × 7 (window).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from math import gcd, lcm, prod
from typing import Any

from composer import sizes
from composer.diagnostics import Span
from composer.dims import Dim, Floor, Size, slope, symbols_of
from composer.inference import Program, Step, is_move
from composer.phrases import phrase
from composer.sizes import Constraint
from composer.strides import multiples, scaled, sized

OPEN = 64
"""The size of an axis while another one is looked at, where the network says none."""

MOST = 1000
"""Sizes of several axes that are listed one by one."""


@dataclass(frozen=True)
class Factor:
    """What one node divides the grid by, or wants it to be a multiple of."""

    number: int
    word: str
    address: str


@dataclass(frozen=True)
class Cause:
    """A node that asks something of a size, and what divides the grid on the way there (and by what it asks)."""

    text: str
    address: str
    use: str
    factors: tuple[Factor, ...] = ()
    span: Span | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of the chain, each once."""
        return tuple(dict.fromkeys((*(f.address for f in self.factors), self.address)))

    def to_json(self) -> dict[str, Any]:
        factors = [{"number": f.number, "word": f.word, "node": f.address} for f in self.factors]
        return {"text": self.text, "node": self.address, "use": self.use, "factors": factors}


@dataclass(frozen=True)
class Axis:
    """One axis: what it is built for, the sizes that fit whatever the other axes are, and why."""

    name: str
    built: int | None
    text: str
    alone: tuple[int, ...]
    because: tuple[Cause, ...]


@dataclass(frozen=True)
class Coupling:
    """What several axes must meet together. `valid` lists their sizes, `invalid` the exceptions; None is too many."""

    axes: tuple[str, ...]
    text: str
    because: Cause
    valid: tuple[tuple[int, ...], ...] | None
    invalid: tuple[tuple[int, ...], ...] | None

    def to_json(self) -> dict[str, Any]:
        listed = {"valid": self.valid, "invalid": self.invalid}
        return {"axes": self.axes, "text": self.text, "because": [self.because.to_json()], **listed}


@dataclass(frozen=True)
class Nearest:
    """One size: whether it is valid, the nearest valid one, and those that padding (up) or cropping (down) can reach;
    `axes` are the sizes of one axis next to it while the others stay."""

    size: Mapping[str, int]
    near: Mapping[str, int] | None
    up: Mapping[str, int] | None
    down: Mapping[str, int] | None
    axes: Mapping[str, Sequence[int]]

    @property
    def ok(self) -> bool:
        return self.near == self.size

    def lines(self) -> Iterator[str]:
        if self.ok:
            yield f"{_cross(self.size)} is valid"
            return
        yield f"{_cross(self.size)} is not valid"
        for axis, found in self.axes.items():
            if found and found[0] != self.size[axis]:
                yield f"  {axis}: {' or '.join(map(str, found))}" + " while the others stay" * (len(self.axes) > 1)
        for word, found_size in (("nearest", self.near), ("larger", self.up), ("smaller", self.down)):
            yield f"  {word:<8} {_cross(found_size) if found_size else 'none'}"

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "valid": self.ok, "nearest": self.near, "up": self.up, "down": self.down,
                "axes": self.axes}  # fmt: skip


def _cross(size: Mapping[str, int]) -> str:
    return " × ".join(map(str, size.values()))


@dataclass(frozen=True)
class Sizes(Mapping[str, list[int]]):
    """The valid sizes 1..limit of each axis, the others as the network is built; `axes` and `coupled` say why."""

    limit: int
    env: Mapping[str, int]
    axes: Mapping[str, Axis]
    coupled: tuple[Coupling, ...]
    constraints: tuple[Constraint, ...]

    def __getitem__(self, axis: str) -> list[int]:
        return sizes.valid(self.constraints, axis, self.env, self.limit)

    def __iter__(self) -> Iterator[str]:
        return iter(self.axes)

    def __len__(self) -> int:
        return len(self.axes)

    def nearest(self, size: Mapping[str, int]) -> Nearest:
        """What is valid next to a size, given by axis."""
        near, up, down = (sizes.nearest_valid(self.constraints, size, way) for way in (None, True, False))
        return Nearest(size, near, up, down, {a: sizes.nearest(self.constraints, a, size) for a in size})

    def to_json(self) -> dict[str, Any]:
        axes = {
            a.name: {"built": a.built, "text": a.text, "valid": self[a.name], "alone": a.alone,
                     "because": [c.to_json() for c in a.because]}
            for a in self.axes.values()
        }  # fmt: skip
        return {"limit": self.limit, "axes": axes, "coupled": [c.to_json() for c in self.coupled]}


def explain(program: Program, limit: int = 1024) -> Sizes:
    """The valid sizes of a program's axes, and their causes."""
    names = dict.fromkeys(a for i in program.inputs for a in i.axes if not a.isdigit())
    env = {a: program.built.get(a, OPEN) for a in names}
    paths = _Paths(program)
    alone = {a: [c for c in program.constraints if c.symbols == {a}] for a in names}
    axes = {a: _axis(a, program.built.get(a), alone[a], paths, limit) for a in names}
    joint = [c for c in program.constraints if len(c.symbols) > 1]
    choices = {a: axes[a].alone for a in names}
    coupled = tuple(_couplings(joint, choices, env, multiples(program.constraints)))
    return Sizes(limit, env, axes, coupled, program.constraints)


# --- one axis ----------------------------------------------------------------------------------------------------


def _axis(name: str, built: int | None, constraints: Sequence[Constraint], paths: _Paths, limit: int) -> Axis:
    wide = max(limit, sizes.LIMIT)  # so that a rule shows even where only its first size is within the limit
    valid = sizes.valid(constraints, name, {}, wide)
    chosen = _needed(constraints, name, valid, wide)
    text = phrase(valid, wide)
    causes = tuple(_causes(name, text, valid, constraints, chosen, paths, wide))
    return Axis(name, built, text, tuple(n for n in valid if n <= limit), causes)


def _needed(constraints: Sequence[Constraint], axis: str, valid: Sequence[int], limit: int) -> list[Constraint]:
    """A few constraints that leave the same sizes as all: the strictest first, none that the others imply."""
    every = list(range(1, limit + 1))
    sets = {c: frozenset(sizes.kept(c, axis, {}, every)) for c in dict.fromkeys(constraints)}
    left, wanted, chosen = frozenset(every), frozenset(valid), list[Constraint]()
    for constraint in sorted((c for c in sets if len(sets[c]) < limit), key=lambda c: len(sets[c])):
        if left != wanted and left - sets[constraint]:
            left, chosen = left & sets[constraint], [*chosen, constraint]
    for constraint in list(chosen):
        others = [sets[c] for c in chosen if c is not constraint]
        if frozenset(every).intersection(*others) == wanted:
            chosen.remove(constraint)
    return chosen


def _causes(
    axis: str, said: str, valid: Sequence[int], constraints: Sequence[Constraint], chosen: Sequence[Constraint],
    paths: _Paths, limit: int,
) -> Iterator[Cause]:  # fmt: skip
    """Chains whose product is the common multiple of the sizes, then what else is asked."""
    step = _step(valid, limit)
    chains = list(_chains(axis, step, constraints, paths)) if step > 1 else []
    yield from chains
    for c in chosen:
        if not (chains and (c.kind == "multiple" or _implied(c, axis, step, limit))):
            factors = next((f for target in _targets(c, axis)[:1] if (f := paths.factors(axis, target))), ())
            chain = f"{equation(factors)}: " if f"multiples of {_product(factors)}," in said else ""
            yield Cause(chain + str(c), c.address, c.use, factors, c.span)


def _step(valid: Sequence[int], limit: int) -> int:
    """The number that the valid sizes are all the multiples of, from the first on; 1 where they are not."""
    step = valid[1] - valid[0] if len(valid) > 1 else 1
    regular = all(n % step == 0 for n in valid) and len(valid) == limit // step - valid[0] // step + 1
    return step if regular else 1


def _implied(constraint: Constraint, axis: str, step: int, limit: int) -> bool:
    """Whether every multiple of a step fits a constraint."""
    every = list(range(step, limit + 1, step))
    return len(sizes.kept(constraint, axis, {}, every)) == len(every)


def _chains(axis: str, step: int, constraints: Sequence[Constraint], paths: _Paths) -> Iterator[Cause]:
    """One chain with the product `step`, or several with that as their least common multiple; none if there is none."""
    found = [(f, c) for c in constraints if (f := _chain(axis, c, paths)) and step % _product(f) == 0]
    found.sort(key=lambda chain: (-_product(chain[0]), len(chain[0])))
    reached, taken = 1, list[tuple[tuple[Factor, ...], Constraint]]()
    for factors, constraint in found:
        if reached != step and lcm(reached, _product(factors)) > reached:
            reached, taken = lcm(reached, _product(factors)), [*taken, (factors, constraint)]
    for factors, c in taken if reached == step else ():
        yield Cause(equation(factors), c.address, c.use, factors, c.span)


def _chain(axis: str, constraint: Constraint, paths: _Paths) -> tuple[Factor, ...]:
    """What divides the grid on the way to a constraint, and what that itself asks."""
    chains = []
    for target in _targets(constraint, axis):
        factors = paths.factors(axis, target)
        if factors is not None:
            own = (Factor(constraint.number, constraint.why, constraint.address),)
            chains.append(_merged((*factors, *(own if constraint.kind == "multiple" else ()))))
    return max(chains, key=_product, default=())


def _merged(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """Without a node that asks for the multiple it will divide by, counted with the division."""
    return tuple(f for f in factors if f.number > 1)


def _targets(constraint: Constraint, axis: str) -> list[Size]:
    """The sizes that a constraint is about: its own, or the coarsest ones that it compares."""
    if constraint.kind == "multiple" or not isinstance(constraint.size, Dim):
        return [constraint.size]
    atoms = [a for monomial, _ in constraint.size.terms for a in monomial if isinstance(a, Floor)]
    targets: list[Size] = [Dim((((a,), 1),)) for a in atoms if a.inner.symbols == {axis}]
    return sorted(targets, key=lambda t: slope(t, axis) or 0)


def _product(factors: Iterable[Factor]) -> int:
    return prod(f.number for f in factors)


def equation(factors: Sequence[Factor]) -> str:
    """`224 = 4 (patches) × 2 × 2 × 2 (merges) × 7 (window)`."""
    parts = []
    for word, group in groupby(factors, key=lambda f: f.word):
        numbers = [str(f.number) for f in group]
        many = len(numbers) > 1 and not word.endswith("s") and " " not in word
        parts.append(f"{' × '.join(numbers)} ({word}{'s' * many})")
    body = " × ".join(parts)
    return body if len(factors) == 1 else f"{_product(factors)} = {body}"


class _Paths:
    """Which steps turn one size of an axis into another."""

    def __init__(self, program: Program):
        self.edges: dict[Size, dict[Size, Step]] = {}
        for step in (s for s in program.steps if not is_move(s.address)):
            after = {n for i in step.outputs for n in program.values[i].type.grid}
            before = {n for i in step.reads for n in program.values[i].type.grid}
            for a, b in ((a, b) for a in before - after for b in after - before):
                if symbols_of(a) == symbols_of(b) and len(symbols_of(a)) == 1:
                    self.edges.setdefault(a, {}).setdefault(b, step)

    def factors(self, axis: str, target: Size) -> tuple[Factor, ...] | None:
        """The divisions on the shortest way from the axis to a size of it; None where there is no way."""
        start: Size = Dim.symbol(axis)
        ways: dict[Size, tuple[Factor, ...]] = {start: ()}
        queue = deque([start])
        while queue and target not in ways:
            here = queue.popleft()
            for after, step in self.edges.get(here, {}).items():
                factor = _division(here, after, step, axis)
                if after not in ways and factor is not None:
                    ways[after] = (*ways[here], factor)
                    queue.append(after)
        return tuple(f for f in ways[target] if f.number > 1) if target in ways else None


def _division(before: Size, after: Size, step: Step, axis: str) -> Factor | None:
    """By how much a step divides an axis, where it does so by a whole number."""
    a, b = slope(before, axis), slope(after, axis)
    share = a / b if a and b else Fraction(0)
    if share < 1 or share.denominator != 1:
        return None
    return Factor(int(share), step.block.divides or step.block.name.rpartition(".")[2], step.address)


# --- several axes ------------------------------------------------------------------------------------------------


def _couplings(
    constraints: Sequence[Constraint], choices: Mapping[str, Sequence[int]], env: Mapping[str, int],
    by: Mapping[str, int],
) -> Iterator[Coupling]:  # fmt: skip
    """The constraints on several axes that the others do not imply."""
    if not all(choices.values()):
        return
    left = _simplest(constraints, choices)
    for c, (simple, scale) in list(left.items()):
        units = {a: [n // scale[a] for n in choices[a]] for a in env if a in c.symbols}
        others = [s for o, (s, _) in left.items() if o is not c and o.symbols <= c.symbols]
        if sizes.implied(simple, others, units, {a: env[a] // scale[a] for a in units}):
            del left[c]
    for c in left:
        mine = {a: choices[a] for a in env if a in c.symbols}
        yield _coupling(c, mine, [o for o in left if o.symbols <= c.symbols], by)


def _simplest(
    constraints: Sequence[Constraint], choices: Mapping[str, Sequence[int]]
) -> dict[Constraint, tuple[Constraint, Mapping[str, int]]]:
    """Each constraint in units of what all choices are multiples of, in which most floors vanish; those that are then
    the same, or always true, are left out."""
    scale = {a: gcd(*choices[a]) for a in choices}
    found: dict[Any, tuple[Constraint, Constraint]] = {}
    for c in constraints:
        simple = replace(c, size=scaled(c.size, scale))
        if symbols_of(simple.size) or not simple.fits(simple.size):
            found.setdefault((c.kind, simple.size, c.number), (c, simple))
    return {c: (simple, scale) for c, simple in found.values()}


def _coupling(
    c: Constraint, choices: Mapping[str, Sequence[int]], joint: Sequence[Constraint], by: Mapping[str, int]
) -> Coupling:
    valid = sizes.listed(choices, joint, MOST)
    invalid = None if valid is not None else sizes.listed(choices, [c], MOST, fails=True)
    text = _joint_text(c, by)
    if valid:
        text += ": " + _examples(valid)
    elif invalid:
        text += ": not " + _examples(invalid)
    return Coupling(tuple(choices), text, Cause(c.why, c.address, c.use, (), c.span), valid, invalid)


def _examples(found: Sequence[tuple[int, ...]], count: int = 4) -> str:
    """The first sizes, those nearest to a square or a cube in front."""
    near = sorted(found, key=lambda size: (Fraction(max(size), min(size)), size))
    return ", ".join("×".join(map(str, size)) for size in near[:count]) + (" …" if len(found) > count else "")


def _joint_text(c: Constraint, by: Mapping[str, int]) -> str:
    """`H/16 · W/16 must be 196`."""
    size = c.size
    if not isinstance(size, Dim) or len(size.terms) != 1:
        return str(c)
    (atoms, factor) = size.terms[0]
    body = " · ".join(str(sized(Dim((((a,), 1),)), by)) for a in atoms)
    if c.kind == "equal" and size.constant % factor == 0:
        return f"{body} must be {-size.constant // factor}"
    if c.kind != "least":
        return str(c)
    if factor > 0:
        return f"{body} must be at least {-((size.constant - c.number) // factor)}"
    return f"{body} must be at most {(size.constant - c.number) // -factor}"
