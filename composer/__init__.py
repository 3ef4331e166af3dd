"""Composer: networks of medical imaging as short YAML blueprints. Importing it does not import torch."""

import importlib as _importlib
import typing as _typing

from composer.block import Block as Block
from composer.block import DeclarationError as DeclarationError
from composer.block import Int as Int
from composer.block import Natural as Natural
from composer.block import Number as Number
from composer.block import PerAxis as PerAxis
from composer.block import PerAxisNatural as PerAxisNatural
from composer.block import Positive as Positive
from composer.block import Rate as Rate
from composer.block import Rule as Rule
from composer.block import Scope as Scope
from composer.block import Slot as Slot
from composer.block import Value as Value
from composer.block import slot as slot
from composer.compose import Blueprint as Blueprint
from composer.compose import compose as compose
from composer.compose import load as load
from composer.diagnostics import BlueprintError as BlueprintError
from composer.diagnostics import ComposerError as ComposerError
from composer.diagnostics import Diagnostic as Diagnostic
from composer.diagnostics import InternalError as InternalError
from composer.diagnostics import PluginError as PluginError
from composer.dims import Size as Size
from composer.dims import ceil_div as ceil_div
from composer.dims import maximum as maximum
from composer.dims import minimum as minimum
from composer.dims import product as product
from composer.exporters import Exporter as Exporter
from composer.hookspecs import hookimpl as hookimpl
from composer.inference import Program as Program
from composer.references import Reference as Reference
from composer.registry import Registry as Registry
from composer.replacements import Replacement as Replacement
from composer.traits import Traits as Traits
from composer.types import Type as Type
from composer.types import map_ as map_
from composer.types import queries as queries
from composer.types import vector as vector

if _typing.TYPE_CHECKING:
    from composer.hub import from_pretrained as from_pretrained
    from composer.passes import Pass as Pass
    from composer.sharding import parallel as parallel
    from composer.waiting import make as make

__version__ = "0.1.0"


_LATER = {
    "Pass": "composer.passes",
    "from_pretrained": "composer.hub",
    "make": "composer.waiting",
    "parallel": "composer.sharding",
}
"""What a check does not need and what needs torch is imported when it is asked for."""


def __getattr__(name: str) -> _typing.Any:
    if name in _LATER:
        globals()[name] = found = getattr(_importlib.import_module(_LATER[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers."""
    return sorted({*globals(), *_LATER})
