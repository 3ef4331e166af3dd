"""A blueprint with `tap:` in training and as a file of its own: beside its weights of attention it is as any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_training import listed

import composer
from composer.cli.main import run

pytest.importorskip("lightning")
from composer.lightning import Segmentation

TEXT = """\
blueprint: 1
name: tapped
inputs: {image: {type: B 1 H W, size: [16, 16]}}
graph:
  stem: {use: conv, out: 4, kernel: 3}
  mix: {use: attention.multihead, heads: 2}
  head: {use: conv, out: 2, kernel: 1}
outputs: {logits: head}
tap: [mix]
"""


def both() -> tuple[composer.module.Network, composer.module.Network]:
    """The same network with and without."""
    made = []
    for tap in ("[mix]", "[]"):
        torch.manual_seed(0)
        made.append(composer.Blueprint.parse(TEXT.replace("[mix]", tap)).build())
    return made[0], made[1]


def test_weights_of_attention_are_no_maps_of_classes() -> None:
    """As many heads as classes, and as many queries as rows: only the name tells them apart."""
    batch = {"image": torch.randn(2, 1, 16, 16), "label": torch.randint(0, 2, (2, 1, 16, 16)).float()}
    losses = []
    for network in both():
        module = Segmentation(network.train())
        module.log = lambda *given, **more: None  # type: ignore[method-assign, assignment]
        loss = module.training_step(batch, 0)
        loss.backward()
        gradients = {n: p.grad for n, p in network.named_parameters()}
        losses.append((loss.detach(), gradients))
    assert torch.allclose(losses[0][0], losses[1][0], atol=1e-6)
    for name, gradient in losses[0][1].items():
        assert gradient is not None
        assert torch.allclose(gradient, losses[1][1][name], atol=1e-5), name


def test_it_is_trained_predicts_and_becomes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, data = tmp_path / "tapped.yaml", listed(tmp_path, 2)
    path.write_text(TEXT)
    words = ["--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu", "--epochs", "1", "--steps", "1"]
    assert run(["train", str(path), *words]) == 0
    found = str(tmp_path / "found.nii.gz")
    assert run(["predict", str(tmp_path / "b0.nii.gz"), "--run", str(tmp_path / "run"), "-o", found]) == 0
    capsys.readouterr()
    assert run(["eject", str(path), "-o", str(tmp_path / "net.py")]) == 0
    said = capsys.readouterr().out
    assert "left out: `tap:`" in said
    text = (tmp_path / "net.py").read_text()
    assert "gives no weights of attention" in text
    scope: dict[str, object] = {"__name__": "ejected"}
    exec(compile(text, "net.py", "exec"), scope)
    name = said.split()[-1]
    ejected = scope[name]().eval()  # type: ignore[operator]
    network = composer.load(path).build().eval()
    network.load_state_dict(ejected.state_dict())
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        one, other = ejected(x), network(x)
    assert set(other) == {"logits", "taps"}
    assert torch.allclose(one, other["logits"], atol=1e-6)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["name"] == "tapped"
