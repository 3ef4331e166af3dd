"""What classes and functions are called in the file, and which names no value may have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from composer.eject.sources import Sources


class Speech:
    """The names of one file."""

    def __init__(self, sources: Sources, taken: Iterable[str]):
        self.sources = sources
        self.reserved = {"self", "torch", "nn", "functional", "Tensor", "partial", "initialize", *taken}

    def said(self, thing: Any) -> str:
        """How a class or function is named."""
        return self.sources.said(thing)

    def fresh(self, name: str) -> str:
        """A new name, with a number where it is taken."""
        made, number = name, 2
        while made in self.reserved:
            made, number = f"{name}{number}", number + 1
        self.reserved.add(made)
        return made


def class_name(text: str) -> str:
    """`swin_unet` is `SwinUnet`."""
    words = re.split(r"[\W_]+", text)
    made = "".join(w[:1].upper() + w[1:] for w in words if w)
    return made if made[:1].isalpha() else f"Network{made}"
