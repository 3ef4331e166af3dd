"""An export format: every weight of a network on a row of its own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def write_csv(network: Any, path: Path, **options: Any) -> None:
    """`address, shape, numbers` of each weight, in the order of the network."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["address", "shape", "numbers"])
        for address, weight in network.state_dict().items():
            rows.writerow([address, " x ".join(map(str, weight.shape)), weight.numel()])
