"""Types held against reality: a blueprint that checks is built and run, and every value has the shape its type says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from composer.compose import Blueprint, fed
from composer.inference import Program, Step, Value
from composer.layouts import Held
from composer.types import Layout, Type

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from composer.module import Network

BATCH = 2
"""Of one, batch normalization refuses a single value per channel while training."""


def shape_of(type_: Type, layout: Layout) -> tuple[int, ...]:
    """The shape behind the batch that a type promises, its sizes numbers."""
    if type_.kind == "vector":
        return (type_.channels,)
    if type_.kind == "map" and layout != "flat":
        grid = tuple(n for n in type_.grid if isinstance(n, int))
        return (type_.channels, *grid) if layout == "first" else (*grid, type_.channels)
    assert isinstance(type_.length, int)
    return (type_.length, type_.channels)


def disagreements(
    blueprint: Blueprint,
    device: str = "meta",
    *,
    training: bool = False,
    size: Mapping[str, int] | None = None,
    network: Network | None = None,
) -> list[str]:
    """Where a blueprint that checks and the network it builds disagree, a line for each: a fault, or a wrong shape.

    It is run on a batch of random inputs of the size it is built for, or of another `size` by axis, valid or not.
    """
    import torch

    from composer.module import build, values

    program = blueprint.optimized()
    env = {**program.built, **(size or {})}
    shapes = fed(program, shapes_at(program, env), BATCH)
    try:
        network = network or build(program, device)
        with torch.no_grad():
            given = [torch.rand(shapes[i.name], device=device) if i.name in shapes else None for i in program.inputs]
            made = values(network.train(training), given)
    except Exception as fault:
        return [f"{type(fault).__name__}: {fault} {' '.join(getattr(fault, '__notes__', ()))}"]
    asked = ((s, n) for s in program.steps for n in s.outputs if not s.unused and n in made)
    return [line for step, n in asked for line in _wrong(step, program.values[n], env, made[n])]


def shapes_at(program: Program, env: Mapping[str, int], batch: int = BATCH) -> dict[str, tuple[int, ...]]:
    """The shape of every input that must be there, where each axis is what `env` says."""
    return {
        i.name: (batch, i.type.channels, *(int(a) if a.isdigit() else env[a] for a in i.axes))
        for i in program.inputs
        if not i.optional
    }


def _wrong(step: Step, value: Value, env: Mapping[str, int], made: Any) -> Iterator[str]:
    wanted = (BATCH, *shape_of(value.type.at(env), value.layout))
    alone = isinstance(step.block, Held) or step.block.of_shapes  # the same for all samples, without a batch axis
    if tuple(made.shape)[-len(wanted) + 1 :] == wanted[1:] if alone else tuple(made.shape) == wanted:
        return
    yield f"`{step.address}` gives {tuple(made.shape)}, its type says {wanted}"
