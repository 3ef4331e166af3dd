"""Runs a published network with its official weights and compares it with what the official code computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from goldens import FOLDER, Case, golden, stored
from torch import Tensor

import composer
from composer.blueprint import shipped
from composer.weights import convert, load_into

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_unet": ("swin_unet", dict(size=[128, 128], classes=4, dim=16, heads=[1, 2, 4, 8], window=4, mlp_ratio=2.0)),
    "transunet": (
        "transunet",
        dict(size=[64, 64], dim=24, hidden=40, heads=3, layers=2, units=[2, 1, 1], width=32, decoder=[16, 12, 10, 8],
             classes=4),
    ),
    "transunet_vit": (
        "transunet:vit_b16",
        dict(size=[64, 64], dim=48, hidden=80, heads=4, layers=3, decoder=[32, 24, 16, 8], classes=4),
    ),
    "mt_transunet": (
        "mt_transunet",
        dict(size=[64, 64], dim=24, hidden=44, heads=4, layers=2, units=[2, 1, 1], width=32, decoder=[16, 12, 10, 8]),
    ),
}  # fmt: skip
"""Golden -> blueprint, and its parameters for the golden's tiny configuration."""

SLOW_FLOPS = 100e9
"""Published cases of more than this stand behind the marker `slow`."""


@dataclass(frozen=True)
class Comparison:
    """One case: our outputs beside the stored ones."""

    case: Case

    @property
    def name(self) -> str:
        return CASES[self.case.model][0]

    @cached_property
    def blueprint(self) -> composer.Blueprint:
        params = CASES[self.case.model][1] if self.case.size == "tiny" else {}
        return composer.load(self.name, **params)

    @cached_property
    def network(self) -> torch.nn.Module:
        """Ours with the official weights, in eval mode, but with the outputs of training (goldens hold those too)."""
        network = self.blueprint.build().eval()
        tensors, plan = convert(self.case.weights(), self.blueprint.weights["official"], network.state_dict())
        assert plan.complete, plan
        load_into(network, tensors)
        self.__dict__["plan"] = plan
        network.training = True
        return network

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """Our outputs in the order of the stored ones: each is used once, and belongs to the stored one it is nearest
        to among those of its shape."""
        ours = list(_flat(self.network(*inputs)))
        ordered = []
        for entry in self.case.data["outputs"]:
            fits = [o for o in ours if list(o.shape) == entry["shape"]]
            assert fits, f"no output of shape {entry['shape']}; ours: {[tuple(o.shape) for o in ours]}"
            best = min(fits, key=lambda o: _distance(entry, o))
            ours = [o for o in ours if o is not best]
            ordered.append(best)
        return ordered


def _distance(entry: dict[str, Any], output: Tensor) -> float:
    wanted, ours = stored(entry, output)
    return float((wanted - ours).abs().max())


def _flat(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        yield outputs
    else:
        for value in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from _flat(value)


def compare_forward(model: str, size: str) -> list[tuple[float, float]]:
    """(largest difference, tolerance) of every output; asserts the golden's tolerance and the parameter count."""
    comparison = Comparison(Case(model, size))
    case = comparison.case
    assert sum(p.numel() for p in comparison.network.parameters()) == case.data["params"]
    with torch.no_grad():
        outputs = comparison.run(case.inputs())
    rows = []
    for output, entry, atol in zip(outputs, case.data["outputs"], case.data["tolerance"]["atol"], strict=True):
        wanted, ours = stored(entry, output)
        torch.testing.assert_close(ours, wanted, atol=atol, rtol=case.data["tolerance"]["rtol"])
        rows.append((float((wanted - ours).abs().max()), atol))
    return rows


def compare_gradients(model: str) -> None:
    """Gradient of the input, and the gradient norm of every parameter, of the sum of <output, cotangent>."""
    comparison = Comparison(Case(model, "tiny"))
    data, tolerance = comparison.case.data, comparison.case.data["tolerance"]
    network, inputs = comparison.network, comparison.case.inputs()
    inputs[0].requires_grad_()
    outputs = comparison.run(inputs)
    sum((o * comparison.case.cotangent(k)).sum() for k, o in enumerate(outputs)).backward()
    wanted, ours = stored(data["grad_input"], inputs[0].grad)
    torch.testing.assert_close(ours, wanted, atol=tolerance["grad_input_atol"], rtol=tolerance["rtol"])
    gradients = {name: p.grad for name, p in network.named_parameters()}
    moves = comparison.__dict__["plan"].moves
    for key, norm in data["grad_norm"].items():
        parts = [gradients[a] for a in moves[key].addresses if gradients[a] is not None]
        total = torch.cat([g.flatten() for g in parts]).norm().item() if parts else 0.0
        torch.testing.assert_close(
            total, norm, rtol=tolerance["grad_norm_rtol"], atol=1e-6, msg=f"{key}: {total} {norm}"
        )


def cases() -> list[tuple[str, str]]:
    """(golden, size) of every golden whose blueprint ships."""
    known = shipped()
    models = [m for m, (name, _) in CASES.items() if name.split(":")[0] in known]
    return [(m, c["size"]) for m in models if (FOLDER / f"{m}.json").exists() for c in golden(m)["cases"]]
