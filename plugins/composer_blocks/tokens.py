"""Tokens beside those of the grid."""

from __future__ import annotations

from typing import Any, ClassVar

from composer import Block, Natural, Number, Positive, Rule, Scope, Type, Value, queries, vector


class Prepend(Block):
    """Learned tokens in front, such as a class token: (B, N, C) -> (B, count + N, C)."""

    name = "tokens.prepend"
    layout: ClassVar[str] = "tokens"
    count: Positive = 1
    std: Number = 0.02

    def infer(self, rule: Rule, x: Type) -> Type:
        if x.kind == "queries":
            return queries(x.count + self.count, x.channels)
        rule.need(x.kind != "scales", f"tokens stand in front of one grid, not of several scales {x}", "BP302")
        return x.with_(kind="tokens", extra=x.extra + self.count)

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.tokens import Prepend as Module

        return Module(self.count, x.channels, self.std)


class Drop(Block):
    """Leaves out tokens in front: (B, count + N, C) -> (B, N, C)."""

    name = "tokens.drop"
    layout: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    count: Positive = 1

    def infer(self, rule: Rule, x: Type) -> Type:
        rule.need(x.extra >= self.count, f"{x} has no {self.count} extra tokens to drop", "BP303")
        left = max(0, x.extra - self.count)
        return x.with_(kind="tokens" if left else "map", extra=left) if x.kind in ("tokens", "map") else x

    def build(self) -> Any:
        from composer_blocks.modules.tokens import Drop as Module

        return Module(self.count)


class Token(Block):
    """One token as a vector: (B, N, C) -> (B, C)."""

    name = "part.token"
    layout: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    index: Natural

    def infer(self, rule: Rule, x: Type) -> Type:
        rule.at_least(x.length, self.index + 1, f"token {self.index}")
        return vector(x.channels)

    def build(self) -> Any:
        from composer_blocks.modules.tokens import Take as Module

        return Module(self.index)


class Take(Block):
    """A part of a sequence: token `index` as a vector, (B, N, C) -> (B, C); or of a sequence of several scales the map
    that `scale` counts, (B, N, C) -> (B, C, *grid)."""

    name = "tokens.take"
    index: Natural = 0
    scale: Natural | None = None

    def compose(self, net: Scope, x: Value) -> Value:
        if self.scale is None:
            return net.add("", Token(index=self.index), x)
        maps, text = net.maps(x), f"no scale {self.scale} in {x.type}"
        fits = net.need(x.type.kind in ("scales", "map") and self.scale < len(maps), text, "BP302")
        return maps[self.scale] if fits else x


class Learned(Block):
    """Learned tokens by themselves, such as object queries: (B, count, dim), `dim` as wide as x unless given. Of x, of
    any shape (B, …), only the batch is read. `zeros` are tokens that are not learned (DETR's first target)."""

    name = "tokens.learned"
    layout: ClassVar[str] = "any"
    gives: ClassVar[str] = "tokens"
    count: Positive
    dim: Positive | None = None
    std: Number = 1
    zeros: bool = False

    def infer(self, rule: Rule, x: Type) -> Type:
        return queries(self.count, self.dim or x.channels)

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.tokens import Learned as Module

        return Module(self.count, self.dim or x.channels, self.std, self.zeros)


BLOCKS = (Prepend, Drop, Take, Learned)
