"""`transformer` against torch.nn.Transformer: configurations, masks, gradients, counts, and its sinusoidal positions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import composer
from composer.weights import convert, load_into

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch's remark about its own fast path

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "post": (
        dict(dim=12, hidden=20, heads=3, encoder_layers=2, decoder_layers=3),
        dict(d_model=12, dim_feedforward=20, nhead=3, num_encoder_layers=2, num_decoder_layers=3),
    ),
    "pre": (
        dict(dim=16, hidden=24, heads=2, encoder_layers=3, decoder_layers=1, order="pre", act="gelu", eps=1e-3,
             bias=False, causal=False),
        dict(d_model=16, dim_feedforward=24, nhead=2, num_encoder_layers=3, num_decoder_layers=1, norm_first=True,
             activation="gelu", layer_norm_eps=1e-3, bias=False),
    ),
}  # fmt: skip


def official(options: dict[str, Any]) -> nn.Transformer:
    torch.manual_seed(7)
    model = nn.Transformer(**options, batch_first=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def loaded(blueprint: composer.Blueprint, tensors: dict[str, Tensor]) -> nn.Module:
    network = blueprint.build().eval()
    ours, plan = convert(tensors, blueprint.weights["torch"], network.state_dict())
    assert plan.complete, plan
    load_into(network, ours)
    return network


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case: str, masked: bool) -> None:
    ours, theirs = CASES[case]
    model = official(theirs)
    network = loaded(composer.load("transformer:torch", **ours, masked=masked), model.state_dict())
    dim = ours["dim"]
    torch.manual_seed(3)
    source, target = torch.randn(2, dim, 7, requires_grad=True), torch.randn(2, dim, 5, requires_grad=True)
    a, b = (t.detach().mT.clone().requires_grad_() for t in (source, target))
    valid = [torch.ones(2, n, dtype=torch.bool) for n in (7, 5)]
    for mask in valid if masked else ():
        mask[1, -2:] = False
    hidden = dict(
        src_key_padding_mask=~valid[0], tgt_key_padding_mask=~valid[1], memory_key_padding_mask=~valid[0]
    ) if masked else {}  # fmt: skip
    later = torch.ones(5, 5, dtype=torch.bool).triu(1) if ours.get("causal", True) else None
    wanted = model(a, b, tgt_mask=later, **hidden).mT
    y = network(source, target, *(v[:, None] for v in valid if masked))
    torch.testing.assert_close(y, wanted, atol=2e-5, rtol=2e-5)
    cotangent = torch.randn_like(y)
    (y * cotangent).sum().backward()
    (wanted * cotangent).sum().backward()
    torch.testing.assert_close(source.grad, a.grad.mT, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(target.grad, b.grad.mT, atol=2e-5, rtol=2e-5)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())


PUBLISHED = dict(base=18914304 + 25224192, big=176361472 - 4 * 1024, torch=44140544, torch_big=176361472)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_counts(preset: str) -> None:
    network = composer.load(f"transformer:{preset}").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[preset]


def test_the_paper_adds_positions_before_the_same_network() -> None:
    ours, theirs = CASES["post"]
    model = official(theirs)
    model.encoder.norm = model.decoder.norm = None
    network = loaded(composer.load("transformer", **ours), model.state_dict())
    source, target = torch.randn(1, 12, 6), torch.randn(1, 12, 4)

    def placed(x: Tensor) -> Tensor:
        x = x.clone()
        for p in range(x.shape[2]):
            for i in range(0, 12, 2):
                x[:, i, p] += math.sin(p / 10000 ** (i / 12))
                x[:, i + 1, p] += math.cos(p / 10000 ** (i / 12))
        return x.mT

    wanted = model(placed(source), placed(target), tgt_mask=nn.Transformer.generate_square_subsequent_mask(4))
    torch.testing.assert_close(network(source, target), wanted.mT, atol=2e-5, rtol=2e-5)


def test_any_two_lengths_fit() -> None:
    network = composer.load("transformer", **CASES["post"][0]).build().eval()
    for s, t in ((1, 1), (9, 3), (2, 17)):
        assert network(torch.randn(1, 12, s), torch.randn(1, 12, t)).shape == (1, 12, t)


def test_dropout_and_init() -> None:
    torch.manual_seed(0)
    network = composer.load("transformer", dim=96, hidden=200, heads=4, encoder_layers=1, decoder_layers=1).build()
    dropped = [n for n, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.1]
    assert len(dropped) == 2 + 3 + 4
    kept = [m.dropout for n, m in network.named_modules() if n.endswith(".attend")]
    assert kept == [0.1] * 3
    state = network.state_dict()
    assert state["encoder.0.mlp.fc1.weight"].abs().max().item() == pytest.approx((6 / 296) ** 0.5, rel=0.01)
    assert state["decoder.0.cross_attention.key.weight"].abs().max().item() == pytest.approx(64**-0.5, rel=0.01)
    assert not state["decoder.0.cross_attention.key.bias"].any()
