"""What position blocks tell tokens: how alike the codes of any two places are, K = P·Pᵀ.

    Program, Network  ->  Codes  ->  K (reference places × grid)

The code of a place is what a block adds to its token: a row of a learned table, or sines and cosines. It is read from
the block itself, which is run on zeros of the size the network is built for, so no block need be known by name; of one
that turns queries and keys it is the turned constant, whose product with another is the mean cosine of their angles.
Rows are made of length one, so that K is the cosine between codes. A relative bias is no code of a place but of two,
and is itself the matrix to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from composer.addresses import Pattern
from composer.diagnostics import BlueprintError, Diagnostic, listing
from composer.inference import Program, ProgramOutput, Step
from composer.module import Network, callables
from composer.segments import owners
from composer.types import Type


@dataclass(frozen=True)
class Code:
    """A position block: its address, what it gives (`code`, `angles` or `bias`), the grid it stands for, and

    vectors   (places, channels) of a code, tokens in front of the grid left out
    bias      (heads, places, places) of a relative bias
    """

    address: str
    kind: str
    grid: tuple[int, ...]
    vectors: Tensor | None = None
    bias: Tensor | None = None

    def similarity(self, places: Sequence[int] | None = None) -> Tensor:
        """Rows of K, all (places, places) or some: the cosine between codes; of a bias the mean over its heads."""
        some = slice(None) if places is None else list(places)
        if self.bias is not None:
            return self.bias.mean(0)[some]
        assert self.vectors is not None
        rows = functional.normalize(self.vectors, dim=1)
        return rows[some] @ rows.T


def positions(program: Program) -> list[Step]:
    """The leaves that tell positions, in order; of several with the same weights and places the first."""
    found: dict[Any, Step] = {}
    for step in program.steps:
        if step.block.traits().position and not step.unused:
            found.setdefault((step.module, str(step.types.get("x"))), step)
    return list(found.values())


def chosen(program: Program, patterns: tuple[str, ...] = ()) -> list[Step]:
    """The leaves that patterns name, all without any. Refused (BP842) where there is none."""
    steps = positions(program)
    name = program.graph.blueprint.name
    if not steps:
        text = f"`{name}` has no block of positions: no table, no sines, no relative bias"
        note = "what it knows of positions its convolutions learn from the zeros they pad with, and that is no table"
        raise BlueprintError(Diagnostic("BP842", text, notes=(note,)))
    kept = [s for s in steps if not patterns or any(Pattern(p).matches(a) for p in patterns for a in owners(s.address))]
    if not kept:
        known = f"blocks of positions: {listing((s.address for s in steps), 8)}"
        raise BlueprintError(Diagnostic("BP842", f"`{name}` has no positions at {listing(patterns)}", notes=(known,)))
    return kept


OPEN = 32
"""An axis has this size where the network is built for none."""


def only(program: Program, steps: Sequence[Step]) -> Program:
    """A program of these leaves alone, initialized as in the whole network, which nobody needs to build for them."""
    outputs = tuple(ProgramOutput(step.address, step.outputs[0], False) for step in steps)
    return replace(program, steps=tuple(steps), outputs=outputs, alternatives={}, evaluation=None)


@torch.no_grad()
def codes(program: Program, network: Network, steps: Sequence[Step]) -> Iterator[Code]:
    """What each leaf gives at the size that the network is built for."""
    made, axes = callables(network), [a for i in program.inputs for a in i.axes]
    for step in steps:
        yield _code(step, made[step.address], {**dict.fromkeys(axes, OPEN), **program.built})


def _code(step: Step, module: Any, env: Mapping[str, int]) -> Code:
    kind = step.block.traits().position
    given = {p: _filled(step, p, t, env, first=k == 0) for k, (p, t) in enumerate(step.types.items())}
    place = step.types["x"].at(env) if "x" in step.types else next(iter(step.types.values())).at(env)
    grid = tuple(n for n in (place.grid or (place.length,)) if isinstance(n, int))
    value: Tensor = module(
        *[given[p] for p in step.block.required], **{p: v for p, v in given.items() if p not in step.block.required}
    )
    if kind == "bias":
        return Code(step.address, kind, grid, bias=value)
    flat = value[0].flatten(0, -2)
    flat = flat[flat.shape[0] - _cells(grid) :]
    if kind == "angles":
        flat = torch.cat([flat.cos(), flat.sin()], 1)
    return Code(step.address, kind, grid, vectors=flat.float())


def _filled(step: Step, port: str, type_: Type, env: Mapping[str, int], first: bool) -> Tensor | None:
    """Zeros for the port that a code is added to, ones for others, such as masks; nothing where only a type is read."""
    if step.block.of_shapes:
        return None
    sized = type_.at(env)
    wanted = step.block.wanted_layout(port)
    grid = [n for n in sized.grid if isinstance(n, int)]
    layout = {"map": "first", "grid": "last", "tokens": "flat"}.get(wanted, step.layout)
    length = sized.length
    shape = [sized.channels, *grid] if layout == "first" else [*grid, sized.channels]
    shape = [length, sized.channels] if layout == "flat" or not grid else shape  # type: ignore[list-item]
    return torch.zeros(1, *shape) if first else torch.ones(1, *shape)


def _cells(grid: tuple[int, ...]) -> int:
    total = 1
    for n in grid:
        total *= n
    return total


__all__ = ["Code", "chosen", "codes", "positions"]
