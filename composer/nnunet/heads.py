"""Deep supervision by what a blueprint gives in training: its maps of classes, on their grids, with their weights.

As in nnU-Net (Isensee et al., 2021) an output weighs half as much as the next finer one, and the coarsest nothing. It
is counted in levels: outputs on one grid weigh the same, and with two levels both count, or there would be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic
from composer.dims import at
from composer.liveness import ids_of


@dataclass(frozen=True)
class Head:
    """The `place` of an output among all tensors that the network gives in training, its grid, and its weight."""

    place: int
    grid: tuple[int, ...]
    weight: float


def heads(blueprint: Blueprint, patch: Sequence[int], least: float = 0) -> tuple[Head, ...]:
    """The maps of classes, the main output first; none weighs less than `least` before the sum is made one.

    BP832 where the main output is not on the grid of the patch, which nnU-Net's windows need."""
    program = blueprint.check()
    env = {**program.built, **dict(zip(program.inputs[0].axes, patch, strict=True))}
    found: dict[int, tuple[int, tuple[int, ...]]] = {}
    ids = [i for output in program.outputs for i in ids_of(output.ids)]
    classes = program.values[ids[0]].type.channels
    for place, number in enumerate(ids):
        type_ = program.values[number].type
        if type_.kind == "map" and type_.channels == classes and number not in found:
            found[number] = place, tuple(int(at(n, env)) for n in type_.grid)
    places = list(found.values())
    if places[0][1] != tuple(patch):
        sizes = [" × ".join(map(str, n)) for n in (places[0][1], patch)]
        text = f"the output of `{blueprint.name}` has {sizes[0]} cells on a patch of {sizes[1]}; nnU-Net needs as many"
        help = ("pad the convolutions, or resize the output to the image",)
        raise BlueprintError(Diagnostic("BP832", text, help=help))
    shares = _weights([grid for _, grid in places], least)
    return tuple(Head(place, grid, w) for (place, grid), w in zip(places, shares, strict=True))


def _weights(grids: Sequence[tuple[int, ...]], least: float) -> list[float]:
    levels = sorted(set(grids), key=prod, reverse=True)
    of_level = [2.0**-k for k in range(len(levels))]
    if len(levels) > 2:
        of_level[-1] = least
    raw = [of_level[levels.index(g)] for g in grids]
    return [w / sum(raw) for w in raw]
