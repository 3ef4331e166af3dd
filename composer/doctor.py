"""Is every plugin well? What `composer plugins doctor` finds out, one finding after the other.

It imports each plugin, looks for names that two of them claim, compares API versions, checks every block against its
own contract (`composer.testing.check_block`) and every blueprint as `composer check` does. The blocks of Composer's
own distribution are checked when it is named, since its own tests do so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from composer.blueprint import is_fragment
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, listing, nearest
from composer.plugins import Plugin
from composer.registry import Registry, canonical, clash
from composer.shipped import OWN

OK, ODD, WRONG, LEFT = "ok", "warning", "error", "not checked"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is (`ok`, `warning`, `error`, `not checked`), and what there is to say of it."""

    plugin: str
    what: str
    state: str
    text: str

    def to_json(self) -> dict[str, str]:
        return {"plugin": self.plugin, "what": self.what, "state": self.state, "text": self.text}


def examined(registry: Registry, names: Iterable[str] = ()) -> Iterator[Finding]:
    """Everything about the plugins, or about those that are named."""
    names = tuple(names)
    for plugin in _chosen(registry, names):
        yield from _plugin(plugin, registry, bool(names) or canonical(plugin.distribution) != OWN)
    for notice in registry.notices:
        yield Finding("", "installation", ODD, _said(notice))


def _chosen(registry: Registry, names: tuple[str, ...]) -> Iterable[Plugin]:
    for name in names:
        known = [k for p in registry.plugins for k in (p.name, p.distribution)]
        if canonical(name) not in map(canonical, known):
            close = nearest(name, known)
            help = (f"did you mean `{close[0]}`?",) if close else ()
            text = f"no plugin is named `{name}`; there are {listing(dict.fromkeys(known)) or 'none'}"
            raise BlueprintError(Diagnostic("BP105", text, help=help))
    wanted = {canonical(n) for n in names}
    return [p for p in registry.plugins if not names or {canonical(p.name), canonical(p.distribution)} & wanted]


def _plugin(plugin: Plugin, registry: Registry, checks: bool) -> Iterator[Finding]:
    if plugin.fault is not None:
        yield Finding(plugin.name, "import", WRONG, _said(plugin.fault))
        return
    yield Finding(plugin.name, "import", OK, f"{1000 * plugin.seconds:.0f} ms")
    for warning in plugin.warnings:
        yield Finding(plugin.name, "import", ODD, _said(warning))
    yield _api(plugin)
    yield from _names(plugin, registry)
    yield from _blocks(plugin, registry) if checks else [_left(plugin)]
    yield from _blueprints(plugin, registry)


def _api(plugin: Plugin) -> Finding:
    if plugin.api:
        return Finding(plugin.name, "API", OK, f"version {plugin.api}")
    return Finding(plugin.name, "API", ODD, 'it does not say for which version it was written: `composer_api = "1"`')


def _names(plugin: Plugin, registry: Registry) -> Iterator[Finding]:
    """Names that this plugin and another claim."""
    claims = {("block", name): owners for name, owners in registry.clashes.items()} | dict(registry.disputed)
    mine = [(kind, name, owners) for (kind, name), owners in claims.items() if plugin.label in owners]
    for kind, name, owners in mine:
        yield Finding(plugin.name, "names", WRONG, _said(clash(name, owners, kind)))
    for each in plugin.replacements:
        if each.to and each.block in registry.blocks:
            other = registry.owners[each.block].label if each.block in registry.owners else "another plugin"
            text = f"it replaces the old name `{each.block}`, under which {other} has a block now"
            yield Finding(plugin.name, "names", ODD, text)
    if not mine:
        yield Finding(plugin.name, "names", OK, "no other plugin claims them")


def _left(plugin: Plugin) -> Finding:
    text = f"{len(plugin.blocks)} blocks; `composer plugins doctor {plugin.name}` checks them"
    return Finding(plugin.name, "contract", LEFT, text)


def _blocks(plugin: Plugin, registry: Registry) -> Iterator[Finding]:
    """Each block against its contract."""
    try:
        from composer.testing import check_block
    except ImportError as fault:
        text = f"the kit for tests does not load: {fault}; pip install 'blueprint-composer[test]'"
        yield Finding(plugin.name, "contract", LEFT, text)
        return
    for name in plugin.blocks:
        block = registry.blocks.get(name)
        if block is not None:
            yield Finding(plugin.name, name, *_outcome(lambda block=block: check_block(block, registry)))


def _blueprints(plugin: Plugin, registry: Registry) -> Iterator[Finding]:
    """Each blueprint as `composer check` sees it; a part for others is only read."""
    for name in plugin.blueprints:
        path = registry.blueprints.get(name)
        if path is None:
            continue
        if is_fragment(path):
            yield Finding(plugin.name, name, OK, "a part for other blueprints")
        else:
            yield Finding(plugin.name, name, *_outcome(lambda name=name: Blueprint.load(name, registry).check()))


def _outcome(work: Any) -> tuple[str, str]:
    """How a check ends; whatever a plugin raises, the others are still looked at."""
    try:
        work()
    except KeyboardInterrupt:
        raise
    except AssertionError as fault:
        return WRONG, str(fault)
    except ComposerError as fault:
        return WRONG, str(fault)
    except BaseException as fault:
        return WRONG, f"{type(fault).__name__}: {fault}"
    return OK, ""


def _said(diagnostic: Diagnostic) -> str:
    return "\n".join([diagnostic.message, *diagnostic.notes, *(f"help: {line}" for line in diagnostic.help)])
