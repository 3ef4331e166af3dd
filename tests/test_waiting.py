"""First values: each tensor is filled once, as before, and none is left as the memory was."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_initialization import SCHEMES, complaints
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import composer
from composer.init import FILLS
from composer.waiting import FILLINGS, Waiting

SOME = ("vit", "swin_unetr", "detr", "transunet", "fine", "transformer", "attention_unet_monai")


class Dirty(TorchFunctionMode):
    """New memory holds NaN; counts how often each parameter is really filled."""

    def __init__(self) -> None:
        super().__init__()
        self.filled = Counter[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")
        if func in FILLINGS and isinstance(target, nn.Parameter):
            self.filled[id(target)] += 1
        made = func(*args, **(kwargs or {}))
        if func in (torch.empty, torch.empty_like) and made.is_floating_point():
            made.data.fill_(torch.nan)
        return made


def unfilled(network: nn.Module) -> list[str]:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return [n for n, t in tensors if t.is_floating_point() and not t.isfinite().all()]


def owner(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name.rpartition(".")[0])


def test_dirty_memory_would_be_seen() -> None:
    class Lazy(nn.Linear):
        def reset_parameters(self) -> None: ...

    with Dirty():
        assert unfilled(Lazy(2, 2)) == ["weight", "bias"]


@pytest.mark.parametrize("name", SOME)
def test_nothing_is_left_as_the_memory_was(name: str) -> None:
    with Dirty() as dirty:
        network = composer.load(name, **SCHEMES[name][0]).build()
    assert unfilled(network) == []
    own = {n: p for n, p in network.named_parameters() if type(owner(network, n)).__module__.startswith("torch.nn")}
    assert {n for n, p in own.items() if dirty.filled[id(p)] > 1} == set(), "filled twice"


@pytest.mark.parametrize("name", SOME)
def test_a_network_begins_on_meta_too(name: str) -> None:
    """As published, tensor by tensor, and with the buffers that `build` gives it."""
    params, scheme = SCHEMES[name]
    blueprint = composer.load(name, **params)
    torch.manual_seed(0)
    with Dirty():
        network = blueprint.build("meta").to_empty(device="cpu")
        if any(True for _ in network.parameters()):
            assert unfilled(network)
        network.initialize()
    assert unfilled(network) == []
    assert complaints(network, scheme) == []
    wanted = dict(blueprint.build().named_buffers())
    assert {n: b.shape for n, b in network.named_buffers()} == {n: b.shape for n, b in wanted.items()}
    for n, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, wanted[n], equal_nan=True)


def test_a_parameter_that_nothing_names_keeps_the_random_numbers_of_its_module() -> None:
    torch.manual_seed(0)
    wanted = nn.Linear(3, 4)
    torch.manual_seed(0)
    with Waiting() as waiting:
        found = nn.Linear(3, 4)
    waiting.done()
    assert torch.equal(found.weight, wanted.weight)
    assert torch.equal(found.bias, wanted.bias)


def halved() -> list[Tensor]:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight[:2] = 0
        layer.weight *= 0.5
    return [layer.weight, layer.bias]


def read() -> list[Tensor]:
    layer = nn.Linear(4, 4)
    return [layer.weight, nn.Parameter(layer.weight.detach() * 2), torch.cat([layer.bias, layer.bias])]


def aliased() -> list[Tensor]:
    """The tensor that a parameter was made of, and a view that is older than the filling."""
    memory = torch.empty(4, 4)
    row = memory[0]
    weight = nn.Parameter(memory)
    nn.init.normal_(weight)
    row.zero_()
    memory[1] = 1
    return [weight]


def through_data() -> list[Tensor]:
    layer = nn.Conv2d(2, 2, 3)
    layer.weight.data.copy_(torch.ones(2, 2, 3, 3))
    layer.bias.data.zero_()
    return [layer.weight, layer.bias]


def copied() -> list[Tensor]:
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2)
    return [*layer.parameters(), *copy.deepcopy(layer).parameters()]


def replaced() -> list[Tensor]:
    """The later filling counts, and one that is no filling goes on from what was there."""
    layer = nn.Linear(4, 4)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.trunc_normal_(layer.weight, std=0.1)
    nn.init.constant_(layer.bias, 2.0)
    nn.init.orthogonal_(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)).weight)
    return [layer.weight, layer.bias.double()]


@pytest.mark.parametrize("author", [halved, read, aliased, through_data, copied, replaced], ids=lambda f: f.__name__)
def test_what_an_author_does_with_a_weight_comes_out_the_same(author: Callable[[], list[Tensor]]) -> None:
    """The numbers may be other draws, so that all fillings draw the same: 0, 0.01, 0.02 …"""
    results = []
    for mode in (Ramps(), None), (Ramps(), Waiting()):
        with mode[0]:
            if mode[1] is None:
                results.append(author())
                continue
            with mode[1]:
                made = author()
            mode[1].done()
            results.append(made)
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


class Ramps(TorchFunctionMode):
    """Random fillings give a ramp, whichever is the first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in FILLINGS - {Tensor.fill_, Tensor.zero_, nn.init.constant_}:
            with torch.no_grad():
                made.data.copy_(0.01 * torch.arange(made.numel()).reshape(made.shape))
        return made


@pytest.mark.parametrize("std", [0.02, 0.19, 0.5, 1.0])
def test_a_truncated_normal_is_that_of_torch_number_by_number(std: float) -> None:
    torch.manual_seed(0)
    wanted = nn.init.trunc_normal_(torch.empty(500, 400), std=std)
    torch.manual_seed(0)
    assert torch.equal(FILLS["trunc_normal"](torch.empty(500, 400), std), wanted)
