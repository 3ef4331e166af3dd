"""Stage 4: Program -> Program. One file per pass; each says what it matches and what it returns, before and after.

Every pass is exact: the network computes the same function, with the same `state_dict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from composer.diagnostics import ComposerError, Diagnostic, PluginError
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
            program = step.run(program) if step in SHIPPED else _plugins(step, program)
    others = {given: optimize(p, extra, off) for given, p in program.alternatives.items()}
    return replace(program, alternatives=others) if others else program


def _plugins(step: Pass, program: Program) -> Program:
    """A pass that Composer does not bring: its fault is said to be its own."""
    try:
        result = step.run(program)
        if not isinstance(result, Program):
            raise TypeError(f"it returned {result!r:.60}, which is no program")
    except ComposerError:
        raise
    except Exception as fault:
        text = f"the pass `{step.name}` of a plugin failed: {type(fault).__name__}: {fault}"
        help = (f"switch its plugin off, or tell its author; `{step.name}` may be left out by name",)
        raise PluginError(Diagnostic("BP610", text, program.graph.blueprint.span, help=help)) from fault
    return result


__all__ = ["SHIPPED", "Pass", "optimize"]
