"""Which parts an edit reaches: by its address, on a command line also with segments left out, and what it says if none.

On a command line `encoder.0.attention.window=4` means the part `attention` nearest below `encoder.0` that has an
option `window`: segments may be left out before a name (a number belongs to the name before it), and of all parts that
then fit, those with the shortest addresses are meant. An option goes to a part that has it, so a glob passes by the
others. In a file an address is exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from composer.block import RESERVED, Block
from composer.blueprint import Edit
from composer.diagnostics import Diagnostic, Label, did_you_mean, listing, nearest
from composer.source import Map

Blocks = Mapping[str, type[Block]]
Specs = Mapping[str, Any]
"""What stands at each address, after all edits."""


def takes(spec: Any, key: str, blocks: Blocks) -> bool:
    """Whether a part has an option or a slot of this name; what a blueprint takes shows when it is opened."""
    if not isinstance(spec, dict):
        return False
    if key in RESERVED:
        return True
    if "graph" in spec or "use" not in spec:
        return False
    block = blocks.get(spec["use"]) if isinstance(spec["use"], str) else None
    return block is None or key in block.model_fields


def members(spec: Any) -> Mapping[str, Any]:
    """The nodes of an inline graph; those of a loop stand below its copies."""
    if not isinstance(spec, dict) or {"use", "for", "repeat"} & set(spec):
        return {}
    nodes = spec.get("graph", {k: v for k, v in spec.items() if k not in RESERVED})
    return nodes if isinstance(nodes, dict) else {}


def option_of(edit: Edit) -> str:
    """The option or part that a short edit is about."""
    return next(iter(edit.change)) if edit.action == "set" else ""


def key_of(edit: Edit) -> str:
    """A short edit as it was written."""
    return ".".join(filter(None, (*edit.at, option_of(edit))))


def completed(edit: Edit, specs: Specs, blocks: Blocks) -> Edit | None:
    """A short edit that reached nothing, with the segments that it left out; None where nothing fits."""
    key = option_of(edit)
    owner = _with_gaps(edit.at[0])
    found = [a for a in specs if owner.fullmatch(a) and (takes(specs[a], key, blocks) or key in members(specs[a]))]
    depth = min((a.count(".") for a in found), default=0)
    found = [a for a in found if a.count(".") == depth]
    options = tuple(a for a in found if takes(specs[a], key, blocks))
    if options:
        return replace(edit, at=options, short=False)
    if not found:
        return None
    value = edit.change[key]
    places = tuple(f"{a}.{key}" for a in found)
    if isinstance(value, Map) and "use" not in value and "graph" not in value:
        return replace(edit, at=places, change=value, short=False)
    gone = value is None
    return replace(edit, at=places, action="remove" if gone else "replace", change=gone or value, short=False)


def _with_gaps(text: str, end: bool = True) -> re.Pattern[str]:
    """Addresses that begin with the first of these segments and have the others in this order, with segments left out
    before names and, if `end` may be missing too, behind the last."""
    first, *rest = text.split(".")
    made = _segment(first)
    for word in rest:
        made += ("[.]" if word == "*" or word.isdigit() else "[.](?:.+[.])?") + _segment(word)
    return re.compile(made + ("(?:[.].+)?" if end else ""))


def _segment(word: str) -> str:
    return ".+" if word == "**" else re.escape(word).replace(r"\*", "[^.]+")


def nothing(edit: Edit, specs: Specs, addresses: Iterable[str], blocks: Blocks) -> Diagnostic:
    """An edit that matches nothing, with the nearest addresses."""
    written = key_of(edit) if edit.short else edit.where
    text = f"this edit matches nothing: no part has the address `{written}`"
    known = [a for a in addresses if "@" not in a]
    if edit.short and edit.action == "set":
        key, owner = option_of(edit), _with_gaps(edit.at[0], end=False)
        owners = sorted((a for a in specs if owner.fullmatch(a)), key=lambda a: a.count("."))
        if owners:
            return refused(edit, owners, specs, blocks)
        known = [f"{a}.{key}" for a in known if takes(specs.get(a), key, blocks)] or known
    close = [c for at in ((written,) if edit.short else edit.at) for c in near(at, known)]
    help = (f"did you mean {listing(f'`{c}`' for c in dict.fromkeys(close))}?",) if close else ()
    return Diagnostic("BP106", text, edit.span, help=help)


def near(address: str, addresses: Iterable[str], limit: int = 3) -> list[str]:
    """The addresses a person may have meant: first those of which segments were left out, then those spelt alike.
    Copies are said as `*`, unless the address names one."""
    known = list(addresses)
    words = address.split(".")
    gaps, kept = _with_gaps(address, end=False), set(pairwise(words))
    inner = [_starred(a, kept) for a in known if gaps.fullmatch(a)]
    alike = nearest(address, dict.fromkeys(_starred(a, kept) for a in known), limit)
    return list(dict.fromkeys([*inner, *alike]))[:limit]


def _starred(address: str, kept: set[tuple[str, str]]) -> str:
    """An address with `*` for each number but those that stand behind the same name in what was written."""
    words = address.split(".")
    before = ["", *words]
    return ".".join("*" if w.isdigit() and (b, w) not in kept else w for b, w in zip(before, words, strict=False))


def refused(edit: Edit, places: Iterable[str], specs: Specs, blocks: Blocks) -> Diagnostic:
    """A short edit whose parts do not have its option."""
    key, place = option_of(edit), next(iter(places))
    spec = specs.get(place) or {}
    block = blocks.get(spec["use"]) if isinstance(spec.get("use"), str) else None
    known = [*block.model_fields] if block else [*members(spec)]
    what = f"`{block.name}` at `{place}` has no option" if block else f"`{place}` has no part"
    notes = (f"{'options' if block else 'parts'}: {listing(known, 20)}",) if known else ()
    text = f"{what} `{key}`{did_you_mean(key, known)}"
    return Diagnostic("BP204" if block else "BP106", text, edit.span, notes=notes)


def removed(edit: Edit, by: Edit, address: str) -> Diagnostic:
    """An edit of a part that an edit before it took away."""
    done = "removes" if by.action == "remove" else "replaces"
    text = f"this edit matches nothing: no part has the address `{edit.where}`; an edit before it {done} `{address}`"
    others = (Label(by.span, f"{done} `{address}`"),) if by.span else ()
    return Diagnostic("BP106", text, edit.span, others=others, help=("put it before that one, or leave one out",))


def undone(trail: Mapping[str, list[Edit]]) -> Iterable[Diagnostic]:
    """Edits of which a later one of the same list leaves nothing, wherever they apply: two edits on one place."""
    first: dict[int, tuple[str, Edit]] = {}
    later: dict[int, Edit | None] = {}
    for address, edits in trail.items():
        for k, edit in enumerate(edits):
            by = next((e for e in edits[k + 1 :] if edit.layer and e is not edit and undoes(e, edit)), None)
            first.setdefault(id(edit), (address, edit))
            later[id(edit)] = by if by and later.get(id(edit), by) else None
    for key, by in later.items():
        address, edit = first[key]
        if by is not None:
            text = f"two edits on one place: of this one nothing remains at `{address}`"
            others = (Label(by.span, "this one undoes it"),) if by.span else ()
            yield Diagnostic("BP110", text, edit.span, others=others, help=("leave one out",), address=address)


def undoes(later: Edit, edit: Edit) -> bool:
    """Whether a later edit of the same list leaves nothing of one at the same place."""
    if later.layer != edit.layer or later.action not in ("set", "replace", "remove") or edit.action == "insert_after":
        return False  # what was inserted stands beside that place
    if later.action == "set":
        return edit.action == "set" and set(_leaves(edit.change)) <= set(_leaves(later.change))
    kept = {"from", "for", "carry"} - set(later.change if isinstance(later.change, dict) else ())
    return later.action == "remove" or edit.action != "set" or not set(edit.change) & kept


def _leaves(change: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """The paths of all values in a mapping."""
    if not isinstance(change, dict) or not change:
        yield path
        return
    for key, value in change.items():
        yield from _leaves(value, (*path, key))
