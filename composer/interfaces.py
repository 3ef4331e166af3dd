"""What a blueprint can see of a block, as plain data, and a hash of it.

    class Conv(Block):            {ports: {x: required},
        out: Positive             options: {out: {type: int >= 1}, kernel: {type: int >= 1, default: 3}},
        kernel: Positive = 3      slots: {norm: {at: [norm], role: norm, offers: [x], default: null}}}
        norm: Slot = slot()

Two classes of equal interfaces take the same blueprints. It is made of names, types, defaults and ports, never of
source text, and says the types in words of its own rather than those of Python or pydantic, whose spelling changes from
version to version. What a block computes is not in it.
"""

from __future__ import annotations

import enum
import hashlib
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from composer.block import ALL_PORTS, Block

Interface = dict[str, Any]

HASH_DIGITS = 16
"""Hexadecimal digits of a hash: 64 bits are enough to see a change, and the interface stands beside it."""

_WORDS = {int: "int", float: "float", bool: "bool", str: "str", type(None): "null", Any: "any", object: "any"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of", "min_length": "length >=",
           "max_length": "length <=", "pattern": "like"}  # fmt: skip


def interface(block: type[Block]) -> Interface:
    """Ports, options, slots and shape notation of a block; parts that it does not have are left out."""
    fields = {str(f.alias or name): f for name, f in block.model_fields.items() if name not in block.slots}
    made: Interface = {
        "ports": dict(_ports(block)),
        "first": _first(block),
        "options": {name: _option(field) for name, field in sorted(fields.items())},
        "slots": {name: _slot(block, name) for name in sorted(block.slots)},
        "shape": block.signature.text if block.signature is not None else None,
        "outputs": "several" if block.many else None,
        "stands_in": list(block.stands_in),
    }
    if made["shape"] is not None:
        made["shape"] = " ".join(made["shape"].split())
    return {key: value for key, value in made.items() if value}


def digest(value: Any) -> str:
    """A hash of plain data. The order of mappings does not count, that of lists does."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:HASH_DIGITS]


# --- ports, options, slots ---------------------------------------------------------------------------------------


def _ports(block: type[Block]) -> Iterator[tuple[str, str]]:
    for name in (*block.required, *block.optional):
        words = ["required" if name in block.required else "optional", *(["list"] if block.takes_list(name) else [])]
        yield name, " ".join(words)
    if block.open_ports:
        yield ALL_PORTS, "any further"


def _first(block: type[Block]) -> str | None:
    """The port that values flow into by themselves, where there is a choice."""
    ports = (*block.required, *block.optional)
    return ports[0] if len(ports) > 1 else None


def _option(field: FieldInfo) -> dict[str, Any]:
    made = {"type": _type(field.annotation, field.metadata)}
    return made if field.is_required() else {**made, "default": _default(field)}


def _default(field: FieldInfo) -> Any:
    value = field.default
    if value is PydanticUndefined and field.default_factory is not None:
        value = field.default_factory()  # type: ignore[call-arg]  # one that asks for other options says none
    return plain(value)


def _slot(block: type[Block], name: str) -> dict[str, Any]:
    spec = block.slots[name]
    made = {"at": list(spec.at), "role": spec.role, "offers": list(spec.offers)}
    return {**made, "required": True} if spec.required else {**made, "default": plain(spec.default)}


def plain(value: Any) -> Any:
    """A value as YAML can hold it; one that it cannot hold by the name of its kind."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=str)
    return [plain(v) for v in value] if isinstance(value, Iterable) else f"({type(value).__name__})"


# --- types -------------------------------------------------------------------------------------------------------


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words: `int >= 1`, `list of int | null`, `"x skip" | "skip x"`."""
    return " ".join([_bare(annotation), *sorted(_bounds(metadata))])


def _bare(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0], args[1:])
    if origin in (Union, types.UnionType):
        return " | ".join(sorted(_type(a) for a in args))
    if origin is Literal:
        return " | ".join(sorted(json.dumps(plain(a)) for a in args))
    if origin is tuple:
        return _tuple(args)
    if origin is not None and len(args) == 1:
        return f"list of {_type(args[0])}"
    if origin is not None and len(args) == 2:
        return f"mapping of {_type(args[0])} to {_type(args[1])}"
    return _named(annotation)


def _tuple(args: tuple[Any, ...]) -> str:
    if len(args) == 2 and args[1] is Ellipsis:
        return f"list of {_type(args[0])}"
    return f"[{'; '.join(map(_type, args))}]"


def _named(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " | ".join(sorted(json.dumps(plain(m)) for m in annotation))
    for known, word in _WORDS.items():
        if annotation is known:
            return word
    return str(getattr(annotation, "__name__", "any"))


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    """`>= 1` and the like; whatever else stands beside a type is the block's own business."""
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from _bounds(each.metadata)
            continue
        for name, sign in _BOUNDS.items():
            bound = getattr(each, name, None)
            if isinstance(bound, (int, float, str)) and not isinstance(bound, bool):
                yield f"{sign} {bound}"


# --- differences -------------------------------------------------------------------------------------------------


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What changed from one interface to another, in words, each with the keys that lead to it in the old one."""
    yield from _of_ports(old.get("ports") or {}, new.get("ports") or {})
    for kind in ("option", "slot"):
        yield from _named_ones(kind, old.get(f"{kind}s") or {}, new.get(f"{kind}s") or {})
    for key in ("first", "shape", "outputs", "stands_in"):
        if old.get(key) != new.get(key):
            yield (key,), f"{_WHAT[key]} was {_said(old.get(key))}, it is {_said(new.get(key))}"


def _of_ports(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    gone, come = [n for n in old if n not in new], [n for n in new if n not in old]
    for name in gone:
        alike = [n for n in come if new[n] == old[name]]
        hint = f" (there is a new port `{alike[0]}`)" if len(alike) == 1 else ""
        yield ("ports", name), f"the port `{name}` is gone{hint}"
    for name in come:
        yield ("ports",), f"the port `{name}` is new ({new[name]})"
    for name in (n for n in old if n in new and old[n] != new[n]):
        yield ("ports", name), f"the port `{name}` was {old[name]}, it is {new[name]}"


def _named_ones(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name in (n for n in old if n not in new):
        yield (f"{kind}s", name), f"the {kind} `{name}` is gone"
    for name in (n for n in new if n not in old):
        must = "is new and must be given" if "default" not in new[name] else "is new"
        yield (f"{kind}s",), f"the {kind} `{name}` {must}"
    for name in (n for n in old if n in new):
        for key in {**old[name], **new[name]}:
            was, now = old[name].get(key, _NONE), new[name].get(key, _NONE)
            if was != now or type(was) is not type(now):
                yield (f"{kind}s", name), f"the {key} of the {kind} `{name}` was {_said(was)}, it is {_said(now)}"


_WHAT = {"first": "its first port", "shape": "its shape", "outputs": "the number of its outputs",
         "stands_in": "where it may stand"}  # fmt: skip
_NONE = object()


def _said(value: Any) -> str:
    return "none" if value is None or value is _NONE else value if isinstance(value, str) else json.dumps(value)


__all__ = ["Interface", "differences", "digest", "interface", "plain"]
