"""The folder of a run: what was asked for, how far it is, and the weights that were best.

    RUN/run.json            what was asked for: blueprint, recipe, data, scaling; a run goes on only with the same
    RUN/blueprint.yaml      the network, with everything that the command line changed
    RUN/last.ckpt           all that going on needs, of the last epoch that ended
    RUN/best.safetensors    the weights with the best mean Dice in validation, and those of the end in last.safetensors
    RUN/metrics.csv         a line for each epoch        RUN/tensorboard   the same for TensorBoard
    RUN/prepared            images and labels as the network sees them

Every file is written beside its place and then renamed, so that it is whole whenever the process is killed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.diagnostics import BlueprintError, Diagnostic, listing
from composer.files import refused, write_text


@dataclass(frozen=True)
class Run:
    """A run's folder, and the files in it."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "run.json"

    @property
    def blueprint(self) -> Path:
        return self.folder / "blueprint.yaml"

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def final(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared"

    def claim(self) -> None:
        """Make the folder, or find that of a run. BP825 where it holds anything else."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise refused(self.folder, fault) from None
        inside = sorted(p.name for p in self.folder.iterdir())
        if not self.settings.is_file() and inside not in ([], [self.prepared.name]):
            text = f"`{self.folder}` holds other files: {listing(inside, 5)}"
            raise BlueprintError(Diagnostic("BP825", text, help=("name a new folder with `--out`",)))

    def begin(self, asked: Mapping[str, Any], text: str) -> bool:
        """Write down what was asked for; whether there is a checkpoint to go on from. BP825 where the folder is that of
        another run."""
        said = json.loads(json.dumps(asked))
        if self.settings.is_file():
            self._check_same(said)
            return self.last.is_file()
        write_text(self.blueprint, text)
        write_text(self.settings, json.dumps(said, indent=2))
        return False

    def read(self) -> dict[str, Any]:
        """What was asked for. BP825 where this is no run."""
        try:
            found = json.loads(self.settings.read_text(encoding="utf-8"))
            assert isinstance(found, dict)
        except (OSError, ValueError, AssertionError):
            text = f"`{self.folder}` is no run of `composer train`: it has no readable run.json"
            raise BlueprintError(Diagnostic("BP825", text)) from None
        return found

    def _check_same(self, asked: Mapping[str, Any]) -> None:
        before = self.read()
        wrong = list(differences(before, asked))
        if wrong:
            text = f"`{self.folder}` is another run; to go on with it, ask for the same"
            help = ("name a new folder with `--out`, or remove this one",)
            raise BlueprintError(Diagnostic("BP825", text, notes=tuple(wrong[:8]), help=help))

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """One line for each epoch."""
        names = list(dict.fromkeys(k for row in history for k in row))
        with io.StringIO() as text:
            writer = csv.DictWriter(text, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
            write_text(self.metrics, text.getvalue())


def differences(before: Any, after: Any, at: str = "") -> Any:
    """What is another value, in words."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from differences(before.get(key), after.get(key), f"{at}.{key}" if at else key)
    elif before != after and at == "blueprint":
        yield "blueprint: another text"
    elif before != after:
        yield f"{at}: it has {_short(before)}, asked for is {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
