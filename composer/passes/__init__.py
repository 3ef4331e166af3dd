"""Stage 4: Program -> Program. One file per pass; each says what it matches and what it returns, before and after.

Every pass is exact: the network computes the same function, with the same `state_dict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from composer.inference import Program
from composer.passes.dead import remove_dead


@dataclass(frozen=True)
class Pass:
    """A named rewrite of a program."""

    name: str
    run: Callable[[Program], Program]


SHIPPED: tuple[Pass, ...] = (Pass("dead", remove_dead),)


def optimize(program: Program, extra: Iterable[Pass] = (), without: Iterable[str] = ()) -> Program:
    """The program after every pass that is not switched off by name."""
    off, extra = set(without), tuple(extra)
    for step in (*SHIPPED, *extra):
        if step.name not in off:
            program = step.run(program)
    others = {given: optimize(p, extra, off) for given, p in program.alternatives.items()}
    return replace(program, alternatives=others) if others else program


__all__ = ["SHIPPED", "Pass", "optimize"]
