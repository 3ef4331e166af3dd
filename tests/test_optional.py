"""Optional inputs: one network with them and without."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import composer

TEXT = """blueprint: 1
name: optional
inputs: {image: {type: B 4 *S, size: [8, 6]}, mask: {type: B 1 *S, size: [8, 6], optional: true}}
graph:
  small: {use: pool.max, from: image}
  linear: {use: linear, out: 4}
  valid: {use: resize, from: {x: mask, like: small}, mode: nearest}
  soft: {use: conv, from: valid, out: 1}
  attention: {use: attention.multihead, heads: 2, from: {x: linear, mask: valid}}
  sum: {use: fuse.add, from: [attention, linear]}
outputs: {y: sum, z: soft}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "optional.yaml"
    path.write_text(TEXT)
    return path


def test_a_network_runs_with_and_without_an_optional_input(path: Path) -> None:
    network = composer.load(path).build().eval()
    x, mask = torch.randn(2, 4, 8, 6), torch.ones(2, 1, 8, 6)
    assert "soft.weight" in network.state_dict()
    with torch.no_grad():
        bare, full = network(x), network(x, mask)
        mask[:, :, 4:] = 0
        half = network(image=x, mask=mask)
    assert bare["z"] is None
    assert full["z"].shape == (2, 1, 4, 3)
    torch.testing.assert_close(bare["y"], full["y"])
    assert not torch.allclose(half["y"], full["y"])
    torch.testing.assert_close(network(x, None)["y"], bare["y"])


def test_the_axes_of_an_optional_input_are_checked(path: Path) -> None:
    network = composer.load(path).build()
    with pytest.raises(composer.BlueprintError, match="must be equal"):
        network(torch.randn(2, 4, 8, 6), torch.ones(2, 1, 8, 8))


def test_copies_have_their_own_weights(path: Path) -> None:
    network = composer.load(path).build().eval()
    x, mask = torch.randn(1, 4, 8, 6), torch.ones(1, 1, 8, 6)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        before = network(x, mask)["y"]
        copied.attention.project.bias += 1
        assert torch.equal(network(x, mask)["y"], before)
        assert not torch.allclose(copied(x, mask)["y"], before)
        torch.testing.assert_close(copied(x)["y"], copied(x, mask)["y"])


def test_mistakes_that_show_only_with_the_input_are_found(path: Path) -> None:
    path.write_text(TEXT.replace("{x: mask, like: small}, mode: nearest", "{x: mask}, scale: 1"))
    with pytest.raises(composer.BlueprintError, match="differ in number"):
        composer.load(path).check()


def test_there_cannot_be_many(path: Path) -> None:
    more = ", ".join(f"m{k}: {{type: B 1 *S, optional: true}}" for k in range(4))
    path.write_text(TEXT.replace("optional: true}}", f"optional: true}}, {more}}}"))
    with pytest.raises(composer.BlueprintError, match="5 inputs are optional; there can be 4"):
        composer.load(path).check()
