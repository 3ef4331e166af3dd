"""What `composer blocks --used-by` and `--matrix` print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from composer.blueprint import shipped
from composer.cli import common
from composer.cli.listing import table
from composer.registry import Registry
from composer.usage import Usage, usage


def used_by(registry: Registry, form: str) -> None:
    """Block × blueprint, and the blocks of one architecture alone."""
    found = usage(registry, sorted({**registry.blueprints, **shipped()}))
    if form == "json":
        return common.print_json(found.to_json())
    if form == "markdown":
        head = ("block", "number", *found.blueprints)
        print(grid(head, ((f"`{b}`", len(found.users(b)), *_marks(found, b)) for b in found.rows)))
        print("\n● used, ○ in a preset only; below the blocks, the blueprints that others use as blocks.\n")
    else:
        rows = [(b, len(found.users(b)), ", ".join(_said(found, b))) for b in found.rows]
        table(("block", "blueprints", "which (presets in brackets)"), rows)
    alone = ", ".join(f"{b} ({family})" for b, family in found.single.items())
    print(f"{len(found.blocks)} blocks in {len(found.blueprints)} blueprints.")
    print(f"In one family alone: {len(found.single)}: {alone or 'none'}.")
    print(f"In none: {len(found.unused)}: {', '.join(found.unused) or 'none'}.")


def _marks(found: Usage, part: str) -> Iterable[str]:
    users = found.users(part)
    return ("" if b not in users else "○" if found.presets(part, b) else "●" for b in found.blueprints)


def _said(found: Usage, part: str) -> Iterable[str]:
    for name in found.users(part):
        presets = found.presets(part, name)
        yield f"{name} ({' '.join(presets)})" if presets else name


def grid(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
