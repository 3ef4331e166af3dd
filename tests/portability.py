"""What becomes of every shipped blueprint, small: compiled, exported, as ONNX, saved, copied, in bfloat16.

`FORMATS` are functions that do it for real and raise where it does not hold. What an architecture cannot do is refused
by a `BlueprintError`, and stands in `REFUSED` with its code and what the message says; nothing else may fail.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from teaching import HYBRIDS
from torch import Tensor
from torch.utils._pytree import tree_leaves

import composer
from composer.blueprint import is_fragment, shipped
from composer.compose import fed
from composer.exporters.onnx import OnnxExporter
from composer.exporters.tracing import Traced, trace
from composer.exporters.verifying import evaluated, verified
from composer.module import Network
from composer.registry import Registry
from composer.swaps import swaps_of

REGISTRY = Registry.discover()
SWIN_UNET = dict(size=[32, 32], channels=1, dim=8, depths=[2, 1], heads=[2, 2], window=2, classes=3)
NNFORMER = dict(
    size=[8, 16, 16], channels=1, dim=8, depths=[2, 1], heads=[2, 2], windows=[2, 2], levels=1, classes=3
)  # fmt: skip
TRANSUNET = dict(
    size=[32, 32], dim=16, hidden=16, heads=2, layers=1, units=[1, 1, 1], width=32, neck=8, decoder=[8, 8, 8, 8]
)  # fmt: skip
SMALLER: dict[str, dict[str, Any]] = {
    **HYBRIDS,
    **{n: dict(size=[16, 16], widths=[4, 8]) for n in ("attention_unet", "attention_unet_monai", "nnunet", "unet")},
    "cotr": dict(size=[16, 32, 32], widths=[8, 16, 16, 16], blocks=[1, 1, 1], layers=1, hidden=16, heads=2, points=1),
    "deformable_detr": dict(
        size=[128, 128], depths=[1, 1, 1, 1], stem=4, widths=[4, 8, 8, 8], dim=32, queries=3, layers=1, heads=2,
        hidden=16, classes=3,
    ),
    "detr": dict(
        size=[64, 64], depths=[1, 1, 1, 1], stem=4, widths=[4, 8, 8, 8], dim=16, queries=3, layers=1, heads=2,
        hidden=16, classes=3,
    ),
    "glam_nnformer": NNFORMER,
    "fine": dict(**NNFORMER, cells=[4, 5], volume=[25, 66, 165]),
    "glam_swin_unet": SWIN_UNET,
    "glam_unet": dict(size=[16, 16], widths=[4, 8], window=2, heads=2, tokens=2),
    "mt_transunet": TRANSUNET,
    "nnformer": NNFORMER,
    "nnunet_fine": dict(size=[8, 16, 16], widths=[4, 8], heads=2, cells=[2, 2], volume=[8, 32, 32]),
    "nonlocal_unet": dict(size=[16, 16, 8], widths=[4, 8]),
    "resnet": dict(size=[64, 64], depths=[1, 1, 1, 1], stem=8, widths=[8, 16, 16, 16]),
    "segformer": dict(
        size=[32, 32], dims=[8, 16], depths=[1, 1], heads=[1, 2], patches=[7, 3], strides=[4, 2], reduce=[2, 1],
        ratios=[2, 2], width=8, classes=3,
    ),
    "setr": dict(
        size=[32, 32], patch=8, dim=16, depth=1, heads=2, width=8, inherited=8, classes=3, taps=[]
    ),
    "swin": dict(size=[16, 16], patch=2, dim=8, depths=[2, 1], heads=[2, 2], window=2, classes=3),
    "swin_unet": SWIN_UNET,
    "swin_unet_hybrid": dict(size=[32, 32], dim=8, depths=[2, 1], heads=[2, 2], window=2, tokens=1),
    "swin_unetr": dict(size=[16, 16], dim=8, depths=[1, 1], heads=[2, 2], window=2, classes=3),
    "transformer": dict(dim=16, heads=2, hidden=32, encoder_layers=1, decoder_layers=1),
    "transunet": dict(**TRANSUNET, classes=3),
    "u_transformer": dict(size=[16, 16], widths=[4, 8], heads=2),
    "unet3d": dict(size=[8, 8, 8], widths=[4, 8]),
    "unetr": dict(size=[16, 16], patch=4, dim=16, hidden=16, heads=2, depth=2, taps=[0], width=4, classes=3),
    "vit": dict(size=[8, 8], patch=4, dim=16, depth=1, heads=2, hidden=16, classes=3),
    "vit_mae": dict(
        size=[8, 8], patch=4, dim=16, depth=1, heads=2, hidden=16, decoder_dim=8, decoder_depth=1, decoder_heads=2
    ),
}  # fmt: skip
"""Where the small networks of the swap matrix are none, or not small enough for torch's compilers."""
SIZES = {"transformer": {"source": (2, 16, 6), "target": (2, 16, 5)}}
REFUSED: dict[tuple[str, str], tuple[str, str]] = {
    ("fine", "onnx"): ("BP809", "cannot be written as ONNX: it changes"),
    ("nnunet_fine", "onnx"): ("BP809", "cannot be written as ONNX: it changes"),
}
"""Blueprint and format: the code of the refusal, and how its message begins."""
NEAR = {"bfloat16": 0.05, "autocast": 0.05}
"""The norm of the difference to float32, as a share of its norm: eight bits of mantissa through every layer."""


def names() -> list[str]:
    """All shipped blueprints."""
    return [n for n, f in sorted(shipped().items()) if not is_fragment(f)]


@dataclass(frozen=True)
class Subject:
    """A small network of a blueprint, its weights from a seed, and inputs for it."""

    name: str

    @cached_property
    def blueprint(self) -> composer.Blueprint:
        tiny = swaps_of(REGISTRY)["tiny"].get(self.name)
        if self.name in SMALLER or not tiny:
            return composer.load(self.name, REGISTRY, **SMALLER.get(self.name, {}))
        return composer.load(self.name, REGISTRY, size=tiny["sizes"][0], **(tiny.get("params") or {}))

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return SIZES.get(self.name) or fed(self.blueprint.infer(), {}, 2)

    @cached_property
    def network(self) -> Network:
        torch.manual_seed(0)
        return self.blueprint.build().eval()

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        return {n: torch.randn(s, generator=generator) for n, s in self.shapes.items()}

    @cached_property
    def wanted(self) -> list[Tensor]:
        return evaluated(self.network, self.inputs)

    @cached_property
    def traced(self) -> Traced:
        """With an open batch and fixed sizes: open ones take torch up to a minute."""
        return trace(self.network, self.shapes, fixed=True)


def _same(subject: Subject, made: Any, within: float = 1e-4) -> str:
    """How far results are from the network's, as a share of their norm."""
    apart = 0.0
    for y, wanted in zip(tree_leaves(made), subject.wanted, strict=True):
        assert y.shape == wanted.shape
        assert y.isfinite().all(), "it is not finite"
        size = float(wanted.double().norm()) or 1.0
        apart = max(apart, float((y.double() - wanted.double()).norm()) / size)
    assert apart <= within, f"{apart:.1e} apart"
    return f"{apart:.0e}"


def compiled(subject: Subject) -> str:
    """`torch.compile(fullgraph=True)`: one graph, at evaluation and in training."""
    torch._dynamo.reset()
    network = deepcopy(subject.network)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's remarks on itself
        made = torch.compile(network, fullgraph=True, backend="eager")(**subject.inputs)
    return _same(subject, made)


def exported(subject: Subject) -> str:
    """`torch.export`, with another batch than it was traced with."""
    program = subject.traced.program.module()
    values = list(subject.inputs.values())
    with torch.no_grad():
        program(*(x[:1].repeat(3, *[1] * (x.ndim - 1)) for x in values))
        return _same(subject, subject.traced.program.module()(*values)) + (
            "" if subject.traced.open_batch else " fixed"
        )


def as_onnx(subject: Subject) -> str:
    """ONNX through onnxruntime, with one and with two samples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        run = OnnxExporter.written(subject.network, subject.traced, path)
        one = {n: (1, *s[1:]) for n, s in subject.shapes.items()}
        verified(subject.network, [one] if subject.traced.open_batch else [subject.shapes], run)
        return _same(subject, run(subject.inputs))


def saved(subject: Subject) -> str:
    """`torch.save` and safetensors, loaded into another network."""
    with tempfile.TemporaryDirectory() as folder:
        state = subject.network.state_dict()
        torch.save(state, Path(folder) / "w.pt")
        save_file({n: v.contiguous().clone() for n, v in state.items()}, Path(folder) / "w.safetensors")
        other = subject.blueprint.build().eval()
        for found in (torch.load(Path(folder) / "w.pt", weights_only=True), load_file(Path(folder) / "w.safetensors")):
            with torch.no_grad():
                for value in other.parameters():
                    value.zero_()
            other.load_state_dict(found)
            said = _same(subject, evaluated(other, subject.inputs), 0)
    return said


def copied(subject: Subject) -> str:
    return _same(subject, evaluated(deepcopy(subject.network), subject.inputs), 0)


def in_bfloat16(subject: Subject) -> str:
    """Weights and inputs in bfloat16, against float32 on the same rounded numbers."""
    low = deepcopy(subject.network).bfloat16()
    inputs = {n: x.bfloat16() for n, x in subject.inputs.items()}
    rounded = Subject(subject.name)
    with torch.no_grad():
        for mine, theirs in zip(rounded.network.parameters(), low.parameters(), strict=True):
            mine.copy_(theirs)
    vars(rounded)["inputs"] = {n: x.float() for n, x in inputs.items()}
    made = evaluated(low, inputs)
    assert {y.dtype for y in made if y.is_floating_point()} == {torch.bfloat16}
    return _same(rounded, made, NEAR["bfloat16"])


def under_autocast(subject: Subject) -> str:
    with torch.autocast("cpu", torch.bfloat16):
        return _same(subject, evaluated(subject.network, subject.inputs), NEAR["autocast"])


FORMATS: dict[str, Callable[[Subject], str]] = {
    "state": saved,
    "copy": copied,
    "bfloat16": in_bfloat16,
    "autocast": under_autocast,
    "compile": compiled,
    "export": exported,
    "onnx": as_onnx,
}


@dataclass(frozen=True)
class Outcome:
    """What became of a network: how near it is, or the code and the first line of a refusal, or a fault."""

    note: str = ""
    code: str = ""
    said: str = ""

    def __str__(self) -> str:
        return f"refused: {self.said}" if self.code else self.note


def outcome(subject: Subject, format: str) -> Outcome:
    try:
        return Outcome(FORMATS[format](subject))
    except composer.BlueprintError as refusal:
        first = refusal.diagnostics[0]
        return Outcome(code=first.code, said=first.message)


__all__ = ["FORMATS", "REFUSED", "Outcome", "Subject", "names", "outcome"]
