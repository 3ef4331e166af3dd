"""Learned tables of which a step reads some rows, such as tokens for every cell of a volume: rows that no image of a
step has read stay as they are, bit for bit.

Their gradient is zero, and yet an optimizer would move them: by weight decay, and by the momentum of earlier steps. In
a long run on crops the tokens of rare cells would fade, and what is left of them would drift with what other cells
have learned. So a row without a gradient is put back after each step, and so are its moments, as sparse optimizers do
it. (The official code of FINE, Themyr et al., 2022, uses nnU-Net's SGD, in which both act on every row.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from composer.inference import Program
from composer.layouts import Held


def tables(network: nn.Module, program: Program) -> Iterator[nn.Parameter]:
    """The parameters of a network that are values of their own, beside the image (rows, C): its states."""
    named = dict(network.named_parameters())
    addresses = dict.fromkeys(s.address for s in program.steps if isinstance(s.block, Held))
    yield from (named[a] for a in addresses if a in named and named[a].dim() > 1)


class Unread:
    """The rows that no gradient reaches in a step: `remember` them before it, `restore` them after it."""

    def __init__(self, tables: Iterator[nn.Parameter], optimizer: torch.optim.Optimizer):
        self.tables, self.optimizer = tuple(tables), optimizer
        self.kept: list[tuple[Tensor, Tensor, Tensor | None]] = []
        optimizer.register_step_post_hook(lambda *_: self.restore())

    @torch.no_grad()
    def remember(self) -> None:
        """Once all gradients of a step are there."""
        self.kept = [kept for p in self.tables if p.grad is not None for kept in self._of(p, p.grad)]

    def _of(self, table: nn.Parameter, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        rows = (gradient == 0).flatten(1).all(1)
        rows = rows.view(-1, *[1] * (table.dim() - 1))
        yield table, rows, table.detach().clone()
        moments = self._moments(table)
        yield from ((m, rows, m.clone()) for m in moments.values())
        if not moments:  # made by the first step
            yield table, rows, None

    def _moments(self, table: Tensor) -> dict[str, Tensor]:
        """What the optimizer remembers of each number of a table."""
        state: dict[str, Any] = self.optimizer.state.get(table, {})
        return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == table.shape}

    @torch.no_grad()
    def restore(self) -> None:
        """After the optimizer's step. Moments that it has made itself begin with nothing."""
        for target, rows, before in self.kept:
            if before is not None:
                target.copy_(torch.where(rows, before, target))
            else:
                for moment in self._moments(target).values():
                    moment.masked_fill_(rows, 0)
        self.kept = []
