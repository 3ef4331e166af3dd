"""A composition on its way to training: `check`, then the cost model, each before what it spares is made.

    Composition -> Blueprint (checked, no torch) -> Weighed (the cost model, nothing allocated) -> training

What is wrong with one composition is no mistake of the user's: it is pruned, and the code of the diagnostic is counted.
What is wrong with every composition in the same way is a mistake of the space, and is said before anything is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import blueprint as stage
from composer import source
from composer.blueprint import joined
from composer.compose import Asked, Blueprint, uncollected
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, InternalError, Label, Source, Span
from composer.document import document
from composer.figures import size
from composer.mending import tried
from composer.registry import Registry
from composer.search import space as spaces
from composer.search.limits import Limits
from composer.search.space import Composition, Space
from composer.source import Map, standing_in
from composer.training.recipe import Recipe, recipe
from composer.writing import dump

if TYPE_CHECKING:
    from composer.remedies import Request

NAMES = ("BP101", "BP102", "BP103", "BP105", "BP106", "BP107", "BP204", "BP207")
"""Codes about names: what has one of these by itself would have it in every composition."""
LATE = ("BP706", "BP824", "BP826", "BP827")
"""Codes of preparing and training that are about the composition, and not about the data or the machine."""

LENGTH = ("epochs", "steps", "seed")
"""What a recipe says of one training alone: a trial of a search is short, the training of what it found is not."""


@dataclass(frozen=True)
class Origin:
    """What compositions are made from: a blueprint by name, and what the command line sets in all of them."""

    name: str
    given: Map
    registry: Registry

    def blueprint(self, *more: Mapping[str, Any]) -> Blueprint:
        """The blueprint with further overrides, in which no suggestion is tried: nobody reads what is pruned."""
        overrides = self.given
        for each in more:
            overrides = joined(overrides, each if isinstance(each, Map) else stage.arguments(each))
        with uncollected():
            loaded = Asked(self.name, overrides, self.registry).load()
        own = {f: getattr(loaded, f) for f in stage.Blueprint.__dataclass_fields__}
        return Blueprint(**own, registry=self.registry)


def verify(space: Space, origin: Origin, told: Mapping[str, Any]) -> None:
    """Refuse a space with a key or an alternative that fits nowhere, all of them in one error, each with its place.
    `told` is what the recipe says without the space."""
    found = _mistakes(space, origin, told)
    if found:
        raise BlueprintError(tried(found, lambda place, text: _again(place.source.name, text, origin, told)))


def _again(name: str, text: str, origin: Origin, told: Mapping[str, Any]) -> list[Diagnostic]:
    """What is wrong where the space has another text."""
    try:
        return _mistakes(spaces.parse(Source(name, text)), origin, told)
    except ComposerError as fault:
        return list(fault.diagnostics)


def _mistakes(space: Space, origin: Origin, told: Mapping[str, Any]) -> list[Diagnostic]:
    twice = [_twice(space, key, origin.given) for key in origin.given if key in space.network]
    found = [*twice, *_named(space, origin), *_untold(space, told)]
    return list(dict.fromkeys(found))


def _twice(space: Space, key: str, given: Map) -> Diagnostic:
    others = (Label(given.key_spans[key], "set here"),) if key in given.key_spans else ()
    text = f"`{key}` is chosen by the space and set on the command line"
    return Diagnostic("BP846", text, space.network.key_spans.get(key), others=others, help=("leave one out",))


def _named(space: Space, origin: Origin) -> Iterable[Diagnostic]:
    """What cannot be named: unknown parameters, addresses that match nothing, blocks and options that do not exist."""
    for alone in space.probes():
        try:
            origin.blueprint(alone).check()
        except InternalError:
            raise
        except ComposerError as fault:
            place = next(iter(alone.key_spans.values())).source
            ours = (d for d in fault.diagnostics if d.code in NAMES and d.span and d.span.source == place)
            yield from (_at_key(d, alone) for d in ours)


def _at_key(mistake: Diagnostic, alone: Map) -> Diagnostic:
    """A key that is wrong stands at the key, wherever its value is."""
    (key,) = alone
    return replace(mistake, span=alone.key_spans[key]) if mistake.code in ("BP105", "BP106") else mistake


def _untold(space: Space, told: Mapping[str, Any]) -> Iterable[Diagnostic]:
    """Keys and values that no recipe takes (BP826), the ends of each range or every alternative."""
    for key, value in space.training.items():
        if key in told:
            text = f"`{key}` is chosen by the space and told to every trial"
            yield Diagnostic("BP846", text, space.training.key_spans.get(key), help=("leave one out",))
            continue
        place = space.training.key_spans[key]
        known = key in Recipe.model_fields
        for each, span in _values(value, place) if known else [(0, place)]:
            try:
                recipe(told, {key: each}, span=span)
            except BlueprintError as fault:
                yield from fault.diagnostics


def _values(value: Any, span: Span | None) -> Iterable[tuple[Any, Span | None]]:
    """The ends of a range, all alternatives, or the value itself, and where each stands."""
    if isinstance(value, spaces.OneOf):
        for each, place in zip(value.values, value.places, strict=True):
            yield from _values(each, place or span)
    else:
        ends = (value.low, value.last) if isinstance(value, spaces.Range) else (value,)
        yield from ((v, span) for v in ends)


def pruning(fault: ComposerError) -> Diagnostic:
    """Why a composition is not trained, in its first diagnostic; a fault of Composer's own is raised again."""
    if isinstance(fault, InternalError):
        raise fault
    return fault.diagnostics[0]


@dataclass(frozen=True)
class Weighed:
    """Figures of a composition by the cost model, and why it is not trained."""

    figures: Mapping[str, int]
    pruned: Diagnostic | None = None


def weighed(step: Request, limits: Limits, free: int | None, whole: bool = True) -> Weighed:
    """FLOPs of one patch and parameters, and where these are within the limits the memory of a step of training, which
    has to fit into what is `free` too (BP706). Unless `whole`, what nothing limits is not looked at."""
    single = replace(step, shapes={n: (1, *s[1:]) for n, s in step.shapes.items()}, options={})
    try:
        cost = single.cost(flops=whole or "flops" in limits.most)
        found = {"flops": cost.flops, "parameters": cost.parameters}
        over = limits.exceeded(found)
        if over or not (whole or "memory" in limits.most):
            return Weighed(found, over)
        found["memory"] = needed = step.cost(flops=False).peak.bytes
    except ComposerError as fault:
        return Weighed({}, pruning(fault))
    if free is not None and needed > free:
        return Weighed(found, Diagnostic("BP706", f"a training step needs {size(needed)}, and {size(free)} are free"))
    return Weighed(found, limits.exceeded(found))


def recipe_of(blueprint: Blueprint, composition: Composition, told: Mapping[str, Any]) -> Recipe:
    """How a composition learns: as its blueprint says, over that what all trials are told, and what was chosen."""
    return recipe(blueprint.source.get("training"), told, composition.recipe)


def as_text(origin: Origin, made: Blueprint, learned: Recipe, folder: Path, summary: str) -> str:
    """A composition as a blueprint file for `folder`: what it extends, its parameters and edits, and its recipe.

    It is read again and held against the composition; where the short form is another network, as with an address that
    only a command line may shorten so, it is the whole document.
    """
    base, full = replace(origin, given=Map()).blueprint(), made.infer().graph.blueprint
    values = {k: v for k, v in made.values.items() if v != base.values.get(k)}
    edits = full.edits[len(base.edits) :]
    name = f"best_of_{folder.absolute().name}"
    own = made.source.get("training") or {}
    said = {k: v for k, v in learned.model_dump().items() if k not in LENGTH and v != Recipe.model_fields[k].default}
    training = {**{k: v for k, v in own.items() if k in LENGTH}, **said}
    origins = {"source": {**made.source, **({"training": training} if training else {})}}
    short = {
        "blueprint": stage.VERSION,
        "name": name,
        "summary": summary,
        **origins,
        "extends": _beside(origin.name, folder),
        "params": values,
        "edit": [{"at": list(e.at) if len(e.at) > 1 else e.at[0], e.action: e.change} for e in edits],
    }
    text = dump({k: v for k, v in short.items() if v})
    if _same(text, folder, made, origin.registry):
        return text
    return dump({**document(full), "name": name, "summary": summary, **origins})


def _beside(name: str, folder: Path) -> str:
    """A name as a file in a folder says it: shipped ones as they are, paths from there."""
    file, colon, preset = name.partition(":")
    return f"{Path(os.path.relpath(file, folder)).as_posix()}{colon}{preset}" if Path(file).is_file() else name


def _same(text: str, folder: Path, made: Blueprint, registry: Registry) -> bool:
    """Whether a text, read in a folder, is the network that was made."""
    path = str(folder / "composition.yaml")
    try:
        with standing_in({path: text}):
            return bool(_nodes(Blueprint.load(path, registry)) == _nodes(made))
    except ComposerError:
        return False


def _nodes(blueprint: Blueprint) -> Any:
    """The network in full, less what it is called and where it comes from."""
    flat = source.parse(Source("<flat>", blueprint.flat()))
    return {k: v for k, v in flat.items() if k not in ("name", "summary", "source")}
