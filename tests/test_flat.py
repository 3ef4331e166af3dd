"""The fully resolved blueprint: it reads back as the same network, for every shipped one and every word of the language."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import graph, load, mistakes, said, steps

import composer
from composer import source
from composer.blueprint import is_fragment, shipped
from composer.cli.main import run
from composer.diagnostics import Source
from composer.inference import Program
from composer.registry import Registry
from composer.swaps import smallest, swaps_of
from composer.writing import dump

REGISTRY = Registry.discover()
TINY = swaps_of(REGISTRY)["tiny"]
FRAGMENTS = {name for name, path in shipped().items() if is_fragment(path)}
NAMES = sorted({*TINY, *shipped()} - FRAGMENTS)


def small(name: str) -> composer.Blueprint:
    return smallest(REGISTRY, name) if TINY.get(name, {}).get("sizes") else composer.load(name)


def flattened(blueprint: composer.Blueprint, folder: Path) -> composer.Blueprint:
    path = folder / "flat.yaml"
    path.write_text(blueprint.flat())
    return composer.load(path, blueprint.registry)


def facts(program: Program) -> Any:
    """Everything that is built and run; not where it was written."""
    ports = [(i.name, i.id, i.type, i.optional, i.axes) for i in program.inputs]
    limits = [(c.kind, c.size, c.number, c.why) for c in program.constraints]
    others = [facts(p) for p in program.alternatives.values()]
    return (
        [replace(s, span=None) for s in program.steps],
        program.values,
        ports,
        program.outputs,
        program.built,
        limits,
        others,
    )


def same(blueprint: composer.Blueprint, folder: Path) -> composer.Blueprint:
    flat = flattened(blueprint, folder)
    assert facts(flat.infer()) == facts(blueprint.infer())
    assert (flat.name, flat.summary, flat.source) == (blueprint.name, blueprint.summary, blueprint.source)
    assert (flat.init, flat.weights, flat.requires) == (blueprint.init, blueprint.weights, blueprint.requires)
    return flat


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_blueprint_reads_back_as_the_same_network(name: str, tmp_path: Path) -> None:
    blueprint = small(name)
    flat = same(blueprint, tmp_path)
    assert not flat.params
    assert not flat.presets
    assert not flat.edits
    document = source.read(tmp_path / "flat.yaml")
    assert not {"extends", "params", "presets", "edit"} & set(document)
    assert "$" not in dump({k: v for k, v in document.items() if k in ("inputs", "graph", "outputs")})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(shipped()) - FRAGMENTS))
def test_every_preset_reads_back_as_the_same_network(name: str, tmp_path: Path) -> None:
    for preset in ["", *composer.load(name).presets]:
        same(composer.load(f"{name}:{preset}" if preset else name), tmp_path)


@pytest.mark.parametrize("name", ["vit", "swin_unet", "deformable_detr"])
def test_the_same_weights_give_the_same_numbers(name: str, tmp_path: Path) -> None:
    blueprint = small(name)
    networks = []
    for each in (blueprint, flattened(blueprint, tmp_path)):
        torch.manual_seed(0)
        networks.append(each.build().eval())
    first, second = networks
    assert list(first.state_dict()) == list(second.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    program = blueprint.infer()
    types: list[Any] = [i.type.at(program.built) for i in program.inputs if not i.optional]
    inputs = [torch.rand(2, t.channels, *t.grid) for t in types]
    with torch.no_grad():
        outputs = [torch.utils._pytree.tree_leaves(n(*inputs)) for n in networks]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_flat_of_flat_is_itself() -> None:
    text = small("swin_unet").flat()
    parsed = source.parse(Source("flat", text))
    assert dump(parsed) == text


# ---- the words of the language ----------------------------------------------------------------------------------

DOCUMENTS = {
    "copies that differ": "y: {use: conv, repeat: 3, out: '${4 + j}', first: {act: relu}, last: {from: image}}",
    "copies of another block": "a: {use: conv, repeat: 3, out: 4}\ny: act.relu|edit: [{at: a.1, replace: {use: linear, out: 4}}]",
    "a copy that is gone": "y: {use: conv, repeat: 3, out: '${4 + j}'}|edit: [{at: y.1, remove: true}]",
    "an instance that is gone": "y: {for: {w: [4, 5, 6]}, use: conv, out: $w}|edit: [{at: y.0, remove: true}]",
    "a copy left out": "y: {use: conv, repeat: 3, out: 4}|edit: [{at: y.1, set: {when: '${j != 1}'}}]",
    "left out": "a: conv\nb: {use: conv, from: image, when: false}\ny: {use: fuse.add, from: [a, b]}",
    "left out at the end": "a: conv\ny: {graph: {b: {use: conv, out: 8}, c: {use: conv, from: x, when: false}}}",
    "no copies": "a: {use: conv, repeat: 0}\nb: {for: {k: []}, use: conv}\ny: conv",
    "no nodes": "a: conv\nb: {graph: {}}\ny: {use: conv, from: b}",
    "an empty slot": "y: {use: block.transformer, attention: attention, norm: null}",
    "slots apart": "y: {use: block.transformer, attention: attention}|edit: [{at: y.norm2, set: {eps: 2}}]",
    "one slot gone": "y: {use: block.transformer, attention: attention}|edit: [{at: y.norm1, remove: true}]",
    "a slot left out": "y: {use: block.transformer, attention: {use: attention, when: false}}",
    "a slot's own from": "e: {use: conv, out: 4}\ny: {use: block.transformer, attention: {use: attention, from: {context: .e}}}",
    "a slot inside a slot": "s: {use: conv, out: 4}\ny: {use: decoder.stage, from: {x: image, skip: s}, fuse: {graph: {r: {use: block.residual, body: {use: fuse.add, from: [x, .skip]}}}}}",
    "copies in a slot": "y: {use: block.residual, body: {use: block.transformer, repeat: 3, attention: attention, first: {from: {context: .image}}}}",
    "copies of blocks in a slot": "y: {use: block.residual, body: {use: conv, repeat: 2, out: 4}}|edit: [{at: y.body.0, replace: act.relu}]",
    "a memory": "y: {use: block.transformer, repeat: 2, attention: attention, memory: {use: memory, count: 5}}",
    "shared copies": "y: {use: conv, repeat: 3, out: 4, share: true}",
    "shared in a loop": "y: {for: {k: [0, 1, 2]}, graph: {a: {use: conv, out: 4}, b: {use: conv, share: true, out: 4}}}",
    "shared instances": "y: {for: {k: [0, 1]}, use: conv, share: true, out: 4}",
    "unused": "y: {use: conv, out: 5, unused: {extra: {use: linear, out: 7}, typed: {use: conv, from: B 3 H W, out: 2}}}",
    "unused beside nodes": "a: {use: conv, out: 6}\nb: {use: conv, from: image}\ny: {from: a, graph: {k: conv}, unused: {extra: {use: linear, out: 7}}}|outputs: {y: y, b: b}",
    "names that hide": "x: {use: conv, out: 8}\na: {graph: {x: {use: conv, out: 3}, b: {graph: {c: {use: fuse.concat, from: [x, .x, ..x]}}}}}\ny: conv",
    "outputs by name": "a: {graph: {b: {use: conv, out: 3}, c: {use: conv, out: 5}}, outputs: {p: b, q: c}}\ny: {use: fuse.concat, from: [a.q, a.p]}",
    "several values": "a: {use: levels, from: {x: [image, image]}}\ns: {use: split, from: a.1}\ny: {use: fuse.concat, from: [a.0, s.left]}",
    "values handed on": "y: {for: {k: [1, 2]}, carry: {a: image, b: image}, from: {p: carry.a, q: carry.b}, graph: {a: {use: conv, from: q}, b: {use: conv, from: p}}, outputs: {a: a, b: b}}|outputs: {y: y.1.a, z: y.1.b}",
    "no input": "t: tokens.learned\na: {use: conv, from: image}\ny: {use: fuse.add, from: [a]}|outputs: {y: y, t: t}",
    "an input of two": "e: {use: conv, out: 4}\ny: {use: attention, from: {x: image, context: e, position: null}}",
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_word_of_the_language(name: str, tmp_path: Path) -> None:
    nodes, _, more = DOCUMENTS[name].partition("|")
    outputs = more.removeprefix("outputs: ") if more.startswith("outputs") else "{y: y}"
    head = f"{more}\n" if more.startswith("edit") else ""
    same(graph(tmp_path, nodes, outputs, head), tmp_path)


def test_a_blueprint_used_as_a_block(tmp_path: Path) -> None:
    part = "params: {out: 4, act: {type: block, default: relu}}\ninputs: {a: map, b: {type: map, optional: true}}\ngraph: {c: {use: conv, from: a, out: $out}, d: {use: fuse.add, from: [c, b]}, e: $act}\noutputs: {p: c, q: e}\n"
    nodes = "s: {use: conv, out: 6}\nk: {use: part, from: {a: image, b: s}, out: 6, act: {use: norm.layer, eps: 3}}\ny: {use: fuse.add, from: [k.p, k.q]}"
    flat = same(graph(tmp_path, nodes, library={"part": part}), tmp_path)
    assert "part" not in (tmp_path / "flat.yaml").read_text()
    assert steps(flat.infer())["k.e"] == "(B, 6, H, W)"


def test_optional_inputs_and_training_outputs(tmp_path: Path) -> None:
    text = """requires: []
source: {paper: "a: b, #c"}
inputs: {image: {type: B 4 *S, size: [32, 32]}, mask: {type: B 4 H W, optional: true}}
graph:
  y: {use: fuse.add, from: [image, mask]}
  aux: {use: conv, out: 2}
outputs: {y: y, aux: {from: aux, when: training}, all: [y, aux]}
init: [{at: ["**"], weight: normal(0.02, 1)}]
weights: {a: [{from: "x.{i+1}.*", to: "y.*"}], b: []}
"""
    same(load(tmp_path, text), tmp_path)


# ---- loops written out ------------------------------------------------------------------------------------------


def test_copies_may_be_written_out(tmp_path: Path) -> None:
    made = graph(tmp_path, "y: {use: conv, out: 4, repeat: [{act: relu}, null, {out: 6}]}").infer()
    assert steps(made) == {"y.0": "(B, 4, H, W)", "y.0.act": "(B, 4, H, W)", "y.2": "(B, 6, H, W)"}


def test_instances_may_be_written_out(tmp_path: Path) -> None:
    made = graph(tmp_path, "a: conv\ny: {for: [act.relu, {use: conv, from: image, out: '${i + 1}'}]}").infer()
    assert steps(made) == {"a": "(B, 4, H, W)", "y.0": "(B, 4, H, W)", "y.1": "(B, 2, H, W)"}


def test_other_lists_are_no_copies(tmp_path: Path) -> None:
    found = mistakes(lambda: graph(tmp_path, "y: {use: conv, repeat: [2, 2]}").infer())
    assert said(found) == ["BP201 5:26 `repeat` needs a whole number from 0 to 10000, not [2, 2]"]


# ---- text and command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, 1e-5, True, None, float("inf")], ["no", "on", "1e-5", "0x1", "null", "~", "a: b", "x #y", "{p}", "*", "**.a", "a.*"],
        ["", "-", "- a", "?", "a:b", "é", "a\nb", "#", "12:30", "010", ".5", "+1", "=", "<<", "%a", "@b", "a,b", "'q'", '"d"'],
        {"a": {"b": {"c": "x" * 100}}, "d": list(range(100)), "<<": 1, "1": 2, "e": {}, "f": []},
        "a, b and [c]", "a: b", "x #y", " lead", "$x", "${a + b}", "B 3 *S", [[1, [2]], {"k": [{"z": "y" * 130}]}],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_written_reads_back(value: Any) -> None:
    for document in ({"k": value}, {"graph": {"k": value}}, {"edit": [{"k": value}]}):
        text = dump(document)
        assert source.parse(Source("text", text)) == document
        assert all(line == line.rstrip() for line in text.splitlines())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["unet", "classes=5", "widths=[8, 16]", "up.*.fuse=fuse.add"]
    assert run(["show", *words, "--flat"]) == 0
    path = tmp_path / "flat.yaml"
    path.write_text(capsys.readouterr().out)
    said = []
    for what in (words, [str(path)]):
        assert run(["check", *what]) == 0
        said.append(capsys.readouterr().out.splitlines()[1:])
    assert said[0] == said[1]


def test_show_expand_draws_every_copy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "vit", "depth=3"]) == 0
    assert "blocks ×3" in capsys.readouterr().out
    assert run(["show", "vit", "depth=3", "--expand"]) == 0
    out = capsys.readouterr().out
    assert all(f"blocks.{j}" in out for j in range(3))
    assert out.count("attention") == 3
    assert "×" not in out
