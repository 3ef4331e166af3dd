"""Parameters of published configurations that have no golden, and what presets do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import composer

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("vnet", dict(classes=1), 45_593_892),
    ("vnet", dict(classes=14), 45_646_126),
    ("attention_unet", dict(classes=2), 6_472_784),
    ("attention_unet", dict(classes=8), 6_474_494),
    ("attention_unet:single", {}, 6_214_151),
    ("attention_unet:single", dict(classes=2), 6_213_613),
    ("attention_unet:none", {}, 5_888_004),
    ("attention_unet:none", dict(classes=8), 5_889_176),
    ("attention_unet_monai", dict(classes=2), 5_909_130),
    ("attention_unet_monai", dict(classes=2, size=[64, 64], widths=[64, 128, 256, 512, 1024]), 31_739_250),
    ("attention_unet_monai", dict(widths=[64, 128, 256, 512, 1024]), 94_483_710),
    ("nonlocal_unet:plain", {}, 2_466_052),
    ("unetr", dict(blocks=False), 92_452_270 + 18_432),
    ("unetr", dict(size=[64, 128, 128]), 92_814_766 + 18_432),
    ("unetr", dict(size=[128, 128, 128], channels=4, classes=4), 102_449_732 + 18_432),
    ("swin_unetr", dict(channels=4, classes=3), 62_191_941),
    ("swin_unetr:f24", {}, 15_703_304),
    ("swin_unetr:f12", {}, 4_078_220),
]
"""From the official code; that of UNETR is without the 18,432 of norms that never run."""


@pytest.mark.parametrize(("name", "params", "count"), COUNTS, ids=[f"{n}-{c}" for n, _, c in COUNTS])
def test_parameters(name: str, params: dict[str, Any], count: int) -> None:
    network = composer.load(name, **params).build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == count


def test_the_fixed_nonlocal_block_begins_as_the_identity_and_the_official_does_not() -> None:
    tiny: dict[str, Any] = dict(size=[16, 16, 4], widths=[4, 8, 12], pool=2)
    for name, norm in (("nonlocal_unet", False), ("nonlocal_unet:fixed", True)):
        network = composer.load(name, **tiny).build()
        weight = network.get_submodule("down.1.nonlocal.body.norm").weight
        assert bool((weight == 0).all()) is norm
        assert network.get_submodule("down.1.convs.0.norm").weight.mean() > 0.9


def test_the_residual_encoder_begins_with_its_shortcuts() -> None:
    network = composer.load("nnunet:resenc", widths=[4, 8, 8], blocks=[1, 2, 1], size=[8, 8, 8]).build()
    for copy in ("encoder.0.0", "encoder.1.0", "encoder.1.1", "encoder.2.0"):
        assert (network.get_submodule(f"{copy}.block.body.1.norm").weight == 0).all()
        assert (network.get_submodule(f"{copy}.block.body.0.norm").weight == 1).all()


@pytest.mark.parametrize(("side", "shrinks"), [(64, False), (32, True)])
def test_fixed_swin_unetr_differs_only_where_windows_shrink(side: int, shrinks: bool) -> None:
    """The coarsest blocks have side/16 cells: as many as the window of 4, or 2, whose offsets are counted anew."""
    tiny: dict[str, Any] = dict(size=[side, side], dim=4, heads=[1, 1, 1, 1], window=4, norm="batch")
    official = composer.load("swin_unetr", **tiny).build().eval()
    fixed = composer.load("swin_unetr:fixed", **tiny).build().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in official.parameters():
            parameter.normal_(0, 0.5)
        fixed.load_state_dict(official.state_dict())
        x = torch.randn(1, 1, side, side)
        difference = ((official(x) - fixed(x)).abs().max() / official(x).std()).item()
    assert (difference > 1e-3) is shrinks
    assert shrinks or difference == 0


def test_duplicated_neighbours_change_swin_unetr_in_3d_only() -> None:
    for size, changes in (([32, 32, 64], True), ([64, 64], False)):
        torch.manual_seed(0)
        tiny: dict[str, Any] = dict(size=size, dim=4, heads=[1, 1, 1, 1], window=2)
        now = composer.load("swin_unetr", **tiny).build().eval()
        then = composer.load("swin_unetr", downsample="duplicated", **tiny).build().eval()
        then.load_state_dict(now.state_dict())
        x = torch.randn(1, 1, *size)
        with torch.no_grad():
            assert bool((now(x) - then(x)).abs().max() > 1e-4) is changes


def test_swin_unet_takes_any_number_of_stages_and_a_scale_of_its_own() -> None:
    tiny: dict[str, Any] = dict(dim=8, heads=[1, 2], depths=[2, 2], size=[28, 28], window=7, patch=2)
    network = composer.load("swin_unet", **tiny).build()
    assert {k.split(".")[1] for k in network.state_dict() if k.startswith("decoder")} == {"0"}
    other = composer.load("swin_unet", scale=0.1, **tiny).build()
    same = composer.load("swin_unet", scale=8**-0.5, **tiny).build()
    for copy in (other, same):
        copy.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 28, 28)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
        for copy in (other, same):
            copy.load_state_dict(network.state_dict())
        wanted = network.eval()(x)
        torch.testing.assert_close(same.eval()(x), wanted)
        assert not torch.allclose(other.eval()(x), wanted, atol=1e-3)
