"""How a network learns: defaults that work, those of a blueprint under `source: {training: …}`, and what the user says.

    source: {training: {optimizer: adamw, lr: 0.0004, schedule: cosine, weight_decay: 0.05}}

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.diagnostics import BlueprintError, Diagnostic, Span, did_you_mean, listing

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Recipe(BaseModel):
    """Everything that decides what is learned but the network and the data.

    epochs, steps      epochs, and optimizer steps of each; at the end of an epoch there is validation and a checkpoint
    batch, accumulate  patches at a time, and how many batches make one step
    lr, schedule       the highest learning rate; it rises over the share `warmup` of all steps, then falls to 0
    power              of the schedule `poly`, (1 - t)^power
    nesterov           whether `sgd` looks ahead along its momentum
    slower             factors on `lr` for nodes by address: {"*.attention": 0.5}
    clip               the largest norm of the gradients; 0 for any
    weights            of the classes in the loss, background first
    prior              the head begins with the classes' frequencies: its bias is their logarithm
    foreground         share of patches that are drawn about a voxel of a random class; the others lie anywhere
    flip … noise       changes of the patches, each with the probability `often`: mirrored, rotated by up to so many
                       degrees, scaled and shifted by up to such a share of the patch, bent by up to so many voxels,
                       gamma e^±g, brightness and contrast ±b standard deviations, a smooth field e^±f, Gaussian noise
                       of up to n standard deviations
    seed               of everything that is drawn
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Count = 100
    steps: Count = 50
    batch: Count = 2
    accumulate: Count = 1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: Amount = 1e-4
    momentum: Fraction = 0.99
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    power: Positive = 0.9
    nesterov: bool = True
    warmup: Fraction = 0.05
    slower: dict[str, Positive] = {}
    clip: Amount = 5
    weights: tuple[float, ...] = ()
    prior: bool = False
    foreground: Share = 0.33
    often: Share = 0.5
    flip: bool = True
    rotate: Annotated[float, Field(ge=0, le=180)] = 15
    scale: Fraction = 0.15
    shift: Share = 0
    bend: Amount = 0
    gamma: Amount = 0.3
    brightness: Amount = 0.15
    field: Amount = 0
    noise: Amount = 0.1
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def total(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.steps


def recipe(*layers: Mapping[str, Any] | None, span: Span | None = None) -> Recipe:
    """The recipe of several layers, each over those before it; what is None says nothing. A wrong one is BP826."""
    given = {k: v for layer in layers for k, v in (layer or {}).items() if v is not None}
    unknown = next((k for k in given if k not in Recipe.model_fields), None)
    if unknown:
        text = f"a recipe has no `{unknown}`{did_you_mean(unknown, Recipe.model_fields)}"
        raise BlueprintError(Diagnostic("BP826", text, span, notes=(f"it has {listing(Recipe.model_fields, 40)}",)))
    try:
        return Recipe(**given)
    except ValidationError as fault:
        raise BlueprintError([_said(e, span) for e in fault.errors()]) from None


def _said(error: Any, span: Span | None) -> Diagnostic:
    name, said = ".".join(map(str, error["loc"])), str(error["msg"])
    return Diagnostic("BP826", f"`{name}: {error['input']}` of the recipe: {said[0].lower()}{said[1:]}", span)


def words(given: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` of the command line, values as in YAML."""
    from composer.blueprint import parse_overrides

    return dict(parse_overrides(given))
