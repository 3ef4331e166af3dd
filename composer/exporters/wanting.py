"""Packages that only some formats need: `pip install 'blueprint-composer[export]'` brings them."""

from __future__ import annotations

from importlib.util import find_spec

from composer.diagnostics import BlueprintError, Diagnostic


def wanted(*packages: str) -> None:
    """Refuse (BP809) where one is not installed."""
    missing = [p for p in packages if find_spec(p) is None]
    if missing:
        text = f"this format needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}"
        raise BlueprintError(Diagnostic("BP809", text, help=("pip install 'blueprint-composer[export]'",)))
