"""A folder that is a network: its blueprint and its weights lie in it, under names that are always the same.

    FOLDER/blueprint.yaml      the network in full (`composer.flat`), with the plugins that it requires
    FOLDER/model.safetensors   its weights
    FOLDER/config.json         what it was made with, and the names of its classes
    FOLDER/README.md           a model card

Wherever a blueprint is named, such a folder may be. The layout is that of a repository on Hugging Face's hub, and of
its files none can hold code. Imports no torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from composer.diagnostics import BlueprintError, Diagnostic, listing

BLUEPRINT, WEIGHTS, CONFIG, CARD = FILES = ("blueprint.yaml", "model.safetensors", "config.json", "README.md")
FORMAT = 1
"""The version of the layout, `format` in config.json."""


def blueprint_of(path: Path) -> Path:
    """The blueprint in a folder; any other path as it is."""
    inside = path / BLUEPRINT
    return inside if inside.is_file() else path


def weights_of(path: str | os.PathLike[str]) -> Path | None:
    """The weights of a folder that has a blueprint too."""
    inside = Path(path) / WEIGHTS
    return inside if inside.is_file() and (Path(path) / BLUEPRINT).is_file() else None


def labels_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the classes, from background on; nothing where no folder says any."""
    if weights_of(path) is None or not (Path(path) / CONFIG).is_file():
        return ()
    named = read(Path(path)).get("id2label") or {}
    return tuple(str(named[k]) for k in sorted(named, key=int))


def read(path: Path) -> dict[str, Any]:
    """The config of a folder. BP835 where it is not one that `save_pretrained` wrote."""
    missing = [n for n in (CONFIG, BLUEPRINT, WEIGHTS) if not (path / n).is_file()]
    if missing:
        where = "has no" if path.is_dir() else "is no folder with"
        found = f"it has {listing(sorted(p.name for p in path.iterdir()), 6) or 'nothing'}" if path.is_dir() else ""
        raise _no_network(path, f"it {where} {listing(missing)}", found)
    try:
        import json

        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise _no_network(path, f"its {CONFIG} cannot be read ({' '.join(str(fault).split())[:80]})") from None
    version = config.get("format") if isinstance(config, dict) else None
    if version != FORMAT or not _is_naming(config.get("id2label")):
        raise _no_network(path, f"its {CONFIG} is not of the format {FORMAT}" + (f" but {version}" if version else ""))
    return dict(config)


def _is_naming(named: Any) -> bool:
    return named is None or (isinstance(named, dict) and all(k.isdigit() for k in named))


def _no_network(path: Path, why: str, *notes: str) -> BlueprintError:
    help = "`network.save_pretrained(FOLDER)` and `composer export NAME --hub FOLDER --weights W` write one"
    text = f"`{path}` is no folder of a saved network: {why}"
    return BlueprintError(Diagnostic("BP835", text, notes=tuple(filter(None, notes)), help=(help,)))
