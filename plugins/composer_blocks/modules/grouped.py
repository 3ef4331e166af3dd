"""Window attention at evaluation: some windows at a time. `composer.chunking.Grouped` says what for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from composer_blocks.modules.windows import Window, windows_of


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
    _mask_of: Callable[[tuple[bool, ...]], Tensor]

    def groups(self, grid: tuple[int, ...]) -> tuple[int, Sequence[Window]]:
        """Places of a window, and the windows; a split one is of another kind only where there is a mask."""
        found = windows_of(grid, self.window, self.shift, self.pad_first)
        return prod(self.window), found if self.mask is not None else [(c, p, ()) for c, p, _ in found]

    def scores(self, kind: tuple[bool, ...], bias: Tensor | None = None) -> Tensor | None:
        """Bias and mask of windows that are split along some axes, (heads or 1, n, n); None if there is neither."""
        if not any(kind):
            return None if bias is None else bias.contiguous()
        mask = self._mask_of(kind).to(self.key.weight)
        return mask if bias is None else bias + mask

    def among(
        self, rows: Sequence[Any], places: Tensor | None, spans: Sequence[Any], tokens: Tensor | None = None
    ) -> Any:
        """x and context (T, C) -> (T, C); with tokens (windows, count, C) also what becomes of these."""
        count, size = spans[-1].stop, prod(self.window)
        if tokens is None:
            full = (_placed(y, pad, places, count * size) for y, pad in self._projected(*rows))
            y = self._attended([y.view(count, size, y.shape[-1]) for y in full], spans, 0)
            return self.project(_present(y.flatten(0, 1), places))
        both: list[Any] = [r if r is None else _fronted(tokens, _placed(r, None, places, count * size)) for r in rows]
        extra = tokens.shape[1]
        y = self.project(self._attended([y for y, _ in self._projected(*both)], spans, extra))
        return _present(y[:, extra:].flatten(0, 1), places), y[:, :extra]

    def _projected(self, x: Tensor, context: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Queries, keys and values, each with what zeros become. One product for all three was no faster (0.9 to 1.1
        of the time), and its weights would have to be kept a second time."""
        source = x if context is None else context
        query = (x, None) if self.query is None else (self.query(x), self.query.bias)
        return [query, (self.key(source), self.key.bias), (self.value(source), self.value.bias)]

    def _attended(self, qkv: Sequence[Tensor], spans: Sequence[Any], extra: int) -> Tensor:
        """Queries, keys and values (windows, n, C) -> (windows, n, C).

        Two products and a softmax were slower than torch's fused kernel at every size: it takes 0.66 of their time for
        49 tokens in 64 windows, 0.74 in 16, 0.27 for 144 tokens, 0.18 for 343, and as long for one window of 49 (torch
        2.13, one thread with AVX-512).
        """
        q, k, v = (torch.unflatten(t, -1, (self.heads, -1)).transpose(1, 2) for t in qkv)
        parts = []
        for span in spans:
            part, mask = slice(span.start, span.stop), span.scores
            if mask is not None:
                mask = (functional.pad(mask, (extra, 0, extra, 0)) if extra else mask).to(q.dtype)
                mask = mask if mask.dim() == 4 else mask[None]
            y = functional.scaled_dot_product_attention(q[part], k[part], v[part], attn_mask=mask, scale=self.factor)
            parts.append(y.transpose(1, 2))
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
