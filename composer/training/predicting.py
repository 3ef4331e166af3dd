"""Label maps from what runs learned: one network or several, and each on mirrored images too.

An `Ensemble` averages probabilities, so that it is a network like any other for `composer.imaging`: windows, margins
and positions go on as they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from composer import imaging
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic
from composer.imaging import Progress, Volume
from composer.training.cases import Case
from composer.training.objective import leaves
from composer.training.runs import Run
from composer.training.store import Scaling, View, scaled, volume_of
from composer.weights import load_file, load_into


class Ensemble(nn.Module):
    """The logarithm of the mean probability, over networks and, with `flips`, over all mirror images:
    (B, C, *grid) -> (B, K, *grid). A mirrored window is told the position of the window, as in training."""

    def __init__(self, networks: Sequence[nn.Module], flips: bool = False):
        super().__init__()
        self.networks, self.flips = nn.ModuleList(networks), flips

    def forward(self, x: Tensor, **more: Tensor) -> Tensor:
        axes = range(2, x.dim())
        turns = [t for n in range(x.dim() - 1) for t in combinations(axes, n)] if self.flips else [()]
        total = torch.zeros(())
        for network in self.networks:
            for turn in turns:
                logits = next(leaves(network(x.flip(turn), **more))).flip(turn)
                total = total.to(logits) + _probabilities(logits.float()).to(logits)
        return (total / (len(self.networks) * len(turns))).clamp_min(1e-30).log()


def _probabilities(logits: Tensor) -> Tensor:
    """Of one logit for two classes as well."""
    if logits.shape[1] == 1:
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], 1)
    return logits.softmax(1)


@dataclass(frozen=True)
class Learned:
    """A run's network with its weights, and how an image becomes what it has learned from."""

    network: nn.Module
    view: View
    scaled: tuple[Scaling, ...]
    labels: tuple[str, ...]
    name: str
    position: bool

    def seen(self, case: Case) -> Volume:
        """The image of a case, scaled."""
        return scaled(volume_of(case, self.view.channels), self.scaled)

    def segment(self, volume: Volume, overlap: float = 0.5, progress: Progress | None = None) -> NDArray[Any]:
        """Labels (X, Y, Z) on the grid of the file. A network that counts what it sees begins each image as training
        left it, so that the order of images changes nothing."""
        view = self.view
        with imaging.untouched(self.network):
            return imaging.segment(
                self.network, volume, size=view.size, classes=view.classes, axis=view.axis, overlap=overlap,
                position=self.position, progress=progress,
            )  # fmt: skip


def learned(folders: Sequence[Path], weights: str = "best", flips: bool = False, device: Any = "cpu") -> Learned:
    """What runs learned, as one network. They must have been asked for the same view of the same classes (BP825)."""
    found = [Run(folder).read() for folder in folders]
    first = found[0]
    for folder, asked in zip(folders, found, strict=True):
        if "pretext" in asked:
            text = f"`{folder}` is a run of `composer pretrain`, whose network segments nothing"
            raise BlueprintError(Diagnostic("BP825", text, help=(f"composer train … --from {folder}",)))
    for folder, other in zip(folders[1:], found[1:], strict=True):
        wrong = next((k for k in ("view", "labels", "scaling") if other[k] != first[k]), None)
        if wrong:
            text = f"`{folder}` and `{folders[0]}` cannot vote together: they differ in `{wrong}`"
            notes = tuple(f"{f}: {o[wrong]}" for f, o in ((folders[0], first), (folder, other)))
            raise BlueprintError(Diagnostic("BP825", text, notes=notes))
    networks = [_network(Run(folder), asked, weights) for folder, asked in zip(folders, found, strict=True)]
    position = "position" in {i.name for n in networks for i in n.inputs}
    view = View(**{**first["view"], "size": tuple(first["view"]["size"])})
    scaled = tuple(Scaling(**s) for s in first["scaling"])
    network = Ensemble(networks, flips).to(device).eval()
    return Learned(network, view, scaled, tuple(first["labels"]), first["name"], position)


def _network(run: Run, asked: dict[str, Any], weights: str) -> Any:
    """The network of a run with its best weights, or the last where there was no validation."""
    file = run.best if weights == "best" and run.best.is_file() else run.final
    if not file.is_file():
        text = f"`{run.folder}` has no weights yet: no epoch has ended"
        raise BlueprintError(Diagnostic("BP825", text, help=("let `composer train` run on",)))
    network = Blueprint.parse(asked["blueprint"], name=str(run.blueprint)).build()
    load_into(network, load_file(file), name=str(file))
    return network
