"""Attention whose cost grows with the number of tokens, not with its square. It fills a slot called `attention`."""

from typing import Any, ClassVar

from composer import Block, Number, Positive, Rule, Scope, Traits, Type, Value
from composer_blocks.attention import check_heads
from composer_blocks.convolution import Linear
from composer_blocks.parts import Add


class AttendLinear(Block):
    """f(q)·(f(k)ᵀ·v) over f(q)·Σf(k) with f = elu + 1, in each head; q (B, N, C), k (B, M, C), v (B, M, C)."""

    name = "part.attend_linear"
    layout: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    heads: Positive
    eps: Number

    def infer(self, rule: Rule, q: Type, k: Type, v: Type, mask: Type | None = None) -> Type:
        if mask is not None:
            rule.equal(k.length, mask.length, f"keys {k} and mask {mask} differ in number")
            rule.need(mask.channels == 1, f"a mask of keys has one channel, not {mask.channels}", "BP301")
        return q

    def traits(self) -> Traits:
        return Traits(attends=("q", "k"))

    def build(self) -> Any:
        from composer_blocks.modules.linear_attention import AttendLinear as Module

        return Module(self.heads, self.eps)


class LinearAttention(Block):
    """Multi-head attention without softmax (Katharopoulos et al., 2020, arXiv:2006.16236), of x (B, N, C) to itself or
    to `context`: the scores are products of elu(q) + 1 and elu(k) + 1, so that keys and values are summed up first.

    `inner` is the width of queries, keys and values, `qkv_bias` and `bias` are theirs and the projection's, `eps` is
    added to what the scores are divided by. `position` and `context_position` are added to what queries and keys are
    made of, never to values. `mask` (B, M, 1) is true where a key may be seen.
    """

    name = "attention.linear"
    heads: Positive = 8
    inner: Positive | None = None
    bias: bool = True
    qkv_bias: bool = True
    eps: Number = 1e-6

    def compose(
        self,
        net: Scope,
        x: Value,
        context: Value | None = None,
        position: Value | None = None,
        context_position: Value | None = None,
        mask: Value | None = None,
    ) -> Value:
        inner = self.inner or x.type.channels
        check_heads(net, inner, self.heads)
        source = context if context is not None else x
        code = context_position if context is not None else position
        keys = source if code is None else net.add("key_position", Add(), source, code)
        queries = x if position is None else net.add("query_position", Add(), x, position)
        made = Linear(out=inner, bias=self.qkv_bias)
        parts = net.add("query", made, queries), net.add("key", made, keys), net.add("value", made, source)
        y = net.add("attend", AttendLinear(heads=self.heads, eps=self.eps), *parts, mask=mask)
        return net.add("project", Linear(out=x.type.channels, bias=self.bias), y)
