"""Position: what tells a token where it is."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, Literal

from composer import Block, Number, Rule, Type


class LearnedPosition(Block):
    """A learned vector per token (Dosovitskiy et al., 2021), extra tokens included; added to the tokens, or by itself
    with `add: false`. The table has as many rows as there are tokens at the size the network is built for."""

    name = "position.learned"
    layout: ClassVar[str] = "tokens"
    add: bool = True
    std: Number = 0.02

    def infer(self, rule: Rule, x: Type) -> Type:
        rows = rule.built(x.length)
        rule.equal(x.length, rows, f"{x.length} tokens must be the {rows} of the position table", "BP403")
        return x

    def build(self, x: Type) -> Any:
        from composer_blocks.modules.positions import Learned

        rows = x.length
        assert isinstance(rows, int)  # the rule fixed it
        return Learned(rows, x.channels, self.std, self.add)


class RelativePosition(Block):
    """A learned bias per head and offset between two cells of a window (Liu et al., 2021): (heads, n, n).

    `index: nnformer` is the offset of nnFormer's code, which is not injective in 3-D. Where a window is clamped to a
    small grid and the table is that of the full window, `clamped: rebuild` indexes the true offsets and `cut` the
    corner of the full window's index, as MONAI does.
    """

    name = "position.relative"
    layout: ClassVar[str] = "any"
    index: Literal["exact", "nnformer"] = "exact"
    clamped: Literal["rebuild", "cut"] = "rebuild"
    std: Number = 0.02

    def infer(self, rule: Rule, x: Type, full: Type | None = None) -> Type:
        window = _cells(full or x)
        if self.index == "nnformer" and len(window) == 3:
            largest = (
                2 * (window[0] - 1) * (3 * window[1] - 1)
                + 2 * (window[1] - 1) * (2 * window[1] - 1)
                + 2 * (window[2] - 1)
            )
            rule.need(
                largest < prod(2 * n - 1 for n in window), f"overflows its table for the window {window}", "BP401"
            )
        return x.with_(grid=(prod(_cells(x)),) * 2)

    def build(self, x: Type, full: Type | None) -> Any:
        from composer_blocks.modules.positions import Relative

        return Relative(_cells(x), _cells(full or x), x.channels, self.index, self.clamped, self.std)


def _cells(x: Type) -> tuple[int, ...]:
    """The grid of a window, which is known."""
    return tuple(n for n in x.grid if isinstance(n, int))


BLOCKS = (LearnedPosition, RelativePosition)
