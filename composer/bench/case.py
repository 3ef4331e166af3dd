"""What is measured, against what, and how: words and numbers that a new process can start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from composer.blueprint import parse_overrides
from composer.compose import Blueprint
from composer.registry import Registry


@dataclass(frozen=True)
class Case:
    """One comparison. `shapes` are those of the inputs, batch included; `threads` 0 is as many as torch takes."""

    blueprint: str
    overrides: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    against: str = ""
    train: bool = False
    dtype: str = "float32"
    without: tuple[str, ...] = ()
    rounds: int = 7
    threads: int = 0
    plugins: tuple[Path, ...] = ()
    only: tuple[str, ...] | None = None

    def loaded(self) -> Blueprint:
        """The blueprint."""
        registry = Registry.discover(self.plugins, self.only)
        return Blueprint.load(self.blueprint, registry, parse_overrides(self.overrides))
