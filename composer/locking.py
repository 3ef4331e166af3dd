"""A lock and what is installed: writing the first, and saying precisely where the second is another.

    Graph, Registry    ->  text              `locked`
    Lock, Registry     ->  Graph             `linked`: without the blocks that are not as they were locked
    Lock, Program      ->  mistakes          `retyped`

A block whose interface is another counts as missing, so that nothing is said of a network that nobody asked for: what
is reported is the cause, and the places that use it. Its types are known all the same, since the lock says them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from composer import blueprint as stage
from composer import interfaces, source
from composer.block import Block
from composer.blueprint import Blueprint
from composer.describe import type_of
from composer.diagnostics import ComposerError, Diagnostic, Source, listing
from composer.flat import document
from composer.graph import Body, Broken, Call, Graph, Group
from composer.inference import Program, infer
from composer.interfaces import Interface, interface
from composer.linking import link, link_all
from composer.locks import FORMAT, Lock, hashes, read
from composer.plugins import Plugin
from composer.registry import Registry, canonical
from composer.shipped import OWN
from composer.sizes import summary
from composer.strides import multiples
from composer.writing import dump

MOST = 10
"""Nodes whose types are others are reported one by one up to here; what follows them follows from them."""

REPLACED = ("BP102", "BP103")
"""What the linker says of a block that nobody brings; a lock knows more of it."""


# --- writing -----------------------------------------------------------------------------------------------------


def locked(graph: Graph, registry: Registry, of: str, overrides: Mapping[str, Any]) -> str:
    """The text of a lock of a linked blueprint. What is locked is the blueprint in full, in which the parts that are
    left out have no addresses any more; so the types are those of that."""
    resolved = document(graph)
    program = infer(link(stage.parse(dump(resolved), library=graph.blueprint.library), registry))
    used = {name: registry.blocks[name] for name in sorted(_used(program)) if name in registry.blocks}
    asked = {k: interfaces.plain(v) for k, v in overrides.items()}
    made: dict[str, Any] = {
        "composer": version(),
        "of": {"blueprint": of, **({"overrides": asked} if asked else {})},
        "distributions": _distributions(used, registry),
        "blocks": {name: _block(interface(block)) for name, block in used.items()},
        "params": plain_params(graph.blueprint),
        "sizes": summary(program.constraints, program.built),
        "types": _types(program),
        "graph": resolved,
    }
    text = HEAD + dump({"lock": FORMAT, "content": hashes(made), **made})
    read(source.parse(Source(f"{graph.blueprint.name}.lock.yaml", text)))  # refused now rather than when it is needed
    return text


HEAD = "# Written by `composer lock`: compare it with what is installed by `composer check`, do not edit it.\n"


def version() -> str:
    """Composer's own."""
    from composer import __version__

    return __version__


def _block(found: Interface) -> dict[str, Any]:
    return {"hash": interfaces.digest(found), **found}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict))


def plain_params(blueprint: Blueprint) -> dict[str, Any]:
    """Resolved parameters; of a lock that is locked again, those it has."""
    if blueprint.lock is not None:
        return dict(blueprint.lock.params)
    return {name: value for name, value in blueprint.values.items() if _is_plain(value)}


def _used(program: Program) -> set[str]:
    """Blocks that a network names, and those that they are made of."""
    named = {type(c.block).name for m in program.graph.members for c in _calls(m)}
    return named | {type(s.block).name for s in program.steps}


def _calls(body: Body | None) -> Iterator[Call]:
    parts: Iterable[Body | None] = ()
    if isinstance(body, Call):
        yield body
        parts = (*body.parts.values(), *body.unused)
    elif isinstance(body, Group):
        parts = (*body.members, *body.unused)
    for part in parts:
        yield from _calls(part)


def _distributions(used: Mapping[str, type[Block]], registry: Registry) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in used:
        owner = registry.owners.get(name)
        if owner is not None:
            entry = found.setdefault(distribution(owner), {"version": owner.version, "blocks": []})
            entry["blocks"].append(name)
    return dict(sorted(found.items()))


def brought(program: Program, registry: Registry) -> dict[str, str]:
    """The distributions whose blocks a network is made of, and their versions (none for a file of the user's)."""
    used = {name: registry.blocks[name] for name in sorted(_used(program)) if name in registry.blocks}
    return {name: str(made["version"]) for name, made in _distributions(used, registry).items()}


def distribution(plugin: Plugin) -> str:
    """Its name; of a Python file that a command names, that of the file, wherever it lies."""
    return plugin.distribution if plugin.version else Path(plugin.distribution).name


def _types(program: Program) -> dict[str, Any]:
    strides = multiples(program.constraints)
    said = {a: type_of(t, strides) for a, t in program.types.items() if "@" not in a}
    return {a: t for a, t in said.items() if t is not None}


# --- comparing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A lock beside what is installed."""

    lock: Lock
    registry: Registry

    @cached_property
    def changed(self) -> dict[str, list[tuple[tuple[str, ...], str]]]:
        """Blocks that are there with another interface, and what is another."""
        found = {}
        for name, was in self.lock.blocks.items():
            block = self.registry.blocks.get(name)
            if block is not None and interfaces.digest(interface(block)) != was.get("hash"):
                kept = {k: v for k, v in was.items() if k != "hash"}
                found[name] = list(interfaces.differences(kept, interface(block)))
        return found

    @cached_property
    def absent(self) -> list[str]:
        """Blocks that nobody brings; of those that two claim the linker speaks."""
        known = {*self.registry.blocks, *self.registry.clashes}
        return [name for name in self.lock.blocks if name not in known]

    @property
    def known(self) -> Registry:
        """What is installed, less what is not as it was locked."""
        gone = {*self.changed, *self.absent}
        kept = {n: r for n, r in self.registry.replacements.items() if n not in gone and r.target not in gone}
        blocks = {n: b for n, b in self.registry.blocks.items() if n not in gone}
        return replace(self.registry, blocks=blocks, replacements=kept)

    def mistakes(self, places: Mapping[str, list[str]]) -> Iterator[Diagnostic]:
        """What differs, given where each block is used."""
        yield from self.of_composer()
        for name in self.lock.distributions:
            yield from self.of_distribution(name, places)
        for name, differences in self.changed.items():
            yield from self.of_block(name, differences, places.get(name, []))
        for name in self.absent:
            if not self.brought_by(name) or self.installed(self.brought_by(name)):
                yield self.without(name, places.get(name, []))

    def of_composer(self) -> Iterator[Diagnostic]:
        if self.lock.composer != version():
            text = f"locked with Composer {self.lock.composer}, this is Composer {version()}"
            yield Diagnostic("BP651", text, self.lock.span("composer"), severity="warning")

    def brought_by(self, block: str) -> str:
        """The distribution that the lock has a block from."""
        return next((d for d, made in self.lock.distributions.items() if block in made["blocks"]), "")

    def installed(self, name: str) -> Plugin | None:
        """The plugin of a distribution that loads."""
        plugins = (p for p in self.registry.plugins if p.fault is None)
        return next((p for p in plugins if canonical(distribution(p)) == canonical(name)), None)

    def of_distribution(self, name: str, places: Mapping[str, list[str]]) -> Iterator[Diagnostic]:
        made, found = self.lock.distributions[name], self.installed(name)
        blocks = [str(b) for b in made["blocks"]]
        others = [b for b in blocks if b in self.changed or b in self.absent]
        wanted = f"{name} {made['version']}".strip()
        span = self.lock.span("distributions", name)
        if found is None:
            if others:
                used = _used_at([a for b in others for a in places.get(b, [])])
                yield replace(self.not_installed(name, wanted, others), notes=used)
                return
            who = listing(sorted({distribution(self.registry.owners[b]) for b in blocks if b in self.registry.owners}))
            text = f"locked with {wanted}, which is not installed; its blocks come from {who or 'elsewhere'}"
            yield Diagnostic("BP650", text, span, severity="warning")
        elif found.version != made["version"] and others:
            verb = "differs" if len(others) == 1 else "differ"
            text = f"locked with {wanted}, {name} {found.version} is installed, where {_blocks(others)} {verb}"
            help = (f"pip install '{name}=={made['version']}'",)
            yield Diagnostic("BP651", text, span, help=help)
        elif found.version != made["version"] and canonical(name) != OWN:
            text = f"locked with {wanted}, {name} {found.version} is installed; the blocks used are the same"
            yield Diagnostic("BP651", text, span, severity="warning")

    def not_installed(self, name: str, wanted: str, blocks: list[str]) -> Diagnostic:
        span, made = self.lock.span("distributions", name), self.lock.distributions[name]
        why, help = "which is not installed", (f"pip install '{name}=={made['version']}'", *self.switched_off())
        if not made["version"]:
            why, help = "which is not given", (f"name the file: `--plugin {name}`",)
        faulty = [p for p in self.registry.plugins if p.fault and canonical(distribution(p)) == canonical(name)]
        if faulty:
            why, help = "which does not load", ("`composer plugins doctor` says why",)
        elif canonical(name) in map(canonical, self.registry.off):
            why, help = "which is switched off", ("leave out `--no-plugins`, or name it in COMPOSER_PLUGINS",)
        return Diagnostic("BP650", f"locked with {wanted}, {why}: it brings {_blocks(blocks)}", span, help=help)

    def switched_off(self) -> tuple[str, ...]:
        """Plugins that are installed and not loaded are known by other names than those of their distributions."""
        off = listing(f"`{name}`" for name in self.registry.off)
        return (f"or it brings {off}, which is switched off",) if off else ()

    def of_block(
        self, name: str, differences: list[tuple[tuple[str, ...], str]], places: list[str]
    ) -> Iterator[Diagnostic]:
        owner = self.registry.owners.get(name)
        there = f" of {owner.label}" if owner and owner.version else ""
        used = _used_at(places)
        for keys, text in differences or [((), "its interface has another hash")]:
            span = self.lock.span("blocks", name, *keys)
            yield Diagnostic("BP652", f"`{name}`{there}: {text}", span, notes=used, help=(self.lock.again(),))

    def without(self, name: str, places: list[str]) -> Diagnostic:
        owner, span = self.brought_by(name), self.lock.span("blocks", name)
        found = self.installed(owner) if owner else None
        text = f"`{name}` is not in {found.label} any more" if found else f"no installed plugin has the block `{name}`"
        new = self.registry.replacements.get(name)
        help = (f"it is called `{new.target}` there", self.lock.again()) if new and new.to else (self.lock.again(),)
        return Diagnostic("BP652" if found else "BP650", text, span, notes=_used_at(places), help=help)


def _blocks(names: list[str]) -> str:
    return listing((f"`{n}`" for n in names), 6)


def _used_at(places: list[str]) -> tuple[str, ...]:
    return (f"used at {listing(places, 4)}",) if places else ()


def linked(blueprint: Blueprint, lock: Lock, registry: Registry) -> tuple[Graph, list[Diagnostic]]:
    """The graph of a lock, with what differs; parts whose block is not as locked are missing in it."""
    beside = Comparison(lock, registry)
    graph, mistakes = link_all(blueprint, beside.known)
    places: dict[str, list[str]] = {}
    for body in (b for m in graph.members for b in _broken(m)):
        places.setdefault(body.use, []).append(body.address)
    said = [*beside.mistakes(places), *_moved(lock, blueprint)]
    gone = [f"block `{name}`" for name in (*beside.changed, *beside.absent)]
    rest = [m for m in mistakes if not (m.code in REPLACED and any(g in m.message for g in gone))]
    rest = [m for m in rest if not (m.code == "BP103" and "requires" in m.message and beside.absent)]
    warnings = tuple(d for d in said if d.severity == "warning")
    return replace(graph, warnings=(*warnings, *graph.warnings)), [*(d for d in said if d not in warnings), *rest]


def _broken(body: Body | None) -> Iterator[Broken]:
    if isinstance(body, Broken) and body.use:
        yield body
    for part in body.parts.values() if isinstance(body, Call) else body.members if isinstance(body, Group) else ():
        yield from _broken(part)


def _moved(lock: Lock, blueprint: Blueprint) -> Iterator[Diagnostic]:
    """Parameters that the blueprint, where it can be found, gives other values today; the lock keeps its own."""
    name, overrides = lock.of
    try:
        path, _ = stage.find(name, blueprint.library, Path(blueprint.path).parent)
        if path.resolve() == Path(blueprint.path).resolve():
            return
        values = stage.load(name, stage.arguments(overrides), blueprint.library, path.parent).values
        values = {key: value for key, value in values.items() if _is_plain(value)}
    except ComposerError:
        return
    for key in {**lock.params, **values}:
        if key not in values or key not in lock.params:
            text = f"`{name}` has no parameter `{key}` today" if key in lock.params else f"`{name}` has a new `{key}`"
        elif lock.params[key] == values[key]:
            continue
        else:
            text = f"`{name}` has {key} = {values[key]!r:.60} today, locked is {lock.params[key]!r:.60}"
        help = ("the lock builds what was locked; " + lock.again(),)
        yield Diagnostic("BP653", text, lock.span("params", key), help=help, severity="warning")


def retyped(lock: Lock, program: Program) -> list[Diagnostic]:
    """Edges whose types, and sizes whose rules, are not those of the lock, though all blocks look as they did."""
    now = _types(program)
    found = []
    for address in {**lock.types, **now}:
        if now.get(address) != lock.types.get(address):
            is_ = f"has the type {_said(now[address])}" if address in now else "is not there any more"
            was = f"locked is {_said(lock.types[address])}" if address in lock.types else "it is not in the lock"
            span = lock.span("types", address)
            found.append(Diagnostic("BP654", f"`{address}` {is_}, {was}", span, address=address))
    sizes = summary(program.constraints, program.built)
    if sizes != lock.sizes and not found:
        text = f"the sizes that fit are others: {listing(sizes) or 'all'}; locked is {listing(lock.sizes) or 'all'}"
        found.append(Diagnostic("BP654", text, lock.span("sizes")))
    return _first(found, lock)


def _first(found: list[Diagnostic], lock: Lock) -> list[Diagnostic]:
    """The first of them with what they mean together; the rest mostly follow from it."""
    if not found:
        return []
    notes: tuple[str, ...] = (
        "all blocks have the interfaces that were locked, so one of them computes something else",
    )
    if len(found) > MOST:
        notes += (f"and at {len(found) - MOST} more nodes",)
    return [replace(found[0], notes=notes, help=(lock.again(),)), *found[1:MOST]]


def _said(type_: Any) -> str:
    return ", ".join(f"{k}: {_said(v)}" for k, v in type_.items()) if isinstance(type_, Mapping) else str(type_)


# --- showing -----------------------------------------------------------------------------------------------------


def filled(description: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """A description whose types, sizes and parameters are those that were locked, whatever is installed."""

    def node(made: dict[str, Any]) -> dict[str, Any]:
        type_ = lock.type_at(made["address"])
        return {**made, "type": made["type"] if type_ is None else type_, "children": list(map(node, made["children"]))}

    def output(made: dict[str, Any]) -> dict[str, Any]:
        found = [lock.type_at(address) for address in made["from"].split(", ")]
        if None in found:
            return made
        return {**made, "type": found[0] if len(found) == 1 else " · ".join(map(_said, found))}

    return {
        **description,
        "params": dict(lock.params),
        "constraints": lock.sizes,
        "outputs": list(map(output, description["outputs"])),
        "nodes": list(map(node, description["nodes"])),
    }


__all__ = ["Comparison", "filled", "linked", "locked", "retyped"]
