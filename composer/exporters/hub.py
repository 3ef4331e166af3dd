"""`composer export NAME --hub FOLDER`: a folder as `save_pretrained` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer.folders import CARD, FILES
from composer.pretrained import write


class HubExporter:
    """Blueprint, weights, config and model card; `composer.from_pretrained(FOLDER)` opens it."""

    files = FILES
    kept = (CARD,)

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        write(network, path, options.get("labels", ()))
        return f"`composer run {path.name} IMAGE` segments with it" if network.inputs[0].type.grid else None
