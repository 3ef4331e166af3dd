"""The JSON Schema: itself valid, true to the shipped files, strict about mistakes, and complete."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest

import composer
from composer import init, source
from composer.block import RESERVED
from composer.blueprint import KEYS
from composer.codes import CODES
from composer.diagnostics import Source
from composer.keymap import DROPS, TRANSFORMS
from composer.registry import Registry
from composer.schema import FILLS, KINDS, schema, text

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "blueprints").rglob("*.yaml"))
REGISTRY = Registry.discover()
SCHEMA = schema(REGISTRY)
VALID = jsonschema.Draft7Validator(SCHEMA)
MOST_BYTES = 250_000

GOOD = """
blueprint: 1
name: small
params: {width: 8, depth: {type: int, default: 2, min: 1, doc: convolutions}, norm: {type: block, default: batch}}
presets: {wide: {width: 16}, plain: null}
inputs: {image: {type: B 3 *S, size: [32, 32]}}
graph:
  stem: {use: conv, out: $width, kernel: [3, "${1 + 2}"], norm: $norm, act: relu}
  norm: layer
  body: {use: block.residual, repeat: $depth, body: {one: {use: conv}, two: conv}, first: {drop_path: 0.1}}
  loop: {for: {out: [8, 8]}, use: conv, out: $out}
  pair: {from: loop, graph: {a: conv, b: {use: conv, from: x}}, outputs: {a: a, b: b}}
  head: {use: fuse.concat, from: [pair.a, pair.b]}
outputs: {y: head, aux: {from: pair.a, when: training}}
edit:
  - {at: ["body.*", stem], set: {act: null}}
  - {at: head, wrap: {use: block.residual, body: $original, shortcut: conv}}
  - {at: stem, insert_after: {extra: {use: dropout, rate: 0.1}}}
  - {at: norm, remove: true}
  - {add: {code: {use: position.learned, from: image}}}
init: [{of: conv, weight: kaiming_normal, bias: constant(0.1)}]
weights:
  official:
    - {from: "stem.{p}", to: "stem.{p}"}
    - {from: qkv, transform: split, to: [q, k, v]}
    - {from: old, transform: drop}
"""

BROKEN = {
    "unknown document key": ("name: small", "nmae: small"),
    "version": ("blueprint: 1", "blueprint: 2"),
    "unknown block": ("use: conv, out: $out", "use: convolve, out: $out"),
    "unknown short name": ("act: relu", "act: rellu"),
    "unknown block in a slot": ("shortcut: conv", "shortcut: convv"),
    "option misspelt": ("out: $width, kernel", "out: $width, kernal"),
    "option of wrong type": ("rate: 0.1", "rate: high"),
    "option out of range": ("rate: 0.1", "rate: 2"),
    "option that is no whole number": ("{out: [8, 8]}, use: conv, out: $out", "{out: [8, 8]}, use: conv, out: 1.5"),
    "required option missing": ("{use: position.learned, from: image}", "{use: tokenizer.patch, from: image}"),
    "unknown port": ("{use: conv, from: x}", "{use: conv, from: {y: x}}"),
    "bad edit action": ("remove: true", "delete: true"),
    "two edit actions": ("remove: true", "remove: true, set: {eps: 1}"),
    "edit without a place": ("at: norm, remove", "remove"),
    "add with a place": ("{add:", "{at: stem, add:"),
    "when in outputs": ("when: training", "when: always"),
    "unknown key of an output": ("when: training", "only: training"),
    "unknown key of a parameter": ("min: 1", "minimum: 1"),
    "unknown type of a parameter": ("type: int", "type: integer"),
    "unknown key of an input": ("size: [32, 32]", "sizes: [32, 32]"),
    "type of an input": ("type: B 3 *S", "type: 3 H W"),
    "size of an input": ("size: [32, 32]", "size: [32, 0]"),
    "node without use or graph": ("use: fuse.concat, from: [pair.a", "from: [pair.a"),
    "option beside an inline graph": ("{from: loop, graph", "{from: loop, out: 3, graph"),
    "first without repeat": ("repeat: $depth, ", ""),
    "carry without a loop": ("{for: {out: [8, 8]}, use", "{carry: body, use"),
    "negative repeat": ("repeat: $depth", "repeat: -1"),
    "node named like a word": ("  stem: {use", "  repeat: {use"),
    "node named with a dot": ("  stem: {use", "  stem.a: {use"),
    "graph beside extends": ("name: small", "extends: vit"),
    "unknown kind in init": ("of: conv", "of: convolution"),
    "unknown filling": ("kaiming_normal", "kaiming"),
    "unknown transform": ("transform: split", "transform: splt"),
    "split to one address": ("[q, k, v]", "q"),
    "dropped key with an address": ("transform: drop", "transform: drop, to: new"),
    "rule without to": (', to: "stem.{p}"', ""),
}


class Toy(composer.Block):
    """A toy. The `size` of it is up to you."""

    name = "toys.ball"
    size: composer.Positive
    colour: Literal["red", "blue"] = "red"
    pair: tuple[int, int] = (1, 2)
    anything: Any = None
    inside: composer.Slot = composer.slot(role="toys", doc="what rattles")

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        return x

    def build(self) -> Any:
        raise NotImplementedError


def document(text: str) -> dict[str, Any]:
    return source.parse(Source("file.yaml", text))


def subschemas(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from subschemas(part)


def test_the_schema_is_valid_and_of_reasonable_size():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert json.loads(text(SCHEMA)) == SCHEMA
    assert len(text(SCHEMA)) < MOST_BYTES


def test_every_reference_leads_somewhere():
    mentioned = {s["$ref"] for s in subschemas(SCHEMA) if isinstance(s.get("$ref"), str)}
    assert {name.removeprefix("#/definitions/") for name in mentioned} <= set(SCHEMA["definitions"])


def test_equal_registries_give_equal_text_whatever_the_order():
    backwards = Registry.of(*reversed(list(REGISTRY.blocks.values())))
    assert json.dumps(schema(REGISTRY)) == json.dumps(SCHEMA) == json.dumps(schema(backwards))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_blueprint_is_valid(path):
    errors = [jsonschema.exceptions.best_match([e]) for e in VALID.iter_errors(source.read(path))]
    assert not [f"{list(e.absolute_path)}: {e.message[:200]}" for e in errors]


@pytest.mark.parametrize(
    "code", [c for c in CODES.values() if c.mended and "\nlock: " not in f"\n{c.mended}"], ids=lambda c: c.code
)
def test_every_mended_example_of_the_codes_is_valid(code):
    VALID.validate(document(code.mended))


@pytest.mark.parametrize(
    "code", ["BP101", "BP102", "BP103", "BP105", "BP107", "BP201", "BP202", "BP203", "BP204", "BP207"]
)
def test_what_one_file_shows_is_refused_as_composer_refuses_it(code):
    assert not VALID.is_valid(document(CODES[code].broken))


def test_a_file_with_everything_is_valid():
    VALID.validate(document(GOOD))


@pytest.mark.parametrize("change", BROKEN.values(), ids=list(BROKEN))
def test_a_mistake_is_not_valid(change):
    before, after = change
    assert GOOD.count(before) == 1
    assert not VALID.is_valid(document(GOOD.replace(before, after)))


@pytest.mark.parametrize("key", ["inputs", "graph", "outputs", "blueprint"])
def test_a_missing_part_is_not_valid(key):
    whole = document(GOOD)
    assert not VALID.is_valid({k: v for k, v in whole.items() if k != key})


def test_every_block_and_option_is_described():
    for name, block in REGISTRY.blocks.items():
        made = SCHEMA["definitions"][f"block.{name}"]
        assert made["description"]
        assert made["additionalProperties"] is False
        for option in block.model_fields:
            said = made["properties"][option]
            assert said.get("description") or "default" in said, f"{name}.{option}"


def test_every_block_is_offered_as_use():
    offered = {name for choice in SCHEMA["definitions"]["use"]["anyOf"] for name in choice.get("enum", ())}
    assert offered == {*REGISTRY.blocks, *(p.stem for p in SHIPPED)}


def test_every_key_and_word_is_described():
    assert set(SCHEMA["properties"]) == set(KEYS)
    words = SCHEMA["definitions"]["fragment"]["properties"]
    assert set(words) == RESERVED
    transforms = SCHEMA["definitions"]["rule"]["properties"]["transform"]
    assert set(transforms["enum"]) == {*TRANSFORMS, *DROPS}
    for said in [*SCHEMA["properties"].values(), *words.values()]:
        text = said.get("description") or SCHEMA["definitions"][said["$ref"].rpartition("/")[2]]["description"]
        assert text.endswith("."), text


def test_init_words_are_those_of_init():
    assert set(KINDS) == set(init.KINDS)
    assert set(FILLS) == set(init.FILLS)


def test_a_block_of_another_plugin_appears():
    made = schema(Registry.of(Toy))
    valid = jsonschema.Draft7Validator(made)
    ball = made["definitions"]["block.toys.ball"]["properties"]
    assert ball["size"]["description"] == "The `size` of it is up to you; a whole number from 1; required."
    assert ball["colour"]["default"] == "red"
    node = {"use": "toys.ball", "size": 3, "pair": [1, "$x"], "inside": "ball", "anything": {"a": 1}}
    whole = {"blueprint": 1, "inputs": {"x": "B 3"}, "graph": {"a": node}, "outputs": {"y": "a"}}
    valid.validate(whole)
    for change in ({"size": 0}, {"colour": "green"}, {"pair": [1, 2, 3]}, {"inside": "bell"}, {"weight": 1}):
        other = copy.deepcopy(whole)
        other["graph"]["a"] |= change
        assert not valid.is_valid(other), change


def test_a_blueprint_is_a_block_with_its_parameters_as_options():
    text = GOOD.replace("head: {use: fuse.concat, from: [pair.a, pair.b]}", "head: {use: 'vit:tiny', from: image, %s}")
    assert VALID.is_valid(document(text % "classes: 3, blocks.0.norm: batch"))
    assert not VALID.is_valid(document(text % "clases: 3"))
    assert not VALID.is_valid(document(text % "classes: three"))


def test_the_schema_needs_no_torch():
    code = "import sys; from composer import Registry; from composer.schema import schema; schema(Registry.discover())"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True, timeout=60)
