"""What `composer blocks --used-by` and `--matrix` print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from composer.blueprint import published
from composer.cli import common
from composer.cli.listing import table
from composer.registry import Registry
from composer.swaps import cells
from composer.usage import Usage, usage


def used_by(registry: Registry, form: str) -> None:
    """Block × blueprint, and the blocks of one architecture alone; hybrids are no architectures of their own."""
    found = usage(registry, sorted({**registry.blueprints, **published()}))
    if form == "json":
        return common.print_json(found.to_json())
    if form == "markdown":
        head = ("block", "number", *found.blueprints)
        print(grid(head, ((f"`{b}`", len(found.users(b)), *_marks(found, b)) for b in found.rows)))
        print("\n● used, ○ in a preset only; below the blocks, the blueprints that others use as blocks.\n")
    else:
        rows = [(b, len(found.users(b)), ", ".join(_said(found, b))) for b in found.rows]
        table(("block", "blueprints", "which (presets in brackets)"), rows)
    print(f"{len(found.blocks)} blocks in {len(found.blueprints)} blueprints, and {len(found.fragments)} fragments.")
    print(_counted("Blocks in one blueprint alone", found.alone))
    print(_counted("Blocks in one family alone", found.single))
    print(_counted("Fragments in one family alone", found.single_fragments))
    print(f"Blocks in none: {len(found.unused)}: {', '.join(found.unused) or 'none'}.")


def _counted(what: str, parts: Mapping[str, str]) -> str:
    return f"{what}: {len(parts)}: {', '.join(f'{b} ({owner})' for b, owner in parts.items()) or 'none'}."


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


def matrix(registry: Registry, form: str) -> None:
    """Every swap in every architecture: what was built and ran, and why the rest cannot be."""
    found = [(cell, cell.run(registry)) for cell in cells(registry)]
    if form == "json":
        return common.print_json([{**asdict(c), **asdict(o), "built": not o.code} for c, o in found])
    for family in dict.fromkeys(c.family for c, _ in found):
        rows = [(c, o) for c, o in found if c.family == family]
        swaps = list(dict.fromkeys(c.swap for c, _ in rows))
        lines = []
        for name, rank in dict.fromkeys((c.blueprint, c.rank) for c, _ in rows):
            marks = {c.swap: o.code or "✓" for c, o in rows if (c.blueprint, c.rank) == (name, rank)}
            lines.append((f"{name} {rank}-D", *(marks[s] for s in swaps)))
        if form == "markdown":
            print(grid((family, *swaps), lines), end="\n\n")
        else:
            table((family, *swaps), lines)
    for cell, outcome in found:
        if outcome.code:
            print(f"{'- ' if form == 'markdown' else ''}{cell.id}: {outcome.code} {outcome.reason}")
    print()
    for family in dict.fromkeys(c.family for c, _ in found):
        good = [not o.code for c, o in found if c.family == family]
        print(f"{family}: {sum(good)} of {len(good)} build, {100 * sum(good) / len(good):.1f} %")
