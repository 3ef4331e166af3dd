"""Verbs about plugins: `plugins`, `plugins doctor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from composer.cli import arguments, common
from composer.cli.listing import table
from composer.plugins import Plugin
from composer.registry import Registry, clash


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(plugins)
    group.command()(doctor)
    app.add_typer(group, name="plugins")


def plugins(context: typer.Context, plugin: arguments.Plugins = None, json: arguments.Json = False) -> None:
    """Installed plugins, what they bring, how long they take to load, and which failed."""
    if context.invoked_subcommand is not None:
        return
    known = common.registry(plugin)
    if json:
        common.print_json(facts(known))
    else:
        rows = [(p.name, p.label, said(p), " ".join(short(h) for h in p.hooks), took(p)) for p in known.plugins]
        table(("plugin", "from", "brings", "hooks", "loads in"), rows)
        print("".join(f"{text}\n\n" for text in problems(known)), end="")
        if known.off:
            print(f"switched off: {', '.join(known.off)}")
    if known.clashes or known.disputed or any(p.fault for p in known.plugins):
        raise typer.Exit(1)


def facts(known: Registry) -> dict[str, Any]:
    """The plugins as data."""
    rows = [
        {
            "plugin": p.name,
            "distribution": p.distribution,
            "version": p.version,
            "api": p.api or None,
            "hooks": list(p.hooks),
            "blocks": list(p.blocks),
            "blueprints": list(p.blueprints),
            "passes": list(p.passes),
            "formats": list(p.exporters),
            "replacements": [{"old": r.block, "new": r.target, "options": dict(r.options)} for r in p.replacements],
            "seconds": round(p.seconds, 4),
            "fault": p.fault.to_json() if p.fault else None,
            "warnings": [w.to_json() for w in p.warnings],
        }
        for p in known.plugins
    ]
    disputed = [{"kind": kind, "name": n, "owners": list(o)} for (kind, n), o in known.disputed.items()]
    clashes = {name: list(owners) for name, owners in known.clashes.items()}
    notices = [n.to_json() for n in known.notices]
    return {"plugins": rows, "clashes": clashes, "disputed": disputed, "off": list(known.off), "notices": notices}


def said(plugin: Plugin) -> str:
    """What a plugin brings, in words."""
    if plugin.fault:
        return "failed"
    kinds = {"block": plugin.blocks, "blueprint": plugin.blueprints, "pass": plugin.passes, "format": plugin.exporters}
    kinds["reference"] = plugin.references
    words = [f"{len(found)} {counted(kind, len(found))}" for kind, found in kinds.items() if found]
    return ", ".join(words) or "nothing"


def counted(kind: str, count: int) -> str:
    """`block` or `blocks`."""
    return kind if count == 1 else f"{kind}es" if kind.endswith("s") else f"{kind}s"


def short(hook: str) -> str:
    """A hook without the word that all have in common."""
    return hook.removeprefix("register_")


def took(plugin: Plugin) -> str:
    """The time a plugin took to load."""
    return f"{1000 * plugin.seconds:.0f} ms"


def problems(known: Registry) -> list[str]:
    """Faults and clashes, and what is odd."""
    found = [p.fault for p in known.plugins if p.fault]
    found += [clash(name, owners) for name, owners in known.clashes.items()]
    found += [clash(name, owners, kind) for (kind, name), owners in known.disputed.items()]
    found += [w for p in known.plugins for w in p.warnings]
    return [d.render() for d in (*found, *known.notices)]


def doctor(
    names: Annotated[list[str] | None, typer.Argument(help="Plugins or distributions; all without it.")] = None,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """Import every plugin, look for clashes, check its API version, its blocks and its blueprints."""
    from composer import doctor as doctors

    known = common.registry(plugin)
    found = list(doctors.examined(known, names or ()))
    if json:
        common.print_json(
            {"findings": [f.to_json() for f in found], "ok": all(f.state != doctors.WRONG for f in found)}
        )
    else:
        labels = {p.name: p.label for p in known.plugins}
        width = max((len(f.what) for f in found), default=0)
        for owner in dict.fromkeys(f.plugin for f in found):
            print(f"{owner} ({labels[owner]})" if owner else "installation")
            for each in (f for f in found if f.plugin == owner):
                print(line(each.what, each.state, each.text, width))
        bad = sum(f.state == doctors.WRONG for f in found)
        print(f"{bad} error{'s' * (bad != 1)}" if bad else "no errors")
    if any(f.state == doctors.WRONG for f in found):
        raise typer.Exit(1)


def line(what: str, state: str, text: str, width: int) -> str:
    """One finding; what is said below its first line stands under it."""
    first, *rest = (f"{state}: {text}" if state != "ok" and text else text or state).splitlines()
    return "\n".join([f"  {what:<{width}}  {first}", *(f"  {'':<{width}}    {more}" for more in rest)])
