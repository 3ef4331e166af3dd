"""The shipped hybrids: at most twenty lines each, really made of what they say, and they learn."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from teaching import HYBRIDS, hybrid, lines, taught

import composer
from composer.blueprint import is_hybrid, published, shipped
from composer.graph import Call
from composer.usage import walk

PARTS = {
    "swin_unet_hybrid": {"attention.window", "memory.global_tokens", "fuse.multiply", "position.sine"},
    "cotr_glam": {"attention.deformable", "attention.window", "memory.global_tokens"},
    "nnunet_fine": {"memory.volume_tokens", "memory.cells", "attention.window"},
    "segformer_attention_unet": {"attention.multihead", "gate.additive", "fuse.multiply"},
    "vit_vnet": {"tokenizer.patch", "attention.multihead", "block.residual", "decoder.stage"},
}
"""What each one must have been made of."""


def used(name: str) -> set[str]:
    members = composer.load(name).link().members
    return {b.use for member in members for b in walk(member) if isinstance(b, Call)}


def test_hybrids_stand_apart_from_what_was_published() -> None:
    assert {n for n, path in shipped().items() if is_hybrid(path)} == set(HYBRIDS) == set(PARTS)
    assert not set(published()) & set(HYBRIDS)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_is_short_and_made_of_its_parts(name: str) -> None:
    assert lines(name) <= len(shipped()[name].read_text(encoding="utf-8").splitlines()) <= 20
    assert used(name) >= PARTS[name]


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_learns(name: str) -> None:
    network, size = hybrid(name)
    losses = taught(network, size)
    assert fmean(losses[-3:]) < 0.6 * fmean(losses[:3]), losses


@pytest.mark.parametrize("name", HYBRIDS)
def test_every_parameter_of_a_hybrid_takes_part(name: str) -> None:
    """No weight is there that nothing trains, where the published FINE and GLAM have some."""
    network, size = hybrid(name)
    others = {i.name: torch.zeros(2, i.type.channels) for i in network.inputs if i.name != "image"}
    out = network(image=torch.randn(2, 1, *size), **others)
    sum(v.square().mean() for v in _tensors(out)).backward()
    idle = {n for n, p in network.named_parameters() if p.grad is None}
    assert idle == set()


def _tensors(out: object) -> list[torch.Tensor]:
    if isinstance(out, torch.Tensor):
        return [out]
    return [t for value in (out.values() if isinstance(out, dict) else out) for t in _tensors(value)]
