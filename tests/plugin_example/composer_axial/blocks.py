"""The blocks: options and rules on sizes. Their modules stand in `modules`, which only `build` imports."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from composer import Block, Positive, Rule, Type

if TYPE_CHECKING:
    from torch import nn


class AxialAttention(Block):
    """Axial attention (Ho et al., 2019, arXiv:1912.12180) on a map of any rank; x (B, *grid, C) -> (B, *grid, C).

    Each cell looks along its row, then along its column, and so on: one multi-head attention per axis, each with
    weights of its own, one after the other. The cost grows with N·(H + W) and not with N².
    """

    name = "axial.attention"
    layout: ClassVar[str] = "grid"
    heads: Positive = 8

    def infer(self, rule: Rule, x: Type) -> Type:
        text = f"{x.channels} channels do not split into {self.heads} heads"
        rule.need(x.channels % self.heads == 0, text, "BP401")
        return x

    def build(self, x: Type, rank: int) -> nn.Module:
        from composer_axial.modules import AxialAttention as Module

        return Module(x.channels, self.heads, rank)


class GatedFusion(Block):
    """A learned mixture, as in a gated multimodal unit (Arevalo et al., 2017, arXiv:1702.01992):
    z·x + (1 - z)·skip with z = sigmoid(W [x, skip]) of each channel; x and skip (B, C, *grid) -> (B, C, *grid)."""

    name = "axial.gated"

    def infer(self, rule: Rule, x: Type, skip: Type) -> Type:
        text = f"`axial.gated` mixes maps of equal channels, not {x.channels} and {skip.channels}"
        if rule.need(x.kind == skip.kind and x.rank == skip.rank, f"`axial.gated` cannot mix {x} and {skip}", "BP301"):
            rule.need(x.channels == skip.channels, text, "BP301")
            for a, b in zip(x.grid, skip.grid, strict=True):
                rule.equal(a, b, "`axial.gated` mixes only equal grids")
        return x

    def build(self, x: Type) -> nn.Module:
        from composer_axial.modules import GatedFusion as Module

        return Module(x.channels)
