"""A network as one graph of torch operators (`torch.export`), which both `torch` and `onnx` files are made of.

The batch stays open where the network allows it; the sizes are those it was traced at, so what `pad: auto` pads and
crops is in the graph too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from composer.diagnostics import BlueprintError, ComposerError, Diagnostic
from composer.liveness import ids_of
from composer.module import Network
from composer.taps import KEY


@dataclass(frozen=True)
class Traced:
    """The graph, the names of its inputs and outputs, and whether its batch is open."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    open_batch: bool

    @property
    def remark(self) -> str | None:
        """What the user should know."""
        return None if self.open_batch else "the batch is fixed: this network cannot be traced with an open one"


def trace(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> Traced:
    """Trace a network in evaluation. What cannot be traced is a `BlueprintError` (BP809) that names the node."""
    network.eval()
    given = tuple(i.name for i in network.inputs if i.name in shapes)
    outputs = tuple(n for o in network.outputs if not o.training for n in _output_names(o.name, o.ids))
    try:
        made = _exported(network, _inputs(shapes, given, 2), open_batch=True)
        return Traced(made, given, (*outputs, *_tap_names(made)), True)
    except ComposerError:
        raise
    except Exception:  # the batch may be what cannot stay open: then it is fixed, and only then it is a mistake
        made = _fixed(network, _inputs(shapes, given))
        return Traced(made, given, (*outputs, *_tap_names(made)), False)


def _tap_names(program: ExportedProgram) -> list[str]:
    """`taps.blocks.0.attention.weights`: what a network with `tap:` gives besides, in the order in which torch lists
    it."""
    spec = program.call_spec.out_spec
    made = spec.unflatten(range(spec.num_leaves)) if spec is not None else None
    found = made.get(KEY, {}) if isinstance(made, dict) else {}
    return [f"{KEY}.{address}.{part}" for address, parts in found.items() for part in parts]


def _fixed(network: Network, inputs: dict[str, Tensor]) -> ExportedProgram:
    try:
        return _exported(network, inputs, open_batch=False)
    except ComposerError:
        raise
    except Exception as fault:
        raise refusal(network, "cannot be traced", fault) from fault


def _inputs(shapes: Mapping[str, tuple[int, ...]], names: tuple[str, ...], batch: int = 0) -> dict[str, Tensor]:
    return {n: torch.zeros(batch or shapes[n][0], *shapes[n][1:]) for n in names}


def _exported(network: Network, inputs: dict[str, Tensor], open_batch: bool) -> ExportedProgram:
    batch: dict[int, Any] = {0: Dim("batch")} if open_batch else {}
    values = [inputs.get(i.name) for i in network.inputs]
    while values[-1] is None:
        values.pop()
    how = {"values": tuple(None if v is None else batch for v in values)}
    with quiet(), torch.no_grad():
        return torch.export.export(network, tuple(values), dynamic_shapes=how, strict=False)


def _output_names(name: str, ids: Any) -> list[str]:
    """`logits`; of an output of several values `logits.0`, in the order in which torch lists them."""
    if isinstance(ids, dict):
        return [n for k, v in ids.items() for n in _output_names(f"{name}.{k}", v)]
    if isinstance(ids, (list, tuple)):
        return [n for k, v in enumerate(ids) for n in _output_names(f"{name}.{k}", v)]
    return [name] if ids_of(ids) else []


def refusal(network: Network, what: str, fault: BaseException, node: str = "") -> BlueprintError:
    """BP809, with the node at which a format gave up."""
    notes = [n for f in causes(fault) for n in getattr(f, "__notes__", ())]
    found = next((m for n in notes if (m := re.search(r"in the node (`.*?`.*)", n))), None)
    at = node or (found[1] if found else "")
    text = f"`{network.blueprint.name}` {what}{f' at {at}' if at else ''}"
    last = causes(fault)[-1]
    said = f"{type(last).__name__}: {' '.join(str(last).split())[:200]}"
    help = ("swap this node for a block whose operations the format has",) if at else ()
    return BlueprintError(Diagnostic("BP809", text, notes=(said,), help=help))


def causes(fault: BaseException | None) -> list[BaseException]:
    """A fault and those that led to it, the first one last."""
    found: list[BaseException] = []
    while fault is not None and fault not in found:
        found.append(fault)
        fault = fault.__cause__ or fault.__context__
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of torch's exporters on themselves: warnings, logs, and dumps of graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
