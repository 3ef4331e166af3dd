"""Old names of blocks and options -> the new ones, each with a warning at its place.

    {use: axial.attn, n_heads: 4}    ->    {use: axial.attention, heads: 4}

The names that are gone are those that plugins declare (`composer.Replacement`). A part is renewed before anything else
is asked of it, and again after each edit, so that edits, overrides and copies of a loop may say old names too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from composer.blueprint import Edit, replaced
from composer.diagnostics import Diagnostic, Span
from composer.frozen import dataclass
from composer.registry import Registry
from composer.replacements import Replacement
from composer.source import Map, span_of


@dataclass(frozen=True)
class Old:
    """A name that is gone, or a block with options that are, and the plugin that says so."""

    replacement: Replacement
    owner: str


OldNames = Mapping[str, Old]


def old_names(registry: Registry) -> OldNames:
    """The names that old blueprints use. A block that somebody registers under an old name is that block."""
    bringing = {r.block: p.distribution for p in registry.plugins for r in p.replacements}
    return {
        name: Old(each, bringing.get(name, ""))
        for name, each in registry.replacements.items()
        if each.target in registry.blocks and (not each.to or name not in registry.blocks)
    }


def renewed(spec: Any, old: OldNames, warnings: list[Diagnostic]) -> Any:
    """A part with the names of today. Its copies' own options (`first`, `last`) are its options too."""
    while isinstance(spec, dict) and isinstance(spec.get("use"), str) and spec["use"] in old:
        use = spec["use"]
        found = old[use]
        if found.replacement.to:
            warnings.append(_block_warning(use, found, span_of(spec, "use") or getattr(spec, "span", None)))
        changed = _renamed(spec, found, warnings)
        for word in ("first", "last"):
            if isinstance(changed.get(word), dict) and "use" not in changed[word]:
                changed = replaced(changed, **{word: _renamed(changed[word], found, warnings)})
        if not found.replacement.to:
            return changed
        spec = replaced(changed, use=found.replacement.to)
    return spec


def in_edit(edit: Edit, spec: Any, old: OldNames, warnings: list[Diagnostic]) -> Edit:
    """An edit of a part with today's names; it may set options by their old ones, and the block by its own."""
    if edit.action != "set" or not isinstance(edit.change, dict) or not old:
        return edit
    change = renewed(edit.change, old, warnings)
    for found in _of(spec, old) if "use" not in edit.change else ():
        change = _renamed(change, found, warnings, edit.span)
    return replace(edit, change=change) if change is not edit.change else edit


def option(spec: Any, key: str, old: OldNames) -> str:
    """The name that an option of a part has today."""
    return next((o.replacement.options[key] for o in _of(spec, old) if key in o.replacement.options), key)


def _of(spec: Any, old: OldNames) -> list[Old]:
    """What was renamed of the block of a part, whichever of its names the part says."""
    use = spec.get("use") if isinstance(spec, dict) else None
    return [o for o in old.values() if o.replacement.target == use] if isinstance(use, str) else []


def _renamed(spec: Any, found: Old, warnings: list[Diagnostic], place: Span | None = None) -> Map:
    """Options under their new names, in their order. Where both are given, the new one counts."""
    names = {o: n for o, n in found.replacement.options.items() if o in spec}
    if not names:
        return spec if isinstance(spec, Map) else Map(spec)
    key_spans, value_spans = dict(getattr(spec, "key_spans", {})), dict(getattr(spec, "value_spans", {}))
    made: dict[str, Any] = {}
    for key, value in spec.items():
        new = names.get(key, key)
        if key in names:
            both = new in spec
            warnings.append(_option_warning(key, new, both, found, key_spans.get(key) or place))
            if both:
                continue
            key_spans[new], value_spans[new] = key_spans.get(key), value_spans.get(key)
        made[new] = value
    spans = {n: s for n, s in key_spans.items() if s and n in made}, {n: s for n, s in value_spans.items() if s}
    made_map = Map(made, key_spans=spans[0], value_spans={n: s for n, s in spans[1].items() if n in made})
    made_map.span = getattr(spec, "span", made_map.span)
    return made_map


def _block_warning(use: str, found: Old, span: Span | None) -> Diagnostic:
    new = found.replacement.to
    text = f"the block `{use}` is called `{new}`{found.replacement.said(found.owner)}"
    return Diagnostic("BP609", text, span, help=(f"write `{new}`",), severity="warning")


def _option_warning(key: str, new: str, both: bool, found: Old, span: Span | None) -> Diagnostic:
    block, said = found.replacement.target, found.replacement.said(found.owner)
    text = f"the option `{key}` of `{block}` is called `{new}`{said}"
    help = f"remove it: `{new}` is given too, and counts" if both else f"write `{new}`"
    return Diagnostic("BP609", text, span, help=(help,), severity="warning")
