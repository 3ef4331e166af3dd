"""The schema of one blueprint: that of the language, in which the values and addresses of this one are written out.

A JSON Schema sees the place of a word in a file but no other words of it, so the general schema takes any text where a
value is named. Here the names are those that the linked blueprint has: references (`stem`, `stage.1`, `maps.fine`,
`.skip`), outputs, and the addresses that edits are about, each with its type. A misspelt one is then underlined while
it is typed. Whether a value stands above its reader is left to `composer check`. After a new node, write the schema
anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from composer import source
from composer.addresses import is_prefix
from composer.blueprint import Blueprint
from composer.graph import Body, Call, Group
from composer.inference import Program
from composer.schema import Schema
from composer.strides import multiples, readable
from composer.types import Type

Names = Mapping[str, str]
"""Names with their types, in words."""


def completed(schema: Schema, program: Program) -> Schema:
    """The schema with the names of a program in the place of any text."""
    said = _Types(program)
    seen = dict(_seen(program, said))
    written = dict.fromkeys(_written(program.graph.blueprint), "")
    values = _with_copies({**written, **seen})
    tops = {n: t for n, t in values.items() if not n.startswith(".")}
    addresses = _with_copies(dict(_addresses(program, said)))
    made = dict(schema["definitions"])
    made["reference"] = _reference(values, made["reference"])
    made["output"] = _narrowed(made["output"], _reference(tops, schema["definitions"]["reference"]))
    made["address"] = {"anyOf": [_one_of(addresses), {"type": "string", "pattern": "\\*"}]}
    made["edit"] = _edit(made["edit"])
    name = program.graph.blueprint.name
    return {**schema, "title": f"Composer blueprint {name}", "definitions": made}


class _Types:
    """The type of an address, for people."""

    def __init__(self, program: Program):
        self.types, self.strides = program.types, multiples(program.constraints)

    def __call__(self, address: str) -> str:
        found = self.types.get(address)
        return readable(found, self.strides) if isinstance(found, Type) else ""


def _seen(program: Program, said: _Types) -> Iterator[tuple[str, str]]:
    """Every value that some node sees, by the name it has there, and those that an output may be."""
    for spec in program.inputs:
        yield spec.name, str(spec.type)
    for call in _calls(program.graph.members):
        for name, ref in call.sight or ():
            yield name, said(ref.name)
    for body in program.graph.members:
        if isinstance(body, (Call, Group)):
            below = (a for a in program.types if is_prefix(body.address, a) and "@" not in a)
            yield from ((a, said(a)) for a in (body.address, *below))


def _calls(bodies: Iterable[Body | None]) -> Iterator[Call]:
    for body in bodies:
        if isinstance(body, Call):
            yield body
            yield from _calls(body.parts.values())
        elif isinstance(body, Group):
            yield from _calls(body.members)


def _with_copies(names: Names) -> dict[str, str]:
    """With `stage.0` also `stage.*`: all copies."""
    made = dict(names)
    for name in names:
        words = name.split(".")
        for k, word in enumerate(words):
            if word.isdigit():
                made.setdefault(".".join("*" if w.isdigit() and n >= k else w for n, w in enumerate(words)), "")
                made.setdefault(".".join([*words[:k], "*", *words[k + 1 :]]), "")
    return made


def _written(blueprint: Blueprint) -> Iterator[str]:
    """References as the files say them: that they are right was checked, and a preset's may not be in this graph."""
    for path in blueprint.files:
        yield from _references(source.read(path))


def _references(value: Any, named: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        yield from [value] if named and "$" not in value else []
    elif isinstance(value, list):
        for item in value:
            yield from _references(item, named)
    elif isinstance(value, dict):
        for key, item in value.items():
            is_node = isinstance(item, dict) and ("use" in item or "graph" in item)
            yield from _references(
                item, key in ("from", "carry", "outputs") or (named and not is_node and key != "when")
            )


def _addresses(program: Program, said: _Types) -> Iterator[tuple[str, str]]:
    """What an edit can be about: the addresses there are, those that edits took away, and those written."""
    graph = program.graph
    yield from ((a, said(a)) for a in (*program.types, *graph.specs, *graph.changes) if "@" not in a and "+" not in a)
    for path in graph.blueprint.files:
        top = source.read(path)
        presets = [p for p in (top.get("presets") or {}).values() if isinstance(p, dict)]
        for edit in (e for part in (top, *presets) for e in part.get("edit") or ()):
            at = edit.get("at")
            yield from ((a, "") for a in ([at] if isinstance(at, str) else at or ()))


def _reference(names: Names, general: Schema) -> Schema:
    any_text, *others = general["anyOf"]
    return {**general, "anyOf": [_one_of(names), {**any_text, "pattern": "\\$"}, *others]}


def _one_of(names: Names) -> Schema:
    ordered = dict(sorted(names.items()))
    return {"type": "string", "enum": list(ordered), "enumDescriptions": [t or n for n, t in ordered.items()]}


def _narrowed(schema: Schema, own: Schema) -> Schema:
    """A schema that asks for names of the outermost graph where it asked for any reference."""
    refers = {"$ref": "#/definitions/reference"}
    choices = schema["anyOf"]
    said = [own if s == refers else {**s, "properties": {**s["properties"], "from": own}} for s in choices]
    return {**schema, "anyOf": said}


def _edit(schema: Schema) -> Schema:
    """Edits of these addresses; a pattern with `*` is let through, since what it matches is not in a schema."""
    one = {"$ref": "#/definitions/address"}
    at = {**schema["properties"]["at"], "anyOf": [one, {"type": "array", "items": one}]}
    return {**schema, "properties": {**schema["properties"], "at": at}}
