"""A few steps of real training on pictures of ellipses, to see that a network learns: gradients reach what must change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

import composer
from composer.module import Network

HYBRIDS: dict[str, dict[str, Any]] = {
    "swin_unet_hybrid": dict(size=[64, 64], dim=16, depths=[2, 2, 2], heads=[2, 4, 8], window=4, tokens=2),
    "cotr_glam": dict(size=[16, 32, 32], widths=[8, 16, 24, 24], blocks=[1, 1, 1], layers=1, heads=2, points=2),
    "nnunet_fine": dict(size=[16, 32, 32], widths=[8, 16, 32], heads=4, cells=[2, 2], volume=[16, 64, 64]),
    "segformer_attention_unet": dict(
        size=[64, 64], channels=1, dims=[16, 32, 48, 64], heads=[1, 2, 3, 4], depths=[1, 1, 1, 1]
    ),
    "vit_vnet": dict(size=[32, 32, 32], dim=48, depth=3, heads=4, taps=[2, 1, 0], width=4),
}
"""The shipped hybrids, small."""


def ellipses(size: tuple[int, ...], batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy pictures (B, 1, *size) of a bright ellipse each, and its labels (B, *size)."""
    places = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij"))
    shape = (batch, len(size), *(1 for _ in size))
    middle = torch.rand(shape, generator=generator) - 0.5
    radius = torch.rand(shape, generator=generator) * 0.4 + 0.3
    inside = (((places - middle) / radius) ** 2).sum(1) < 1
    noise = torch.randn(inside.shape, generator=generator) * 0.3
    return (inside + noise)[:, None], inside.long()


def taught(network: Network, size: tuple[int, ...], steps: int = 20, rate: float = 5e-3) -> list[float]:
    """The loss at each step: cross-entropy, with AdamW, four new pictures a step."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    network.train()
    losses = []
    for _ in range(steps):
        image, labels = ellipses(size, 4, generator)
        others = {i.name: torch.zeros(4, i.type.channels) for i in network.inputs if i.name != "image"}
        loss = cross_entropy(at_full_size(network(image=image, **others), labels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def at_full_size(out: Tensor | Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """The logits of a network, as large as the labels."""
    logits = out if isinstance(out, Tensor) else out["logits"]
    mode = "bilinear" if labels.ndim == 3 else "trilinear"
    return logits if logits.shape[2:] == labels.shape[1:] else interpolate(logits, labels.shape[1:], mode=mode)


def hybrid(name: str) -> tuple[Network, tuple[int, ...]]:
    """A small hybrid with two classes, and the size of its image."""
    torch.manual_seed(0)
    return composer.load(name, **HYBRIDS[name], classes=2).build(), tuple(HYBRIDS[name]["size"])


def lines(name: str) -> int:
    """How many lines a shipped blueprint has, without its comments."""
    text = composer.blueprint.shipped()[name].read_text(encoding="utf-8")
    return sum(bool(line.strip()) and not line.startswith("#") for line in text.splitlines())
