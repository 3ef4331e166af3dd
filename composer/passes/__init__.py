"""Stage 4: Program -> Program. One file per pass; each says what it matches and what it returns, before and after.

Every pass is exact: the network computes the same function, with the same `state_dict`. Most leave `steps` alone and
only prepare what runs at evaluation while no gradients are recorded (`composer.prepared`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from composer.diagnostics import (
    BlueprintError,
    ComposerError,
    Diagnostic,
    PluginError,
    did_you_mean,
    listing,
    raised_at,
)
from composer.inference import Program, is_move
from composer.passes.activations import join_activations
from composer.passes.chunks import use_chunks
from composer.passes.common import share_common
from composer.passes.constants import keep_constants
from composer.passes.dead import remove_dead
from composer.passes.filters import keep_filters
from composer.passes.in_place import work_in_place
from composer.passes.instances import join_instances
from composer.passes.layout import hold_channels_last
from composer.passes.levels import fold_levels
from composer.passes.norms import fold_norms
from composer.passes.products import use_products
from composer.passes.scores import keep_scores
from composer.passes.splits import split_concats
from composer.passes.windows import use_windows
from composer.prepared import Preparing, fired


@dataclass(frozen=True)
class Pass:
    """A named rewrite of a program. One that `prepares` rewrites what runs at evaluation, after all that do not."""

    name: str
    run: Callable[[Program], Program]
    prepares: bool = False

    @property
    def summary(self) -> str:
        """The first line of what the pass says of itself."""
        said = sys.modules[self.run.__module__].__doc__ if self.run.__module__ in sys.modules else None
        return (said or self.run.__doc__ or "").strip().partition("\n")[0]


SHIPPED: tuple[Pass, ...] = (
    Pass("dead", remove_dead),
    Pass("common", share_common),
    Pass("levels", fold_levels, prepares=True),
    Pass("norms", fold_norms, prepares=True),
    Pass("filters", keep_filters, prepares=True),
    Pass("constants", keep_constants, prepares=True),
    Pass("windows", use_windows, prepares=True),
    Pass("scores", keep_scores, prepares=True),
    Pass("chunks", use_chunks, prepares=True),
    Pass("products", use_products, prepares=True),
    Pass("layout", hold_channels_last, prepares=True),
    Pass("splits", split_concats, prepares=True),
    Pass("activations", join_activations, prepares=True),
    Pass("instances", join_instances, prepares=True),
    Pass("in_place", work_in_place, prepares=True),
)


def in_order(extra: Iterable[Pass] = (), without: Iterable[str] = ()) -> tuple[Pass, ...]:
    """The passes that run: those shipped, those of plugins, and then those that prepare; a name in `without` that no
    pass has is a `BlueprintError`, `all` switches off every one."""
    off, every = set(without), (*SHIPPED, *extra)
    names = [p.name for p in every]
    unknown = next((n for n in without if n not in (*names, ALL)), None)
    if unknown is not None:
        text = f"there is no pass `{unknown}`{did_you_mean(unknown, names)}"
        raise BlueprintError(Diagnostic("BP105", text, notes=(f"there are {listing(names)}; `{ALL}` is every one",)))
    kept = [p for p in every if not off & {p.name, ALL}]
    return tuple(sorted(kept, key=lambda p: getattr(p, "prepares", False)))


ALL = "all"
"""Stands for every pass where passes are switched off."""


def optimize(program: Program, extra: Iterable[Pass] = (), without: Iterable[str] = ()) -> Program:
    """The program after every pass that is not switched off by name."""
    return _rewritten(program, in_order(tuple(extra), tuple(without)))


def staged(program: Program, extra: Iterable[Pass] = (), without: Iterable[str] = ()) -> tuple[Program, Preparing]:
    """The same in two: the program that owns every module, and what prepares it for evaluation once it is asked for.
    A pass of a plugin may fail, so that none of them is left for later."""
    passes = in_order(tuple(extra), tuple(without))
    now = max((k for k, p in enumerate(passes, 1) if p not in SHIPPED or not p.prepares), default=0)
    return _rewritten(program, passes[:now]), partial(_rewritten, passes=passes[now:])


@dataclass(frozen=True)
class Fired:
    """What a pass did: the addresses of the steps it rewrote; `on` is false where it is switched off."""

    name: str
    summary: str
    on: bool
    at: tuple[str, ...] = ()


def fired_at(program: Program, extra: Iterable[Pass] = (), without: Iterable[str] = ()) -> Iterator[Fired]:
    """Each pass in the order they run, with what it did to a program."""
    extra = tuple(extra)
    on = [p.name for p in in_order(extra, tuple(without))]
    for step in in_order(extra):
        before, kept = program.steps, step.name in on
        program = _run(step, program) if kept else program
        left = {id(s) for s in program.steps}
        prepared = [s.address for name, s in fired(program) if name == step.name] if step.prepares else []
        at = dict.fromkeys([*(s.address for s in before if id(s) not in left and not is_move(s.address)), *prepared])
        yield Fired(step.name, step.summary, kept, tuple(at) if kept else ())


def _rewritten(program: Program, passes: Iterable[Pass]) -> Program:
    for step in passes:
        program = _run(step, program)
    others = {given: _rewritten(p, passes) for given, p in program.alternatives.items()}
    return replace(program, alternatives=others) if others else program


def _run(step: Pass, program: Program) -> Program:
    """A pass on a program. The fault of one that Composer does not bring is said to be its own."""
    if step in SHIPPED:
        return step.run(program)
    try:
        result = step.run(program)
        if not isinstance(result, Program):
            raise TypeError(f"it returned {result!r:.60}, which is no program")
    except ComposerError:
        raise
    except Exception as fault:
        text = f"the pass `{step.name}` of a plugin failed: {type(fault).__name__}: {fault}"
        way = f"leave it out: `--without {step.name}`, in Python `build(without={step.name!r})`"
        place = raised_at(fault, step.run.__module__)
        raise PluginError(Diagnostic("BP610", text, notes=(f"at {place}",), help=(way, "tell its author"))) from fault
    return result


__all__ = ["ALL", "SHIPPED", "Fired", "Pass", "fired_at", "in_order", "optimize", "staged"]
