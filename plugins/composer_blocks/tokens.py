"""Tokens beside those of the grid."""

from fractions import Fraction
from typing import Any, ClassVar

from composer import Block, Natural, Number, Positive, Rate, Rule, Scope, Type, Value, map_, queries, vector


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


class Best(Block):
    """The tokens with the highest score: (B, N, C), (B, N, K) -> (B, best, C)."""

    name = "part.best"
    layout: ClassVar[str] = "tokens"
    gives: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    best: Positive

    def infer(self, rule: Rule, x: Type, score: Type) -> Type:
        if rule.need(score.kind != "vector", f"each token needs a score, and {score} is one vector", "BP301"):
            rule.equal(x.length, score.length, f"each token needs a score: {x} has not as many as {score}")
            rule.at_least(x.length, self.best, f"the {self.best} best tokens")
        return queries(self.best, x.channels)

    def build(self) -> Any:
        from composer_blocks.modules.tokens import Best as Module

        return Module(self.best)


class ChannelPart(Block):
    """One of several equal parts of the channels: (B, *grid, C) -> (B, *grid, C / parts)."""

    name = "part.channels"
    layout: ClassVar[str] = "features"
    weightless: ClassVar[bool] = True
    parts: Positive
    index: Natural

    def infer(self, rule: Rule, x: Type) -> Type:
        rule.need(x.channels % self.parts == 0, f"{x.channels} channels do not split into {self.parts} parts", "BP401")
        text = f"of {self.parts} parts the last is {self.parts - 1}, not {self.index}"
        rule.need(self.index < self.parts, text, "BP401")
        return x.with_(channels=x.channels // self.parts)

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.tokens import ChannelPart as Module

        width = x.channels // self.parts
        return Module(self.index * width, width)


class Take(Block):
    """A part of a sequence (B, N, C), one of four kinds:

    index     the token that it counts, as a vector: (B, C)
    scale     of a sequence of several scales, the map that it counts: (B, C, *grid)
    best      as many tokens as it says, those with the highest `score` (B, N, K), best first; the first channel of the
              score counts: (B, best, C)
    parts     so many equal parts of the channels, of which `index` counts one: (B, N, C / parts)
    """

    name = "tokens.take"
    index: Natural = 0
    scale: Natural | None = None
    best: Positive | None = None
    parts: Positive | None = None

    def compose(self, net: Scope, x: Value, score: Value | None = None) -> Value:
        chosen = sum(v is not None for v in (self.scale, self.best, self.parts))
        net.need(chosen < 2, "takes one of `scale`, `best` and `parts`", "BP202")
        text = "`best` needs a `score` for each token, and nothing else reads one"
        if not net.need((self.best is None) == (score is None), text, "BP203"):
            return x
        if self.best is not None:
            return net.add("", Best(best=self.best), x, score)
        if self.parts is not None:
            return net.add("", ChannelPart(parts=self.parts, index=self.index), x)
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


class Mask(Block):
    """Hides a share of the tokens of a grid (He et al., 2022, arXiv:2111.06377): of x (B, extra + N, C) it gives

    x       those that are left, (B, extra + ⌊N·(1 - ratio)⌋, C): the extra ones, then the others by rising noise
    order   for each token its place in x, or from the end of x on where it is hidden: (B, extra + N, 1)
    mask    1 where a token is hidden, else 0: (B, 1, *grid)
    `noise` (B, N) decides which: the largest are hidden. Without it, it is drawn for every sample in training; in
    evaluation it is the same spread over the grid for all samples. `tokens.unmask` puts what is left back.
    """

    name = "tokens.mask"
    layout: ClassVar[dict[str, str]] = {"x": "tokens", "noise": "any"}
    gives: ClassVar[str] = "tokens"
    many: ClassVar[bool] = True
    weightless: ClassVar[bool] = True
    ratio: Rate = 0.75

    def infer(self, rule: Rule, x: Type, noise: Type | None = None) -> dict[str, Type]:
        rule.need(0 < self.ratio < 1, f"hides a share between 0 and 1 of the tokens, not {self.ratio}", "BP202")
        if not rule.need(x.kind in ("map", "tokens"), f"hides tokens of one grid, and {x} stand on none", "BP302"):
            return {"x": x, "order": x, "mask": x}
        cells, shown = x.length - x.extra, 1 - Fraction(str(self.ratio))
        kept = cells * shown.numerator // shown.denominator
        rule.at_least(kept, 1, f"token that is left of those of which {self.ratio:g} is hidden")
        if noise is not None and rule.need(noise.kind == "vector", f"noise is (B, N), not {noise}", "BP301"):
            rule.equal(cells, noise.channels, f"each of {cells} tokens needs its noise, not {noise.channels}")
        seen = queries(kept + x.extra, x.channels)
        return {"x": seen, "order": x.with_(channels=1), "mask": map_(1, x.grid)}

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.masking import Mask as Module

        shown = 1 - Fraction(str(self.ratio))
        return Module(shown.numerator, shown.denominator, x.extra)


class Unmask(Block):
    """Tokens back in their places, and where one was hidden a learned one, the same everywhere: x (B, n, C) and `order`
    (B, extra + N, 1) of `tokens.mask` -> (B, extra + N, C), on the grid that they stood on."""

    name = "tokens.unmask"
    layout: ClassVar[str] = "tokens"
    gives: ClassVar[str] = "tokens"
    std: Number = 0.02

    def infer(self, rule: Rule, x: Type, order: Type) -> Type:
        whole = order.kind in ("map", "tokens") and order.channels == 1
        rule.need(whole, f"`order` is that of `tokens.mask`, one number for each token, not {order}", "BP301")
        rule.at_least(order.length - x.length, 0, "place for every token")
        return order.with_(channels=x.channels)

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.masking import Unmask as Module

        return Module(x.channels, self.std)
