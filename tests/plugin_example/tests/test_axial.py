"""The plugin's own tests, as its author runs them: blocks against their contract and against slow versions."""

from __future__ import annotations

import csv
from pathlib import Path

import composer_axial
import pytest
import torch
from composer_axial.blocks import AxialAttention, GatedFusion
from torch import nn

import composer
from composer.testing import check_block


@pytest.mark.parametrize("block", composer_axial.register_blocks(), ids=lambda b: b.name)
def test_the_blocks_keep_their_contract(block):
    check_block(block)


@pytest.mark.parametrize("grid", [(4, 3), (2, 3, 5)])
def test_attention_runs_along_one_axis_after_the_other(grid):
    """Against torch's own attention, one line of cells at a time."""
    ours = AxialAttention(heads=2).build(composer.map_(8, grid), len(grid))
    x = torch.randn(2, *grid, 8)
    wanted = x
    for axis, along in enumerate(ours.axes):
        theirs = nn.MultiheadAttention(8, 2, batch_first=True)
        theirs.in_proj_weight.data = torch.cat([p.weight.data for p in (along.query, along.key, along.value)])
        theirs.in_proj_bias.data = torch.cat([p.bias.data for p in (along.query, along.key, along.value)])
        theirs.out_proj.load_state_dict(along.project.state_dict())
        lines = wanted.movedim(axis + 1, -2)
        flat = lines.reshape(-1, *lines.shape[-2:])
        wanted = theirs(flat, flat, flat)[0].reshape(lines.shape).movedim(-2, axis + 1)
    torch.testing.assert_close(ours(x), wanted)


def test_the_gate_chooses_between_x_and_skip():
    module = GatedFusion().build(composer.map_(3, (4, 4)))
    x, skip = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    for bias, wanted in ((50.0, x), (-50.0, skip)):
        nn.init.zeros_(module.gate.weight)
        nn.init.constant_(module.gate.bias, bias)
        torch.testing.assert_close(module(x, skip), wanted)


@pytest.mark.parametrize("size", [[32, 32], [16, 16, 16]])
def test_the_blueprint_runs_in_2d_and_3d(size):
    network = composer.load("axial_unet", size=size, widths=[8, 16, 16]).build()
    assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)
    assert any("look.body.axes" in key for key in network.state_dict())


def test_the_pass_takes_idle_dropout_and_changes_nothing(tmp_path):
    path = tmp_path / "idle.yaml"
    graph = (
        "{a: {use: conv, out: 4}, idle: {use: dropout, rate: 0}, b: {use: conv, out: 4}, end: {use: dropout, rate: 0}}"
    )
    path.write_text(f"blueprint: 1\ninputs: {{image: B 1 8 8}}\ngraph: {graph}\noutputs: {{y: end}}\n")
    blueprint = composer.load(path)
    before, after = blueprint.check(), blueprint.optimized()
    names = lambda program: [s.address for s in program.steps]  # noqa: E731
    assert {"idle", "end"} <= set(names(before))
    assert not {"idle", "end"} & set(names(after))
    torch.manual_seed(0)
    network, x = blueprint.build(), torch.randn(1, 1, 8, 8)
    assert set(network.state_dict()) == {f"{n}.{p}" for n in "ab" for p in ("weight", "bias")}
    torch.testing.assert_close(network(x), network.b(network.a(x)))


def test_the_table_has_a_row_for_each_weight(tmp_path):
    network = composer.load("vit:tiny", depth=1).build(device="meta")
    write = composer.Registry.discover().exporters["csv"]()
    write(network, tmp_path / "vit.csv")
    head, *rows = list(csv.reader(Path(tmp_path / "vit.csv").read_text().splitlines()))
    assert head == ["address", "shape", "numbers"]
    assert {r[0]: int(r[2]) for r in rows} == {k: v.numel() for k, v in network.state_dict().items()}


def test_names_of_version_1_0_go_on_with_a_warning(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(
        "blueprint: 1\ninputs: {image: B 8 8 8}\ngraph:\n  a: {use: axial.attn, n_heads: 2}\noutputs: {y: a}\n"
    )
    program = composer.load(path).check()
    assert [(w.severity, w.code, w.span.line, w.span.column) for w in program.graph.warnings] == [
        ("warning", "BP609", 4, 12),
        ("warning", "BP609", 4, 24),
    ]
    assert AxialAttention(heads=2) in [step.block for step in program.steps]
