"""A loaded blueprint as one document again: what was asked for, its bases, preset and overrides laid over each other.

Unlike `composer.flat`, nothing is evaluated: parameters, loops and expressions stay as they were written. A value that
a preset or an override gave stands as the parameter's default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from composer.blueprint import VERSION, Blueprint, Edit, Param, type_of
from composer.reaching import undoes

Spec = dict[str, Any]


def document(blueprint: Blueprint) -> Spec:
    """A blueprint as plain data, its keys in the usual order; `composer.writing.dump` makes a text of it."""
    weights = {origin: list(rules) for origin, rules in blueprint.weights.items()}
    made = {
        **heading(blueprint),
        "params": {name: _param(param) for name, param in blueprint.params.items() if name not in blueprint.idle},
        "presets": dict(blueprint.presets),
        "inputs": dict(blueprint.inputs),
        "graph": dict(blueprint.graph),
        "outputs": dict(blueprint.outputs),
        "edit": [_edit(edit) for edit in _in_one_list(blueprint.edits)],
        "init": list(blueprint.init),
        "weights": weights["official"] if set(weights) == {"official"} else weights,
        "tap": list(blueprint.tap),
    }
    return {key: value for key, value in made.items() if value or key == "blueprint"}


def heading(blueprint: Blueprint) -> Spec:
    """What a document says before its parameters and its graph."""
    return {
        "blueprint": VERSION,
        "name": blueprint.name,
        "summary": blueprint.summary,
        "source": dict(blueprint.source),
        "requires": list(blueprint.requires),
    }


def _param(param: Param) -> Any:
    """Just the value where it says the type, or the declaration."""
    given = param.value_span is not param.span
    value = param.value if given else param.default
    mapping = isinstance(value, Mapping)
    if not param.rules and not param.doc and param.type == type_of(value) and (not mapping or set(value) & _PARTS):
        return value
    return {"type": param.type, "default": value, **param.rules, **({"doc": param.doc} if param.doc else {})}


_PARTS = {"use", "graph"}
"""A mapping with one of these is a block; any other would be read as a declaration."""


def _edit(edit: Edit) -> Spec:
    at = {"at": edit.at[0] if len(edit.at) == 1 else list(edit.at)} if edit.action != "add" else {}
    return {**at, edit.action: edit.change}


def _in_one_list(edits: Sequence[Edit]) -> list[Edit]:
    """The edits of all layers, less those of which a later layer leaves nothing: within one list that is a mistake."""
    return [
        edit
        for k, edit in enumerate(edits)
        if not any(
            later.at == edit.at and later.layer != edit.layer and undoes(replace(later, layer=edit.layer), edit)
            for later in edits[k + 1 :]
        )
    ]
