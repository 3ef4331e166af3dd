"""`composer eject`: a network as one readable Python file that needs torch alone.

    text -> blueprint -> graph -> Program -> Parts, Flow -> Regions -> Forward, Classes -> Page -> text

The file is a second way out of the walk, beside `composer.module`, from the same plain program (no pass has run):

* what each step calls is made once, and how it is made is recorded as an expression (`recording`, `expressions`,
  `parts`): `nn.Conv2d(3, 64, 3, padding=1)`, exactly as the block's `build` called it;
* the classes and functions in these are taken along as their authors wrote them (`sources`), plugins' too;
* the steps, in all choices of optional inputs, training or not, become one list with conditions (`flow`);
* a node whose steps stand together becomes a class (`regions`); its steps are its `forward` (`forward`, `statements`),
  its modules its `__init__` (`constructors`). Nodes that differ in literals alone share a class (`classes`). So the
  file is about as long as the blueprint is, and twelve blocks are one class made twelve times;
* modules stand at their addresses, so the keys of the `state_dict` are those of the network. A node that is a module
  and has others below it (a convolution with its norm) is a class derived from that module's;
* text is laid out as `ruff format` would, also where ruff is not installed (`layout`, `file`).

Values pass the same modules in the same order, so results are equal bit for bit, in training under one seed as well.
`init:` becomes a function of the file (`initial`). Left out are checks of an input's size, passes, and `tap:`, as
the file says at its head. What no text can be found for is a `BlueprintError` (BP810) at its node.
"""

from __future__ import annotations

from fractions import Fraction

from composer.compose import Blueprint
from composer.eject.classes import Classes
from composer.eject.expressions import things
from composer.eject.file import Page
from composer.eject.flow import Flow, flow
from composer.eject.forward import Forward, Writer, plain
from composer.eject.names import Speech
from composer.eject.padding import NAMES, Padding, padding
from composer.eject.parts import Parts, parts, refused
from composer.eject.recording import UnsaidError
from composer.eject.regions import Key, Region, Regions, regions_of
from composer.eject.runtime import cropped, fitted, nearest, parted
from composer.eject.sources import Sources
from composer.inference import Step
from composer.layouts import Part


def eject(blueprint: Blueprint) -> str:
    """The network of a blueprint as one Python file. Raises `BlueprintError` (BP810)."""
    program = blueprint.optimized("all")
    made = parts(program)
    try:
        steps = flow(program)
        pads = padding(program, steps.program)
    except UnsaidError as fault:
        raise refused(None, fault) from None
    sources = taken(made, steps)
    if pads is not None:
        for thing in (nearest, fitted, cropped, Fraction):
            sources.take(thing)
    try:
        names = sources.settle()
    except UnsaidError as fault:
        raise refused(None, fault) from None
    speech = Speech(sources, (*names, *NAMES))
    forwards = written(steps, made, speech, pads)
    classes = Classes(forwards, speech)
    classes.instance(made.root)
    return Page(steps.program, made, sources, speech, classes.settle(), frozenset(forwards), pads).text()


def taken(made: Parts, steps: Flow) -> Sources:
    """The sources of everything that the network is made of."""
    sources = Sources()
    called = {s.module for s in steps.steps}
    for module, part in made.by_module.items():
        if part.kind != "function" or module in called:
            for thing in things(part.expression):
                try:
                    sources.take(thing)
                except UnsaidError as fault:
                    step = next((s for s in steps.program.steps if s.module == module), None)
                    raise refused(step, fault) from None
    if any(isinstance(s.block, Part) for s in steps.steps):
        sources.take(parted)
    return sources


def written(steps: Flow, made: Parts, speech: Speech, pads: Padding | None) -> dict[str, Forward]:
    """The forward pass of each class, by the address of its first module. A node that has no single one is none."""
    banned: frozenset[str] = frozenset()
    while True:
        root = Regions(steps, made, banned).root()
        regions = list(regions_of(root))
        classes = frozenset(r.module for r in regions if r.module)
        writer = Writer(steps, made, speech, classes, pads)
        found: dict[str, Forward] = {}
        bad = set(_called_alone(regions, classes))
        for region in regions:
            names: dict[Key, str] = {i.id: plain(i.name) for i in steps.program.inputs} if region is root else {}
            try:
                forward = writer.forward(region, names, region is root)
            except UnsaidError as fault:
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
