"""Options that only some published configurations use, against slow and obvious versions of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_blocks import close, network_of, noise
from torch import Tensor, nn

import composer
import composer.keymap
from composer.weights import convert


def linear(m: Any, x: Tensor) -> Tensor:
    return x @ m.weight.T + (m.bias if m.bias is not None else 0)


def pooled(x: Tensor) -> Tensor:
    """Tokens of a grid of 4 × 6, the largest of each 2 × 2."""
    y = nn.functional.max_pool2d(x.mT.unflatten(2, (4, 6)), 2)
    return y.flatten(2).mT


def slow_nonlocal(node: Any, x: Tensor, mode: str) -> Tensor:
    """The instantiations of the non-local block (Wang et al., 2018), query by query; x (B, N, C)."""
    q, k, v = linear(node.query, x), pooled(linear(node.key, x)), pooled(linear(node.value, x))
    q = pooled(q) if mode == "concat_proper_down" else q
    rows = []
    for i in range(q.shape[1]):
        if mode == "dot_product":
            weights = (k * q[:, i, None]).sum(-1) / k.shape[1]
        elif mode == "concatenation":
            score = linear(node.query_score, q[:, i, None]) + linear(node.key_score, k)
            weights = score.clamp(min=0)[..., 0] / q.shape[1]
        else:
            score = linear(node.attend, (q[:, i, None] + k).clamp(min=0))[..., 0]
            weights = score.exp() / score.exp().sum(1, keepdim=True)
        rows.append((weights[..., None] * v).sum(1))
    y = torch.stack(rows, 1)
    if mode == "concat_proper_down":
        grid = y.mT.unflatten(2, (2, 3))
        y = nn.functional.interpolate(grid, size=(4, 6), mode="bilinear", align_corners=False).flatten(2).mT
    return linear(node.project, y)


MODES: dict[str, dict[str, Any]] = {
    "dot_product": {"normalize": "mean"},
    "concatenation": {"score": "sum", "normalize": "mean_of_queries"},
    "concat_proper": {"score": "perceptron"},
    "concat_proper_down": {"score": "perceptron", "query_pool": {"use": "pool.max"}},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_nonlocal_mode_equals_a_loop(mode: str, tmp_path: Path) -> None:
    node = {"use": "attention.multihead", "heads": 1, "ratio": 0.5, "scale": "none", "pool": {"use": "pool.max"}}
    network = network_of(tmp_path, node | MODES[mode], [4, 6])
    x = noise(2, 4, 4, 6)
    with torch.no_grad():
        close(network(x), slow_nonlocal(network.node, x.flatten(2).mT, mode).mT.unflatten(2, (4, 6)))


def test_the_modes_of_the_nonlocal_unet_are_those() -> None:
    """And the official names of what they learn are known; what each mode has beside the embedded Gaussian."""
    tiny: dict[str, Any] = dict(size=[16, 16, 4], widths=[4, 8, 12], pool=2)
    plain = set(composer.load("nonlocal_unet", **tiny).build(device="meta").state_dict())
    more = {"dot_product": set(), "concatenation": {"query_score.weight", "key_score.weight"},
            "concat_proper": {"attend.weight", "attend.bias"}, "concat_proper_down": {"attend.weight", "attend.bias"}}  # fmt: skip
    for mode, extra in more.items():
        blueprint = composer.load(f"nonlocal_unet:{mode}", **tiny)
        state = blueprint.build(device="meta").state_dict()
        assert set(state) - plain == {f"down.{k}.nonlocal.body.{e}" for k in (1, 2) for e in extra}
        theta = "theta.0" if mode == "concat_proper_down" else "theta"
        official = {"wf_theta.weight": (1, 2), "wf_phi.weight": (1, 2), "psi.weight": (1, 2, 1, 1), "psi.bias": (1,)}
        known = {"query_score.weight": "wf_theta.weight", "key_score.weight": "wf_phi.weight",
                 "attend.weight": "psi.weight", "attend.bias": "psi.bias"}  # fmt: skip
        names = {f"nonlocal2.{known[e]}": official[known[e]] for e in extra} | {f"nonlocal2.{theta}.bias": (2,)}
        wanted = {k: tuple(v.shape) for k, v in state.items()}
        plan = composer.keymap.match(blueprint.weights["official"], names, wanted)
        assert not plan.unknown + plan.mismatched
        assert {a for m in plan.moves.values() for a in m.addresses} == {
            f"down.1.nonlocal.body.{e}" for e in (*extra, "query.bias")
        }


def test_scores_of_another_kind_know_no_mask(tmp_path: Path) -> None:
    node = {"use": "attention.multihead", "heads": 2, "score": "sum", "causal": True}
    with pytest.raises(composer.BlueprintError, match="know no mask"):
        network_of(tmp_path, node, [6])


def test_softmax_over_the_grid_adds_up_to_one_in_each_channel(tmp_path: Path) -> None:
    x = noise(2, 3, 2, 4)
    e = x.exp()
    found = network_of(tmp_path, {"use": "act.softmax", "over": "grid"}, [2, 4], channels=3)(x)
    close(found, e / e.sum((2, 3), keepdim=True))
    close(network_of(tmp_path, {"use": "act.softplus"}, [2, 4], channels=3)(x), (1 + e).log())


def test_a_gate_squashes_as_it_is_told(tmp_path: Path) -> None:
    one = {"use": "conv", "kernel": 1}
    gate = {"use": "gate.additive", "from": {"x": "image", "gate": "image"}, "score": {**one, "out": 1}}
    network = network_of(tmp_path, gate | {"squash": {"use": "act.softmax", "over": "grid"}}, [4, 6])
    with torch.no_grad():
        close(network(noise(2, 4, 4, 6)).sum((2, 3)), torch.ones(2, 1).double())


def test_squeeze_and_excitation_stand_behind_the_convolutions(tmp_path: Path) -> None:
    """Channels weighted by a sigmoid of what the means of all say, before the sum (Hu et al., 2018)."""
    node = {"use": "residual.double", "out": 4, "norm": None, "act": None, "squeeze": 2}
    network = network_of(tmp_path, node, [4, 6])
    inside, x = network.node.block, noise(2, 4, 4, 6)
    with torch.no_grad():
        y = inside.body.get_submodule("1")(inside.body.get_submodule("0")(x))
        mean = y.mean((2, 3))
        weigh = inside.weigh
        squeezed = torch.relu(mean @ weigh.squeeze.weight[:, :, 0, 0].T + weigh.squeeze.bias)
        excited = torch.sigmoid(squeezed @ weigh.excite.weight[:, :, 0, 0].T + weigh.excite.bias)
        close(network(x), x + y * excited[:, :, None, None])


def test_a_bottleneck_has_its_kernel_stride_and_dropout_in_the_middle(tmp_path: Path) -> None:
    node = {"use": "residual.double", "out": 6, "middle": 3, "stride": 2, "norm": "batch", "drop": "dropout",
            "shortcut": {"use": "conv", "kernel": 1, "stride": 2, "out": 6}}  # fmt: skip
    body = network_of(tmp_path, node, [4, 6]).node.block.body
    shapes = [tuple(body.get_submodule(str(k)).weight.shape) for k in range(3)]
    assert shapes == [(3, 4, 1, 1), (3, 3, 3, 3), (6, 3, 1, 1)]
    assert [body.get_submodule(str(k)).stride for k in range(3)] == [(1, 1), (2, 2), (1, 1)]
    found = {n for n, m in body.named_modules() if isinstance(m, nn.Dropout)}
    assert {n.split(".")[0] for n in found} == {"1"}
    assert [hasattr(body.get_submodule(str(k)), "act") for k in range(3)] == [True, True, False]


@pytest.mark.parametrize("official", [True, False])
def test_several_tokens_of_a_cell_stand_one_after_another(official: bool) -> None:
    """Officially the seen ones are counted as if there were one for each cell."""
    from composer_blocks.modules.memory import Cells, Read

    single, several = Cells((2, 3), (8, 8), (40, 40), True), Cells((2, 3), (8, 8), (40, 40), True, 2, official)
    place = torch.tensor([[0.0, -9, 9]])
    one, two = single(place), several(place)
    assert two["cell"].tolist() == [[n for c in one["cell"][0].tolist() for n in (2 * c, 2 * c + 1)]]
    seen = one["seen"][0, :, 0].tolist()
    assert two["seen"][0, :, 0].tolist() == (seen + [0.0] * 6 if official else [s for s in seen for _ in range(2)])
    table = noise(12, 3)
    wide = table.reshape(6, 6)  # as the official table has them, side by side
    close(Read(official)(table, two["cell"]), wide[one["cell"][0].long()].reshape(1, 8, 3))


@pytest.mark.parametrize("official", [True, False])
def test_a_second_sample_reads_a_cell_further_on(official: bool) -> None:
    from composer_blocks.modules.memory import Read

    table, cell = noise(2, 12, 3), torch.arange(8).expand(2, -1)
    found = Read(official)(table, cell)
    close(found[0], table[0, :8])
    close(found[1], table[0, 2:10] if official else table[1, :8])


def test_rows_side_by_side_become_rows_below_one_another() -> None:
    """As FINE's checkpoints have the tokens of a cell, and back."""
    rules = [{"from": "a", "to": "b", "transform": "rows"}]
    wide = noise(3, 8)
    tensors, _ = convert({"a": wide}, rules, {"b": torch.zeros(6, 4)})
    close(tensors["b"], torch.stack([row[k : k + 4] for row in wide for k in (0, 4)]))
    same, _ = convert({"a": wide}, rules, {"b": torch.zeros(3, 8)})
    assert torch.equal(same["b"], wide)
    plan = composer.keymap.match(rules, {"a": (3, 7)}, {"b": (6, 4)})
    assert plan.mismatched
