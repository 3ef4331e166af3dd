"""`composer train BLUEPRINT --data DATASET.json --out RUN`: what a network learns from, and what is shown meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli import arguments, common
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic

if TYPE_CHECKING:
    from composer.figures import Cost
    from composer.plans import MemoryPlan
    from composer.training.cases import Dataset
    from composer.training.recipe import Recipe
    from composer.training.runs import Run
    from composer.training.store import Example, View
    from composer.training.suiting import Suited


# Options that the verbs which learn have in common: `train`, `pretrain` and `search`.
Out = Annotated[Path, typer.Option("--out", "-o", help="The run's folder; the same again goes on.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps of an epoch.")]
Batch = Annotated[int | None, typer.Option(help="Patches at a time.")]
Accumulate = Annotated[int | None, typer.Option(help="Batches that make one step.")]
Rate = Annotated[float | None, typer.Option(help="The highest learning rate.")]
Seed = Annotated[int | None, typer.Option(help="Of everything that is drawn.")]
Validation = Annotated[float, typer.Option(help="Share of cases, where the list says none.", min=0, max=0.9)]
Axis = Annotated[str, typer.Option(help="The plane of the network: axial, coronal or sagittal.")]
Normalize = Annotated[str, typer.Option(help="auto (by modality), zscore, minmax or none.")]
Pad = Annotated[bool, typer.Option("--pad", help="Continue images that are smaller than the patch.")]
From = Annotated[
    Path | None,
    typer.Option("--from", help="A run, or weights, to begin with as far as addresses meet: what `pretrain` learned."),
]
Leave = Annotated[
    list[str] | None, typer.Option(help="An address whose weights are not taken from there: 'patches'; repeatable.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")]
Devices = Annotated[str, typer.Option(help="How many, or which.")]
Strategy = Annotated[str, typer.Option(help="Lightning's: auto, ddp, fsdp …")]
Precision = Annotated[str, typer.Option(help="32-true, bf16-mixed, 16-mixed …")]
Workers = Annotated[int, typer.Option(help="Processes that make patches.", min=0)]
Force = Annotated[bool, typer.Option("--force", help="Also what will not fit into the memory.")]


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(train)


def train(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    data: Annotated[
        str | None, typer.Option(help="A dataset.json (MSD, nnU-Net), a YAML list, a folder, or `demo`.")
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="An image and its label map: 'image.nii.gz=labels.nii.gz'; repeatable.")
    ] = None,
    out: Out = Path("run"),
    epochs: Annotated[int | None, typer.Option(help="Epochs; each ends with validation and a checkpoint.")] = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    lr: Rate = None,
    seed: Seed = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Anything else of the recipe, 'schedule=poly', 'rotate=30'; repeatable.")
    ] = None,
    validation: Validation = 0.2,
    axis: Axis = "axial",
    normalize: Normalize = "auto",
    pad: Pad = False,
    weights: Annotated[Path | None, typer.Option(help="Weights to begin with.")] = None,
    from_: From = None,
    leave: Leave = None,
    device: Device = "auto",
    devices: Devices = "1",
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
    workers: Workers = 0,
    memory: Annotated[
        str | None, typer.Option(help="The largest patch whose step fits into so much, such as 8GB; or a plan for it.")
    ] = None,
    force: Force = False,
    plugin: arguments.Plugins = None,
) -> None:
    """Train a segmentation network. Interrupted at any moment, the same command goes on where it was."""
    common.keep_memory()
    needed()
    from composer.training import store
    from composer.training.recipe import recipe as recipe_of
    from composer.training.recipe import words
    from composer.training.runs import Run
    from composer.training.suiting import suit

    dataset = listed(data, pair, out).split(validation, seed or 0)
    given = sorted({k.partition("=")[0] for k in overrides or ()})
    run = Run(out)
    before = earlier(run, reloaded(blueprint, overrides, {}, plugin).name)
    suited = partial(suit, lambda more: reloaded(blueprint, overrides, more, plugin), given, dataset, axis, pad)
    found = suited(before["view"]["size"] if before else None)
    own = found.blueprint.source.get("training")
    recipe_of(own, span=getattr(own, "span", None))
    named = dict(epochs=epochs, steps=steps, batch=batch, accumulate=accumulate, lr=lr, seed=seed)
    said = {**words(recipe or []), **{k: v for k, v in named.items() if v is not None}}
    kept = {"batch", "accumulate"} & {*said}
    made = recipe_of(own, {k: before["recipe"][k] for k in ("batch", "accumulate") if before and not kept}, said)
    lacks = None if memory or force else short(found, made)
    if not before and (memory or lacks):
        found, made = roomy(found, made, dataset, suited, memory, "size" in given, bool(kept), pad)
        lacks = short(found, made) if lacks else None
    introduce(found, dataset, made)
    plan = step_within(memory, found.blueprint, found.view, made, force) if memory else None
    if plan:
        print(plan)
    elif lacks:
        raise refusal(found, made, *lacks)
    run.claim()
    known = [store.Scaling(**each) for each in before["scaling"]] if before else []
    with bar("preparing") as advance:
        scaled = store.scalings(dataset, found.view.channels, normalize, known)
        examples = store.prepare(dataset, found.view, scaled, run.prepared, pad=pad, progress=advance)
    for case in store.empty(examples):
        print(f"note: the label map of `{case.name}` is empty", file=sys.stderr)
    asked = settings(found, dataset, made, scaled) | started(from_, leave)
    resumed = run.begin(asked, found.blueprint.to_yaml())
    machine = (device, devices, strategy, precision, workers)
    start = (from_, leave or [])
    learned(Lesson(found, dataset, made, examples, run, resumed, machine, weights, plan, start), asked["labels"])


def needed() -> None:
    """Lightning is an extra."""
    from importlib.util import find_spec

    if find_spec("lightning") is None:
        help = ("pip install 'blueprint-composer[train]'",)
        raise BlueprintError(Diagnostic("BP826", "training needs the package `lightning`", help=help))


def started(path: Path | None, leave: Sequence[str] | None) -> dict[str, Any]:
    """What a run began with, for run.json."""
    if path is None and leave:
        text = "`--leave` says what not to take from a run, and no run is given"
        raise BlueprintError(Diagnostic("BP844", text, help=("name it with `--from RUN`",)))
    return {} if path is None else {"from": str(path.absolute()), "leave": list(leave or ())}


def begin_with(network: Any, path: Path | None, leave: Sequence[str], *, resumed: bool) -> None:
    """Take weights from another run and say which; a run that goes on has its own."""
    if path is not None and not resumed:
        from composer.training.transfer import take

        print(take(network, path, leave))


def listed(data: str | None, pairs: Sequence[str] | None, out: Path, labelled: bool = True) -> Dataset:
    """The data that the command line names; those of the demonstration are made beside the run."""
    from composer.training import cases

    if data == "demo" and not pairs and not Path("demo").exists():
        from composer.training import demonstration

        return cases.read(demonstration.write(out.absolute().parent / "lobes"))
    if data and not pairs:
        return cases.read(data, labelled)
    if data or not pairs:
        text = "give the data once: `--data dataset.json`, or `--pair image.nii.gz=labels.nii.gz` for each image"
        raise BlueprintError(Diagnostic("BP820", text))
    split = [p.partition("=") for p in pairs]
    wrong = next((p for p, (_, equals, _) in zip(pairs, split, strict=True) if not equals), None)
    if wrong:
        raise BlueprintError(Diagnostic("BP820", f"`--pair {wrong}` has no label map: write `--pair IMAGE=LABELS`"))
    return cases.of_pairs([(Path(image), Path(label)) for image, _, label in split])


def reloaded(name: str, overrides: list[str] | None, more: Mapping[str, Any], plugins: list[Path] | None) -> Blueprint:
    """The blueprint with further parameters, as if they stood on the command line."""
    import json

    return common.load(name, [*(overrides or ()), *(f"{k}={json.dumps(v)}" for k, v in more.items())], plugins)


def earlier(run: Run, name: str) -> dict[str, Any]:
    """What the run in a folder was asked for, if it is one of this network: what was chosen for it then, by the memory
    there was and by all images, is not chosen again."""
    before = run.read() if run.settings.is_file() else {}
    return before if before.get("name") == name else {}


def roomy(
    found: Suited,
    recipe: Recipe,
    dataset: Dataset,
    suited: Callable[[Sequence[int]], Suited],
    memory: str | None,
    fixed: bool,
    kept: bool,
    pad: bool,
) -> tuple[Suited, Recipe]:
    """The patch, and how many at a time, that a step has room for; said where it is not what the blueprint has. A patch
    that the user gave is trained by a plan, if one is asked for."""
    from composer import memory as memories
    from composer.training.room import Search, roomiest

    budget = memories.parse(memory) if memory else memories.available()
    fixed = fixed or "size" not in found.blueprint.values
    if budget is None or (memory and fixed):
        return found, recipe
    top = roomiest(found.blueprint, found.view, dataset, pad) if memory else found.view.size
    room = Search(found.blueprint, found.view, recipe, budget, top, fixed, kept).room()
    if not room.why:
        return found, recipe
    print(room.why)
    other = found if room.size == found.view.size else suited(room.size)
    return other, recipe.model_copy(update={"batch": room.batch, "accumulate": room.accumulate})


def introduce(found: Suited, dataset: Dataset, recipe: Recipe) -> None:
    """What is going to happen, in a few lines."""
    counts = ", ".join(f"{len(cases)} {part}" for part, cases in dataset.parts.items() if cases)
    size = " × ".join(map(str, found.view.size))
    print(f"{found.blueprint.name} on {dataset.name}: {counts}; patches of {size}, {recipe.batch} at a time")
    if found.said:
        print(f"set for the data: {' '.join(found.said)}")


def short(found: Suited, recipe: Recipe) -> tuple[Cost, int] | None:
    """What a step costs and the memory that is free, where it is not enough."""
    from composer import memory
    from composer.training.room import step_of

    free = memory.available()
    cost = step_of(found.blueprint, found.view, recipe).cost(flops=False)
    return None if free is None or cost.peak.bytes <= free else (cost, free)


def refusal(found: Suited, recipe: Recipe, cost: Cost, free: int) -> BlueprintError:
    """A step that the memory cannot hold (BP706)."""
    from composer import figures, memory, remedies
    from composer.training.room import step_of

    request = step_of(found.blueprint, found.view, recipe)
    help = remedies.ways(request, lambda c: c.peak.bytes, lambda c: c.peak.bytes <= free)
    what = f"training `{found.blueprint.name}` with a batch of {recipe.batch}"
    worst = figures.largest(cost.by("node"), "at_peak")
    return memory.refusal(what, cost.peak.bytes, free, worst, help, "or go on: `--force`")


def step_within(said: str, blueprint: Blueprint, view: View, recipe: Recipe, force: bool) -> MemoryPlan:
    """How a step fits into an amount of memory; refused (BP706) where no plan does, unless forced."""
    from composer import planning, remedies
    from composer.training.room import step_of

    request = step_of(blueprint, view, recipe)
    shapes: Any = request.shapes
    plan = blueprint.plan(said, **request.options, **shapes)
    if plan.fits or force:
        return plan
    help = remedies.ways(request, lambda c: c.peak.bytes, lambda c: c.peak.bytes <= plan.budget)
    raise planning.refused(plan, help, "or train by the best plan: `--force`")


def settings(found: Suited, dataset: Dataset, recipe: Recipe, scaled: Sequence[Any]) -> dict[str, Any]:
    """Everything that decides the result, for run.json."""
    names = dataset.labels or tuple(f"class {k}" for k in range(found.view.classes))
    parts = {part: [c.name for c in cases] for part, cases in dataset.parts.items()}
    return {
        "name": found.blueprint.name,
        "blueprint": found.blueprint.to_yaml(),
        "view": asdict(found.view),
        "labels": list(names),
        "scaling": [asdict(s) for s in scaled],
        "flip": dataset.flip,
        "data": {"name": dataset.name, "path": str(dataset.path.absolute()) if dataset.path else None, **parts},
        "recipe": recipe.model_dump(),
    }


@dataclass(frozen=True)
class Lesson:
    """What is learned, from what, how and where; `start` is another run to begin with, and what of it is left."""

    found: Suited
    dataset: Dataset
    recipe: Recipe
    examples: list[Example]
    run: Run
    resumed: bool
    machine: tuple[Any, ...]
    weights: Path | None = None
    plan: MemoryPlan | None = None
    start: tuple[Path | None, Sequence[str]] = (None, ())


def learned(lesson: Lesson, names: Sequence[str]) -> None:
    """Build, train, and say what came of it."""
    with Shown(lesson.recipe, names, lesson.resumed) as heard:
        history = taught(lesson, names, heard)
    best = max(history, key=lambda row: row.get("dice", 0.0))
    if "dice" in best:
        print(f"best mean Dice {best['dice']:.3f} in epoch {best['epoch']:.0f}: {lesson.run.best}")
    print(f"wrote {lesson.run.final}, {lesson.run.metrics}")


def taught(lesson: Lesson, names: Sequence[str], heard: Any = None) -> list[Mapping[str, float]]:
    """Build, and train to the end of the recipe; the metrics of every epoch."""
    import torch

    from composer.lightning import Segmentation
    from composer.training.engine import Data, Machine, learn

    found, recipe = lesson.found, lesson.recipe
    torch.manual_seed(recipe.seed)
    network = found.blueprint.build(weights=lesson.weights)
    begin_with(network, *lesson.start, resumed=lesson.resumed)
    if lesson.plan:
        network.planned(lesson.plan)
    if recipe.prior and not lesson.resumed:
        _prior(network, found, lesson.examples)
    module = Segmentation(network, recipe, names, found.view.size)
    data = Data(lesson.examples, found.view, lesson.dataset.flip)
    return learn(module, data, lesson.run, Machine(*lesson.machine), heard)


def _prior(network: Any, found: Suited, examples: Sequence[Example]) -> None:
    from composer.segmenting import head_of
    from composer.training.objective import begin_with_frequencies

    counts = [sum(e.counts[k] for e in examples if e.part == "training") for k in range(found.view.classes)]
    program = found.blueprint.check()
    head = head_of(program)
    if not begin_with_frequencies(network, head, counts):
        text = f"`prior` needs a head with a bias for each of the {found.view.classes} classes; `{head}` has none"
        raise BlueprintError(Diagnostic("BP826", text, help=("leave out `prior`",)))


@contextmanager
def bar(words: str) -> Iterator[Any]:
    """A progress bar that vanishes."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(words, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


class Shown:
    """A bar over the steps with the loss, and a line for each epoch with the Dice of every class."""

    def __init__(self, recipe: Recipe, names: Sequence[str], resumed: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.recipe, self.names, self.resumed = recipe, names, resumed
        self.console = Console(highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.progress.add_task("epoch", total=recipe.total * recipe.accumulate, loss="–")
        self.first = True

    def __enter__(self) -> Shown:
        self.progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.progress.stop()

    def __call__(self, what: str, value: Any) -> None:
        heard: Mapping[str, Any] = {"epoch": self.epoch, "step": self.step, "row": self.row}
        heard[what](value)

    def epoch(self, number: int) -> None:
        if self.first and self.resumed:
            self.console.print(f"going on with epoch {number + 1}")
        self.first, self.number = False, number
        done = number * self.recipe.steps * self.recipe.accumulate
        self.progress.update(self.task, description=f"epoch {number + 1}/{self.recipe.epochs}", completed=done)

    def step(self, value: tuple[int, float]) -> None:
        done, loss = value
        before = self.number * self.recipe.steps * self.recipe.accumulate
        self.progress.update(self.task, completed=before + done, loss=f"{loss:.3f}")

    def row(self, row: Mapping[str, float]) -> None:
        dice = [f"{name} {row[key]:.3f}" for name in self.names[1:] if (key := f"dice/{name}") in row]
        mean = f"  dice {row['dice']:.3f}" if "dice" in row else ""
        mean += f"  accuracy {row['accuracy']:.3f}" if "accuracy" in row else ""
        line = f"epoch {row['epoch']:.0f}/{self.recipe.epochs}  loss {row['loss']:.3f}{mean}"
        self.console.print(f"{line}  {'  '.join(dice)}".rstrip(), soft_wrap=True)
