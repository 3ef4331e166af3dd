"""Addresses: the path of node, copy and slot, joined by dots; `*` matches one segment, `**` one or more."""

from __future__ import annotations

import re
from functools import lru_cache


class Pattern:
    """A glob over addresses."""

    def __init__(self, text: str):
        self.text = text
        self._expression = _compiled(text)

    @property
    def expression(self) -> str:
        """The same as a regular expression."""
        return self._expression.pattern

    def matches(self, address: str) -> bool:
        return self._expression.fullmatch(address) is not None


@lru_cache(maxsize=4096)
def _compiled(text: str) -> re.Pattern[str]:
    words = [r".+" if word == "**" else re.escape(word).replace(r"\*", r"[^.]*") for word in text.split(".")]
    return re.compile(r"\.".join(words).replace("[^.]*", "[^.]+"))


def is_prefix(address: str, other: str) -> bool:
    """Whether `other` is `address` or stands below it."""
    return other == address or other.startswith((address + ".", address + "@"))
