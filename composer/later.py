"""Blocks that a plugin only names: each is imported when somebody asks for it; a check imports what it checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module

from composer.block import Block
from composer.diagnostics import Diagnostic, PluginError
from composer.frozen import dataclass


@dataclass(frozen=True)
class Later:
    """A block that is the class `path`, such as `composer_axial.attention:Axial`, of a plugin.

    blame  says of a fault whose it is: it comes to light where nobody else knows.
    """

    name: str
    path: str
    blame: Callable[[BaseException], Diagnostic]

    def block(self) -> type[Block]:
        """Import it; a `PluginError` where there is no such block, or where importing it fails."""
        module, _, attribute = self.path.partition(":")
        try:
            return self._checked(getattr(import_module(module), attribute))
        except KeyboardInterrupt:
            raise
        except BaseException as fault:
            raise PluginError(self.blame(fault)) from fault

    def _checked(self, found: type[Block]) -> type[Block]:
        if not (isinstance(found, type) and issubclass(found, Block) and found.name == self.name):
            raise TypeError(f"`{self.path}` is not a Block class named `{self.name}`")
        return found


class Blocks(Mapping[str, type[Block]]):
    """Blocks by name. Which there are is known at once; looking one up imports it, going through the classes all."""

    def __init__(self, held: Mapping[str, type[Block] | Later]):
        self._held = dict(held)

    def __getitem__(self, name: str) -> type[Block]:
        found = self._held[name]
        if isinstance(found, Later):
            found = self._held[name] = found.block()
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def held(blocks: Mapping[str, type[Block]]) -> Mapping[str, type[Block] | Later]:
    """What a mapping of blocks holds, with nothing imported."""
    return blocks._held if isinstance(blocks, Blocks) else blocks
