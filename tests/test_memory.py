"""Memory: tokens beside the pixels, the volume's cells, and the blueprints that hold them."""

from __future__ import annotations

import itertools
from math import ceil, floor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from goldens import Case, stored
from parity import CASES, Comparison
from torch import Tensor, nn

import composer


def blueprint_of(folder: Path, block: dict[str, Any], repeat: int | None = 2) -> composer.Blueprint:
    """Transformer blocks on an image of 4 channels and 4 × 6 cells."""
    node = {"use": "block.transformer", **({"repeat": repeat} if repeat else {}), **block}
    text = {
        "blueprint": 1,
        "name": "one",
        "inputs": {"image": {"type": "B 4 H W", "size": [4, 6]}},
        "graph": {"blocks": node},
        "outputs": {"y": "blocks"},
    }
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    return composer.load(path)


def exact(network: nn.Module) -> nn.Module:
    """In double precision, with random weights."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in network.double().eval().parameters():
            parameter.normal_(0, 0.5)
    return network


def noise(*shape: int) -> Tensor:
    torch.manual_seed(4)
    return torch.randn(*shape, dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


WINDOW = {"use": "attention.window", "heads": 2, "window": [2, 3]}
GLOBAL = {
    "use": "memory.global_tokens",
    "count": 3,
    "rows": 17,
    "attention": {"use": "attention.multihead", "heads": 2},
}


# --- numbers against slow references ----------------------------------------------------------------------------------


def slow_attention(module: nn.Module, rows: Tensor, scores: Tensor) -> Tensor:
    """Two heads of multi-head attention over rows (N, C), row by row; `scores` (heads, N, N) is added."""
    made = torch.zeros_like(rows)
    q, k, v = (getattr(module, name)(rows) for name in ("query", "key", "value"))
    for n, h in itertools.product(range(len(rows)), range(2)):
        at = slice(2 * h, 2 * h + 2)
        weights = torch.stack([q[n, at] @ k[m, at] / 2**0.5 + scores[h, n, m] for m in range(len(rows))]).softmax(0)
        made[n, at] = sum(w * r for w, r in zip(weights, v[:, at], strict=True))
    return module.project(made)


def slow_blocks(network: Any, image: Tensor, tokens: str) -> Tensor:
    """GLAM's blocks on one image (4, 4, 6) in windows of 2 × 3, window by window, as the paper's figure goes."""
    x = image.permute(1, 2, 0)
    held = network.blocks.state.memory
    memory = [held.tokens] * 4
    corners = list(itertools.product((0, 2), (0, 3)))
    for block in (network.blocks._modules["0"], network.blocks._modules["1"]):
        bias = torch.zeros(2, 9, 9, dtype=x.dtype)
        bias[:, 3:, 3:] = block.attention.bias()
        normed, y, seen = block.norm1(x), torch.zeros_like(x), []
        for (a, b), own in zip(corners, memory, strict=True):
            rows = torch.cat([own, normed[a : a + 2, b : b + 3].reshape(6, 4)])
            made = slow_attention(block.attention, rows, bias)
            seen.append(made[:3])
            y[a : a + 2, b : b + 3] = made[3:].view(2, 3, 4)
        if tokens == "residual":
            seen = [t + s for t, s in zip(memory, seen, strict=True)]
            seen = [t + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(t)))) for t in seen]
        x = x + y
        x = x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
        every = torch.cat(seen) + held.position[17 // 2 - 12 // 2 :][:12]
        every = slow_attention(block.memory.attention, every, torch.zeros(2, 12, 12))
        memory = list((every.clamp(-0.4, 0.4) if tokens == "residual" else every).split(3))
    return x.permute(2, 0, 1)


@pytest.mark.parametrize("tokens", ["replace", "residual"])
def test_tokens_equal_a_loop_over_windows(tokens: str, tmp_path: Path) -> None:
    clamp = {"clamp": 0.4} if tokens == "residual" else {}
    block = {"attention": WINDOW, "mlp": "mlp", "tokens": tokens, "memory": {**GLOBAL, **clamp}}
    network = exact(blueprint_of(tmp_path, block).build())
    x = noise(2, 4, 4, 6)
    close(network(x), torch.stack([slow_blocks(network, image, tokens) for image in x]))


@pytest.mark.parametrize("past_the_end", ["first", "last"])
def test_cells_equal_a_loop(past_the_end: str) -> None:
    from composer_blocks.modules.memory import Cells

    grid, crop, volume = (2, 3), (9, 8), (31, 22)
    module = Cells(grid, crop, volume, past_the_end == "last")
    visits = [0] * 6
    for y, x in itertools.product(range(-30, 31, 3), range(-22, 23, 2)):
        pairs = []
        for place, n, d, whole in zip((y, x), grid, crop, volume, strict=True):
            start = place + whole // 2 - ceil((whole - d * n) / 2)
            first = max(0, floor((start - d // 2) / d))
            if start >= n * d and past_the_end == "first":
                first = 0
            first = min(first, n - 1)
            pairs.append((first, first + 1 if first < n - 1 else first - 1))
        wanted = [a * 3 + b for b in pairs[1] for a in pairs[0]]
        got = module(torch.tensor([[0.0, y, x]]))
        assert got["cell"].tolist() == [wanted]
        visits = [v + (k in wanted) for k, v in enumerate(visits)]
        assert module.visits.flatten().tolist() == visits
        assert got["seen"].flatten().tolist() == [v > 0 for v in visits]


def test_visits_are_kept_with_the_weights_and_counted_once_a_pass() -> None:
    from composer_blocks.modules.memory import Cells

    module = Cells((2, 2), (8, 8), (16, 16), True).eval()
    module(torch.zeros(5, 3))
    assert module.visits.flatten().tolist() == [1, 1, 1, 1]
    assert "visits" in module.state_dict()
    assert not list(module.parameters())


@pytest.mark.parametrize("official", [True, False])
def test_whose_rows_a_sample_reads_and_writes(official: bool) -> None:
    from composer_blocks.modules.memory import Read, Write

    first, cell = noise(6, 2), torch.tensor([[0, 1, 2, 3], [1, 2, 4, 5]])
    assert torch.equal(Read(official)(first, cell), first[cell])
    table = Write(official)(first, cell, torch.ones(2, 4, 2, dtype=first.dtype))
    for b in range(2):
        close(table[b], first + torch.tensor([[float(k in cell[b])] for k in range(6)]))
    later = Read(official)(table, cell)
    close(later[1], table.flatten(0, 1)[cell[1] + 1] if official else table[1, cell[1]])
    three = Read(official)(noise(3, 6, 2), cell[[0, 1, 0]])
    close(three[2], noise(3, 6, 2)[0 if official else 2, cell[0]])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_memory_needs_a_repeat(tmp_path: Path) -> None:
    with pytest.raises(composer.BlueprintError, match=r"BP404.*enclosing `repeat`"):
        blueprint_of(tmp_path, {"attention": WINDOW, "memory": GLOBAL}, None).check()


def test_a_memory_needs_an_attention_that_takes_tokens(tmp_path: Path) -> None:
    attention = {"use": "attention.multihead", "heads": 2}
    with pytest.raises(composer.BlueprintError, match=r"needs an attention that takes tokens"):
        blueprint_of(tmp_path, {"attention": attention, "memory": GLOBAL}).check()


def test_the_table_of_positions_limits_the_size(tmp_path: Path) -> None:
    block = {"attention": WINDOW, "memory": {**GLOBAL, "last": None, "rows": 17}}
    del block["memory"]["last"]
    blueprint = blueprint_of(tmp_path, {**block, "last": {"memory": {"attention": None}}})
    assert blueprint.sizes(12)["H"] == [2, 4]
    with pytest.raises(composer.BlueprintError, match="17 rows"):
        blueprint.build()(torch.zeros(1, 4, 6, 6))


def test_the_published_glam_ends_at_1120() -> None:
    sizes = composer.load("glam_swin_unet:g1").sizes(1400)["H"]
    shape = composer.load("glam_swin_unet:g1")
    shape.check(image=(1, 3, 1120, 1120))
    assert sizes[-1] >= 1120
    with pytest.raises(composer.BlueprintError, match="rows"):
        shape.check(image=(1, 3, 1124, 1124))


# --- networks ---------------------------------------------------------------------------------------------------------


def tiny(golden: str, preset: str = "", **more: Any) -> nn.Module:
    name, params = CASES[golden]
    torch.manual_seed(0)
    return composer.load(name + preset, **{**params, **more}).build().eval()


def test_fine_remembers_what_it_has_seen() -> None:
    """A second pass on the same module: other cells are seen by then."""
    comparison = Comparison(Case("fine_depth3", "tiny"))
    network, data = comparison.network, comparison.case.data
    with torch.no_grad():
        comparison.run(comparison.case.inputs())
        assert network.cell.visits.flatten().tolist() == data["state_after"]["vt_check"]
        second = dict(zip(("logits", "aux"), data["step2"]["outputs"], strict=True))
        outputs = network(*comparison.case.inputs("step2"))
    outputs["aux"] = outputs["aux"][0]
    assert network.cell.visits.flatten().tolist() == data["step2"]["state_after"]["vt_check"]
    for name, entry in second.items():
        wanted, ours = stored(entry, outputs[name])
        torch.testing.assert_close(ours, wanted, atol=data["tolerance"]["atol"][0], rtol=data["tolerance"]["rtol"])


@pytest.mark.parametrize("size", ["tiny", "published"])
def test_fine_counts_its_visits(size: str) -> None:
    from composer_blocks.modules.memory import Cells

    case = Case("fine", size)
    network = tiny("fine") if size == "tiny" else None
    cells = network.cell if network else Cells((5, 5), (128, 128), (660, 660), False)
    before = torch.tensor(case.data["explicit_tensors"]["vt_check"], dtype=torch.float32)
    cells.visits.copy_(before)
    cells(case.inputs()[1])
    assert cells.visits.flatten().tolist() == case.data["state_after"]["vt_check"]


def with_fewer(wide: nn.Module, narrow: nn.Module) -> None:
    """The weights of a network for one that lacks some of its parts."""
    state = wide.state_dict()
    narrow.load_state_dict({k: state[k] for k in narrow.state_dict()})


@pytest.mark.parametrize(("golden", "more"), [("glam_swin_unet", {}), ("glam_nnformer", {"index": "nnformer"})])
def test_what_glam_leaves_out_when_fixed_was_read_by_nobody(golden: str, more: dict[str, Any]) -> None:
    official, fixed = tiny(golden), tiny(golden, ":fixed", **more)
    with_fewer(official, fixed)
    x = Case(golden, "tiny").inputs()[0]
    with torch.no_grad():
        for a, b in zip(_flat(official(x)), _flat(fixed(x)), strict=True):
            assert torch.equal(a, b)
    left_out = sum(p.numel() for p in official.parameters()) - sum(p.numel() for p in fixed.parameters())
    assert left_out > 0


@pytest.mark.parametrize("golden", ["glam_swin_unet", "glam_nnformer", "fine", "fine_depth3"])
def test_everything_learns_when_fixed(golden: str) -> None:
    network = tiny(golden, ":fixed").train()
    sum(o.square().mean() for o in _flat(network(*Case(golden, "tiny").inputs()))).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("fixed", [True, False])
def test_samples_of_fine_keep_to_themselves_when_fixed(fixed: bool) -> None:
    network = tiny("fine_depth3", ":fixed" if fixed else "").double()
    x, position = torch.randn(2, 1, 16, 32, 32).double(), torch.tensor([[0.0, 9, 2], [0, -30, 8]]).double()
    network.cell.visits.fill_(1)
    with torch.no_grad():
        both, second = network(x, position)["logits"][1], network(x[1:], position[1:])["logits"][0]
    assert torch.allclose(both, second, atol=1e-9) == fixed


def test_global_context_reaches_the_pixels_of_a_convolutional_network() -> None:
    """In GLAM-UNet the far corner feels the other one; in the U-Net without tokens its reach ends before."""
    params = {"size": [128, 128], "widths": [4, 8, 8], "norm": None}

    def reach(network: nn.Module) -> Tensor:
        x = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
        network.double().eval()(x)[0, 0, 0, 0].backward()
        assert x.grad is not None
        return x.grad[0, 0, -8:, -8:].abs().max()

    torch.manual_seed(1)  # without norms a path of ReLUs may be cut by chance
    assert reach(composer.load("unet", **params).build()) == 0
    assert reach(composer.load("glam_unet", tokens=2, window=4, heads=2, **params).build()) > 0


def test_the_state_of_a_memory_stands_at_its_repeat() -> None:
    names = set(tiny("fine").state_dict())
    assert {"encoder.0.blocks.state.memory.tokens", "encoder.0.blocks.state.memory.position"} <= names
    assert {"decoder.0.block.state.memory.volume.tokens", "cell.visits"} <= names


def test_tokens_start_as_published() -> None:
    network = tiny("fine", dim=24)
    tokens = torch.cat([p.flatten() for n, p in network.named_parameters() if n.endswith("tokens")])
    assert tokens.std().item() == pytest.approx(1, abs=0.05)
    assert network.encoder._modules["0"].blocks.state.memory.position.std().item() == pytest.approx(0.02, abs=0.002)


def _flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [t for v in (outputs.values() if isinstance(outputs, dict) else outputs) for t in _flat(v)]
