"""Attention."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from composer_blocks.modules.derived import Derived
from composer_blocks.modules.grouped import InWindows
from composer_blocks.modules.windows import windows_of


def scale_of(scale: str | float, head: int, width: int) -> float:
    """What scores are multiplied with; `head` and `width` are the channels of one head and of all."""
    return {"head": head**-0.5, "width": width**-0.5, "none": 1.0}[scale] if isinstance(scale, str) else scale


class Attend(nn.Module):
    """q (B, N, C), k (B, M, C), v (B, M, D), mask (B, M, 1) true where a key may be seen -> (B, N, D).

    With `need_weights` also {"weights": (B, heads, N, M)}, as they are before dropout; where it is the numbers (R,) of
    some queries those of these, (B, heads, R, M), and then the fused kernel stays at work.
    """

    def __init__(self, heads: int, scale: str | float, softmax: str, dropout: float, causal: bool = False):
        super().__init__()
        self.heads, self.scale, self.softmax, self.dropout, self.causal = heads, scale, softmax, dropout, causal

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, need_weights: bool | Tensor = False
    ) -> Any:
        scale = scale_of(self.scale, q.shape[-1] // self.heads, q.shape[-1])
        q, k, v = (torch.unflatten(t, -1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        seen = self._seen(k, mask)
        if self.softmax == "keys" and need_weights is not True:
            dropout = self.dropout if self.training else 0.0
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, scale=scale)
            a = None
        else:
            a = self._weights(q @ k.transpose(-1, -2) * scale, seen)
            y = functional.dropout(a, self.dropout, self.training) @ v
        y = y.transpose(1, 2).flatten(2)
        if need_weights is False:
            return y
        if isinstance(need_weights, Tensor):
            a = self._some(q, k, seen, scale, need_weights) if a is None else a[:, :, need_weights]
        return y, {"weights": a}

    def _some(self, q: Tensor, k: Tensor, seen: Tensor | None, scale: float, rows: Tensor) -> Tensor:
        """The weights of some queries, whose softmax is over keys."""
        if seen is not None and seen.shape[-2] > 1:
            seen = seen[..., rows, :]
        return self._weights(q[:, :, rows] @ k.transpose(-1, -2) * scale, seen)

    def _weights(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        """(B, heads, N, M) of the scores; a query that sees no key has weights of zero, as in torch's fused kernel."""
        if self.softmax == "queries":
            a = scores.softmax(-2)
        else:
            lowest = torch.finfo(scores.dtype).min
            a = (scores if seen is None else scores.masked_fill(~seen, lowest)).softmax(-1)
        return a if seen is None else a * seen

    def _seen(self, k: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which keys each query sees, as (B, 1, N or 1, M)."""
        seen = None if mask is None else mask.squeeze(-1)[:, None, None].bool()
        if not self.causal:
            return seen
        before = torch.ones(k.shape[-2], k.shape[-2], dtype=torch.bool, device=k.device).tril()
        return before if seen is None else before & seen

    def extra_repr(self) -> str:
        return f"heads={self.heads}, scale={self.scale}"


class WindowAttention(InWindows, Derived):
    """x, context (B, *grid, C), tokens (count, C) or (B, windows·count, C), bias (heads, n, n) -> (B, *grid, C), and
    with tokens a dict, in which they are (B, *windows, count, C).

    With `need_weights` also {"weights": (B, windows, heads, n, n), "cells": (windows, n)}: n counts the tokens of a
    window, then its cells. `cells` numbers them along the flat grid of x; -1 is padding, -2, -3, … are tokens. Where it
    is the numbers of some cells, only of the windows that hold these.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        built: tuple[int, ...],
        *,
        window: tuple[int, ...],
        shift: tuple[int, ...],
        heads: int,
        pad: bool,
        pad_first: bool,
        mask: float | None,
        project_query: bool,
        qkv_bias: bool,
        scale: str | float,
        dropout: float,
    ):
        super().__init__()
        self.window, self.shift, self.heads, self.scale = window, shift, heads, scale
        self.pad, self.pad_first, self.mask, self.dropout = pad, pad_first, mask, dropout
        self.factor = scale_of(scale, channels // heads, channels // heads)
        self.query = nn.Linear(channels, channels, qkv_bias) if project_query else None
        self.key = nn.Linear(width, channels, qkv_bias)
        self.value = nn.Linear(width, channels, qkv_bias)
        self.project = nn.Linear(channels, channels)
        self.built = tuple(self._padded(built))
        self.derive()

    def derived(self) -> dict[str, Tensor]:
        """The masks at the size the network is built for, where that is known: one for each kind of window, and the
        kind of each window. Of a volume's many windows they are a few."""
        if not (self._masked and len(self.built) == len(self.window)):
            return {}
        windows = windows_of(self.built, self.window, self.shift, True)
        kinds = list(dict.fromkeys(split for _, _, split in windows))
        return {
            "masks": self._masks_of(kinds),
            "kinds": torch.tensor([kinds.index(split) for _, _, split in windows], device="cpu"),
        }

    def _mask_of(self, split: tuple[bool, ...]) -> Tensor:
        """`mask` where two places of a window stand on different sides of a seam, else 0: (1, n, n)."""
        return self._masks_of([split])[0]

    def _masks_of(self, kinds: list[tuple[bool, ...]]) -> Tensor:
        """The masks of some kinds of windows, one after another: (kinds, 1, n, n). Places on one side have one row, and
        there are few sides: (kinds, sides, n)."""
        side = self._sides_of(kinds)
        sides = torch.arange(2 ** len(self.window), dtype=torch.uint8, device="cpu")
        there, else_ = (torch.tensor(v, dtype=torch.float32, device="cpu") for v in (self.mask or 0, 0))
        rows = torch.where(sides[:, None] != side[:, None], there, else_)
        own = side + len(sides) * torch.arange(len(kinds), device="cpu")[:, None]
        return rows.flatten(0, 1)[own.flatten()].view(len(kinds), 1, *rows.shape[2:] * 2)

    def _sides_of(self, kinds: list[tuple[bool, ...]]) -> Tensor:
        """On which side of the seams each place stands, in windows that are split along some axes: (kinds, n)."""
        split = torch.tensor(kinds, dtype=torch.uint8, device="cpu")
        side = torch.zeros(len(kinds), 1, dtype=torch.uint8, device="cpu")
        for axis, (w, s) in enumerate(zip(self.window, self.shift, strict=True)):
            beyond = torch.arange(w, device="cpu") >= w - s
            side = (2 * side[:, :, None] + (split[:, axis, None] * beyond)[:, None]).reshape(len(kinds), -1)
        return side

    @property
    def _masked(self) -> bool:
        return any(self.shift) and self.mask is not None

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        tokens: Tensor | None = None,
        bias: Tensor | None = None,
        need_weights: bool | Tensor = False,
    ) -> Any:
        grid = list(x.shape[1:-1])
        padded = self._padded(grid)
        front = None if tokens is None else self._of_windows(tokens, x, padded)
        windows = self._windows(x, padded, front)
        others = windows if context is None else self._windows(context, padded, front)
        query = windows if self.query is None else self.query(windows)
        extra = 0 if front is None else front.shape[2]
        scores = self._scores(padded, x, bias)
        scores = [functional.pad(s, (extra, 0, extra, 0)) if extra else s for s in scores]
        y, weights = self._attend(query, self.key(others), self.value(others), scores)
        y = self.project(y)
        made: Any = self._restored(y[:, :, extra:], grid, padded)
        if front is not None:
            made = {"x": made, "tokens": torch.unflatten(y[:, :, :extra], 1, self._counts(padded))}
        if need_weights is False:
            return made
        cells = self._cells(grid, padded, extra, x)
        if isinstance(need_weights, Tensor):
            holds = torch.isin(cells, need_weights).any(1)
            weights, cells = weights[:, holds], cells[holds]
        return made, {"weights": weights, "cells": cells}

    def _cells(self, grid: list[int], padded: list[int], extra: int, like: Tensor) -> Tensor:
        """Which cell of the grid each place of each window is, tokens in front: (windows, extra + n)."""
        numbers = torch.arange(1, prod(grid) + 1, device=like.device).view(1, *grid, 1)  # 0 is what is padded
        cells = self._windows(numbers, padded, None)[0, :, :, 0] - 1
        front = torch.arange(-2, -2 - extra, -1, device=like.device)
        return torch.cat([front.expand(cells.shape[0], -1), cells], 1)

    def _counts(self, padded: list[int]) -> list[int]:
        return [p // w for p, w in zip(padded, self.window, strict=True)]

    def _of_windows(self, tokens: Tensor, x: Tensor, padded: list[int]) -> Tensor:
        """(B, windows, count, C)."""
        count = prod(self._counts(padded))
        if tokens.dim() == 2:
            return tokens.expand(x.shape[0], count, -1, -1)
        return torch.unflatten(tokens, 1, (count, -1))

    def _padded(self, grid: Any) -> list[Any]:
        return [-(-n // w) * w for n, w in zip(grid, self.window, strict=False)] if self.pad else list(grid)

    def _windows(self, x: Tensor, padded: list[int], front: Tensor | None) -> Tensor:
        """(B, *grid, C) -> (B, windows, n, C), with tokens in front of each window."""
        x = self._rolled(x, padded)
        rank = len(self.window)
        parts = [a for p, w in zip(padded, self.window, strict=True) for a in (p // w, w)]
        x = x.reshape(x.shape[0], *parts, x.shape[-1])
        x = x.permute(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
        x = x.flatten(1, rank).flatten(2, -2)
        return x if front is None else torch.cat([front, x], 2)

    def _rolled(self, x: Tensor, padded: list[int]) -> Tensor:
        if self.pad and self.pad_first:
            x = _pad(x, padded)
        if any(self.shift):
            x = torch.roll(x, [-s for s in self.shift], list(range(1, x.dim() - 1)))
        return _pad(x, padded) if self.pad and not self.pad_first else x

    def _restored(self, y: Tensor, grid: list[int], padded: list[int]) -> Tensor:
        """(B, windows, n, C) -> (B, *grid, C)."""
        rank = len(self.window)
        y = y.reshape(y.shape[0], *self._counts(padded), *self.window, y.shape[-1])
        y = y.permute(0, *(a for k in range(rank) for a in (1 + k, 1 + rank + k)), 1 + 2 * rank)
        y = y.reshape(y.shape[0], *padded, y.shape[-1])
        if self.pad and not self.pad_first:
            y = _corner(y, grid)
        if any(self.shift):
            y = torch.roll(y, list(self.shift), list(range(1, rank + 1)))
        return _corner(y, grid) if self.pad and self.pad_first else y

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scores: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The values weighed, (B, windows, n, C), and the weights before dropout, (B, windows, heads, n, n). What is
        added to the products is written over them: they are the largest values, and no gradient needs them."""
        q, k, v = (torch.unflatten(t, -1, (self.heads, -1)).transpose(-3, -2) for t in (q, k, v))
        a = (q * scale_of(self.scale, q.shape[-1], q.shape[-1])) @ k.transpose(-1, -2)
        for more in scores:
            a = a.add_(more) if more.dtype == a.dtype else a + more  # under autocast the sum is the wider one
        if self._masked and a.device.type == "cpu":
            a = _without_denormals(a)
        a = a.softmax(-1)
        y = functional.dropout(a, self.dropout, self.training) @ v
        return y.transpose(-3, -2).flatten(-2), a

    def _scores(self, padded: list[int], x: Tensor, bias: Tensor | None) -> list[Tensor]:
        """What is added to the scores: (heads, n, n), and under a shift (windows, 1, n, n)."""
        found = [] if bias is None else [bias]
        if not self._masked:
            return found
        known = "kinds" in self._buffers and tuple(padded) == self.built
        mask = self.get_buffer("masks")[self.get_buffer("kinds")] if known else self._mask(padded, x.device)
        return [*found, mask.to(x.dtype)]

    def _mask(self, padded: Any, device: Any) -> Tensor:
        """`mask` where two cells of a window come from different sides of the shift, else 0: (windows, 1, n, n)."""
        regions = torch.zeros(1, *padded, 1, device=device)
        for axis, (n, w, s) in enumerate(zip(padded, self.window, self.shift, strict=True)):
            at = torch.arange(n, device=device)
            side = (at >= n - w).long() + (at >= n - s).long() if s else torch.zeros_like(at)
            regions = regions * 3 + side.view([-1 if k == axis + 1 else 1 for k in range(len(padded) + 2)])
        parts = [a for p, w in zip(padded, self.window, strict=True) for a in (p // w, w)]
        rank = len(padded)
        ids = regions.reshape(*parts).permute(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
        ids = ids.flatten(0, rank - 1).flatten(1)
        return torch.where(ids[:, None, :, None] != ids[:, None, None], float(self.mask or 0), 0.0)

    def extra_repr(self) -> str:
        return f"window={self.window}, shift={self.shift}, heads={self.heads}, pad={self.pad}, mask={self.mask}"


def _without_denormals(scores: Tensor) -> Tensor:
    """Scores whose weight in the softmax would be less than the smallest normal float become -inf, and the weight 0.

    A mask of -100 makes weights of exp(-100), with which a CPU multiplies up to fifty times as slowly: a training step
    of a shifted layer takes 2 to 3 times as long. What is left out is less than 1e-37 of a row's sum. Gradients pass
    as if nothing had been done: a softmax looks at differences alone, and a weight of 0 has none.
    """
    values = scores.detach()
    values -= values.amax(-1, keepdim=True)
    torch.threshold_(values, LEAST, -torch.inf)
    return scores


LEAST = -87.0
"""The logarithm of the smallest normal float, 1.2e-38, rounded up."""


def _pad(x: Tensor, sizes: list[int]) -> Tensor:
    """Zeros at the far side of (B, *grid, C)."""
    grid = x.shape[1:-1]
    amounts = [a for n, size in reversed(list(zip(grid, sizes, strict=True))) for a in (0, size - n)]
    return functional.pad(x, [0, 0, *amounts])


def _corner(x: Tensor, grid: list[int]) -> Tensor:
    return x[(slice(None), *(slice(0, n) for n in grid))]
