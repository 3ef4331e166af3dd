"""What is installed, as far as plugins ask: the entry points of a group, and the name and version of who has them.

`importlib.metadata` gives the same. But it parses the entry points of everything that is installed and the whole
description of what is asked for its name, and importing it imports mail, archives and sockets: together a tenth of a
check. So what lies in plain folders is read here, and the library is asked where anything else finds distributions.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import cache, lru_cache, reduce
from importlib import import_module
from importlib.machinery import PathFinder
from io import FileIO
from typing import Any, Protocol

from composer.frozen import dataclass

FILE = "entry_points.txt"
_FIELD = re.compile(r"^(Name|Version):[ \t]*(.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE)


class Distribution(Protocol):
    """As the library's."""

    def read_text(self, filename: str, /) -> str | None:
        """One of its files; nothing where it is missing."""
        ...


@dataclass(frozen=True)
class Folder:
    """A distribution whose `.dist-info` is a folder."""

    path: str

    def read_text(self, filename: str, /) -> str | None:
        content = _content(os.path.join(self.path, filename))
        return None if content is None else content.decode(errors="replace")


@dataclass(frozen=True)
class Point:
    """An entry point: `value` is the module that `load` imports, or after a colon something in it."""

    name: str
    value: str
    group: str
    dist: Distribution

    def load(self) -> Any:
        module, _, attributes = self.value.partition("[")[0].partition(":")
        return reduce(getattr, filter(None, attributes.strip().split(".")), import_module(module.strip()))


def entry_points(group: str) -> list[Point]:
    """Those that count: of distributions of one name Python takes the first on the path, whatever the others announce.

    On the path also means editable installations, eggs and whatever other finders of distributions there are.
    """
    announcing: dict[str, Distribution] = {}
    for each in distributions():
        if f"[{group}]" in (each.read_text(FILE) or ""):
            announcing.setdefault(name_and_version(each)[0], each)
    return [p for n, d in announcing.items() if _first(n, d) for p in _points(d, group)]


def _first(name: str, announcing: Distribution) -> bool:
    """Whether no distribution of the same name comes before this one, which is the first of them that announces."""
    first = next(distributions(name), announcing) if name else announcing
    return first.read_text(FILE) == announcing.read_text(FILE)


def _points(distribution: Distribution, group: str) -> Iterator[Point]:
    """Those of a group: what stands below its name, up to the name of the next."""
    section = ""
    for line in map(str.strip, (distribution.read_text(FILE) or "").splitlines()):
        name, equals, value = map(str.strip, line.partition("="))
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif section == group and equals and not line.startswith("#"):
            yield Point(name, value, group, distribution)


def name_and_version(distribution: Distribution) -> tuple[str, str]:
    """From the head of the metadata, which ends at the first empty line; of what is missing nothing."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    found = {key.lower(): value for key, value in reversed(_FIELD.findall(head))}
    return found.get("name", ""), found.get("version", "")


def place(distribution: Distribution) -> str:
    """The folder with the metadata of a distribution, if it has one."""
    return distribution.path if isinstance(distribution, Folder) else str(getattr(distribution, "_path", ""))


def distributions(name: str = "") -> Iterator[Distribution]:
    """Everything that is installed, or what of it has this name, in the order of the path."""
    if _plain():
        wanted = _alike(name)
        return (
            Folder(os.path.join(folder, child))
            for folder in sys.path
            for child, called in _installed(folder, _changed(folder))
            if not name or called == wanted
        )
    from importlib import metadata

    return iter(metadata.distributions(name=name) if name else metadata.distributions())


def _plain() -> bool:
    """Whether Python's own finder is the only one of distributions, and finds them in folders only."""
    finders = [f for f in sys.meta_path if hasattr(f, "find_distributions")]
    return finders == [PathFinder] and not any(map(_packed, sys.path))


def _packed(entry: Any) -> bool:
    """Whether an entry of the path may hold metadata that a plain folder does not: archives and eggs."""
    return not isinstance(entry, str) or entry.lower().endswith(".egg") or os.path.isfile(entry)


def _changed(folder: str) -> int:
    """When something was last added to a folder or taken away, in ns; of what is none 0."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache
def _installed(folder: str, changed: int) -> list[tuple[str, str]]:
    """The metadata in a folder, each with whose it is. It is read again when the folder has changed."""
    try:
        children = os.listdir(folder or ".")
    except OSError:
        return []
    found = [c for c in children if c.lower().endswith((".dist-info", ".egg-info"))]
    return [(child, _alike(child.rpartition(".")[0].partition("-")[0])) for child in found]


@cache
def _alike(name: str) -> str:
    """A name as names are compared."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _content(path: str) -> bytes | None:
    """A file as it is; reading text takes longer, and most are read only to see that they hold nothing of ours."""
    try:
        with FileIO(path) as file:
            return file.readall()
    except OSError:
        return None
