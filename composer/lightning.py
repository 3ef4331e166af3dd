"""A segmentation network as a module of Lightning: loss, optimizer, schedule and validation in one place.

    import lightning.pytorch as pl
    from composer.lightning import Segmentation

    pl.Trainer(max_epochs=10).fit(Segmentation(network), patches)

It needs Lightning: `pip install 'blueprint-composer[train]'`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from composer import imaging
from composer.addresses import Pattern
from composer.module import Network
from composer.segmenting import head_of
from composer.segments import owners
from composer.taps import KEY
from composer.training.objective import Objective
from composer.training.recipe import Recipe
from composer.training.tables import Unread, tables


class Segmentation(LightningModule):
    """A network in training.

    A batch is a mapping: `image` (B, C, *size), `label` (B, 1, *size) with the class of each voxel, and whatever other
    inputs the network takes by name. Validation takes whole cases, `image` (C, D, H, W) and `label` (D, H, W), or
    batches of them; it segments them window by window as `composer run` does, and logs `dice` and `dice/CLASS` (MONAI;
    a class that a case does not show counts in no mean).

    network   a network whose first output is a map of classes
    recipe    how it learns; of its fields those about epochs and patches are for the caller
    names     of the classes, from background on
    size      the window of validation; that which the network is built for without it

    `Segmentation.load_from_checkpoint(PATH, network=network)` puts what a checkpoint holds into a network of the same
    blueprint.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe | None = None,
        names: Sequence[str] = (),
        size: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.network, self.recipe = network, recipe or Recipe()
        program = network.blueprint.check()  # type: ignore[attr-defined]
        first = program.inputs[0]
        self.size = size or tuple(program.built[a] for a in first.axes)
        self.classes = classes_of(program)
        self.names = tuple(names) or tuple(f"class {k}" for k in range(self.classes))
        self.position = any(i.name == "position" for i in program.inputs)
        self.unread: Unread | None = None
        self.objective: Objective = Objective(self.classes, self.recipe.weights)
        self.scores: Tensor
        self.register_buffer("scores", torch.zeros(2, self.classes - 1), persistent=False)

    def training_step(self, batch: Mapping[str, Tensor], number: int) -> Tensor:
        """The loss of a batch."""
        outputs = without_taps(self.network(**{k: v for k, v in batch.items() if k != "label"}))
        loss: Tensor = self.objective(outputs, batch["label"])
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch["label"]), sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.unread:
            self.unread.remember()

    def on_validation_epoch_start(self) -> None:
        self.scores.zero_()

    def validation_step(self, case: Mapping[str, Any], number: int) -> None:
        """The Dice of every class of a case. What the network counts meanwhile is forgotten: a case neither changes how
        the next one is seen, nor what is learned."""
        for image, label in whole_cases(case):
            with imaging.untouched(self.network):
                self.score(image, label)

    def score(self, image: Tensor, label: Tensor) -> None:
        """Segment a case (C, D, H, W), and add its Dice to the sums."""
        from monai.metrics.meandice import DiceHelper

        found = imaging.segment_seen(
            self.network, image.numpy(), size=self.size, classes=self.classes, overlap=0.25, position=self.position
        )
        pair = [a.long()[None, None] for a in (torch.from_numpy(found), label)]
        dice: Any = DiceHelper(
            include_background=False, num_classes=self.classes, reduction="none", get_not_nans=False, apply_argmax=False
        )(*pair)
        seen = ~dice[0].isnan()
        self.scores += torch.stack([dice[0].nan_to_num(), seen.float()]).to(self.scores.device)

    def on_validation_epoch_end(self) -> None:
        gathered: Any = self.all_gather(self.scores)
        total = gathered.view(-1, 2, self.classes - 1).sum(0)
        mean = total[0] / total[1]
        for name, value in zip(self.names[1:], mean, strict=True):
            self.log(f"dice/{name}", value)
        self.log("dice", mean[~mean.isnan()].mean() if (~mean.isnan()).any() else torch.tensor(0.0))

    def configure_optimizers(self) -> Any:
        """The optimizer, and a schedule that steps with it."""
        made = optimizers(self.network, self.recipe)
        program = self.network.blueprint.check()  # type: ignore[attr-defined]
        self.unread = Unread(tables(self.network, program), made["optimizer"])
        return made


def optimizers(network: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """The optimizer of a recipe and its schedule, as Lightning takes them."""
    groups = list(grouped(network, recipe))
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        made: Any = torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=nesterov)
    else:
        made = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer](groups, recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: pace(recipe, step))
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def without_taps(outputs: Any) -> Any:
    """What a network gives, less how its attentions weighed: heads are no classes."""
    return {k: v for k, v in outputs.items() if k != KEY} if isinstance(outputs, Mapping) else outputs


def whole_cases(batch: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """The images (C, D, H, W) and labels (D, H, W) of a batch, or of a case alone, on the processor."""
    image, label = (torch.as_tensor(batch[k]).cpu() for k in ("image", "label"))
    images = image if image.dim() == 5 else image[None]
    return zip(images, label.reshape(len(images), *images.shape[2:]), strict=True)


def classes_of(program: Any) -> int:
    """Channels of the first output."""
    return max(2, int(program.types[head_of(program)].channels))


def pace(recipe: Recipe, step: int) -> float:
    """The share of the learning rate at a step."""
    from math import cos, pi

    warm = round(recipe.warmup * recipe.total)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = min(1.0, (step - warm) / max(1, recipe.total - warm))
    curves: dict[str, float] = {
        "cosine": 0.5 * (1 + cos(pi * done)),
        "poly": (1 - done) ** recipe.power,
        "constant": 1.0,
    }
    return curves[recipe.schedule]


def grouped(network: nn.Module, recipe: Recipe) -> Any:
    """Parameters in groups of one learning rate and one decay: biases and scales, of one axis, are not decayed."""
    patterns = [(Pattern(text), factor) for text, factor in recipe.slower.items()]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = next((f for p, f in patterns if any(p.matches(a) for a in owners(name))), 1.0)
            decay = recipe.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    for (factor, decay), parameters in groups.items():
        yield {"params": parameters, "lr": recipe.lr * factor, "weight_decay": decay}
