"""Program + sizes + an amount of memory -> MemoryPlan: what is computed again, and what is never whole.

A candidate is a network with the plan in it, and the cost model runs that network on tensors without numbers; an
estimate only says which candidates are tried first (`composer.estimates`): the fastest of those that should fit.

    evaluation   large maps strip by strip, with what is light computed inside; and of the largest maps, down to some
                 size, convolutions as well: where that computes them once, or at any rate; in strips of several heights
    training     nodes whose inside is computed again in the backward pass: as few as are enough, at the level of the
                 graph where that multiplies least
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from composer.cost import DTYPES, Shapes, dtype_of, measure, with_flops
from composer.diagnostics import BlueprintError, Diagnostic
from composer.dims import at
from composer.estimates import Estimate, Known
from composer.figures import Cost, size
from composer.inference import Program
from composer.liveness import ids_of
from composer.module import build
from composer.plans import MemoryPlan, worst
from composer.prepared import Prepared, at_evaluation
from composer.segments import owners
from composer.streaming import dims_of, nodes_of
from composer.sweeps import Extents, Flow, Schedule, Streams

PIECES = (4, 8, 16, 32, 64, 128)
"""A strip of the largest map in a sweep is this part of the memory: fewer strips overlap less."""
SMALL = 64
"""Maps below this part of the memory are left alone."""
LEVELS = 5
"""Sizes of maps whose convolutions may be computed in sweeps, and more than once."""
TRIES = 6
"""Candidates that the cost model runs."""
JOINING = ("windows", "scores", "chunks", "layout", "splits", "instances")
"""Passes that join steps into one which needs the whole map, or keep what takes more than the map."""
GROUPING = ("windows", "chunks")
"""Those of them whose step takes some windows, or some tokens, of the map after others, so that what is wider than the
map is never whole: without them attention in windows has all its scores at once, with them the rest is in strips."""

KEEPING = ("norms", "filters")
"""Passes that keep weights a second time, as evaluation uses them."""
MUCH = 16
"""What is kept beside the weights counts from this part of the peak on."""


def planned(
    program: Program,
    shapes: Shapes,
    budget: int,
    *,
    apart: Callable[[Sequence[str]], Program] | None = None,
    training: bool = False,
    **options: Any,
) -> MemoryPlan:
    """The plan for a pass over inputs of these shapes; the best there is where none fits. `apart` makes the program
    without some passes, which evaluation is planned on: those of `JOINING`, and first, where they do anything, without
    the others alone than those of `GROUPING`; at last, where they keep much, without those of `KEEPING` besides.
    `options` are those of `measure`; FLOPs are counted in any case, because candidates are told apart by them."""
    options = {**options, "training": training, "flops": False}
    before = with_flops(measure(program, shapes, **options), program)
    if before.peak.bytes <= budget:
        return MemoryPlan(budget, before, before)
    if training or apart is None:
        search = _Search(program, shapes, budget, options, before)
        return search.checkpointed() if training else search.streamed()
    plans: list[MemoryPlan] = []
    for without in (tuple(p for p in JOINING if p not in GROUPING), JOINING, (*JOINING, *KEEPING)):
        if {*KEEPING} <= {*without} and MUCH * min(_kept(p.after) for p in plans) < budget:
            continue
        other = apart(without)
        grouped = grouped_in(other)
        if not {*GROUPING} & {*without} and not grouped:
            continue
        plan = _apart(other, shapes, budget, options)
        plans.append(replace(plan, before=before, without=without, grouped=grouped))
        if plan.fits:
            return plans[-1]
    best = min(plans, key=lambda p: p.after.peak.bytes)
    return best if best.after.peak.bytes < before.peak.bytes else MemoryPlan(budget, before, before)


def _kept(cost: Cost) -> int:
    """Bytes at the peak that were derived from weights."""
    return cost.peak.parts.get("prepared", 0)


def _apart(program: Program, shapes: Shapes, budget: int, options: Mapping[str, Any]) -> MemoryPlan:
    """The plan of evaluation for a program whose steps are apart; none is needed where that fits already."""
    alone = with_flops(measure(program, shapes, **options), program)
    if alone.peak.bytes <= budget:
        return MemoryPlan(budget, alone, alone)
    return _Search(program, shapes, budget, options, alone).streamed()


def grouped_in(program: Program) -> tuple[str, ...]:
    """Addresses of the steps that passes of `GROUPING` have joined."""
    steps = at_evaluation(program)
    return tuple(s.address for s in steps if isinstance(s, Prepared) and {*s.by} & {*GROUPING})


def refused(plan: MemoryPlan, help: Sequence[str], way: str, *notes: str) -> BlueprintError:
    """BP706: even the best plan needs more."""
    what = f"{'training' if plan.before.training else 'running'} `{plan.before.name}`"
    peaks = [size(c.peak.bytes) for c in (plan.before, plan.after)]
    best = f"the best plan needs {peaks[1]}, without one it is {peaks[0]}"
    needs = best if plan.chosen else f"it needs {peaks[0]}, and no plan needs less"
    text = f"{what} does not fit into {size(plan.budget)}: {needs}"
    return BlueprintError(Diagnostic("BP706", text, notes=(*notes, *worst(plan)), help=(*help, way)))


def extents_of(
    program: Program, shapes: Shapes, axis: int, dtype: str = "float32"
) -> tuple[Flow, Extents, dict[int, int]]:
    """The plan of evaluation for these inputs, as sweeps see it: its flow, what its values measure, and the dimension
    of their tensors that is cut where maps are cut along an axis of the grid."""
    given = frozenset(i.name for i in program.inputs if i.optional and i.name in shapes)
    run = program.alternatives.get(given, program)
    flow = Flow(
        nodes_of(run, build(program, "meta").at_evaluation(given).calls, axis),
        {i for o in run.outputs if not o.training for i in ids_of(o.ids)},
    )
    env, dims = dict(run.built), dims_of(run, axis)
    for spec in run.inputs:
        env |= dict(zip(spec.axes, shapes.get(spec.name, ())[2:], strict=False))
    batch = next((s[0] for s in shapes.values()), 1)
    itemsize, bytes_of, rows = DTYPES[dtype_of(dtype)].itemsize, {}, {}
    for value in run.values:
        type_ = value.type.at(env)
        cells = 1 if type_.kind == "vector" else int(at(type_.length, {}))
        bytes_of[value.id] = batch * type_.channels * cells * itemsize
        if value.id in dims:
            rows[value.id] = cells if value.layout == "flat" else int(at(type_.grid[axis], {}))
    return flow, Extents(bytes_of, rows), dims


def candidate(schedule: Schedule, given: frozenset[str], axis: int, dims: Mapping[int, int]) -> Streams:
    """What a network runs a schedule by."""
    return Streams(given, axis, tuple(schedule.flow.nodes), schedule.actions, dims, schedule.extents.rows)


@dataclass(frozen=True)
class _Search:
    """One search: candidates are measured, the cheapest that fits is taken."""

    program: Program
    shapes: Shapes
    budget: int
    options: Mapping[str, Any]
    before: Cost

    def _cost(self, **more: Any) -> Cost:
        """The cost of a candidate; its rows have the shapes of whole maps."""
        found = measure(self.program, self.shapes, **{**self.options, **more})
        whole = {r.address: r.shape for r in self.before.rows}
        return replace(found, rows=tuple(replace(r, shape=whole.get(r.address, r.shape)) for r in found.rows))

    # --- evaluation ---

    def streamed(self) -> MemoryPlan:
        best: tuple[Cost, Streams] | None = None
        for schedule in self._in_order():
            streams = candidate(schedule, self._given, self._axis, self._known[2])
            found = self._cost(streams=streams)
            if best is None or found.peak.bytes < best[0].peak.bytes:
                best = found, streams
            if found.peak.bytes <= self.budget:
                break
        if best is None or best[0].peak.bytes >= self.before.peak.bytes:
            return MemoryPlan(self.budget, self.before, self.before)
        return MemoryPlan(self.budget, self.before, with_flops(best[0], self.program, best[1]), best[1])

    def _in_order(self) -> list[Schedule]:
        """The candidates to try: the fastest of those that should fit, then the one that needs least; where few should
        fit, which an estimate may be wrong about, those that need least of each choice of values that are not whole."""
        rows = self.before.rows
        parts = self.before.peak.parts
        base = sum(parts.get(k, 0) for k in ("parameters", "buffers", "inputs", "prepared"))
        known = Known({r.address: r.flops for r in rows}, {r.address: r.activations for r in rows}, base)
        found = [(Estimate.of(s, known), s) for s in self._candidates()]
        fitting = sorted((f for f in found if f[0].peak <= self.budget), key=lambda f: f[0].work)
        spare = sorted((f for f in found if f[0].peak > self.budget), key=lambda f: f[0].peak)
        tried = fitting[: TRIES - 1]
        smallest = {s.virtual: (e, s) for e, s in reversed(spare)}
        tried += sorted(smallest.values(), key=lambda f: f[0].peak)[: TRIES - len(tried)]
        least = [f for f in sorted(fitting, key=lambda f: f[0].peak)[:1] if f not in tried]
        return [s for _, s in tried + least]

    def _candidates(self) -> Iterator[Schedule]:
        flow, extents, _ = self._known
        streamed = flow.streamed(extents, self.budget // SMALL)
        if not streamed:
            return
        heavy = {n.makes[0] for n in flow.nodes if n.place in streamed and n.heavy}
        sizes = [None, *sorted({extents.bytes[v] for v in heavy}, reverse=True)[:LEVELS]]
        above = [{v for v in heavy if least is not None and extents.bytes[v] >= least} for least in sizes]
        sets = dict.fromkeys(
            flow.virtual(streamed, once, again, meetings=meetings)
            for meetings in (True, False)
            for once in above
            for again in above
            if again <= once
        )
        for virtual in sets:
            yield from (Schedule(flow, streamed, virtual, extents, self.budget // n) for n in PIECES)

    @cached_property
    def _given(self) -> frozenset[str]:
        return frozenset(i.name for i in self.program.inputs if i.optional and i.name in self.shapes)

    @cached_property
    def _axis(self) -> int:
        """The longest of the first input; of two, the outer one."""
        grid = next((self.shapes[i.name][2:] for i in self.program.inputs if i.name in self.shapes), ())
        return max(range(len(grid)), key=lambda k: (grid[k], -k), default=0)

    @cached_property
    def _known(self) -> tuple[Flow, Extents, dict[int, int]]:
        return extents_of(self.program, self.shapes, self._axis, self.options.get("dtype", "float32"))

    # --- training ---

    def checkpointed(self) -> MemoryPlan:
        found = [p for units in self._levels() if (p := self._fewest(units)) is not None]
        fitting = [p.with_(with_flops(p.after, self.program)) for p in found if p.fits]
        if fitting:
            return min(fitting, key=lambda p: (p.after.backward_flops, p.after.peak.bytes))
        if not found:
            return MemoryPlan(self.budget, self.before, self.before)
        best = min(found, key=lambda p: p.after.peak.bytes)
        return best.with_(with_flops(best.after, self.program))

    def _levels(self) -> Iterator[list[str]]:
        """Nodes at each depth of the graph, those that keep most first."""
        saved = [(r.address, r.saved) for r in self.before.rows if r.saved]
        deepest = max((len(list(owners(a))) for a, _ in saved), default=0)
        seen: set[tuple[str, ...]] = set()
        for depth in range(1, deepest + 1):
            sums = Counter[str]()
            for address, count in saved:
                sums[list(owners(address))[:depth][-1]] += count
            units = [a for a, _ in sums.most_common()]
            if tuple(units) not in seen:
                seen.add(tuple(units))
                yield units

    def _fewest(self, units: Sequence[str]) -> MemoryPlan | None:
        """As few of these nodes as are enough; all of them where that is too little."""
        kept = tuple(self.options.get("checkpoint", ()))

        @cache
        def cost(count: int) -> Cost:
            return self._cost(checkpoint=(*kept, *units[:count]))

        def fits(count: int) -> bool:
            return cost(count).peak.bytes <= self.budget

        count = _first(fits, len(units)) if fits(len(units)) else len(units)
        after = cost(count)
        return MemoryPlan(self.budget, self.before, after) if after.peak.bytes < self.before.peak.bytes else None


def _first(holds: Callable[[int], bool], high: int) -> int:
    """The smallest number up to `high`, for which it holds, if it holds for all from there on."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
