"""`composer pretrain BLUEPRINT --data LIST --out RUN`: what an encoder learns from images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli import arguments, common, training

if TYPE_CHECKING:
    from composer.plans import MemoryPlan
    from composer.pretexts import Pretext
    from composer.training.engine import Data
    from composer.training.recipe import Recipe
    from composer.training.runs import Run


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(pretrain)


def pretrain(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    pretext: Annotated[
        str, typer.Option(help="mae: predict hidden patches; rotation: tell how the image was turned.")
    ] = "mae",
    option: Annotated[
        list[str] | None, typer.Option(help="Of the pretext: 'ratio=0.6', 'depth=4', 'rotations=24'; repeatable.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="What `train` takes; label maps are not looked at, and may be missing.")
    ] = None,
    out: training.Out = Path("run"),
    epochs: Annotated[int | None, typer.Option(help="Epochs; each ends with a checkpoint.")] = None,
    steps: training.Steps = None,
    batch: training.Batch = None,
    accumulate: training.Accumulate = None,
    lr: training.Rate = None,
    seed: training.Seed = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Anything else of the recipe, 'schedule=poly', 'scale=0.3'; repeatable.")
    ] = None,
    axis: training.Axis = "axial",
    normalize: training.Normalize = "auto",
    pad: training.Pad = False,
    from_: training.From = None,
    leave: training.Leave = None,
    device: training.Device = "auto",
    devices: training.Devices = "1",
    strategy: training.Strategy = "auto",
    precision: training.Precision = "32-true",
    workers: training.Workers = 0,
    memory: Annotated[str | None, typer.Option(help="Plan how a step fits into so much memory, such as 8GB.")] = None,
    force: training.Force = False,
    plugin: arguments.Plugins = None,
) -> None:
    """Teach an encoder without labels; `composer train … --from RUN` begins with what it learned."""
    common.keep_memory()
    training.needed()
    from composer import pretexts
    from composer.pretraining import DEFAULTS
    from composer.training import store
    from composer.training.engine import Data, Machine
    from composer.training.recipe import recipe as recipe_of
    from composer.training.recipe import words
    from composer.training.runs import Run
    from composer.training.suiting import Suited, image_of, suit

    dataset = training.listed(data, None, out, labelled=False).unlabelled()
    given = sorted({k.partition("=")[0] for k in overrides or ()})
    suited = suit(
        lambda more: training.reloaded(blueprint, overrides, more, plugin), given, dataset, axis, pad, see=image_of
    )
    task = pretexts.pretext(suited.blueprint, pretext, **words(option or []))
    found = Suited(task.blueprint, suited.view, suited.said)
    named = dict(epochs=epochs, steps=steps, batch=batch, accumulate=accumulate, lr=lr, seed=seed)
    made = recipe_of(DEFAULTS[pretext], words(recipe or []), named)
    training.introduce(found, dataset, made)
    print(task)
    plan = training.step_within(memory, task.blueprint, found.view, made, force) if memory else None
    if plan:
        print(plan)
    elif not force and (lacks := training.short(found, made)):
        raise training.refusal(found, made, *lacks)
    run = Run(out)
    run.claim()
    with training.bar("preparing") as advance:
        scaled = store.scalings(dataset, found.view.channels, normalize)
        examples = store.prepare(dataset, found.view, scaled, run.prepared, pad=pad, progress=advance)
    kind = {"kind": task.kind, "encoder": list(task.encoder), "options": dict(task.options)}
    asked = training.settings(found, dataset, made, scaled) | {"labels": [], "pretext": kind}
    resumed = run.begin(asked | training.started(from_, leave), task.blueprint.to_yaml())
    learned(
        task, made, Data(examples, found.view, dataset.flip), run, resumed,
        Machine(device, devices, strategy, precision, workers), plan, (from_, leave or []),
    )  # fmt: skip


def learned(
    task: Pretext,
    recipe: Recipe,
    data: Data,
    run: Run,
    resumed: bool,
    machine: Any,
    plan: MemoryPlan | None,
    start: tuple[Path | None, list[str]],
) -> None:
    """Build, train, and say what came of it."""
    import torch

    from composer.pretraining import Pretraining
    from composer.training.engine import learn

    torch.manual_seed(recipe.seed)
    network = task.blueprint.build()
    training.begin_with(network, *start, resumed=resumed)
    if plan:
        network.planned(plan)
    with training.Shown(recipe, [], resumed) as shown:
        learn(Pretraining(network, task, recipe), data, run, machine, shown)
    print(f"wrote {run.final}, {run.metrics}; go on with `composer train … --from {run.folder}`")
