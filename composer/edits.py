"""Changes by address: what `set`, `replace`, `wrap` and `remove` make of the spec that stands there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from composer import blueprint as blueprints
from composer.block import RESERVED
from composer.blueprint import Edit, merge_specs, without
from composer.source import Map


def changed(spec: Any, edit: Edit) -> Any:
    """The spec after one edit; None when it is removed."""
    if edit.action == "remove":
        return None if edit.change else spec
    if isinstance(spec, str):
        spec = Map({"use": spec})
    if edit.action == "set":
        return merge_specs(spec, edit.change)
    if edit.action == "wrap":
        return _wrapped(edit.change, without(spec, "from"), spec)
    wiring = [k for k in ("from", "for", "carry") if k not in _keys(edit)]
    kept = {k: spec[k] for k in wiring if isinstance(spec, dict) and k in spec}
    change = Map(edit.change) if type(edit.change) is dict else edit.change
    if not isinstance(change, Map):
        change = Map({"use": change}, value_spans={"use": edit.span} if edit.span else {})
    return blueprints.joined(Map(kept), change) if kept else change


def _keys(edit: Edit) -> Iterable[str]:
    return edit.change if isinstance(edit.change, dict) else ()


def _wrapped(change: Any, original: Any, spec: Any) -> Any:
    """`$original` in a wrap is what was there; its inputs stay at the outside."""

    def put(value: Any) -> Any:
        if value == "$original":
            return original
        if not isinstance(value, Map):
            return value
        made = {k: put(v) for k, v in value.items()}
        return Map(made, span=value.span, key_spans=value.key_spans, value_spans=value.value_spans)

    wrapped = put(change)
    if isinstance(spec, dict) and "from" in spec and "from" not in wrapped:
        wrapped = merge_specs(wrapped, Map({"from": spec["from"]}))
    return wrapped


def as_inline(spec: Map) -> Map:
    """A mapping of nodes in a slot is an inline graph."""
    nodes = without(spec, *(k for k in spec if k in RESERVED))
    outer = without(spec, *(k for k in spec if k not in RESERVED))
    return merge_specs(outer, Map({"graph": nodes}))  # type: ignore[no-any-return]
