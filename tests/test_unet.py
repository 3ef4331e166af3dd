"""`unet` against a U-Net written out by hand, and the rules about sizes against torch itself."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import composer

CONV = {2: functional.conv2d, 3: functional.conv3d}
UP = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}


def slow_unet(
    state: dict[str, Tensor], x: Tensor, levels: int, convs: int, padding: int, norm: str, slope: float
) -> Tensor:
    """The U-Net of Ronneberger et al. (2015), line by line, from the tensors of a `state_dict`."""
    rank = x.dim() - 2

    def unit(x: Tensor, at: str) -> Tensor:
        x = CONV[rank](x, state[f"{at}.weight"], state[f"{at}.bias"], padding=padding)
        if norm == "instance":
            axes = tuple(range(2, x.dim()))
            x = (x - x.mean(axes, keepdim=True)) / (x.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()
        if norm == "batch":
            mean, var = (state[f"{at}.norm.running_{s}"].view(1, -1, *[1] * rank) for s in ("mean", "var"))
            x = (x - mean) / (var + 1e-5).sqrt()
        if norm:
            x = x * state[f"{at}.norm.weight"].view(1, -1, *[1] * rank) + state[f"{at}.norm.bias"].view(
                1, -1, *[1] * rank
            )
        return torch.where(x > 0, x, slope * x)

    skips = []
    for level in range(levels):
        x = POOL[rank](x, 2) if level else x
        for k in range(convs):
            x = unit(x, f"down.{level}.convs.{k}")
        skips.append(x)
    for step, skip in enumerate(reversed(skips[:-1])):
        x = UP[rank](x, state[f"up.{step}.upsample.weight"], state[f"up.{step}.upsample.bias"], stride=2)
        for axis in range(2, x.dim()):
            cut = (skip.shape[axis] - x.shape[axis]) // 2
            skip = skip.narrow(axis, cut, x.shape[axis])
        x = torch.cat([skip, x], 1)
        for k in range(convs):
            x = unit(x, f"up.{step}.block.{k}")
    return CONV[rank](x, state["head.weight"], state["head.bias"])


def shaken(network: nn.Module) -> nn.Module:
    """The network with numbers everywhere that are not the usual first ones."""
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.6) if tensor.dim() == 1 else tensor.normal_(0, 0.2)
    return network.double().eval()


WRITTEN = {
    "original": (dict(widths=[3, 5, 7], padding=0, norm=None, classes=3, channels=2, size=[44, 52]), (3, 2, 0, "",
        0.0)),
    "2-D": (dict(widths=[4, 6, 8], classes=3, size=[16, 24]), (3, 2, 1, "batch", 0.0)),
    "3-D": (dict(widths=[3, 4], classes=2, size=[8, 4, 6], norm="instance", act="leaky_relu", convs=3), (2, 3, 1,
        "instance", 0.01)),
    "wide kernel": (dict(widths=[3, 4, 5, 6], size=[16, 16], kernel=5, convs=1, norm=None), (4, 1, 2, "", 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITTEN)
def test_equals_a_handwritten_unet(case: str) -> None:
    options, written = WRITTEN[case]
    network = shaken(composer.load("unet", **options).build())
    x = torch.randn(2, options.get("channels", 1), *options["size"], dtype=torch.float64)
    wanted = slow_unet(dict(network.state_dict()), x, *written)
    torch.testing.assert_close(network(x), wanted, atol=1e-9, rtol=1e-9)


def test_the_original_is_that_of_the_paper() -> None:
    network = composer.load("unet:original").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == 31_030_658
    assert network(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)


SMALL: dict[str, Any] = dict(widths=[4, 8], size=[8, 8])


def kinds(**options: Any) -> list[str]:
    network = composer.load("unet", **SMALL | options).build(device="meta")
    return [type(m).__name__ for m in network.modules()]


def test_every_parameter_changes_what_it_says() -> None:
    plain = kinds()
    assert plain.count("BatchNorm2d") == plain.count("ReLU") == 6
    assert kinds(norm="instance").count("InstanceNorm2d") == 6
    assert not any("Norm" in k for k in kinds(norm=None))
    assert kinds(norm={"use": "norm.group", "groups": 2}).count("GroupNorm") == 6
    assert kinds(act="gelu").count("GELU") == 6
    assert kinds(convs=3).count("Conv2d") == plain.count("Conv2d") + 3
    assert kinds(widths=[4, 8, 16]).count("MaxPool2d") == 2
    assert kinds(size=[8, 8, 8]).count("Conv3d") == 7
    state = composer.load("unet", **SMALL, kernel=5, channels=3, classes=6).build(device="meta").state_dict()
    assert state["down.0.convs.0.weight"].shape == (4, 3, 5, 5)
    assert state["head.weight"].shape == (6, 4, 1, 1)
    cut = composer.load("unet", widths=[4, 8], size=[20, 20], padding=0).build(device="meta")
    assert cut(torch.empty(1, 1, 20, 20, device="meta")).shape == (1, 2, 4, 4)


def test_an_odd_size_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load("unet").check(image=(1, 1, 230, 224))
    text = str(caught.value)
    assert "BP501" in text
    assert "H = 230" in text
    assert "multiples of 16; nearest: 224 or 240" in text
    assert re.search(r"at `?up\.|up\.\d", text)


def test_a_kernel_that_fits_nowhere_is_a_mistake_at_the_fusion() -> None:
    with pytest.raises(composer.BlueprintError, match=r"`fuse.concat` joins only equal grids") as caught:
        composer.load("unet", widths=[4, 8], kernel=4).check()
    assert {d.code for d in caught.value.diagnostics} == {"BP301"}


# --- the rules about sizes against torch -----------------------------------------------------------------------------

SIZED: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", dict(widths=[2, 2, 2, 2], size=[32, 32])),
    "unet instance": ("unet", dict(widths=[2, 2, 2], size=[16, 16], norm="instance")),
    "unet 3-D": ("unet", dict(widths=[2, 2, 2], size=[16, 16, 16], norm="instance")),
    "unet original": ("unet", dict(widths=[2, 2, 2], size=[44, 44], norm=None, padding=0)),
    "unet even kernel": ("unet", dict(widths=[2, 2], size=[30, 30], kernel=4, padding=0)),
    "vit": ("vit", {"size": [32, 32], "patch": 8, "dim": 4, "depth": 1, "heads": 1, "patches.remainder": "crop"}),
    "vit 3-D": ("vit", {"size": [8, 8, 4], "patch": 4, "dim": 4, "depth": 1, "heads": 1, "patches.remainder": "crop"}),
    "swin": ("swin_unet", {"size": [64, 64], "dim": 2, "heads": [1, 1, 1, 1], "depths": [2, 2, 2, 2], "window": 2,
                           "patches.remainder": "crop"}),
    "swin 3-D": ("swin_unet", {"size": [64, 32, 32], "dim": 2, "heads": [1, 1, 1, 1], "depths": [1, 2, 1, 1],
        "window": 2,
                               "patches.remainder": "crop"}),
    "swin padded": ("swin_unet", {"size": [64, 64], "dim": 2, "heads": [1, 1, 1, 1], "depths": [2, 1, 1, 1],
        "window": 3,
                                  "pad": "high", "patches.remainder": "crop"}),
}  # fmt: skip


@functools.cache
def sized(case: str) -> tuple[composer.Blueprint, Any, Any]:
    """A blueprint, its program, and its network on `meta` without the check of its input."""
    name, params = SIZED[case]
    blueprint = composer.load(name, **params)
    network = blueprint.build(device="meta").eval()
    network.constraints = ()
    return blueprint, blueprint.infer(), network


def side(built: int) -> st.SearchStrategy[int]:
    """Small sizes, and those on and beside the multiples that networks like."""
    beside = st.builds(
        lambda k, m, d: max(1, k * m + d), st.integers(1, 6), st.sampled_from([4, 8, 16, 32, 64]), st.integers(-1, 1)
    )
    return st.one_of(st.just(built), st.integers(1, 48), beside)


@pytest.mark.parametrize("case", SIZED)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_rules_agree_with_torch(case: str, data: st.DataObject) -> None:
    blueprint, program, network = sized(case)
    spec = program.inputs[0]
    grid = [data.draw(side(program.built[a]), a) for a in spec.axes]
    if data.draw(st.booleans(), "square"):
        grid = [grid[0]] * len(grid)
    shape = (2, spec.type.channels, *grid)
    try:
        blueprint.check(image=shape)
        accepted = True
    except composer.BlueprintError:
        accepted = False
    try:
        output = network(torch.empty(shape, device="meta"))
        ran = True
    except (RuntimeError, ValueError):
        ran = False
    assert accepted == ran, f"{case} {shape}: the rules say {accepted}, torch says {ran}"
    if ran:
        assert tuple(output.shape[1:]) == promised(program, dict(zip(spec.axes, grid, strict=True)))


def promised(program: Any, env: dict[str, int]) -> tuple[int, ...]:
    type_ = program.values[program.outputs[0].ids].type.at(env)
    return (type_.channels, *type_.grid)
