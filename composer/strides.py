"""Types as people read them: `H/4` where the rules say that H is a multiple of four.

A rule computes floors, because sizes are whole numbers. What the constraints ask of an input (H a multiple of m) makes
most floors exact: with H = m·T they vanish, and what is left is the grid as the input over a stride.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import gcd, lcm
from typing import Any

from composer.dims import Dim, Extremum, Floor, Size, Symbol, maximum, minimum
from composer.sizes import Constraint
from composer.types import Type


def multiples(constraints: Iterable[Constraint]) -> dict[str, int]:
    """For each axis a number that all its valid sizes are multiples of."""
    found: dict[str, int] = {}
    for constraint in constraints:
        if len(constraint.symbols) == 1 and isinstance(constraint.size, Dim):
            (name,) = constraint.symbols
            found[name] = found.get(name, 1) * _more(constraint, name, found.get(name, 1))
    return found


def _more(constraint: Constraint, name: str, known: int) -> int:
    """The factor that a constraint adds to what is known of an axis."""
    size = scaled(constraint.size, {name: known})
    if (
        constraint.kind == "multiple"
        and isinstance(size, Dim)
        and _is_linear(size)
        and size.constant % constraint.number == 0
    ):
        return constraint.number // gcd(size.terms[0][1], constraint.number)
    if constraint.kind == "equal" and isinstance(size, Dim):
        factor = lcm(1, *(a.by for m, _ in size.terms for a in m if isinstance(a, Floor)))
        return factor if scaled(constraint.size, {name: known * factor}) == 0 else 1
    return 1


def _is_linear(size: Dim) -> bool:
    return len(size.terms) == 1 and len(size.terms[0][0]) == 1 and isinstance(size.terms[0][0][0], Symbol)


def scaled(size: Size, by: Mapping[str, int]) -> Size:
    """The size with each symbol S read as by[S]·S."""
    if isinstance(size, int):
        return size
    total: Size = size.constant
    for monomial, coefficient in size.terms:
        product: Size = coefficient
        for atom in monomial:
            product = product * _atom(atom, by)
        total = total + product
    return total


def _atom(atom: Any, by: Mapping[str, int]) -> Size:
    if isinstance(atom, Floor):
        return scaled(atom.inner, by) // atom.by
    if isinstance(atom, Extremum):
        return (maximum if atom.largest else minimum)(*(scaled(i, by) for i in atom.items))
    return Dim.symbol(atom.name) * by.get(atom.name, 1)


def readable(type_: Any, by: Mapping[str, int]) -> str:
    """The type with its sizes as the input over a stride, or the types of several outputs by their names."""
    if isinstance(type_, Mapping):
        return f"{{{', '.join(f'{name} {readable(t, by)}' for name, t in type_.items())}}}"
    if not isinstance(type_, Type):
        return str(type_)
    shown = type_.with_(
        grid=tuple(sized(n, by) for n in type_.grid),
        grids=tuple(tuple(sized(n, by) for n in g) for g in type_.grids),
    )
    return str(shown)


def sized(size: Size, by: Mapping[str, int]) -> Any:
    """`H/4` for what is H/4 at every valid size, else the size as it is."""
    exact = scaled(size, by)
    if not isinstance(exact, Dim) or not _is_linear(exact):
        return size
    (atom,), coefficient = exact.terms[0]
    share = Fraction(coefficient, by.get(str(atom), 1))
    body = f"{atom}" if share.numerator == 1 else f"{share.numerator}·{atom}"
    body += f"/{share.denominator}" if share.denominator > 1 else ""
    return _Shown(body + (f" {'+' if exact.constant > 0 else '-'} {abs(exact.constant)}" if exact.constant else ""))


class _Shown(str):
    """A size that is already text."""

    __slots__ = ()
