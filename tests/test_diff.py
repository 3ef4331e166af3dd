"""`composer diff`: what changed from one network to another, node by node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toys import graph, load

import composer
from composer.cli.changing import network
from composer.cli.main import run
from composer.diff import Difference, Network, difference

NODES = """
stem: {use: conv, out: 4}
level: {for: {w: [4, 4]}, graph: {a: {use: conv, out: $w}, b: {use: block.transformer, repeat: 3, attention: attention}}}
y: {use: conv, out: 4}
"""


def compared(folder: Path, edits: str = "", nodes: str = NODES, head: str = "", **overrides: Any) -> Difference:
    """A small network before and after edits; nothing is built."""
    one = graph(folder, NODES).infer()
    two = graph(folder, nodes, head=head + (f"edit: [{edits}]\n" if edits else ""), **overrides).infer()
    return difference(Network(one), Network(two))


def seen(found: Difference) -> list[tuple[str, str]]:
    return [(c.address, c.kind) for c in found.changes]


def test_nothing_changed(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert seen(found) == []
    assert found.summary() == "no node differs; output types unchanged; sizes unchanged (any)"


def test_an_option(tmp_path: Path) -> None:
    found = compared(tmp_path, "{at: stem, set: {act: relu, stride: 2}}")
    assert seen(found)[:2] == [("stem", "changed"), ("stem.act", "added")]
    assert "stem" in found.text()
    assert "conv  stride (none) -> 2" in found.text()
    assert "(B, 4, H, W) -> (B, 4, H/2, W/2)" in found.text()
    assert found.summary().startswith(
        "2 places changed by 1 edit; outputs y (B, 4, H, W) -> (B, 4, H/2, W/2); sizes any -> "
    )


def test_what_follows_is_said_once(tmp_path: Path) -> None:
    found = compared(tmp_path, "{at: stem, set: {stride: 2}}")
    assert seen(found) == [("stem", "changed"), ("level", "follows"), ("y", "follows")]
    assert found.summary().startswith("1 place changed by 1 edit")


def test_another_block_stands_for_all_below_it(tmp_path: Path) -> None:
    found = compared(tmp_path, "{at: level.0.b, replace: act.relu}")
    assert seen(found) == [("level.0.b", "changed")]
    assert "block.transformer ×3 -> act.relu" in found.text()


@pytest.mark.parametrize(
    ("edits", "address"),
    [
        ("{at: level.*.b.*.attention, set: {shift: 1}}", "level.*.b.*.attention"),
        ("{at: level.0.b.*.attention, set: {shift: 1}}", "level.0.b.*.attention"),
        ("{at: level.*.b.1.attention, set: {shift: 1}}", "level.*.b.1.attention"),
        ("{at: [level.0.b.0.attention, level.0.b.2.attention], set: {shift: 1}}", "level.0.b.0,2.attention"),
        ("{at: level.*.b.*.attention, set: {shift: '${j + 10}'}}", "level.*.b.*.attention"),
    ],
)
def test_copies_that_change_alike_are_one_line(tmp_path: Path, edits: str, address: str) -> None:
    found = compared(tmp_path, edits)
    assert seen(found) == [(address, "changed")]
    assert len(found.changes[0].addresses) == len(found.changes[0].to_json()["after"])


def test_the_values_of_copies_are_told_together(tmp_path: Path) -> None:
    text = compared(tmp_path, "{at: level.*.b.*.attention, set: {shift: '${j + 10}'}}").text()
    assert "shift (none) -> 10, 11, 12" in text


def test_copies_that_came(tmp_path: Path) -> None:
    found = compared(tmp_path, nodes=NODES.replace("repeat: 3", "repeat: 6"))
    assert seen(found) == [("level.*.b.3–5", "added")]
    assert compared(tmp_path, "{at: level.1.b.2, remove: true}").changes[0].address == "level.1.b.2"


def test_nodes_that_came_and_went(tmp_path: Path) -> None:
    came = compared(tmp_path, "{at: stem, insert_after: {extra: act.relu}}")
    assert seen(came) == [("extra", "added"), ("level.0.a", "follows")]
    assert "from x stem -> extra" in came.text()
    assert seen(compared(tmp_path, "{at: stem, remove: true}"))[0] == ("stem", "removed")


def test_another_wire_is_a_change(tmp_path: Path) -> None:
    found = compared(tmp_path, nodes=NODES.replace("y: {use: conv,", "y: {use: conv, from: level.0,"))
    assert seen(found) == [("y", "changed")]
    assert "conv  from x level -> level.0" in found.text()


def test_an_order_of_nodes(tmp_path: Path) -> None:
    found = compared(tmp_path, "{at: level, replace: act.relu}, {at: stem, insert_after: {extra: act.relu}}")
    assert [a for a, _ in seen(found)][:2] == ["extra", "level.*"]


def test_parameters_of_the_blueprint(tmp_path: Path) -> None:
    before = load(
        tmp_path,
        "params: {w: 4, n: {type: block, default: relu}}\ninputs: {image: B 4 H W}\ngraph: {y: {use: conv, out: $w, act: $n}}\noutputs: {y: y}\n",
    )
    after = composer.load(before.path, before.registry, w=6)
    found = difference(Network(before.infer()), Network(after.infer()))
    assert found.params == {"w": (4, 6)}
    assert found.text().splitlines()[:2] == ["toy -> toy", "  w 4 -> 6"]


def test_figures_are_summed_over_copies(tmp_path: Path) -> None:
    one, two = graph(tmp_path, NODES).infer(), graph(tmp_path, NODES, **{"stem.out": 6}).infer()
    counts = {"stem.weight": 100, "level.0.a.weight": 10, "level.1.a.weight": 10, "y.weight": 1}
    found = difference(
        Network(one, counts, {"stem": 5000}), Network(two, {**counts, "stem.weight": 150}, {"stem": 7000})
    )
    stem = next(c for c in found.changes if c.address == "stem")
    assert (stem.total("parameters"), stem.total("flops")) == ((100, 150), (5000, 7000))
    assert found.totals("parameters") == (121, 171)
    assert found.summary().endswith("parameters 121 -> 171; FLOPs 5.00 k -> 7.00 k")


# ---- the command ------------------------------------------------------------------------------------------------

HYBRID = """blueprint: 1
name: hybrid
extends: swin_unet
params: {tokens: 10}
edit:
  - {at: decoder.*.fuse.join, replace: {use: fuse.cross_attention, from: {x: x, skip: skip, deep: deep}, width: "${dim * 2 ** (2 - i)}"}}
  - at: [encoder.0.blocks, encoder.1.blocks]
    set: {memory: {use: memory.global_tokens, count: $tokens, rows: "${(45 * tokens // 2 ** i) ** 2}", attention: {use: attention.multihead, heads: $head}}}
"""


def test_the_hybrid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hybrid.yaml"
    path.write_text(HYBRID)
    assert run(["diff", "swin_unet", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    own = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if " -> " in line and line[:1].strip()}
    assert own["decoder.0.fuse.join"] == "fuse.concat -> fuse.cross_attention(width 384)"
    assert own["encoder.0.blocks.*.memory"] == "(none) -> memory.global_tokens(count 10, rows 202500)"
    assert lines[-1].startswith(
        "5 places changed by 2 edits; output types unchanged; sizes unchanged (H, W: multiples of 224)"
    )
    assert "parameters 27.2 M -> 58.3 M" in lines[-1]


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", "vit", "vit:small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"]["dim"] == [768, 384]
    assert found["parameters"] == [86567656, 22050664]
    heads = next(c for c in found["changes"] if c["address"] == "blocks.*.attention")
    assert [s["options"]["heads"] for s in heads["before"]] == [12] * 12
    assert [s["options"]["heads"] for s in heads["after"]] == [6] * 12
    assert heads["addresses"][-1] == "blocks.11.attention"


def test_overrides_of_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", "unet", "up.*.fuse=fuse.add", "widths=[8, 16]"]) == 0
    first = capsys.readouterr().out
    assert "-> fuse.add" in first
    assert run(["diff", "unet", "unet", "up.*.fuse=fuse.add", "widths=[8, 16]"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("words", [["vit"], ["vit", "vitt"], ["vit", "dimm=3"], ["vit", "vit", "vit"]])
def test_mistakes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error[BP")
    assert "Traceback" not in captured.err


def test_a_network_counts_its_parameters() -> None:
    side = network(composer.load("vit", dim=16, depth=1, heads=2, hidden=8, size=[16, 16], patch=8, classes=3))
    assert sum(side.parameters.values()) == sum(p.numel() for p in side.blueprint.build().parameters())  # type: ignore[attr-defined]
