"""Spacing and patch -> strides and kernels of each stage, by nnU-Net's rules (Isensee et al., 2021): for blueprints
that have parameters `widths`, `strides` and `kernels` with an entry for each stage, as `nnunet`.

An axis is halved while it has two cells for each of the four that it must keep, and its cells are not twice as long as
the shortest; a kernel spans an axis (3) from the stage on at which its cells are no more than twice the shortest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

EDGE = 4
"""Cells that an axis keeps at the bottleneck."""


def stages(spacing: Sequence[float], patch: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Stride and kernel of each stage; the first has no stride, the last spans every axis."""
    lengths, cells, spans = list(spacing), list(patch), [1] * len(patch)
    strides, kernels = [[1] * len(patch)], []
    while halved := _halved(lengths, cells):
        spans = [3 if k == 3 or n / min(lengths) < 2 else 1 for k, n in zip(spans, lengths, strict=True)]
        kernels.append(spans)
        strides.append([2 if a in halved else 1 for a in range(len(cells))])
        for a in halved:
            lengths[a], cells[a] = lengths[a] * 2, ceil(cells[a] / 2)
    return list(zip(strides, [*kernels, [3] * len(patch)], strict=True))


def _halved(lengths: Sequence[float], cells: Sequence[int]) -> list[int]:
    """The axes that the next stage halves; none at the bottleneck."""
    long = [a for a, n in enumerate(cells) if n >= 2 * EDGE]
    if not long:
        return []
    shortest = min(lengths[a] for a in long)
    found = [a for a in long if lengths[a] / shortest < 2]
    return [] if len(found) == 1 and cells[found[0]] < 3 * EDGE else found


def parameters(
    values: Mapping[str, Any], given: frozenset[str], spacing: Sequence[float], patch: Sequence[int]
) -> dict[str, Any]:
    """`widths`, `strides` and `kernels` of a blueprint with these parameters; what the user gave stays. Widths that are
    not given are cut to the stages there are, or go on with the last; stages beyond those have no stride."""
    if not {"widths", "strides", "kernels"} <= set(values) or given & {"strides", "kernels"}:
        return {}
    found, widths = stages(spacing, patch), list(values["widths"])
    if "widths" not in given:
        widths = (widths + widths[-1:] * len(found))[: len(found)]
    rest = ([1] * len(patch), [3] * len(patch))
    found = (found + [rest] * len(widths))[: len(widths)]
    return {"widths": widths, "strides": [s for s, _ in found], "kernels": [k for _, k in found]}
