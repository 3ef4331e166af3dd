"""Who uses what: which blocks each blueprint and each of its presets is made of, found in its linked graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from composer.compose import Blueprint
from composer.diagnostics import ComposerError
from composer.graph import Body, Call, Group
from composer.registry import Registry


@dataclass(frozen=True)
class Variant:
    """A blueprint, or one of its presets: the blocks it names and the blueprints it uses as blocks.

    `family` is the blueprint at the bottom of its `extends`: an architecture, of which the others are descendants.
    """

    name: str
    preset: str
    family: str
    blocks: frozenset[str]
    fragments: frozenset[str]


@dataclass(frozen=True)
class Usage:
    """Which blocks stand in which blueprints."""

    blocks: tuple[str, ...]
    variants: tuple[Variant, ...]
    fragments: tuple[str, ...]

    @property
    def blueprints(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(v.name for v in self.variants))

    @property
    def rows(self) -> tuple[str, ...]:
        """Blocks, and below them the blueprints that others use as blocks."""
        return (*self.blocks, *self.fragments)

    def users(self, part: str) -> tuple[str, ...]:
        """The blueprints that use a block, themselves or in a preset."""
        return tuple(dict.fromkeys(v.name for v in self.variants if part in v.blocks | v.fragments))

    def presets(self, part: str, blueprint: str) -> tuple[str, ...]:
        """The presets that use a block where the blueprint by itself does not."""
        mine = [v for v in self.variants if v.name == blueprint and part in v.blocks | v.fragments]
        return () if any(not v.preset for v in mine) else tuple(v.preset for v in mine)

    def families(self, part: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(v.family for v in self.variants if part in v.blocks | v.fragments))

    @property
    def alone(self) -> dict[str, str]:
        """The blocks that stand in one blueprint only, and that blueprint."""
        return {b: u[0] for b in self.blocks if len(u := self.users(b)) == 1}

    @property
    def single(self) -> dict[str, str]:
        """The blocks that only one family uses (blueprints that extend one another), and that family."""
        return {b: f[0] for b in self.blocks if len(f := self.families(b)) == 1}

    @property
    def single_fragments(self) -> dict[str, str]:
        """The blueprints that one family only uses as a block."""
        return {b: f[0] for b in self.fragments if len(f := self.families(b)) == 1}

    @property
    def unused(self) -> tuple[str, ...]:
        return tuple(b for b in self.blocks if not self.families(b))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "blueprints": [
                {"name": v.name, "preset": v.preset, "family": v.family, "blocks": sorted(v.blocks | v.fragments)}
                for v in self.variants
            ],
            "blocks": [
                {"name": b, "blueprints": self.users(b), "families": self.families(b), "fragment": b in self.fragments}
                for b in self.rows
            ],
            "alone": self.alone,
            "single": self.single,
            "single_fragments": self.single_fragments,
            "unused": self.unused,
        }


def usage(registry: Registry, names: Iterable[str]) -> Usage:
    """Of all blueprints named and their presets. One that others use as a block is a row, not a column."""
    found = [v for name in names for v in variants(name, registry)]
    parts = {f for v in found for f in v.fragments}
    whole = tuple(v for v in found if v.name not in parts)
    return Usage(tuple(sorted(registry.blocks)), whole, tuple(sorted(parts)))


def variants(name: str, registry: Registry) -> Iterator[Variant]:
    """A blueprint as it is and with each preset; not where it needs what only its user can give, nor with a preset that
    it inherits and that does not fit it."""
    presets = [""]
    for preset in presets:
        try:
            blueprint = Blueprint.load(f"{name}:{preset}" if preset else name, registry)
            yield variant(name, preset, blueprint)
        except ComposerError:
            continue
        presets += [] if preset else blueprint.presets


def variant(name: str, preset: str, blueprint: Blueprint) -> Variant:
    """What one linked blueprint uses."""
    bodies = [b for member in blueprint.link().members for b in walk(member)]
    blocks = frozenset(b.use for b in bodies if isinstance(b, Call))
    parts = frozenset(b.use.partition(":")[0] for b in bodies if isinstance(b, Group) and b.use)
    return Variant(name, preset, blueprint.files[0].stem, blocks, parts)


def walk(body: Body) -> Iterator[Body]:
    """A part of a linked graph and all parts below it, with those that own weights and never run."""
    yield body
    below: list[Body] = []
    if isinstance(body, Group):
        below += [*body.members, *body.unused]
    elif isinstance(body, Call):
        below += [*(p for p in body.parts.values() if p is not None), *body.unused]
    for part in below:
        yield from walk(part)
