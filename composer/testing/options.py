"""Values for a block's options, read off its fields: types, bounds and choices, simple values first.

pydantic says what a field takes as a JSON schema, so a plugin's fields need no help; a field that says nothing (any
value) gets no value but its default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from composer.block import Block

WHOLE = (1, 2, 4, 3, 8, 0, 16, 5)
"""Whole numbers that are tried; small, because they become widths, kernels and numbers of layers."""
REAL = (0.5, 1.0, 0.0, 2.0, 0.25, 1e-3)
DEEP = 4
"""How far references from one part of a schema to another are followed."""


@lru_cache(maxsize=8192)
def choices(block: type[Block], name: str, rank: int) -> tuple[Any, ...]:
    """Values that an option may have where a map has `rank` axes; lists where the option is one number per axis."""
    made, models = _schemas(block)
    found: list[Any] = []
    for value in _values(made.get(name, {}), models, rank, 0):
        if not any(type(value) is type(f) and value == f for f in found):
            found.append(value)
    return tuple(found)


@lru_cache(maxsize=1024)
def _schemas(block: type[Block]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The schema of each option, and of the models they mention; none where pydantic has none."""
    try:
        made = block.model_json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return {}, {}
    return made.get("properties", {}), made.get("$defs", {})


def _values(schema: Mapping[str, Any], models: Mapping[str, Any], rank: int, depth: int) -> Iterator[Any]:
    if depth > DEEP or "slot" in schema:
        return
    if "$ref" in schema:
        yield from _values(models.get(schema["$ref"].rpartition("/")[2], {}), models, rank, depth + 1)
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _values(part, models, rank, depth + 1)
    if "enum" in schema or "const" in schema:
        yield from schema.get("enum", [schema.get("const")])
    else:
        yield from _of_type(schema, models, rank, depth)


def _of_type(schema: Mapping[str, Any], models: Mapping[str, Any], rank: int, depth: int) -> Iterator[Any]:
    kind = schema.get("type")
    if kind == "boolean":
        yield from (False, True)
    elif kind == "null":
        yield None
    elif kind in ("integer", "number"):
        numbers: tuple[Any, ...] = WHOLE if kind == "integer" else REAL
        ends = (schema.get("minimum"), schema.get("maximum"))
        yield from (n for n in (*numbers, *ends) if n is not None and _within(n, schema))
    elif kind == "array":
        yield from _lists(schema, models, rank, depth)


def _within(number: float, schema: Mapping[str, Any]) -> bool:
    """Whether the bounds of a schema let a number through."""
    low, high = schema.get("minimum", number), schema.get("maximum", number)
    above, below = schema.get("exclusiveMinimum", number - 1), schema.get("exclusiveMaximum", number + 1)
    return low <= number <= high and above < number < below and not number % (schema.get("multipleOf") or 1)


def _lists(schema: Mapping[str, Any], models: Mapping[str, Any], rank: int, depth: int) -> Iterator[Any]:
    """Lists of a fixed length, or one item for each axis: all alike, then one that differs."""
    if "prefixItems" in schema:
        columns = [list(_values(s, models, rank, depth + 1))[:3] for s in schema["prefixItems"]]
        yield from (list(row) for row in product(*columns))
        return
    items = list(_values(schema.get("items", {}), models, rank, depth + 1))[:4]
    least, most = schema.get("minItems", 0), schema.get("maxItems", rank)
    length = min(max(rank, least), most)
    yield from ([item] * length for item in items)
    yield from ([first] + [other] * (length - 1) for first, other in pairwise(items) if length > 1)
