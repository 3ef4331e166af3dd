"""What a blueprint `requires:` against what is installed: which plugin is missing, too old, broken or switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from composer.blueprint import Blueprint
from composer.diagnostics import Diagnostic, listing
from composer.plugins import Plugin
from composer.registry import Registry, canonical

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def unmet(wanted: str, registry: Registry) -> Diagnostic | None:
    """Why a requirement such as `glam>=1.2` is not met; None where it is. The place is the caller's to add."""
    asked = _parsed(wanted)
    if asked is None:
        text = f"`requires` names distributions, with versions if need be; `{wanted:.60}` is none"
        return Diagnostic("BP103", text, help=("write for example `glam` or `glam>=1.2`",))
    found = _bringing(asked.name, registry)
    if any(canonical(asked.name) == canonical(name) for name in registry.off):
        text = f"this blueprint requires the plugin `{wanted}`, which is switched off"
        return Diagnostic("BP103", text, help=("leave out `--no-plugins`, or name it in COMPOSER_PLUGINS",))
    if found is None:
        text = f"this blueprint requires the plugin `{wanted}`, which is not installed"
        return Diagnostic("BP103", text, help=(_install(wanted),))
    if found.fault is not None:
        text = f"this blueprint requires the plugin `{wanted}`, which does not load"
        return Diagnostic("BP103", text, notes=(found.fault.message, *found.fault.notes), help=found.fault.help[:1])
    if found.version and not asked.specifier.contains(found.version, prereleases=True):
        text = f"this blueprint requires the plugin `{wanted}`, and {found.label} is installed"
        return Diagnostic("BP103", text, help=(_install(wanted),))
    return None


def absent(blueprint: Blueprint, registry: Registry) -> tuple[str, ...]:
    """Where a block that nobody brings may be: in a plugin that is required, broken or switched off."""
    missing = [f"`{w}`" for w in blueprint.requires if unmet(w, registry) is not None]
    ways = [f"it may be in {listing(missing)}, which `requires:` names"] if missing else []
    broken = [f"`{p.name}`" for p in registry.plugins if p.fault is not None]
    ways += [f"it may be in {listing(broken)}, which does not load: `composer plugins doctor`"] if broken else []
    off = [f"`{name}`" for name in registry.off]
    return (*ways, *([f"it may be in {listing(off)}, which is switched off"] if off else []))


def _install(wanted: str) -> str:
    return f"pip install '{wanted}'"


def _parsed(wanted: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(wanted)
    except InvalidRequirement:
        return None


def _bringing(name: str, registry: Registry) -> Plugin | None:
    """The plugin of a distribution, or of an entry point of that name."""
    plugins = registry.plugins
    by_distribution = next((p for p in plugins if canonical(p.distribution) == canonical(name)), None)
    return by_distribution or next((p for p in plugins if canonical(p.name) == canonical(name)), None)
