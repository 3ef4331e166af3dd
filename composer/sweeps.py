"""Steps -> Sweeps: the evaluation plan with some of its values never whole. Needs no torch.

    before   conv -> a -> norm -> b -> relu -> c -> conv -> d         a, b, c and d are whole maps, in turn
    after    conv -> a        (strip by strip)                        a and d are whole maps, and d is written over a
             mean, variance   (of a, strip by strip)
             [norm · relu · conv] -> d   (strip by strip)

A value is *stored* as a whole map, or *virtual*: computed anew, a strip at a time, for each sweep that reads it. A norm
with statistics of the whole map takes a sweep of its own before it. A stored map that nothing reads after a sweep lends
its memory to the result, if that has its shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from composer.locality import Locality


@dataclass(frozen=True)
class Node:
    """A step as a sweep sees it.

    place   of the step in the plan
    makes   numbers of the values it makes
    rows    of those it reads strip by strip, along the axis that its result is cut along, and of those it needs `whole`
    local   how rows of its result depend on rows of its inputs; None where it only runs as a whole
    norm    `channel` or `group` where it takes statistics of its whole input first
    heavy   whether to compute it twice would cost time
    fresh   whether its result is new memory
    """

    place: int
    address: str
    makes: tuple[int, ...]
    rows: tuple[int, ...]
    whole: tuple[int, ...] = ()
    local: Locality | None = None
    norm: str = ""
    heavy: bool = False
    fresh: bool = False
    writes: bool = False
    """Whether it writes over its input."""


@dataclass(frozen=True)
class Alone:
    """A step that runs as a whole; `dead` are values that nobody reads after it."""

    place: int
    dead: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Rows of `value`, `height` at a time: stored as a whole map, or with `norm` (a place) taken into its statistics.

    places  steps that run for each strip, in order; the last one makes the value
    gone    for each of these, virtual values that no later one reads
    over    the stored value whose memory the result takes, or -1
    """

    value: int
    height: int
    places: tuple[int, ...] = ()
    gone: tuple[tuple[int, ...], ...] = ()
    over: int = -1
    norm: int = -1
    dead: tuple[int, ...] = ()


Action = Alone | Sweep


@dataclass(frozen=True)
class Extents:
    """What each value measures at the planned size: bytes, and rows along the axis that is cut."""

    bytes: Mapping[int, int]
    rows: Mapping[int, int]


@dataclass(frozen=True)
class Flow:
    """The nodes of a plan, and the values that are delivered."""

    nodes: Sequence[Node]
    outputs: Collection[int]
    makers: Mapping[int, Node] = field(init=False)
    readers: Mapping[int, Sequence[Node]] = field(init=False)

    def __post_init__(self) -> None:
        readers: dict[int, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys((*node.rows, *node.whole)):
                readers.setdefault(value, []).append(node)
        object.__setattr__(self, "makers", {v: n for n in self.nodes for v in n.makes})
        object.__setattr__(self, "readers", readers)

    def streamed(self, extents: Extents, floor: int) -> frozenset[int]:
        """Places of the steps that are worth it: those by rows that read or make a map of `floor` bytes or more."""
        large = {v for v, n in extents.bytes.items() if n >= floor and extents.rows.get(v, 0) > 1}
        known = extents.rows
        return frozenset(
            n.place
            for n in self.nodes
            if n.local and large & {*n.makes, *n.rows} and all(v in known for v in (*n.makes, *n.rows))
        )

    def virtual(
        self,
        streamed: Collection[int],
        once: Collection[int] = (),
        again: Collection[int] = (),
        *,
        meetings: bool = True,
    ) -> frozenset[int]:
        """Values that need not be stored: what is light; of what is heavy, those in `once` where a single sweep reads
        them, and those in `again` at any rate. Without `meetings` sums that several steps read are stored: along a
        residual stream every branch would have to stay until the last sum is computed."""
        passes: dict[int, int] = {}
        for node in reversed(self.nodes):
            (value, *more) = node.makes
            readers = self.readers.get(value, ())
            by_rows = all(r.place in streamed and value not in r.whole for r in readers)
            if more or node.place not in streamed or value in self.outputs or not readers or not by_rows:
                continue
            count = sum(passes.get(r.makes[0], 1) + bool(r.norm) for r in readers)
            if not meetings and len(node.rows) > 1 and len(readers) > 1:
                continue
            if not node.heavy or value in again or (count == 1 and value in once):
                passes[value] = count
        return frozenset(passes)


@dataclass(frozen=True)
class Schedule:
    """The actions that compute the outputs with some values virtual; strips are of about `strip` bytes."""

    flow: Flow
    streamed: frozenset[int]
    virtual: frozenset[int]
    extents: Extents
    strip: int

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        return _with_dead(
            _with_lent([a for n in self.flow.nodes for a in self._of(n)], self.flow, self.extents), self.flow
        )

    def _of(self, node: Node) -> Iterable[Action]:
        if node.place not in self.streamed:
            yield Alone(node.place)
            return
        if node.norm:
            yield self._sweep(node.rows[0], norm=node.place)
        if node.makes[0] not in self.virtual:
            yield self._sweep(node.makes[0])

    def _sweep(self, value: int, norm: int = -1) -> Sweep:
        nodes = self._behind(value)
        if norm >= 0 and value not in self.virtual:
            nodes = []
        last: dict[int, int] = {v: k for k, n in enumerate(nodes) for v in n.rows if v in self.virtual}
        gone = tuple(tuple(v for v, at in last.items() if at == k) for k in range(len(nodes)))
        return Sweep(value, self._height(value, nodes), tuple(n.place for n in nodes), gone, norm=norm)

    def _behind(self, value: int) -> list[Node]:
        """The step that makes a value and the virtual ones that it needs, in order."""
        found: dict[int, Node] = {}
        open_ = [value]
        while open_:
            node = self.flow.makers.get(open_.pop())
            if node is not None and node.place not in found and node.place in self.streamed:
                found[node.place] = node
                open_ += [v for v in node.rows if v in self.virtual]
        return [found[k] for k in sorted(found)]

    def _height(self, value: int, nodes: Sequence[Node]) -> int:
        """Rows of a strip in which the largest piece of a map has about `strip` bytes."""
        rows = self.extents.rows[value]
        touched = {value, *(v for n in nodes for v in (*n.makes, *n.rows))}
        per_row = max(self.extents.bytes[v] for v in touched) / rows
        return max(1, min(rows, int(self.strip / max(1.0, per_row))))

    def needs(self, sweep: Sweep, a: int, b: int) -> dict[int, tuple[int, int]]:
        """The rows of every value that rows a to b of a sweep's value take."""
        return needs(sweep, [self.by_place[p] for p in sweep.places], self.extents.rows, a, b)

    @cached_property
    def by_place(self) -> dict[int, Node]:
        return {n.place: n for n in self.flow.nodes}


def needs(
    sweep: Sweep, nodes: Sequence[Node], lengths: Mapping[int, int], a: int, b: int
) -> dict[int, tuple[int, int]]:
    """The rows of every value that rows a to b of a sweep's value take, its steps backwards."""
    found = {sweep.value: (a, b)}
    for node in reversed(nodes):
        assert node.local is not None
        lo, hi = node.local.reads(*found[node.makes[0]], lengths[node.rows[0]])
        for value in node.rows:
            known = found.get(value, (lo, hi))
            found[value] = (min(lo, known[0]), max(hi, known[1]))
    return found


@dataclass(frozen=True)
class Streams:
    """What a network needs to run a schedule: for its plan where these optional inputs are `given`, the nodes, the
    actions, of each value the dimension of its tensor that rows lie along, which is `axis` of a grid, and how many rows
    it has at the planned size."""

    given: frozenset[str]
    axis: int
    nodes: tuple[Node, ...]
    actions: tuple[Action, ...]
    dims: Mapping[int, int]
    rows: Mapping[int, int]


def _touched(action: Action, flow: Flow) -> set[int]:
    """Stored and virtual values that an action reads or makes."""
    places = (action.place,) if isinstance(action, Alone) else action.places
    by_place = {n.place: n for n in flow.nodes}
    found = {v for p in places for n in [by_place[p]] for v in (*n.makes, *n.rows, *n.whole)}
    return found if isinstance(action, Alone) else found | {action.value}


def _with_lent(actions: list[Action], flow: Flow, extents: Extents) -> list[Action]:
    """Sweeps whose result takes the memory of a map that is read for the last time."""
    by_place = {n.place: n for n in flow.nodes}
    uses: dict[int, list[int]] = {}
    for k, action in enumerate(actions):
        for value in _touched(action, flow):
            uses.setdefault(value, []).append(k)
    made: set[int] = set()
    for k, action in enumerate(actions):
        if isinstance(action, Alone) or action.norm >= 0:
            continue
        own = by_place[action.places[-1]]
        if not own.fresh:
            continue
        size = (extents.bytes[action.value], extents.rows[action.value])
        sources = {v for p in action.places for v in by_place[p].rows if v in made and uses[v][-1] == k}
        lent = [
            v
            for v in sorted(sources - set(flow.outputs))
            if (extents.bytes[v], extents.rows[v]) == size and _private(actions, uses[v], by_place)
        ]
        actions[k] = replace(action, over=lent[0]) if lent else action
        made.add(action.value)
    return actions


def _private(actions: Sequence[Action], uses: Iterable[int], by_place: Mapping[int, Node]) -> bool:
    """Whether only sweeps with fresh results look at a value, so that no view of it lives on."""
    return all(
        isinstance(a, Sweep) and (a.norm >= 0 or by_place[a.places[-1]].fresh) for a in (actions[k] for k in uses)
    )


def _with_dead(actions: Sequence[Action], flow: Flow) -> tuple[Action, ...]:
    """The actions with the values that each is the last to touch."""
    alive = set(flow.outputs)
    found: list[Action] = []
    for action in reversed(actions):
        touched = _touched(action, flow)
        dead = tuple(sorted(touched - alive))
        alive |= touched
        found.append(replace(action, dead=dead))
    return tuple(found[::-1])
