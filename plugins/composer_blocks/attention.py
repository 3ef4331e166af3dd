"""Attention: any of these fills a slot called `attention`."""

from math import isqrt
from typing import Any, ClassVar, Literal

from composer import (
    Block,
    Number,
    PerAxis,
    PerAxisNatural,
    Positive,
    Rate,
    Rule,
    Scope,
    Size,
    Slot,
    Traits,
    Type,
    Value,
    ceil_div,
    slot,
)
from composer_blocks.activations import Dropout
from composer_blocks.convolution import Linear
from composer_blocks.parts import Add, OneHead, Turn


def check_heads(rule: Rule, channels: int, heads: int) -> None:
    """Channels must split into heads; the message names the nearest numbers that do."""
    if channels % heads:
        small = [h for h in range(1, min(isqrt(channels), 100_000) + 1) if channels % h == 0]
        fits = sorted({*small, *(channels // h for h in small)})
        near = [h for h in fits if h < heads][-1:] + [h for h in fits if h > heads][:1]
        text = f"{channels} channels do not split into {heads} heads; nearest: {' or '.join(map(str, near))}"
        rule.need(False, text, "BP401")


class Attend(Block):
    """softmax(q·kᵀ·scale)·v for heads side by side in the channels; q (B, N, C), k (B, M, C), v (B, M, D)."""

    name = "part.attend"
    layout: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    heads: Positive
    scale: Literal["head", "width", "none"] | Number = "head"
    softmax: Literal["keys", "queries"] = "keys"
    causal: bool = False
    dropout: Rate = 0

    def infer(self, rule: Rule, q: Type, k: Type, v: Type, mask: Type | None = None) -> Type:
        check_heads(rule, q.channels, self.heads)
        rule.need(q.channels == k.channels, f"queries {q} and keys {k} differ in channels", "BP301")
        rule.need(
            v.channels % self.heads == 0 or v.channels == q.channels,  # of those it is said above
            f"{v.channels} channels of values do not split into {self.heads} heads",
            "BP401",
        )
        rule.equal(k.length, v.length, f"keys {k} and values {v} differ in number")
        if self.causal:
            rule.need(self.softmax == "keys", "`causal` needs a softmax over keys", "BP202")
            rule.equal(q.length, k.length, f"`causal` needs as many queries {q} as keys {k}")
        if mask is not None:
            rule.equal(k.length, mask.length, f"keys {k} and mask {mask} differ in number")
            rule.need(mask.channels == 1, f"a mask of keys has one channel, not {mask.channels}", "BP301")
        return q.with_(channels=v.channels)

    def traits(self) -> Traits:
        """Each query by itself; `causal` asks where it stands, and a softmax over queries for the others."""
        alone = self.softmax == "keys" and not self.causal
        return Traits(attends=("q", "k"), local="cells" if alone else "", entire=("k", "v", "mask") if alone else ())

    def build(self) -> Any:
        from composer_blocks.modules.attention import Attend as Module

        return Module(self.heads, self.scale, self.softmax, self.dropout, self.causal)


class Relate(Block):
    """Weights that are not a softmax of products (Wang et al., 2018, arXiv:1711.07971): q (B, N, C), k (B, M, C),
    v (B, M, D) -> (B, N, D). Of a `sum` the channels are one number for each head; `perceptron` owns the map to it."""

    name = "part.relate"
    layout: ClassVar[str] = "tokens"
    heads: Positive
    scale: Literal["head", "width", "none"] | Number = "head"
    score: Literal["product", "sum", "perceptron"] = "product"
    normalize: Literal["softmax", "mean", "mean_of_queries"] = "softmax"
    dropout: Rate = 0

    def infer(self, rule: Rule, q: Type, k: Type, v: Type) -> Type:
        text = f"{v.channels} channels of values do not split into {self.heads} heads"
        rule.need(v.channels % self.heads == 0, text, "BP401")
        rule.equal(k.length, v.length, f"keys {k} and values {v} differ in number")
        return q.with_(channels=v.channels)

    def build(self, q: Type) -> Any:
        from composer_blocks.modules.scores import Relate as Module

        return Module(self.heads, q.channels // self.heads, self.scale, self.score, self.normalize, self.dropout)


class MultiheadAttention(Block):
    """Multi-head attention (Vaswani et al., 2017, arXiv:1706.03762), of x to itself or to `context`.

    `inner` (or `ratio` times the channels) is the width of queries, keys and values, `qkv_bias` their bias where it
    differs from `bias`; without `out` there is no projection at the end, and `out_bias` is its bias. `scale` divides
    the scores by the root of the width of a head, of all heads, or not, or is the factor itself; `softmax` runs over
    keys, or over queries. With `causal` a token sees itself and those before it; `mask` (B, 1, M) is true where a
    key may be seen. `out_dropout` follows the projection. `position` and `context_position` are added to what
    queries and keys are made of, never to values. `value` takes the values from another map than the keys. Slots:
    `reduce` makes the sequence of keys and values shorter before their projection (SegFormer), `pool` after it
    (non-local block), `query_pool` that of the queries, and what they find is interpolated back; `norm` stands at the
    end. `rotate` is offered one head of the queries and one of the keys, on their grids, and gives the angles by which
    all heads turn; extra tokens stay as they are.

    `score: sum` is relu(a·q + b·k) of two learned vectors a head, `perceptron` w·relu(q + k) + b, both without `scale`.
    With `normalize: mean` scores are divided by the number of keys instead of their softmax, or, as published code does
    by mistake, by that of the queries (`mean_of_queries`).
    """

    name = "attention.multihead"
    heads: Positive = 8
    inner: Positive | None = None
    ratio: Number | None = None
    bias: bool = True
    qkv_bias: bool | None = None
    out: bool = True
    out_bias: bool = True
    scale: Literal["head", "width", "none"] | Number = "head"
    softmax: Literal["keys", "queries"] = "keys"
    causal: bool = False
    score: Literal["product", "sum", "perceptron"] = "product"
    normalize: Literal["softmax", "mean", "mean_of_queries"] = "softmax"
    dropout: Rate = 0
    out_dropout: Rate = 0
    reduce: Slot = slot(doc="shortens keys and values before their projection")
    pool: Slot = slot(doc="shortens keys and values after their projection")
    query_pool: Slot = slot(role="pool", doc="shortens queries after their projection")
    norm: Slot = slot(doc="stands after the projection")
    rotate: Slot = slot(role="position", doc="gives the angles by which queries and keys turn")

    def compose(
        self,
        net: Scope,
        x: Value,
        context: Value | None = None,
        value: Value | None = None,
        position: Value | None = None,
        context_position: Value | None = None,
        mask: Value | None = None,
    ) -> Value:
        inner = self.inner or (round(x.type.channels * self.ratio) if self.ratio else x.type.channels)
        check_heads(net, inner, self.heads)
        source = context if context is not None else x
        code = context_position if context is not None else position
        keys = source if code is None else net.add("key_position", Add(), source, code)
        queries = x if position is None else net.add("query_position", Add(), x, position)
        keys, values = self._reduced(net, keys, source, value)
        bias = self.bias if self.qkv_bias is None else self.qkv_bias
        q = net.slot("query_pool", x=net.add("query", Linear(out=inner, bias=bias), queries))
        k = net.slot("pool", x=net.add("key", Linear(out=inner, bias=bias), keys))
        v = net.slot("pool", x=net.add("value", Linear(out=inner, bias=bias), values))
        if net.has("rotate"):
            q, k = self._turned(net, "query", q), self._turned(net, "key", k)
        y = self._attended(net, q, k, v, mask)
        if net.has("query_pool"):
            from composer_blocks.resampling import Resize

            y = net.add("resize", Resize(), y, x)
        if self.out:
            width = value.type.channels if value is not None else x.type.channels
            y = net.add("project", Linear(out=width, bias=self.out_bias), y)
        if self.out_dropout:
            y = net.add("out_drop", Dropout(rate=self.out_dropout), y)
        return net.slot("norm", x=y)

    def _attended(self, net: Scope, q: Value, k: Value, v: Value, mask: Value | None) -> Value:
        if self.score == "product" and self.normalize == "softmax":
            core = Attend(**{n: getattr(self, n) for n in ("heads", "scale", "softmax", "causal", "dropout")})
            return net.add("attend", core, q, k, v, mask=mask)
        plain = mask is None and not self.causal and self.softmax == "keys"
        text = "`score` and `normalize` of another kind know no mask, `causal`, or softmax over queries"
        net.need(plain, text, "BP202")
        if self.score == "sum":
            q = net.add("query_score", Linear(out=self.heads, bias=False), q)
            k = net.add("key_score", Linear(out=self.heads, bias=False), k)
        relate = Relate(**{n: getattr(self, n) for n in ("heads", "scale", "score", "normalize", "dropout")})
        return net.add("attend", relate, q, k, v)

    def _turned(self, net: Scope, name: str, x: Value) -> Value:
        angles = net.slot("rotate", x=net.add(f"{name}_head", OneHead(heads=self.heads), x))
        return net.add(f"{name}_turn", Turn(heads=self.heads), x, angles)

    def _reduced(self, net: Scope, keys: Value, source: Value, value: Value | None) -> tuple[Value, Value]:
        if not net.has("reduce"):
            return keys, value if value is not None else source
        short = net.slot("reduce", x=keys)
        return short, value if value is not None else short


class WindowedAttention(Block):
    """The part of window attention with weights; (B, *grid, C) -> (B, *grid, C), and with tokens (count, C) or
    (B, *windows, count, C) also tokens (B, *windows, count, C)."""

    name = "part.window"
    layout: ClassVar[dict[str, str]] = {"x": "grid", "context": "grid", "tokens": "tokens", "bias": "any"}
    window: tuple[int, ...]
    shift: tuple[int, ...]
    heads: Positive
    pad: bool
    pad_first: bool
    mask: Number | None
    project_query: bool
    qkv_bias: bool
    scale: Literal["head"] | Number = "head"
    dropout: Rate = 0

    def infer(
        self, rule: Rule, x: Type, context: Type | None = None, tokens: Type | None = None, bias: Type | None = None
    ) -> Type | dict[str, Type]:
        if tokens is None:
            return x
        rule.need(tokens.channels == x.channels, f"tokens {tokens} and pixels {x} differ in channels", "BP301")
        if context is not None:  # whose windows they stand in front of as well
            rule.need(
                context.channels == x.channels, f"tokens {tokens} and context {context} differ in channels", "BP301"
            )
        text = f"tokens are {x.channels} numbers each, for all windows or in each of them; not {tokens}"
        if not rule.need(tokens.kind == "queries" or tokens.rank == x.rank + 1, text, "BP301"):
            return x
        windows = tuple(ceil_div(n, w) for n, w in zip(x.grid, self.window, strict=True))
        if tokens.kind == "queries":  # the same for every window
            return {"x": x, "tokens": x.with_(grid=(*windows, tokens.count))}
        for a, b in zip(tokens.grid, windows, strict=False):
            rule.equal(a, b, f"tokens {tokens} are not those of the windows of {x}")
        return {"x": x, "tokens": tokens}

    def traits(self) -> Traits:
        return Traits(groups=("x", "context"), shared=("bias",), attends=("x", "x"))

    def build(self, x: Type, context: Type | None) -> Any:
        from composer_blocks.modules.attention import WindowAttention as Module

        width = (context or x).channels
        built = tuple(n for n in x.grid if isinstance(n, int))
        return Module(x.channels, width, built, **self.model_dump())


class WindowAttention(Block):
    """Attention within windows, shifted or not (Liu et al., 2021, arXiv:2103.14030), on a grid of any rank.

    In order: zeros up to the window at the far side (`pad: high`), a cyclic shift, windows, attention with `bias` and
    the shift's mask, and all the way back. Policies, each of some published code:

    shrink    what happens when the grid the network is built for is small. min: if its smallest side is not above the
              smallest window side, the window is that side on all axes and does not shift. axis: each axis by itself.
              equal: the window stays, its shift goes when it covers the grid. none: nothing.
    table     whether the bias table has the size of the shrunk or of the full window
    mask      what is added where the shift brought cells together that are not neighbours; null lets them attend
    pad_order pad before the shift, or after it
    project_query   false takes x itself as the query
    qkv_bias  whether the projections to queries, keys and values have a bias
    scale     of the scores: one over the root of the width of a head, or a number
    out_dropout   what follows the last projection

    `tokens` beside the pixels stand in front of those of each window, and have neither bias nor mask; with them there
    are two outputs, x and tokens.
    """

    name = "attention.window"
    window: PerAxis = 7
    heads: Positive
    shift: PerAxisNatural | Literal["half"] = 0
    shrink: Literal["min", "axis", "equal", "none"] = "min"
    table: Literal["shrunk", "full"] = "shrunk"
    pad: Literal["none", "high"] = "none"
    pad_order: Literal["pad roll", "roll pad"] = "pad roll"
    mask: Number | None = -100
    project_query: bool = True
    qkv_bias: bool = True
    scale: Literal["head"] | Number = "head"
    dropout: Rate = 0
    out_dropout: Rate = 0
    bias: Slot = slot("relative", role="position", offers=("x", "full"), doc="(heads, n, n) added to the scores")

    def compose(self, net: Scope, x: Value, context: Value | None = None, tokens: Value | None = None) -> Any:
        check_heads(net, x.type.channels, self.heads)
        if x.type.kind != "map":  # let the leaf say what is wrong
            return net.add("", self._leaf((1,) * net.rank, (0,) * net.rank), x)
        window, shift = self.policy(net, x.type.grid)
        if self.pad == "none":
            for n, w, asked in zip(x.type.grid, window, net.per_axis(self.window, "window"), strict=True):
                net.multiple(n, w, "window" if w == asked else f"window shrunk from {asked}")
        if context is not None:
            self._check_context(net, x.type, context.type)
        full = net.per_axis(self.window, "window") if self.table == "full" else window
        shapes = {"x": net.shape(x.type.with_(channels=self.heads, grid=tuple(window)))}
        shapes["full"] = net.shape(x.type.with_(channels=self.heads, grid=tuple(full)))
        bias = net.slot("bias", **shapes) if net.has("bias") else None
        y = net.add("", self._leaf(window, shift), x, context=context, tokens=tokens, bias=bias)
        return self._dropped(net, y) if self.out_dropout else y

    def _dropped(self, net: Scope, y: Any) -> Any:
        """Dropout on the pixels, and on the tokens beside them."""
        drop = Dropout(rate=self.out_dropout)
        if isinstance(y, dict):
            return {part: net.add(f"out_drop_{part}", drop, value) for part, value in y.items()}
        return net.add("out_drop", drop, y)

    def policy(self, net: Scope, grid: tuple[Size, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Window and shift at the size the network is built for."""
        window = net.per_axis(self.window, "window")
        shift = tuple(w // 2 for w in window) if self.shift == "half" else net.per_axis(self.shift, "shift")
        inside = all(s < w for s, w in zip(shift, window, strict=True))
        net.need(inside, f"a shift of {list(shift)} is not inside the window {list(window)}", "BP401")
        if self.shrink == "none":
            return window, shift
        sides = [max(1, net.built(n)) for n in grid]  # a grid without cells is refused where they are lost
        none = (0,) * len(window)
        if self.shrink == "min" and min(sides) <= min(window):
            return (min(sides),) * len(window), none
        if self.shrink == "axis":
            small = [n <= w for n, w in zip(sides, window, strict=True)]
            shift = tuple(0 if s else f for s, f in zip(small, shift, strict=True))
            return tuple(min(n, w) for n, w in zip(sides, window, strict=True)), shift
        if self.shrink == "equal" and (list(sides) == list(window) or min(w // 2 for w in window) == 0):
            shift = none
        return window, shift

    def _check_context(self, net: Scope, x: Type, context: Type) -> None:
        for a, b in zip(x.grid, context.grid, strict=False):
            net.equal(a, b, f"query {x} and context {context} have different grids")
        if not self.project_query:
            net.need(
                x.channels == context.channels, "a query that is not projected needs the width of the keys", "BP301"
            )

    def _leaf(self, window: tuple[int, ...], shift: tuple[int, ...]) -> WindowedAttention:
        return WindowedAttention(
            window=window,
            shift=shift,
            heads=self.heads,
            pad=self.pad == "high",
            pad_first=self.pad_order == "pad roll",
            mask=self.mask,
            project_query=self.project_query,
            qkv_bias=self.qkv_bias,
            scale=self.scale,
            dropout=self.dropout,
        )
