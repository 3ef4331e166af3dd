"""Axial attention for Composer: what is registered here, and nothing else. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from composer import Block, Exporter, Pass, Replacement, hookimpl
from composer_axial.blocks import AxialAttention, GatedFusion
from composer_axial.idle import without_idle_dropout
from composer_axial.tables import write_csv

composer_api = "1"


@hookimpl
def register_blocks() -> Iterable[type[Block]]:
    """An attention and a fusion."""
    return (AxialAttention, GatedFusion)


@hookimpl
def register_passes() -> Iterable[Pass]:
    """Exact, so it runs in every network."""
    return (Pass("no_idle_dropout", without_idle_dropout),)


@hookimpl
def register_exporters() -> Iterable[tuple[str, Callable[[], Exporter]]]:
    """The weights as a table."""
    return (("csv", lambda: write_csv),)


@hookimpl
def register_blueprints() -> Iterable[Path]:
    """Every file in `blueprints`."""
    return sorted((Path(__file__).parent / "blueprints").glob("*.yaml"))


@hookimpl
def register_replacements() -> Iterable[Replacement]:
    """Names of version 1.0."""
    return (Replacement("axial.attn", "axial.attention", {"n_heads": "heads"}, since="1.1"),)
