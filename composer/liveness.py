"""What an output depends on: a step that none needs never runs, and asks nothing of an input's size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.inference import Step


def needed(steps: Iterable[Step], outputs: Iterable[int]) -> set[int]:
    """Numbers of all values that some values depend on (an address may run twice, so it would not tell)."""
    wanted = set(outputs)
    for step in reversed(tuple(steps)):
        if wanted & set(step.outputs):
            wanted |= set(step.reads)
    return wanted


def ids_of(value: Any) -> list[int]:
    """The numbers of all values in an output."""
    if isinstance(value, dict):
        return [i for v in value.values() for i in ids_of(v)]
    if isinstance(value, (list, tuple)):
        return [i for v in value for i in ids_of(v)]
    return [] if value is None else [value]
