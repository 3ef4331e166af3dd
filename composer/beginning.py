"""First values of a network: those of `build`, and those of a network that was given memory later.

    with Waiting():  Network(program)        what torch's modules would fill waits
    initialize(rules)                        the rules fill what they name; nothing else has filled it
    waiting.done()                           the rest is filled as its module does

A network that was built on `meta` and given memory by `to_empty` begins in the same way, module by module: each is made
once more, and what no rule names, buffers too, is taken from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from composer.init import Rule, initialize, rule_for, rules_of
from composer.waiting import Waiting, Watch

if TYPE_CHECKING:
    from composer.module import Network

    Made = Callable[[], Iterator[tuple[str, nn.Module | nn.Parameter]]]


def begun(make: Callable[[], Network], init: Any, watch: Watch | None = None) -> Network:
    """The network that `make` makes, each tensor filled once."""
    with Waiting(watch) as waiting:
        network = make()
    initialize(network, init, waiting.drop)
    waiting.done()
    return network


@torch.no_grad()
def begin(network: Network, made: Made, init: Any) -> None:
    """Fills a network that has memory and no values; `made` makes each of its modules anew, with its address."""
    rules = rules_of(init)
    waiting = Waiting()
    parts = made()
    while True:
        with waiting:
            address, part = next(parts, ("", None))
        if part is None:
            break
        for name, fresh in _tensors(address, part):
            _take(network, name, fresh, rules, waiting)
        waiting.forget()
    initialize(network, init)


def _tensors(address: str, part: nn.Module | nn.Parameter) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a part, under their addresses."""
    if isinstance(part, nn.Parameter):
        yield address, part
    else:
        yield from part.named_parameters(address)
        yield from part.named_buffers(address)


def _take(network: nn.Module, address: str, fresh: Tensor, rules: list[Rule], waiting: Waiting) -> None:
    """Give a tensor of the network the values of a fresh one, unless a rule will."""
    place, _, name = address.rpartition(".")
    owner = network.get_submodule(place)
    if isinstance(fresh, nn.Parameter) and rule_for(rules, place, owner, name) is not None:
        return
    waiting.fill(fresh)
    getattr(owner, name).copy_(fresh)
