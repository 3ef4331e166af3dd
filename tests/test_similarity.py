"""K = P·Pᵀ of every kind of positions, against a slow version from its definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import composer
from composer import similarity, similarity_figure
from composer.cli.main import run
from composer.diagnostics import BlueprintError
from composer.module import build
from composer.similarity import Code


def codes_of(blueprint: composer.Blueprint, network: Any = None, count: int = 100) -> list[Code]:
    program = blueprint.infer()
    steps = similarity.chosen(program)[:count]
    return list(similarity.codes(program, network or build(similarity.only(program, steps)), steps))


def parsed(node: str, axes: str = "H W", size: str = "[3, 4]", channels: int = 8) -> composer.Blueprint:
    text = f"blueprint: 1\ninputs: {{x: {{type: B {channels} {axes}, size: {size}}}}}\ngraph: {{node: {node}}}\n"
    return composer.Blueprint.parse(text + "outputs: {y: node}\n")


def test_a_learned_table_less_its_class_token() -> None:
    blueprint = composer.load("vit", size=[32, 48], dim=16, depth=1, heads=2)
    network = blueprint.build()
    (code,) = codes_of(blueprint, network)
    table = network.position.table.detach()
    assert (code.address, code.kind, code.grid) == ("position", "code", (2, 3))
    k = code.similarity()
    for i in range(6):
        for j in range(6):
            a, b = table[1 + i], table[1 + j]
            assert float(k[i, j]) == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-6)
    assert torch.allclose(code.similarity([4]), k[[4]])


def test_a_network_of_its_positions_alone_begins_as_the_whole_one() -> None:
    """`init:` fills the table as it fills it in the whole network: of the same spread, here zeros."""
    blueprint = composer.Blueprint.parse("""\
blueprint: 1
extends: vit
params: {size: [32, 32], dim: 16, depth: 1, heads: 2}
init: [{at: position, table: constant(0.5)}]
""")
    (code,) = codes_of(blueprint)
    assert code.vectors is not None
    assert code.vectors.unique().tolist() == [0.5]


@pytest.mark.parametrize("add", ["true", "false"])
@pytest.mark.parametrize(("axes", "size", "grid"), [("L", "[6]", (6,)), ("H W", "[3, 4]", (3, 4)), ("D H W", "[2, 3, 3]", (2, 3, 3))])  # fmt: skip
def test_sines(add: str, axes: str, size: str, grid: tuple[int, ...]) -> None:
    """cos(a - b) of every wave, from place to place along every axis."""
    width = 12 // len(grid)
    (code,) = codes_of(parsed(f"{{use: position.sine, add: {add}}}", axes, size, channels=12))
    assert code.grid == grid
    k = code.similarity()
    places = [tuple(int(i) for i in p) for p in torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid))]
    speeds = [10000 ** (-2 * (c // 2) / width) for c in range(0, width, 2)]
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            waves = [math.cos((m - n) * s) for m, n in zip(a, b, strict=True) for s in speeds]
            assert float(k[i, j]) == pytest.approx(sum(waves) / len(waves), abs=1e-5)


def test_tables_for_each_axis() -> None:
    blueprint = parsed("{use: position.learned, axis_rows: 5}")
    network = blueprint.build()
    (code,) = codes_of(blueprint, network)
    rows, columns = network.node.tables
    p = torch.stack([torch.cat([columns[x], rows[y]]) for y in range(3) for x in range(4)]).detach()
    assert torch.allclose(code.similarity(), torch.nn.functional.cosine_similarity(p[:, None], p[None], dim=-1))


def test_rotary() -> None:
    """The mean cosine of the angles between two places; what does not turn stays alike."""
    node = "{use: attention.multihead, heads: 1, rotate: position.rotary}"
    (code,) = codes_of(parsed(node, channels=8))
    assert (code.kind, code.grid) == ("angles", (3, 4))
    k = code.similarity()
    for i in range(12):
        for j in range(12):
            turns = [(i // 4 - j // 4, s) for s in (1, 0.01)] + [(i % 4 - j % 4, s) for s in (1, 0.01)]
            assert float(k[i, j]) == pytest.approx(sum(math.cos(d * s) for d, s in turns) / 4, abs=1e-5)


def test_a_relative_bias() -> None:
    blueprint = parsed("{use: attention.window, heads: 2, window: 2}", size="[4, 4]")
    network = blueprint.build()
    (code,) = codes_of(blueprint, network)
    assert (code.kind, code.grid) == ("bias", (2, 2))
    table = network.node.bias.table.detach().mean(1)
    for i in range(4):
        for j in range(4):
            row = (i // 2 - j // 2 + 1) * 3 + (i % 2 - j % 2 + 1)
            assert float(code.similarity()[i, j]) == pytest.approx(float(table[row]))


@pytest.mark.parametrize("name", ["transformer", "detr", "cotr", "u_transformer", "swin_unetr", "deformable_detr"])
def test_shipped_networks(name: str) -> None:
    """Of every size the codes are as many as the cells, and each is like itself."""
    blueprint = composer.load(name)
    for code in codes_of(blueprint, count=2):
        middle = math.prod(code.grid) // 2
        row = code.similarity([middle])[0]
        assert len(row) == math.prod(code.grid)
        assert code.kind == "bias" or float(row[middle]) == pytest.approx(1, abs=1e-4)
        assert torch.isfinite(row).all()


def test_panels_show_the_rows_of_their_places() -> None:
    """On a line all of K; on a plane a square of places; of a volume three slices through each."""
    (line,) = codes_of(parsed("{use: position.sine}", "L", "[6]"))
    (plane,) = codes_of(parsed("{use: position.sine}", size="[5, 9]"))
    (volume,) = codes_of(parsed("{use: position.sine}", "D H W", "[2, 3, 4]", channels=12))
    ((_, places),) = similarity_figure.rows_of(line, alone=True)
    (panel,) = similarity_figure.panels_of((line, places))
    assert panel.image.shape == (6, 6)
    rows = similarity_figure.rows_of(plane, alone=True)
    assert [len(places) for _, places in rows] == [7] * 5
    assert len(similarity_figure.rows_of(plane, alone=False)) == 1
    for row in rows:
        for panel in similarity_figure.panels_of(row):
            assert panel.image.shape == plane.grid
            assert float(panel.image[panel.ring]) == pytest.approx(1, abs=1e-5)
    rows = similarity_figure.rows_of(volume, alone=True)
    shapes = [[p.image.shape for p in similarity_figure.panels_of(row)] for row in rows]
    assert shapes == [[(3, 4)] * 4, [(2, 4)] * 4, [(2, 3)] * 4]
    for row in rows:
        assert all(float(p.image[p.ring]) == pytest.approx(1, abs=1e-5) for p in similarity_figure.panels_of(row))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(composer.load("vit", size=[32, 32], dim=16, depth=1, heads=2).to_yaml())
    assert run(["show", "net.yaml", "--position", "-o", "k.png"]) == 0
    assert "no weights were given" in capsys.readouterr().out
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    network = composer.load("net.yaml").build()
    torch.save(network.state_dict(), "w.pt")
    assert run(["show", "net.yaml", "--position", "--weights", "w.pt"]) == 0
    assert capsys.readouterr().out == "wrote vit.position.png\n"
    assert run(["show", "unet", "--position"]) == 1
    assert "BP842]: `unet` has no block of positions" in capsys.readouterr().err
    assert run(["show", "net.yaml", "--position", "--at", "blocks.*"]) == 1
    assert "`vit` has no positions at blocks.*" in capsys.readouterr().err
    assert run(["show", "net.yaml", "--position", "-o", "k.gif"]) == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_none_is_refused() -> None:
    with pytest.raises(BlueprintError, match=r"(?s)BP842.*its convolutions learn"):
        similarity.chosen(composer.load("segformer").infer())
