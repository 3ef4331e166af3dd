"""Entry points -> a `Registry`: a value that knows every block and blueprint by name, and who brought it.

pluggy's own loader stops at the first plugin that fails and takes the second of two equal names in silence; so plugins
are loaded one by one here. A plugin that fails is reported and the others live; a name claimed twice belongs to nobody
until the user removes one of the two, because silently picking one would change networks.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from composer import hookspecs
from composer.block import Block
from composer.diagnostics import BlueprintError, Diagnostic, PluginError

GROUP = "composer"


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin, or one that failed (`fault`)."""

    name: str
    distribution: str
    version: str
    blocks: tuple[str, ...] = ()
    blueprints: tuple[str, ...] = ()
    fault: Diagnostic | None = None

    @property
    def label(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Registry:
    """Blocks and blueprints by name. `clashes` are names that two plugins claim."""

    blocks: Mapping[str, type[Block]] = field(default_factory=dict)
    owners: Mapping[str, Plugin] = field(default_factory=dict)
    blueprints: Mapping[str, Path] = field(default_factory=dict)
    passes: tuple[Any, ...] = ()
    exporters: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    clashes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(*blocks: type[Block]) -> Registry:
        """A registry with just these blocks, for tests and notebooks."""
        return Registry({b.name: b for b in blocks})

    @staticmethod
    def discover(files: Iterable[str | Path] = ()) -> Registry:
        """All installed plugins, and plugin files named by the user."""
        registry = _installed()
        for path in files:
            registry = registry.with_file(Path(path))
        return registry

    def with_file(self, path: Path) -> Registry:
        """This registry and the blocks of one Python file; a fault in it is the user's to see at once."""
        plugin = Plugin(path.stem, str(path), "")
        try:
            module = _module(path)
        except BlueprintError:
            raise
        except BaseException as fault:
            raise PluginError(_fault(plugin, fault)) from fault
        return self._with(plugin, module, strict=True)

    def _with(self, plugin: Plugin, module: Any, strict: bool = False) -> Registry:
        try:
            added = _called(module, plugin)
        except BaseException as fault:
            if isinstance(fault, KeyboardInterrupt):
                raise
            broken = _fault(plugin, fault)
            if strict:
                raise PluginError(broken) from fault
            return replace(self, plugins=(*self.plugins, replace(plugin, fault=broken)))
        return self._joined(added, strict)

    def _joined(self, added: _Added, strict: bool) -> Registry:
        blocks, owners, clashes = dict(self.blocks), dict(self.owners), dict(self.clashes)
        for block in added.blocks:
            if block.name in blocks or block.name in clashes:
                owner = self.owners.get(block.name)
                both = (*clashes.get(block.name, (owner.label if owner else "?",)), added.plugin.label)
                if strict:
                    raise PluginError(clash(block.name, both))
                clashes[block.name] = both
                blocks.pop(block.name, None)
            else:
                blocks[block.name], owners[block.name] = block, added.plugin
        return replace(
            self,
            blocks=blocks,
            owners=owners,
            clashes=clashes,
            blueprints={**{p.stem: p for p in added.blueprints}, **self.blueprints},
            passes=(*self.passes, *added.passes),
            exporters={**self.exporters, **dict(added.exporters)},
            plugins=(*self.plugins, added.plugin),
        )


@dataclass(frozen=True)
class _Added:
    plugin: Plugin
    blocks: tuple[type[Block], ...]
    blueprints: tuple[Path, ...]
    passes: tuple[Any, ...]
    exporters: tuple[Any, ...]


def clash(name: str, owners: Iterable[str]) -> Diagnostic:
    """The message about a name that belongs to nobody."""
    return Diagnostic(
        "BP602",
        f"two plugins claim the block `{name}`: {' and '.join(owners)}",
        help=("uninstall one of them, or ask its author for another name",),
    )


@lru_cache(maxsize=1)
def _installed() -> Registry:
    registry = Registry()
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        registry = _loaded(registry, point)
    return registry


def _loaded(registry: Registry, point: EntryPoint) -> Registry:
    dist = point.dist
    plugin = Plugin(point.name, dist.name if dist else point.value, dist.version if dist else "")
    try:
        module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # a plugin may even call sys.exit(): the host lives on
        return replace(registry, plugins=(*registry.plugins, replace(plugin, fault=_fault(plugin, fault))))
    return registry._with(plugin, module)


def _called(module: Any, plugin: Plugin) -> _Added:
    """What one plugin registers; a manager of its own keeps its hooks from others' faults."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, plugin.name)
    manager.check_pending()
    blocks = tuple(b for group in manager.hook.register_blocks() for b in group) or _declared(module)
    for block in blocks:
        if not (isinstance(block, type) and issubclass(block, Block) and block.name):
            raise TypeError(f"register_blocks returned {block!r}, which is not a Block class with a name")
    names = [b.name for b in blocks]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise TypeError(f"it registers two blocks named `{twice}`")
    files = tuple(Path(p) for group in manager.hook.register_blueprints() for p in group)
    plugin = replace(plugin, blocks=tuple(names), blueprints=tuple(p.stem for p in files))
    passes = tuple(p for group in manager.hook.register_passes() for p in group)
    exporters = tuple(e for group in manager.hook.register_exporters() for e in group)
    return _Added(plugin, blocks, files, passes, exporters)


def _declared(module: Any) -> tuple[type[Block], ...]:
    """Named blocks defined in a single file, which needs no hook."""
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Block) and v.name]
    return tuple(b for b in found if b.__module__ == getattr(module, "__name__", None))


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise BlueprintError(Diagnostic("BP601", f"there is no plugin file {path}"))
    spec = importlib.util.spec_from_file_location(f"composer_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BlueprintError(Diagnostic("BP601", f"{path} is not a Python file", help=("name a .py file",)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _fault(plugin: Plugin, fault: BaseException) -> Diagnostic:
    """Where a plugin broke: the last line of its own code, in one message."""
    trace, place = fault.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    where = getattr(fault, "filename", None)
    if isinstance(fault, SyntaxError) and where:
        place = f"{where}:{fault.lineno}"
    return Diagnostic(
        "BP601",
        f"the plugin `{plugin.name}` ({plugin.label}) does not load: {type(fault).__name__}: {fault}",
        notes=(f"at {place}",) if place else (),
        help=("its blocks are missing, everything else works; tell its author",),
    )
