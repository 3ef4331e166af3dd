"""`composer export NAME --onnx FILE`: ONNX with weights, which onnxruntime runs.

Operators stand under the address of the module that they belong to (`encoder.0.norm1/LayerNormalization`).
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from composer.exporters.tracing import Traced, quiet, refusal, trace
from composer.exporters.wanting import wanted

LARGEST = 1_800_000_000
"""Bytes of weights up to which an ONNX file, a protobuf of at most 2 GiB, holds them itself."""


class OnnxExporter:
    """Writes what torch's exporter makes of the traced network; larger weights stand in a second file beside it."""

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        wanted("onnx", "onnxscript")
        traced = trace(network, options["shapes"])
        made = _translated(network, traced)
        _name(made.model.graph)
        held = sum(p.nbytes for p in network.state_dict().values())
        with quiet():
            made.save(str(path), external_data=held > LARGEST)
        return traced.remark


def _translated(network: Any, traced: Traced) -> Any:
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            return torch.onnx.export(
                traced.program, input_names=list(traced.inputs), output_names=list(traced.outputs), verbose=False
            )
    except Exception as fault:
        raise refusal(network, "cannot be written as ONNX", fault, _culprit(traced, fault)) from fault


def _culprit(traced: Traced, fault: BaseException) -> str:
    """The address of the module whose operator ONNX does not have, by the name that torch's message gives it."""
    text, each = "", fault
    while each is not None:
        text, each = f"{text}\n{each}", each.__cause__  # type: ignore[assignment]
    named = set(re.findall(r"%(\w+)", text)) | set(re.findall(r"<OpOverload\(op='([\w.:]+)'", text))
    for node in traced.program.graph.nodes:
        if node.name in named or str(getattr(node.target, "_name", "")) in named:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if stack and stack[-1][0]:
                return f"`{stack[-1][0]}`"
    return ""


def _name(graph: Any) -> None:
    """Operators by the address of their module, numbered where it has several of a kind."""
    taken: dict[str, int] = {}
    for node in graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        words = ast.literal_eval(scopes) if scopes else []
        address = next((w for w in reversed(words[:-1]) if w), "")
        name = f"{address}/{node.op_type}" if address else node.op_type
        taken[name] = taken.get(name, -1) + 1
        node.name = f"{name}.{taken[name]}" if taken[name] else name
