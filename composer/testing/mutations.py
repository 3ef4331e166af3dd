"""Broken blueprints: shipped files changed at random in their bytes, their structure, their values or their references.

Whatever a file holds, `check` passes or says what is wrong and where: never another exception, never a hang.

    text = mutated(Path("vit.yaml").read_text(), random.Random(7))
    outcome(path)                       # "passes", or the codes of the mistakes
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from composer.blueprint import is_fragment, shipped
from composer.compose import Blueprint
from composer.diagnostics import ComposerError, InternalError, PluginError
from composer.faults import PLUGINS_OWN
from composer.registry import Registry

Place = tuple[Any, Any]
"""A container and the key or number of one of its values."""

ODD_VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 10**6, 10**18, 0.5, -0.5, 1e300, True, False, None, "", "x", "$dim", "${dim}", "${1/0}",
    "${[1][5]}",
    "${refs('encoder')}", [], {}, [1, 2], [0], ["image"], {"use": "conv"}, {"use": "nothing"}, "conv", "norm.layer",
    ".", "..",
    "image", "image.0", "*", "**", "B 3 H W", "B", "\u0000", "é" * 50, [[[[]]]], {"graph": {}}, {"from": "image"},
)  # fmt: skip


def mutated(text: str, at: random.Random, times: int = 2) -> str:
    """The text after some mutations, each of a kind chosen at random."""
    for _ in range(at.randint(1, times)):
        text = at.choice(list(MUTATIONS.values()))(text, at)
    return text


def outcome(path: Path, registry: Registry | None = None, build: bool = False) -> str:
    """`passes`, or the codes of what is wrong with a file. Raises AssertionError for a mistake without a place."""
    return told(partial(Blueprint.load, path, registry), build)


def told(loaded: Callable[[], Blueprint], build: bool = False) -> str:
    """`outcome` of a blueprint that is about to be loaded."""
    try:
        blueprint = loaded()
        blueprint.check()
        if build:
            blueprint.build(device="meta")
    except ComposerError as fault:
        said = fault
    else:
        return "passes"
    assert not isinstance(said, PluginError | InternalError), f"no mistake of the user's: {said}"
    assert str(said)
    assert said.diagnostics, "an error that says nothing"
    for mistake in said.diagnostics:
        assert mistake.code not in PLUGINS_OWN, f"no mistake of the user's: {mistake.render()}"
        assert mistake.span is not None, f"no place: {mistake.code} {mistake.message}"
        assert mistake.span.line >= 1
        assert mistake.span.column >= 1
    return " ".join(sorted({d.code for d in said.diagnostics}))


def of_bytes(text: str, at: random.Random) -> str:
    """A character deleted, doubled, swapped with its neighbour or replaced."""
    if not text:
        return "a"
    k = at.randrange(len(text))
    new = at.choice(
        ["", text[k] * 2, at.choice("{}[]:,#&*!|>'\"%@`$ \n\t-?é\x07\ufeff\u2028"), text[k + 1 : k + 2] + text[k]]
    )
    return text[:k] + new + text[k + 1 :]


def of_lines(text: str, at: random.Random) -> str:
    """A line deleted, doubled, moved, indented or cut."""
    lines = text.splitlines(keepends=True) or [""]
    k, m = at.randrange(len(lines)), at.randrange(len(lines))
    line = lines[k]
    changes: list[list[str]] = [[], [line, line], [" " + line], [line[1:]], [line[: at.randrange(len(line) + 1)]]]
    lines[k : k + 1] = at.choice(changes)
    if at.random() < 0.2:
        lines.insert(min(m, len(lines)), line)
    return "".join(lines)


def of_structure(text: str, at: random.Random) -> str:
    """A value of the tree deleted, moved to another place, doubled under another name, or wrapped."""

    def change(tree: Any, places: list[Place]) -> None:
        owner, key = at.choice(places)
        other, to = at.choice(places)
        kind = at.randrange(4)
        if kind == 0:
            del owner[key]
        elif kind == 1:
            other[to] = owner[key]
        elif kind == 2 and isinstance(owner, dict):
            owner[f"{key}2"] = owner[key]
        else:
            owner[key] = at.choice([[owner[key]], {"graph": owner[key]}, {"use": owner[key]}, {"a": owner[key]}])

    return _changed(text, change)


def of_values(text: str, at: random.Random) -> str:
    """A leaf replaced by an odd value."""

    def change(tree: Any, places: list[Place]) -> None:
        owner, key = at.choice(places)
        owner[key] = at.choice(ODD_VALUES)

    return _changed(text, change)


def of_references(text: str, at: random.Random) -> str:
    """A word of the file in the place of another."""

    def change(tree: Any, places: list[Place]) -> None:
        words = [(o, k) for o, k in places if isinstance(o[k], str)]
        keys = [k for o, k in places if isinstance(k, str)]
        if words and keys:
            owner, key = at.choice(words)
            other = at.choice(words)
            owner[key] = at.choice([other[0][other[1]], at.choice(keys), f"{at.choice(keys)}.{at.choice(keys)}"])

    return _changed(text, change)


def of_blueprints(text: str, at: random.Random) -> str:
    """A part of a shipped blueprint in the place of another value, or the file over a shipped one (`extends`)."""

    def change(tree: Any, places: list[Place]) -> None:
        path = at.choice([p for p in sorted(shipped().values()) if not is_fragment(p)])
        if at.random() < 0.3:
            tree.pop("graph", None)
            tree["extends"] = path.stem
            return
        owner, key = at.choice(places)
        theirs, at_ = at.choice([(o, k) for o, k in _places(yaml.safe_load(path.read_text())) if k in ("graph", key)])
        owner[key] = theirs[at_]

    return _changed(text, change)


def of_keys(text: str, at: random.Random) -> str:
    """A key renamed to another one of the file, or misspelt."""

    def change(tree: Any, places: list[Place]) -> None:
        named = [(o, k) for o, k in places if isinstance(k, str)]
        if named:
            owner, key = at.choice(named)
            new = at.choice(
                [at.choice(named)[1], key[:-1], key + "s", key[::-1], "from", "use", "repeat", "for", "when"]
            )
            owner[new] = owner.pop(key)

    return _changed(text, change)


MUTATIONS: Mapping[str, Callable[[str, random.Random], str]] = {
    "bytes": of_bytes,
    "lines": of_lines,
    "structure": of_structure,
    "values": of_values,
    "references": of_references,
    "keys": of_keys,
    "blueprints": of_blueprints,
}


def _changed(text: str, change: Callable[[Any, list[Place]], None]) -> str:
    """The text of the tree after a change; a text that is no tree any more stays as it is."""
    try:
        tree = yaml.safe_load(text)
        places = list(_places(tree))
        if places:
            change(tree, places)
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError, IndexError):
        return text


def _places(tree: Any) -> Iterator[Place]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)
