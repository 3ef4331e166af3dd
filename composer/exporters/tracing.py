"""A network as one graph of torch operators (`torch.export`), which both `torch` and `onnx` files are made of.

The batch stays open, and the sizes as far as the rules of the network make a progression (`Opening`): `H = 32·k`. What
cannot be traced with open sizes is traced with the ones asked for, and a remark says so. What `pad: auto` pads and
crops depends on the size, so there the sizes are fixed.

torch follows sizes as expressions in H, and those of strides and windows grow with each level. `_Stated` says at the
input what a valid size is, `32·(H // 32)`, in whose terms every level is a whole number of (H // 32) again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from composer.diagnostics import BlueprintError, ComposerError, Diagnostic
from composer.exporters.opening import Opening, openings
from composer.inference import Program
from composer.liveness import ids_of
from composer.module import Network
from composer.taps import KEY

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Traced:
    """The graph, its inputs with the names of their axes, the names of its outputs, what of the shapes is open, and why
    nothing more is."""

    program: ExportedProgram
    axes: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    open_batch: bool
    openings: Mapping[str, Opening] = field(default_factory=dict)
    why: str = ""

    @property
    def remark(self) -> str:
        """What may be fed to it."""
        sizes = f"the sizes may be {', '.join(map(str, self.openings.values()))}" if self.openings else ""
        batch = "" if self.open_batch else "the batch is fixed: this network cannot be traced with an open one"
        return "; ".join(filter(None, (sizes, self.why, batch)))

    def shapes(self, network: Network, asked: Shapes) -> list[Shapes]:
        """Where a file is tried: one sample of the size asked for, and where sizes are open, two of another."""
        if not self.open_batch:
            return [asked]
        asked_for = {a: n for name, axes in self.axes.items() for a, n in zip(axes, asked[name][2:], strict=True)}
        other = {a: o.other(asked_for[a], n % 2) for n, (a, o) in enumerate(self.openings.items())}
        return [_resized(network, asked, 1, {}), *([_resized(network, asked, 2, other)] if other else [])]


def trace(network: Network, shapes: Shapes, fixed: bool = False, guarded: bool = False) -> Traced:
    """Trace a network in evaluation. What cannot be traced is a `BlueprintError` (BP809) that names the node.

    `guarded` is for a program whose guards are kept: sizes stay open only where these let them pass.
    """
    network.eval()
    given = {i.name: i.axes for i in network.inputs if i.name in shapes}
    outputs = tuple(n for o in network.outputs if not o.training for n in _output_names(o.name, o.ids))
    shapes = {n: shapes[n] for n in given}
    open_, why = ({}, "") if fixed else _openings(network, shapes)
    if open_:
        try:
            program = _exported(network, _resized(network, shapes, 3, _apart(open_)), open_)
            traced = Traced(program, given, (*outputs, *_tap_names(program)), True, open_, why)
            if not guarded or all(_passes(program, s) for s in traced.shapes(network, shapes)):
                return traced
            why = "the sizes are fixed: torch does not keep them open for this network"
        except ComposerError:
            raise
        except Exception:
            why = "the sizes are fixed: torch cannot follow open ones through this network"
    try:
        program = _exported(network, _resized(network, shapes, 2, {}), {})
        return Traced(program, given, (*outputs, *_tap_names(program)), True, why=why)
    except ComposerError:
        raise
    except Exception:  # the batch may be what cannot stay open: then it is fixed, and only then it is a mistake
        program = _fixed(network, shapes)
        return Traced(program, given, (*outputs, *_tap_names(program)), False, why=why)


def _tap_names(program: ExportedProgram) -> list[str]:
    """`taps.blocks.0.attention.weights`: what a network with `tap:` gives besides, in the order in which torch lists
    it."""
    spec = program.call_spec.out_spec
    made = spec.unflatten(range(spec.num_leaves)) if spec is not None else None
    found = made.get(KEY, {}) if isinstance(made, dict) else {}
    return [f"{KEY}.{address}.{part}" for address, parts in found.items() for part in parts]


def _passes(program: ExportedProgram, shapes: Shapes) -> bool:
    """Whether the guards of a program, which are what its tracing took for granted, hold for these shapes."""
    guards = getattr(program.module(), "_guards_fn", None)
    try:
        if guards is not None:
            guards(*(torch.empty(s, device="meta") for s in shapes.values()))
    except AssertionError:
        return False
    return True


def _openings(network: Network, shapes: Shapes) -> tuple[dict[str, Opening], str]:
    """Which axes stay open, and what to say of those that do not."""
    env = {a: n for i in network.inputs if i.name in shapes for a, n in zip(i.axes, shapes[i.name][2:], strict=True)}
    axes = [a for a in env if not a.isdigit()]
    if any(i.pad != "error" for i in network.inputs):
        return {}, f"the sizes are fixed: how {network.inputs[0].name} is padded depends on them" if axes else ""
    program: Program = network.blueprint.infer()  # type: ignore[attr-defined]
    program = program.alternatives.get(
        frozenset(i.name for i in program.inputs if i.optional and i.name in shapes), program
    )
    found = openings(program, {a: env[a] for a in axes})
    lost = [a for a in axes if a not in found]
    return found, f"the rules fix {', '.join(f'{a} = {env[a]}' for a in lost)}" if lost and found else ""


def _apart(open_: Mapping[str, Opening]) -> dict[str, int]:
    """A size to trace at: for each axis another count of steps, and none that is likely to be a number of the network,
    such as its window. Nothing is computed, so that large ones cost nothing."""
    steps = {o.axis: o.first + 4 + 3 * n for n, o in enumerate(open_.values())}
    return {a: o.size(steps[a] if o.last is None else min(steps[a], o.last)) for a, o in open_.items()}


def _resized(network: Network, shapes: Shapes, batch: int, sizes: Mapping[str, int]) -> Shapes:
    axes = {i.name: i.axes for i in network.inputs}
    return {
        name: (batch, shape[1], *(sizes.get(a, n) for a, n in zip(axes[name], shape[2:], strict=True)))
        for name, shape in shapes.items()
    }


def _fixed(network: Network, shapes: Shapes) -> ExportedProgram:
    try:
        return _exported(network, shapes, None)
    except ComposerError:
        raise
    except Exception as fault:
        raise refusal(network, "cannot be traced", fault) from fault


def _exported(network: Network, shapes: Shapes, open_: Mapping[str, Opening] | None) -> ExportedProgram:
    """Traced with an open batch and these open axes; None: nothing is open."""
    dims = {} if open_ is None else _dims(open_)
    specs = list(network.inputs)
    while specs[-1].name not in shapes:
        specs.pop()
    values = tuple(torch.zeros(shapes[i.name]) if i.name in shapes else None for i in specs)
    batch = {} if open_ is None else {0: Dim("batch")}
    how = tuple(
        None if v is None else {**batch, **{k: dims[a] for k, a in enumerate(i.axes, 2) if a in dims}}
        for v, i in zip(values, specs, strict=True)
    )
    root: nn.Module = network
    if open_:
        steps = [[open_[a].step if a in open_ else 1 for a in i.axes] for i in specs]
        root = _Stated(network, steps)
    with quiet(), torch.no_grad(), unspecialized(bool(open_)), _spelled(network):
        return torch.export.export(root, values, dynamic_shapes={"values": how}, strict=False)


@contextlib.contextmanager
def _spelled(network: nn.Module) -> Iterator[None]:
    """Without nodes that are called like a word of Python (`nonlocal`): torch writes addresses as code. Only what holds
    other modules is renamed, since steps find theirs by name."""
    holders = [
        m for m in network.modules() if any(iskeyword(n) and type(c) is nn.Module for n, c in m.named_children())
    ]
    before = [dict(m._modules) for m in holders]
    try:
        for holder, children in zip(holders, before, strict=True):
            _rename(holder, {f"{n}_" if iskeyword(n) and type(c) is nn.Module else n: c for n, c in children.items()})
        yield
    finally:
        for holder, children in zip(holders, before, strict=True):
            _rename(holder, children)


def _rename(module: nn.Module, children: Mapping[str, nn.Module | None]) -> None:
    """In place: steps hold on to this dictionary."""
    module._modules.clear()
    module._modules.update(children)


def unspecialized(open_: bool) -> Any:
    """Where sizes are open, torch shall not take what holds at the one it traces at for what always holds."""
    return torch.fx.experimental._config.patch(backed_size_oblivious=open_)  # type: ignore[attr-defined]


def _dims(open_: Mapping[str, Opening]) -> dict[str, Any]:
    """Sizes as torch writes them: `32*h`."""
    found = {}
    for axis, o in open_.items():
        dim = Dim(axis if o.step == 1 else axis.lower(), min=max(o.first, 1), max=o.last)
        found[axis] = dim if o.step == 1 else o.step * dim
    return found


class _Stated(nn.Module):
    """A network behind its sizes in terms of their steps, (B, C, H) -> (B, C, H // 32, 32) -> (B, C, H // 32 · 32)."""

    def __init__(self, network: nn.Module, steps: Sequence[Sequence[int]]):
        super().__init__()
        self.network, self.steps = network, steps

    def forward(self, *values: Tensor | None) -> Any:
        return self.network(*map(self._stated, values, self.steps))

    @staticmethod
    def _stated(x: Tensor | None, steps: Sequence[int]) -> Tensor | None:
        if x is None or max(steps, default=1) == 1:
            return x
        counted = [(n // step, step) for n, step in zip(x.shape[2:], steps, strict=True)]
        parted = x.reshape(*x.shape[:2], *(n for pair in counted for n in pair))
        return parted.reshape(*x.shape[:2], *(count * step for count, step in counted))


def kept(program: ExportedProgram) -> list[str]:
    """The buffers that a program writes to, so that they outlive a call."""
    buffers = program.graph_signature.inputs_to_buffers
    found = []
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for value, said in zip(node.args, schema.arguments if schema else (), strict=False):
            if said.alias_info is not None and said.alias_info.is_write:
                while isinstance(value, torch.fx.Node) and value.op == "call_function" and value.args:
                    value = value.args[0]  # the tensor that this is a view of
                if isinstance(value, torch.fx.Node) and value.name in buffers:
                    found.append(buffers[value.name].removeprefix("network."))
    return list(dict.fromkeys(found))


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
