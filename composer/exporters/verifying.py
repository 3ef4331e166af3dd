"""A file that was written is run once beside the network: what an exporter says of it was seen, not hoped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from composer.diagnostics import BlueprintError, Diagnostic
from composer.exporters.tracing import Traced, kept
from composer.module import Network

Runner = Callable[[dict[str, Tensor]], Sequence[Tensor]]
"""What runs the file: inputs by name -> outputs in their order."""

WITHIN = 1e-3
"""The largest difference to the network, as a share of its largest value: beyond this it is another network. Float32
differs by 1e-6 to 1e-4, the more the deeper."""


def remarks(network: Network, traced: Traced, options: Mapping[str, Any], run: Runner) -> str:
    """What the user should know of a file that was written: what may be fed to it, how near it is to the network."""
    lines = [traced.remark]
    if options.get("verify", True):
        try:
            shapes = traced.shapes(network, options["shapes"])
            lines.append(verified(network, shapes[:1] if kept(traced.program) else shapes, run))
        except ImportError as missing:
            lines.append(f"it was not run: {missing.name} is not installed (pip install 'blueprint-composer[export]')")
    return "\n".join(filter(None, lines))


def verified(network: Network, shapes: Sequence[Mapping[str, tuple[int, ...]]], run: Runner) -> str:
    """The remark on a file that gives what the network gives, on random inputs of these shapes. One that does not is
    refused (BP809)."""
    apart, largest = 0.0, 0.0
    for number, each in enumerate(shapes):
        generator = torch.Generator().manual_seed(number)
        inputs = {n: torch.randn(s, generator=generator) for n, s in each.items()}
        wanted = evaluated(network, inputs)
        try:
            made = run(inputs)
        except ImportError:
            raise
        except Exception as fault:
            said = f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
            text = f"`{network.blueprint.name}` was written, but the file does not run on {_sized(each)}"
            raise BlueprintError(Diagnostic("BP809", text, notes=(said,))) from fault
        _alike(network, wanted, made, each)
        apart = max(apart, *(float((a.cpu() - b).abs().max()) for a, b in zip(wanted, made, strict=True)))
        largest = max(largest, *(float(a.abs().max()) for a in wanted))
    said = f"of values up to {largest:.2g}"
    if not apart <= WITHIN * max(largest, 1e-6):
        text = f"`{network.blueprint.name}` was written, but the file gives other results: {apart:.1e} apart, {said}"
        help = ("this is a fault of the exporter or of what runs the file; please report it",)
        raise BlueprintError(Diagnostic("BP809", text, help=help))
    return f"run beside the network on {' and '.join(map(_sized, shapes))}: at most {apart:.1e} apart, {said}"


def evaluated(network: Network, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs at evaluation; buffers are afterwards what they were."""
    buffers = {b: b.clone() for b in network.buffers()}
    with torch.no_grad():
        device = next(iter(network.parameters()), torch.empty(0)).device
        made = tree_leaves(network.eval()(**{n: x.to(device) for n, x in inputs.items()}))
        for buffer, before in buffers.items():
            if not torch.equal(buffer, before):
                buffer.copy_(before)
    return [y for y in made if isinstance(y, Tensor)]


def _alike(network: Network, wanted: Sequence[Tensor], made: Sequence[Tensor], shapes: Mapping[str, Any]) -> None:
    ours, theirs = [tuple(y.shape) for y in wanted], [tuple(y.shape) for y in made]
    if ours != theirs:
        text = f"`{network.blueprint.name}` was written, but the file gives other shapes on {_sized(shapes)}"
        raise BlueprintError(Diagnostic("BP809", text, notes=(f"the network gives {ours}", f"the file gives {theirs}")))


def _sized(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """`image (2, 1, 32, 32)`."""
    return ", ".join(f"{n} {s}" for n, s in shapes.items())
