"""The two files in nnU-Net's package by which its commands find the planner and the trainer.

nnU-Net looks for planners in its own package alone, and there by importing one file after another; each of ours is one
line, and sorts behind nnU-Net's own. Nothing of nnU-Net is changed, and removing the two leaves it as it was.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from composer.diagnostics import BlueprintError, Diagnostic
from composer.files import write_text
from composer.nnunet.architecture import PLANNER, TRAINER

LINES = {
    Path("experiment_planning/experiment_planners", f"{PLANNER}.py"): f"from composer.nnunet.planner import {PLANNER}",
    Path("training/nnUNetTrainer", f"{TRAINER}.py"): f"from composer.nnunet.trainer import {TRAINER}",
}


def package() -> Path:
    """The folder of nnU-Net's package, which is not imported. BP832 where it is not installed."""
    spec = find_spec("nnunetv2")
    if spec is None or not spec.submodule_search_locations:
        help = ("pip install 'blueprint-composer[nnunet]'",)
        raise BlueprintError(Diagnostic("BP832", "the package `nnunetv2` is not installed here", help=help))
    return Path(next(iter(spec.submodule_search_locations)))


def install(folder: Path) -> list[Path]:
    """Write both files; what was written."""
    for path, line in LINES.items():
        write_text(folder / path, f"{line} as {path.stem}\n")
    return [folder / path for path in LINES]


def remove(folder: Path) -> list[Path]:
    """Take both files away; those that were there."""
    there = [folder / path for path in LINES if (folder / path).exists()]
    for path in there:
        path.unlink()
    return there
