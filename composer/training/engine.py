"""Lightning at work on a run: `learn`, and what is kept at the end of every epoch.

    epoch -> validation -> best.safetensors -> metrics.csv -> last.ckpt

`last.ckpt` comes last: a process that dies anywhere before it repeats the epoch, with the same patches and the same
drawn numbers, since all of them follow from the seed and the epoch. Nothing else has to be remembered.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from composer.diagnostics import BlueprintError, Diagnostic
from composer.files import refused, whole
from composer.lightning import Segmentation
from composer.pretraining import Pretraining
from composer.training.patches import Numbers, Patches, Whole
from composer.training.runs import Run
from composer.training.store import Example, View
from composer.weights import save_file

Learner = Segmentation | Pretraining
Row = Mapping[str, float]
Listener = Callable[[str, Any], None]
"""Hears `epoch` (number), `step` (done in this epoch, loss), `row` (the metrics of an epoch that ended)."""


@dataclass(frozen=True)
class Machine:
    """What it runs on, in Lightning's words."""

    accelerator: str = "auto"
    devices: str = "1"
    strategy: str = "auto"
    precision: str = "32-true"
    workers: int = 0


@dataclass
class Data:
    """Prepared cases by part, and whether they may be mirrored."""

    examples: Sequence[Example]
    view: View
    flip: bool = True

    def part(self, name: str) -> list[Example]:
        return [e for e in self.examples if e.part == name]


def learn(
    module: Learner, data: Data, run: Run, machine: Machine | None = None, hear: Listener | None = None
) -> list[Row]:
    """Train to the end of the recipe, from the last checkpoint of the run where there is one; the metrics of every
    epoch. What is kept stands in `RUN`; interrupted, it goes on where it was."""
    machine = machine or Machine()
    keeper = Keeper(run, hear or (lambda what, value: None))
    with quiet():
        trainer = _trainer(module, run, machine, keeper)
        patches, cases = _patches(module, data, trainer, machine), _cases(data)
        try:
            trainer.fit(module, patches, cases, ckpt_path=_last(run), weights_only=True)
        except SystemExit:  # how Lightning ends when the user interrupts it
            raise KeyboardInterrupt from None
    return keeper.history


def _trainer(module: Learner, run: Run, machine: Machine, keeper: Keeper) -> pl.Trainer:
    recipe = module.recipe
    devices = int(machine.devices) if machine.devices.lstrip("-").isdigit() else machine.devices
    return pl.Trainer(
        accelerator=machine.accelerator, devices=devices, strategy=machine.strategy,
        precision=machine.precision,  # type: ignore[arg-type]
        max_epochs=recipe.epochs, accumulate_grad_batches=recipe.accumulate, gradient_clip_val=recipe.clip or None,
        logger=TensorBoardLogger(run.folder, name="tensorboard", version=""), callbacks=[keeper],
        num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, log_every_n_steps=1, default_root_dir=run.folder, inference_mode=False,
    )  # fmt: skip


def _patches(module: Learner, data: Data, trainer: pl.Trainer, machine: Machine) -> DataLoader[Any]:
    recipe, world = module.recipe, trainer.world_size
    patches = Patches(data.part("training"), data.view, recipe, data.flip, module.position)
    numbers = Numbers(recipe.steps * recipe.accumulate * recipe.batch * world, trainer.global_rank, world)
    return DataLoader(
        patches, recipe.batch, sampler=numbers, num_workers=machine.workers, drop_last=True,
        persistent_workers=machine.workers > 0,
    )  # fmt: skip


def _cases(data: Data) -> DataLoader[Any] | None:
    cases = data.part("validation")
    return DataLoader(Whole(cases), batch_size=None, collate_fn=lambda case: case) if cases else None


def _last(run: Run) -> str | None:
    """The checkpoint to go on from, if there is one. BP825 where it cannot be read."""
    if not run.last.is_file():
        return None
    try:
        known = torch.load(run.last, map_location="cpu", weights_only=True, mmap=True)
        assert {"state_dict", "loops", "callbacks"} <= set(known)
    except Exception as fault:  # a damaged file makes its reader fail in any way at all
        text = f"`{run.last}` is damaged ({type(fault).__name__}): the run cannot go on from it"
        help = (f"the weights so far are in {run.final.name}; begin a new run with `--weights {run.final}`",)
        raise BlueprintError(Diagnostic("BP825", text, help=help)) from None
    return str(run.last)


@dataclass
class Keeper(pl.Callback):
    """Keeps a run on disk, and tells what happens."""

    run: Run
    hear: Listener
    best: float = -1.0
    history: list[Row] = field(default_factory=list)

    def __hash__(self) -> int:
        return id(self)

    @property
    def state_key(self) -> str:
        return "keeper"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.history = state["best"], list(state["history"])

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.hear("epoch", trainer.current_epoch)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, number: int) -> None:
        """What is drawn in a batch (dropout, drop path) follows from its number."""
        words = (module.recipe.seed, trainer.current_epoch, number, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, number: int) -> None:
        loss = float(outputs["loss"]) * module.recipe.accumulate
        if not math.isfinite(loss):
            raise diverged(trainer.current_epoch, number, self.run)
        self.hear("step", (number + 1, loss))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        scores = {k: float(v) for k, v in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, **scores, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        self.history = [*self.history, row]
        self.hear("row", row)
        with _to_disk(self.run.folder):
            weights, name = module.network.state_dict(), module.network.blueprint.name
            if scores.get("dice", 0.0) > self.best and trainer.is_global_zero:
                self.best = scores.get("dice", 0.0)
                self._save(weights, name, self.run.best)
            if trainer.is_global_zero:
                self._save(weights, name, self.run.final)
                self.run.write_metrics(self.history)
            draft = self.run.last.with_name(".last.ckpt.tmp")
            trainer.save_checkpoint(draft)
            if trainer.is_global_zero:
                os.replace(draft, self.run.last)

    def _save(self, weights: Any, name: str, path: Path) -> None:
        with whole(path) as draft:
            save_file(weights, draft, {"blueprint": name})


def diverged(epoch: int, batch: int, run: Run) -> BlueprintError:
    """The loss is no number any more."""
    text = f"the loss is not finite in batch {batch + 1} of epoch {epoch + 1}"
    kept = f"what was learned up to epoch {epoch} is in `{run.folder}`" if epoch else "no epoch had ended"
    help = ("a lower `--lr`, a longer `--recipe warmup=0.1`, `--recipe clip=1`, or `--precision 32-true`",)
    return BlueprintError(Diagnostic("BP827", text, notes=(kept,), help=help))


@contextmanager
def _to_disk(folder: Path) -> Iterator[None]:
    """A full disk is said as such; what was written before stays whole."""
    try:
        yield
    except OSError as fault:
        raise refused(folder, fault) from fault


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's advice on tools of its own."""
    loud = [
        logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    ]
    levels = [log.level for log in loud]
    for log in loud:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for log, level in zip(loud, levels, strict=True):
            log.setLevel(level)
