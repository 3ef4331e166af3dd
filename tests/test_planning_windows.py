"""Memory plans of networks with attention in windows: some windows after others, and strips for what stands around."""

from __future__ import annotations

import pytest
import torch
from test_passes import scrambled
from test_planning import same

import composer
from composer import chunking
from composer.planning import GROUPING, JOINING
from composer.testing import storages

TEXT = """\
blueprint: 1
name: windowed
inputs: {image: {type: B 1 D H W, size: [16, 8, 8]}}
graph:
  stem: {use: conv, out: 8, kernel: 3, norm: instance, act: relu}
  blocks: {repeat: 2, use: block.transformer, attention: {use: attention.window, window: 4, heads: 2, shift: "${'half' if j % 2 else 0}"}, mlp: mlp}
  wide: {use: conv, out: 32, kernel: 3, norm: instance, act: relu}
  head: {use: conv, out: 2, kernel: 1}
outputs: {logits: head}
"""


def lowered(made: composer.Blueprint, share: float) -> None:
    """A plan for a share of the peak lowers it, says how, and the network by it gives what it gave."""
    peak = made.cost(flops=False).peak.bytes
    plan = made.plan(int(peak * share))
    assert plan.chosen
    assert plan.after.peak.bytes < peak
    assert plan.grouped
    assert not {*GROUPING} & {*plan.without}
    assert "some windows or tokens after others" in str(plan)
    assert str(plan).count(".attention") >= 1
    network, plain = made.build(without=plan.without).planned(plan), made.build()
    scrambled(plain)
    program = made.check()
    x = torch.randn(1, 1, *(program.built[a] for a in program.inputs[0].axes))
    assert same(network, plain, x)
    real = storages.run(network, {"image": x}, False).peak
    assert abs(real - plan.after.peak.bytes) <= 0.02 * real


@pytest.mark.slow
def test_windows_and_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the passes that join them all scores of all windows are there at once, and no plan was worth it."""
    monkeypatch.setattr(chunking, "BYTES", 2**13)
    made = composer.Blueprint.parse(TEXT)
    apart = made.cost(flops=False, without=JOINING).peak.bytes
    assert apart > made.cost(flops=False).peak.bytes
    lowered(made, 0.8)
