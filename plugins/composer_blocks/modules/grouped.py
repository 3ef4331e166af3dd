"""Window attention at evaluation: some windows at a time. `composer.chunking.Grouped` says what for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from composer_blocks.modules.windows import Window, sides, windows_of

Map = tuple[Tensor | None, Tensor | None]
"""Weight and bias; without a weight, numbers stay as they are."""


class InWindows:
    """Mixed into `WindowAttention`, whose options and maps it reads."""

    window: tuple[int, ...]
    shift: tuple[int, ...]
    heads: int
    mask: float | None
    pad_first: bool
    factor: float
    query: nn.Linear | None
    key: nn.Linear
    value: nn.Linear
    project: nn.Linear

    def groups(self, grid: tuple[int, ...]) -> tuple[int, Sequence[Window]]:
        """Places of a window, and the windows; a split one is of another kind only where there is a mask."""
        found = windows_of(grid, self.window, self.shift, self.pad_first)
        return prod(self.window), found if self.mask is not None else [(c, p, ()) for c, p, _ in found]

    def keep(self) -> tuple[Any, ...]:
        """The maps to queries, already scaled, and to keys and values, one above the other; and, where they read the
        same width, all three, of which the others are views."""
        if self.query is None:
            return (None, None), _stacked(_of(self.key), _of(self.value)), None
        query, others = _of(self.query, self.factor), _stacked(_of(self.key), _of(self.value))
        if self.query.in_features != self.key.in_features:
            return query, others, None
        weight, bias = both = _stacked(query, others)
        width = self.query.out_features
        return *((_rows(weight, part), _rows(bias, part)) for part in (slice(width), slice(width, None))), both

    def scores(self, kind: tuple[bool, ...], bias: Tensor | None = None) -> Tensor | None:
        """Bias and mask of windows that are split along some axes, (heads or 1, n, n); None if there is neither."""
        if not any(kind):
            return None if bias is None else bias.contiguous()
        like = self.key.weight
        side = torch.tensor(sides(self.window, self.shift, kind), device=like.device)
        mask = (side[:, None] != side[None]).to(like.dtype)[None] * (self.mask or 0)
        return mask if bias is None else bias + mask

    def among(
        self,
        kept: Any,
        rows: Sequence[Any],
        places: Tensor | None,
        spans: Sequence[Any],
        tokens: Tensor | None = None,
    ) -> Any:
        """x and context (T, C) -> (T, C); with tokens (windows, count, C) also what becomes of these."""
        count, size = spans[-1].stop, prod(self.window)
        if tokens is None:
            qkv = (_placed(y, pad, places, count * size) for y, pad in self._projected(kept, *rows))
            y = self._attended([y.view(count, size, y.shape[-1]) for y in qkv], spans, 0)
            return self.project(_present(y.flatten(0, 1), places))
        both = [r if r is None else _fronted(tokens, _placed(r, None, places, count * size)) for r in rows]
        extra = tokens.shape[1]
        qkv = (y.view(count, extra + size, y.shape[-1]) for y, _ in self._projected(kept, *both))
        y = self.project(self._attended(list(qkv), spans, extra))
        return _present(y[:, extra:].flatten(0, 1), places), y[:, :extra]

    def _projected(self, kept: Any, x: Tensor, context: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Queries, keys and values side by side, or queries and then both others; each with what zeros become."""
        query, others, all_ = kept
        if context is None and all_ is not None:
            return [(functional.linear(x, *all_), all_[1])]
        asked = x * self.factor if query[0] is None else functional.linear(x, *query)
        return [(asked, query[1]), (functional.linear(x if context is None else context, *others), others[1])]

    def _attended(self, qkv: Sequence[Tensor], spans: Sequence[Any], extra: int) -> Tensor:
        """(windows, n, …) -> (windows, n, C)."""
        q, k, v = (torch.unflatten(t, -1, (self.heads, -1)).transpose(1, 2) for t in _three(qkv))
        parts = []
        for span in spans:
            part = slice(span.start, span.stop)
            scores = span.scores if span.scores is None or span.scores.dim() == 4 else span.scores[None]
            if scores is not None:
                scores = (functional.pad(scores, (extra, 0, extra, 0)) if extra else scores).to(q.dtype)
            parts.append(_attend(q[part], k[part], v[part], scores))
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y.flatten(2)

    def apart(self, tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Tokens (count, C) or (B, windows·count, C) -> (B·windows, count, C)."""
        windows = shape[0] * prod(self._windows_of(shape))
        if tokens.dim() == 2:
            return tokens.expand(windows, -1, -1)
        return tokens.reshape(windows, shape[0] * tokens.shape[1] // max(1, windows), tokens.shape[2])

    def whole(self, more: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Tokens (B·windows, count, C) -> (B, *windows, count, C)."""
        return more.view(shape[0], *self._windows_of(shape), *more.shape[1:])

    def _windows_of(self, shape: tuple[int, ...]) -> list[int]:
        return [-(-n // w) for n, w in zip(shape[1:], self.window, strict=True)]


def _attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor | None) -> Tensor:
    """q, k, v (windows, heads, n, d), q scaled, scores (windows or 1, heads or 1, n, n) -> (windows, n, heads, d).

    One after the other, two products and a softmax were slower at every size: 0.66 of 49 tokens in 64 windows, 0.81 in
    16, 0.27 of 144, 0.18 of 343, and as fast only for a single window of 49 (torch 2.13, one thread, AVX-512).
    """
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=scores, scale=1.0).transpose(1, 2)


def _three(qkv: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if len(qkv) == 1:
        return qkv[0].chunk(3, -1)
    return qkv[0], *qkv[1].chunk(2, -1)


def _of(linear: nn.Linear, factor: float = 1.0) -> Map:
    """Weight and bias, all times a factor."""
    bias = linear.bias
    return linear.weight * factor, None if bias is None else bias * factor


def _stacked(upper: Map, lower: Map) -> Map:
    weight, bias = (None if b is None else torch.cat([a, b]) for a, b in zip(upper, lower, strict=True))
    return weight, bias


def _rows(tensor: Tensor | None, part: slice) -> Tensor | None:
    return None if tensor is None else tensor[part]


def _placed(y: Tensor, pad: Tensor | None, places: Tensor | None, size: int) -> Tensor:
    """Rows (T, C) at their places among so many, (size, C); the other rows are `pad`, or zeros."""
    if places is None:
        return y
    full = y.new_zeros(size, y.shape[-1]) if pad is None else pad.to(y.dtype).expand(size, -1).clone()
    return full.index_copy_(0, places, y)


def _present(y: Tensor, places: Tensor | None) -> Tensor:
    return y if places is None else y.index_select(0, places)


def _fronted(tokens: Tensor, rows: Tensor) -> Tensor:
    """Tokens (windows, count, C) in front of the rows (windows·n, C) of each window."""
    count = tokens.shape[0]
    return torch.cat([tokens, rows.view(count, rows.shape[0] // max(1, count), rows.shape[1])], 1)
