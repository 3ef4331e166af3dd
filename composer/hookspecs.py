"""The whole extension surface: six hooks, each optional, and called with nothing.

A plugin is a module (or an object) with functions of these names marked `@composer.hookimpl`, announced by an entry
point of the group `composer`:

    [project.entry-points.composer]
    my_plugin = "my_plugin"

The module also says `composer_api = "1"`: the version of this surface that it was written for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from composer.block import Block
    from composer.exporters import Exporter
    from composer.passes import Pass
    from composer.references import Reference
    from composer.replacements import Replacement

API = "1"
"""The version of this surface: it counts up when a hook changes so that a plugin has to. A plugin of another version
is not loaded, and the message says which side to update."""

hookspec = pluggy.HookspecMarker("composer")
hookimpl = pluggy.HookimplMarker("composer")


@hookspec
def register_blocks() -> Iterable[type[Block]] | Mapping[str, str]:
    """Block classes, under their `name`. Importing them must not import torch.

    A plugin of many blocks gives names and where the classes are, `{"axial.attention": "my_plugin.axial:Attention"}`:
    each is imported when a blueprint uses it. A fault in it is then told to those who use it.
    """
    return ()


@hookspec
def register_passes() -> Iterable[Pass]:
    """Rewrites of a compiled graph, run in the order given, after the shipped ones."""
    return ()


@hookspec
def register_exporters() -> Iterable[tuple[str, Callable[[], Exporter]]]:
    """(format name, factory) pairs for `composer export`; the factory is called when the format is used."""
    return ()


@hookspec
def register_blueprints() -> Iterable[Path]:
    """Paths of blueprint files that may be named by their stem."""
    return ()


@hookspec
def register_replacements() -> Iterable[Replacement]:
    """Blocks and options of this plugin that had other names: blueprints with the old ones go on, with a warning."""
    return ()


@hookspec
def register_references() -> Iterable[Reference]:
    """Other implementations of blueprints' networks, for `composer bench`. Importing them must not import torch."""
    return ()
