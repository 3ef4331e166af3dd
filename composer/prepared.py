"""Prepared steps: one step of the evaluation plan in the place of several, with tensors derived from their modules.

    wherever gradients are recorded     conv -> norm -> relu
    evaluation without gradients        [conv · norm] -> relu

A pass that needs weights, or that only holds at evaluation, rewrites `Program.evaluation` and leaves `Program.steps`
as they are; one that derives weights differentiably may rewrite `Program.training` too. A prepared step owns no
parameter and no module: it reads those of its `parts`, so `state_dict`, training, hooks and replaced modules go on as
before. What it derives is made at the first call and made again when a parameter changed, in training at every call;
where a part is not what it was (a hook, another module, one that trains), the parts run themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from composer.inference import Program, Step, Value
from composer.liveness import ids_of, needed
from composer.traits import Traits


class Kernel(Protocol):
    """How a prepared step computes. It holds options and no tensors."""

    def prepare(self, modules: list[Any]) -> Any:
        """What is derived from the modules of the parts: tensors in tuples and lists. Gradients are off."""
        ...

    def run(self, derived: Any, modules: list[Any], values: tuple[Any, ...]) -> Any:
        """The value, from `values` in the order of `Prepared.inputs`."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A step of the evaluation plan that stands for its `parts`.

    by       the passes that made it
    parts    the steps it replaces, in order; the last one's value is its value
    inputs   numbers of the values that its kernel takes, in order
    guards   steps that must still be as they were built although they run themselves
    makes    numbers of its values where they are several; its kernel gives a list
    fresh    whether its value is new memory, that of no input, parameter or earlier call
    trains   whether it stands for its parts in training: what it derives then carries gradients to their weights
    """

    address: str
    by: tuple[str, ...]
    parts: tuple[Step, ...]
    inputs: tuple[int, ...]
    kernel: Callable[[], Kernel]
    guards: tuple[Step, ...] = ()
    makes: tuple[int, ...] = ()
    fresh: bool = False
    trains: bool = False
    keys: None = None
    unused: bool = False

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.makes or self.parts[-1].outputs

    @property
    def reads(self) -> tuple[int, ...]:
        """What the kernel takes, and what the parts need from outside."""
        made = {i for part in self.parts for i in part.outputs}
        around = (i for part in self.parts for i in part.reads if i not in made and i not in self.inputs)
        return (*self.inputs, *dict.fromkeys(around))

    def also(self, by: str, **options: Any) -> Prepared:
        """The same step after one more pass, which sets options of its kernel."""
        kernel: Callable[..., Kernel] = self.kernel
        return replace(self, by=(*self.by, by), kernel=partial(kernel, **options))


AnyStep = Step | Prepared

Preparing = Callable[[Program], Program]
"""Passes that only prepare: modules, `steps` and the `state_dict` are those of the program they are given."""


def operator(weight: str, **options: Any) -> Kernel:
    """The kernel of a linear step, with the options of `composer.kernels.Operator`."""
    from composer.kernels import Operator

    return Operator(weight, **options)


class Flow:
    """The steps of the plan of evaluation, or of that of `training`, on their way through a pass: who makes a value,
    and who reads it."""

    def __init__(self, program: Program, training: bool = False):
        self.program, self.training = program, training
        self.values: Mapping[int, Value] = {v.id: v for v in program.values}
        self.outputs = {i for o in program.outputs if training or not o.training for i in ids_of(o.ids)}
        self.steps: list[AnyStep | None] = list(at_training(program) if training else at_evaluation(program))
        self.makers: dict[int, AnyStep] = {}
        self.places: dict[int, int] = {}
        self.readers: dict[int, list[AnyStep]] = {}
        self.made: list[Prepared] = []
        for place, step in enumerate(self.steps):
            if step is not None:
                self._enter(step, place)

    def _enter(self, step: AnyStep, place: int) -> None:
        for i in step.outputs:
            self.makers[i], self.places[i] = step, place
        for i in step.reads:
            self.readers.setdefault(i, []).append(step)

    def _leave(self, step: AnyStep) -> int:
        for i in step.outputs:
            del self.makers[i]
        for i in set(step.reads):
            self.readers[i] = [r for r in self.readers[i] if r is not step]
        return self.places[step.outputs[0]]

    def __iter__(self) -> Iterator[AnyStep]:
        """The steps as they were; those that a pass absorbs meanwhile are skipped."""
        for step in tuple(self.steps):
            if step is not None and self.makers.get(step.outputs[0]) is step:
                yield step

    def only_reader(self, step: AnyStep) -> AnyStep | None:
        """The one step that reads what another makes, once, if nobody else does, not even the user."""
        (value, *more) = step.outputs
        readers = self.readers.get(value, ())
        return readers[0] if len(readers) == 1 and not more and value not in self.outputs else None

    def reads_volume(self, step: AnyStep) -> bool:
        """Whether the first value of a step is (B, C, D, H, W)."""
        return self.reads_map(step, (3,))

    def reads_map(self, step: AnyStep, ranks: tuple[int, ...] = (2, 3)) -> bool:
        """Whether the first value of a step is (B, C, *grid), of an image or a volume."""
        value = self.values[step.reads[0]]
        return value.layout == "first" and value.type.kind == "map" and value.type.rank in ranks

    def put(self, prepared: Prepared, at: Step | None = None) -> None:
        """A prepared step at the place of the last of its parts, or of one of them; what stood for one is gone."""
        gone = [self.makers[i] for part in prepared.parts for i in part.outputs[:1] if i in self.makers]
        place = self.places[(at or gone[-1]).outputs[0]]
        for step in gone:
            self.steps[self._leave(step)] = None
        self.steps[place] = prepared
        self._enter(prepared, place)
        self.made.append(prepared)

    def done(self) -> Program:
        """The program with these steps at evaluation, or in training."""
        steps = tuple(s for s in self.steps if s is not None)
        return replace(self.program, training=steps) if self.training else replace(self.program, evaluation=steps)


def at_evaluation(program: Program) -> tuple[AnyStep, ...]:
    """The steps that run at evaluation: what passes made of them, or those that an output needs then."""
    if program.evaluation is not None:
        return program.evaluation
    return _live(program, (i for o in program.outputs if not o.training for i in ids_of(o.ids)))


def at_training(program: Program) -> tuple[AnyStep, ...]:
    """The steps that run in training."""
    return program.training or _live(program, (i for o in program.outputs for i in ids_of(o.ids)))


def _live(program: Program, outputs: Iterable[int]) -> tuple[Step, ...]:
    """The steps that some outputs need."""
    wanted = needed(program.steps, outputs)
    return tuple(s for s in program.steps if wanted & set(s.outputs) and not s.unused)


_NONE = Traits()


def traits_of(step: AnyStep | None) -> Traits:
    """The promises of a step that runs as it is; one that is prepared already makes none."""
    return step.traits if isinstance(step, Step) and step.keys is None else _NONE


def by_position(step: Step) -> bool:
    """Whether a step takes its values by position, each by itself or all as one list."""
    if len(step.inputs) == 1:
        return step.inputs[0][1] is not None
    return all(isinstance(value, int) and port in step.block.required for port, value in step.inputs)


def linear_step(step: AnyStep) -> Prepared | None:
    """A linear step with its derived weights, to which a pass may add options of `operator`; None for any other."""
    if isinstance(step, Prepared):
        return step if isinstance(step.kernel, partial) and step.kernel.func is operator else None
    traits = traits_of(step)
    kernel = partial(operator, traits.weight)
    return Prepared(step.address, (), (step,), step.reads, kernel, fresh=True) if traits.linear else None


def fired(program: Program) -> Iterable[tuple[str, Prepared]]:
    """Each prepared step of a program with the names of the passes that made it."""
    found: dict[tuple[str, str], Prepared] = {}
    for step in (*(program.evaluation or ()), *(program.training or ())):
        for name in step.by if isinstance(step, Prepared) else ():
            found.setdefault((name, step.address), step)  # type: ignore[arg-type]
    return [(name, step) for (name, _), step in found.items()]
