"""Blocks around blocks: the residual branches that stages repeat."""

from typing import Any, Literal

from composer import Block, Number, Positive, Rate, Scope, Slot, Value, slot
from composer_blocks.activations import Dropout
from composer_blocks.convolution import Linear
from composer_blocks.parts import Add, DropPath, LayerDrop, Spread


class MLP(Block):
    """Linear maps with an activation between: C -> hidden -> C. `middle` stands after the first one, on the grid
    (a depthwise convolution makes it SegFormer's Mix-FFN). Dropout follows every map but keeps the address free;
    `inner_dropout` is that of all but the last map, where it differs."""

    name = "mlp"
    ratio: Number | None = None
    hidden: Positive | None = None
    layers: Positive = 2
    out: Positive | None = None
    bias: bool = True
    dropout: Rate = 0
    inner_dropout: Rate | None = None
    middle: Slot = slot(doc="stands after the first linear map")
    act: Slot = slot("gelu", at=("act",))

    def compose(self, net: Scope, x: Value) -> Value:
        channels = x.type.channels
        hidden = self.hidden or round(channels * (self.ratio or 4))
        for k in range(1, self.layers):
            x = net.add(f"fc{k}", Linear(out=hidden, bias=self.bias), x)
            x = net.slot("middle", x=x) if k == 1 else x
            x = self._dropped(net, k, net.slot("act", x=x))
        x = net.add(f"fc{self.layers}", Linear(out=self.out or channels, bias=self.bias), x)
        return self._dropped(net, self.layers, x)

    def _dropped(self, net: Scope, k: int, x: Value) -> Value:
        inner = self.inner_dropout is not None and k < self.layers
        rate = self.inner_dropout if inner else self.dropout
        return net.add(f"drop{k}", Dropout(rate=rate), x) if rate else x


class TransformerBlock(Block):
    """Attention and a feed-forward network, each in a residual branch (Vaswani et al., 2017; pre-norm as in Dosovitskiy
    et al., 2021). Any attention fits the slot, any norm, any mlp.

    order: pre    x + attention(norm1(x)), x + mlp(norm2(x))       post    norm1(x + attention(x)), norm2(x + mlp(x))
    With `query` and `context`, norm1 is applied to both and the residual stays x. `cross_attention` stands between the
    two, with norm_cross. `drop_path` drops branches of whole samples, `dropout` numbers of a branch, `layer_drop` the
    whole block, norms and all, for the whole batch (Fan et al., 2020, arXiv:1909.11556). The tokens of a
    `memory` enter attention as they are; `tokens` says what then becomes of them: what attention made of them
    (`replace`), or both branches of the block, with the weights of the pixels (`residual`).
    """

    name = "block.transformer"
    order: Literal["pre", "post"] = "pre"
    drop_path: Rate = 0
    dropout: Rate = 0
    layer_drop: Rate = 0
    tokens: Literal["replace", "residual"] = "replace"
    norm: Slot = slot("layer", at=("norm1", "norm2", "norm_cross"))
    attention: Slot = slot(offers=("x", "context", "tokens"), required=True)
    cross_attention: Slot = slot()
    mlp: Slot = slot()
    memory: Slot = slot(offers=("x", "tokens"))

    def compose(self, net: Scope, x: Value, query: Value | None = None, context: Value | None = None) -> Value:
        start, pre = x, self.order == "pre"
        source = query if query is not None else x
        offers = {"x": net.slot("norm1", x=source) if pre else source}
        if context is not None:
            offers["context"] = net.slot("norm1", x=context) if pre else context
        y, seen = self._attended(net, x, offers)
        x = self._residual(net, "attention", x, y, "norm1")
        if net.has("cross_attention"):
            y = net.slot("cross_attention", x=net.slot("norm_cross", x=x) if pre else x)
            x = self._residual(net, "cross_attention", x, y, "norm_cross")
        x = self._fed(net, "mlp", x)
        if seen is not None:
            net.slot("memory", x=x, tokens=self._fed(net, "tokens_mlp", seen) if self.tokens == "residual" else seen)
        return net.add("layer_drop", LayerDrop(rate=self.layer_drop), start, x) if self.layer_drop else x

    def _attended(self, net: Scope, x: Value, offers: dict[str, Value]) -> tuple[Value, Value | None]:
        """What attention makes of the pixels, and of the memory's tokens."""
        if not net.has("memory"):
            return net.slot("attention", **offers), None
        tokens = net.slot("memory", x=x, tokens=None)
        y: Any = net.slot("attention", **offers, tokens=tokens)
        text = "a `memory` needs an attention that takes tokens beside the pixels, such as `attention.window`"
        if not net.need(isinstance(y, dict), text, "BP304"):
            return y, None
        seen: Value = y["tokens"]
        if self.tokens == "residual":
            start = tokens if tokens.type == seen.type else net.add("tokens_spread", Spread(), seen, tokens)
            seen = self._residual(net, "tokens_attention", start, seen, "norm1")
        return y["x"], seen

    def _fed(self, net: Scope, part: str, x: Value) -> Value:
        if not net.has("mlp"):
            return x
        y = net.slot("mlp", x=net.slot("norm2", x=x) if self.order == "pre" else x)
        return self._residual(net, part, x, y, "norm2")

    def _residual(self, net: Scope, part: str, x: Value, y: Value, norm: str) -> Value:
        text = f"`{part}` turns {x.type} into {y.type}; the residual needs the same type"
        if not net.need(y.type.fits(x.type), text, "BP304"):
            return x
        if self.dropout:
            y = net.add(f"{part}_dropout", Dropout(rate=self.dropout), y)
        if self.drop_path:
            y = net.add(f"{part}_drop_path", DropPath(rate=self.drop_path), y)
        total = net.add(f"{part}_sum", Add(), x, y)
        return net.slot(norm, x=total) if self.order == "post" else total


class ResidualBlock(Block):
    """act(body(x) + shortcut(x)) (He et al., 2016, arXiv:1512.03385). The shortcut is used only where the body changes
    the type, so one description serves the first unit of a stage and the others. `weigh` stands behind the body and
    its `drop_path`, such as squeeze and excitation."""

    name = "block.residual"
    drop_path: Rate = 0
    body: Slot = slot(required=True)
    weigh: Slot = slot(doc="stands before the sum; keeps the type")
    shortcut: Slot = slot()
    act: Slot = slot()

    def compose(self, net: Scope, x: Value) -> Value:
        y = net.slot("body", x=x)
        short = x
        if not y.type.fits(x.type):
            text = f"the body turns {x.type} into {y.type}: give a `shortcut`"
            if not net.need(net.has("shortcut"), text, "BP304"):
                return y
            short = net.slot("shortcut", x=x)
            text = f"shortcut {short.type} and body {y.type} differ"
            alike = short.type.with_(grid=()) == y.type.with_(grid=()) and short.type.rank == y.type.rank
            if not net.need(alike, text, "BP304"):
                return y
            for a, b in zip(short.type.grid, y.type.grid, strict=True):
                net.equal(a, b, text, "BP304")
        if self.drop_path:
            y = net.add("drop_path", DropPath(rate=self.drop_path), y)
        return net.slot("act", x=net.add("sum", Add(), net.slot("weigh", x=y), short))
