"""What would make a pass fit into the memory there is: each way is tried by counting its cost, none is a guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from composer.diagnostics import ComposerError
from composer.figures import Cost, size
from composer.inference import Program
from composer.strides import multiples

if TYPE_CHECKING:
    from composer.compose import Blueprint

MOST = 4
"""Ways that a message offers."""


@dataclass(frozen=True)
class Request:
    """A pass whose cost is asked for: a blueprint, shapes of its inputs, and the options of `Blueprint.cost`."""

    blueprint: Blueprint
    shapes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, Any]

    def cost(self, **more: Any) -> Cost:
        return self.blueprint.cost(**{**self.options, **more, **self.shapes})


Resize = tuple[str, Callable[[tuple[int, ...]], "Blueprint"]]
"""How another size is said (`--size {}`), and the same blueprint made for it; where it cannot be, a `ComposerError`."""


def ways(
    request: Request, needs: Callable[[Cost], int], fits: Callable[[Cost], bool], resize: Resize | None = None
) -> list[str]:
    """Lines such as `--dtype bf16 needs 1.2 GB`, of changes that fit, the mildest first; `needs` is their figure."""
    found = ((said, _tried(changed)) for said, changed in _changes(request, resize))
    return list(islice((f"{said} needs {size(needs(c))}" for said, c in found if c and fits(c)), MOST))


def _tried(request: Callable[[], Request]) -> Cost | None:
    try:
        return request().cost(flops=False)
    except ComposerError:
        return None


def _changes(request: Request, resize: Resize | None) -> Iterator[tuple[str, Callable[[], Request]]]:
    options, training = request.options, request.options.get("train", False)
    single = {n: (1, *s[1:]) for n, s in request.shapes.items()}
    checkpoint = {"checkpoint": ("*.*",)} if training and not options.get("checkpoint") else {}
    half = {"dtype": "bf16"} if options.get("dtype", "float32") in ("float32", "fp32") else {}
    if single != request.shapes:
        yield "`--batch 1`", lambda: replace(request, shapes=single)
    if checkpoint:
        yield "`--checkpoint '*.*'`", lambda: _with(request, checkpoint)
    if half:
        yield "`--dtype bf16`", lambda: _with(request, half)
    if checkpoint and half:
        yield "`--checkpoint '*.*' --dtype bf16`", lambda: _with(request, checkpoint | half)
    if resize:
        said, made = resize
        for smaller in _sizes(request):
            words = said.format(",".join(map(str, smaller)))
            yield f"`{words}`", partial(_resized, request, made, smaller)


def _with(request: Request, options: Mapping[str, Any]) -> Request:
    return replace(request, options={**request.options, **options})


def _sizes(request: Request) -> Iterator[tuple[int, ...]]:
    """The size of the first input with one axis after the other halved, the longest first, to a valid size."""
    program: Program = request.blueprint.check()
    axes, known = program.inputs[0].axes, multiples(program.constraints)
    now = list(request.shapes[program.inputs[0].name][2:])
    for _ in range(4 * len(now)):
        k = max(range(len(now)), key=lambda i: now[i])
        step = known.get(axes[k], 1)
        now[k] = max(step, now[k] // 2 // step * step)
        yield tuple(now)


def _resized(request: Request, made: Callable[[tuple[int, ...]], Blueprint], to: tuple[int, ...]) -> Request:
    blueprint = made(to)
    name = blueprint.check().inputs[0].name
    shape = request.shapes[name]
    return replace(request, blueprint=blueprint, shapes={**request.shapes, name: (*shape[:2], *to)})
