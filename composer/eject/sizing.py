"""Sizes as Python: `height // 16` for H/16."""

from __future__ import annotations

import re
from collections.abc import Mapping

from composer.dims import Atom, Floor, Size, Symbol

AXES = {"D": "depth", "H": "height", "W": "width", "L": "length"}


def axis_name(axis: str) -> str:
    """What an axis of an input is called."""
    return AXES.get(axis) or re.sub(r"\W", "_", axis.lower())


def python(size: Size, names: Mapping[str, str]) -> str:
    """A size, its axes by these names."""
    if isinstance(size, int):
        return str(size)
    text = ""
    for monomial, coefficient in size.terms:
        several = len(monomial) > 1 or coefficient != 1
        words = [_atom(atom, names, several) for atom in monomial]
        words = [str(abs(coefficient))] * (abs(coefficient) != 1) + words
        sign = "-" if coefficient < 0 else "+"
        text += f" {sign} {' * '.join(words)}" if text else f"{'-' * (coefficient < 0)}{' * '.join(words)}"
    if size.constant:
        text += f" {'-' if size.constant < 0 else '+'} {abs(size.constant)}"
    return text


def _atom(atom: Atom, names: Mapping[str, str], inside: bool) -> str:
    if isinstance(atom, Symbol):
        return names[atom.name]
    if isinstance(atom, Floor):
        inner = python(atom.inner, names)
        inner = inner if atom.inner.is_atom and inner.isidentifier() else f"({inner})"
        return f"({inner} // {atom.by})" if inside else f"{inner} // {atom.by}"
    return f"{'max' if atom.largest else 'min'}({', '.join(python(i, names) for i in atom.items)})"
