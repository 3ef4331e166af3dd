"""Schedule -> about how much memory and work it takes: to put candidates in order before the cost model runs any.

Memory counts whole maps while they live and the pieces of one strip from the middle of each sweep; what happens inside
a step that runs as a whole is not seen. Work counts FLOPs of the rows that are really computed, overlaps included, and
for every byte that is written what a core multiplies meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from composer.sweeps import Alone, Node, Schedule, Sweep

BYTE = 30
"""FLOPs in the time of a byte: about 150 GFLOP/s beside the 5 GB/s at which new memory fills."""

COPIES = 2
"""A convolution of a piece copies its input that often on the way: into one block of memory, and into the order of the
kernel. The cost model does not see it; the choice of strips leaves room for it."""


@dataclass(frozen=True)
class Known:
    """Figures of the plan as it is: FLOPs by address, bytes that a step makes (a view makes none), and those that are
    there all the time."""

    flops: Mapping[str, int]
    makes: Mapping[str, int]
    base: int


@dataclass
class Estimate:
    """`peak` bytes and `work` in FLOPs."""

    schedule: Schedule
    known: Known
    peak: int = 0
    work: float = 0.0
    alive: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, schedule: Schedule, known: Known) -> Estimate:
        found = cls(schedule, known, known.base)
        for action in schedule.actions:
            found._alone(action) if isinstance(action, Alone) else found._sweep(action)
            for value in action.dead:
                found.alive.pop(value, None)
        return found

    def _see(self, more: float) -> None:
        self.peak = max(self.peak, int(self.known.base + sum(self.alive.values()) + more))

    def _alone(self, action: Alone) -> None:
        node = self.schedule.by_place[action.place]
        self.alive[node.makes[0]] = self.known.makes.get(node.address, 0)
        self.work += self._work(node, 1.0)
        self._see(0)

    def _work(self, node: Node, part: float) -> float:
        written = sum(self.schedule.extents.bytes[v] for v in node.makes) if self._writes(node) else 0
        return part * (self.known.flops.get(node.address, 0) + BYTE * written)

    def _writes(self, node: Node) -> bool:
        return node.norm != "" or self.known.makes.get(node.address, 0) > 0

    def _sweep(self, sweep: Sweep) -> None:
        bytes_of, rows = self.schedule.extents.bytes, self.schedule.extents.rows
        length, height = rows[sweep.value], min(sweep.height, rows[sweep.value])
        count = length / height
        a = max(0, min(length - height, (length - height) // 2))
        wanted = self.schedule.needs(sweep, a, a + height)
        held: dict[int, float] = {}
        most = 0.0
        for place, gone in zip(sweep.places, sweep.gone, strict=True):
            node = self.schedule.by_place[place]
            value = node.makes[0]
            lo, hi = wanted[value]
            part = (hi - lo) / rows[value]
            self.work += count * self._work(node, part)
            new = bytes_of[value] * part if self._writes(node) and not node.writes else 0
            scratch = COPIES * sum(bytes_of[v] * (wanted[v][1] - wanted[v][0]) / rows[v] for v in node.rows)
            most = max(most, sum(held.values()) + new + (scratch if node.heavy else 0))
            held[value] = new
            for value in gone:
                held.pop(value, None)
        if sweep.norm >= 0:
            self.work += BYTE * bytes_of[sweep.value]
        elif sweep.over < 0:
            self.alive[sweep.value] = bytes_of[sweep.value] if height < length else 0
        else:
            self.alive[sweep.value] = self.alive.pop(sweep.over)
        self._see(most)
        if sweep.norm < 0:
            self.alive[sweep.value] = bytes_of[sweep.value]
