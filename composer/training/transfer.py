"""Weights that flow from one network into another by their addresses: what was learned without labels begins a training
with them.

A position code for another grid is interpolated (bicubic in 2-D, else linear), and rows of extra tokens, such as a
class token, stay as they are; where only one network has those, they are left. Any other tensor of another shape is
refused (BP844), and nothing is changed then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from composer.addresses import Pattern
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic, listing
from composer.inference import Program
from composer.segments import owners
from composer.training.runs import Run
from composer.weights import load_file

MOST = 6
"""Names of nodes that a line of a report shows."""


@dataclass(frozen=True)
class Transfer:
    """Names of tensors: what was `taken`, which of it `resized`; what the source had besides (`left`), and what the
    network has that the source had not (`missing`), which begins anew."""

    source: str
    taken: tuple[str, ...]
    resized: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"from {self.source}: {_counted(self.taken)} taken: {_nodes(self.taken)}"]
        lines += [f"  fitted to this network's grid: {listing(f'`{n}`' for n in self.resized)}"] if self.resized else []
        lines += [f"  not taken, {_counted(self.left)}: {_nodes(self.left)}"] if self.left else []
        lines += [f"  begin anew, {_counted(self.missing)}: {_nodes(self.missing)}"] if self.missing else []
        return "\n".join(lines)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


def _nodes(names: Sequence[str]) -> str:
    """The outermost nodes that tensors are in, and how many of them."""
    found = Counter(n.partition(".")[0] for n in names)
    return listing([f"`{node}` ({count})" for node, count in found.items()], MOST)


@dataclass(frozen=True)
class Source:
    """Tensors by address, and the network that they were learned in, if it is known."""

    name: str
    tensors: Mapping[str, Tensor]
    program: Program | None = None
    others: tuple[str, ...] = ()
    """Tensors of the run that are no part of its encoder."""


def source(path: Path) -> Source:
    """The weights of a run, or a file; of a run that learned a pretext, those of its encoder."""
    run = Run(path if path.is_dir() else path.parent)
    if not path.is_dir() and not run.settings.is_file():
        return Source(str(path), load_file(path))
    asked = run.read()
    file = path if not path.is_dir() else run.best if run.best.is_file() else run.final
    if path.is_dir() and not file.is_file():
        text = f"`{path}` has no weights yet: no epoch has ended"
        raise BlueprintError(Diagnostic("BP825", text, help=("let it run on",)))
    tensors = load_file(file)
    program = Blueprint.parse(asked["blueprint"], name=str(run.blueprint)).check()
    nodes = asked.get("pretext", {}).get("encoder")
    mine = {k: v for k, v in tensors.items() if nodes is None or k.partition(".")[0] in nodes}
    return Source(str(path), mine, program, tuple(k for k in tensors if k not in mine))


@torch.no_grad()
def take(network: Any, path: Path | Source, leave: Sequence[str] = ()) -> Transfer:
    """Put tensors into a network by their addresses, but those of nodes to `leave` (patterns), and say what met.

    BP844 where shapes differ, or nothing meets; then the network is untouched.
    """
    found = path if isinstance(path, Source) else source(path)
    state = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    patterns = [Pattern(text) for text in leave]
    for text, pattern in zip(leave, patterns, strict=True):
        if not any(pattern.matches(a) for k in found.tensors for a in owners(k)):
            notes = [f"it has {_nodes(list(found.tensors))}"]
            raise _misfit(f"no tensor of `{found.name}` is at `{text}`", notes)
    kept = {k: v for k, v in found.tensors.items() if not any(p.matches(a) for p in patterns for a in owners(k))}
    meet = [k for k in kept if k in state]
    tables = [_tables(p) if p is not None else {} for p in (found.program, network.blueprint.check())]
    grids = {k: [t.get(k.rpartition(".")[0]) for t in tables] for k in meet}
    other = [k for k in meet if kept[k].shape != state[k].shape or grids[k][0] != grids[k][1]]
    fitted = {k: _fitted(kept[k], state[k], *grids[k]) for k in other}
    resized = {k: v for k, v in fitted.items() if v is not None}
    wrong = [k for k in other if k not in resized and kept[k].shape != state[k].shape]
    if wrong:
        shown = [f"`{k}` {tuple(kept[k].shape)}, this network has {tuple(state[k].shape)}" for k in wrong[:MOST]]
        more = [f"and {len(wrong) - MOST} more"] if len(wrong) > MOST else []
        nodes = list(dict.fromkeys(k.partition(".")[0] for k in wrong))
        help = f"make both alike, or leave these where they are: {' '.join(f'--leave {n}' for n in nodes)}"
        has = "has" if len(wrong) == 1 else "have"
        text = f"{_counted(wrong)} of `{found.name}` {has} another shape; nothing was taken"
        raise _misfit(text, [*shown, *more], help)
    if not meet:
        name = network.blueprint.name
        notes = [f"it has {_nodes(list(found.tensors))}", f"`{name}` has {_nodes(list(state))}"]
        raise _misfit(f"no tensor of `{found.name}` has an address of `{name}`", notes)
    network.load_state_dict({k: resized.get(k, kept[k]) for k in meet}, strict=False)
    left = (*(k for k in found.tensors if k not in meet), *found.others)
    return Transfer(found.name, tuple(meet), tuple(resized), left, tuple(k for k in state if k not in meet))


def _misfit(text: str, notes: Sequence[str] = (), *help: str) -> BlueprintError:
    return BlueprintError(Diagnostic("BP844", text, notes=tuple(notes), help=help))


Table = tuple[tuple[int, ...], int]
"""The grid of the tokens that a table of positions is for, and how many stand beside it."""


def _fitted(given: Tensor, wanted: Tensor, before: Table | None, after: Table | None) -> Tensor | None:
    """A table of positions for another grid; None where it is none, or the grids are not known."""
    if before is None or after is None or given.dim() != 2 or given.shape[1] != wanted.shape[1]:
        return None
    (old, extra), (grid, kept) = before, after
    if len(old) != len(grid) or len(given) != prod(old) + extra or len(wanted) != prod(grid) + kept:
        return None
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(grid)]
    cells = torch.unflatten(given[extra:].T, 1, old)[None].float()
    if old != grid:
        cells = functional.interpolate(cells, grid, mode=mode, align_corners=False)
    front = given[:extra] if extra == kept else wanted[:kept]
    return torch.cat([front.to(given), cells[0].flatten(1).T.to(given)])


def _tables(program: Program) -> dict[str, Table]:
    """The codes of positions in a network, by address."""
    steps = [s for s in program.steps if s.block.traits().position == "code"]
    fixed = {s.address: next(iter(s.types.values())).at(program.built) for s in steps}
    return {address: (t.grid, t.extra) for address, t in fixed.items() if t.grid}
