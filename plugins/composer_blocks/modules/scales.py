"""Several maps as one sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from composer_blocks.modules.deformable import Centres

MARGIN = 0.01
"""Centres and sizes of boxes stay this far from 0 and 1."""


class Join(nn.Module):
    """Maps, codes [(B, *grid, C)] and masks [(B, *grid, 1)] of each scale -> the sequences (B, N, C) of each."""

    level: nn.Parameter | None

    def __init__(self, count: int, channels: int, level_embedding: bool):
        super().__init__()
        self.level = nn.Parameter(torch.randn(count, channels)) if level_embedding else None

    def forward(
        self, x: list[Tensor], position: list[Tensor] | None = None, mask: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        made = {"tokens": _joined(x)}
        if position is not None or self.level is not None:
            made["position"] = _joined(self._coded(x, position))
        return made if mask is None else {**made, "mask": _joined(mask)}

    def _coded(self, x: list[Tensor], position: list[Tensor] | None) -> list[Tensor]:
        codes = [torch.zeros_like(m) for m in x] if position is None else position
        return codes if self.level is None else [c + v for c, v in zip(codes, self.level, strict=True)]


class CellBoxes(nn.Module):
    """Maps [(B, *grid, C)], masks [(B, *grid, 1)] -> `boxes` (B, N, 2·rank) and `inside` (B, N, 1), both constants."""

    def __init__(self, rank: int, size: float):
        super().__init__()
        self.centres, self.size = Centres(rank, "xyz"), size

    def forward(self, x: list[Tensor], mask: list[Tensor] | None = None) -> dict[str, Tensor]:
        mask = None if mask is None else [m.detach() for m in mask]
        centres = self.centres(x, mask)
        size = torch.cat([m.new_full((m[0, ..., 0].numel(), 1), self.size * 2**k) for k, m in enumerate(x)])
        boxes = torch.cat([centres, size.to(centres.dtype).expand_as(centres)], -1)
        inside = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1, keepdim=True)
        if mask is not None:
            inside = inside & (_joined(mask) > 0.5)
        return {"boxes": boxes.masked_fill(~inside, 1).to(x[0].dtype), "inside": inside.to(x[0].dtype)}

    def extra_repr(self) -> str:
        return f"size={self.size}"


def _joined(maps: list[Tensor]) -> Tensor:
    return torch.cat([m.flatten(1, -2) for m in maps], 1)
