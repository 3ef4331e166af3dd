"""`u_transformer` and its fusion against plain torch, the readings of its re-implementations, counts and sizes.

There is no official code. The reference below is written from the paper's description, one operation a line.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import composer

TINY: dict[str, Any] = dict(channels=2, classes=3, size=[16, 24], widths=[8, 16, 24])


def sines(x: Tensor, halves: bool = False, reversed_: bool = False) -> Tensor:
    """x and its code: one half of the channels for each axis, sine and cosine of each frequency."""
    code = torch.zeros_like(x)
    half = x.shape[1] // 2
    for axis in (0, 1):
        start = half * (1 - axis if reversed_ else axis)
        for k in range(half // 2):
            angle = torch.arange(x.shape[2 + axis], dtype=x.dtype) / 10000 ** (2 * k / half)
            angle = angle.view(-1, 1) if axis == 0 else angle.view(1, -1)
            code[:, start + (k if halves else 2 * k)] = angle.sin()
            code[:, start + (half // 2 + k if halves else 2 * k + 1)] = angle.cos()
    return x + code


class Reference:
    """The network from its own parameters, without any of its modules; in eval mode, 2-D."""

    def __init__(self, network: nn.Module, **options: Any):
        self.state = network.state_dict()
        self.options = dict(heads=8, scale="head", softmax="keys", gate=torch.sigmoid, act=functional.relu,
            arrange="interleaved", axes="spatial", product=True, concat="skip x") | options  # fmt: skip

    def code(self, x: Tensor) -> Tensor:
        return sines(x, self.options["arrange"] == "halves", self.options["axes"] == "reversed")

    def conv(self, at: str, x: Tensor, act: Any = None) -> Tensor:
        """A convolution, batch norm where it has one, an activation where it has one."""
        weight = self.state[f"{at}.weight"]
        x = functional.conv2d(x, weight, self.state.get(f"{at}.bias"), padding=weight.shape[-1] // 2)
        if f"{at}.norm.weight" in self.state:
            norm = [self.state[f"{at}.norm.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
            x = functional.batch_norm(x, *norm)
            x = (act or self.options["act"])(x)
        return x

    def attention(self, at: str, source: Tensor, values: Tensor) -> Tensor:
        """Heads one after the other, each query by itself or, in the faulty reading, each key."""
        linear = {p: (self.state.get(f"{at}.{p}.weight"), self.state.get(f"{at}.{p}.bias"))
            for p in ("query", "key", "value", "project")}  # fmt: skip
        q, k = (functional.linear(source.flatten(2).mT, *linear[p]) for p in ("query", "key"))
        v = functional.linear(values.flatten(2).mT, *linear["value"])
        width = q.shape[-1] // self.options["heads"]
        by = {"head": width, "width": q.shape[-1], "none": 1}[self.options["scale"]]
        parts = []
        for h in range(self.options["heads"]):
            part = slice(h * width, (h + 1) * width)
            own = slice(h * v.shape[-1] // self.options["heads"], (h + 1) * v.shape[-1] // self.options["heads"])
            scores = q[..., part] @ k[..., part].mT / by**0.5
            parts.append(scores.softmax(2 if self.options["softmax"] == "keys" else 1) @ v[..., own])
        y = torch.cat(parts, -1)
        if linear["project"][0] is not None:
            y = functional.linear(y, *linear["project"])
        return y.mT.reshape(len(y), -1, *source.shape[2:])

    def up(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    def fuse(self, at: str, x: Tensor, skip: Tensor, deep: Tensor) -> Tensor:
        y, s = self.code(deep), self.code(skip)
        query = self.conv(f"{at}.query", y)
        value = self.conv(f"{at}.value.conv", functional.max_pool2d(s, 2))
        gate = self.conv(f"{at}.weight", self.attention(f"{at}.attend", query, value), self.options["gate"])
        gated = self.up(gate) * (s if self.options["product"] else skip)
        return torch.cat([gated, x] if self.options["concat"] == "skip x" else [x, gated], 1)

    def __call__(self, x: Tensor) -> Tensor:
        skips = []
        for i in range(3):
            x = functional.max_pool2d(x, 2) if i else x
            x = self.conv(f"down.{i}.convs.1", self.conv(f"down.{i}.convs.0", x))
            skips.append(x)
        x = self.code(x)
        x = self.attention("bottom", x, x)
        for i, skip in enumerate((skips[1], skips[0])):
            y = self.conv(f"up.{i}.upsample.smooth", self.up(self.code(x)))
            y = self.conv(f"up.{i}.upsample.reduce", y)
            y = self.fuse(f"up.{i}.fuse", y, skip, x)
            x = self.conv(f"up.{i}.block.1", self.conv(f"up.{i}.block.0", y))
        return self.conv("head", x)


READINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "the paper": ("u_transformer", {}, {}),
    "two heads, columns first": (
        "u_transformer", dict(heads=2, axes="reversed", concat="x skip", conv_bias=False, act="leaky_relu"),
        dict(heads=2, axes="reversed", concat="x skip", act=functional.leaky_relu),
    ),
    "the lab": (
        "u_transformer", dict(scale="none", heads=4, position_in_product=False, bias=False, axes="reversed"),
        dict(scale="none", heads=4, product=False, axes="reversed"),
    ),
    "hxlh50k": (
        "u_transformer:hxlh50k", {},
        dict(heads=1, scale="width", softmax="queries", gate=functional.relu, arrange="halves"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reading", READINGS)
def test_equals_the_description(reading: str) -> None:
    name, ours, theirs = READINGS[reading]
    torch.manual_seed(5)
    network = composer.load(name, **TINY, **ours).build().double().eval()
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if key.endswith("running_var") else value.normal_(0, 0.3)
    x = torch.randn(2, 2, 16, 24, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    a, b = network(x), Reference(network, **theirs)(y)
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    cotangent = torch.randn_like(a)
    (a * cotangent).sum().backward()
    (b * cotangent).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-9, rtol=1e-9)


def test_the_count_of_the_re_implementation() -> None:
    network = composer.load("u_transformer:hxlh50k").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == 11678345
    parts = {n: sum(p.numel() for p in m.parameters()) for n, m in network.named_children()}
    assert parts["bottom"] == 786432
    assert parts["head"] == 585
    ups = [sum(p.numel() for p in m.parameters()) for m in network.up.children()]
    assert ups == [4723712, 1182208, 296192]


def test_four_skips_of_the_re_implementation() -> None:
    widths = [64, 128, 256, 512, 1024]
    network = composer.load("u_transformer:hxlh50k", widths=widths).build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == 47084169


def test_the_ablations_leave_out_one_attention() -> None:
    has = {
        preset: {k.split(".")[0] for k in state if ".query." in k}
        for preset in ("full", "mhsa", "mhca")
        for state in [composer.load(f"u_transformer:{preset}", **TINY).build(device="meta").state_dict()]
    }
    assert has == {"full": {"bottom", "up"}, "mhsa": {"bottom"}, "mhca": {"up"}}


@pytest.mark.parametrize(
    "options",
    [
        dict(heads=2, cross_heads=1, norm={"use": "norm.instance", "affine": False}, conv_bias=False,
             act={"use": "act.leaky_relu", "slope": 0.2}, pool={"use": "pool.average"}, smooth=None,
             gate_upsample={"use": "conv", "transposed": True, "kernel": 2, "stride": 2},
             upsample={"use": "conv", "transposed": True, "kernel": 2, "stride": 2}, position_up=False),
        dict(heads=1, project=False, bias=False, order="conv act norm", gate="act.softmax",
             gate_order="conv act norm", gate_upsample={"use": "resize", "scale": 2, "mode": "nearest"},
             upsample={"use": "resize", "scale": 2, "mode": "nearest"}),
        dict(heads=1, scale="none", bias=False, project=False, narrow=False,
             skip_pool={"use": "conv", "kernel": 1, "stride": 2, "bias": False}),
    ],
    ids=["b", "d", "e"],
)  # fmt: skip
def test_other_readings_can_be_said(options: dict[str, Any]) -> None:
    network = composer.load("u_transformer", **TINY, **options).build()
    y = network(torch.randn(2, 2, 16, 24))
    assert y.shape == (2, 3, 16, 24)
    y.square().sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]


def test_sizes_and_volumes() -> None:
    blueprint = composer.load("u_transformer")
    assert blueprint.sizes()["H"][:3] == [8, 16, 24]
    network = composer.load("u_transformer", **TINY | dict(size=[8, 8, 12])).build().eval()
    assert network(torch.randn(1, 2, 8, 8, 12)).shape == (1, 3, 8, 8, 12)
