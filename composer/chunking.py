"""How steps that take tokens by themselves run chunk by chunk: the kernel behind the passes `windows` and `chunks`.

    before   norm -> y0, attention -> y1, sum -> y2, norm -> y3, linear -> y4, …       each of all tokens
    after    for each chunk: its tokens of x -> rows -> rows -> … -> rows, put where these tokens stand

Between two large values there is only what one chunk needs, which stays in the cache and below the size from which an
allocator maps fresh pages. A chunk is either a run of tokens or some groups of them, such as windows, which may be
shifted and padded: then one index takes their tokens from the map and another puts them back, and what is padded is
neither stored nor multiplied where a module can do without. Groups of one kind, that is with one mask, are neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

BYTES = 4 * 2**20
"""What the widest value of a chunk may take. An MLP of 96 or 192 channels took 0.7 of the time in chunks of 1 to 4 MiB
where that value took 25 or 100 MiB in all, and 1.3 of it where it took 5; so up to twice as much stays whole."""

MOST_STACKED = 2**19
"""What the scores of a chunk's groups may take side by side, so that groups of several kinds are computed at once."""

MOST_SHAPES = 4
"""Plans for so many shapes are kept."""

Members = tuple[Sequence[int], Sequence[int], Any]
"""A group: the numbers of its cells on the flat grid, at which of its places each stands, and its kind."""


class Span(NamedTuple):
    """Groups `start` to `stop` of a chunk, which are of one kind, and what all of them add to their scores; of several
    kinds, if the kind is None, and then what each of them adds, (groups, …)."""

    kind: Any
    start: int
    stop: int
    scores: Any = None


class Grouped(Protocol):
    """What a module has whose block promises `Traits.groups`. Gradients are off in all of it."""

    def groups(self, grid: tuple[int, ...]) -> tuple[int, Sequence[Members]]:
        """How many places a group has, and the groups of a grid, in numbers. Where no cell stands there are zeros."""
        ...

    def scores(self, kind: Any, **shared: Any) -> Any:
        """What groups of one kind have in common, a tensor or None, from the ports that all groups share."""
        ...

    def among(
        self, rows: Sequence[Tensor | None], places: Tensor | None, spans: Sequence[Span], **beside: Tensor
    ) -> Any:
        """The first output for some groups, (T, C), from the rows (T, C) of each grouped port, or None for one that is
        not connected. Rows are the cells, group by group; `places` (T,) says where among all places of these groups
        they stand, None that no place is empty. Ports that are neither grouped nor shared come by name as
        (groups, …); then the result is a tuple, with the further outputs as (groups, …)."""
        ...

    def apart(self, beside: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The value of such a port as (B · groups, …), and `shape` is (B, *grid)."""
        ...

    def whole(self, more: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A further output as it is at all other times, from (B · groups, …)."""
        ...


class Chunk(NamedTuple):
    """Some groups: the numbers of their tokens among those of all samples, `places` as `Grouped.among` has them, the
    numbers of the groups among those of all samples, and runs of groups of one kind."""

    tokens: Tensor
    places: Tensor | None
    members: Tensor
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Row:
    """A value that is taken as rows of tokens: its place among the kernel's values, its number, and its layout."""

    place: int
    number: int
    layout: str


@dataclass(frozen=True)
class Call:
    """A part at work on rows: the numbers of what it reads and makes, and of what nobody reads afterwards."""

    part: int
    reads: tuple[int | None, ...]
    makes: int
    dead: tuple[int, ...]


@dataclass(frozen=True)
class Chunks:
    """Parts that run on some tokens after others, in the order of `calls`.

    made     number and layout of the result
    lead     which of the rows has the grid
    widest   channels of the widest value
    """

    rows: tuple[Row, ...]
    calls: tuple[Call, ...]
    made: tuple[int, str]
    lead: int
    widest: int

    def prepare(self, modules: list[Any]) -> Any:
        return []

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Any:
        shape, rows = self._rows(values)
        total = prod(shape)
        most = self._limit(rows)
        size = _even(total, most) if total > 2 * most else max(1, total)
        result: Tensor | None = None
        for start in range(0, max(1, total), size):
            y = self._on(modules, {n: x[start : start + size] for n, x in rows.items()})
            if size >= total:
                return self._shaped(y, shape)
            result = y.new_empty((total, y.shape[-1])) if result is None else result
            result[start : start + size] = y
        assert result is not None
        return self._shaped(result, shape)

    def _on(self, modules: list[Any], slots: dict[int | None, Any], **others: Callable[..., Any]) -> Tensor:
        """What the parts make of some rows."""
        for call in self.calls:
            work = others.get(f"part{call.part}", modules[call.part])
            slots[call.makes] = work(*[slots.get(n) for n in call.reads])
            for n in call.dead:
                del slots[n]
        y: Tensor = slots[self.made[0]]
        return y

    def _rows(self, values: tuple[Any, ...]) -> tuple[tuple[int, ...], dict[int | None, Tensor]]:
        """(B, *grid) or (B, N) of all tokens, and the rows (B · N, C) of each value by its number."""
        shapes = [tuple(_last(values[r.place], r.layout).shape[:-1]) for r in self.rows]
        most = max(map(prod, shapes))
        shape = next(s for s in (shapes[self.lead], *shapes) if prod(s) == most)
        return shape, {r.number: _flat(values[r.place], r.layout, shape) for r in self.rows}

    def _limit(self, rows: dict[int | None, Tensor]) -> int:
        """How many tokens a chunk has at most."""
        return max(1, BYTES // (self.widest * next(iter(rows.values())).element_size()))

    def _shaped(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        layout = self.made[1]
        if layout == "flat" and len(shape) > 1:
            return y.view(shape[0], prod(shape[1:]), y.shape[-1])
        y = y.view(*shape, y.shape[-1])
        return y.movedim(-1, 1) if layout == "first" else y


@dataclass(frozen=True)
class Group:
    """The part whose tokens meet, and its ports that are not grouped.

    constants   shared ones that follow from weights: name, part, and the ports of that part, so many by position and
                others by name
    shared      others that are shared: name, and place among the kernel's values
    beside      those that are not shared, likewise
    more        numbers of further outputs that are wanted, counted without the first
    """

    part: int
    constants: tuple[tuple[str, int, int, tuple[str, ...]], ...] = ()
    shared: tuple[tuple[str, int], ...] = ()
    beside: tuple[tuple[str, int], ...] = ()
    more: tuple[int, ...] = ()


@dataclass(frozen=True)
class Groups(Chunks):
    """The same where tokens meet in one of the parts, so that a chunk is some groups.

    keeps    whether scores that follow from weights are kept for each shape
    """

    group: Group
    keeps: bool = False

    def prepare(self, modules: list[Any]) -> Any:
        shared = {  # in one piece, so that scores that are nothing else are the same memory
            port: modules[part](*[None] * required, **dict.fromkeys(named)).contiguous()
            for port, part, required, named in self.group.constants
        }
        return {"shared": shared, "plans": {}}

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Any:
        shape, rows = self._rows(values)
        module, total = modules[self.group.part], prod(shape)
        plan = self._plan(derived, module, shape, rows)
        beside = {n: module.apart(values[k], shape) for n, k in self.group.beside}
        work = _Meeting(module, beside, sum(len(c.members) for c in plan))
        shared = derived["shared"] | {n: values[k] for n, k in self.group.shared}
        result: Tensor | None = None
        for chunk in plan if self._fixed else _scored(module, plan, shared):
            work.chunk = chunk
            taken = {n: x.index_select(0, chunk.tokens) for n, x in rows.items()}
            y = self._on(modules, taken, **{f"part{self.group.part}": work})
            result = y.new_empty((total, y.shape[-1])) if result is None else result
            result.index_copy_(0, chunk.tokens, y)
        assert result is not None
        made = self._shaped(result, shape)
        if not self.group.more:
            return made
        return [made, *(module.whole(work.more[k], shape) for k in self.group.more)]

    @property
    def _fixed(self) -> bool:
        """Whether the chunks of a shape have their scores."""
        return self.keeps and not self.group.shared

    def _plan(
        self, derived: Any, module: Grouped, shape: tuple[int, ...], rows: dict[int | None, Tensor]
    ) -> Sequence[Chunk]:
        """The chunks of a shape, kept; their scores too where these follow from weights."""
        like = next(iter(rows.values()))
        key, plans = (shape, like.dtype, like.device), derived["plans"]
        if key not in plans:
            if len(plans) >= MOST_SHAPES:
                plans.clear()
            with torch.inference_mode(False), torch.no_grad():
                plan = list(_chunks(*module.groups(shape[1:]), shape[0], prod(shape[1:]), self._limit(rows), like))
                plans[key] = list(_scored(module, plan, derived["shared"])) if self._fixed else plan
        kept: Sequence[Chunk] = plans[key]
        return kept


class _Meeting:
    """The grouped part on the rows of one chunk after another, its further outputs put together."""

    def __init__(self, module: Grouped, beside: dict[str, Any], groups: int):
        self.module, self.beside, self.groups = module, beside, groups
        self.chunk: Chunk | None = None
        self.more: list[Tensor] = []

    def __call__(self, *rows: Any) -> Tensor:
        assert self.chunk is not None
        _, places, members, spans = self.chunk
        if not self.beside:
            alone: Tensor = self.module.among(rows, places, spans)
            return alone
        beside = {n: value.index_select(0, members) for n, value in self.beside.items()}
        first, *more = self.module.among(rows, places, spans, **beside)
        self.more = self.more or [m.new_empty((self.groups, *m.shape[1:])) for m in more]
        for whole, part in zip(self.more, more, strict=True):
            whole.index_copy_(0, members, part)
        made: Tensor = first
        return made


def _chunks(
    places: int, groups: Sequence[Members], batch: int, cells: int, limit: int, like: Tensor
) -> Iterator[Chunk]:
    """All groups of all samples, those of one kind side by side, in chunks of about `limit` places."""
    kinds = dict.fromkeys(kind for _, _, kind in groups)
    order = [(b, k) for kind in kinds for b in range(batch) for k, g in enumerate(groups) if g[2] == kind]
    size = _even(len(order), max(1, limit // places))
    for start in range(0, max(1, len(order)), size):
        part = order[start : start + size]
        index = [b * cells + cell for b, k in part for cell in groups[k][0]]
        at = [j * places + place for j, (_, k) in enumerate(part) for place in groups[k][1]]
        members = [b * len(groups) + k for b, k in part]
        full = len(at) == len(part) * places
        spans = tuple(_spans([groups[k][2] for _, k in part])) or (Span(groups[0][2], 0, 0),)  # of an empty batch
        yield Chunk(_numbers(index, like), None if full else _numbers(at, like), _numbers(members, like), spans)


def _spans(kinds: Sequence[Any]) -> Iterator[Span]:
    start = 0
    for kind, same in groupby(kinds):
        stop = start + len(list(same))
        yield Span(kind, start, stop)
        start = stop


def _scored(module: Grouped, plan: Sequence[Chunk], shared: dict[str, Any]) -> Iterator[Chunk]:
    """The chunks with the scores of each kind, computed once: chunks with groups of one kind are neighbours."""
    known: dict[Any, Any] = {}
    for chunk in plan:
        kinds = dict.fromkeys(span.kind for span in chunk.spans)
        known = {kind: known[kind] if kind in known else module.scores(kind, **shared) for kind in kinds}
        yield chunk._replace(spans=_merged([s._replace(scores=known[s.kind]) for s in chunk.spans]))


def _merged(spans: list[Span]) -> tuple[Span, ...]:
    """One span of several kinds in the place of many, if what they add does not take much side by side."""
    known = [s for s in spans if s.scores is not None]
    bytes_ = sum((s.stop - s.start) * s.scores.nbytes for s in known)
    if len(spans) == 1 or len(known) < len(spans) or bytes_ > MOST_STACKED:
        return tuple(spans)
    whole = max((s.scores.shape for s in spans), key=prod)
    each = [s.scores.expand(s.stop - s.start, *whole) for s in spans]
    return (Span(None, 0, spans[-1].stop, torch.cat(each)),)


def _numbers(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=like.device)


def _even(total: int, most: int) -> int:
    """The size of parts that are at most so large, and about equal."""
    return max(1, -(-total // max(1, -(-total // most))))


def _last(x: Tensor, layout: str) -> Tensor:
    return x.movedim(1, -1) if layout == "first" else x


def _flat(x: Tensor, layout: str, shape: tuple[int, ...]) -> Tensor:
    """The rows (N, C) of a value; one without a batch axis is that of every sample."""
    x = _last(x, layout)
    if prod(x.shape[:-1]) != prod(shape):
        x = x.expand(shape[0], *x.shape[-2:])
    return x.reshape(-1, x.shape[-1])
