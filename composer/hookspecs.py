"""The whole extension surface: four hooks, each optional.

A plugin is a module (or an object) with functions of these names marked `@composer.hookimpl`, announced by an entry
point of the group `composer`:

    [project.entry-points.composer]
    my_plugin = "my_plugin"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from composer.block import Block
    from composer.exporters import Exporter
    from composer.passes import Pass

hookspec = pluggy.HookspecMarker("composer")
hookimpl = pluggy.HookimplMarker("composer")


@hookspec
def register_blocks() -> Iterable[type[Block]]:
    """Block classes, under their `name`. Importing them must not import torch."""
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
