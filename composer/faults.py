"""Whose fault something is that nobody foresaw: a plugin's, which is named with its version, or Composer's own.

A fault of Composer's own becomes an `InternalError` with everything that a report needs in one file: versions, the
command, the traceback, and the blueprints that were read. The traceback itself stays with the exception in Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, InternalError, PluginError
from composer.registry import Registry

PLUGINS_OWN = frozenset(("BP603", "BP604", "BP605", "BP610"))
"""Codes of faults in the code of a plugin."""


def error(mistakes: Iterable[Diagnostic], registry: Registry | None = None) -> ComposerError:
    """The exception for mistakes: of a plugin where it alone is at fault, else of the blueprint."""
    found = [_owned(m, registry) for m in mistakes]
    alone = found and all(m.code in PLUGINS_OWN for m in found)
    return PluginError(found) if alone else BlueprintError(found)


def _owned(mistake: Diagnostic, registry: Registry | None) -> Diagnostic:
    """A plugin's fault with its distribution and version, if it is known whose block that is."""
    block = mistake.message.split("`")[1:2] if mistake.code in PLUGINS_OWN else []
    owner = registry.owners.get(block[0]) if registry and block else None
    said = f"of the plugin `{owner.name}` ({owner.label})" if owner else ""
    return replace(mistake, notes=(*mistake.notes, said)) if said and said not in mistake.notes else mistake


@contextmanager
def named(files: Iterable[Path] = (), texts: Mapping[str, str] | None = None) -> Iterator[None]:
    """While Composer's own stages run, what they did not foresee is said to be theirs."""
    try:
        yield
    except (ComposerError, MemoryError):
        raise
    except Exception as fault:
        if os.environ.get("COMPOSER_DEBUG"):
            raise
        raise internal(fault, files, texts) from fault


def internal(fault: Exception, files: Iterable[Path] = (), texts: Mapping[str, str] | None = None) -> InternalError:
    """The message about a fault of Composer's own, and the file with what its report needs."""
    import traceback

    frame = traceback.extract_tb(fault.__traceback__)[-1:]
    place = [f"at {os.path.basename(f.filename)}:{f.lineno}" for f in frame]
    said = f"Composer itself failed: {type(fault).__name__}: {fault}"
    written = _written(_report(fault, files, texts or {}))
    help = f"please report this with {written or 'the blueprint and the command'}"
    more = ("it holds the blueprint, the versions and the traceback: read it before you send it",) if written else ()
    notes = (*place, *getattr(fault, "__notes__", ()))
    return InternalError(
        Diagnostic("BP901", said, notes=notes, help=(help, *more, "COMPOSER_DEBUG=1 shows the traceback"))
    )


def _report(fault: Exception, files: Iterable[Path], texts: Mapping[str, str]) -> str:
    import traceback

    parts = ["versions\n" + _versions(), "command\n" + " ".join(sys.argv)]
    parts.append("traceback\n" + "".join(traceback.format_exception(fault)))
    parts += [f"{file}\n{_read(file)}" for file in files]
    parts += [f"{name}\n{text}" for name, text in texts.items()]
    return "\n\n".join(parts)


def _versions() -> str:
    import platform
    from importlib import metadata

    known = {d.name: d.version for d in metadata.distributions()}
    wanted = ("blueprint-composer", "torch", "pydantic", "pydantic_core", "PyYAML", "monai")
    return "\n".join(
        [f"Python {platform.python_version()} on {platform.platform()}", *(f"{n} {known.get(n, '-')}" for n in wanted)]
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[:1_000_000]
    except OSError as fault:
        return f"cannot be read: {fault}"


def _written(text: str) -> str:
    """The path of a new file with a text; nothing where none can be written."""
    import tempfile

    try:
        handle, path = tempfile.mkstemp(prefix="composer-report-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return ""
    return path
