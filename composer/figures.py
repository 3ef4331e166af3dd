"""What a network costs, as plain figures: parameters, FLOPs and bytes, per node and in total. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Row:
    """One node, or several taken together.

    address         the node; of several what they share
    block           what stands there; empty where several differ
    shape           of its (first) output, batch included
    parameters      numbers that it owns
    flops           of its forward pass, of products, convolutions and attention: two per multiplication
    backward_flops  of its backward pass, with what is computed again for it
    activations     bytes of the outputs that it makes; a view of its input is none
    saved           bytes that stay for the backward pass because of it, each counted where it is first kept
    live            bytes alive in the whole network when its forward pass is done (of several: the most)
    at_peak         bytes of its own that are alive at the network's peak: outputs, gradients, what it works with
    """

    address: str
    block: str = ""
    shape: tuple[int, ...] = ()
    parameters: int = 0
    flops: int = 0
    backward_flops: int = 0
    activations: int = 0
    saved: int = 0
    live: int = 0
    at_peak: int = 0
    nodes: int = 1


@dataclass(frozen=True)
class Peak:
    """The moment when most bytes are alive.

    address, phase  the node at work, and whether it is in its `forward` or `backward` pass, or computed `again`
    parts           what is alive, by kind; it adds up to `bytes`
    live            the nodes whose tensors are alive then, with their bytes, largest first
    """

    bytes: int
    address: str
    phase: str
    parts: Mapping[str, int]
    live: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Cost:
    """The cost of one pass through a network, forward only or as a step of training."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    training: bool
    dtype: str
    checkpoint: tuple[str, ...]
    optimizer: str
    gradients: str
    rows: tuple[Row, ...]
    peak: Peak

    @property
    def parameters(self) -> int:
        return sum(r.parameters for r in self.rows)

    @property
    def flops(self) -> int:
        """Of the forward pass."""
        return sum(r.flops for r in self.rows)

    @property
    def backward_flops(self) -> int:
        return sum(r.backward_flops for r in self.rows)

    @property
    def activations(self) -> int:
        """Bytes of all outputs of nodes; they are never alive at once unless they are all saved."""
        return sum(r.activations for r in self.rows)

    @property
    def saved(self) -> int:
        """Bytes that the forward pass leaves for the backward pass, parameters aside."""
        return sum(r.saved for r in self.rows)

    def by(self, key: str = "node") -> tuple[Row, ...]:
        """The rows taken together: `node` not at all, `stage` by the first word of the address and its number
        (`encoder.0`), `block` by what stands there."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(GROUPINGS[key](row), []).append(row)
        return tuple(_together(name, rows) if key != "node" else rows[0] for name, rows in groups.items())

    def sorted(self, by: str = "node", order: str = "memory") -> tuple[Row, ...]:
        """`by(...)`, the most expensive first, in the order of `ORDERS`; `place` is the order of computation."""
        rows = self.by(by)
        return rows if order == "place" else tuple(sorted(rows, key=lambda r: ORDERS[order](r), reverse=True))

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data; bytes are bytes."""
        totals = {n: getattr(self, n) for n in ("parameters", "flops", "backward_flops", "activations", "saved")}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rows", "peak")}
        plain = {"shapes": {n: list(s) for n, s in self.shapes.items()}, "checkpoint": list(self.checkpoint)}
        peak = {**asdict(self.peak), "parts": dict(self.peak.parts), "live": [list(p) for p in self.peak.live]}
        return {**rest, **plain, **totals, "peak": peak, "rows": [asdict(r) for r in self.rows]}


GROUPINGS: Mapping[str, Callable[[Row], str]] = {
    "node": lambda r: r.address,
    "stage": lambda r: _stage(r.address),
    "block": lambda r: r.block,
}
ORDERS: Mapping[str, Callable[[Row], Any]] = {
    "memory": lambda r: (r.at_peak, r.saved, r.activations),
    "saved": lambda r: (r.saved, r.at_peak),
    "activations": lambda r: r.activations,
    "flops": lambda r: r.flops + r.backward_flops,
    "params": lambda r: r.parameters,
    "place": lambda r: 0,
}


def _stage(address: str) -> str:
    words = address.partition("+")[0].split(".")
    return ".".join(words[:2]) if len(words) > 1 and words[1].isdigit() else words[0]


def _together(name: str, rows: Sequence[Row]) -> Row:
    def total(field: str) -> int:
        return sum(getattr(r, field) for r in rows)

    summed = {f: total(f) for f in ("parameters", "flops", "backward_flops", "activations", "saved", "at_peak")}
    block = rows[0].block if len({r.block for r in rows}) == 1 else ""
    return Row(name, block, rows[-1].shape, **summed, live=max(r.live for r in rows), nodes=len(rows))


def size(count: float) -> str:
    """Bytes in three digits, decimal units: `1.44 GB`."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit * 0.9995:
            return f"{_digits(count / limit)} {unit}"
    return f"{int(count)} B"


def number(count: float) -> str:
    """A count in three digits: `27.2 M`."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit * 0.9995:
            return f"{_digits(count / limit)} {unit}"
    return str(int(count))


def _digits(scaled: float) -> str:
    return f"{scaled:.{0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2}f}"


def largest(rows: Iterable[Row], field: str, count: int = 3) -> list[str]:
    """The worst rows as lines of a message: `down.0.convs.0   302 MB`."""
    worst = sorted(rows, key=lambda r: int(getattr(r, field)), reverse=True)[:count]
    return [f"{r.address}   {size(getattr(r, field))}" for r in worst if getattr(r, field)]
