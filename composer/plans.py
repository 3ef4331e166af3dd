"""What is done so that a network fits into an amount of memory, as plain values and in words. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from composer.figures import Cost, largest, number, size
from composer.sweeps import Alone, Node, Streams, Sweep
from composer.taps import starred


@dataclass(frozen=True)
class MemoryPlan:
    """How a network runs within `budget` bytes, by the cost model.

    before, after  what a pass costs as it is, and with the plan: `after.checkpoint` are nodes that training computes
                   again, `streams` the sweeps of evaluation
    without        passes that the network is built without, as what they join cannot be cut into strips
    grouped        addresses of steps, such as attention in windows, that take some of their groups after others
    """

    budget: int
    before: Cost
    after: Cost
    streams: Streams | None = None
    without: tuple[str, ...] = ()
    grouped: tuple[str, ...] = ()

    @property
    def chosen(self) -> bool:
        """Whether anything is done."""
        return self.streams is not None or bool(self.checkpoint) or bool(self.without)

    @property
    def fits(self) -> bool:
        return self.after.peak.bytes <= self.budget

    def with_(self, after: Cost) -> MemoryPlan:
        """The same plan with more figures."""
        return replace(self, after=after)

    @property
    def checkpoint(self) -> tuple[str, ...]:
        """Addresses of nodes that the plan adds to those checkpointed already."""
        return tuple(a for a in self.after.checkpoint if a not in self.before.checkpoint)

    def lines(self) -> list[str]:
        """The plan in words: peak and FLOPs before and after, and every choice."""
        return [*self._totals(), *self._choices()]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _totals(self) -> Iterator[str]:
        shapes = ", ".join(f"{n} ({', '.join(map(str, s))})" for n, s in self.before.shapes.items())
        mode = "training" if self.before.training else "inference"
        yield f"plan of {self.before.name} for {size(self.budget)}: {shapes}, {self.before.dtype}, {mode}"
        peaks = [size(c.peak.bytes) for c in (self.before, self.after)]
        if not self.chosen:
            yield f"  peak   {peaks[0]}: nothing has to be done" if self.fits else f"  peak   {peaks[0]}"
            return
        yield f"  peak   {peaks[0]} -> {peaks[1]} at {self.after.peak.address}"
        flops = [c.flops + c.backward_flops for c in (self.before, self.after)]
        if all(flops):
            yield f"  FLOPs  {number(flops[0])} -> {number(flops[1])}, {flops[1] / flops[0]:.2f} times as many"

    def _choices(self) -> Iterator[str]:
        if self.checkpoint:
            yield f"  computed again in the backward pass: {len(self.checkpoint)} nodes"
            yield from (f"    {address}" for address in self.checkpoint)
        if self.without:
            yield f"  without the passes {', '.join(self.without)}"
        if self.grouped:
            yield f"  some windows or tokens after others: {len(self.grouped)} steps"
            yield from (f"    {address}" for address in starred(self.grouped))
        if self.streams is not None:
            yield from self._sweeps(self.streams)

    def _sweeps(self, streams: Streams) -> Iterator[str]:
        sweeps = [a for a in streams.actions if isinstance(a, Sweep)]
        alone = sum(isinstance(a, Alone) for a in streams.actions)
        yield f"  {len(sweeps)} sweeps along axis {streams.axis} of the grid; {alone} steps run as a whole"
        by_value = {v: n for n in streams.nodes for v in n.makes}
        for sweep in sweeps:
            yield f"    {_said(sweep, streams.nodes, by_value, streams.rows)}"


def _said(sweep: Sweep, nodes: tuple[Node, ...], by_value: Mapping[int, Node], rows: Mapping[int, int]) -> str:
    """One sweep: `down.0.convs.1   32 strips of 16 of 512 rows; written over down.0.convs.0`."""
    goal = nodes[sweep.norm].address if sweep.norm >= 0 else by_value[sweep.value].address
    inside = [nodes[p].address for p in sweep.places if nodes[p].address != goal]
    length = rows[sweep.value]
    count = -(-length // sweep.height)
    words = [f"{count} strip{'s' * (count > 1)} of {sweep.height} of {length} rows"]
    words += ["statistics only"] if sweep.norm >= 0 else []
    words += [f"written over {by_value[sweep.over].address}"] if sweep.over >= 0 and count > 1 else []
    words += [f"computed inside: {_listed(inside)}"] if inside else []
    return f"{goal}   {'; '.join(words)}"


def _listed(addresses: list[str]) -> str:
    """All of a few, the ends of many."""
    if len(addresses) <= 4:
        return ", ".join(addresses)
    return f"{addresses[0]}, {addresses[1]} … {addresses[-1]} ({len(addresses)} steps)"


def worst(plan: MemoryPlan) -> list[str]:
    """The nodes that take most of the peak of the best plan."""
    return largest(plan.after.by("node"), "at_peak")
