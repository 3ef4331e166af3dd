"""What is said about a mistake: code, place and text of every message of the language, and how it is drawn."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
import toys
from toys import graph, load, mistakes, said

from composer import BlueprintError, ComposerError, Diagnostic, PluginError
from composer.diagnostics import Label, Source, Span, listing, nearest, once

# Nodes -> the one mistake they make. The first node stands in line 5.
NODES = {
    "y: {use: cnov}": "BP102 5:12 unknown block `cnov`; did you mean `conv`?",
    "y: {use: glam.tokens}": "BP103 5:12 unknown block `glam.tokens`; no installed plugin provides the namespace `glam`",
    "y: {use: attention.window}": "BP103 5:12 unknown block `attention.window`; no installed plugin provides the namespace `attention`",
    "y: {use: 3}": "BP207 5:12 `use` is the name of a block, not 3",
    "a: conv\ny: {use: conv, from: aa}": "BP104 6:24 no value is named `aa` here; did you mean `a`?",
    "y: {use: conv, from: b}\nb: conv": "BP109 5:24 the graph goes in a circle: b -> y -> b",
    "y: {use: conv, from: b}\nb: {use: conv, from: y}": "BP109 5:24 the graph goes in a circle: b -> y -> b",
    "y: {use: conv, from: 3}": "BP104 5:24 a reference is the name of a value, not 3",
    "s: split\ny: {use: conv, from: s.middle}": "BP104 6:24 `s` has no output `middle`",
    "s: split\ny: {use: conv, from: s}": "BP203 6:24 `conv` takes one value as `x`; `s` has several: s.left, s.right",
    "a: conv\ny: {graph: {b: {use: conv, from: a}}}": "BP104 6:36 no value is named `a` here",
    "for: conv\ny: conv": "BP107 5:3 `for` cannot name a node (a word of the language)",
    "1a: conv\ny: {use: conv, from: image}": "BP107 5:3 `1a` cannot name a node (letters, digits and underscores, not a digit first)",
    "a.b: conv\ny: {use: conv, from: image}": "BP107 5:3 `a.b` cannot name a node (letters, digits and underscores, not a digit first)",
    "y: {use: conv, out: -1}": "BP201 5:23 `out: -1` does not fit `conv`: it must be greater than or equal to 1",
    "y: {use: conv, out: x}": "BP201 5:23 `out: 'x'` does not fit `conv`: it must be a valid integer",
    "y: {use: conv, kernl: 3}": "BP204 5:18 `conv` has no option `kernl`",
    "y: {use: act.relu, slope: 3}": "BP204 5:22 `act.relu` has no option `slope`",
    "y: {use: conv, strid: 3}": "BP204 5:18 `conv` has no option `strid`; did you mean `stride`?",
    "y: {use: conv, out: $width}": "BP205 5:24 `$width`: unknown name `width`; no names are known here",
    "y: {use: conv, out: '${1 +}'}": "BP205 5:26 `${1 +}`: cannot read the expression `1 +`: invalid syntax",
    "y: {use: conv, out: '${1 // 0}'}": "BP205 5:26 `${1 // 0}`: division by zero: 1 // 0",
    "y: {for: {s: \"${refs('nope')}\"}, use: conv, from: $s}": "BP205 5:19 `${refs('nope')}`: no value is named `nope` here",
    "a: conv\ny: {for: {s: \"${refs('a')}\"}, use: conv, from: $s}": "BP205 6:19 `${refs('a')}`: `a` has no copies: it stands in no `repeat` and no `for`",
    "y: {repeat: -1, use: conv}": "BP201 5:15 `repeat` needs a whole number from 0 to 10000, not -1",
    "y: {repeat: x, use: conv}": "BP201 5:15 `repeat` needs a whole number from 0 to 10000, not 'x'",
    "y: {use: conv, carry: image}": "BP201 5:18 `carry` without `for` or `repeat`",
    "y: {use: conv, first: {out: 2}}": "BP201 5:18 `first` without `repeat`",
    "y: {for: [1, 2], use: conv}": "BP206 5:12 `for` is a mapping of names to lists: `for: {out: [32, 64]}`",
    "y: {for: {a: 3}, use: conv}": "BP206 5:16 `for` needs lists; `a` is 3",
    "y: {for: {a: [1], b: [1, 2]}, use: conv}": "BP206 5:12 the lists of `for` differ in length: a has 1, b has 2",
    "y: {}": "BP202 5:3 `y` needs `use:` (a block) or `graph:` (an inline graph)",
    "y: {use: block.transformer}": "BP202 5:12 `block.transformer` needs a block in its slot `attention`",
    "y: {use: linear}": "BP202 5:12 `linear` needs the option `out`",
    "y: {use: conv, graph: {a: conv}}": "BP201 5:7 `use` and `graph:` both say what `y` is; give one of them",
    "y: {graph: 3}": "BP207 5:14 `graph` is a mapping of nodes, not 3",
    "y: {graph: {a: conv}, outputs: 3}": "BP207 5:34 `outputs` is a mapping of names to values, not 3",
    "y: 3": "BP207 5:3 `y` takes a block: `{use: …}`, a name or an inline graph, not 3",
    "y: [conv]": "BP207 5:3 `y` takes a block: `{use: …}`, a name or an inline graph, not ['conv']",
    "y: {use: conv, norm: 3}": "BP207 5:24 `norm` takes a block: `{use: …}`, a name or an inline graph, not 3",
    "y: {use: conv, norm: lyer}": "BP102 5:24 unknown block `norm.lyer`; did you mean `norm.layer`?",
    "y: {use: conv, unused: 3}": "BP207 5:26 `unused` is a mapping of names to blocks, not 3",
    "y: {use: conv, from: {x: image, skip: image}}": "BP203 5:41 `conv` has no input `skip`",
    "y: {use: conv, from: [image, image]}": "BP203 5:12 `conv` takes one value as `x`, not a list of 2",
    "y: {use: fuse.add, from: {skip: image}}": "BP203 5:12 `fuse.add` needs the input `x`",
    "y: {graph: {a: conv}, out: 3}": "BP204 5:25 `y` holds an inline graph, which has no option `out`; nodes stand below `graph:`",
    "a: conv\ny: {use: fuse.add, from: [a, b, c]}": "BP104 6:32 no value is named `b` here",
    "a: {use: conv, out: 8}\ny: {use: fuse.add, from: [image, a]}": "BP301 6:12 `fuse.add` cannot join these two maps: channels 4 and 8",
    "a: {use: conv, stride: 2}\ny: {use: fuse.add, from: [image, a]}": "BP301 6:12 `fuse.add` cannot join these two maps: channels 4 and 4",
    "a: tokens.prepend\ny: conv": "BP303 6:3 `conv` needs a map; this has 1 extra token in front: (B, 1 + H·W, 4) tokens",
    "y: {use: block.transformer, attention: {use: conv, out: 8}}": "BP304 5:12 `attention` turns (B, 4, H, W) into (B, 8, H, W)",
    "y: {use: block.residual, body: {use: conv, out: 8}}": "BP304 5:12 the body turns (B, 4, H, W) into (B, 8, H, W): give a `shortcut`",
    "y: {use: attention, heads: 3}": "BP401 5:12 4 channels do not split into 3 heads",
    "y: {use: block.transformer, attention: attention, memory: memory}": "BP404 5:61 `memory` has a state, which starts and ends at an enclosing `repeat`; there is none",
    "a: {use: conv, stride: [2, 2, 2]}\ny: conv": "BP201 5:12 `stride: [2, 2, 2]` of `conv` has 3 numbers, the map has 2 axes",
    "a: {use: conv, stride: 7}\ny: conv": "BP501 3:17 the size 32 × 32 is not valid: H = 32, W = 32 does not fit",
    "y: {use: conv, repeat: 10001}": "BP201 5:26 `repeat` needs a whole number from 0 to 10000, not 10001",
    "a: conv\na_b: conv\ny: {use: conv, from: a-b}": "BP104 7:24 no value is named `a-b` here; did you mean `a_b`?",
    "y: {use: up, scale: [2, 0]}": "BP201 5:23 `scale: [2, 0]` does not fit `up`: it must be a valid integer; or it must be greater than or equal to 1",
    "y: {carry: {x: image}, repeat: 2, use: conv}": "BP203 5:14 `carry` names several values, so the loop says where they go: `from: {x: carry.x}`",
    "y: {for: {image_size: [1], i: [2]}, use: conv}": "BP206 5:33 `i` counts instances; give the loop variable another name",
    "y: {use: conv, from: .image}": "BP104 5:24 no value is named `.image` here; did you mean `image`?",
    "y: {use: fuse.add, from: image.*}": "BP104 5:28 `image` has no copies: it stands in no `repeat` and no `for`",
}
DOCUMENTS = {
    "params: {}\n": "BP101 1:1 the key `inputs` is missing",
    "summry: x\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP101 3:1 unknown key `summry`; did you mean `summary`?",
    "blueprint: 2\nname: x\n": "BP101 1:12 language version 2 is not known; this Composer reads version 1",
    "blueprint: x\nname: x\n": "BP201 1:12 `blueprint` must be a whole number, not 'x'",
    "inputs: {image: B 4 H W}\ngraph: {y: conv}\noutput: {y: y}\n": "BP101 5:1 unknown key `output`; did you mean `outputs`?",
    "inputs: {image: B 4 H W}\ngraph: {y: conv}\n": "BP101 1:1 the key `outputs` is missing",
    "inputs: {image: B 4 H W}\ngraph: [conv]\noutputs: {y: y}\n": "BP201 4:8 `graph` must be a mapping, not ['conv']",
    "requires: [medtokens>=2]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP103 3:12 this blueprint requires the plugin `medtokens>=2`, which is not installed",
    "inputs: {image: 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:17 the type of `image` reads like `B $channels *S` or `B 3 H W`, not `4 H W`",
    "inputs: {image: B x H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:17 the type of `image` reads like `B $channels *S` or `B 3 H W`, not `B x H W`",
    "inputs: {image: {type: B 4 H W, siz: [8, 8]}}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP101 3:33 an input has no `siz`; did you mean `size`?",
    "inputs: {image: {type: B 4 H W, size: [3, x]}}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:39 the size of `image` must be a list of whole numbers above 0, not [3, 'x']",
    "inputs: {image: {type: B 4 H W, size: [3, 4, 5]}}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP502 3:17 `image` has 2 axes (H, W), its size has 3: [3, 4, 5]",
    "inputs: {image: map}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:17 the input `image` of a network needs a type such as `B 3 H W`",
    "inputs: {image: B 4 H W, other: B 4 H W}\ngraph: {y: {use: conv, from: image}}\noutputs: {y: y}\n": "BP108 3:26 nothing uses the input `other`",
    "inputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: z}\n": "BP104 5:14 no value is named `z` here",
    "inputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: {from: y, when: eval}}\n": "BP201 5:14 an output is a reference, or {from: …, when: training}; `y` is {'from': 'y', 'when': 'eval'}",
    "params: {width: 8}\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP108 3:17 nothing uses the parameter `width`",
    "params: {width: {default: 8, mn: 3}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $width}}\noutputs: {y: y}\n": "BP101 3:17 the parameter `width` has an unknown key `mn`; did you mean `min`?",
    "params: {width: {default: 8, type: integer}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $width}}\noutputs: {y: y}\n": "BP201 3:36 the parameter `width` has no type `integer`; did you mean `int`?",
    "params: {width: {default: 8, min: 9}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $width}}\noutputs: {y: y}\n": "BP201 3:27 the parameter `width` = 8 must be at least 9",
    "params: {width: {default: 8, multiple_of: 3, doc: as wide as it is}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $width}}\noutputs: {y: y}\n": "BP201 3:27 the parameter `width` = 8 must be a multiple of 3",
    "params: {width: {default: 8, choices: 3}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $width}}\noutputs: {y: y}\n": "BP201 3:27 `choices` of the parameter `width` must be a list, not 3",
    "params: {width: {type: int}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $width}}\noutputs: {y: y}\n": "BP202 3:17 the parameter `width` needs a value",
    "params: {width: $depth, depth: $width}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $width}}\noutputs: {y: y}\n": "BP109 3:17 parameters are computed in a circle: width -> depth -> width",
    "params: {norm: {type: block, default: $norm}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, norm: $norm}}\noutputs: {y: y}\n": "BP109 3:39 parameters are computed in a circle: norm -> norm",
    "params: {norm: {type: block, default: $act}, act: {type: block, default: $norm}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, norm: $norm, act: $act}}\noutputs: {y: y}\n": "BP109 3:39 parameters are computed in a circle: norm -> act -> norm",
    "extends: nope\n": "BP105 3:10 there is no blueprint `nope`, and no such file",
    "extends: toy.yaml\n": "BP109 3:10 `extends` goes in a circle: toy.yaml -> toy.yaml",
    "extends: [a]\n": "BP201 3:10 `extends` must be a text, not ['a']",
    "edit: [{at: z, set: {out: 3}}]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP106 3:8 this edit matches nothing: no part has the address `z`",
    "edit: [{at: y, st: {out: 3}}]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP101 3:16 an edit has no `st`; did you mean `set`?",
    "edit: [{at: y}]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:8 an edit has one of set, replace, wrap, insert_after, remove, add; this one has none",
    "edit: [{set: {out: 3}}]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:8 an edit needs `at`: an address or a list of addresses",
    "edit: [{at: y, set: 3}]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:21 `set` of an edit is a mapping, not 3",
    "edit: [3]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:8 an edit is a mapping, not 3",
    "edit: [{add: {y: conv}}]\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP107 5:9 an edit adds `y`, which is a node already",
    "inputs: {image: B 4 H W}\ngraph: {a: position.table, y: conv}\noutputs: {y: y}\n": "BP402 4:9 `position.table` needs to know the size it is built for (H, W is open)",
    "presets: {a: 3}\ninputs: {image: B 4 H W}\ngraph: {y: conv}\noutputs: {y: y}\n": "BP201 3:14 the preset `a` must be a mapping",
}


@pytest.mark.parametrize(("nodes", "message"), NODES.items(), ids=lambda v: None)
def test_a_mistake_in_a_graph(tmp_path: Path, nodes: str, message: str) -> None:
    assert said(mistakes(graph(tmp_path, nodes).infer)) == [message]


@pytest.mark.parametrize(("text", "message"), DOCUMENTS.items(), ids=lambda v: None)
def test_a_mistake_in_a_document(tmp_path: Path, text: str, message: str) -> None:
    assert said(mistakes(lambda: load(tmp_path, text).infer())) == [message]


# ---- the form of a message -------------------------------------------------------------------------------------

COTR = """
stem: {use: conv, out: 64, stride: [1, 2, 2]}
stage: {for: {out: [192, 384, 384]}, use: conv, out: $out, stride: 2}
up:
  for: {skip: [stage.1, stage.1, stem], out: [384, 192, 64]}
  carry: stage.2
  from: {x: carry, skip: $skip}
  use: decoder.stage
  upsample: {graph: {up: {use: up, scale: 2}, conv: {use: conv, out: $out}}}
  fuse: {use: fuse.add}
"""
INPUTS = "inputs: {image: {type: B 1 D H W, size: [48, 192, 192]}}\n"


def cotr(folder: Path) -> Any:
    body = "".join(f"  {line}\n" for line in COTR.strip().splitlines())
    return load(folder, INPUTS + "graph:\n" + body + "outputs: {y: up.2}\n")


def test_a_fusion_that_does_not_fit_is_told_as_in_the_design(tmp_path: Path) -> None:
    (mistake,) = mistakes(cotr(tmp_path).infer)
    assert mistake.render().replace(str(tmp_path), "") == (
        "error[BP301]: `fuse.add` cannot join these two maps: channels 192 and 384\n"
        "  --> /toy.yaml:8:27\n"
        "   |\n"
        " 8 |     for: {skip: [stage.1, stage.1, stem], out: [384, 192, 64]}\n"
        "   |                           ^^^^^^^ becomes `skip` of up.1\n"
        "13 |     fuse: {use: fuse.add}\n"
        "   |                 -------- `fuse.add` at up.1.fuse\n"
        "   = x       (B, 192, 4·D/8, 4·H/16, 4·W/16)   up.0 -> up.1\n"
        "   = skip    (B, 384, D/4, H/8, W/8)   image -> stem -> stage.0 -> stage.1\n"
        "   = help: `stage.0` fits: (B, 192, D/2, H/4, W/4)"
    )


def test_help_is_only_what_was_tried(tmp_path: Path) -> None:
    nodes = "a: {use: conv, out: 8}\nb: {use: conv, out: 3}\ny: {use: fuse.add, from: {x: a, skip: b}}"
    (mistake,) = mistakes(graph(tmp_path, nodes).infer)
    assert mistake.help == ("`a` fits: (B, 8, H, W)",)
    nodes = "a: {use: conv, out: 8}\ny: {use: fuse.add, from: {x: image, skip: a}}"
    (mistake,) = mistakes(graph(tmp_path, nodes).infer)
    assert mistake.help == ("`image` fits: (B, 4, H, W)",)


def test_all_mistakes_of_a_file_and_nothing_that_follows_from_them(tmp_path: Path) -> None:
    nodes = """
    a: {use: conv, kernl: 3}
    b: {use: conv, from: imag}
    c: {use: cnov, from: image}
    d: {use: attention, from: image, heads: 3}
    e: {use: conv, from: image, out: "${1 // 0}"}
    f: {use: fuse.concat, from: [a, b, c, d, e]}
    g: {use: conv, norm: layer}
    y: {for: {x: "${refs('b')}"}, from: $x, use: conv}
    """
    found = mistakes(graph(tmp_path, nodes, "{y: y, g: g}").infer)
    assert [d.split(" ")[:2] for d in said(found)][:5] == [
        ["BP204", "5:18"], ["BP104", "6:24"], ["BP102", "7:12"], ["BP205", "9:39"], ["BP401", "8:12"],
    ]  # fmt: skip
    assert len(found) == 5


def test_one_mistake_in_every_copy_is_said_once(tmp_path: Path) -> None:
    (mistake,) = mistakes(graph(tmp_path, "y: {use: attention, repeat: 6, heads: 3}").infer)
    assert mistake.address == "y.0"
    assert mistake.notes[-1] == "and at y.1, y.2, y.3, y.4 … (1 more)"


def test_a_fault_of_a_plugin_is_the_plugins(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="the rule of `faulty` failed at `y`: ZeroDivisionError") as caught:
        graph(tmp_path, "y: {use: faulty}").infer()
    assert caught.value.diagnostics[0].code == "BP603"


def test_ten_thousand_mistakes_do_not_take_minutes(tmp_path: Path) -> None:
    nodes = "\n".join(f"n{k}: {{use: conv, from: m{k}}}" for k in range(2000))
    blueprint = graph(tmp_path, nodes, "{y: n0}")
    start = time.process_time()
    assert len(mistakes(blueprint.infer)) == 2000
    assert time.process_time() - start < 20


def test_rendering_marks_both_places_in_order() -> None:
    source = Source("a.yaml", "one\ntwo\nthree\n")
    mistake = Diagnostic(
        "BP301", "no", Span(source, 3, 1, 3, 6), "here", (Label(Span(source, 1, 1, 1, 4), "there"),), ("fact",), ("do",)
    )
    assert mistake.render().splitlines() == [
        "error[BP301]: no", "  --> a.yaml:3:1", "  |", "1 | one", "  | --- there", "3 | three", "  | ^^^^^ here", "   = fact",
        "   = help: do",
    ]  # fmt: skip
    assert mistake.to_json()["place"] == {"file": "a.yaml", "line": 3, "column": 1, "end_line": 3, "end_column": 6}
    assert Diagnostic("BP105", "no place").render() == "error[BP105]: no place"


def test_small_words() -> None:
    assert nearest("cnov", ["conv", "act"]) == ["conv"]
    assert listing(range(3), 2) == "0, 1 … (1 more)"
    same = [Diagnostic("BP1", "x", address="a.0"), Diagnostic("BP1", "x", address="a.1"), Diagnostic("BP2", "x")]
    assert [d.notes for d in once(same)] == [("and at a.1",), ()]


# ---- any text at all -------------------------------------------------------------------------------------------

WHOLE = """params: {width: {default: 4, min: 1}, act: {type: block, default: relu}, widths: [4, 6]}
presets: {wide: {width: 8, edit: [{at: a, set: {out: 8}}]}}
inputs: {image: {type: B 4 H W, size: [32, 32]}}
graph:
  a: {use: conv, out: $width, act: $act}
  s: split
  body: {use: block.transformer, from: a, repeat: 2, attention: {use: attention, from: {position: .a}}, memory: memory}
  up:
    for: {skip: [a, body.0], out: "${widths}"}
    carry: body
    from: {x: carry, skip: $skip}
    use: decoder.stage
    fuse: {both: {use: fuse.concat, from: [x, skip]}, less: {use: conv, out: $out}}
    block: {use: conv, repeat: 2, first: {norm: layer}, out: $out}
  y: {use: fuse.concat, from: [up.*, s.left]}
outputs: {y: y, aux: {from: "${refs('up')[0]}", when: training}}
edit: [{at: "up.*.block.0", set: {act: elu}}, {at: y, insert_after: {z: act.relu}}]
"""
PIECES = [
    "null",
    "0",
    "-1",
    "[]",
    "{}",
    "3.5",
    "$i",
    "[1, 2]",
    "{use: conv}",
    "from",
    ".image",
    "{graph: {}}",
    '"${j}"',
    "a",
    "up.*",
    "x",
]


def mutated(rng: random.Random) -> str:
    lines = WHOLE.splitlines()
    for _ in range(rng.choice([1, 1, 2, 3])):
        k, action = rng.randrange(len(lines)), rng.randrange(6)
        words = lines[k].replace(",", " , ").replace("}", " }").replace("{", "{ ").split(" ")
        if action == 0 and len(lines) > 1:
            del lines[k]
        elif action == 1:
            lines.insert(rng.randrange(len(lines)), lines[k])
        else:
            at = rng.randrange(len(words))
            words[at] = rng.choice([*PIECES, rng.choice(words)]) + (":" if words[at].endswith(":") else "")
            lines[k] = " ".join(words)
    return "\n".join(lines) + "\n"


def test_the_whole_is_right_before_it_is_mutated(tmp_path: Path) -> None:
    assert load(tmp_path, WHOLE).infer().outputs


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_file_holds_only_our_errors_escape_and_soon(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        text, start = mutated(rng), time.process_time()
        with contextlib.suppress(ComposerError):
            load(tmp_path, text).infer()
        assert time.process_time() - start < 20, text


def test_errors_survive_pickling() -> None:
    import pickle

    fault = BlueprintError(Diagnostic("BP104", "x"))
    assert pickle.loads(pickle.dumps(fault)).diagnostics == fault.diagnostics
    assert len(toys.BLOCKS) == len({b.name for b in toys.BLOCKS})
