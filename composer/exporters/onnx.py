"""`composer export NAME --onnx FILE`: ONNX with weights, which onnxruntime runs.

Operators stand under the address of the module that they belong to (`encoder.0.norm1/LayerNormalization`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from composer.diagnostics import BlueprintError, Diagnostic
from composer.exporters.tracing import Traced, causes, kept, quiet, refusal, trace, unspecialized
from composer.exporters.verifying import Runner, remarks
from composer.exporters.wanting import wanted

SPECIAL = "the sizes are fixed: with open ones the file did not give what the network gives"

LARGEST = 1_800_000_000
"""Bytes of weights up to which an ONNX file, a protobuf of at most 2 GiB, holds them itself."""


class OnnxExporter:
    """Writes what torch's exporter makes of the traced network; larger weights stand in a second file beside it."""

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        wanted("onnx", "onnxscript")
        traced = trace(network, options["shapes"], options.get("fixed", False))
        try:
            return remarks(network, traced, options, self.written(network, traced, path))
        except BlueprintError:
            if not traced.openings:
                raise
        # torch may have taken the size it traced at for a constant; the run beside the network showed it
        traced = replace(trace(network, options["shapes"], fixed=True), why=SPECIAL)
        return remarks(network, traced, options, self.written(network, traced, path))

    @staticmethod
    def written(network: Any, traced: Traced, path: Path) -> Runner:
        """Write a traced network; what comes back runs the file."""
        _stateless(network, traced)
        made = _translated(network, traced)
        _name_axes(made.model.graph, traced)
        _name(made.model.graph, {name for name, _ in network.named_modules()})
        held = sum(p.nbytes for p in network.state_dict().values())
        with quiet():
            made.save(str(path), external_data=held > LARGEST)
        return partial(_run, cache(lambda: _session(path)))


def _stateless(network: Any, traced: Traced) -> None:
    """An ONNX file keeps nothing from one call to the next (BP809)."""
    changed = kept(traced.program)
    if changed:
        text = f"`{network.blueprint.name}` cannot be written as ONNX: it changes `{changed[0]}` at evaluation"
        notes = ("an ONNX file keeps nothing from one call to the next",)
        help = ("`--torch FILE` keeps it",)
        raise BlueprintError(Diagnostic("BP809", text, notes=notes, help=help))


def _session(path: Path) -> Any:
    """onnxruntime on a file. Raises `ImportError` where it is not installed."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it remarks on its own optimizations
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: Callable[[], Any], inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [torch.from_numpy(y) for y in session().run(None, {n: x.numpy() for n, x in inputs.items()})]


def _name_axes(graph: Any, traced: Traced) -> None:
    """`batch` and `32*h` in the place of torch's symbols, wherever a shape names them."""
    said: dict[str, str] = {}
    for value in graph.inputs:
        axes = dict(enumerate(traced.axes[value.name], 2))
        for place, size in enumerate(value.shape or ()):
            for symbol in re.findall(r"s\d+", str(size)):
                said[symbol] = "batch" if place == 0 else _counted(traced, axes[place])
    values = [*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)]
    for value in values:
        for place, size in enumerate(value.shape or ()):
            if isinstance(name := getattr(size, "value", None), str):  # None is a size that nobody knows
                value.shape[place] = re.sub(r"s\d+", lambda m: said.get(m[0], m[0]), name)


def _counted(traced: Traced, axis: str) -> str:
    """`H`, or the count of its steps, `h`."""
    return axis if traced.openings[axis].step == 1 else axis.lower()


def _translated(network: Any, traced: Traced) -> Any:
    try:
        with quiet(), unspecialized(bool(traced.openings)):
            return torch.onnx.export(
                traced.program, input_names=list(traced.axes), output_names=list(traced.outputs), verbose=False
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
                stack = (node.meta.get("nn_module_stack") or {}).values()
                modules = [path.removeprefix("network.") for path, _ in stack if path and path != "network"]
                return f"`{modules[-1]}`" if modules else ""
            trace = trace.tb_next
    return ""


def _name(graph: Any, modules: set[str]) -> None:
    """Operators by the address of their module, numbered where it has several of a kind."""
    taken: dict[str, int] = {}
    for node in graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        words = ast.literal_eval(scopes) if scopes else []
        inner = [w.removeprefix("network").lstrip(".") for w in words[:-1]]  # below what states the sizes
        address = next((w for w in reversed(inner) if w and w in modules), "")
        name = f"{address}/{node.op_type}" if address else node.op_type
        taken[name] = taken.get(name, -1) + 1
        node.name = f"{name}.{taken[name]}" if taken[name] else name
