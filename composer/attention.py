"""Looking into attention: which keys a query weighs by how much, of just the nodes that somebody tapped.

    plan     … -> [attend -> y] -> …           tapped   … -> [attend, need_weights -> y, weights] -> …

A network runs its steps on numbered slots. A tapped plan is a copy of the plan in which the step of a tapped node asks
its module for the weights too, and puts them into a slot of their own; a prepared step that stands for several, among
them a tapped one, becomes its parts again. All other steps are the very same, and the plan itself is not touched, so
that what is closed leaves nothing behind. Being values like others, weights carry gradients, are checkpointed, compiled
and exported.

The module of a leaf that promises `attends` takes `need_weights=True`, as torch's own attention does, and then gives
y and a dictionary of tensors. In all three forms weights of a query are what its values are multiplied with:

    weights (B, heads, N, M)                                   every query and every key
    weights (B, windows, heads, n, n), cells (windows, n)      within windows: which cell each place is, -1 padding,
                                                               -2 and below tokens of the window
    weights (B, heads, N, S), places (B, heads, N, S, rank)    samples: 0 to 1 along each axis, scale by scale

Of large maps nobody can hold all weights (of 128 × 128 cells and 8 heads 8.6 GB): asked for some queries, R of them
instead of N, a module keeps its kernel and computes the weights of these beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

import torch
from torch import Tensor

from composer.calls import Quick, by_name, callee, moved
from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean, listing
from composer.evaluating import Evaluated
from composer.taps import Node
from composer.types import Type

_Y, _WEIGHTS = "", "need_weights"


@dataclass(frozen=True)
class Attention:
    """How one node weighed in one pass.

    weights   as the module says above, before dropout
    queries   what they stand on, in sizes of this pass: a `grid` and `extra` tokens in front of it, several `grids`,
              or none and a `count`
    keys      likewise; several where samples are taken from several maps
    cells, places   where keys of windows, and samples, lie
    rows      the numbers of the queries that were asked for, if not all were
    """

    address: str
    weights: Tensor
    queries: Type
    keys: tuple[Type, ...]
    cells: Tensor | None = None
    places: Tensor | None = None
    rows: tuple[int, ...] | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """The grid of the queries, of several the first; () where they stand on none."""
        return self.grids(self.queries)[0] if self.grids(self.queries) else ()

    @staticmethod
    def grids(type_: Type) -> list[tuple[int, ...]]:
        """The grids of queries or keys."""
        found = type_.grids or ((type_.grid,) if type_.grid else ())
        return [tuple(n for n in g if isinstance(n, int)) for g in found]

    @property
    def kind(self) -> str:
        """all, windows or samples."""
        return "windows" if self.cells is not None else "samples" if self.places is not None else "all"

    def of(self, query: Sequence[int] | int, sample: int = 0) -> tuple[Tensor, list[Tensor]]:
        """What one query, a cell of `grid` or the number of a token, weighs: the tokens in front of the keys
        (heads, extra), and one map for each grid of keys (heads, *grid). Raises BP841 for a query that there is not."""
        number = self._number(query)
        if self.cells is not None:
            return self._of_window(number, sample)
        if self.places is not None:
            return self._of_samples(number, sample)
        row = self.weights[sample, :, number]
        grids, extra = self._key_grids(), self.keys[0].extra
        if not grids:
            return row, []
        parts = torch.split(row[:, extra:], [prod(g) for g in grids], 1)
        return row[:, :extra], [torch.unflatten(p, 1, g) for p, g in zip(parts, grids, strict=True)]

    def _key_grids(self) -> list[tuple[int, ...]]:
        return [g for t in self.keys for g in self.grids(t)]

    def _number(self, query: Sequence[int] | int) -> int:
        """The row of a query among the weights; for windows, the number of its cell."""
        grid = self.grid
        extra = 0 if self.cells is not None else self.queries.extra
        if isinstance(query, int):
            count = self.queries.length
            inside, number, said = isinstance(count, int) and 0 <= query < count, query, f"{count} queries"
        else:
            inside = len(query) == len(grid) and all(0 <= q < n for q, n in zip(query, grid, strict=True))
            number = extra + _flat(query, grid) if inside else 0
            said = f"queries on a grid of {' × '.join(map(str, grid))}" if grid else "queries without a grid"
        if not inside:
            raise _refusal(f"`{self.address}` has no query {query}: it has {said}")
        if self.rows is None or self.cells is not None:
            return number
        if number not in self.rows:
            raise self._not_asked(number)
        return self.rows.index(number)

    def _not_asked(self, number: int) -> BlueprintError:
        return _refusal(f"query {number} of `{self.address}` was not asked for, only {listing(self.rows or ())}")

    def _of_window(self, number: int, sample: int) -> tuple[Tensor, list[Tensor]]:
        assert self.cells is not None
        places = (self.cells == number).nonzero()
        if not len(places):
            raise self._not_asked(number)
        window, place = places[0].tolist()
        row, cells = self.weights[sample, window, :, place], self.cells[window]
        extra = int((cells < -1).sum())
        made = row.new_zeros(row.shape[0], prod(self.grid))
        inside = cells >= 0
        made = made.index_add(1, cells[inside], row[:, inside])
        return row[:, :extra], [torch.unflatten(made, 1, self.grid)]

    def _of_samples(self, number: int, sample: int) -> tuple[Tensor, list[Tensor]]:
        assert self.places is not None
        row, places, grids = self.weights[sample, :, number], self.places[sample, :, number], self._key_grids()
        parts = zip(row.chunk(len(grids), 1), places.chunk(len(grids), 1), grids, strict=True)
        return row[:, :0], [_spread(w.float(), p.float(), g) for w, p, g in parts]


def _flat(cell: Sequence[int], grid: Sequence[int]) -> int:
    number = 0
    for c, n in zip(cell, grid, strict=True):
        number = number * n + c
    return number


def _spread(weights: Tensor, places: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Each weight (heads, S) on the cells that its place (heads, S, rank) interpolates between: (heads, *grid)."""
    sizes = places.new_tensor(grid)
    at = places * sizes - 0.5
    low = at.floor()
    made = weights.new_zeros(weights.shape[0], prod(grid))
    for corner in torch.cartesian_prod(*[torch.arange(2)] * len(grid)).view(-1, len(grid)):
        cell = low + corner.to(low)
        share = (1 - (at - cell).abs()).prod(-1) * ((cell >= 0) & (cell < sizes)).all(-1)
        index = torch.zeros_like(cell[..., 0], dtype=torch.long)
        for axis, n in enumerate(grid):
            index = index * n + cell[..., axis].clamp(0, n - 1).long()
        made = made.scatter_add(1, index, weights * share)
    return torch.unflatten(made, 1, grid)


def _refusal(text: str, *help: str) -> BlueprintError:
    return BlueprintError(Diagnostic("BP841", text, help=help))


# --- plans ----------------------------------------------------------------------------------------------------------


Rows = tuple[int, ...] | None
"""The numbers of the queries that are asked for; None for all."""


def together(asked: Iterable[tuple[Node, Rows]]) -> dict[Node, Rows]:
    """What several taps ask of each node: all queries, where one of them does."""
    made: dict[Node, Rows] = {}
    for node, rows in asked:
        before = made.get(node, ())
        made[node] = None if rows is None or before is None else tuple(dict.fromkeys((*before, *rows)))
    return made


def tapped(plan: Any, nodes: Mapping[Node, Rows]) -> Any:
    """A copy of a plan that also computes the weights of these nodes; `plan.taps` says in which slots they are."""
    wanted = {n.leaf: n.address for n in nodes}
    asked = {n.leaf: rows for n, rows in nodes.items()}
    made = copy.copy(plan)
    made.calls, made.taps, slots = list(plan.calls), dict(plan.taps), {}
    made.rows = {**{n.address: rows for n, rows in nodes.items()}, **plan.rows}
    for k, (address, call) in enumerate(zip(plan.addresses, plan.calls, strict=True)):
        module = callee(call)
        plain: Any = module.plain if isinstance(module, Evaluated) else None
        names = [address] if plain is None else plain.addresses
        new = {a: made.size + n for n, a in enumerate(a for a in names if a in wanted and wanted[a] not in plan.taps)}
        if new:
            made.calls[k] = _asking(call, new[address], asked[address]) if plain is None else _apart(call, new, asked)
            made.taps |= {_free(wanted[a], made.taps): slot for a, slot in new.items()}
            made.size, slots[k] = made.size + len(new), tuple(new.values())
    made.segments = [
        replace(s, writes=(*s.writes, *(i for k in range(s.start, s.stop) for i in slots.get(k, ())))) if s.again else s
        for s in plan.segments
    ]
    return made


def _free(address: str, taken: Mapping[str, int]) -> str:
    """The address, with a number where the node runs a second time."""
    count = sum(a.partition("#")[0] == address for a in taken)
    return f"{address}#{count + 1}" if count else address


def _asking(quick: Quick, slot: int, rows: Rows) -> Quick:
    """A call that also asks for weights, and puts them into a slot."""
    call = by_name(quick)
    targets = ((_Y, call.target),) if isinstance(call.target, int) else call.target
    return moved(call.several((*targets, (_WEIGHTS, slot))).quick(), _Asking(call.home, call.name, rows))


class _Asking:
    """A module at work that is asked for its weights; looked up when it is called, as without a tap."""

    def __init__(self, home: Mapping[str, Any], name: str, rows: Rows):
        self.home, self.name, self.rows = home, name, rows

    @property
    def __wrapped__(self) -> Any:
        module = self.home[self.name]
        return getattr(module, "__wrapped__", module)

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        wanted = True if self.rows is None else torch.tensor(self.rows, device=values[0].device)
        y, found = self.home[self.name](*values, need_weights=wanted, **named)
        several = y if isinstance(y, dict) else dict(enumerate(y)) if isinstance(y, (list, tuple)) else {_Y: y}
        return {**several, _WEIGHTS: found}


def _apart(quick: Quick, slots: Mapping[str, int], asked: Mapping[str, Rows]) -> Quick:
    """The parts of a prepared step in its place, those in question asking for weights."""
    plain, call = callee(quick).plain, by_name(quick)
    parts = copy.copy(plain)
    parts.calls = [
        _asking(c, slots[a], asked[a]) if a in slots else c for a, c in zip(plain.addresses, plain.calls, strict=True)
    ]
    parts.also = tuple(slots.values())
    return moved(call.several(tuple((slot, slot) for slot in (*call.writes, *parts.also))).quick(), parts)


# --- taps -----------------------------------------------------------------------------------------------------------


class Taps(Mapping[str, Attention]):
    """What tapped nodes did in the last pass, by their address, in the order they ran. A handle and a context:

        with network.tap("blocks.*.attention") as taps:
            y = network(x)
        taps["blocks.0.attention"].weights

    `close`, or the end of the `with`, takes the tap away; what was found stays.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        close: Callable[[Taps], None],
        queries: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    ):
        self.nodes = {n.address: n for n in nodes}
        of = queries if isinstance(queries, Mapping) else dict.fromkeys(self.nodes, queries)
        self.rows: dict[str, Rows] = {a: None if (q := of.get(a)) is None else tuple(q) for a in self.nodes}
        self._close, self._found = close, dict[str, Attention]()

    @property
    def asks(self) -> list[tuple[Node, Rows]]:
        """What it asks of each node."""
        return [(node, self.rows[address]) for address, node in self.nodes.items()]

    def take(self, slots: Sequence[Any], plan: Any, env: Mapping[str, int]) -> None:
        """Keep what a pass over a tapped plan left in its slots, at inputs whose axes are of these sizes."""
        self._found = {}
        for address, slot in plan.taps.items():
            node = self.nodes.get(address.partition("#")[0])
            if node is not None and slots[slot] is not None:
                sized = (node.queries.at(env), tuple(k.at(env) for k in node.keys))
                rows = plan.rows[node.address]
                self._found[address] = Attention(address, queries=sized[0], keys=sized[1], rows=rows, **slots[slot])

    def close(self) -> None:
        """The network runs as it did before."""
        self._close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getitem__(self, address: str) -> Attention:
        leaves = {n.leaf: n.address for n in self.nodes.values()}
        found = self._found.get(leaves.get(address, address))
        if found is not None:
            return found
        if address in self.nodes or address in leaves:
            text = f"`{address}` is tapped and has not run"
            raise _MissingError(Diagnostic("BP841", text, help=("call the network while the tap is open",)))
        close = did_you_mean(address, self.nodes)
        notes = (f"tapped: {listing(self.nodes)}",)
        raise _MissingError(Diagnostic("BP112", f"`{address}` is not tapped{close}", notes=notes))

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"Taps({listing(self.nodes)})"

    def rollout(self) -> Tensor:
        """`rollout` of what was found."""
        return rollout(self)


class _MissingError(BlueprintError, KeyError):
    """An address of which nothing was found; a `KeyError` too, as a mapping promises."""

    __str__ = BlueprintError.__str__


def rollout(taps: Mapping[str, Attention] | Iterable[Attention]) -> Tensor:
    """How much of each input token has come into each token (Abnar and Zuidema, 2020, arXiv:2005.00928): (B, N, N).

    In every layer a token is half what attention, averaged over its heads, brought and half what it was: the product
    of 0.5·A + 0.5·I over the layers in the order they ran, rows of sum one. Row 0 is that of a class token in front.
    Refused (BP841) where layers are not self-attention of every token to every one.
    """
    layers = list(taps.values()) if isinstance(taps, Mapping) else list(taps)
    if not layers:
        raise _refusal("there is nothing to roll out: no tapped node has run")
    total: Tensor | None = None
    for layer in layers:
        weights = layer.weights
        if layer.kind != "all" or layer.rows is not None or layer.keys != (layer.queries,):
            text = f"`{layer.address}` is no attention of all tokens to one another, which a rollout needs"
            raise _refusal(text, "tap the self-attention of one stack of equal layers only")
        if total is not None and weights.shape[-1] != total.shape[-1]:
            text = f"`{layer.address}` has {weights.shape[-1]} tokens, the layers before it have {total.shape[-1]}"
            raise _refusal(text, "tap the layers of one resolution only")
        mean = weights.mean(1)
        step = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        step = step / step.sum(-1, keepdim=True)
        total = step if total is None else step @ total
    assert total is not None
    return total


__all__ = ["Attention", "Taps", "rollout", "tapped"]
