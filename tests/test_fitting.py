"""Images of any size: `pad: auto` and `pad: crop` at an input."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import composer
from composer import sizes
from composer.fitting import part, reflected

SWIN: dict[str, Any] = dict(dim=8, heads=[1, 2], depths=[2, 2], size=[56, 56], window=7, classes=3)
"""Valid: multiples of 56."""


def built(name: str, **params: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    network = composer.load(name, **params).build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    return network


@pytest.fixture(scope="module")
def swin() -> dict[str, torch.nn.Module]:
    plain = built("swin_unet", **SWIN)
    found = {"error": plain}
    for fill in ("zero", "reflect"):
        found[fill] = built("swin_unet", **SWIN, **{"image.pad": "auto", "image.fill": fill})
        found[fill].load_state_dict(plain.state_dict())
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(1, 60), st.sampled_from(["zero", "reflect"]))
def test_swin_unet_takes_any_image(swin: dict[str, torch.nn.Module], h: int, w: int, fill: str) -> None:
    """And answers as if the image had been padded by hand around its middle."""
    x = torch.randn(2, 1, h, w)
    with torch.no_grad():
        y = swin[fill](x)
        tall, wide = -(-h // 56) * 56, -(-w // 56) * 56
        top, left = (tall - h) // 2, (wide - w) // 2
        mode = "constant" if fill == "zero" else "reflect"
        sides = [(0, 0), (0, 0), (top, tall - h - top), (left, wide - w - left)]
        padded = torch.from_numpy(np.pad(x.numpy(), sides, mode=mode))  # type: ignore[call-overload]
        wanted = swin["error"](padded)[:, :, top : top + h, left : left + w]
    assert y.shape == (2, 3, h, w)
    assert torch.equal(y, wanted)


def test_a_valid_size_passes_untouched(swin: dict[str, torch.nn.Module]) -> None:
    x = torch.randn(1, 1, 56, 112)
    with torch.no_grad():
        assert all(torch.equal(swin["error"](x), swin[fill](x)) for fill in ("zero", "reflect"))
    with pytest.raises(composer.BlueprintError, match="BP501"):
        swin["error"](torch.randn(1, 1, 56, 55))


def test_gradients_flow_and_copies_pad_too(swin: dict[str, torch.nn.Module]) -> None:
    network = copy.deepcopy(swin["reflect"]).train()
    x = torch.randn(2, 1, 13, 30, requires_grad=True)
    network(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).any())
    assert all(p.grad is not None for p in network.parameters())


def test_crop_takes_the_middle() -> None:
    plain, cropping = built("swin_unet", **SWIN), built("swin_unet", **SWIN, **{"image.pad": "crop"})
    x = torch.randn(1, 1, 113, 59)
    with torch.no_grad():
        assert torch.equal(cropping(x), plain(x[:, :, :112, 1:57]))
        with pytest.raises(composer.BlueprintError, match="BP501"):
            cropping(torch.randn(1, 1, 55, 60))


def test_volumes_and_several_outputs() -> None:
    tiny: dict[str, Any] = dict(size=[16, 16, 16], widths=[4, 8, 8, 8], classes=2)
    plain, padding = built("unet:volume", **tiny), built("unet:volume", **tiny, **{"image.pad": "auto"})
    x = torch.randn(1, 1, 17, 9, 30)
    with torch.no_grad():
        wanted = plain(functional.pad(x, [1, 1, 3, 4, 3, 4]))[:, :, 3:20, 3:12, 1:31]
        assert torch.equal(padding(x), wanted)


COARSE = """\
blueprint: 1
name: coarse
inputs: {image: {type: B 1 *S, size: [16, 16], pad: auto}}
graph:
  stem: {use: tokenizer.patch, dim: 4, patch: 4}
  deep: {use: conv, out: 2, kernel: 2, stride: 2, padding: 0}
outputs: {fine: stem, deep: deep}
"""


def test_outputs_on_coarser_grids_are_cropped_to_their_share(tmp_path: Path) -> None:
    (tmp_path / "coarse.yaml").write_text(COARSE)
    network = composer.load(tmp_path / "coarse.yaml").build().eval()
    made = network(torch.randn(1, 1, 13, 30))
    assert {name: tuple(y.shape) for name, y in made.items()} == {"fine": (1, 4, 4, 8), "deep": (1, 2, 2, 4)}


@pytest.mark.parametrize(
    ("cells", "share", "fed", "runs", "wanted"),
    [
        (28, 1, 28, 28, (0, 28)),  # nothing was padded
        (56, 1, 40, 56, (8, 40)),  # one cell for each of the image's
        (14, Fraction(1, 4), 40, 56, (2, 10)),
        (14, Fraction(1, 4), 41, 56, (1, 11)),  # rounded up
        (112, 2, 40, 56, (16, 80)),
        (388, 1, 560, 572, (6, 376)),  # unpadded convolutions ate 184
        (16, 1, 13, 15, (1, 13)),  # the network has padded at the far side, too
        (1, Fraction(1, 32), 3, 32, (0, 1)),
    ],
)
def test_which_cells_belong_to_the_image(
    cells: int, share: Fraction, fed: int, runs: int, wanted: tuple[int, int]
) -> None:
    assert part(cells, Fraction(share), fed, runs) == wanted


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
def test_reflection_is_that_of_numpy(length: int, before: int, behind: int) -> None:
    wanted = np.pad(np.arange(length), (before, behind), mode="reflect")
    assert reflected(length, before, behind).tolist() == wanted.tolist()


def test_the_unpadded_unet_answers_for_the_middle() -> None:
    """572 -> 388 as published; 570 is padded by two, and its answer has two cells less."""
    params: dict[str, Any] = dict(widths=[2, 2, 2, 2, 2], size=[188, 188])
    plain, padding = built("unet:original", **params), built("unet:original", **params, **{"image.pad": "auto"})
    x = torch.randn(1, 1, 186, 188)
    with torch.no_grad():
        wanted = plain(functional.pad(x, [0, 0, 1, 1]))
        assert wanted.shape[2:] == (4, 4)
        assert torch.equal(padding(x), wanted[:, :, 1:3])


def test_one_size_only_is_padded_to_or_refused() -> None:
    network = built("vit", size=[32, 32], dim=8, heads=2, depth=1, classes=3, **{"image.pad": "auto"})
    assert network(torch.randn(1, 3, 20, 31)).shape == (1, 3)
    with pytest.raises(composer.BlueprintError, match="BP501"):
        network(torch.randn(1, 3, 33, 32))


def test_fine_keeps_the_middle_where_its_position_says() -> None:
    tiny: dict[str, Any] = dict(size=[16, 32, 32], dim=12, depths=[2, 2, 2], heads=[2, 2, 4], windows=[4, 2, 2])
    more = dict(cells=[2, 2], volume=[46, 55, 46], classes=3)
    plain, padding = built("fine", **tiny, **more), built("fine", **tiny, **more, **{"image.pad": "auto"})
    x, position = torch.randn(1, 1, 13, 32, 27), torch.tensor([[0, 3, -4]])
    with torch.no_grad():
        wanted = plain(functional.pad(x, [1, 1, 0, 0, 1, 1]), position)["logits"][:, :, 1:14, :, 1:28]
        assert torch.equal(padding(x, position)["logits"], wanted)


def test_check_says_what_pads(tmp_path: Any) -> None:
    composer.load("swin_unet", **SWIN, **{"image.pad": "auto"}).check(image=(1, 1, 13, 99))
    with pytest.raises(composer.BlueprintError, match="error or auto or crop, not 'atuo'"):
        composer.load("swin_unet", **SWIN, **{"image.pad": "atuo"}).check()
    with pytest.raises(composer.BlueprintError, match="did you mean `pad`"):
        composer.load("swin_unet", **SWIN, **{"image.pads": "auto"}).check()


def test_the_sizes_it_runs_at_are_valid(swin: dict[str, torch.nn.Module]) -> None:
    constraints = composer.load("swin_unet", **SWIN).check().constraints
    for n in range(1, 120):
        runs = sizes.nearest_valid(constraints, {"H": n, "W": 2 * n})
        assert runs == {"H": -(-n // 56) * 56, "W": -(-2 * n // 56) * 56}
