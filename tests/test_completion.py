"""The schema of one blueprint: true to its own file, and strict about the names in it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import composer
from composer import source
from composer.blueprint import is_fragment
from composer.cli.main import run
from composer.completion import completed
from composer.registry import Registry
from composer.schema import schema

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(p for p in (ROOT / "blueprints").rglob("*.yaml") if not is_fragment(p))
FAST = ("cotr", "detr", "glam_swin_unet", "swin_unet", "unet")
GENERAL = schema(Registry.discover())
TYPOS = {"from": "nowhere", "outputs": "nowhere", "at": "no.such.place"}


def validator(path: Path) -> jsonschema.Draft7Validator:
    made = completed(GENERAL, composer.load(path).check())
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


def document(path: Path) -> Any:
    return json.loads(json.dumps(source.read(path)))


def places(value: Any, asked: str, inside: bool = False) -> Iterator[tuple[Any, Any]]:
    """Where a name stands: (container, key) of each text under a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = key == asked if isinstance(key, str) and not inside else inside
        if here and isinstance(item, str) and "$" not in item and "*" not in item:
            yield value, key
        yield from places(item, asked, here and isinstance(item, (dict, list)))


@pytest.mark.parametrize(
    "path", [p if p.stem in FAST else pytest.param(p, marks=pytest.mark.slow) for p in SHIPPED], ids=lambda p: p.stem
)
def test_a_shipped_blueprint_fits_its_own_schema_and_no_misspelt_name_does(path: Path) -> None:
    valid = validator(path)
    whole = document(path)
    valid.validate(whole)
    for asked, typo in TYPOS.items():
        changed = copy.deepcopy({k: v for k, v in whole.items() if k not in ("weights", "init", "presets")})
        spot = next(places(changed, asked), None)
        if spot is not None:
            spot[0][spot[1]] = typo
            assert not valid.is_valid(changed), (asked, spot)


SMALL = """\
blueprint: 1
inputs: {image: {type: B 1 H W, size: [16, 16]}}
graph:
  stem: {use: conv, out: 4, stride: 2}
  body: {use: conv, repeat: 3}
  pair: {graph: {a: conv, b: {use: conv, from: x}}, outputs: {a: a, b: b}}
  both: {use: fuse.concat, from: [pair.a, body.1]}
outputs: {y: both}
edit: [{at: body.2, set: {act: relu}}, {at: "*.a", set: {act: relu}}]
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [("body.1]", "body.3]"), ("pair.a", "pair.c"), ("from: x", "from: z"), ("y: both", "y: .both"), ("body.2", "bdoy")],
)
def test_a_name_that_there_is_not(before: str, after: str, small: Path) -> None:
    valid = validator(small)
    valid.validate(document(small))
    assert SMALL.count(before) == 1
    small.write_text(SMALL.replace(before, after))
    assert not valid.is_valid(document(small))


def test_names_come_with_their_types(small: Path) -> None:
    choice = completed(GENERAL, composer.load(small).check())["definitions"]["reference"]["anyOf"][0]
    types = dict(zip(choice["enum"], choice["enumDescriptions"], strict=True))
    assert types["stem"] == "(B, 4, ⌈H/2⌉, ⌈W/2⌉)"
    assert types["image"] == "(B, 1, H, W)"
    assert {"body.*", "body.0", "pair.a", ".stem"} <= set(types)


def test_the_command_writes_it(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.schema.json"
    assert run(["schema", str(small), "-o", str(file)]) == 0
    made = json.loads(file.read_text())
    assert made == completed(GENERAL, composer.load(small).check())
    assert run(["schema", str(small)]) == 0
    assert json.loads(capsys.readouterr().out.removeprefix(f"wrote {file}\n")) == made
    small.write_text(SMALL.replace("fuse.concat", "fuse.conct"))
    assert run(["schema", str(small), "-o", str(file)]) == 1
    assert json.loads(file.read_text()) == made
