"""Learning a pretext: the losses, and the network as a module of Lightning.

    from composer.pretexts import pretext
    from composer.pretraining import Pretraining

    task = pretext(composer.load("vit"), "mae")
    pl.Trainer(max_epochs=10).fit(Pretraining(task.blueprint.build(), task), patches)

It needs Lightning: `pip install 'blueprint-composer[train]'`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from composer.lightning import optimizers
from composer.module import Network
from composer.pretexts import Pretext, Turn
from composer.training.recipe import Recipe

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "mae": dict(lr=1e-3, weight_decay=0.05, rotate=0, scale=0.15, gamma=0, brightness=0, noise=0),
    "rotation": dict(lr=1e-3, flip=False, rotate=0),
}
"""What a recipe is where nothing else is said. As published the changes of a patch are few for `mae`: its size and its
side; a mirrored image stays as it was only to a network that need not tell how it is turned."""


class Reconstruction(nn.Module):
    """outputs {pixels (B, P·C, *grid), mask (B, 1, *grid)}, image (B, C, *size) -> the mean squared error over hidden
    patches. With `normalize` each patch is first brought to mean 0 and variance 1 (He et al., 2022)."""

    def __init__(self, patch: Sequence[int], normalize: bool = True):
        super().__init__()
        self.patch, self.normalize = tuple(patch), normalize

    def forward(self, outputs: Mapping[str, Tensor], image: Tensor) -> Tensor:
        wanted = patches(image, self.patch)
        if self.normalize:
            deviation = (wanted.var(-1, keepdim=True) + 1e-6).sqrt()
            wanted = (wanted - wanted.mean(-1, keepdim=True)) / deviation
        found = outputs["pixels"].flatten(2).transpose(1, 2).to(wanted)
        mask = outputs["mask"].flatten(1).to(wanted)
        error = (found - wanted).square().mean(-1)
        return (error * mask).sum() / mask.sum()


def patches(image: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *size) -> (B, N, P·C): each patch in the order of its voxels, the channels last."""
    rank = len(patch)
    cut = image
    for axis, side in enumerate(patch):
        cut = torch.unflatten(cut, 2 + 2 * axis, (-1, side))  # (B, C, n, p, n, p, …)
    cells, inside = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    return cut.permute(0, *cells, *inside, 1).flatten(1 + rank).flatten(1, rank)


def turned(image: Tensor, turn: Turn) -> Tensor:
    """An image (C, *size), rotated: axis n of the result is axis `turn[n]` of what there was."""
    moved = image.permute(0, *(a + 1 for a, _ in turn))
    return moved.flip([n + 1 for n, (_, reverse) in enumerate(turn) if reverse])


class Pretraining(LightningModule):
    """A network that learns a pretext.

    A batch is a mapping: `image` (B, C, *size), and whatever other inputs the network takes by name; a `label` is not
    looked at. It logs `loss`, and for rotation `accuracy`.
    """

    def __init__(self, network: Network, task: Pretext, recipe: Recipe | None = None):
        super().__init__()
        self.network, self.task = network, task
        self.recipe = recipe or Recipe(**DEFAULTS[task.kind])
        self.position = any(i.name == "position" for i in network.inputs)
        self.reconstruction = Reconstruction(task.patch, bool(task.options.get("normalize")))

    def training_step(self, batch: Mapping[str, Tensor], number: int) -> Tensor:
        """The loss of a batch."""
        fed = {k: v for k, v in batch.items() if k != "label"}
        said = self.rotation(fed) if self.task.kind == "rotation" else {"loss": self.masked(fed)}
        count = len(batch["image"])
        for name, value in said.items():
            self.log(name, value.detach(), on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return said["loss"]

    def masked(self, fed: Mapping[str, Tensor]) -> Tensor:
        """The error of what is predicted of hidden patches."""
        loss: Tensor = self.reconstruction(self.network(**fed), fed["image"])
        return loss

    def rotation(self, fed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each image is turned at random, and the network says how."""
        turns = self.task.turns
        chosen = torch.randint(len(turns), (len(fed["image"]),), device=fed["image"].device)
        images = [turned(image, turns[k]) for image, k in zip(fed["image"], chosen.tolist(), strict=True)]
        logits = self.network(**{**fed, "image": torch.stack(images)}).float()
        right = (logits.argmax(1) == chosen).float().mean()
        return {"loss": functional.cross_entropy(logits, chosen), "accuracy": right}

    def configure_optimizers(self) -> Any:
        """The optimizer, and a schedule that steps with it."""
        return optimizers(self.network, self.recipe)
