"""Tiny networks around one block: what an author names as examples, or what follows from the types of its options.

An example is data, in the order of what it takes to say:

    {"heads": 2}                           options; every required input of the block is a map of its own
    {"heads": 2, "from": {"x": "image", "context": "image"}}
                                           a node, where its wiring matters; the network's input is `image`
    {"graph": {"small": {"use": "pool.max"}, "node": {"use": "mine", "from": ["image", "small"]}},
     "channels": 6, "ranks": [2, 3], "side": 4, "not_promised": {"batch": "…why…"}}
                                           a whole graph, whose last node is the output

`graph` is a word of the language, so no option can be called so. The image has `channels` and a grid of `side`, and
twice as much on the axes after the first, so that axes that are exchanged do not go unnoticed.

Examples stand on the block (`Block.examples`), or for a whole plugin in a file `examples.yaml` beside it, by name of
the block. Where there are none they are made: forward, by trying small values that the types of the options admit, and
keeping what the block's own rule accepts.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from composer import source
from composer.block import Block
from composer.compose import Blueprint
from composer.diagnostics import ComposerError
from composer.inference import Program
from composer.registry import Registry

FILE = "examples.yaml"
RANKS = (1, 2, 3)
CHANNELS = (4, 12, 16, 1)
SIDES = (4, 6, 7)
SMALL: tuple[Any, ...] = (2, 4, 1, 3, 8, 0.5, True, False, "", (2, 2), (2, 2, 2), (2,))
"""What is tried as the value of an option, best first."""
MOST_TRIED = 80
"""Combinations of options that are tried in search of one that a rule accepts."""
MOST_MADE = 16
"""Examples that are made of a block."""


@dataclass(frozen=True)
class Example:
    """A tiny blueprint around a block, for every rank in `ranks`. `options` is how its author said it, in one line."""

    block: type[Block]
    options: str
    graph: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=lambda: {"image": "B {channels} *S"})
    channels: int = 4
    side: int = 4
    ranks: tuple[int, ...] = RANKS
    not_promised: Mapping[str, str] = field(default_factory=dict)

    def case(self, rank: int, registry: Registry) -> Case:
        return Case(self, rank, registry)


@dataclass(frozen=True)
class Case:
    """An example at one rank."""

    example: Example
    rank: int
    registry: Registry = field(repr=False)

    @property
    def text(self) -> str:
        """The blueprint as YAML."""
        of = self.example
        grid = [of.side, *[of.side * 2] * (self.rank - 1)]
        inputs = {n: _input(t.format(channels=of.channels), grid) for n, t in of.inputs.items()}
        top = {"blueprint": 1, "name": "example", "inputs": inputs, "graph": dict(of.graph)}
        return yaml.safe_dump(
            _plain({**top, "outputs": {"y": list(of.graph)[-1]}}), sort_keys=False, default_flow_style=None
        )

    @cached_property
    def blueprint(self) -> Blueprint:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "example.yaml"
            path.write_text(self.text)
            return Blueprint.load(path, self.registry)

    @cached_property
    def program(self) -> Program:
        """Types and constraints. Raises `BlueprintError` where the block's rule refuses them."""
        return self.blueprint.check()

    @property
    def types(self) -> str:
        """`image (B, 4, 4, 8)`: what goes in."""
        return ", ".join(f"{i.name} {i.type.at(self.program.built)}" for i in self.program.inputs)

    @property
    def refusal(self) -> str:
        """Why the rule refuses this; empty if it does not. A rule that fails raises `PluginError`."""
        try:
            self.program  # noqa: B018 - checked once
        except ComposerError as fault:
            if type(fault).__name__ == "PluginError":
                raise
            return fault.diagnostics[0].message if fault.diagnostics else "it has no type"
        return ""


def examples_of(
    block: type[Block], registry: Registry, options: Sequence[Mapping[str, Any]] | None = None
) -> list[Example]:
    """The examples of a block: those given, those it declares, those of its plugin, or those made for it."""
    given = options if options is not None else block.examples or _listed(block) or None
    if given is None:
        return list(made(block, registry))
    found = [_example(block, item, registry) for item in given]
    return (
        [replace(e, options=f"example {k + 1}: {e.options}") for k, e in enumerate(found)] if len(found) > 1 else found
    )


def _listed(block: type[Block]) -> Sequence[Mapping[str, Any]]:
    """The examples in the file beside the package that a block comes from."""
    top = sys.modules.get(block.__module__.partition(".")[0])
    home = getattr(top, "__file__", None)
    path = Path(home).parent / FILE if home and Path(home).name == "__init__.py" else None
    return _read(path).get(block.name, ()) if path is not None and path.is_file() else ()


@cache
def _read(path: Path) -> Mapping[str, Any]:
    return source.read(path)


def _example(block: type[Block], item: Mapping[str, Any], registry: Registry) -> Example:
    said = yaml.safe_dump(_plain(item), default_flow_style=True, sort_keys=False, width=10_000).strip()
    if "graph" in item:
        around = {k: item[k] for k in ("channels", "side", "not_promised") if k in item}
        return Example(block, said, item["graph"], ranks=tuple(item.get("ranks", RANKS)), **around)
    node = {"use": block.name, **item}
    if "from" in item or not block.required:
        return Example(block, said, {"node": node})
    return next(_accepted(_fed(block, said, node), registry), _fed(block, said, node))


def _fed(block: type[Block], said: str, node: Mapping[str, Any], optional: Iterable[str] = ()) -> Example:
    """An input of the network for each port."""
    ports = [*block.required, *optional]
    more = [f"{ports[0]}_more"] if ports and block.takes_list(ports[0]) else []
    wired = {p: [p, *more] if more and p == ports[0] else p for p in ports}
    kinds = dict.fromkeys((*ports, *more), "B {channels} *S")
    return Example(block, said, {"node": {**node, "from": wired}}, kinds)


def _accepted(example: Example, registry: Registry) -> Iterator[Example]:
    """The example at the first channels and sides that its rule accepts, and at the ranks it accepts these for."""
    for channels, side in product(CHANNELS, SIDES):
        ranked = list(_at_ranks(replace(example, channels=channels, side=side), registry))
        if ranked:
            yield from ranked
            return
    vectors = replace(example, inputs=dict.fromkeys(example.inputs, "B {channels}"))
    if example.inputs != vectors.inputs:
        yield from (replace(e, ranks=(e.ranks[0],)) for e in _accepted(vectors, registry))


def _at_ranks(example: Example, registry: Registry) -> Iterator[Example]:
    """The example at the ranks for which its rule accepts it, if there are any."""
    ranks = tuple(r for r in example.ranks if not example.case(r, registry).refusal)
    if ranks:
        yield replace(example, ranks=ranks)


# ---------------------------------------------------------------- made from types


def made(block: type[Block], registry: Registry) -> Iterator[Example]:
    """Examples made of small values: the first that is accepted, then that with one option changed at a time."""
    base = next(_bases(block, registry), None)
    if base is None:
        return
    yield base
    yield from islice(_varied(base, registry), MOST_MADE - 1)


def why_none(block: type[Block], registry: Registry) -> str:
    """What the rule says to the first example that was tried of a block for which none was found."""
    tried = next(_tried(block, registry), None)
    said = f"; for {tried.options} it says: {tried.case(2, registry).refusal}" if tried else ""
    return f"no example was found that its rule accepts{said}. Declare `examples` on the block, or give `options=`"


def _bases(block: type[Block], registry: Registry) -> Iterator[Example]:
    for example in islice(_tried(block, registry), MOST_TRIED):
        yield from _accepted(example, registry)


def _tried(block: type[Block], registry: Registry) -> Iterator[Example]:
    """Every combination of small values for what must be said; then one more option, where the defaults do not fit."""
    block.model_rebuild()
    first: dict[str, Any] | None = None
    needed = {n: _values(f) for n, f in block.model_fields.items() if f.is_required() and n not in block.slots}
    slots = {n: _fillings(n, registry) for n, s in block.slots.items() if s.required and s.default is None}
    names = [*needed, *slots]
    for values in product(*(v[:6] for v in needed.values()), *slots.values()):
        options = dict(zip(names, values, strict=True))
        first = options if first is None else first
        yield _fed(block, _said(options), {"use": block.name, **options})
    for name, spec in block.model_fields.items() if first is not None else ():
        for value in _values(spec)[:4] if name not in names and name not in block.slots else ():
            options = {**(first or {}), name: value}
            yield _fed(block, _said(options), {"use": block.name, **options})


def _fillings(slot: str, registry: Registry) -> list[str]:
    """Blocks for a slot that has none: those named after it first, and only those that need no option."""
    plain = [n for n, b in registry.blocks.items() if not any(f.is_required() for f in b.model_fields.values())]
    return sorted(plain, key=lambda n: (slot.rpartition("_")[2] not in n.split("."), n))[:12]


def _varied(base: Example, registry: Registry) -> Iterator[Example]:
    """An accepted example with one option changed at a time, and with each optional port."""
    block = base.block
    own = {k: v for k, v in base.graph["node"].items() if k not in ("use", "from")}
    for name, spec in block.model_fields.items():
        if name in block.slots:
            continue
        choices = list(_literals(spec.annotation))
        others = [v for v in _values(spec) if v != own.get(name, spec.default)]
        for value in others[: max(2, len(choices))]:
            options = {**own, name: value}
            yield from _at_ranks(_as(base, _fed(block, _said(options), {"use": block.name, **options})), registry)
    for port in block.optional:
        fed = _fed(block, _said({**own, "from": port}), {"use": block.name, **own}, [port])
        yield from _at_ranks(_as(base, fed), registry)


def _as(base: Example, example: Example) -> Example:
    """An example on inputs of the kind and size of another's."""
    kind = next(iter(base.inputs.values()), "")
    inputs = dict.fromkeys(example.inputs, kind)
    return replace(example, channels=base.channels, side=base.side, ranks=base.ranks, inputs=inputs)


def _values(spec: Any) -> list[Any]:
    """Small values that an option's type admits."""
    adapter = (
        TypeAdapter(Annotated[(spec.annotation, *spec.metadata)]) if spec.metadata else TypeAdapter(spec.annotation)
    )
    found: list[Any] = []
    for value in (*_literals(spec.annotation), *SMALL):
        try:
            valid = adapter.validate_python(value)
        except ValidationError:
            continue
        if not any(valid == v and type(valid) is type(v) for v in found):
            found.append(valid)
    return found


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _literals(part)


def _said(options: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(options), default_flow_style=True, sort_keys=False, width=10_000).strip()


def _input(type_: str, grid: list[int]) -> Any:
    return {"type": type_, "size": grid} if "*" in type_ else type_


def _plain(value: Any) -> Any:
    """Without the places that values of a file remember."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
