"""What `composer export` can write; plugins add formats by the hook `register_exporters`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Exporter(Protocol):
    """Writes a network to a file in one format."""

    def __call__(self, network: Any, path: Path, **options: Any) -> None: ...
