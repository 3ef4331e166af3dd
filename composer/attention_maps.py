"""Attention over an image: which voxels a few of them weigh, and by how much; the numbers behind `composer run --tap`.

    Volume, Network, Node, voxels  ->  one window around each voxel  ->  Gazes

A network that goes through an image in windows attends within a window, so each voxel is looked at in the window around
it, moved inwards at the border of the image. Only the weights of the cell that a voxel lies in are computed.

A share of attention says little by itself, as it falls with the number of keys. What is drawn is `times`: the weight of
a key over that of a uniform attention to all keys that the query has, which of window attention are few. And some of it
falls where nothing is: attention often has sinks in the background, so how much of it lies outside the foreground is
said beside every map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from composer import imaging
from composer.diagnostics import BlueprintError, Diagnostic
from composer.files import whole

if TYPE_CHECKING:
    from composer.attention import Attention, Taps
    from composer.imaging import Volume
    from composer.module import Network
    from composer.taps import Node

Box = tuple[tuple[int, int], ...]
"""From and to along D, H and W, in voxels of the image as the network sees it."""


@dataclass(frozen=True)
class Gaze:
    """How the cell of one voxel attends in one node.

    address   the node
    voxel     X, Y, Z in the file's order; `seen` the same along D, H, W as the network sees the image
    window    what the network was shown: a window in 3-D, or part of a slice
    query     the cell among the queries, or the number of a query that has no place
    tokens    (heads, extra): what the tokens in front of the keys weigh
    maps      (heads, *grid) for each grid of keys, or (heads, keys) without any
    times     (D, H, W) of the window: the weight over that of a uniform attention, mean of the heads, 0 where there
              are no keys; none where keys have no place in the image
    outside   the share that falls outside the image's foreground, and the share of the keys that lies there
    """

    address: str
    voxel: tuple[int, ...]
    seen: tuple[int, ...]
    window: Box
    query: tuple[int, ...] | int
    tokens: NDArray[np.float32]
    maps: tuple[NDArray[np.float32], ...]
    times: NDArray[np.float32] | None
    outside: tuple[float, float] = (0.0, 0.0)

    @property
    def heads(self) -> int:
        return len(self.tokens)

    @property
    def on_tokens(self) -> float:
        """The share that falls on tokens in front of the keys."""
        total = self.tokens.sum() + sum(m.sum() for m in self.maps)
        return float(self.tokens.sum() / total) if total else 0.0


# --- which voxels ---------------------------------------------------------------------------------------------------


def chosen_voxels(volume: Volume, rank: int, axis: str) -> list[tuple[int, ...]]:
    """Voxels (D, H, W) to look at, where none are given: of a 2-D network the centres of the four quarters of the
    foreground in the slice through its middle, in 3-D its centre and those of its two halves along the last axis."""
    inside = foreground(imaging.seen_along(volume, axis)[0])
    middle = imaging.centre(inside)
    if rank == 3:
        halves = (_part(inside, (slice(None), slice(None), s)) for s in _halves(middle[2]))
        return list(dict.fromkeys([middle, *halves]))
    flat = inside[middle[0]][None]
    quarters = (_part(flat, (slice(None), h, w)) for h in _halves(middle[1]) for w in _halves(middle[2]))
    return list(dict.fromkeys((middle[0], h, w) for _, h, w in quarters))


def _halves(at: int) -> tuple[slice, slice]:
    return slice(0, max(1, at)), slice(at, None)


def _part(inside: NDArray[np.bool_], part: tuple[slice, ...]) -> tuple[int, ...]:
    """The centre of a part of a mask, in the numbering of all of it."""
    starts = [s.indices(n)[0] for s, n in zip(part, inside.shape, strict=True)]
    return tuple(a + b for a, b in zip(imaging.centre(inside[part]), starts, strict=True))


def foreground(grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    """What is not dark."""
    return imaging.windowed(grey) > 0.1


def as_seen(volume: Volume, voxel: Sequence[int], axis: str) -> tuple[int, ...]:
    """A voxel of the file (X, Y, Z) along D, H, W; refused (BP841) where the image has none."""
    if len(voxel) != 3 or not all(0 <= v < n for v, n in zip(voxel, volume.shape, strict=True)):
        shape = " × ".join(map(str, volume.shape))
        text = f"the image has no voxel {', '.join(map(str, voxel))}: it has {shape} along X, Y and Z"
        raise BlueprintError(Diagnostic("BP841", text, help=("count from 0, in the order of the file",)))
    made = [0, 0, 0]
    for (to, way), v, n in zip(imaging.turn_to(volume.affine, axis), voxel, volume.shape, strict=True):
        made[int(to)] = v if way > 0 else n - 1 - v
    return tuple(made)


def as_stored(volume: Volume, seen: Sequence[int], axis: str) -> tuple[int, ...]:
    """And back."""
    turn = imaging.turn_to(volume.affine, axis)
    pairs = ((seen[int(to)], way, n) for (to, way), n in zip(turn, volume.shape, strict=True))
    return tuple(v if way > 0 else n - 1 - v for v, way, n in pairs)


# --- looking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """What is looked at: the image as the network sees it, (channels, D, H, W), and windows of `size`."""

    network: Network
    volume: Volume
    size: tuple[int, ...]
    axis: str = "axial"
    position: bool = False

    def gazes(self, nodes: Sequence[Node], voxels: Iterable[Sequence[int]]) -> list[list[Gaze]]:
        """For each node, how each voxel (D, H, W) attends in it. Voxels of one window share a pass."""
        import torch

        image = imaging.seen_along(self.volume, self.axis)
        inside = foreground(image[0])
        windows: dict[Box, list[tuple[int, tuple[int, ...]]]] = {}
        for index, seen in enumerate(map(tuple, voxels)):
            windows.setdefault(self.window(image.shape[1:], seen), []).append((index, seen))
        made: dict[tuple[str, int], Gaze] = {}
        with torch.inference_mode(), imaging.evaluating(self.network), imaging.untouched(self.network):
            for window, looking in windows.items():
                asked = {n.address: [self._query(n, window, seen, i) for i, seen in looking] for n in nodes}
                taps = self._seen(image, window, {a: [number for _, number in qs] for a, qs in asked.items()})
                for address, queries in asked.items():
                    for (index, seen), (query, _) in zip(looking, queries, strict=True):
                        made[address, index] = self._gaze(taps[address], query, seen, window, inside)
        count = sum(map(len, windows.values()))
        return [[made[n.address, k] for k in range(count)] for n in nodes]

    def window(self, shape: Sequence[int], seen: Sequence[int]) -> Box:
        """The window around a voxel; where the image is smaller it reaches beyond on both sides."""
        found = [(at, at + 1) for at in seen[: 3 - len(self.size)]]
        for at, n, size in zip(seen[-len(self.size) :], shape[-len(self.size) :], self.size, strict=True):
            before = max(0, size - n) // 2
            first = min(max(at - size // 2, -before), max(n - size, -before))
            found.append((first, first + size))
        return tuple(found)

    def _seen(self, image: NDArray[np.float32], window: Box, queries: Mapping[str, Sequence[int]]) -> Taps:
        """One pass over a window, with the weights of some queries of each node."""
        import torch

        home = imaging.home_of(self.network)
        shown = torch.from_numpy(_cut(image, window)).to(**home)[None]
        shown = shown if len(self.size) == 3 else shown[:, :, 0]
        ends = zip(window[-len(self.size) :], image.shape[-len(self.size) :], strict=True)
        centre = [[(a + b) // 2 - n // 2 for (a, b), n in ends]]
        more = {"position": torch.tensor(centre).to(**home)} if self.position else {}
        with self.network.tap(*queries, queries=queries) as taps:
            self.network(shown, **more)
        return taps

    def _query(self, node: Node, window: Box, seen: Sequence[int], index: int) -> tuple[tuple[int, ...] | int, int]:
        """The query of a node that a voxel is, and its number."""
        sized = node.queries.at(dict(zip(self.network.inputs[0].axes, self.size, strict=True)))
        cell = self._cell(sized, window, seen, index)
        return cell, cell if isinstance(cell, int) else sized.extra + int(np.ravel_multi_index(cell, _grid(sized)))

    def _cell(self, queries: Any, window: Box, seen: Sequence[int], index: int) -> tuple[int, ...] | int:
        """The cell of the queries that a voxel lies in: of several scales on the first, of tokens of windows the first
        token. Where they have no place it is the first query, then the second, …"""
        grid = _grid(queries)
        rank = len(self.size)
        if len(grid) < rank:
            return int(min(index, queries.length - 1))
        inside = [v - a for v, (a, _) in zip(seen[-rank:], window[-rank:], strict=True)]
        cells = [v * n // s for v, n, s in zip(inside, grid, self.size, strict=False)]
        return (*cells, *[0] * (len(grid) - rank))

    def _gaze(
        self, attention: Attention, query: tuple[int, ...] | int, seen: Sequence[int], window: Box, inside: Any
    ) -> Gaze:
        tokens, maps = attention.of(query)
        arrays = tuple(m.float().cpu().numpy() for m in maps)
        front = tokens.float().cpu().numpy()
        if not maps:  # keys without a place
            arrays, front = (front,), front[:, :0]
        times = self._times(arrays, front, attention.kind == "windows") if maps else None
        outside = 0.0, 0.0
        if times is not None and times.any():
            dark = _cut(inside[None].astype(np.float32), window, "constant")[0] == 0
            keys = times > 0 if attention.kind == "windows" else np.ones_like(dark)
            outside = float((times * dark).sum() / times.sum()), float(dark[keys].mean())
        voxel = as_stored(self.volume, seen, self.axis)
        return Gaze(attention.address, voxel, tuple(seen), window, query, front, arrays, times, outside)

    def _times(
        self, maps: Sequence[NDArray[np.float32]], tokens: NDArray[np.float32], few: bool
    ) -> NDArray[np.float32] | None:
        """(D, H, W) of the window: every map on its voxels, over a uniform attention to cells and tokens; `few` where
        only cells with a weight are keys."""
        rank = len(self.size)
        if any(m.ndim - 1 < rank for m in maps):
            return None
        total = float(tokens.sum()) + sum(float(m.sum()) for m in maps)
        made = np.zeros(self.size, np.float32)
        for weights in maps:
            mean = weights.sum(axis=(0, *range(rank + 1, weights.ndim)))  # also over the tokens of a window
            index = np.ix_(*(np.arange(s) * n // s for s, n in zip(self.size, mean.shape, strict=True)))
            keys = (int((mean > 0).sum()) if few else mean.size) + tokens.shape[1]
            made += (mean * (keys / (total or 1.0)))[index]
        return made if rank == 3 else made[None]


def _grid(type_: Any) -> tuple[int, ...]:
    return tuple(type_.grid or (type_.grids[0] if type_.grids else ()))


def _cut(image: NDArray[np.float32], box: Box, mode: Any = "reflect") -> NDArray[np.float32]:
    """(C, D, H, W) within a box; what it has beyond the image is reflected, as when a whole image is segmented."""
    sizes = image.shape[1:]
    kept = [slice(max(0, a), min(n, b)) for (a, b), n in zip(box, sizes, strict=True)]
    pads = [(max(0, -a), max(0, b - n)) for (a, b), n in zip(box, sizes, strict=True)]
    part = image[(slice(None), *kept)]
    return np.pad(part, [(0, 0), *pads], mode=mode) if any(map(any, pads)) else np.ascontiguousarray(part)


# --- writing --------------------------------------------------------------------------------------------------------


def arrays(gazes: Iterable[Gaze]) -> Mapping[str, NDArray[Any]]:
    """All numbers by name: `NODE` (queries, heads, *grid), of several scales `NODE.0`, `NODE.1`, …; `NODE.tokens`
    (queries, heads, extra); `voxels` (queries, 3) in the file's order, `windows` (queries, 3, 2) along D, H and W."""
    found: dict[str, list[Any]] = {}
    nodes: dict[str, list[Gaze]] = {}
    for gaze in gazes:
        nodes.setdefault(gaze.address, []).append(gaze)
    for address, group in nodes.items():
        for k in range(len(group[0].maps)):
            found[f"{address}.{k}" if len(group[0].maps) > 1 else address] = [g.maps[k] for g in group]
        if prod(group[0].tokens.shape):
            found[f"{address}.tokens"] = [g.tokens for g in group]
    first = next(iter(nodes.values()), [])
    found |= {"voxels": [g.voxel for g in first], "windows": [g.window for g in first]}
    return {name: np.stack([np.asarray(v) for v in values]) for name, values in found.items()}


def save(gazes: Iterable[Gaze], path: Path) -> None:
    """`arrays` as one .npz file, whole or not at all."""
    with whole(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays(gazes))  # type: ignore[arg-type]
