"""Writing files so that nothing is ever half-written: a temporary file beside the target, then a rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from composer.diagnostics import BlueprintError, Diagnostic, listing


def write_text(path: Path, text: str, fresh: bool = False) -> None:
    """Write a text file, whole or not at all; a `fresh` one must not exist. Raises `BlueprintError` where the folder
    cannot be written to."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as fault:
        raise refused(path, fault) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if fresh:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # takes the name, or fails where it is taken
        publish(Path(temporary), path)
    except OSError as fault:
        os.unlink(temporary)
        raise refused(path, fault) from None


def write_folder(path: Path, files: Mapping[str, str]) -> None:
    """Write a new folder of text files, by their paths in it: whole or not at all. What exists stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    except OSError as fault:
        raise refused(path, fault) from None
    try:
        for name, text in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text, encoding="utf-8")
        os.chmod(temporary, 0o777 & ~_umask())
        os.rename(temporary, path)  # onto a file or a folder with something in it this fails
    except OSError as fault:
        shutil.rmtree(temporary, ignore_errors=True)
        raise refused(path, fault) from None


def refused(path: Path, fault: OSError) -> BlueprintError:
    """The message about a place that cannot be written to."""
    return BlueprintError(Diagnostic("BP806", f"cannot write {path}: {fault.strerror or fault}"))


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
        raise refused(path, fault) from None


@contextlib.contextmanager
def whole_folder(path: Path, names: Collection[str], kept: Collection[str] = ()) -> Iterator[Path]:
    """A new folder beside the target, which takes its place in the end: whole or not at all.

    A folder that is there is replaced where it holds nothing but files of these `names` (`configs/a.json`), of which
    those `kept` stay as they are. Raises `BlueprintError` (BP806) before any work where it holds others, or where the
    folder around it cannot be written to.
    """
    path = Path(os.path.abspath(path))
    _check_own(path, names)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as temporary:
            new, before = Path(temporary) / path.name, Path(temporary) / ".before"
            new.mkdir()
            yield new
            for name in kept:
                if (path / name).is_file():
                    shutil.copy2(path / name, new / name)
            if path.exists():
                os.rename(path, before)
            try:
                os.rename(new, path)
            except OSError:
                if before.exists():
                    os.rename(before, path)
                raise
    except OSError as fault:
        raise refused(path, fault) from None


def _check_own(path: Path, names: Collection[str]) -> None:
    """Refuse to replace what is no folder, or a folder with other files in it."""
    if path.exists() and not path.is_dir():
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: it is a file, and a folder is to be made"))
    inside = (p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir() or p.is_symlink())
    others = sorted(set(inside) - set(names)) if path.is_dir() else []
    if others or (path.is_dir() and path.samefile(Path.cwd())):
        why = f"it holds other files: {listing(others, 4)}" if others else "it is the folder that you are in"
        raise BlueprintError(Diagnostic("BP806", f"cannot write {path}: {why}", help=("name a new folder",)))


def publish(temporary: Path, path: Path) -> None:
    """Move a finished temporary file to its place, with the permissions a new file of the user's has."""
    os.chmod(temporary, 0o666 & ~_umask())
    os.replace(temporary, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
