"""Writing files so that nothing is ever half-written: a temporary file beside the target, then a rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from composer.diagnostics import BlueprintError, Diagnostic


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises `BlueprintError` where the folder cannot be written to."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as fault:
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: {fault.strerror or fault}")) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        publish(Path(temporary), path)
    except OSError as fault:
        os.unlink(temporary)
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: {fault.strerror or fault}")) from None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path of the same name in a new folder beside the target; what is there in the end is moved to its place, the
    target last. Raises `BlueprintError` (BP806) before any work where the folder cannot be written to.
    """
    if path.is_dir():
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: it is a folder"))
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as folder:
            yield Path(folder) / path.name
            made = sorted(Path(folder).iterdir(), key=lambda p: p.name == path.name)
            for file in made:
                publish(file, path.parent / file.name)
    except OSError as fault:
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: {fault.strerror or fault}")) from None


def publish(temporary: Path, path: Path) -> None:
    """Move a finished temporary file to its place, with the permissions a new file of the user's has."""
    os.chmod(temporary, 0o666 & ~_umask())
    os.replace(temporary, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
