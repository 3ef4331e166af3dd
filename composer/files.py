"""Writing files so that nothing is ever half-written: a temporary file beside the target, then a rename."""

from __future__ import annotations

import os
import tempfile
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


def publish(temporary: Path, path: Path) -> None:
    """Move a finished temporary file to its place, with the permissions a new file of the user's has."""
    os.chmod(temporary, 0o666 & ~_umask())
    os.replace(temporary, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
