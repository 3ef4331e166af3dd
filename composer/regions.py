"""Regions: neighbouring steps of an evaluation plan through which each token goes by itself, and perhaps one of them in
which tokens of one group meet; so the whole region may run on some tokens, or groups, after others.

    x -> norm -> attention (in groups) -> sum -> norm -> linear -> act -> linear -> sum -> y
     └-----------------------------------┘ └------------------------------------┘
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from composer.inference import Step
from composer.layouts import Flatten, ToFirst, ToLast
from composer.prepared import AnyStep, Flow, Kernel, Prepared, traits_of


@dataclass(frozen=True)
class Region:
    """Steps in order, the last of which makes the one value that leaves; `seed` is the step in which tokens meet."""

    steps: tuple[Step, ...]
    seed: Step | None = None

    def prepared(self, flow: Flow, name: str) -> Prepared:
        """The step that stands for all of them."""
        constants = dict(_constants(flow, self.seed)) if self.seed else {}
        parts = (*constants.values(), *self.steps)
        order = {step.outputs: k for k, step in enumerate(parts)}
        made = {i for step in parts for i in step.outputs}
        rows = dict.fromkeys(i for s in self.steps for i in row_reads(s) if i is not None and i not in made)
        whole = {p: v for p, v in _whole(self.seed) if p not in constants} if self.seed else {}
        inputs = list(dict.fromkeys((*rows, *whole.values())))
        calls, result = _calls(self.steps, order)
        options = {
            "rows": tuple((inputs.index(i), i, flow.values[i].layout) for i in rows),
            "calls": calls,
            "made": (result, flow.values[self.steps[-1].outputs[0]].layout),
            "lead": next((k for k, i in enumerate(rows) if flow.values[i].layout != "flat"), 0),
            "widest": max(flow.values[i].type.channels for i in (*rows, *(s.outputs[0] for s in self.steps))),
        }
        if self.seed is None:
            return Prepared(self.steps[-1].address, (name,), parts, tuple(inputs), partial(_chunks, **options))
        shares = self.seed.block.traits().shared
        more = [i for i in self.seed.outputs[1:] if flow.readers.get(i) or i in flow.outputs]
        group = {
            "part": order[self.seed.outputs],
            "constants": tuple((p, order[c.outputs], *_ports(c)) for p, c in constants.items()),
            "shared": tuple((p, inputs.index(v)) for p, v in whole.items() if p in shares),
            "beside": tuple((p, inputs.index(v)) for p, v in whole.items() if p not in shares),
            "more": tuple(self.seed.outputs.index(i) - 1 for i in more),
        }
        kernel = partial(_groups, group=tuple(group.items()), **options)
        makes = (self.steps[-1].outputs[0], *more)
        return Prepared(self.seed.address, (name,), parts, tuple(inputs), kernel, makes=makes)

    @property
    def at(self) -> Step:
        """Where it stands: further outputs may be read before the last step."""
        return self.seed if self.seed and len(self.seed.outputs) > 1 else self.steps[-1]


def _chunks(**options: Any) -> Kernel:
    from composer import chunking

    return chunking.Chunks(**_filled(options))


def _groups(group: Any, **options: Any) -> Kernel:
    from composer import chunking

    return chunking.Groups(**_filled(options), group=chunking.Group(**dict(group)))


def _filled(options: dict[str, Any]) -> dict[str, Any]:
    from composer.chunking import Call, Row

    rows, calls = (tuple(kind(*r) for r in options[n]) for kind, n in ((Row, "rows"), (Call, "calls")))
    return {**options, "rows": rows, "calls": calls}


def _whole(seed: Step) -> list[tuple[str, Any]]:
    """The ports of a step in which tokens meet that are not rows, with what they read."""
    grouped = seed.block.traits().groups
    return [(port, value) for port, value in seed.inputs if port not in grouped and value is not None]


def _constants(flow: Flow, seed: Step) -> Iterator[tuple[str, Step]]:
    """The ports that all groups share and that only read what follows from weights, with the step that makes it."""
    for port, value in _whole(seed):
        maker = flow.makers.get(value)
        step = maker.parts[0] if isinstance(maker, Prepared) and len(maker.parts) == 1 else maker
        if not (maker and isinstance(step, Step)) or port not in seed.block.traits().shared:
            continue
        fixed = step.block.traits().constant == "weights" and not flow.makers.keys() & set(step.reads)
        if fixed and flow.only_reader(maker) is seed:
            yield port, step


def _ports(constant: Step) -> tuple[int, tuple[str, ...]]:
    """How many ports go by position, and the names of the others."""
    required = tuple(p for p, _ in constant.inputs if p in constant.block.required)
    return len(required), tuple(p for p, _ in constant.inputs if p not in required)


def _calls(steps: Sequence[Step], order: dict[Any, int]) -> tuple[tuple[tuple[Any, ...], ...], int]:
    """Part, numbers read, number made, numbers dead then; a change of layout is another number for the same rows."""
    same: dict[int, int] = {}
    found: list[tuple[int, tuple[int | None, ...], int]] = []
    for step in steps:
        reads = tuple(i if i is None else same.get(i, i) for i in row_reads(step))
        if is_turn(step):
            same[step.outputs[0]] = reads[0]  # type: ignore[assignment]
        else:
            found.append((order[step.outputs], reads, step.outputs[0]))
    last = steps[-1].outputs[0]
    result = same.get(last, last)
    alive, calls = {result}, []
    for part, reads, made in reversed(found):
        dead = tuple(sorted({i for i in (*reads, made) if i is not None} - alive))
        alive |= {i for i in reads if i is not None}
        calls.append((part, reads, made, dead))
    return tuple(reversed(calls)), result


def grown(flow: Flow, seed: Step) -> Region | None:
    """The largest region that starts with a step, or around it if tokens meet there, and whose result is no wider than
    that of a smaller one; None where there is none."""
    meets = bool(seed.block.traits().groups)
    steps = [*(_before(flow, seed) if meets else ()), seed]
    found: Region | None = None
    for step in (None, *_after(flow, seed)):
        steps += [step] if step else []
        if _leaves(flow, steps) and not (found and _width(flow, steps[-1]) > _width(flow, found.steps[-1])):
            found = Region(tuple(steps), seed if meets else None)
    return found


def _width(flow: Flow, step: Step) -> int:
    """Channels of what a step makes."""
    return flow.values[step.outputs[0]].type.channels


def is_tokenwise(step: AnyStep | None) -> bool:
    """Whether tokens go through a step by themselves; a change of layout is one for rows."""
    return isinstance(step, Step) and (traits_of(step).tokenwise or is_turn(step))


def is_turn(step: Step) -> bool:
    """Whether rows of tokens stay what they are."""
    return isinstance(step.block, (ToFirst, ToLast, Flatten))


def row_reads(step: Step) -> tuple[int | None, ...]:
    """What a step of a region takes as rows, port by port."""
    ports = step.block.traits().groups
    given = dict(step.inputs)
    return tuple(given.get(p) for p in ports) if ports else step.reads


def _before(flow: Flow, seed: Step) -> list[Step]:
    """The steps that only prepare the rows of the seed, in order."""
    found: dict[int, Step] = {}
    inside, open_ = {seed.outputs}, [i for i in row_reads(seed) if i is not None]
    while open_:
        maker = flow.makers.get(open_.pop())
        if not (isinstance(maker, Step) and is_tokenwise(maker)) or maker.outputs in inside:
            continue
        (value,) = maker.outputs
        if value not in flow.outputs and all(r.outputs in inside for r in flow.readers.get(value, ())):
            inside.add(maker.outputs)
            found[flow.places[value]] = maker
            open_ += maker.reads
    return [found[place] for place in sorted(found)]


def _after(flow: Flow, seed: Step) -> Iterator[Step]:
    """The steps that go on from what this makes, as long as they are tokenwise. If it makes more, which may be read
    at once, they read nothing that is not there yet."""
    made, start = {seed.outputs[0]}, flow.places[seed.outputs[0]]
    for step in flow.steps[start + 1 :]:
        if step is None or not made & set(step.reads):
            continue
        late = len(seed.outputs) > 1 and any(flow.places.get(i, 0) > start for i in set(step.reads) - made)
        if late or not (isinstance(step, Step) and is_tokenwise(step)):
            return
        made |= set(step.outputs)
        yield step


def _leaves(flow: Flow, steps: list[Step]) -> bool:
    """Whether only what the last step makes is read outside, of the rows that these make."""
    inside = {s.outputs for s in steps}
    for step in steps[:-1]:
        value = step.outputs[0]
        if value in flow.outputs or any(r.outputs not in inside for r in flow.readers.get(value, ())):
            return False
    return True
