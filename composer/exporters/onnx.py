"""`composer export NAME --onnx FILE`: ONNX with weights, which onnxruntime runs.

Operators stand under the address of the module that they belong to (`encoder.0.norm1/LayerNormalization`).
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import torch

from composer.exporters.tracing import Traced, causes, quiet, refusal, trace
from composer.exporters.wanting import wanted

LARGEST = 1_800_000_000
"""Bytes of weights up to which an ONNX file, a protobuf of at most 2 GiB, holds them itself."""


class OnnxExporter:
    """Writes what torch's exporter makes of the traced network; larger weights stand in a second file beside it."""

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        wanted("onnx", "onnxscript")
        traced = trace(network, options["shapes"])
        made = _translated(network, traced)
        _name(made.model.graph, {name for name, _ in network.named_modules()})
        held = sum(p.nbytes for p in network.state_dict().values())
        with quiet():
            made.save(str(path), external_data=held > LARGEST)
        return traced.remark


def _translated(network: Any, traced: Traced) -> Any:
    try:
        with quiet():
            return torch.onnx.export(
                traced.program, input_names=list(traced.inputs), output_names=list(traced.outputs), verbose=False
            )
    except Exception as fault:
        raise refusal(network, "cannot be written as ONNX", fault, _culprit(fault)) from fault


def _culprit(fault: BaseException) -> str:
    """The address of the module whose operator ONNX does not have. torch's message names an operator that the module's
    were broken down into; the frame that translated it holds the node, which knows its module."""
    for each in reversed(causes(fault)):
        trace = each.__traceback__
        while trace is not None:
            node = trace.tb_frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node):
                modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
                return f"`{modules[-1]}`" if modules else ""
            trace = trace.tb_next
    return ""


def _name(graph: Any, modules: set[str]) -> None:
    """Operators by the address of their module, numbered where it has several of a kind."""
    taken: dict[str, int] = {}
    for node in graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        words = ast.literal_eval(scopes) if scopes else []
        address = next((w for w in reversed(words[:-1]) if w and w in modules), "")
        name = f"{address}/{node.op_type}" if address else node.op_type
        taken[name] = taken.get(name, -1) + 1
        node.name = f"{name}.{taken[name]}" if taken[name] else name
