"""`pad: auto` and `pad: crop` in an ejected file: the sizes it runs at, its inputs brought to them, its outputs back.

fed = {"H": image.shape[2], "W": image.shape[3]}
runs = nearest(fed, SIZES, up=True)
image = fitted(image, ("H", "W"), fed, runs)
…
logits = cropped(logits, {2: ("H", Fraction(1)), 3: ("W", Fraction(1))}, fed, runs)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from composer.dims import symbols_of
from composer.eject.expressions import written
from composer.eject.layout import Bracketed, Text, laid
from composer.eject.recording import UnsaidError
from composer.eject.sizing import axis_name, python
from composer.fitting import share
from composer.inference import Program, ProgramInput
from composer.sizes import Constraint, coupled

NAMES = ("fed", "runs", "SIZES")
"""What it calls things in the file."""


@dataclass(frozen=True)
class Padding:
    """How the inputs of a program are padded."""

    program: Program
    groups: tuple[tuple[tuple[str, ...], tuple[Constraint, ...]], ...]
    up: bool

    def before(self, names: Sequence[str]) -> Iterator[tuple[str, Text, str]]:
        """Target, text and condition of the statements in front; `names` are those of the inputs."""
        places: dict[str, str] = {}
        for spec, name in zip(self.program.inputs, names, strict=True):
            for k, axis in enumerate(spec.axes, 2) if not spec.optional else ():
                places.setdefault(axis, f"{written(axis)}: {name}.shape[{k}]")
        yield "fed", Bracketed("{", tuple(places.values()), "}"), ""
        yield "runs", f"nearest(fed, SIZES, up={self.up})", ""
        for spec, name in zip(self.program.inputs, names, strict=True):
            if spec.axes:
                reflect = ("reflect=True",) if spec.fill != "zero" else ()
                text = Bracketed("fitted(", (name, written(spec.axes), "fed", "runs", *reflect), ")")
                yield name, text, f"{name} is not None" if spec.optional else ""

    def after(self, value: int, said: str) -> Text | None:
        """What becomes of an output; None where nothing does."""
        type_ = self.program.values[value].type
        if type_.kind != "map":
            return None
        shares = []
        for k, size in enumerate(type_.grid, 2):
            names = symbols_of(size)
            if len(names) == 1:
                (name,) = names
                shares.append(f"{k}: ({written(name)}, {_fraction(share(size, name))})")
        return Bracketed("cropped(", (said, Bracketed("{", tuple(shares), "}"), "fed", "runs"), ")") if shares else None

    def table(self) -> str:
        """The constant `SIZES`."""
        rows = []
        for axes, constraints in self.groups:
            names = {a: axis_name(a) for a in axes}
            asked = (f"lambda {', '.join(names.values())}: {_asked(c, names)}" for c in constraints)
            rows.append(Bracketed("(", (written(axes), Bracketed("[", tuple(asked), "]")), ")"))
        lines = laid("SIZES = ", Bracketed("[", tuple(rows), "]"))
        return "\n".join([*lines, '"""Axes that belong together, and what their sizes must keep."""'])


def padding(program: Program, everything: Program) -> Padding | None:
    """How a program pads, if it does. Raises `UnsaidError` where no one rule says it."""
    modes = {a: i.pad for i in program.inputs for a in i.axes}
    if all(i.pad == "error" for i in program.inputs):
        return None
    known = [c for c in everything.constraints if c.symbols]
    if set(_texts(known)) != set(_texts(c for c in program.constraints if c.symbols)):
        raise UnsaidError("its valid sizes depend on which optional inputs are given")
    if {a for i in program.inputs if i.optional for a in i.axes} - _axes(program.inputs):
        raise UnsaidError("an optional input that is padded has an axis of its own")
    groups = [(axes, tuple(c for c in known if c.symbols & set(axes))) for axes in coupled(known, modes)]
    if any(modes[a] == "error" for axes, asked in groups if asked for a in axes):
        raise UnsaidError("some of its inputs are padded and others are not")
    return Padding(everything, tuple(g for g in groups if g[1]), "auto" in modes.values())


def _texts(constraints: Iterator[Constraint] | list[Constraint]) -> Iterator[str]:
    return (f"{c.kind} {c.size} {c.number}" for c in constraints)


def _axes(inputs: Sequence[ProgramInput]) -> set[str]:
    return {a for i in inputs if not i.optional for a in i.axes}


def _asked(constraint: Constraint, names: dict[str, str]) -> str:
    size = python(constraint.size, names)
    inner = size if size.isidentifier() else f"({size})"
    if constraint.kind == "multiple":
        return f"{inner} % {constraint.number} == 0"
    return f"{size} == 0" if constraint.kind == "equal" else f"{size} >= {constraint.number}"


def _fraction(value: Fraction) -> str:
    return f"Fraction({value.numerator}{f', {value.denominator}' * (value.denominator != 1)})"


__all__ = ["NAMES", "Padding", "padding"]
