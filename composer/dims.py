"""Sizes that are not known yet: polynomials over the input's axes, closed under what shape rules do.

A rule is written once in plain arithmetic and runs on ints, on NumPy arrays (to enumerate valid sizes) and on
`Dim`s. Two identities keep the expressions small: floor(floor(n / a) / b) = floor(n / (a b)) for whole a, b > 0, and
whole parts leave a floor. Nothing is solved here; valid sizes are found by enumeration, which is exact and fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cached_property, reduce
from math import lcm
from typing import Any, Union

from composer.frozen import dataclass

Size = Union[int, "Dim"]


@dataclass(frozen=True)
class Symbol:
    """An axis of an input, such as `H`."""

    name: str

    def at(self, env: Mapping[str, Any]) -> Any:
        return env[self.name]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Floor:
    """floor(inner / by)."""

    inner: Dim
    by: int

    def at(self, env: Mapping[str, Any]) -> Any:
        return self.inner.at(env) // self.by

    def __str__(self) -> str:
        inner = self.inner
        if len(inner.terms) == 1 and not inner.constant:
            return f"{inner}/{self.by}" if inner.is_atom else f"({inner})/{self.by}"
        if len(inner.terms) == 1 and inner.constant == self.by - 1 and inner.terms[0][1] == 1:
            return f"⌈{inner - inner.constant}/{self.by}⌉"
        return f"({inner})/{self.by}"


@dataclass(frozen=True)
class Extremum:
    """The smallest or largest of several sizes."""

    largest: bool
    items: tuple[Size, ...]

    def at(self, env: Mapping[str, Any]) -> Any:
        sizes = [at(item, env) for item in self.items]
        if not any(hasattr(s, "shape") for s in sizes):
            return max(sizes) if self.largest else min(sizes)
        import numpy

        choose = numpy.maximum if self.largest else numpy.minimum
        return reduce(choose, sizes)

    def __str__(self) -> str:
        return f"{'max' if self.largest else 'min'}({', '.join(map(str, self.items))})"


Atom = Symbol | Floor | Extremum
Monomial = tuple[Atom, ...]


@dataclass(frozen=True)
class Dim:
    """A polynomial with whole coefficients: `terms` are (product of atoms, coefficient), plus a constant."""

    terms: tuple[tuple[Monomial, int], ...]
    constant: int = 0

    @staticmethod
    def symbol(name: str) -> Dim:
        return Dim((((Symbol(name),), 1),))

    @property
    def is_atom(self) -> bool:
        return len(self.terms) == 1 and not self.constant and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1

    def at(self, env: Mapping[str, Any]) -> Any:
        """The value where `env` gives every symbol: an int, or an array of ints."""
        total: Any = self.constant
        for monomial, coefficient in self.terms:
            term: Any = coefficient
            for atom in monomial:  # no generator, which torch.compile cannot follow into a product
                term = term * atom.at(env)
            total = total + term
        return total

    @cached_property
    def symbols(self) -> frozenset[str]:
        return frozenset(s for monomial, _ in self.terms for atom in monomial for s in _symbols(atom))

    def __add__(self, other: Size) -> Size:
        if isinstance(other, int):
            return Dim(self.terms, self.constant + other) if other else self
        if not isinstance(other, Dim):
            return NotImplemented
        return _make([*self.terms, *other.terms], self.constant + other.constant)

    __radd__ = __add__

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + (-other)

    def __rsub__(self, other: Size) -> Size:
        return (-self) + other

    def __mul__(self, other: Size) -> Size:
        if isinstance(other, int):
            return _make([(m, c * other) for m, c in self.terms], self.constant * other)
        if not isinstance(other, Dim):
            return NotImplemented
        left, right = [*self.terms, ((), self.constant)], [*other.terms, ((), other.constant)]
        return _make([(m + n, c * d) for m, c in left for n, d in right], 0)

    __rmul__ = __mul__

    def __floordiv__(self, by: int) -> Size:
        if not isinstance(by, int):
            return NotImplemented
        if by <= 0:
            raise ZeroDivisionError(f"a size is divided by {by}")
        whole = [(m, c // by) for m, c in self.terms]
        rest = _make([(m, c % by) for m, c in self.terms], self.constant % by)
        return _make(whole, self.constant // by) + _floor(rest, by)

    def __mod__(self, by: int) -> Size:
        return self - (self // by) * by

    def __str__(self) -> str:
        parts = [_term(m, c) for m, c in self.terms]
        if self.constant:
            parts.append(str(self.constant))
        return " + ".join(parts).replace("+ -", "- ") if parts else "0"

    __repr__ = __str__


def _floor(rest: Size, by: int) -> Size:
    if isinstance(rest, int):
        return rest // by
    if by == 1:
        return rest
    if len(rest.terms) == 1 and rest.terms[0][1] == 1 and len(rest.terms[0][0]) == 1:
        atom = rest.terms[0][0][0]
        if isinstance(atom, Floor):
            shifted = atom.inner + atom.by * rest.constant
            return shifted // (atom.by * by)
    return Dim((((Floor(rest, by),), 1),))


def _make(terms: Iterable[tuple[Monomial, int]], constant: int) -> Size:
    """Like terms together, in a fixed order; a constant becomes an int again."""
    summed: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        key = tuple(sorted(monomial, key=str)) if len(monomial) > 1 else monomial
        summed[key] = summed.get(key, 0) + coefficient
    constant += summed.pop((), 0)
    kept = [(m, c) for m, c in summed.items() if c]
    if len(kept) > 1:
        kept.sort(key=lambda term: str(term[0]))
    return Dim(tuple(kept), constant) if kept else constant


def _term(monomial: Monomial, coefficient: int) -> str:
    body = "·".join(str(atom) for atom in monomial)
    return body if coefficient == 1 else f"-{body}" if coefficient == -1 else f"{coefficient}·{body}"


def _symbols(atom: Atom) -> Iterable[str]:
    if isinstance(atom, Symbol):
        return (atom.name,)
    if isinstance(atom, Floor):
        return atom.inner.symbols
    return [s for item in atom.items for s in symbols_of(item)]


def symbols_of(size: Size) -> frozenset[str]:
    """The input axes that a size depends on."""
    return size.symbols if isinstance(size, Dim) else frozenset()


def at(size: Size, env: Mapping[str, Any]) -> Any:
    """A size where `env` gives every symbol."""
    return size.at(env) if isinstance(size, Dim) else size


def bounds(size: Size, box: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Between what a size lies where each symbol lies within its pair of numbers: sound, not always tight."""
    if isinstance(size, int):
        return size, size
    low = high = size.constant
    for monomial, coefficient in size.terms:
        ends = reduce(_times, (_atom_bounds(atom, box) for atom in monomial), (coefficient, coefficient))
        low, high = low + ends[0], high + ends[1]
    return low, high


def _atom_bounds(atom: Atom, box: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    if isinstance(atom, Symbol):
        return box[atom.name]
    if isinstance(atom, Floor):
        low, high = bounds(atom.inner, box)
        return low // atom.by, high // atom.by
    choose = max if atom.largest else min
    ends = [bounds(item, box) for item in atom.items]
    return choose(low for low, _ in ends), choose(high for _, high in ends)


def _times(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def period(size: Size, name: str) -> int | None:
    """A step of one symbol by which the size always grows by the same amount; None where there is none."""
    found = _line(size, name)
    return found[0] if found else None


def slope(size: Size, name: str) -> Fraction | None:
    """How much a size grows with one symbol in the long run, the only symbol in it; None where that is no constant."""
    if symbols_of(size) - {name}:
        return None
    found = _line(size, name)
    return found[1] if found else None


def _line(size: Size, name: str) -> tuple[int, Fraction] | None:
    """Period and slope along a symbol; the slope counts other symbols as ones."""
    if name not in symbols_of(size):
        return 1, Fraction(0)
    assert isinstance(size, Dim)
    step, growth = 1, Fraction(0)
    for monomial, coefficient in size.terms:
        mine = [_atom_line(a, name) for a in monomial if name in _symbols(a)]
        if len(mine) > 1 or None in mine:
            return None
        for line in mine:
            assert line is not None
            step, growth = lcm(step, line[0]), growth + coefficient * line[1]
    return step, growth


def _atom_line(atom: Atom, name: str) -> tuple[int, Fraction] | None:
    if isinstance(atom, Symbol):
        return 1, Fraction(1)
    inner = _line(atom.inner, name) if isinstance(atom, Floor) and atom.inner.symbols == {name} else None
    return (inner[0] * atom.by, inner[1] / atom.by) if inner and isinstance(atom, Floor) else None


def ceil_div(size: Size, by: int) -> Size:
    """size / by, rounded up."""
    return (size + (by - 1)) // by


def minimum(*sizes: Size) -> Size:
    """The smallest of several sizes."""
    return _extremum(False, sizes)


def maximum(*sizes: Size) -> Size:
    """The largest of several sizes."""
    return _extremum(True, sizes)


def _extremum(largest: bool, sizes: tuple[Size, ...]) -> Size:
    unique = tuple(dict.fromkeys(sizes))
    known = [s for s in unique if isinstance(s, int)]
    open_ = [s for s in unique if not isinstance(s, int)]
    if not open_:
        return max(known) if largest else min(known)
    items: tuple[Size, ...] = (*open_, *([max(known) if largest else min(known)] if known else []))
    return items[0] if len(items) == 1 else Dim((((Extremum(largest, items),), 1),))


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes, such as the cells of a grid."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result
