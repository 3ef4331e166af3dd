"""doc"""

from __future__ import annotations

from composer.compose import Blueprint
from composer.eject import runtime
from composer.eject.classes import Classes
from composer.eject.expressions import things
from composer.eject.file import Page
from composer.eject.flow import Flow, flow
from composer.eject.forward import Forward, Writer
from composer.eject.names import Speech
from composer.eject.parts import Parts, parts, refused
from composer.eject.recording import Unsaid
from composer.eject.regions import Region, Regions, regions_of
from composer.eject.sources import Sources
from composer.inference import Step
from composer.layouts import Part


def eject(blueprint: Blueprint) -> str:
    """The network of a blueprint as one Python file. Raises `BlueprintError` (BP810)."""
    program = blueprint.optimized("all")
    made = parts(program)
    try:
        steps = flow(program)
    except Unsaid as fault:
        raise refused(None, fault) from None
    sources = taken(made, steps)
    speech = Speech(sources, sources.settle())
    forwards = written(steps, made, speech)
    classes = Classes(forwards, speech)
    classes.instance(made.root)
    return Page(steps.program, made, sources, speech, classes.settle(), frozenset(forwards)).text()


def taken(made: Parts, steps: Flow) -> Sources:
    """The sources of everything that the network is made of."""
    sources = Sources()
    called = {s.module for s in steps.steps}
    for module, part in made.by_module.items():
        if part.kind != "function" or module in called:
            for thing in things(part.expression):
                try:
                    sources.take(thing)
                except Unsaid as fault:
                    step = next((s for s in steps.program.steps if s.module == module), None)
                    raise refused(step, fault) from None
    if any(isinstance(s.block, Part) for s in steps.steps):
        sources.take(runtime.parted)
    return sources


def written(steps: Flow, made: Parts, speech: Speech) -> dict[str, Forward]:
    """The forward pass of each class, by the address of its first module. A node that has no single one is none."""
    banned: frozenset[str] = frozenset()
    while True:
        root = Regions(steps, made, banned).root()
        regions = list(regions_of(root))
        classes = frozenset(r.module for r in regions if r.module)
        writer = Writer(steps, made, speech, classes)
        found: dict[str, Forward] = {}
        bad = set(_called_alone(regions, classes))
        for region in regions:
            names = {i.id: i.name for i in steps.program.inputs} if region is root else {}
            try:
                forward = writer.forward(region, names, region is root)
            except Unsaid as fault:
                if region is root:
                    raise refused(None, fault) from None
                bad.add(region.module)
                continue
            if found.setdefault(region.module, forward) != forward:
                bad.add(region.module)
        if not bad:
            return found
        banned |= bad


def _called_alone(regions: list[Region], classes: frozenset[str]) -> list[str]:
    """Classes whose own module somebody calls by itself, too."""
    steps = [(r, i) for r in regions for i in r.items if isinstance(i, Step)]
    return [i.module for r, i in steps if i.module in classes and r.module != i.module]


__all__ = ["eject"]
