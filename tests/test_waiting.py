"""First values: each tensor is filled once, as before, and none is left as the memory was."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from test_initialization import SCHEMES, complaints
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import composer
from composer.init import FILLS
from composer.waiting import FILLINGS, PLAIN, Waiting, make

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


def made() -> list[Tensor]:
    """Modules of torch by `make`: left alone, changed in part, given other parameters, their statistics set, moved."""
    alone, half, other = make(nn.Linear, 4, 4), make(nn.Linear, 4, 4), make(nn.Linear, 4, 4)
    nn.init.zeros_(half.weight)
    other.weight = nn.Parameter(torch.ones(4, 4))
    norm, moved = make(nn.BatchNorm1d, 4), make(nn.Conv2d, 2, 2, 3).double()
    norm.running_mean.data.fill_(3)
    with torch.no_grad():
        norm.weight *= 2
    tied = [alone.weight.detach() + 1, alone.weight]
    return [*tied, *(t for m in (alone, half, other, norm, moved) for t in m.state_dict().values())]


def one_memory() -> list[Tensor]:
    """Two parameters of one tensor, of which the second is a part: the last filling counts."""
    memory = torch.empty(4, 4)
    whole, row = nn.Parameter(memory), nn.Parameter(memory[0])
    nn.init.normal_(whole)
    nn.init.constant_(row, 2.0)
    nn.init.normal_(whole)
    return [whole, row]


AUTHORS = [halved, read, aliased, through_data, copied, replaced, made, one_memory]


@pytest.mark.parametrize("author", AUTHORS, ids=lambda f: f.__name__)
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


WAYS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (nn.Linear, (3, 4), {}),
    (nn.Linear, (3, 4), {"bias": False, "dtype": torch.float64}),
    (nn.Conv2d, (4, 6, (3, 1)), {"stride": 2, "padding": "valid", "groups": 2}),
    (nn.Conv3d, (2, 3, 2), {"bias": False, "padding_mode": "circular"}),
    (nn.ConvTranspose1d, (2, 3, 2), {"output_padding": 1, "stride": 2}),
    (nn.BatchNorm2d, (5,), {"momentum": None}),
    (nn.BatchNorm3d, (5,), {"affine": False}),
    (nn.InstanceNorm2d, (5,), {"affine": True}),
    (nn.InstanceNorm1d, (5,), {"track_running_stats": True}),
    (nn.LayerNorm, ((2, 3),), {"bias": False}),
    (nn.GroupNorm, (2, 6), {}),
    (nn.RMSNorm, (6,), {}),
    (nn.PReLU, (3,), {"init": 0.1}),
]


@pytest.mark.parametrize(("kind", "args", "options"), WAYS)
def test_a_module_that_is_made_is_that_of_torch(kind: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    wanted = kind(*args, **options)
    torch.manual_seed(0)
    with Dirty(), Waiting() as waiting:
        found = make(kind, *args, **options)
    waiting.done()
    assert kind in PLAIN
    assert type(found) is kind
    assert repr(found) == repr(wanted)
    held = ("_parameters", "_buffers")
    plain = [{k: v for k, v in vars(m).items() if k not in held} for m in (found, wanted)]
    assert plain[0] == plain[1]
    assert [[*vars(found)[h]] for h in held] == [[*vars(wanted)[h]] for h in held]
    assert {n: p.requires_grad for n, p in found.named_parameters()} == dict.fromkeys(
        dict(wanted.named_parameters()), True
    )
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_of_a_module_a_rule_names_one_parameter_and_the_other_begins_as_ever() -> None:
    with Dirty() as dirty:
        with Waiting() as waiting:
            layer, norm = make(nn.Linear, 100, 40), make(nn.BatchNorm1d, 7)
        waiting.drop(layer.weight)
        waiting.drop(norm.bias)
        waiting.done()
    assert layer.weight.isnan().all()
    assert norm.bias.isnan().all()
    assert 0.05 < layer.bias.abs().max() <= 0.1, "1 / sqrt(100), of the weight that it has"
    assert norm.weight.eq(1).all()
    assert dirty.filled[id(layer.bias)] == dirty.filled[id(norm.weight)] == 1


def test_what_a_constructor_refuses_is_refused_in_its_words() -> None:
    with Waiting() as waiting:
        with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
            make(nn.Conv2d, 3, 4, 3, groups=2)
        assert torch.overrides._get_current_function_mode() is waiting, "it goes on"  # type: ignore[no-untyped-call]


def test_a_class_that_does_more_than_torch_is_made_as_it_makes_itself() -> None:
    class Doubled(nn.Linear):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.twice = self.weight.detach() * 2

    with Dirty(), Waiting() as waiting:
        layer = make(Doubled, 3, 4)
    waiting.done()
    assert torch.equal(layer.twice, layer.weight * 2)
    assert type(make(nn.Linear, 3, 4)) is nn.Linear, "outside of a build"


def test_nothing_waits_in_another_thread() -> None:
    found: list[nn.Linear] = []
    with Dirty(), Waiting() as waiting:
        thread = Thread(target=lambda: found.append(make(nn.Linear, 3, 4)))
        thread.start()
        thread.join()
        assert waiting.fillings == {}
    assert found[0].weight.isfinite().all()


def test_a_network_of_modules_of_torch_is_built_without_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes longer than all else of a small one."""
    heard: list[Any] = []
    blueprint = composer.load("unet", widths=[4, 8], size=[16, 16])
    monkeypatch.setattr(
        Waiting, "__torch_function__", lambda self, func, types, args=(), kwargs=None: heard.append(func)
    )
    blueprint.build()
    assert heard == []


@pytest.mark.parametrize("std", [0.02, 0.19, 0.5, 1.0])
def test_a_truncated_normal_is_that_of_torch_number_by_number(std: float) -> None:
    torch.manual_seed(0)
    wanted = nn.init.trunc_normal_(torch.empty(500, 400), std=std)
    torch.manual_seed(0)
    assert torch.equal(FILLS["trunc_normal"](torch.empty(500, 400), std), wanted)
