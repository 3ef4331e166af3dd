"""The blueprint as it stands in nnU-Net's plans, under `architecture` of a configuration:

    "architecture": {"network_class_name": "composer", "arch_kwargs": {"blueprint": …, "params": {…}}, …}

`blueprint` is the text of one, as the planner writes it, or a name or a path, as a person would; `params` are set
in it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from composer.blueprint import arguments, parse_overrides
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic
from composer.segmenting import head_of

VARIABLE = "nnUNet_blueprint"
"""The environment variable that says which blueprint a planner plans for."""

PLANNER, TRAINER = "nnUNetPlannerComposer", "nnUNetTrainerComposer"
"""What nnU-Net's commands call the two classes."""


class OtherRankError(BlueprintError):
    """The blueprint takes images of another number of axes than a configuration has."""


@dataclass(frozen=True)
class Architecture:
    """A blueprint, by its text or by its name, and the parameters to set."""

    blueprint: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def load(self, more: Mapping[str, Any]) -> Blueprint:
        """The blueprint with further parameters."""
        given = arguments({**self.params, **more})
        if "\n" in self.blueprint:
            return Blueprint.parse(self.blueprint, overrides=given, name="<plans>")
        return Blueprint.load(self.blueprint, overrides=given)

    def made(self, channels: int, classes: int) -> Blueprint:
        """The blueprint for so many channels and classes; BP832 where it has others, or is no segmentation."""
        known, counts = self.load({}), {"channels": channels, "classes": classes}
        made = self.load({k: n for k, n in counts.items() if k in known.values})
        fitting(made, channels, classes)
        return made

    def to_plans(self) -> dict[str, Any]:
        """The value of `architecture`."""
        kwargs = {"blueprint": self.blueprint, "params": dict(self.params)}
        return {"network_class_name": "composer", "arch_kwargs": kwargs, "_kw_requires_import": []}

    @staticmethod
    def of_plans(configuration: Mapping[str, Any], name: str) -> Architecture:
        """What `to_plans` gave, from a configuration of the plans. BP832 where another planner made it."""
        kwargs = configuration.get("architecture", {}).get("arch_kwargs", {})
        if not isinstance(kwargs.get("blueprint"), str):
            text = f"the plans have no blueprint for `{name}`"
            help = f"{VARIABLE}=unet3d nnUNetv2_plan_experiment -d DATASET -pl {PLANNER}, and train with its `-p`"
            raise BlueprintError(Diagnostic("BP832", text, help=(help,)))
        return Architecture(kwargs["blueprint"], kwargs.get("params") or {})


def asked(words: str | None = None) -> Blueprint:
    """The blueprint that the environment names, with the parameters behind it, in the words of the command line."""
    words = os.environ.get(VARIABLE, "") if words is None else words
    name, *overrides = shlex.split(words) or [""]
    if not name:
        text = f"no blueprint is named: the environment variable `{VARIABLE}` is empty"
        help = (f"{VARIABLE}='unet3d widths=[16,32,64]', before the command",)
        raise BlueprintError(Diagnostic("BP832", text, help=help))
    return Blueprint.load(name, overrides=parse_overrides(overrides))


def given(blueprint: Blueprint) -> tuple[str, ...]:
    """Names of the parameters that were set when the blueprint was loaded."""
    return tuple(blueprint.asked.overrides) if blueprint.asked else ()


def ranked(blueprint: Blueprint, rank: int) -> None:
    """As many axes as the images of a configuration have. BP832 otherwise."""
    has = len(blueprint.check().inputs[0].axes)
    if has != rank:
        text = f"`{blueprint.name}` is a network on {has} axes, the configuration has {rank}"
        help = f"take one on {rank} axes: " + ("`unet`, `swin_unet` …" if rank == 2 else "`unet3d`, `nnunet` …")
        raise OtherRankError(Diagnostic("BP832", text, help=(help,)))


def fitting(blueprint: Blueprint, channels: int, classes: int) -> None:
    """One image in, a class for every voxel of it out, and as many of both as the data have. BP832 otherwise."""
    program = blueprint.check()
    needed = [i for i in program.inputs if not i.optional]
    kind: Any = program.types.get(head_of(program))
    if len(needed) != 1 or not needed[0].type.grid or getattr(kind, "kind", "") != "map":
        names = ", ".join(i.name for i in needed)
        text = f"nnU-Net feeds an image and wants a class for every voxel; `{blueprint.name}` makes {kind} of {names}"
        raise BlueprintError(Diagnostic("BP832", text, help=("take a segmentation network, such as `unet3d`",)))
    for name, has, wanted in (("channels", needed[0].type.channels, channels), ("classes", kind.channels, classes)):
        if has != wanted:
            text = f"`{blueprint.name}` has {has} {name}, the data {wanted}"
            help = (f"give the blueprint a parameter `{name}`, which is then set to {wanted}",)
            raise BlueprintError(Diagnostic("BP832", text, help=help))
