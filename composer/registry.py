"""Entry points -> a `Registry`: a value that knows every block and blueprint by name, and who brought it.

pluggy's own loader stops at the first plugin that fails and takes the second of two equal names in silence; so plugins
are loaded one by one here. A plugin that fails is reported and the others live; a name claimed twice belongs to nobody
until the user removes one of the two, because silently picking one would change networks.

Which plugins are loaded is the user's choice: the environment variable `COMPOSER_PLUGINS=a,b` names those that are,
by entry point or distribution, and `--no-plugins` none. What Composer's own distribution brings is always there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from composer.announced import Point, distributions, entry_points, name_and_version, place
from composer.block import Block
from composer.diagnostics import BlueprintError, Diagnostic, PluginError, listing
from composer.frozen import dataclass
from composer.later import Blocks, held
from composer.plugins import GROUP, Added, Plugin, added, failed
from composer.references import Reference
from composer.replacements import Replacement
from composer.shipped import OWN, shipped

ALLOWED = "COMPOSER_PLUGINS"
"""The environment variable that names the plugins to load; unset, all are."""


@dataclass(frozen=True)
class Registry:
    """Blocks, blueprints and formats by name. Names that two plugins claim are in `clashes` (blocks) and `disputed`
    (the others, by kind and name) and belong to nobody. `off` are plugins that the user's choice leaves out.
    """

    blocks: Mapping[str, type[Block]] = field(default_factory=dict)
    owners: Mapping[str, Plugin] = field(default_factory=dict)
    blueprints: Mapping[str, Path] = field(default_factory=dict)
    passes: tuple[Any, ...] = ()
    exporters: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    clashes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    disputed: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    replacements: Mapping[str, Replacement] = field(default_factory=dict)
    """By the name that old blueprints use: of a block that is gone, or of one with options that are."""
    references: Mapping[str, Reference] = field(default_factory=dict)
    """Other implementations, by blueprint and origin."""
    off: tuple[str, ...] = ()
    notices: tuple[Diagnostic, ...] = ()
    """What is odd about the installation and stops nothing."""

    @staticmethod
    def of(*blocks: type[Block]) -> Registry:
        """A registry with just these blocks, for tests and notebooks."""
        return Registry({b.name: b for b in blocks})

    @staticmethod
    def discover(files: Iterable[str | Path] = (), only: Iterable[str] | None = None) -> Registry:
        """Installed plugins, and plugin files named by the user. Without `only` the environment variable
        COMPOSER_PLUGINS says which; without it too, all."""
        registry = _installed(allowed() if only is None else frozenset(map(canonical, only)))
        for path in files:
            registry = registry.with_file(Path(path))
        return registry

    def with_file(self, path: Path) -> Registry:
        """This registry and the blocks of one Python file; a fault in it is the user's to see at once."""
        plugin = Plugin(path.stem, str(path), "", package=f"composer_plugin_{path.stem}")
        try:
            module = _module(path)
        except BlueprintError:
            raise
        except BaseException as fault:
            raise PluginError(failed(plugin, fault)) from fault
        return self._with(plugin, module, strict=True)

    def _with(self, plugin: Plugin, module: Any, strict: bool = False) -> Registry:
        start = time.perf_counter()
        try:
            brought = added(module, plugin)
        except BaseException as fault:
            if isinstance(fault, KeyboardInterrupt):
                raise
            broken = failed(plugin, fault)
            if strict:
                raise PluginError(broken) from fault
            return self._without(plugin, broken)
        seconds = plugin.seconds + time.perf_counter() - start
        return self._joined(replace(brought, plugin=replace(brought.plugin, seconds=seconds)), strict)

    def _without(self, plugin: Plugin, fault: Diagnostic) -> Registry:
        """This registry, and that a plugin failed."""
        return replace(self, plugins=(*self.plugins, replace(plugin, fault=fault)))

    def _joined(self, brought: Added, strict: bool) -> Registry:
        claims = _Claims(self, brought.plugin, strict)
        passes = claims.joined("pass", {p.name: p for p in self.passes}, {p.name: p for p in brought.passes})
        return replace(
            self,
            blocks=Blocks(claims.joined("block", held(self.blocks), {b.name: b for b in brought.blocks})),
            blueprints=claims.joined("blueprint", self.blueprints, {p.stem: p for p in brought.blueprints}),
            passes=tuple(passes.values()),
            exporters=claims.joined("format", self.exporters, dict(brought.exporters)),
            replacements=claims.joined(
                "old name", self.replacements, {r.block: r for r in brought.plugin.replacements}
            ),
            references=claims.joined("reference", self.references, {r.key: r for r in brought.references}),
            owners={n: p for n, p in claims.owners.items() if n not in claims.clashes},
            clashes=claims.clashes,
            disputed=claims.disputed,
            plugins=(*self.plugins, brought.plugin),
        )


class _Claims:
    """Names that one more plugin claims, beside those that have owners."""

    def __init__(self, registry: Registry, plugin: Plugin, strict: bool):
        self.registry, self.plugin, self.strict = registry, plugin, strict
        self.owners, self.clashes = dict(registry.owners), dict(registry.clashes)
        self.disputed = dict(registry.disputed)

    def joined(self, kind: str, known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Both, without the names in both."""
        result = dict(known)
        for name, value in new.items():
            before = self.claimants(kind, name, known)
            if before:
                self.refuse(kind, name, (*before, self.plugin.label))
                result.pop(name, None)
                continue
            result[name] = value
            if kind == "block":
                self.owners[name] = self.plugin
        return result

    def claimants(self, kind: str, name: str, known: Mapping[str, Any]) -> tuple[str, ...]:
        """Who claims a name already."""
        earlier = self.clashes.get(name) if kind == "block" else self.disputed.get((kind, name))
        if earlier:
            return earlier
        if kind == "blueprint" and name in shipped():
            return (OWN,)
        return (self.owner(kind, name),) if name in known else ()

    def owner(self, kind: str, name: str) -> str:
        """The plugin that brought a name."""
        if kind == "block":
            return self.owners[name].label if name in self.owners else "?"
        bringing = (p.label for p in self.registry.plugins if name in _names(p, kind))
        return next(bringing, "?")

    def refuse(self, kind: str, name: str, owners: tuple[str, ...]) -> None:
        if self.strict:
            raise PluginError(clash(name, owners, kind))
        if kind == "block":
            self.clashes[name] = owners
        else:
            self.disputed[kind, name] = owners


def _names(plugin: Plugin, kind: str) -> Iterable[str]:
    """What a plugin brings of one kind."""
    if kind == "old name":
        return [r.block for r in plugin.replacements]
    named = {"blueprint": plugin.blueprints, "pass": plugin.passes, "format": plugin.exporters}
    return {**named, "reference": plugin.references}[kind]


def clash(name: str, owners: Iterable[str], kind: str = "block") -> Diagnostic:
    """The message about a name that belongs to nobody."""
    owners = tuple(owners)
    if kind == "blueprint" and owners[0] == OWN:
        text = f"{' and '.join(owners[1:])} brings a blueprint `{name}`, which is the name of a shipped one"
        return Diagnostic("BP602", text, help=("the name means the shipped one; ask the plugin's author for another",))
    return Diagnostic(
        "BP602",
        f"two plugins claim the {kind} `{name}`: {' and '.join(owners)}",
        help=("uninstall one of them, or ask its author for another name",),
    )


# --- which plugins -----------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it: `My_Plugin` is `my-plugin`."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def allowed() -> frozenset[str] | None:
    """The plugins that the environment names; None where it does not say."""
    text = os.environ.get(ALLOWED)
    return None if text is None else frozenset(canonical(w) for w in text.split(",") if w.strip())


@lru_cache(maxsize=8)
def _installed(only: frozenset[str] | None = None) -> Registry:
    registry, off = Registry(), []
    points = sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value))
    for point in points:
        if _is_on(point, only):
            registry = _loaded(registry, point)
        else:
            off.append(point.name)
    known = {name for point in points if only for name in (canonical(point.name), _distribution(point))}
    unknown = sorted((only or frozenset()) - known)
    return replace(registry, off=tuple(off), notices=(*registry.notices, *map(_unknown, unknown)))


def _distribution(point: Point) -> str:
    return canonical(name_and_version(point.dist)[0]) if point.dist else ""


def _is_on(point: Point, only: frozenset[str] | None) -> bool:
    if only is None:  # looking up a distribution takes as long as importing a small plugin
        return True
    own = _distribution(point)
    return own == OWN or bool({canonical(point.name), own} & only)


def _unknown(name: str) -> Diagnostic:
    text = f"{ALLOWED} names the plugin `{name}`, which is not installed"
    return Diagnostic("BP608", text, help=("`composer plugins` lists those that are",), severity="warning")


def _loaded(registry: Registry, point: Point) -> Registry:
    package = point.value.partition(":")[0].split(".")[0].strip()
    name, version = name_and_version(point.dist) if point.dist else (point.value, "")
    plugin = Plugin(point.name, name, version, package=package)
    double = _double(plugin)
    if double is not None and canonical(plugin.distribution) != OWN:
        return registry._without(plugin, double)
    if double is not None:  # the code that runs is one, whatever is written beside it
        registry = replace(registry, notices=(*registry.notices, replace(double, severity="warning")))
    start, light = time.perf_counter(), "torch" not in sys.modules
    try:
        module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # a plugin may even call sys.exit(): the host lives on
        return registry._without(plugin, failed(plugin, fault))
    heavy = (_heavy(plugin),) if light and "torch" in sys.modules else ()
    return registry._with(replace(plugin, seconds=time.perf_counter() - start, warnings=heavy), module)


def _heavy(plugin: Plugin) -> Diagnostic:
    text = f"importing the plugin `{plugin.name}` imports torch, so that every command waits for it"
    help = ("import torch where `build` needs it, or in a module that only `build` imports",)
    return Diagnostic("BP608", text, help=help, severity="warning")


def _double(plugin: Plugin) -> Diagnostic | None:
    """Two versions of one distribution in one folder, which an interrupted upgrade leaves: which one's code is there?

    In two folders the first on the path is the one that Python takes, for code and metadata alike.
    """
    folders: dict[str, dict[str, str]] = {}
    for each in distributions(plugin.distribution):
        path = Path(place(each))
        folders.setdefault(str(path.parent), {})[path.name] = name_and_version(each)[1]
    several = ((f, {v: name for name, v in found.items()}) for f, found in folders.items() if len(found) > 1)
    found = next(((f, v) for f, v in several if len(v) > 1), None)
    if found is None:
        return None
    folder, versions = found
    text = f"two versions of `{plugin.distribution}` are installed side by side: {listing(sorted(versions))}"
    once = f"`pip uninstall {plugin.distribution}` until it says that it is not installed, then install it again"
    notes = (f"in {folder}: {listing(sorted(versions.values()))}",)
    return Diagnostic("BP607", text, notes=notes, help=(once,))


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
