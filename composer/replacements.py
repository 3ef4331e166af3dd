"""A block or an option that has another name now, as its plugin declares it.

An old blueprint says `use: axial.attn` or `n_heads: 4`. It goes on working, with the new names, and a warning at the
place of each old one: a plugin can rename without breaking the files of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from composer.frozen import dataclass


@dataclass(frozen=True)
class Replacement:
    """`Replacement("axial.attn", "axial.attention")` renames a block, `options` are old names of its options and the
    new ones; `Replacement("axial.attention", options={"n_heads": "heads"})` renames an option alone.

    `since` is the version of the plugin from which the new name holds; the warning names it.
    """

    block: str
    to: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    since: str = ""

    @property
    def target(self) -> str:
        """The block that is meant."""
        return self.to or self.block

    def said(self, owner: str) -> str:
        """` since axial 1.2`, or nothing where the plugin does not say."""
        return f" since {owner} {self.since}".rstrip() if self.since else f" ({owner})" if owner else ""
