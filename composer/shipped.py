"""The shipped blueprints: where their files are, by name."""

from __future__ import annotations

from pathlib import Path

OWN = "blueprint-composer"
"""The distribution that this package is part of. What it brings itself is there whatever plugins are switched off."""


def shipped() -> dict[str, Path]:
    """The shipped blueprints: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "blueprints", package.parent / "blueprints"):
        if folder.is_dir():
            return {p.stem: p for p in sorted(folder.rglob("*.yaml"))}
    return {}


def published() -> dict[str, Path]:
    """The shipped blueprints but for the hybrids, which no paper has: they stand in a folder of their own."""
    return {name: path for name, path in shipped().items() if not is_hybrid(path)}


def is_hybrid(path: Path) -> bool:
    """Whether a file is an invention made of published parts."""
    return path.parent.name == "hybrids"
