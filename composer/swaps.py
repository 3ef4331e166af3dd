"""The swap matrix: every alternative of a plugin in every blueprint that has a place for it.

What to swap is data, a file `swaps.yaml` beside a plugin's package:

    families:                     a kind of part, by name
      fusion:
        owner: decoder.stage      the block whose copies hold the place
        swaps:                    what is tried there, as edits whose `at` starts at the owner
          add: {at: fuse, replace: {use: fuse.add}}
    tiny:                         blueprints (`name` or `name:preset`), small enough to be tried on any machine
      unet:
        sizes: [[32, 32], [16, 16, 16]]      one network for each
        params: {widths: [8, 16]}
        words: {WIDTH: $out}      what a word of a swap stands for here
        grid: [...]               edits for swaps that say `needs: grid`
        plain: [...]              edits for swaps that say `needs: plain`, and so on
        at: {fusion: [up.0]}      the owners, where not all of them are meant
    refused: {fusion: {add: {unet: BP301}}}  what cannot be built, and the code that says why

A cell of the matrix is an `edit` of a tiny network, as a user would write it; it runs forward and backward, or it is a
mistake of the blueprint with its reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from composer import source
from composer.blueprint import EDITS, Edit, shipped
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError
from composer.graph import Call
from composer.inference import Program
from composer.registry import Registry
from composer.source import Map
from composer.usage import walk

FILE = "swaps.yaml"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: parameters, or the code of the mistake and what it says."""

    parameters: int = 0
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """One swap in one blueprint of one rank. `refused` is the code of the mistake that is expected."""

    family: str
    swap: str
    blueprint: str
    rank: int
    refused: str = ""

    @property
    def id(self) -> str:
        return f"{self.family}-{self.swap}-{self.blueprint}-{self.rank}d"

    def edited(self, registry: Registry) -> Blueprint:
        """The tiny network with the swap made, not yet checked."""
        file = swaps_of(registry)
        family, tiny = file["families"][self.family], file["tiny"][self.blueprint]
        swap = family["swaps"][self.swap]
        items = swap if isinstance(swap, list) else [swap]
        blueprint = smallest(registry, self.blueprint, self.rank)
        needs = [n for item in items for n in _listed(item.get("needs"))]
        before = [_edit(e) for n in needs for e in tiny.get(n) or ()]
        blueprint = _with(blueprint, (e for k, e in enumerate(before) if e not in before[:k]))  # two may need the same
        owners = tuple(owners_of(blueprint, family["owner"], (tiny.get("at") or {}).get(self.family)))
        words = tiny.get("words") or {}
        return _with(blueprint, (_below(_edit(filled(i, words)), owners) for i in items if set(i) & set(EDITS)))

    def run(self, registry: Registry) -> Outcome:
        """Build the network, and run it forward and backward."""
        try:
            blueprint = self.edited(registry)
            program = blueprint.infer()
        except BlueprintError as fault:
            return Outcome(code=fault.diagnostics[0].code, reason=fault.diagnostics[0].message)
        return Outcome(parameters=exercise(blueprint, program))


def cells(registry: Registry) -> list[Cell]:
    """The whole matrix: each family in each tiny blueprint that has its owner."""
    file = swaps_of(registry)
    found = []
    for name, tiny in file["tiny"].items():
        if not tiny["sizes"] or name.partition(":")[0] not in {**shipped(), **registry.blueprints}:
            continue
        for family, spec in file["families"].items():
            at = (tiny.get("at") or {}).get(family)
            if at == [] or not any(owners_of(smallest(registry, name), spec["owner"], at)):
                continue
            refused = (file.get("refused") or {}).get(family) or {}
            found += [
                Cell(family, swap, name, len(size), (refused.get(swap) or {}).get(name, ""))
                for swap in spec["swaps"]
                for size in tiny["sizes"]
            ]
    return found


def swaps_of(registry: Registry) -> Mapping[str, Any]:
    """The files of all plugins as one."""
    tops = {block.__module__.partition(".")[0] for block in registry.blocks.values()}
    folders = sorted({Path(f).parent for t in tops if (f := getattr(sys.modules.get(t), "__file__", None))})
    files = [_read(folder / FILE) for folder in folders if (folder / FILE).is_file()]
    whole: dict[str, Any] = {"families": {}, "tiny": {}, "refused": {}}
    for file in files:
        for key in whole:
            whole[key] |= file.get(key) or {}
    return whole


@cache
def _read(path: Path) -> Map:
    return source.read(path)


def smallest(registry: Registry, name: str, rank: int = 0) -> Blueprint:
    """A blueprint with its tiny parameters, of a rank or the first it has."""
    tiny = swaps_of(registry)["tiny"][name]
    size = next(s for s in tiny["sizes"] if rank in (0, len(s)))
    return Blueprint.load(name, registry, {"size": size, **(tiny.get("params") or {})})


def owners_of(blueprint: Blueprint, use: str, at: Iterable[str] | None) -> Iterator[str]:
    """The addresses of all copies of a block, or those that were given."""
    if at is not None:
        yield from at
        return
    for member in blueprint.link().members:
        yield from (b.address for b in walk(member) if isinstance(b, Call) and b.use == use)


def filled(value: Any, words: Mapping[str, str]) -> Any:
    """A spec with its words replaced by what they stand for."""
    if isinstance(value, str):
        return words.get(value, value)
    if isinstance(value, Map):
        made = {words.get(k, k): filled(v, words) for k, v in value.items()}
        return Map(made, span=value.span, key_spans=value.key_spans, value_spans=value.value_spans)
    return [filled(v, words) for v in value] if isinstance(value, list) else value


def exercise(blueprint: Blueprint, program: Program) -> int:
    """Build, run forward and backward in training mode; the number of parameters. Raises `ArithmeticError` where a
    number is not finite or nothing reaches the input."""
    import torch  # nothing before this needs it

    torch.manual_seed(0)
    network = blueprint.build()
    types: list[Any] = [i.type.at(program.built) for i in program.inputs if not i.optional]
    inputs = [torch.randn(2, t.channels, *t.grid, requires_grad=True) for t in types]
    outputs = list(_tensors(network(*inputs)))
    torch.autograd.backward([(y * torch.randn_like(y)).sum() for y in outputs])
    gradient = inputs[0].grad
    if gradient is None or not all(t.isfinite().all() for t in (gradient, *outputs)) or not gradient.any():
        raise ArithmeticError("an output or the gradient of the input is zero or not finite")
    return sum(p.numel() for p in network.parameters())


def _tensors(outputs: Any) -> Iterator[Any]:
    """Every tensor of an output that a gradient can start from."""
    if isinstance(outputs, (dict, list, tuple)):
        for value in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from _tensors(value)
    elif outputs.requires_grad:
        yield outputs


def _with(blueprint: Blueprint, edits: Iterable[Edit]) -> Blueprint:
    return replace(blueprint, edits=(*blueprint.edits, *edits))


def _edit(item: Map) -> Edit:
    action = next(a for a in EDITS if a in item)
    return Edit(tuple(_listed(item.get("at"))), action, item[action], item.span)


def _below(edit: Edit, owners: Iterable[str]) -> Edit:
    """An edit at a part of each owner; one that begins with a dot has an address of its own."""
    places = edit.at or ("",)
    own = [p[1:] for p in places if p.startswith(".")]
    return replace(edit, at=tuple(own or (f"{o}.{p}".rstrip(".") for o in owners for p in places)))


def _listed(value: Any) -> list[str]:
    return [] if value is None else [str(v) for v in value] if isinstance(value, list) else [str(value)]
