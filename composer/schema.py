"""The JSON Schema of the blueprint language with all installed blocks, for completion and documentation in an editor.

A file that begins with `# yaml-language-server: $schema=composer.schema.json` is completed and checked while it is
typed. The schema is draft-07, which the YAML language servers read best; that draft cannot combine closed schemas, so a
block's schema lets the words of the language through once more, and the words are described in one place (`words`).

A schema sees one file and no values: it is never stricter than the language where that would be wrong for a correct
file, and what needs the whole graph (references, types, sizes) is left to `composer check`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from composer import blueprint as blueprints
from composer.block import RESERVED, Block
from composer.blueprint import EDITS, KEYS, PARAM_KEYS, PARAM_TYPES, VERSION, Param
from composer.diagnostics import ComposerError
from composer.keymap import DROPS, OPTIONS, TRANSFORMS
from composer.registry import Registry

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
KINDS = ("linear", "conv", "norm")
FILLS = (
    "zeros", "ones", "constant", "normal", "trunc_normal", "uniform", "xavier_uniform",
    "xavier_uniform_flat", "xavier_normal", "kaiming_normal", "kaiming_uniform", "kaiming_fan_out", "values",
)  # fmt: skip
"""Kinds and fillings of `init`; a test holds them equal to `composer.init`, which needs torch to import."""


def schema(registry: Registry) -> Schema:
    """The schema of a blueprint file, given what is installed. Equal registries give equal text."""
    library = dict(sorted({**blueprints.shipped(), **registry.blueprints}.items()))
    blocks = dict(sorted(registry.blocks.items()))
    return {
        "$schema": DRAFT,
        "title": "Composer blueprint",
        "description": "A neural network as data: typed inputs, a graph of named blocks, and outputs.",
        **_document(library),
        "definitions": _definitions(blocks, library),
    }


def text(schema: Schema) -> str:
    """A schema as a file, in which each definition is a line: half as long as with one for each bracket, and what
    changes in it is still seen line by line."""
    rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in schema["definitions"].items()]
    rest = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in schema.items() if k != "definitions"]
    return "{\n" + ",\n".join([*rest, ' "definitions": {\n' + ",\n".join(rows) + "\n }"]) + "\n}\n"


def _definitions(blocks: Mapping[str, type[Block]], library: Mapping[str, Path]) -> Schema:
    roles = _roles(blocks)
    made: Schema = {
        "expression": EXPRESSION,
        "reference": REFERENCE,
        "from": FROM,
        "use": _use(blocks, library),
        "nodes": _nodes(roles),
        "node": _node(blocks),
        "fragment": _fragment(blocks, library),
        "part": _part(roles),
        "slot": _slot([_ref("use"), _ref("part")]),
        "param": _param(),
        "input": INPUT,
        "output": OUTPUT,
        "edit": _edit(),
        "init": _init(),
        "rule": _rule(),
    }
    for role, names in roles.items():
        shorts = [_ref(f"names.{role}")] if names else []
        made |= {f"names.{role}": _choice(names)} if names else {}
        made[f"slot.{role}"] = _slot([*shorts, _ref("use"), _ref("part")])
    for name, block in blocks.items():
        made |= _block(name, block)
    for name, path in library.items():
        made[f"blueprint.{name}"] = _blueprint(name, path, library)
    return made


# ---- small pieces -----------------------------------------------------------------------------------------------


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _object(description: str, values: Schema, **more: Any) -> Schema:
    """A mapping of any names to values of one kind."""
    return {"description": description, "type": "object", "additionalProperties": values, **more}


def _closed(description: str, properties: Schema, **more: Any) -> Schema:
    """A mapping of these keys only."""
    return {
        "description": description, "type": "object", "properties": properties, "additionalProperties": False, **more
    }  # fmt: skip


def _either(*choices: Schema) -> Schema:
    return {"anyOf": list(choices)}


def _described(description: str, schema: Schema) -> Schema:
    """A schema with a text of its own; draft-07 ignores what stands beside a `$ref`."""
    return {"description": description, **({"allOf": [schema]} if "$ref" in schema else schema)}


def _choice(names: Mapping[str, str]) -> Schema:
    """One of several words, each with its documentation."""
    return {"type": "string", "enum": list(names), "enumDescriptions": list(names.values())}


def _value(schema: Schema) -> Schema:
    """What the schema says, or an expression that yields it."""
    return _either(schema, _ref("expression"))


def _when(condition: Schema, then: Schema) -> Schema:
    return {"if": condition, "then": then}


def _has(*keys: str) -> Schema:
    return {"required": list(keys)}


KNOWN: Schema = {f"^({'|'.join(sorted(RESERVED))})$": True}
"""The words of the language, in the schema of a block, which is closed; `fragment` describes them."""
NODE_NAME = "^[A-Za-z_\\u0080-\\uffff][A-Za-z0-9_\\u0080-\\uffff]*$"
EXPRESSION: Schema = {
    "title": "expression",
    "description": "`$name` or `${…}`: numbers, strings, lists, + - * / // % **, comparisons, `a if c else b`, index "
    "and slice, and min max sum len ceil reversed ramp refs. Inside { } and [ ] write it in quotes.",
    "type": "string",
    "pattern": "^\\$([A-Za-z_][A-Za-z0-9_]*|\\{[\\s\\S]*\\})$",
}
REFERENCE: Schema = {
    "title": "reference",
    "description": "The name of a value: an input, a node above (`stem`), a copy (`stage.1`), one of several outputs "
    "(`maps.fine`), all copies (`stage.*`), or with a leading dot a value of the graph outside.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/definitions/reference"}}, {"type": "null"}],
}
FROM: Schema = {
    "description": "What the node reads: `a`, `[a, b]`, or by input `{x: a, skip: b}`. Without it, the line above.",
    "anyOf": [{"$ref": "#/definitions/reference"}, {"type": "object", "additionalProperties": _ref("reference")}],
}
INPUT_TYPE: Schema = {
    "description": "The shape: `B $channels *S` (any rank), `B 3 H W`, `B 3` (a vector).",
    "type": "string",
    "pattern": "^\\s*(map|any|B(\\s+([0-9]+|\\$\\S+)(\\s+\\S+)*)?)\\s*$",
}
INPUT: Schema = _either(
    INPUT_TYPE,
    _closed(
        "An input with its size.",
        {
            "type": INPUT_TYPE,
            "size": _described(
                "The size per axis that the network is built for, such as [224, 224]; it may be fed others.",
                _value({"type": "array", "items": _value({"type": "integer", "minimum": 1}), "minItems": 1}),
            ),
            "optional": _described("Whether the network runs without it.", _value({"type": "boolean"})),
            "pad": _described(
                "What is done with a size that is not valid: error; auto pads to the nearest that is, and crops the"
                " outputs back; crop cuts to the largest that is.",
                _value({"enum": ["error", "auto", "crop"]}),
            ),
            "fill": _described("What `pad: auto` pads with.", _value({"enum": ["zero", "reflect"]})),
            "doc": {"type": "string", "description": "What it is."},
        },
        required=["type"],
    ),
)
OUTPUT: Schema = _either(
    _ref("reference"),
    _closed(
        "An output that is there only while training.",
        {
            "from": _ref("reference"),
            "when": {"enum": ["training"], "description": "`training`: left out in evaluation."},
            "note": {"description": "A remark; it is not read."},
        },
        required=["from"],
    ),
)


# ---- the document -----------------------------------------------------------------------------------------------


def _document(library: Mapping[str, Path]) -> Schema:
    """The keys of a file. One that extends another has no graph of its own; any other has all three parts."""
    properties = _keys(library)
    assert set(properties) == set(KEYS), "every key of a document is described"
    return {
        "type": "object",
        "properties": properties,
        "required": ["blueprint"],
        "additionalProperties": False,
        "if": _has("extends"),
        "then": {"not": _has("graph")},
        "else": _has("inputs", "graph", "outputs"),
    }


def _keys(library: Mapping[str, Path]) -> Schema:
    lists = {"type": ["array", "null"]}
    return {
        "blueprint": {"const": VERSION, "description": f"The version of the language: {VERSION}."},
        "name": {"type": "string", "description": "The network's name; without it, the file's."},
        "summary": {"type": "string", "description": "One line on what it is."},
        "source": SOURCE,
        "extends": _described(
            "A blueprint to start from: a name, a preset (`vit:large`), or a path. Then `params` and `edit` change it.",
            _either(*_blueprint_names(library), {"type": "string", "pattern": "\\.ya?ml(:.+)?$|/"}),
        ),
        "requires": {
            **lists, "items": {"type": "string"}, "description": "Plugins it needs, such as `my_blocks>=1.2`."
        },
        "params": _object(
            "Typed parameters, set from outside: `dim: 768`, or {type, default, min, max, choices, …, doc}.",
            _ref("param"), type=["object", "null"],
        ),
        "presets": _object(
            "Named sets of values and edits: `vit:large`.",
            {
                "type": ["object", "null"],
                "properties": {
                    **_changes(),
                    "outputs": _object("Outputs beside the others.", _ref("output"), type=["object", "null"]),
                    "source": SOURCE,
                },
            },
            type=["object", "null"],
        ),
        "inputs": _object("The tensors that go in, by name.", _ref("input"), minProperties=1),
        "graph": _described(
            "The nodes, in the order of computation. A node reads the line above unless it says `from:`.",
            {"allOf": [_ref("nodes")], "minProperties": 1},
        ),
        "outputs": _object(
            "What comes out, by name: a reference, or {from: …, when: training}.", _ref("output"), minProperties=1
        ),
        **_changes(),
    }  # fmt: skip


SOURCE: Schema = {
    "type": ["object", "null"],
    "description": "Where the network comes from.",
    "properties": {
        "paper": {"description": "Authors, year, arXiv number."},
        "code": {"description": "Repository and commit of the official code."},
        "year": {"description": "Year of publication."},
        "parameters": {"description": "The published number of parameters, or one per preset."},
        "training": {
            "type": ["object", "null"],
            "description": "How `composer train` lets it learn: keys of a recipe, such as `optimizer`, `lr`, `batch`.",
        },
    },
}


def _changes() -> Schema:
    """The keys that a preset has too."""
    lists = {"type": ["array", "null"]}
    rules = {**lists, "items": _ref("rule")}
    return {
        "edit": {**lists, "items": _ref("edit"), "description": "Changes by address, in order."},
        "init": {
            **lists,
            "items": _ref("init"),
            "description": "How parameters are filled; the first rule that fits wins.",
        },
        "weights": {
            "description": "From official state_dict keys to addresses; the first rule that fits wins. A list, or one "
            "list per source of checkpoints (`official`, `transformers`, …).",
            "anyOf": [rules, {"type": "object", "additionalProperties": rules}],
        },
        "tap": {
            **lists,
            "items": {"type": "string"},
            "description": "Addresses of attentions, such as `blocks.*.attention`; the network then also gives their "
            "weights, under `taps`. What names no attention is an error.",
        },
    }


def _param() -> Schema:
    """Short: a value. Long: its declaration. A mapping with `use` or `graph` is a block."""
    number = _value({"type": "number"})
    docs: Mapping[str, Schema] = {
        "type": {"enum": list(PARAM_TYPES), "description": "Without it, that of the default. `block`: a part to swap."},
        "default": {"description": "Its value unless set: a value, an expression of other parameters, or a block."},
        "min": _described("The smallest value allowed.", number),
        "max": _described("The largest value allowed.", number),
        "choices": _described("The values allowed.", _value({"type": "array"})),
        "multiple_of": _described("The value must be a multiple of this.", number),
        "divides": _described("The value must divide this.", _value({"type": ["number", "array"]})),
        "nullable": _described("Whether null is allowed.", _value({"type": "boolean"})),
        "doc": {"type": "string", "description": "What it is, in a few words."},
    }
    assert set(docs) == PARAM_KEYS, "every key of a parameter is described"
    long = _closed("A parameter's declaration.", dict(docs), **_either(_has("default"), _has("type")))
    block = _when(_either(_has("use"), _has("graph")), _ref("part"))
    return _when({"type": "object"}, {**block, "else": long})


def _edit() -> Schema:
    docs: Mapping[str, Schema] = {
        "set": _described(
            "Options over those of the node; null empties a slot.", _either(_ref("fragment"), _ref("use"))
        ),
        "replace": _described(
            "A node in its place; `from`, `for` and `carry` stay unless given.", _either(_ref("use"), _ref("part"))
        ),
        "wrap": _described("A node around it; `$original` is what was there.", _either(_ref("use"), _ref("part"))),
        "insert_after": _described("New nodes behind it; readers of it read them instead.", _ref("nodes")),
        "remove": {"type": "boolean", "description": "true: leave it out; its input passes."},
        "add": _described("New nodes at the start of the graph; takes no `at`.", _ref("nodes")),
    }
    assert set(docs) == set(EDITS), "every action of an edit is described"
    at = _either({"type": "string"}, {"type": "array", "items": {"type": "string"}})
    properties = {
        "at": _described("Addresses: `*` is one segment, `**` several. What matches nothing is an error.", at),
        "note": {"description": "A remark; it is not read."},
        **docs,
    }
    return _closed(
        "One change: `at` and one action, or `add`.",
        properties,
        oneOf=[_has(action) for action in EDITS],
        **{"if": _has("add"), "then": {"not": _has("at")}, "else": _has("at")},
    )


def _init() -> Schema:
    number = "-?[0-9.eE+-]+"
    fill = {
        "description": f"How it is filled, such as trunc_normal(0.02); one of {', '.join(FILLS)}.",
        "type": "string",
        "pattern": f"^({'|'.join(FILLS)})(\\(\\s*{number}(\\s*,\\s*{number})*\\s*\\))?$",
    }
    at = _either({"type": "string"}, {"type": "array", "items": {"type": "string"}})
    properties = {
        "at": _described("Addresses of the modules it is about.", at),
        "of": {"enum": list(KINDS), "description": "The kind of module it is about."},
        "note": {"description": "A remark; it is not read."},
        "weight": fill,
        "bias": fill,
    }
    return _object(
        "`at` or `of`, and a filling for each parameter by name.", fill, properties=properties,
        **_either(_has("at"), _has("of")),
    )  # fmt: skip


def _rule() -> Schema:
    transforms = {**{t.name: t.about for t in TRANSFORMS.values()}, **dict.fromkeys(DROPS, "the key is not needed")}
    options: Mapping[str, Schema] = {
        "extra": {"type": "integer", "minimum": 0},
        "grid": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        "corners": {"type": "boolean"},
    }
    assert set(options) == set(OPTIONS), "every option of a transform is described"
    properties = {
        "from": {
            "type": "string",
            "minLength": 1,
            "description": "The official key: {x} a segment, {x+1} from one, {x:a=b,c=d} translated, * the rest.",
        },
        "to": _described(
            "The address: {x} what was read, {x+1} one more, -{x} from the end, * the rest. A list for `split`.",
            _either({"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}),
        ),
        "transform": _described("What happens to the tensor.", _choice(transforms)),
        "note": {"description": "A remark; it is not read."},
        **{name: _described(f"Of `resize_table`: {OPTIONS[name][0]}.", how) for name, how in options.items()},
    }
    drops = {**_has("transform"), "properties": {"transform": {"enum": list(DROPS)}}}
    splits = {**_has("transform"), "properties": {"transform": {"enum": ["split", "columns"]}}}
    resizes = {**_has("transform"), "properties": {"transform": {"const": "resize_table"}}}
    one = {"properties": {"to": _either({"type": "string"}, {"maxItems": 1, "minItems": 1})}}
    return _closed(
        "One rule from official keys to addresses.",
        properties,
        required=["from"],
        allOf=[
            {**_when(drops, {"not": _has("to")}), "else": _has("to")},
            {**_when(splits, {"properties": {"to": {"type": "array", "minItems": 2}}}), "else": one},
            {"if": _either(*map(_has, OPTIONS)), "then": resizes},
        ],
    )


# ---- nodes ------------------------------------------------------------------------------------------------------


def _words() -> Schema:
    """The reserved words of a node, with their documentation."""
    reference = _ref("reference")
    flag, overlay = _value({"type": "boolean"}), _either(_ref("fragment"), {"type": "null"})
    copies = {"type": "array", "items": _either(_ref("fragment"), _ref("use"), {"type": "null"})}
    words: Schema = {
        "use": _described("The block, blueprint (`vit`), preset (`vit:large`) or file that the node is.", _ref("use")),
        "graph": {"description": "An inline graph in place of a block.", "type": "object"},
        "outputs": _object("Several outputs of an inline graph, by name.", reference),
        "from": _ref("from"),
        "repeat": _described(
            "That many copies in a row, each with its own weights; `j` is the copy's number. Or each copy written out.",
            _either(_value({"type": "integer", "minimum": 0, "maximum": 10000}), copies),
        ),
        "for": _described(
            "One instance per item of equally long lists, `name.0 … name.n-1`; `i` is the number. Or each written out.",
            _either({"type": "object", "additionalProperties": _value({"type": "array"}), "minProperties": 1}, copies),
        ),
        "carry": _described(
            "What flows from one instance of a loop to the next: its start value, or several by name.",
            _either(reference, {"type": "object", "additionalProperties": reference}),
        ),
        "first": _described("Options of the first copy of a `repeat` only.", overlay),
        "last": _described("Options of the last copy of a `repeat` only.", overlay),
        "share": _described("true: the copies of the loop share the weights of the first.", flag),
        "when": _described("false: the node is left out and its input passes.", flag),
        "unused": _described("Parts that own weights of official checkpoints and never run.", _ref("nodes")),
        "tap": {"description": "Reserved for taps, which read a value on its way."},
        "note": {"description": "A remark; it is not read."},
    }  # fmt: skip
    assert set(words) == RESERVED, "every word of the language is described"
    return words


def _roles(blocks: Mapping[str, type[Block]]) -> dict[str, dict[str, str]]:
    """Short names by role: `layer` for `norm.layer`, where a slot or a node is called `norm`."""
    roles = {spec.role for block in blocks.values() for spec in block.slots.values()}
    roles |= {name.partition(".")[0] for name in blocks if "." in name}
    return {
        role: {n[len(role) + 1 :]: _summary(b) for n, b in blocks.items() if n.startswith(f"{role}.")}
        for role in sorted(roles)
    }


def _blueprint_names(library: Mapping[str, Path]) -> list[Schema]:
    if not library:
        return []
    names = "|".join(map(re.escape, library))
    return [{"type": "string", "enum": list(library)}, {"type": "string", "pattern": f"^({names}):.+$"}]


def _use(blocks: Mapping[str, type[Block]], library: Mapping[str, Path]) -> Schema:
    file: Schema = {"type": "string", "pattern": "\\.yaml$"}
    own = [_choice({name: _summary(block) for name, block in blocks.items()})] if blocks else []
    return _either(*own, *_blueprint_names(library), file, _ref("expression"))


def _named(roles: Mapping[str, Any]) -> Schema:
    """Nodes named like a role also take its short names: `norm: layer`."""
    return {
        role: _either(_ref(f"names.{role}"), _ref("use"), _ref("node"))
        for role, names in roles.items()
        if names and role not in RESERVED
    }


def _nodes(roles: Mapping[str, Any]) -> Schema:
    return _object(
        "Nodes by name; each is a block's name, {use: …} or {graph: …}.",
        _either(_ref("use"), _ref("node")),
        properties=_named(roles),
        propertyNames={"pattern": NODE_NAME, "not": {"enum": sorted(RESERVED)}},
    )


def _fragment(blocks: Mapping[str, type[Block]], library: Mapping[str, Path]) -> Schema:
    """Some of what a node says. What `use` names tells the options there are."""
    cases = [_when(_uses({"const": name}), _ref(f"block.{name}")) for name in blocks]
    others = [name for name in library if name not in blocks]
    cases += [_when(_uses({"pattern": f"^{re.escape(n)}(:.*)?$"}), _ref(f"blueprint.{n}")) for n in others]
    inline = {"propertyNames": {"enum": sorted(RESERVED)}}
    return {
        "description": "A node, or part of one.",
        "type": "object",
        "properties": _words(),
        "allOf": [*cases, _when(_has("graph"), inline)],
    }


def _uses(name: Schema) -> Schema:
    return {"required": ["use"], "properties": {"use": name}}


def _node(blocks: Mapping[str, type[Block]]) -> Schema:
    """A whole node: it says what it is, and gives the options that have no default."""
    needs = {n: _required(b) for n, b in blocks.items() if _required(b)}
    return {
        "description": "A node: `use:` a block with its options beside it, or an inline `graph:`.",
        "allOf": [
            _ref("fragment"),
            {"type": "object", "properties": {"graph": _ref("nodes")}, **_either(_has("use"), _has("graph"))},
            _when(_has("carry"), _either(_has("for"), _has("repeat"))),
            *(_when(_uses({"const": n}), _has(*options)) for n, options in needs.items()),
        ],
        "dependencies": {"first": ["repeat"], "last": ["repeat"]},
    }


def _required(block: type[Block]) -> list[str]:
    slots = {name for name, spec in block.slots.items() if spec.required}
    return [n for n, field in block.model_fields.items() if field.is_required() or n in slots]


def _part(roles: Mapping[str, Any]) -> Schema:
    """A node in a slot, or without `use` and `graph` a mapping of nodes: an inline graph written short."""
    mapping = {"properties": {**_named(roles), **_words()}, "additionalProperties": _either(_ref("use"), _ref("node"))}
    return {"type": "object", **_when(_either(_has("use"), _has("graph")), _ref("node")), "else": mapping}


def _slot(choices: Iterable[Schema]) -> Schema:
    """A block not yet connected: a name, a node, an inline graph, a parameter; null or false leaves it empty."""
    return _either(*choices, {"enum": [None, False]})


# ---- blocks -----------------------------------------------------------------------------------------------------


def _block(name: str, block: type[Block]) -> Schema:
    """The definition of one block, and those of the models its options are made of."""
    made, models = _option_schemas(name, block)
    options = {n: _option(block, n, made.get(n, {})) for n in block.model_fields}
    properties = {**options, "from": _ports(block)}
    definition = _closed(_about(block), properties, patternProperties=KNOWN, title=name)
    return {f"block.{name}": definition, **models}


def _option_schemas(name: str, block: type[Block]) -> tuple[Schema, Schema]:
    """What pydantic says about the options that are values, and the models they mention."""
    template = f"#/definitions/block.{name}:{{model}}"
    try:
        made = block.model_json_schema(ref_template=template)
    except PydanticInvalidForJsonSchema:  # a type without a schema: any value is let through
        return {}, {}
    models = {f"block.{name}:{key}": _draft7(value) for key, value in made.get("$defs", {}).items()}
    return made.get("properties", {}), models


def _option(block: type[Block], name: str, made: Schema) -> Schema:
    field, slot = block.model_fields[name], block.slots.get(name)
    if slot is not None:
        kind, schema = "a block", _either(_ref(f"slot.{slot.role}"))
    else:
        plain = {k: v for k, v in made.items() if k not in ("title", "description", "default", "slot")}
        kind, schema = _kind(plain), _opened(_draft7(plain))
    said = [field.description or _sentence(name, _doc(block)), kind, "required" if name in _required(block) else ""]
    result = {"description": "; ".join(s.rstrip(".") for s in said if s) + "."}
    return {**result, **({"default": made["default"]} if "default" in made else {}), **schema}


def _draft7(schema: Any) -> Any:
    """Pydantic writes draft 2020-12; draft-07 spells fixed tuples `items` and has `title`s that only repeat names."""
    if isinstance(schema, list):
        return [_draft7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: _draft7(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")
    return made


def _opened(schema: Schema) -> Schema:
    """The schema with an expression allowed for the value and for each item of a list."""
    if not schema:
        return {}
    choices = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
    return _either(*(_with_items(choice) for choice in choices), _ref("expression"))


def _with_items(schema: Schema) -> Schema:
    items = schema.get("items")
    if isinstance(items, dict) and items:
        return {**schema, "items": _opened(items)}
    return {**schema, "items": [_opened(i) for i in items]} if isinstance(items, list) else schema


def _kind(schema: Schema) -> str:
    """A type in words: `a whole number from 1, or a list`."""
    if "anyOf" in schema:
        return ", or ".join(dict.fromkeys(filter(None, map(_kind, schema["anyOf"]))))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    words |= {"array": "a list", "null": "null", "object": "a mapping"}
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = (f" from {low}" if low is not None else "") + (f" to {high}" if high is not None else "")
    return words.get(str(schema.get("type")), "") + bounds


def _ports(block: type[Block]) -> Schema:
    """`from:` of one block: its inputs by name."""
    ports = list(dict.fromkeys((*block.required, *block.optional, "x")))
    named = {"type": "object", "properties": {p: _ref("reference") for p in ports}}
    others = _ref("reference") if block.open_ports else False
    return _either(_ref("reference"), {**named, "additionalProperties": others})


def _doc(block: type[Block]) -> str:
    return inspect.cleandoc(block.__doc__ or "")


def _summary(block: type[Block]) -> str:
    """The first sentence of its documentation."""
    paragraph = " ".join(_doc(block).split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s+(?=[A-Z`])", paragraph)[0]


def _about(block: type[Block]) -> str:
    """The documentation of a block as a whole: what it is and what goes in."""
    inputs = [*block.required, *(f"{p} (optional)" for p in block.optional), *(["more"] if block.open_ports else [])]
    paragraph = " ".join(_doc(block).split("\n\n")[0].split())
    return f"{paragraph} Inputs: {', '.join(inputs) or 'none'}.".strip()


def _sentence(option: str, doc: str) -> str:
    """What a block's documentation says about an option: its line in a table, or the sentence that begins with it."""
    row = re.search(rf"^{re.escape(option)}(?::\s|\s{{2,}})(.+(?:\n\s+.+)*)$", doc, re.MULTILINE)
    if row:
        return " ".join(row[1].split())
    sentences = re.split(r"(?<=[.;])\s+(?=[A-Z`])", " ".join(doc.split()))
    about = re.compile(rf"(?:An? |The )?`{re.escape(option)}[`:]")
    return next((s for s in sentences if about.match(s)), "")


# ---- blueprints as blocks ---------------------------------------------------------------------------------------


def _blueprint(name: str, path: Path, library: Mapping[str, Path]) -> Schema:
    """A blueprint used as a block: its parameters are options, and a key with dots is an edit of it."""
    try:
        loaded = blueprints.load(path, library=library)
    except ComposerError:  # its own mistake; `composer check` of that file says which
        return {"title": name}
    options = {p.name: _parameter(p) for p in loaded.params.values()}
    about = f"{loaded.summary or name}. Inputs: {', '.join(loaded.inputs)}."
    return _closed(about, options, title=name, patternProperties={**KNOWN, "\\.": {}})


def _parameter(param: Param) -> Schema:
    kind = param.type if param.type != "block" else "a block"
    result: Schema = {"description": f"{param.doc or f'The parameter `{param.name}`'}; {kind}."}
    if isinstance(param.default, (int, float, str, list)) or param.default is None:
        result["default"] = param.default
    if param.type == "block":
        return {**result, **_either(_ref("slot"), {"type": "string"})}
    words: Mapping[str, Any] = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    types = [words[param.type], "array"] if param.type in words else ["array", "number"] if param.type == "list" else []
    types += ["null"] if types and (param.rules.get("nullable") or not param.rules) else []
    return {**result, **(_value({"type": types}) if types else {})}


__all__ = ["schema", "text"]
