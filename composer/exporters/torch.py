"""`composer export NAME --torch FILE.pt2`: a program of `torch.export`, which runs without Composer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from composer.exporters.tracing import quiet, trace


class TorchExporter:
    """`torch.export.load(FILE).module()(image)` gives what the network gives in evaluation."""

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        traced = trace(network, options["shapes"])
        with quiet(), path.open("wb") as file:
            torch.export.save(traced.program, file)
        return traced.remark
