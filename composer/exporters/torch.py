"""`composer export NAME --torch FILE.pt2`: a program of `torch.export`, which runs without Composer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from composer.exporters.tracing import quiet, trace
from composer.exporters.verifying import Runner, remarks


class TorchExporter:
    """`torch.export.load(FILE).module()(image)` gives what the network gives in evaluation."""

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        traced = trace(network, options["shapes"], options.get("fixed", False), guarded=True)
        with quiet(), path.open("wb") as file:
            torch.export.save(traced.program, file)
        return remarks(network, traced, options, _runner(network, path))


def _runner(network: Any, path: Path) -> Runner:
    """The program in the file, as a function of inputs by name; it is opened when it is first run."""
    names = [i.name for i in network.inputs]

    @cache
    def program() -> Any:
        with quiet():
            return torch.export.load(path).module()

    def run(inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        values = [inputs.get(n) for n in names]
        while values[-1] is None:
            values.pop()
        with torch.no_grad():
            return [y for y in tree_leaves(program()(*values)) if isinstance(y, torch.Tensor)]

    return run
