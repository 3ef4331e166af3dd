"""One plugin: who brings it, and what it adds, checked at the door.

    module or object  ->  Added(plugin, blocks, blueprints, passes, exporters, references; replacements)

Whatever a plugin does wrong is found here, where it is still known whose it is: a hook of an unknown name or with
parameters, a hook that raises, exits or gives something else, an API version that this Composer does not have. It
becomes one `Diagnostic` with the place in the plugin's own code, and the host goes on without the plugin.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pluggy

from composer import hookspecs
from composer.block import Block
from composer.diagnostics import Diagnostic, PluginError, did_you_mean, listing, raised_at
from composer.frozen import dataclass
from composer.later import Blocks, Later
from composer.references import Reference
from composer.replacements import Replacement

GROUP = "composer"
HOOKS = tuple(name for name, spec in vars(hookspecs).items() if getattr(spec, "composer_spec", None) is not None)


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin, or one that failed (`fault`). `warnings` are what its author should mend."""

    name: str
    distribution: str
    version: str
    blocks: tuple[str, ...] = ()
    blueprints: tuple[str, ...] = ()
    fault: Diagnostic | None = None
    passes: tuple[str, ...] = ()
    exporters: tuple[str, ...] = ()
    replacements: tuple[Replacement, ...] = ()
    references: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    api: str = ""
    package: str = ""
    """The top module of its code; a fault is placed there."""
    seconds: float = field(default=0.0, compare=False)
    """How long importing it and calling its hooks took."""
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Added:
    """What one plugin brings to a registry."""

    plugin: Plugin
    blocks: tuple[type[Block] | Later, ...]
    blueprints: tuple[Path, ...]
    passes: tuple[Any, ...]
    exporters: tuple[tuple[str, Any], ...]
    references: tuple[Reference, ...] = ()


def added(module: Any, plugin: Plugin) -> Added:
    """What a plugin adds. Raises whatever its hooks raise, and `PluginError` where it breaks the contract."""
    plugin = replace(plugin, api=_api(module, plugin))
    functions = dict(_hooks(module, plugin))
    hooks = _Hooks(plugin, _manager(module, plugin), functions)
    blocks = hooks.call("register_blocks", partial(_block, plugin)) or _declared(module)
    twice = _twice(b.name for b in blocks)
    if twice:
        raise PluginError(broken(plugin, f"it registers two blocks named `{twice}`"))
    files = hooks.call("register_blueprints", _blueprint)
    passes = hooks.call("register_passes", _pass)
    exporters = hooks.call("register_exporters", _exporter)
    references = hooks.call("register_references", _reference)
    renamed = hooks.call("register_replacements", _replacement)
    again = _twice(r.block for r in renamed)
    if again:
        raise PluginError(broken(plugin, f"it registers two replacements of `{again}`; one can hold all options"))
    for each in renamed:
        _check_replacement(each, Blocks({b.name: b for b in blocks}), plugin)
    plugin = replace(
        plugin,
        blocks=tuple(b.name for b in blocks),
        blueprints=tuple(p.stem for p in files),
        passes=tuple(p.name for p in passes),
        exporters=tuple(name for name, _ in exporters),
        replacements=renamed,
        references=tuple(r.key for r in references),
        hooks=tuple(h for h in HOOKS if h in functions),
        warnings=(*plugin.warnings, *_forgotten(module, plugin)),
    )
    return Added(plugin, blocks, files, passes, exporters, references)


# --- the API version ---------------------------------------------------------------------------------------------


def _api(module: Any, plugin: Plugin) -> str:
    """The version a plugin was written for: `composer_api = "1"` in its module, or nothing."""
    stated = getattr(module, "composer_api", None)
    if stated is None:
        return ""
    if isinstance(stated, bool) or not isinstance(stated, (str, int)) or not str(stated).isdecimal():
        text = f"its `composer_api` is a whole number such as {hookspecs.API!r}, not {stated!r:.60}"
        raise PluginError(broken(plugin, text))
    wanted, have = int(stated), int(hookspecs.API)
    if wanted != have:
        newer = wanted > have
        way = "update Composer: `pip install -U blueprint-composer`" if newer else f"update it: {_update(plugin)}"
        text = f"the plugin `{plugin.name}` ({plugin.label}) was written for version {wanted} of the plugin API"
        rest = "its blocks are missing, everything else works"
        raise PluginError(Diagnostic("BP606", f"{text}, this Composer has {have}", help=(way, rest)))
    return str(wanted)


def _update(plugin: Plugin) -> str:
    return f"`pip install -U {plugin.distribution}`" if plugin.version else "the file is older than this Composer"


# --- hooks -------------------------------------------------------------------------------------------------------


def _hooks(module: Any, plugin: Plugin) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The hooks of a plugin, marked by `@composer.hookimpl`, their names and signatures checked."""
    for name in dir(module):
        function = getattr(module, name, None)
        marked = getattr(function, "composer_impl", None)
        if not callable(function) or not isinstance(marked, dict):
            continue
        hook = marked.get("specname") or name
        if hook not in HOOKS:
            text = f"there is no hook `{hook}`{did_you_mean(hook, HOOKS)}"
            raise PluginError(broken(plugin, text, _place(function), f"the hooks are {listing(HOOKS, 20)}"))
        asked = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if asked:
            given = listing(f"`{p.name}`" for p in asked)
            text = f"its hook `{hook}` asks for {given}; hooks are called with nothing"
            raise PluginError(broken(plugin, text, _place(function), f"write `def {hook}():`"))
        yield hook, function


def _manager(module: Any, plugin: Plugin) -> pluggy.PluginManager:
    """A manager of the plugin's own: its faults are nobody else's."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, plugin.name)
    return manager


@dataclass(frozen=True)
class _Hooks:
    """The hooks of one plugin, ready to be called."""

    plugin: Plugin
    manager: pluggy.PluginManager
    functions: Mapping[str, Callable[[], Any]]

    def call(self, name: str, check: Callable[[Any], Any]) -> tuple[Any, ...]:
        """What a hook gives, each item checked."""
        return tuple(self._checked(name, check)) if name in self.functions else ()

    def _checked(self, name: str, check: Callable[[Any], Any]) -> Iterator[Any]:
        place = _place(self.functions[name])
        for group in getattr(self.manager.hook, name)() or [None]:  # pluggy drops a None
            if isinstance(group, (str, bytes)) or not isinstance(group, Iterable):
                raise PluginError(broken(self.plugin, f"its hook `{name}` gives {group!r:.80}, not a list", place))
            for item in group.items() if isinstance(group, Mapping) else group:
                try:
                    yield check(item)
                except (TypeError, ValueError) as fault:
                    text = f"its hook `{name}` gives {item!r:.80}, {fault}"
                    raise PluginError(broken(self.plugin, text, place)) from None


def _block(plugin: Plugin, item: Any) -> type[Block] | Later:
    if isinstance(item, tuple):  # of a mapping
        return _later(plugin, *item)
    if not (isinstance(item, type) and issubclass(item, Block) and item.name):
        raise TypeError("which is not a Block class with a name")
    return item


def _later(plugin: Plugin, name: Any, path: Any) -> Later:
    """A block that is named, and imported when it is used."""
    if not (isinstance(name, str) and name and isinstance(path, str) and all(path.partition(":"))):
        raise TypeError("which is not the name of a block and where its class is, such as 'my_plugin.blocks:Axial'")
    return Later(name, path, partial(failed, plugin))


def _pass(item: Any) -> Any:
    if not (isinstance(getattr(item, "name", None), str) and callable(getattr(item, "run", None))):
        raise TypeError("which is not a composer.Pass")
    return item


def _exporter(item: Any) -> tuple[str, Any]:
    """A (format name, factory) pair."""
    name, factory = item if isinstance(item, tuple) and len(item) == 2 else (None, None)
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum() or not callable(factory):
        raise TypeError("which is not a pair of a format's name and a factory that makes its exporter")
    return name, factory


def _reference(item: Any) -> Reference:
    if not isinstance(item, Reference):
        raise TypeError("which is not a composer.Reference")
    return item


def _blueprint(item: Any) -> Path:
    if not isinstance(item, (str, Path)):
        raise TypeError("which is not a path")
    path = Path(item)
    if path.suffix not in (".yaml", ".yml"):
        raise TypeError("which is not a .yaml file")
    if not path.is_file():
        raise ValueError("and there is no such file")
    return path


def _replacement(item: Any) -> Replacement:
    if not isinstance(item, Replacement):
        raise TypeError("which is not a composer.Replacement")
    return item


def _check_replacement(each: Replacement, blocks: Blocks, plugin: Plugin) -> None:
    """What is replaced is gone, what replaces it is there, and both are this plugin's."""
    said = f"its replacement of `{each.block}`"
    if not each.to and not each.options:
        raise PluginError(broken(plugin, f"{said} names neither another block (`to`) nor `options`"))
    if each.target not in blocks:
        raise PluginError(broken(plugin, f"{said} leads to `{each.target}`, which it does not register"))
    if each.to and each.block in blocks:
        raise PluginError(broken(plugin, f"{said} is of a block that it still registers"))
    known = blocks[each.target].model_fields
    for old, new in each.options.items():
        if old in known or new not in known:
            why = f"`{each.target}` still has `{old}`" if old in known else f"`{each.target}` has no option `{new}`"
            raise PluginError(broken(plugin, f"{said} renames the option `{old}` to `{new}`, but {why}"))


def _forgotten(module: Any, plugin: Plugin) -> Iterator[Diagnostic]:
    """Functions named like hooks that are not marked, so that nobody calls them."""
    for name in HOOKS:
        function = getattr(module, name, None)
        if callable(function) and getattr(function, "composer_impl", None) is None:
            text = f"the function `{name}` of the plugin `{plugin.name}` is not a hook"
            help = ("write `@composer.hookimpl` above it",)
            yield Diagnostic("BP608", text, notes=(f"at {_place(function)}",), help=help, severity="warning")


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((n for n in names if n in seen or seen.add(n)), None)  # type: ignore[func-returns-value]


def _declared(module: Any) -> tuple[type[Block], ...]:
    """Named blocks defined in a single file, which needs no hook."""
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Block) and v.name]
    return tuple(b for b in found if b.__module__ == getattr(module, "__name__", None))


# --- faults ------------------------------------------------------------------------------------------------------


def _place(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def broken(plugin: Plugin, why: str, place: str = "", *help: str) -> Diagnostic:
    """A plugin that does not keep its side of the contract."""
    return Diagnostic(
        "BP601",
        f"the plugin `{plugin.name}` ({plugin.label}) does not load: {why}",
        notes=(f"at {place}",) if place else (),
        help=(*help, "its blocks are missing, everything else works; tell its author"),
    )


def failed(plugin: Plugin, fault: BaseException) -> Diagnostic:
    """What a plugin that raised did, at the last line of its own code."""
    if isinstance(fault, PluginError):
        return fault.diagnostics[0]
    said = f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
    if isinstance(fault, SystemExit):
        said = f"it ends the program (SystemExit: {fault.code})"
    return broken(plugin, said, _raised(plugin, fault))


def _raised(plugin: Plugin, fault: BaseException) -> str:
    """The last line in the plugin's package, or the last of all."""
    if isinstance(fault, SyntaxError) and fault.filename:
        return f"{fault.filename}:{fault.lineno}"
    return raised_at(fault, plugin.package)
