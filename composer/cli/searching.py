"""`composer search BLUEPRINT --space space.yaml --budget "flops<50G" --data LIST --out STUDY`."""

from __future__ import annotations

import json as json_
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from composer.cli import arguments, common, training
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic

if TYPE_CHECKING:
    from composer.search.composing import Origin
    from composer.search.front import Found
    from composer.search.limits import Limits
    from composer.search.space import Composition, Space
    from composer.search.study import Place, Study, Trial
    from composer.training.cases import Dataset
    from composer.training.recipe import Recipe
    from composer.training.suiting import Suited

EPOCH = 100
"""The most steps between two checkpoints of a trial."""
PATIENCE = 300
"""So many compositions in a row of which none can be trained end a search."""


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(search)


def search(
    blueprint: Annotated[
        str | None,
        typer.Argument(metavar="BLUEPRINT", help="What is varied.", autocompletion=arguments.complete_blueprint),
    ] = None,
    overrides: arguments.Overrides = None,
    space: Annotated[Path | None, typer.Option(help="A YAML file: what to choose from.")] = None,
    budget: Annotated[str | None, typer.Option(help="Such as 'flops<50G, memory<8GB, parameters<5M'.")] = None,
    data: Annotated[str | None, typer.Option(help="As of `train`: a dataset.json, a YAML list, a folder.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The study's folder; the same goes on.")] = Path("study"),
    trials: Annotated[int, typer.Option(help="Compositions to train, with those already trained.", min=1)] = 20,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each.", min=1)] = 300,
    recipe: Annotated[
        list[str] | None, typer.Option(help="The same for all, 'batch=4', 'rotate=0'; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
    dry: Annotated[bool, typer.Option("--dry", help="Only say how many of --trials compositions fit.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Only the table of the study in --out, so far.")] = False,
    validation: training.Validation = 0.2,
    axis: training.Axis = "axial",
    normalize: training.Normalize = "auto",
    device: training.Device = "auto",
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """Search parameters and parts for the best Dice at each cost. Stopped at any moment, the same command goes on."""
    from composer.blueprint import parse_overrides
    from composer.search import composing, limits, study
    from composer.search import space as spaces
    from composer.training.recipe import recipe as recipe_of
    from composer.training.recipe import words

    place = study.Place(out)
    if listed:
        return shown(written(place), json)
    if blueprint is None or space is None:
        raise typer.BadParameter("give a BLUEPRINT and --space, or --list with --out")
    most, chosen = limits.parse(budget), spaces.read(space)
    base = common.load(blueprint, overrides, plugin)
    base.check()
    origin = composing.Origin(blueprint, parse_overrides(overrides or ()), common.registry(plugin))
    told = {**told_by(steps, seed), **words(recipe or [])}
    recipe_of(base.source.get("training"), told)
    composing.verify(chosen, origin, told)
    dataset = scored(training.listed(data, None, out), validation, seed) if data or not dry else None
    asked = Asked(origin, chosen, most, dataset, told, axis)
    if dry:
        return tried(asked, trials, seed, json)
    study.needed()
    training.needed()
    assert dataset is not None
    common.keep_memory()
    with place.locked():
        place.begin(settings(asked, normalize))
        with study.opened(place, chosen, seed) as kept:
            work = Work(asked, kept, place, normalize, device)
            try:
                worked(work, trials, sys.stderr if json else sys.stdout)
            except KeyboardInterrupt:
                if kept.found.rows:
                    finish(work, json)
                raise
            finish(work, json)


def told_by(steps: int, seed: int) -> dict[str, int]:
    """The steps of a trial in equal epochs, each of which ends with validation and a checkpoint."""
    epochs = -(-steps // EPOCH)
    return {"epochs": epochs, "steps": -(-steps // epochs), "seed": seed}


@dataclass(frozen=True)
class Asked:
    """What a composition is judged by."""

    origin: Origin
    space: Space
    limits: Limits
    dataset: Dataset | None
    told: Mapping[str, Any]
    axis: str

    def suited(self, composition: Composition) -> Suited:
        """The checked blueprint of a composition, made for the data. Imports no torch."""
        from composer.training.suiting import Suited, suit, view_of

        given = sorted({*self.origin.given, *composition.overrides})
        if self.dataset is None:
            made = self.origin.blueprint(composition.overrides)
            return Suited(made, view_of(made, self.axis), ())
        return suit(lambda more: self.origin.blueprint(composition.overrides, more), given, self.dataset, self.axis)

    def judged(self, composition: Composition, free: int | None = None, whole: bool = True) -> Judged:
        """A composition after `check` and the cost model, unless `whole` only as far as the budget asks."""
        from composer.search.composing import pruning, recipe_of, weighed
        from composer.training.room import step_of

        try:
            found = self.suited(composition)
            learned = recipe_of(found.blueprint, composition, self.told)
            step = step_of(found.blueprint, found.view, learned)
        except ComposerError as fault:
            return Judged(pruned=pruning(fault))
        weight = weighed(step, self.limits, free, whole)
        return Judged(found, learned, weight.figures, weight.pruned)


@dataclass(frozen=True)
class Judged:
    """What is known of a composition before it is trained, and why it is not."""

    suited: Suited | None = None
    recipe: Recipe | None = None
    figures: Mapping[str, int] = field(default_factory=dict)
    pruned: Diagnostic | None = None


def scored(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The data with cases to compare compositions by: a share of those for training, where the list names none. BP820
    where there are none."""
    divided = replace(dataset, divided=bool(dataset.parts.get("validation"))).split(share, seed)
    if any(c.label for c in divided.parts.get("validation", ())):
        return divided
    text = "a search compares networks by their Dice in validation, and no case is for validation"
    help = ("name some under `split: {validation: […]}`, or give `--validation 0.2`",)
    raise BlueprintError(Diagnostic("BP820", text, help=help))


def settings(asked: Asked, normalize: str) -> dict[str, Any]:
    """Everything that decides what is found, for search.json."""
    assert asked.dataset is not None
    parts = {part: [c.name for c in cases] for part, cases in asked.dataset.parts.items()}
    path = str(asked.dataset.path.absolute()) if asked.dataset.path else None
    document = asked.space.document
    return {
        "name": asked.origin.name,
        "blueprint": asked.origin.blueprint().to_yaml(),
        "space": {k: document[k] for k in ("network", "training") if document.get(k)},
        "budget": dict(asked.limits.most),
        "data": {"name": asked.dataset.name, "path": path, **parts},
        "recipe": dict(asked.told),
        "axis": asked.axis,
        "normalize": normalize,
    }


# ---- without training -----------------------------------------------------------------------------------------------


def tried(asked: Asked, count: int, seed: int, json: bool) -> None:
    """How many compositions pass `check`, and how many of them the budget. Without a budget no torch is imported."""
    from random import Random

    from composer.search.front import counted

    rng = Random(seed)
    whole = asked.space.count <= count
    made = asked.space.every() if whole else (asked.space.drawn(rng) for _ in range(count))
    judged = [judge(asked, c) for c in made]
    pruned = [d for d in judged if d]
    valid = len(judged) - sum(d.code != "BP849" for d in pruned)
    fits = len(judged) - len(pruned)
    reasons = {d.code: d.plain for d in reversed(pruned)}
    counts = counted(d.code for d in pruned)
    if not fits:
        raise nothing(counts, reasons)
    if json:
        said = {c: {"count": n, "first": reasons[c]} for c, n in counts.items()}
        facts = {"compositions": len(judged), "all": whole, "valid": valid}
        return common.print_json({**facts, **({"fit": fits} if asked.limits.most else {}), "pruned": said})
    print(f"{len(judged)} compositions{', all there are' if whole else ', drawn at random'}: {valid} valid", end="")
    print(f", {fits} of them within the budget" if asked.limits.most else "")
    say_pruned(counts, reasons)


def judge(asked: Asked, composition: Composition) -> Diagnostic | None:
    """Why a composition would not be trained. The cost model is asked only where there is a budget to hold."""
    from composer.search.composing import pruning, recipe_of

    if asked.limits.most:
        return asked.judged(composition, whole=False).pruned
    try:
        recipe_of(asked.suited(composition).blueprint, composition, asked.told)
    except ComposerError as fault:
        return pruning(fault)
    return None


# ---- with training --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A study at work."""

    asked: Asked
    study: Study
    place: Place
    normalize: str
    device: str

    def attempt(self, trial: Trial) -> str:
        """Judge a trial and train it; what is said of it. What is wrong with the data or the disk is raised."""
        import torch

        from composer import memory
        from composer.search.composing import LATE

        before = self.study.known(trial)
        if before is not None:
            trial.repeat(before)
            return ""
        judged = self.asked.judged(trial.composition, memory.available())
        if judged.pruned is not None:
            trial.prune(judged.pruned)
            return ""
        assert judged.suited is not None
        assert judged.recipe is not None
        start = time.perf_counter()
        try:
            dice = self.trained(trial, judged.suited, judged.recipe)
        except BlueprintError as fault:
            if not all(d.code in LATE for d in fault.diagnostics):
                raise
            trial.prune(fault.diagnostics[0])
            return f"trial {trial.number}  {fault.diagnostics[0].code}  {trial.composition}"
        except torch.OutOfMemoryError:
            trial.prune(Diagnostic("BP706", f"{self.device} had not enough memory for a step of training"))
            return f"trial {trial.number}  BP706  {trial.composition}"
        trial.done(dice, judged.figures, time.perf_counter() - start)
        publish(self)
        return f"trial {trial.number}  dice {dice:.3f}  {said(judged.figures)}  {trial.composition}"

    def trained(self, trial: Trial, found: Suited, learned: Recipe) -> float:
        """The best mean Dice in validation of a trial, whose run goes on where it was."""
        from composer.training import store
        from composer.training.runs import Run

        dataset, run = self.asked.dataset, Run(self.place.run(trial.number))
        assert dataset is not None
        run.claim()
        scaled = store.scalings(dataset, found.view.channels, self.normalize)
        examples = store.prepare(dataset, found.view, scaled, self.place.prepared)
        asked = training.settings(found, dataset, learned, scaled)
        resumed = run.begin(asked, found.blueprint.to_yaml())
        lesson = training.Lesson(found, dataset, learned, examples, run, resumed, (self.device,))
        history = training.taught(lesson, asked["labels"])
        return max((row["dice"] for row in history if row.get("dice", nan) >= 0), default=0.0)


def publish(work: Work) -> None:
    """Write the table, and the best composition as a blueprint."""
    from composer.files import write_text
    from composer.search.composing import as_text, recipe_of
    from composer.search.front import write

    found, place, asked = work.study.found, work.place, work.asked
    write(found, place.folder)
    if found.best is None:
        return
    composition = work.study.composition(found.best.number)
    suited = asked.suited(composition)
    learned = recipe_of(suited.blueprint, composition, asked.told)
    summary = f"Trial {found.best.number} of a search: Dice {found.best.dice:.3f} after {learned.total} steps"
    write_text(place.best, as_text(asked.origin, suited.blueprint, learned, place.folder, summary))


def worked(work: Work, trials: int, shown: TextIO) -> None:
    """Train until there are so many trials, or nothing is left to train; a line for each."""
    idle = 0
    while len(work.study.found.rows) < trials and idle < PATIENCE and work.study.distinct < work.asked.space.count:
        line = work.attempt(work.study.next())
        idle = 0 if line else idle + 1
        if line:
            print(line, file=shown, flush=True)


# ---- what is shown --------------------------------------------------------------------------------------------------


def finish(work: Work, json: bool) -> None:
    """Everything that is written and shown of a study, whether it has ended or was stopped."""
    from composer.search.front import draw

    publish(work)
    found, place = work.study.found, work.place
    if found.rows:
        draw(found, place.picture, f"{work.asked.origin.name}: {len(found.rows)} trained")
    shown(found, json)
    if not json:
        print(f"wrote {', '.join(str(place.folder / n) for n in ('trials.csv', 'front.png', 'best.yaml'))}")


def shown(found: Found, json: bool) -> None:
    """The table of a study: trained trials, the best first, those of the front marked, and what was not trained."""
    from composer.cli.listing import table

    if json:
        return common.print_json(found.to_json())
    if not found.rows:
        raise nothing(found.pruned, found.reasons)
    marks = {r.number: "*" for r in found.front}
    rows = sorted(found.rows, key=lambda r: (-r.dice, r.flops))
    head = ("trial", "front", "dice", "FLOPs", "memory", "parameters")
    table(head, [(r.number, marks.get(r.number, ""), f"{r.dice:.3f}", *said(r.figures).split("  ")) for r in rows])
    keys = dict.fromkeys(k for r in rows for k in r.chosen)
    differ = [k for k in keys if len({r.chosen.get(k) for r in rows}) > 1]
    for r in found.front[::-1]:
        print(f"trial {r.number}  {', '.join(f'{k}={r.chosen[k]}' for k in differ if k in r.chosen)}")
    say_pruned(found.pruned, found.reasons)


def said(figures: Mapping[str, float]) -> str:
    """FLOPs, parameters and memory, each in three digits."""
    from composer.search.limits import FIGURES

    return "  ".join(form(figures[name]) for name, form in FIGURES.items())


def say_pruned(counts: Mapping[str, int], reasons: Mapping[str, str]) -> None:
    """How many compositions are not trained, by code, and the first of each."""
    from composer.cli.listing import table

    if counts:
        print(f"not trained: {sum(counts.values())}")
        table(("code", "count", "the first of them"), [(c, str(n), reasons[c]) for c, n in counts.items()])


def nothing(counts: Mapping[str, int], reasons: Mapping[str, str]) -> BlueprintError:
    """No composition can be trained, or none was."""
    if not counts:
        return BlueprintError(Diagnostic("BP849", "no composition was trained yet", help=("go on with the search",)))
    notes = tuple(f"{n} × {code}, the first: {reasons[code]}" for code, n in counts.items())
    help = ("a larger budget, other alternatives, or values that fit one another",)
    text = f"none of {sum(counts.values())} compositions can be trained"
    return BlueprintError(Diagnostic("BP849", text, notes=notes, help=help))


def written(place: Place) -> Found:
    """The table of a study, as it was written last."""
    from composer.search.front import Found

    place.read()
    try:
        return Found.of_json(json_.loads((place.folder / "trials.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return Found((), {}, {})
