"""What is installed, as far as plugins ask: the entry points of a group, and the name and version of who has them.

`importlib.metadata` gives the same. But its `entry_points(group=…)` parses those of everything that is installed, which
takes longer than looking for the group in their texts, and to know a name it parses the whole description.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, EntryPoint, distributions

FILE = "entry_points.txt"
_FIELD = re.compile(r"^(Name|Version):[ \t]*(.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE)


def entry_points(group: str) -> list[EntryPoint]:
    """Those that count: of distributions of one name Python takes the first on the path, whatever the others announce.

    On the path also means editable installations, eggs and whatever other finders of distributions there are.
    """
    announcing: dict[str, Distribution] = {}
    for each in distributions():
        if f"[{group}]" in (each.read_text(FILE) or ""):
            announcing.setdefault(name_and_version(each)[0], each)
    return [p for n, d in announcing.items() if _first(n, d) for p in d.entry_points if p.group == group]


def _first(name: str, announcing: Distribution) -> bool:
    """Whether no distribution of the same name comes before this one, which is the first of them that announces."""
    first = next(iter(distributions(name=name)), announcing) if name else announcing
    return first.read_text(FILE) == announcing.read_text(FILE)


def name_and_version(distribution: Distribution) -> tuple[str, str]:
    """From the head of the metadata, which ends at the first empty line; of what is missing nothing."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    found = {key.lower(): value for key, value in reversed(_FIELD.findall(head))}
    return found.get("name", ""), found.get("version", "")
