"""Blocks for the tests of the core: small, with every kind of port, option, slot and output that the language knows.

None of them comes from a plugin; the core is tested with `registry()` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import composer
from composer import Block, BlueprintError, Diagnostic, Number, PerAxis, Positive, Registry, Slot, Type, Value, slot
from composer.inference import Program


class Conv(Block):
    name = "conv"
    out: Positive | None = None
    ratio: Number | None = None
    stride: PerAxis = 1
    norm: Slot = slot()
    act: Slot = slot()

    def compose(self, net: Any, x: Value) -> Value:
        out = self.out or round(x.type.channels * (self.ratio or 1))
        x = net.add("", Kernel(out=out, stride=self.stride), x)
        return net.slot("act", x=net.slot("norm", x=x))


class Kernel(Block):
    name = "part.kernel"
    out: Positive
    stride: PerAxis

    def infer(self, rule: Any, x: Type) -> Type:
        steps = rule.per_axis(self.stride, "stride")
        for n, s in zip(x.grid, steps, strict=True):
            rule.multiple(n, s, f"stride {s}")
        return composer.map_(self.out, tuple(n // s for n, s in zip(x.grid, steps, strict=True)))

    def build(self, x: Type) -> Any:
        import torch

        return torch.nn.Conv2d(x.channels, self.out, 3, self.stride, 1)


class Linear(Block):
    name = "linear"
    shape = "batch ... dim -> batch ... {out}"
    out: Positive

    def build(self, dim: int) -> Any:
        import torch

        return torch.nn.Linear(dim, self.out)


class Plain(Block):
    layout: ClassVar[str] = "any"
    weightless: ClassVar[bool] = True

    def infer(self, rule: Any, x: Type) -> Type:
        return x

    def build(self) -> Any:
        return _same


def _same(x: Any) -> Any:
    return x


class ReLU(Plain):
    name = "act.relu"


class Elu(Plain):
    name = "act.elu"


class Norm(Plain):
    name = "norm.layer"
    layout: ClassVar[str] = "features"
    eps: Number = 1e-5


class Upsample(Plain):
    name = "up"
    layout: ClassVar[str] = "map"
    scale: PerAxis = 2

    def infer(self, rule: Any, x: Type) -> Type:
        return x.with_(grid=tuple(n * s for n, s in zip(x.grid, rule.per_axis(self.scale), strict=True)))


class Add(Plain):
    name = "fuse.add"
    lists: ClassVar[bool] = True

    def infer(self, rule: Any, x: Any, skip: Type | None = None) -> Type:
        items = [*(x if isinstance(x, list) else [x]), *([skip] if skip else [])]
        first = items[0]
        for other in items[1:]:
            if not rule.need(first.channels == other.channels, self._said(first, other), "BP301"):
                return first
            for a, b in zip(first.grid, other.grid, strict=True):
                if not rule.equal(a, b, self._said(first, other)):
                    return first
        return first

    def _said(self, x: Type, y: Type) -> str:
        return f"`fuse.add` cannot join these two maps: channels {x.channels} and {y.channels}"


class Concat(Plain):
    name = "fuse.concat"
    lists: ClassVar[bool] = True
    order: Literal["x skip", "skip x"] = "x skip"

    def infer(self, rule: Any, x: Any, skip: Type | None = None) -> Type:
        items = [*(x if isinstance(x, list) else [x]), *([skip] if skip else [])]
        return items[0].with_(channels=sum(t.channels for t in items))


class Stage(Block):
    name = "decoder.stage"
    upsample: Slot = slot(offers=("x", "skip"))
    fuse: Slot = slot(offers=("x", "skip", "deep"))
    block: Slot = slot(role="block", offers=("x", "up", "skip", "deep"))

    def compose(self, net: Any, x: Value, skip: Value | None = None, **more: Any) -> Value:
        given = {**({"skip": skip} if skip is not None else {}), **more}
        up = y = net.slot("upsample", x=x, **given)
        if skip is not None and net.has("fuse"):
            y = net.slot("fuse", x=up, deep=x, **given)
        return net.slot("block", x=y, up=up, deep=x, **given)


class Attention(Block):
    name = "attention"
    heads: Positive = 2
    shift: Any = 0

    def compose(self, net: Any, x: Value, context: Value | None = None, position: Value | None = None) -> Value:
        c = x.type.channels
        net.need(c % self.heads == 0, f"{c} channels do not split into {self.heads} heads", "BP401")
        net.add("query", Linear(out=c), x)
        net.add("key", Linear(out=c), context if context is not None else x)
        return net.add("", Plus(), x, position=position)


class Plus(Plain):
    name = "part.plus"

    def infer(self, rule: Any, x: Type, position: Type | None = None) -> Type:
        return x


class Transformer(Block):
    name = "block.transformer"
    norm: Slot = slot("layer", at=("norm1", "norm2"))
    attention: Slot = slot(offers=("x", "context"), required=True)
    mlp: Slot = slot()
    memory: Slot = slot()

    def compose(self, net: Any, x: Value, query: Value | None = None, context: Value | None = None) -> Value:
        offers = {"x": net.slot("norm1", x=query if query is not None else x)}
        if context is not None:
            offers["context"] = context
        y = net.slot("attention", **offers)
        net.need(y.type.fits(x.type), f"`attention` turns {x.type} into {y.type}", "BP304")
        if net.has("memory"):
            net.slot("memory", x=y)
        return net.slot("mlp", x=net.slot("norm2", x=y))


class Memory(Block):
    name = "memory"
    count: Positive = 3

    def compose(self, net: Any, x: Value) -> Value:
        tokens = net.state("tokens", (self.count, x.type.channels))
        net.keep("tokens", net.add("mix", Linear(out=x.type.channels), tokens))
        return x


class Tokens(Block):
    """A table of learned tokens: no input."""

    name = "tokens.learned"
    gives: ClassVar[str] = "tokens"
    count: Positive = 4
    dim: Positive = 8

    def infer(self, rule: Any) -> Type:
        return composer.queries(self.count, self.dim)

    def build(self) -> Any:
        import torch

        return torch.nn.Parameter(torch.zeros(self.count, self.dim))


class Prepend(Plain):
    name = "tokens.prepend"
    layout: ClassVar[str] = "tokens"

    def infer(self, rule: Any, x: Type) -> Type:
        return x.with_(kind="tokens", extra=x.extra + 1)


class Table(Plain):
    """Needs the size the network is built for."""

    name = "position.table"
    layout: ClassVar[str] = "tokens"

    def infer(self, rule: Any, x: Type) -> Type:
        rows = rule.built(x.length)
        rule.equal(x.length, rows, f"{x.length} tokens must be the {rows} rows of the table", "BP403")
        return x


class Split(Plain):
    """Two outputs by name."""

    name = "split"
    layout: ClassVar[str] = "map"
    many: ClassVar[bool] = True

    def infer(self, rule: Any, x: Type) -> dict[str, Type]:
        half = x.with_(channels=x.channels // 2)
        return {"left": half, "right": half}


class Levels(Plain):
    """Several outputs by number, from several inputs, with a list of masks."""

    name = "levels"
    layout: ClassVar[str] = "map"
    many: ClassVar[bool] = True
    lists: ClassVar[tuple[str, ...]] = ("x", "mask")

    def infer(self, rule: Any, x: Any, mask: Any = None) -> list[Type]:
        return list(x) if isinstance(x, list) else [x]


class Residual(Block):
    name = "block.residual"
    body: Slot = slot(required=True)
    shortcut: Slot = slot()

    def compose(self, net: Any, x: Value) -> Value:
        y = net.slot("body", x=x)
        if y.type.fits(x.type):
            return y
        net.need(net.has("shortcut"), f"the body turns {x.type} into {y.type}: give a `shortcut`", "BP304")
        net.slot("shortcut", x=x)
        return y


class Faulty(Plain):
    """A rule that breaks."""

    name = "faulty"

    def infer(self, rule: Any, x: Type) -> Type:
        return x.with_(channels=x.channels // 0)


BLOCKS = (
    Conv, Linear, ReLU, Elu, Norm, Upsample, Add, Concat, Stage, Attention, Transformer, Memory, Tokens, Prepend, Table,
    Split, Levels, Residual, Faulty,
)  # fmt: skip


def registry(**blueprints: Path) -> Registry:
    return Registry({b.name: b for b in BLOCKS}, blueprints=blueprints)


HEAD = "blueprint: 1\nname: toy\n"
IMAGE = "inputs: {image: {type: B 4 H W, size: [32, 32]}}\n"


def load(folder: Path, text: str, library: Mapping[str, str] | None = None, **overrides: Any) -> composer.Blueprint:
    """A blueprint from its text, less what every one has; `library` holds others by name."""
    paths = {}
    for name, body in (library or {}).items():
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(f"blueprint: 1\nname: {name}\n" + body)
    path = folder / "toy.yaml"
    path.write_text(text if text.startswith("blueprint") else HEAD + text)
    return composer.load(path, registry(**paths), **overrides)


def graph(folder: Path, nodes: str, outputs: str = "{y: y}", head: str = "", **more: Any) -> composer.Blueprint:
    """A blueprint with one image (4 channels, built for 32 × 32) and these nodes."""
    return load(folder, head + IMAGE + "graph:\n" + _indented(nodes) + f"outputs: {outputs}\n", **more)


def _indented(nodes: str) -> str:
    lines = nodes.strip("\n").splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "".join(f"  {line[margin:]}\n" for line in lines)


def steps(program: Program) -> dict[str, str]:
    """The leaves of a program with the types they give, without the compiler's own."""
    values = {v.id: v.type for v in program.values}
    return {s.address: str(values[s.outputs[0]]) for s in program.steps if not s.block.name.startswith("layout.")}


def mistakes(work: Any) -> list[Diagnostic]:
    """The mistakes that a load, a link or an inference reports; there must be some."""
    try:
        work()
    except BlueprintError as fault:
        return list(fault.diagnostics)
    raise AssertionError("nothing was refused")


def said(found: list[Diagnostic]) -> list[str]:
    """`BP104 7:12 message`, one for each."""
    return [
        f"{d.code} {d.span.line}:{d.span.column} {d.message}" if d.span else f"{d.code} - {d.message}" for d in found
    ]
