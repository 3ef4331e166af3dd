"""Blocks for the tests of `check_block`, a plugin of one file: a good one, and one for each way of breaking a promise."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Literal

import torch
from torch import nn

import composer


class Good(composer.Block):
    """A gated linear map: (…, C) -> (…, out)."""

    name = "toy.good"
    shape = "batch ... dim -> batch ... {out}"
    out: composer.Positive

    def build(self, dim: int) -> Any:
        return nn.Sequential(nn.Linear(dim, 2 * self.out), nn.GLU())


class Split(composer.Block):
    """The largest or the mean of each group of channels, less those of `skip`: (B, C, *grid) -> (B, groups, *grid)."""

    name = "toy.split"
    groups: composer.Positive
    kind: Literal["max", "mean"] = "max"
    bias: bool = True

    def infer(self, rule: composer.Rule, x: composer.Type, skip: composer.Type | None = None) -> composer.Type:
        rule.need(x.channels % self.groups == 0 and self.groups % 3 == 0, "groups of three", "BP401")
        rule.need(skip is None or skip == x, "two equal maps", "BP301")
        return x.with_(channels=self.groups)

    def build(self) -> Any:
        return Grouped(self.groups, self.kind, self.bias)


class Same(composer.Block):
    """What the broken ones share: a rule that says nothing changes."""

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        return x

    def build(self, x: composer.Type) -> Any:
        return _MODULES[self.name](x.channels)


class Lies(Same):
    """The rule says twice the channels, the module keeps them."""

    name = "toy.lies"

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        return x.with_(channels=2 * x.channels)


class Kernel(Same):
    """The rule of a convolution of 3 without padding, which forgets that there is a smallest size."""

    name = "toy.kernel"

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        return x.with_(grid=tuple(n - 2 for n in x.grid))

    def build(self, x: composer.Type) -> Any:
        return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[x.rank - 1](x.channels, x.channels, 3)


class Norm(Same):
    """No epsilon: 0 / 0 for a constant input."""

    name = "toy.norm"


class Idle(Same):
    """A parameter that nothing uses."""

    name = "toy.idle"


class Crowd(Same):
    """Subtracts the mean over the batch."""

    name = "toy.crowd"


class Dice(Same):
    """Drops in evaluation too."""

    name = "toy.dice"


class Counter(Same):
    """Counts its calls in a buffer, in evaluation too, and says nothing of it."""

    name = "toy.counter"


class Hidden(Same):
    """Random numbers outside the `state_dict`."""

    name = "toy.hidden"


class Branch(Same):
    """Python decides by the numbers."""

    name = "toy.branch"


class Sealed(Same):
    """Holds a lambda, which no pickle can name."""

    name = "toy.sealed"


class Narrow(Same):
    """Computes in float32 whatever it is given."""

    name = "toy.narrow"


class Clock(Same):
    """A result that depends on when it is asked, which a graph would freeze."""

    name = "toy.clock"


class Waived(Crowd):
    """Mixes samples, and says so."""

    name = "toy.waived"
    not_promised: ClassVar[dict[str, str]] = {"batch": "it centres each batch"}


class Refuses(Same):
    """Nothing is right for it."""

    name = "toy.refuses"

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        rule.need(False, "nothing fits")
        return x


class Faulty(Same):
    """A rule that fails."""

    name = "toy.faulty"

    def infer(self, rule: composer.Rule, x: composer.Type) -> composer.Type:
        raise KeyError("width")


class Grouped(nn.Module):
    """The module of `Split`."""

    def __init__(self, groups: int, kind: str, bias: bool):
        super().__init__()
        self.groups, self.kind = groups, kind
        self.bias = nn.Parameter(torch.zeros(())) if bias else None

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        x = (x if skip is None else x - skip).unflatten(1, (self.groups, -1))
        y = x.amax(2) if self.kind == "max" else x.mean(2)
        return y if self.bias is None else y + self.bias


class Valley(nn.Module):
    """x / standard deviation, without an epsilon."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True)


class Unused(nn.Module):
    """Owns a weight and leaves it alone."""

    def __init__(self, channels: int):
        super().__init__()
        self.used, self.idle = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.used


class Centred(nn.Module):
    """x less the batch's mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


class AlwaysDrops(nn.Module):
    """Dropout in both modes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Counts(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.clone()


class Unsaved(nn.Module):
    """Draws a factor at the beginning and keeps it to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = torch.randn(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.drawn


class Decides(nn.Module):
    """A branch on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.is_meta or x.sum() > 0 else x


class Holds(nn.Module):
    """A function without a name."""

    def __init__(self) -> None:
        super().__init__()
        self.run = lambda x: x * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


class Float(nn.Module):
    """Always float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() * 2


class Ticks(nn.Module):
    """x and the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + time.perf_counter_ns() % 1_000_003


_MODULES: dict[str, Any] = {
    "toy.lies": lambda c: nn.Identity(),
    "toy.norm": lambda c: Valley(),
    "toy.idle": Unused,
    "toy.crowd": lambda c: Centred(),
    "toy.waived": lambda c: Centred(),
    "toy.dice": lambda c: AlwaysDrops(),
    "toy.counter": lambda c: Counts(),
    "toy.hidden": lambda c: Unsaved(),
    "toy.branch": lambda c: Decides(),
    "toy.sealed": lambda c: Holds(),
    "toy.narrow": lambda c: Float(),
    "toy.clock": lambda c: Ticks(),
}
