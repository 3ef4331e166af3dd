"""Stage 2's result: a tree of values named by their address.

`Call` is a block with its inputs and the bodies of its slots, `Group` an inline graph, a loop or a blueprint used as a
block, `Through` a value that passes (`when: false`). `composer.linking` makes it; types come later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

from composer.block import Block
from composer.blueprint import Blueprint, Edit
from composer.diagnostics import Diagnostic, Span
from composer.frozen import dataclass

if TYPE_CHECKING:
    from composer.scopes import Sight


@dataclass(frozen=True)
class Ref:
    """A value by its address, and where it was mentioned."""

    name: str
    span: Span | None = field(default=None, compare=False)


Input = Ref | tuple[Ref, ...] | None


@dataclass(frozen=True)
class Call:
    """A block at an address. `parts` are the bodies of its slots, by address below this one."""

    address: str
    use: str
    block: Block
    inputs: Mapping[str, Input]
    parts: Mapping[str, Body | None]
    written: Mapping[str, Any]
    module: str
    span: Span | None = None
    spans: Mapping[str, Span | None] = field(default_factory=dict)
    sight: Sight | None = field(default=None, compare=False, repr=False)
    slot: str = ""
    unused: tuple[Body, ...] = ()
    incomplete: bool = False
    """Whether a part in its slots is broken."""


@dataclass(frozen=True)
class Group:
    """Several bodies under one address: an inline graph, the copies of a `repeat`, the instances of a `for`."""

    address: str
    kind: str
    members: tuple[Body, ...]
    result: Input | Mapping[str, Input]
    span: Span | None = None
    use: str | None = None
    written: Mapping[str, Any] = field(default_factory=dict)
    slot: str = ""
    checks: tuple[tuple[Ref, Any, Span | None], ...] = ()
    unused: tuple[Body, ...] = ()


@dataclass(frozen=True)
class Through:
    """A part left out: its value is its input."""

    address: str
    result: Input
    span: Span | None = None
    slot: str = ""


@dataclass(frozen=True)
class Given:
    """A value that is only a type, written where nothing runs: the input of a part that is `unused`."""

    address: str
    type: GraphInput


@dataclass(frozen=True)
class Broken:
    """A part with a mistake, already reported; nothing more is said about what depends on it.

    `use` is the block that no plugin has, where that is the mistake; the part is drawn with it.
    """

    address: str
    use: str = ""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    span: Span | None = None


Body = Call | Group | Through | Given | Broken


@dataclass(frozen=True)
class GraphInput:
    """An input: its name, the words of its type, the size the network is built for, and what is done with others."""

    name: str
    words: tuple[str, ...]
    size: tuple[int, ...] | None
    optional: bool
    span: Span | None
    channels: int | None
    pad: str = "error"
    fill: str = "zero"


@dataclass(frozen=True)
class GraphOutput:
    """An output: a value, and whether it is there only while training."""

    name: str
    value: Input
    training: bool
    span: Span | None


@dataclass(frozen=True)
class Changed:
    """What edits did at an address: where the part stands that they changed, and the edits in order."""

    declared: Span | None
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Graph:
    """A linked blueprint."""

    blueprint: Blueprint
    inputs: tuple[GraphInput, ...]
    members: tuple[Body, ...]
    outputs: tuple[GraphOutput, ...]
    changes: Mapping[str, Changed] = field(default_factory=dict, compare=False, repr=False)
    specs: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What is written at each address, after all edits."""
    warnings: tuple[Diagnostic, ...] = field(default=(), compare=False)
    """What works and should be written otherwise, such as old names."""
