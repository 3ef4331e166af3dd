"""Official names to our addresses and back: the rules (`keymap`), the tensors and the files (`weights`)."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from composer.diagnostics import BlueprintError, Diagnostic, Source, Span
from composer.keymap import DROPS, TRANSFORMS, Mismatch, Plan, Rule, compile_rules, match, sources
from composer.weights import MOST_NAMED, Leftover, convert, export, load_file, load_into, report, save_file

SWIN = yaml.safe_load("""
- {from: "swin_unet.patch_embed.proj.*", to: "patches.*"}
- {from: "swin_unet.patch_embed.norm.*", to: "patches.norm.*"}
- {from: "swin_unet.layers.{i:0=encoder.0.blocks,1=encoder.1.blocks,2=encoder.2.blocks,3=bottleneck}.blocks.{j}.attn.qkv.*", transform: split, to: ["{i}.{j}.attention.query.*", "{i}.{j}.attention.key.*", "{i}.{j}.attention.value.*"]}
- {from: "swin_unet.layers.{i:0=encoder.0.blocks,1=encoder.1.blocks,2=encoder.2.blocks,3=bottleneck}.blocks.{j}.attn.proj.*", to: "{i}.{j}.attention.project.*"}
- {from: "swin_unet.layers.{i:0=encoder.0.blocks,1=encoder.1.blocks,2=encoder.2.blocks,3=bottleneck}.blocks.{j}.attn.relative_position_bias_table", to: "{i}.{j}.attention.bias.table"}
- {from: "swin_unet.layers.{i:0=encoder.0.blocks,1=encoder.1.blocks,2=encoder.2.blocks,3=bottleneck}.blocks.{j}.*", to: "{i}.{j}.*"}
- {from: "swin_unet.layers.{i}.downsample.*", to: "encoder.{i}.merge.*"}
- {from: "swin_unet.layers_up.0.*", to: "decoder.0.upsample.*"}
- {from: "swin_unet.layers_up.{i:1=1,2=2}.upsample.*", to: "decoder.{i}.upsample.*"}
- {from: "swin_unet.layers_up.{i+1}.blocks.{j}.attn.qkv.*", transform: split, to: ["decoder.{i}.block.{j}.attention.query.*", "decoder.{i}.block.{j}.attention.key.*", "decoder.{i}.block.{j}.attention.value.*"]}
- {from: "swin_unet.layers_up.{i+1}.blocks.{j}.attn.proj.*", to: "decoder.{i}.block.{j}.attention.project.*"}
- {from: "swin_unet.layers_up.{i+1}.blocks.{j}.attn.relative_position_bias_table", to: "decoder.{i}.block.{j}.attention.bias.table"}
- {from: "swin_unet.layers_up.{i+1}.blocks.{j}.*", to: "decoder.{i}.block.{j}.*"}
- {from: "swin_unet.concat_back_dim.{i+1}.*", to: "decoder.{i}.fuse.reduce.*"}
- {from: "swin_unet.norm.*", to: "norm.*"}
- {from: "swin_unet.norm_up.*", to: "norm_up.*"}
- {from: "swin_unet.up.*", to: "full.*"}
- {from: "swin_unet.output.*", to: "head.*"}
""")  # fmt: skip
GOLDEN = json.loads((Path(__file__).parent / "goldens" / "swin_unet.json").read_text())


def swin_case(size: str) -> dict[str, Any]:
    (case,) = [c for c in GOLDEN["cases"] if c["size"] == size]
    return dict(case)


def by_hand(key: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The addresses of an official Swin-Unet key, written out without a pattern: the reference for the rules."""
    first, *tail = key.removeprefix("swin_unet.").split(".")
    flat = {"norm": "norm", "norm_up": "norm_up", "up": "full", "output": "head"}
    if first in flat:
        return {".".join([flat[first], *tail]): shape}
    if first == "patch_embed":
        return {".".join(["patches"] + (["norm"] if tail[0] == "norm" else []) + tail[1:]): shape}
    number, *tail = tail
    if first == "concat_back_dim":
        return {".".join([f"decoder.{int(number) - 1}.fuse.reduce", *tail]): shape}
    if first == "layers" and tail[0] == "downsample":
        return {".".join([f"encoder.{number}.merge", *tail[1:]]): shape}
    if first == "layers_up" and (number == "0" or tail[0] == "upsample"):
        return {".".join([f"decoder.{number}.upsample", *(tail if number == "0" else tail[1:])]): shape}
    stage = f"decoder.{int(number) - 1}.block" if first == "layers_up" else f"encoder.{number}.blocks"
    stage = "bottleneck" if stage == "encoder.3.blocks" else stage
    _, block, *tail = tail
    if tail == ["attn", "relative_position_bias_table"]:
        return {f"{stage}.{block}.attention.bias.table": shape}
    if tail[0] != "attn":
        return {".".join([stage, block, *tail]): shape}
    if tail[1] == "proj":
        return {f"{stage}.{block}.attention.project.{tail[2]}": shape}
    third = (shape[0] // 3, *shape[1:])
    return {f"{stage}.{block}.attention.{part}.{tail[2]}": third for part in ("query", "key", "value")}


def to(pattern: str, target: str | list[str], key: str, *addresses: str, **more: Any) -> list[str]:
    """The addresses one rule makes of one key, among these addresses of a network."""
    plan = match([{"from": pattern, "to": target, **more}], {key: (6,)}, dict.fromkeys(addresses, (6,)))
    reached = [a for move in plan.moves.values() for a in move.addresses]
    return reached or [a for m in plan.mismatched for a in m.addresses]


# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "target", "key", "address"),
    [
        ("vt_check", "cell.visits", "vt_check", "cell.visits"),
        ("layer.{i}.weight", "blocks.{i}.w", "layer.11.weight", "blocks.11.w"),
        ("layer.{i}.weight", "blocks.{i}.w", "layer.one.weight", "blocks.one.w"),
        ("layer{i}.conv_{k}_x.w", "a.{i}.{k}", "layer3.conv_b_x.w", "a.3.b"),
        ("linear{k}.*", "fc{k}.*", "linear2.bias", "fc2.bias"),
        ("block{s+1}.w", "body.{s}.w", "block3.w", "body.2.w"),
        ("block{s+10}.w", "body.{s}.w", "block12.w", "body.2.w"),
        ("block{s}.w", "body.{s+1}.w", "block3.w", "body.4.w"),
        ("gn{k:1=a,2=b.norm}.w", "x.{k}.w", "gn2.w", "x.b.norm.w"),
        ("tr{s:1=a,16=b,128=c}.w", "x.{s}.w", "tr128.w", "x.c.w"),
        ("{i:0=encoder.0.blocks,3=bottleneck}.{j}.w", "{i}.{j}.w", "3.1.w", "bottleneck.1.w"),
        ("{s:32=0,64=1}.w", "x.{s+1}.w", "64.w", "x.2.w"),
        ("m.{n*sub.1.}conv.w", "down.{n}.w", "m.conv.w", "down.0.w"),
        ("m.{n*sub.1.}conv.w", "down.{n+1}.w", "m.sub.1.sub.1.sub.1.conv.w", "down.4.w"),
        ("a.*", "b.*", "a.weight", "b.weight"),
        ("a.*", "b.*", "a.norm.bias", "b.norm.bias"),
        ("a.*.end", "b.*", "a.x.y.end", "b.x.y"),
        ("*.{x}.w", "{x}.*", "p.q.r.w", "r.p.q"),
        ("{x}.and.{x}.w", "both.{x}", "a.and.a.w", "both.a"),
        ("a+b(c).w", "plain", "a+b(c).w", "plain"),
        ("T/encoderblock_{i}/Dense_{k}/kernel", "b.{i}.{k}", "T/encoderblock_3/Dense_1/kernel", "b.3.1"),
    ],
)  # fmt: skip
def test_pattern(pattern: str, target: str, key: str, address: str) -> None:
    assert to(pattern, target, key, address) == [address]


@pytest.mark.parametrize(
    ("pattern", "target", "key"),
    [
        ("layer.{i}.w", "x.{i}", "layer.1.2.w"),  # one segment
        ("layer/{i}/w", "x.{i}", "layer/1/2/w"),  # of a JAX name too
        ("layer{i}.w", "x.{i}", "layer.w"),  # not none
        ("a.*", "b.*", "a."),
        ("a.*", "b.*", "a"),
        ("block{s+1}.w", "x.{s}", "block0.w"),  # counts from one
        ("block{s+1}.w", "x.{s}", "blocka.w"),
        ("block{s}.w", "x.{s+1}", "blocka.w"),  # an address counts with it
        ("{k:1=a,2=b}.w", "{k}", "3.w"),
        ("{x}.and.{x}.w", "both.{x}", "a.and.b.w"),
        ("a.b", "x", "axb"),  # a dot is a dot
        ("a.*", "b.*", "a." + "x" * 600),
    ],
)
def test_pattern_is_not_about(pattern: str, target: str, key: str) -> None:
    assert match([{"from": pattern, "to": target}], {key: (1,)}, {}).unknown == (key,)


def test_counting_from_the_end() -> None:
    decoder = ["decoder.0.block.w", "decoder.1.block.w", "decoder.2.block.w", "head.0.w", "head.1.w"]
    for official in range(3):
        assert to("up.{s}.w", "decoder.-{s}.block.w", f"up.{official}.w", *decoder) == [
            f"decoder.{2 - official}.block.w"
        ]
    assert to("{d:up=decoder}.{s}.w", "{d}.-{s}.block.w", "up.0.w", *decoder) == ["decoder.2.block.w"]
    assert to("seg.{s+1}.*", "head.-{s}.*", "seg.1.w", *decoder) == ["head.1.w"]
    assert to("m.{n*s.}w", "decoder.-{n+1}.block.w", "m.s.w", *decoder) == ["decoder.0.block.w"]
    assert to("up.{s}.w", "decoder.-{s}.block.w", "up.3.w", *decoder) == ["decoder.-3.block.w"], (
        "named, and said to be absent"
    )
    assert to("up.{s}.w", "x-{s}.w", "up.3.w", "x-3.w") == ["x-3.w"], "a hyphen inside of a segment is a hyphen"
    assert to("{s}.w", "-{s}.w", "0.w", "0.w", "7.w") == ["7.w"], "the first segment counts too"
    twice = ["a.0.b.0.w", "a.0.b.1.w", "a.1.b.0.w"]
    assert to("{i}.{j}", "a.-{i}.b.-{j}.w", "1.0", *twice) == ["a.0.b.1.w"], "the end is looked up where it is"


def test_first_rule_wins_and_compiled_rules_pass() -> None:
    rules = compile_rules([{"from": "a.b", "to": "one"}, {"from": "a.{x}", "to": "two", "note": "the others"}])
    plan = match(rules, {"a.b": (1,), "a.c": (1,)}, {"one": (1,), "two": (1,)})
    assert {k: m.addresses for k, m in plan.moves.items()} == {"a.b": ("one",), "a.c": ("two",)}
    assert plan.complete
    assert compile_rules(rules) == rules


def test_a_rule_without_its_address_leaves_the_key_to_later_ones() -> None:
    """Of heads 0 to 2 the network has one in each of two layers, and one of its own."""
    rules = [
        {"from": "head.{i}.weight", "to": "layer.{i}.weight"},
        {"from": "head.{i}.weight", "to": "first.weight"},
        {"from": "head.{i}.weight", "to": "other.weight"},
    ]
    keys = {f"head.{i}.weight": (1,) for i in range(3)}
    plan = match(rules, keys, {"layer.0.weight": (1,), "layer.1.weight": (1,), "first.weight": (1,)})
    assert plan.complete
    assert plan.moves["head.2.weight"].addresses == ("first.weight",)
    plan = match(rules, keys, {"layer.0.weight": (1,), "layer.1.weight": (1,)})
    assert [(m.key, m.addresses) for m in plan.mismatched] == [("head.2.weight", ("layer.2.weight",))]


def test_sources() -> None:
    rules = [{"from": "a", "to": "b"}]
    assert sources(rules) == {"official": rules}
    assert sources({"official": rules, "transformers": []}) == {"official": rules, "transformers": []}
    assert sources(None) == {}
    with pytest.raises(BlueprintError, match="`weights:` is a list of rules, or a map"):
        sources({"official": {"from": "a"}})
    with pytest.raises(BlueprintError, match="BP701"):
        sources("official.pth")


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("{a}-{b}-{c}-w", "-" * 511),
        ("*.*.*.w", "." * 511),
        ("*a*a*a*", "a" * 511 + "\n"),
        ("{a*x.}{b*x.}{c*x.}w", "x." * 255),
        ("{a}.{b}.{c}.{d}.{e}.{f}.{g}.w", "a." * 7 + "v"),
        ("{s:1=a,10=b}.{t:1=a,10=b}.{u:1=a,10=b}.{v:1=a,10=b}.w", "10.1.10.1.v"),
    ],
)
def test_the_most_open_patterns_stay_fast(pattern: str, key: str) -> None:
    (rule,) = compile_rules([{"from": pattern, "transform": "drop"}])
    started = time.perf_counter()
    rule.read(key)
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(
    "pattern", ["*.*.*.*x", "{a}{b}{c}{d}x", "".join(f"{{{n}:1=a,11=b}}" for n in "abcde"), "{n*u.}{m*u.}{k*u.}{j*u.}x"]
)
def test_more_open_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(BlueprintError, match="more than 3 pieces of the pattern have no fixed end"):
        compile_rules([{"from": pattern, "transform": "drop"}])


def test_keymap_needs_no_torch() -> None:
    code = "import sys, composer.keymap; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": "."}).returncode == 0


# ---------------------------------------------------------------- mistakes in rules


@pytest.mark.parametrize(
    ("rule", "at", "message"),
    [
        ({"from": "a.{x", "to": "b"}, "from", "unbalanced `{` at character 3 of `a.{x`"),
        ({"from": "a.x}", "to": "b"}, "from", "unbalanced `}` at character 4"),
        ({"from": "a", "to": "b.{x"}, "to", "unbalanced `{` at character 3 of `b.{x`"),
        ({"from": "a.{1x}", "to": "b"}, "from", "`{1x}` is not a pattern"),
        ({"from": "a.{}", "to": "b"}, "from", "`{}` is not a pattern"),
        ({"from": "a.{x-1}", "to": "b"}, "from", "`{x-1}` is not a pattern"),
        ({"from": "a.{x}", "to": "b.{x:1=2}"}, "to", "`{x:1=2}` is not a place in an address"),
        ({"from": "{x:1=a,2}", "to": "{x}"}, "from", "`2` is not `official=ours`"),
        ({"from": "{x:1=a,1=b}", "to": "{x}"}, "from", "translates `1` twice"),
        ({"from": "{x}.{x+1}", "to": "{x}"}, "from", "`{x}` is read twice"),
        ({"from": "a.{stage}", "to": "b.{stag}"}, "to", "`{stag}` in `to` is not in `from`; did you mean `stage`?"),
        ({"from": "a.w", "to": "b.*"}, "to", "`*` in `to` is not in `from`"),
        ({"from": "*.a.*", "to": "b.*"}, "to", "could be any of the 2 in `from`"),
        ({"from": "{x:1=a}", "to": "b.{x+1}"}, "to", "counts with `{x}`, which is not always a number"),
        ({"from": "{x:1=a}", "to": "b.-{x}"}, "to", "counts with `{x}`, which is not always a number"),
        ({"from": "*", "to": "b.-{y}"}, "to", "`{y}` in `to` is not in `from`"),
        ({"from": "a", "to": "b", "transform": "sqeeze"}, "transform", "`sqeeze`; did you mean `squeeze`?"),
        ({"from": "a", "to": "b", "transform": 3}, "transform", "no transform `3`"),
        ({"from": "a", "to": "b", "transform": "merge"}, "transform", "in a rule, write `split`"),
        ({"from": "a", "to": ["b", "c"]}, "to", "2 addresses for one tensor need `transform: split`"),
        ({"from": "a", "to": "b", "transform": "split"}, "to", "`split` needs a list of addresses"),
        ({"from": "a", "to": "b", "transform": "drop"}, "to", "a dropped key goes nowhere"),
        ({"from": "a"}, "from", "a weights rule without `to`"),
        ({"from": "a", "to": []}, "to", "`to` is an address or a list of addresses"),
        ({"from": "a", "to": ["b", 3]}, "to", "`to` is an address or a list of addresses"),
        ({"from": "a", "to": 3}, "to", "`to` of a weights rule is 3, not a name"),
        ({"to": "a"}, "from", "`from` of a weights rule is missing"),
        ({"from": "a", "to": "b", "transfrom": "split"}, "transfrom", "no `transfrom`; did you mean `transform`?"),
        ({"from": "a", "to": "b", "extra": 1}, "extra", "an option of `transform: resize_table` only"),
        ({"from": "a", "to": "b", "transform": "resize_table", "extra": -1}, "extra", "a count of rows, not -1"),
        ({"from": "a", "to": "b", "transform": "resize_table", "grid": [3]}, "grid", "two counts"),
        ({"from": "a", "to": "b", "transform": "resize_table", "corners": 1}, "corners", "true or false"),
        ({"from": "*.*.{n*u.}*.x", "transform": "drop"}, "from", "more than 3 pieces of the pattern have no fixed end"),
        ("a -> b", "", "a weights rule is a map with `from` and `to`, not str"),
    ],
)  # fmt: skip
def test_mistake(rule: Any, at: str, message: str) -> None:
    class Map(dict[str, Any]):
        """Like `composer.source.Map`: a map that knows where its values stand."""

        value_spans: Mapping[str, Span]

    source = Source("x.yaml", "weights:")
    spanned = rule
    if isinstance(rule, dict):
        spanned = Map(rule)
        spanned.value_spans = {key: Span(source, 1, n + 1, 1, n + 2) for n, key in enumerate(rule)}
    with pytest.raises(BlueprintError) as caught:
        compile_rules([{"from": "fine", "to": "fine"}, spanned])
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "BP701"
    assert message in diagnostic.message
    if at in rule and isinstance(rule, dict):
        assert diagnostic.span == spanned.value_spans[at]


def test_all_mistakes_are_shown_together() -> None:
    with pytest.raises(BlueprintError) as caught:
        compile_rules([{"from": "a.{x", "to": "b"}, {"from": "a"}, {"from": "a", "to": "b"}])
    assert len(caught.value.diagnostics) == 2
    assert "from: a.{x" in caught.value.diagnostics[0].notes


# ---------------------------------------------------------------- plans


def test_plan_names_everything_that_does_not_fit() -> None:
    rules = [
        {"from": "good", "to": "a"},
        {"from": "again", "to": "a"},
        {"from": "shape", "to": "b"},
        {"from": "absent", "to": "nowhere"},
        {"from": "qkv", "to": ["q", "k", "v"], "transform": "split"},
        {"from": "old.*", "transform": "ignore"},
    ]
    keys = {"good": (2,), "again": (2,), "shape": (3, 2), "absent": (1,), "qkv": (4, 2), "old.x": (9,), "new": (1,)}
    wanted = {"a": (2,), "b": (3, 3), "q": (1, 2), "k": (1, 2), "v": (1, 2), "c": (5,), "n.num_batches_tracked": ()}
    plan = match(rules, keys, wanted)
    assert list(plan.moves) == ["good"]
    assert plan.dropped == ("old.x",)
    assert plan.unknown == ("new",)
    assert plan.missing == ("c",), "an address whose key does not fit is told there; a counter is never missed"
    assert [str(d) for d in plan.duplicates] == ["a: good and again"]
    assert [str(m) for m in plan.mismatched] == [
        "shape (3, 2) -> b (3, 3): another shape",
        "absent (1,) -> nowhere: no such address: nowhere",
        "qkv (4, 2) -> q (1, 2), k (1, 2), v (1, 2): 4 rows do not split into 3 equal parts",
    ]
    assert not plan.complete


@pytest.mark.parametrize("lost", ["unknown", "missing", "mismatched", "duplicates"])
def test_complete_means_that_nothing_is_lost(lost: str) -> None:
    assert Plan({}, dropped=("a",)).complete
    assert not Plan({}, **{lost: ("x",)}).complete  # type: ignore[arg-type]


@pytest.mark.parametrize("buffer", ["num_batches_tracked", "relative_position_index", "attn_mask"])
def test_derived_buffers_need_no_rule(buffer: str) -> None:
    rules = [{"from": "n.*", "to": "m.*"}]
    assert match(rules, {f"n.{buffer}": ()}, {}).dropped == (f"n.{buffer}",)
    assert match(rules, {f"z.{buffer}": ()}, {}).dropped == (f"z.{buffer}",)
    assert f"n.{buffer}" in match(rules, {f"n.{buffer}": ()}, {f"m.{buffer}": ()}).moves


def test_report_is_bounded_and_suggests() -> None:
    rules = [{"from": "a.*", "to": "b.*"}]
    keys = {f"x.{i}": (1,) for i in range(20)} | {"a.wieght": (1,), "y.num_batches_tracked": ()}
    text = report(match(rules, keys, {"b.weight": (1,)}))
    assert text.splitlines()[0] == "mapped 0 of 22 keys to 0 addresses"
    assert "dropped 1: y.num_batches_tracked" in text
    assert "unknown, no rule for: … (14 more)" in text
    assert "missing, no key for: b.weight" in text
    assert "a.wieght (1,) -> b.wieght: no such address: b.wieght; did you mean `b.weight`?" in text
    assert text.endswith("incomplete")
    assert len(text.splitlines()) <= 6 + MOST_NAMED
    assert report(match(rules, {"a.w": (1,)}, {"b.w": (1,)})) == "mapped 1 of 1 keys to 1 addresses\ncomplete"


# ---------------------------------------------------------------- the official keys of Swin-Unet


@pytest.mark.parametrize("size", ["tiny", "published"])
def test_swin_unet_is_bijective(size: str) -> None:
    case = swin_case(size)
    keys = {key: tuple(entry[0]) for key, entry in case["tensors"].items()}
    wanted: dict[str, tuple[int, ...]] = {}
    for key, shape in keys.items():
        mine = by_hand(key, shape)
        assert not mine.keys() & wanted.keys()
        wanted |= mine
    plan = match(SWIN, keys | dict.fromkeys(case["as_built"], (4, 4)), wanted)
    assert plan.complete, report(plan)
    assert set(plan.dropped) == set(case["as_built"])
    assert {k: set(m.addresses) for k, m in plan.moves.items()} == {k: set(by_hand(k, s)) for k, s in keys.items()}
    assert (len(plan.moves), len(wanted)) == (218, 274)


def test_swin_unet_there_and_back() -> None:
    keys = {key: tuple(entry[0]) for key, entry in swin_case("tiny")["tensors"].items()}
    official = {key: torch.randn(shape) for key, shape in keys.items()}
    state = {a: torch.empty(s) for key, shape in keys.items() for a, s in by_hand(key, shape).items()}
    ours, plan = convert(official, SWIN, state)
    assert plan.complete
    key = "swin_unet.layers.3.blocks.1.attn.qkv.weight"
    rows = official[key].shape[0] // 3
    assert torch.equal(ours["bottleneck.1.attention.key.weight"], official[key][rows : 2 * rows])
    back = export(ours, SWIN, keys)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], official[key]) for key in official)


def test_a_lost_rule_shows_in_the_plan() -> None:
    keys = {key: tuple(entry[0]) for key, entry in swin_case("tiny")["tensors"].items()}
    wanted = {a: s for key, shape in keys.items() for a, s in by_hand(key, shape).items()}
    for number in range(len(SWIN)):
        plan = match(SWIN[:number] + SWIN[number + 1 :], keys, wanted)
        assert not plan.complete, SWIN[number]


def test_nested_names_of_monai() -> None:
    rules = [
        {"from": "model.1.{n*submodule.1.}submodule.0.{k}.*", "to": "down.{n+1}.{k}.*"},
        {"from": "model.1.{n*submodule.1.}submodule.conv.*", "to": "down.{n+1}.conv.*"},
        {"from": "model.1.{n*submodule.1.}merge.*", "to": "up.-{n}.*"},
    ]
    wanted = ["down.1.conv.w", "down.2.conv.w", "down.3.conv.w", "up.0.w", "up.1.w"]
    keys = {
        "model.1.submodule.0.conv.w": "down.1.conv.w",
        "model.1.submodule.1.submodule.0.conv.w": "down.2.conv.w",
        "model.1.submodule.1.submodule.1.submodule.conv.w": "down.3.conv.w",
        "model.1.merge.w": "up.1.w",
        "model.1.submodule.1.merge.w": "up.0.w",
    }
    plan = match(rules, dict.fromkeys(keys, (1,)), dict.fromkeys(wanted, (1,)))
    assert plan.complete, report(plan)
    assert {key: move.addresses[0] for key, move in plan.moves.items()} == keys


# ---------------------------------------------------------------- transforms


def through(transform: str, tensor: Tensor, *shapes: tuple[int, ...], **options: Any) -> list[Tensor] | Mismatch:
    """One tensor through one transform, and back again where there is a way."""
    names = [f"t{i}" for i in range(len(shapes))]
    rules = [{"from": "k", "to": names if len(names) > 1 else names[0], "transform": transform, **options}]
    state = {name: torch.empty(shape) for name, shape in zip(names, shapes, strict=True)}
    ours, plan = convert({"k": tensor}, rules, state)
    if plan.mismatched:
        return plan.mismatched[0]
    assert [tuple(ours[name].shape) for name in names] == list(shapes)
    if TRANSFORMS[transform].backward is not None:
        assert torch.equal(export(ours, rules, {"k": tensor.shape})["k"], tensor)
    return [ours[name] for name in names]


@pytest.mark.parametrize(
    ("transform", "official", "ours"),
    [
        ("squeeze", (1, 5, 3), [(5, 3)]),
        ("squeeze", (1, 1, 3), [(1, 3)]),
        ("squeeze", (5, 3), [(5, 3)]),
        ("squeeze", (1, 3), [(1, 3)]),
        ("split", (6, 2), [(2, 2)] * 3),
        ("columns", (2, 6), [(2, 3)] * 2),
        ("rows", (3, 8), [(6, 4)]),
        ("split", (4,), [(2,)] * 2),
        ("linear", (4, 3, 1, 1), [(4, 3)]),
        ("linear", (4, 3, 1, 1, 1), [(4, 3)]),
        ("linear", (4,), [(4,)]),
        ("conv", (4, 3), [(4, 3, 1, 1)]),
        ("conv", (4, 3), [(4, 3, 1, 1, 1)]),
        ("conv", (4,), [(4,)]),
        ("patches", (5, 24), [(5, 2, 3, 4)]),
        ("patches", (5, 2, 3, 4), [(5, 2, 3, 4)]),
        ("patches", (5,), [(5,)]),
        ("flatten", (1, 1, 1, 8), [(8,)]),
        ("flatten", (), [(1,)]),
        ("transpose", (3, 4), [(4, 3)]),
        ("transpose", (4,), [(4,)]),
        ("hwio", (5, 6, 3, 4), [(4, 3, 5, 6)]),
        ("hwio", (7, 5, 6, 3, 4), [(4, 3, 7, 5, 6)]),
        ("hwio", (4,), [(4,)]),
        ("heads", (8, 2, 3), [(6, 8)]),
        ("heads", (2, 3, 8), [(8, 6)]),
        ("heads", (2, 3), [(6,)]),
        ("heads", (8,), [(8,)]),
        ("heads", (6, 2, 3), [(6, 6)]),
    ],
)
def test_transform_there_and_back(transform: str, official: tuple[int, ...], ours: list[tuple[int, ...]]) -> None:
    made = through(transform, torch.randn(official), *ours)
    assert isinstance(made, list), made


@pytest.mark.parametrize(
    ("transform", "official", "ours", "reason"),
    [
        ("squeeze", (2, 5), [(5,)], "`squeeze` makes (2, 5) of it"),
        ("split", (5, 2), [(2, 2)] * 2, "5 rows do not split into 2 equal parts"),
        ("split", (), [(2, 2)] * 2, "no rows do not split"),
        ("split", (6, 2), [(2, 2), (4, 2)], "`split` makes (3, 2) of it"),
        ("linear", (4, 3, 3, 3), [(4, 3)], "a kernel of (3, 3) is not a linear map"),
        ("conv", (4, 3), [(4, 3, 3, 3)], "`conv` makes (4, 3, 1, 1) of it"),
        ("patches", (4, 9), [(4, 2, 2, 2)], "9 columns are no patches of 4 cells"),
        ("patches", (4, 8), [(4, 3, 2, 2)], "`patches` makes (4, 2, 2, 2) of it"),
        ("flatten", (2, 3), [(5,)], "`flatten` makes (6,) of it"),
        ("transpose", (2, 3), [(2, 3)], "`transpose` makes (3, 2) of it"),
        ("transpose", (2, 3, 4), [(4, 3, 2)], "`hwio` is for convolutions"),
        ("hwio", (3, 3, 2, 4), [(2, 4, 3, 3)], "`hwio` makes (4, 2, 3, 3) of it"),
        ("heads", (8, 2, 3), [(8, 8)], "`heads` makes (6, 8) of it"),
        ("heads", (8, 2, 3, 1), [(8, 6)], "not 4 axes"),
        ("resize_table", (1, 17, 3), [(1, 10, 4)], "`resize_table` makes (1, 10, 3) of it"),
        ("resize_table", (1, 15, 3), [(1, 9, 3)], "15 rows without 1 leading ones are no square grid"),
        ("resize_table", (16, 3), [(15, 3)], "15 wanted rows are no square grid; give it as `grid: [rows, columns]`"),
        ("resize_table", (2, 16, 3), [(9, 3)], "a position table has the shape"),
        ("resize_table", (16,), [(9,)], "a position table has the shape"),
    ],
)
def test_transform_says_why_not(
    transform: str, official: tuple[int, ...], ours: list[tuple[int, ...]], reason: str
) -> None:
    mismatch = through(transform, torch.randn(official), *ours)
    assert isinstance(mismatch, Mismatch)
    assert reason in mismatch.reason


def test_every_transform_is_tested() -> None:
    (cases,) = vars(test_transform_there_and_back)["pytestmark"]
    tested = {case[0] for case in cases.args[1]}
    assert tested | {"resize_table"} == set(TRANSFORMS)
    assert not set(DROPS) & set(TRANSFORMS)


def test_heads_computes_what_jax_computes() -> None:
    """The kernels are contracted as flax contracts them, and as a torch linear layer does."""
    x, query, out = torch.randn(5, 8), torch.randn(8, 2, 3), torch.randn(2, 3, 8)
    heads = torch.einsum("nc,chd->nhd", x, query)
    (weight,) = through("heads", query, (6, 8))  # type: ignore[misc]
    torch.testing.assert_close(nn.functional.linear(x, weight), heads.reshape(5, 6))
    (weight,) = through("heads", out, (8, 6))  # type: ignore[misc]
    torch.testing.assert_close(
        nn.functional.linear(heads.reshape(5, 6), weight), torch.einsum("nhd,hdc->nc", heads, out)
    )


def test_hwio_index_by_index() -> None:
    kernel = torch.randn(2, 3, 4, 5)
    (ours,) = through("hwio", kernel, (5, 4, 2, 3))  # type: ignore[misc]
    for h, w, i, o in np.ndindex(2, 3, 4, 5):
        assert ours[o, i, h, w] == kernel[h, w, i, o]


def slow_zoom(grid: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Bilinear with half-pixel centres, one number at a time."""
    out = np.zeros((*size, grid.shape[2]))
    for i, j in np.ndindex(*size):
        y, x = ((at + 0.5) * grid.shape[a] / size[a] - 0.5 for a, at in enumerate((i, j)))
        for row, col in [(int(np.floor(y)) + a, int(np.floor(x)) + b) for a in (0, 1) for b in (0, 1)]:
            share = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - col))
            out[i, j] += share * grid[min(max(row, 0), grid.shape[0] - 1), min(max(col, 0), grid.shape[1] - 1)]
    return out


@pytest.mark.parametrize("size", [(7, 7), (2, 2), (3, 5)])
def test_resize_table_against_slow_zoom(size: tuple[int, int]) -> None:
    table, rows = torch.randn(1, 17, 3, dtype=torch.float64), size[0] * size[1]
    grid = table[0, 1:].reshape(4, 4, 3).numpy()
    (ours,) = through("resize_table", table, (1 + rows, 3), grid=list(size))  # type: ignore[misc]
    assert torch.equal(ours[:1], table[0, :1])
    np.testing.assert_allclose(ours[1:].numpy(), slow_zoom(grid, size).reshape(rows, 3), atol=1e-12)


def test_resize_table_as_transunet_resizes() -> None:
    """TransUNet drops the class row and zooms with scipy, order 1: `corners: true`."""
    zoom = pytest.importorskip("scipy.ndimage").zoom
    table = torch.randn(1, 17, 3, dtype=torch.float64)
    (ours,) = through("resize_table", table, (1, 49, 3), corners=True)  # type: ignore[misc]
    grid = zoom(table[0, 1:].reshape(4, 4, 3).numpy(), (7 / 4, 7 / 4, 1), order=1)
    np.testing.assert_allclose(ours.numpy().reshape(7, 7, 3), grid, atol=1e-12)


@pytest.mark.parametrize(
    ("official", "ours", "options", "rows"),
    [
        ((1, 17, 3), (16, 3), {}, slice(1, 17)),  # the class row is dropped
        ((1, 17, 3), (1, 17, 3), {}, slice(0, 17)),
        ((16, 3), (1, 16, 3), {}, slice(0, 16)),
        ((18, 3), (18, 3), {"extra": 2}, slice(0, 18)),  # class and distillation
        ((18, 3), (16, 3), {"extra": 2}, slice(2, 18)),
    ],
)
def test_resize_table_copies_an_equal_grid(
    official: tuple[int, ...], ours: tuple[int, ...], options: dict[str, Any], rows: slice
) -> None:
    table = torch.randn(official)
    (made,) = through("resize_table", table, ours, **options)  # type: ignore[misc]
    assert torch.equal(made.reshape(-1, 3), table.reshape(-1, 3)[rows])


def test_resize_table_keeps_the_dtype() -> None:
    (made,) = through("resize_table", torch.randn(16, 3).half(), (49, 3))  # type: ignore[misc]
    assert made.dtype == torch.float16


# ---------------------------------------------------------------- random rules

NAMES = st.text("abcxyz", min_size=1, max_size=4)
SIZES = st.integers(1, 4)


@st.composite
def rule_and_tensors(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """A rule over numbered keys, official tensors for it, and a state as the rule makes it, built without the rule."""
    parts, copies, rank = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    ours = draw(st.lists(NAMES, min_size=parts, max_size=parts, unique=True))
    stem, start, turned = draw(NAMES), draw(st.integers(0, 2)), draw(st.booleans())
    number = "-{i}" if turned else "{i}"
    targets = [f"net.{number}.{name}.*" for name in ours]
    rule: dict[str, Any] = {"from": f"{stem}.{{i+{start}}}.*" if start else f"{stem}.{{i}}.*"}
    rule |= {"to": targets, "transform": "split"} if parts > 1 else {"to": targets[0]}
    official: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for copy in range(copies):
        pieces = torch.randn(parts, *draw(st.tuples(*[SIZES] * rank)))
        official[f"{stem}.{copy + start}.weight"] = torch.cat(list(pieces))
        place = copies - 1 - copy if turned else copy
        state |= {f"net.{place}.{name}.weight": piece for name, piece in zip(ours, pieces, strict=True)}
    return rule, official, state


@given(rule_and_tensors())
def test_random_rules_there_and_back(drawn: tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]) -> None:
    rule, official, state = drawn
    ours, plan = convert(official, [rule], {k: torch.empty_like(v) for k, v in state.items()})
    assert plan.complete, report(plan)
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[k], state[k]) for k in state)
    back = export(ours, [rule], {k: tuple(v.shape) for k, v in official.items()})
    assert back.keys() == official.keys()
    assert all(torch.equal(back[k], official[k]) for k in official)


@given(st.text("ab{}*+:=,.-1 ", max_size=12), st.text("ab{}*+-.1 ", max_size=12))
def test_random_text_is_a_rule_or_a_mistake(pattern: str, target: str) -> None:
    with contextlib.suppress(BlueprintError):
        (rule,) = compile_rules([{"from": pattern, "to": target}])
        assert isinstance(rule, Rule)
        match([rule], {"a.1": (1,), "ab.b.1": (1,)}, {"a.1": (1,)})


# ---------------------------------------------------------------- export


def test_export_refuses_what_would_get_lost() -> None:
    rules = [{"from": "a", "to": "x"}]
    with pytest.raises(BlueprintError, match="no complete set of official names") as caught:
        export({"x": torch.ones(1), "y": torch.ones(1)}, rules, {"a": (1,)})
    assert caught.value.diagnostics[0].code == "BP705"
    assert "missing, no key for: y" in caught.value.diagnostics[0].notes


def test_export_refuses_what_has_no_way_back() -> None:
    rules = [{"from": "pos", "to": "table", "transform": "resize_table"}]
    with pytest.raises(BlueprintError, match=r"cannot be undone: pos \(resize_table\)"):
        export({"table": torch.ones(9, 2)}, rules, {"pos": (16, 2)})


def test_export_leaves_dropped_keys_out() -> None:
    rules = [{"from": "a", "to": "x"}, {"from": "twin.a", "transform": "drop"}]
    assert list(export({"x": torch.ones(1)}, rules, {"a": (1,), "twin.a": (1,)})) == ["a"]


# ---------------------------------------------------------------- files


def refusal(path: Path | str) -> Diagnostic:
    with pytest.raises(BlueprintError) as caught:
        load_file(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "BP702"
    assert f"cannot read weights from `{path}`" in diagnostic.message
    assert diagnostic.help, "every refusal says what to do"
    return diagnostic


def test_save_and_load(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    tensors = {
        "whole": whole,
        "tied": whole,
        "part": whole[1:3],
        "turned": whole.T,
        "parameter": nn.Parameter(torch.ones(2)),
        "count": torch.tensor(3),
        "none": torch.empty(0, 2),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"blueprint": "vit"})
    back = load_file(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], tensors[k]) and back[k].dtype == tensors[k].dtype for k in tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"], "no temporary file is left"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(BlueprintError, match=r"BP704.*disk full"):
        save_file({"a": torch.ones(2)}, path)
    assert torch.equal(load_file(path)["a"], torch.zeros(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_save_says_why_not(tmp_path: Path) -> None:
    with pytest.raises(BlueprintError, match=r"BP704.*written as `.safetensors`"):
        save_file({"a": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(BlueprintError, match=r"BP704.*cannot write weights"):
        save_file({"a": torch.ones(1)}, tmp_path / "nowhere" / "a.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("nest", [None, "state_dict", "model", "model_state_dict", "network_weights"])
def test_load_checkpoints(tmp_path: Path, suffix: str, nest: str | None) -> None:
    state = {f"module.{k}": v for k, v in nn.Linear(2, 3).state_dict().items()}
    torch.save(state if nest is None else {nest: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / f"a{suffix}")
    assert {k: tuple(v.shape) for k, v in load_file(tmp_path / f"a{suffix}").items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


def test_a_prefix_goes_only_when_it_is_common(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert set(load_file(tmp_path / "a.pth")) == {"module.a", "b"}


def test_load_npz(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"Transformer/kernel": np.arange(6.0).reshape(2, 3), "scale": np.float32(2)}
    np.savez(tmp_path / "a.npz", **arrays)
    loaded = load_file(tmp_path / "a.npz")
    assert loaded.keys() == arrays.keys()
    assert all(np.array_equal(loaded[k].numpy(), arrays[k]) for k in arrays)


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle2", "pickle4"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    content = {"weight": torch.ones(1), "run": Evil(f"touch {mark}")}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content["run"], protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    diagnostic = refusal(path)
    assert (
        "refused: it is a pickle with more than tensors, and reading one of those can run any code"
        in diagnostic.message
    )
    assert diagnostic.notes[0] == (
        "it wants opcodes that weights do not need" if form == "pickle4" else "it wants `posix.system`"
    )
    assert "nothing was run" in diagnostic.help
    assert any("`composer weights convert`" in line for line in diagnostic.help)
    assert not mark.exists()


def test_the_command_would_have_run(tmp_path: Path) -> None:
    """The test above tests something: an ordinary unpickler runs it."""
    pickle.loads(pickle.dumps(Evil(f"touch {tmp_path / 'mark'}")))
    assert (tmp_path / "mark").exists()


def test_a_whole_network_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    assert refusal(tmp_path / "a.pth").notes == ("it wants `torch.nn.modules.linear.Linear`",)


def test_objects_in_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([Evil(f"touch {tmp_path / 'mark'}")], dtype=object))
    assert refusal(tmp_path / "a.npz").notes == ("it wants Python objects in an array",)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz"])
@pytest.mark.parametrize("content", [b"\0" * 64, b"<html>404</html>", bytes(range(256)) * 4, b"\x80", b"PK\x03\x04abc"])
def test_garbage(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert "it is damaged or not what its name says (" in refusal(path).message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, a=np.ones(1000))
    elif suffix == ".pth":
        torch.save({"a": torch.ones(1000)}, path)
    else:
        save_file({"a": torch.ones(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    diagnostic = refusal(path)
    assert "it is damaged or not what its name says (" in diagnostic.message
    assert diagnostic.help == ("download or save it again",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds a `list`, not tensors with names"),
        (torch.ones(2), "it holds a `Tensor`, not tensors with names"),
        ({}, "it holds no tensor"),
        ({"a": torch.ones(1), "epoch": 3}, "these are no tensors with names: epoch (int)"),
        ({"state_dict": {3: torch.ones(1)}}, "these are no tensors with names: 3 (Tensor)"),
    ],
)
def test_not_weights(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert message in refusal(tmp_path / "a.pth").message


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    (tmp_path / "notes.txt").write_text("x")
    assert refusal(tmp_path / "wieghts.pth").help == (f"did you mean `{tmp_path / 'weights.pth'}`?",)
    assert "it is empty" in refusal(tmp_path / "weights.pth").message
    assert "it is a directory" in refusal(tmp_path).message
    assert "files ending in `.txt` are unknown" in refusal(tmp_path / "notes.txt").message
    assert "there is no such file" in refusal(tmp_path / "nowhere" / "a.pth").message


# ---------------------------------------------------------------- networks


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))


def test_load_into() -> None:
    network, other = small(), small()
    assert load_into(network, other.state_dict()) == Leftover()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    without = {k: v for k, v in other.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert load_into(network, without) == Leftover(), "files of old and of JAX have no counters"


@pytest.mark.parametrize("strict", [True, False])
def test_load_into_is_all_or_nothing(strict: bool) -> None:
    network = small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    tensors = {k: v + 1 for k, v in before.items()}
    tensors["2.wieght"] = tensors.pop("2.weight")
    tensors["0.weight"] = torch.zeros(2, 3, 3, 3)
    with pytest.raises(BlueprintError) as caught:
        load_into(network, tensors, strict=strict, name="a.pth")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "BP703"
    assert (
        "`a.pth` does not fit this network of 9 tensors: 1 missing, 1 unexpected, 1 of another shape"
        in diagnostic.message
    )
    assert diagnostic.notes == (
        "missing: `2.weight`",
        "unexpected: `2.wieght`; did you mean `2.weight`?",
        "another shape: `0.weight` (2, 3, 3, 3), the network has (2, 1, 3, 3)",
    )
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_load_into_leniently() -> None:
    network = small()
    assert load_into(network, {"0.bias": torch.ones(2), "x": torch.ones(1)}, strict=False).unexpected == ("x",)
    assert torch.equal(network.state_dict()["0.bias"], torch.ones(2))
    with pytest.raises(BlueprintError, match="BP703"):
        load_into(network, {"x": torch.ones(1)}, strict=False)


def test_load_into_bounds_its_lists() -> None:
    tensors = {f"official.{i}": torch.ones(1) for i in range(1000)}
    with pytest.raises(BlueprintError) as caught:
        load_into(small(), tensors)
    assert "unexpected: … (994 more)" in caught.value.diagnostics[0].notes
    assert len(str(caught.value).splitlines()) < 20
