"""Another implementation of a blueprint's network, to measure against: a value that a plugin registers.

A blueprint is data and imports nothing, so that it cannot name one; the hook `register_references` does. The factory
translates the blueprint's parameters into the arguments of the other implementation; a parameter that it does not look
at and that somebody set would make another network, and is refused by name instead of measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any

from composer.frozen import dataclass


@dataclass(frozen=True)
class Reference:
    """Who else has the network of `blueprint`, and how it is made and called.

    origin   what `composer bench --against` calls it, such as `transformers`
    make     from the parameters of the blueprint to the other network, an `nn.Module`
    call     from that network and our inputs by name to our outputs: a tensor, or a mapping of them by name; without
             it the network is called with the inputs in order
    rules    under which name the blueprint's `weights:` map its keys to ours; without it `origin`
    package  what has to be installed for `make`, as `pip install` calls it; it imports under the same name
    """

    blueprint: str
    origin: str
    make: Callable[[Mapping[str, Any]], Any]
    call: Callable[[Any, Mapping[str, Any]], Any] | None = None
    rules: str = ""
    package: str = ""

    @property
    def key(self) -> str:
        """What tells two references apart."""
        return f"{self.blueprint} {self.origin}"


@dataclass(frozen=True)
class Read(Mapping[str, Any]):
    """Parameters that note who was asked for."""

    held: Mapping[str, Any]
    seen: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return self.held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)
