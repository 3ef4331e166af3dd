"""The shape notation: what it reads, what it refuses when a class is defined, and the types it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from toys import IMAGE, load, mistakes, said

from composer import Block, DeclarationError, Positive, map_, queries, vector
from composer.addresses import Pattern, is_prefix
from composer.dims import Dim
from composer.names import Closure, Names, evaluate, is_var
from composer.notation import NotationError, bind, parse, result

H, W = Dim.symbol("H"), Dim.symbol("W")


class Rule:
    """Collects what a rule says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def need(self, ok: bool, message: str, code: str = "") -> bool:
        self.said += [] if ok else [message]
        return ok

    def equal(self, left: Any, right: Any, message: str, code: str = "") -> bool:
        return self.need(left == right, message)


def typed(shape: str, options: Any = None, **ports: Any) -> Any:
    signature, rule = parse(shape), Rule()
    axes = bind(signature, rule, ports)
    return rule.said or result(signature, options, axes, ports)


class Options:
    out, stride, factor, count = 12, 2, (1, 3), 5


@pytest.mark.parametrize(
    ("shape", "given", "text"),
    [
        ("batch dim *grid -> batch {out} *grid", map_(4, (H, W)), "(B, 12, H, W)"),
        ("batch dim *grid -> batch dim *grid/{stride}", map_(4, (H, W)), "(B, 4, H/2, W/2)"),
        ("batch dim *grid -> batch dim *grid*{factor}", map_(4, (H, W)), "(B, 4, H, 3·W)"),
        ("batch *grid dim -> batch *grid dim*{stride}", map_(4, (H, W)), "(B, 8, H, W)"),
        ("batch tokens dim -> batch tokens dim/{stride}", map_(4, (H, W)), "(B, 2, H, W)"),
        ("batch tokens dim -> batch {count} dim", map_(4, (H, W)), "(B, 5, 4) queries"),
        ("batch ... dim -> batch ... {out}", queries(3, 4), "(B, 3, 12) queries"),
        ("batch dim *grid -> batch dim", map_(4, (H, W)), "(B, 4)"),
        ("batch dim -> batch {out}", vector(4), "(B, 12)"),
    ],
)
def test_shapes(shape: str, given: Any, text: str) -> None:
    assert str(typed(shape, Options, x=given)) == text


def test_a_name_stands_for_one_size_everywhere() -> None:
    shape = "x: batch n dim, context: batch m dim -> batch n dim"
    assert str(typed(shape, x=queries(3, 4), context=queries(7, 4))) == "(B, 3, 4) queries"
    assert typed(shape, x=queries(3, 4), context=queries(7, 5)) == ["`dim` is 4 and, at the port `context`, 5"]
    assert parse(shape).axes == {"n", "m", "dim"}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("batch dim", "has no `->`"),
        ("dim -> batch dim", "starts with `batch`"),
        ("batch a b c -> batch a", "at most one grid or sequence axis"),
        ("batch dim -> batch width", "uses `width`, which no port names"),
        ("batch d-m -> batch d", "is not an axis"),
    ],
)
def test_what_is_refused(shape: str, message: str) -> None:
    with pytest.raises(NotationError, match=message):
        parse(shape)


# ---- declarations ----------------------------------------------------------------------------------------------


def declare(**body: Any) -> type[Block]:
    def build(self: Any) -> None: ...

    annotations = body.pop("annotations", {})
    ready = {"name": "x", "build": build, "__annotations__": {"name": ClassVar[str], **annotations}, **body}
    return type("Declared", (Block,), {"__module__": __name__, "__qualname__": "Declared", **ready})


def test_mistakes_of_an_author_are_told_when_the_class_is_defined() -> None:
    def asks(self: Any, width: int) -> None: ...

    shape = "batch dim -> batch dim"
    assert declare(shape=shape, annotations={"shape": ClassVar[str]}).signature
    for body, message in [
        ({"shape": "batch dim -> batch {out}"}, "names `{out}`, which is not an option"),
        ({"shape": shape, "build": asks}, "`build` asks for `width`"),
        ({}, "needs a `shape`, an `infer` or a `compose`"),
        ({"shape": shape, "layout": "maps", "annotations": {"layout": ClassVar[str]}}, "no layout `maps`"),
        ({"shape": shape, "repeat": 1, "annotations": {"repeat": Positive}}, "`repeat` is a word of the language"),
    ]:
        with pytest.raises(DeclarationError, match=message.replace("{", r"\{").replace("}", r"\}")):
            declare(**{"annotations": {}, **body})


# ---- addresses and names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "address", "fits"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.b.b.c", False),
        ("a.**.c", "a.b.b.c", True),
        ("**", "a.b", True),
        ("a.*", "a", False),
        ("a.b*", "a.bcd", True),
        ("a.b", "aXb", False),
        ("a[0].b", "a0.b", False),
    ],
)
def test_globs(glob: str, address: str, fits: bool) -> None:
    assert Pattern(glob).matches(address) is fits


def test_prefixes_are_whole_words() -> None:
    assert is_prefix("a.b", "a.b.c")
    assert is_prefix("a", "a@x")
    assert not is_prefix("a.b", "a.bc")


def test_names_evaluate_nested_data() -> None:
    names = Names({"a": 2}).plus({"b": [1, 2]})
    assert evaluate({"x": ["$a", "${b[0] + a}", "text"], "y": None}, names) == {"x": [2, 3, "text"], "y": None}
    assert (is_var("$a"), is_var("${a}"), is_var("$original"), is_var(3)) == ("a", None, None, None)
    assert Closure("conv", names, None).names["a"] == 2
    assert len(names) == 2
    assert set(names) == {"a", "b"}


def test_a_fault_in_an_expression_points_into_it(tmp_path: Path) -> None:
    text = "params: {a: 1}\n" + IMAGE + 'graph: {y: {use: conv, out: "${a + b}"}}\noutputs: {y: y}\n'
    found = mistakes(lambda: load(tmp_path, text).infer())
    assert said(found) == ["BP205 5:36 `${a + b}`: unknown name `b`; there are: a"]
