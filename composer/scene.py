"""Mistakes that no blueprint can show alone: a few small files and a command, what it says, and the same once mended.

The scene of a code is the file `examples/CODE.yaml` of this package: `files` by name, `setup` (Python that makes what
is no text, such as an image), the command to `run` and what it `says`; under `mended` stands what is changed. The tests
play every scene in an empty folder, and hold what is said against `says`, in which … stands for words of another
library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class Act:
    """What lies in a folder, and a command that is given there."""

    run: str
    files: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""

    def changed(self, given: Mapping[str, Any]) -> Act:
        """The same with some of its parts in other words."""
        return Act(given.get("run", self.run), {**self.files, **given.get("files", {})}, given.get("setup", self.setup))

    def without(self, other: Act) -> Act:
        """What it does not share with another; the command always."""
        files = {name: text for name, text in self.files.items() if other.files.get(name) != text}
        return Act(self.run, files, "" if self.setup == other.setup else self.setup)


@dataclass(frozen=True)
class Scene:
    """A mistake, its message, and the way out."""

    broken: Act
    says: str
    mended: Act


def scene(code: str) -> Scene | None:
    """The scene of a code, if it has one."""
    path = EXAMPLES / f"{code}.yaml"
    if not path.is_file():
        return None
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    broken = Act(given["run"], given["files"], given.get("setup", ""))
    return Scene(broken, given["says"], broken.changed(given["mended"]))


def scenes() -> Iterable[str]:
    """The codes that have one."""
    return [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))]


__all__ = ["Act", "Scene", "scene", "scenes"]
