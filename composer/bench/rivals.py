"""Who else has the network: a reference that a plugin registers, a factory on the path, or the network without passes.

The user names one, or the blueprint's own is taken. What can be wrong with it is said in the user's words (BP612): a
name that there is not, a package that is not installed, a factory that raises or makes something else than a module.
A registered factory that breaks is its plugin's fault.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.diagnostics import BlueprintError, Diagnostic, PluginError, did_you_mean, listing, raised_at
from composer.references import Read, Reference

if TYPE_CHECKING:
    from composer.blueprint import Param
    from composer.compose import Blueprint

PLAIN = "plain"
"""The word for the network itself, built without passes."""


@dataclass(frozen=True)
class Rival:
    """Another implementation: `make` builds it, `call` feeds it our inputs by name; `rules` are the `weights:` that map
    its keys to ours, where it is known which. `remark` is what the user should know of the choice."""

    label: str
    make: Callable[[], Any]
    call: Callable[[Any, Mapping[str, Any]], Any]
    rules: str = ""
    remark: str = ""


def rival(text: str, blueprint: Blueprint) -> Rival:
    """Whom a text names: an origin (`transformers`), `module:factory`, `plain`, or nothing, the blueprint's own."""
    if text == PLAIN:
        return plain(blueprint)
    if ":" in text:
        return by_path(text, blueprint)
    known = references(blueprint)
    if not text and not known:
        return plain(blueprint, f"no plugin has a reference of `{blueprint.name}`")
    reference = known.get(text) if text else next(iter(known.values()))
    if reference is None:
        raise unknown(text, blueprint, known)
    return registered(reference, blueprint)


def references(blueprint: Blueprint) -> dict[str, Reference]:
    """The registered references of a blueprint, or of those that it extends, by origin."""
    names = [blueprint.name.partition(":")[0], *(p.stem for p in reversed(blueprint.files))]
    known = blueprint.registry.references.values()
    found = [r for name in dict.fromkeys(names) for r in known if r.blueprint == name]
    return {r.origin: r for r in reversed(found)}


def plain(blueprint: Blueprint, remark: str = "") -> Rival:
    """The same network, as it runs without passes."""
    said = remark and f"{remark}: it is measured against itself without passes"
    return Rival("no passes", lambda: blueprint.build(without="all"), by_name, remark=said)


def registered(reference: Reference, blueprint: Blueprint) -> Rival:
    """A reference of a plugin."""
    installed(reference.package, reference.origin)
    return Rival(
        reference.origin,
        lambda: translated(reference, blueprint),
        reference.call or in_order,
        reference.rules or reference.origin,
    )


def translated(reference: Reference, blueprint: Blueprint) -> Any:
    """The reference's network for these parameters; those that it does not look at are as the blueprint has them."""
    read = Read(blueprint.values)
    try:
        made = reference.make(read)
    except ValueError as fault:
        text = f"{reference.origin} has no `{blueprint.name}` with these parameters: {fault}"
        raise BlueprintError(Diagnostic("BP612", text, help=(elsewhere(),))) from fault
    except Exception as fault:
        text = f"the reference `{reference.key}` failed: {type(fault).__name__}: {fault}"
        package = getattr(reference.make, "__module__", "")
        note = f"at {raised_at(fault, package)}"
        raise PluginError(Diagnostic("BP612", text, notes=(note,), help=("tell its author", elsewhere()))) from fault
    for name, param in blueprint.params.items():
        if name in read.seen or not was_set(param):
            continue
        text = f"{reference.origin} has nothing like the parameter `{name}`, which is {param.value} here"
        help = (f"leave `{name}` as it is", elsewhere())
        raise BlueprintError(Diagnostic("BP612", text, param.value_span, help=help))
    return module(made, f"the reference `{reference.key}`")


def was_set(param: Param) -> bool:
    """Whether a parameter was given a value elsewhere than where it is declared."""
    own, given = param.span, param.value_span
    if own is None or given is None or own.source != given.source:
        return given is not None
    start, end = (own.line, own.column), (own.end_line, own.end_column)
    return not start <= (given.line, given.column) <= end


def elsewhere() -> str:
    """The way that is always there."""
    return f"or measure the network against itself without passes: `--against {PLAIN}`"


def installed(package: str, origin: str) -> None:
    """Refuse a reference whose package is not there."""
    if package and importlib.util.find_spec(package) is None:
        text = f"measuring against {origin} needs the package `{package}`, which is not installed"
        raise BlueprintError(Diagnostic("BP612", text, help=(f"pip install {package}", elsewhere())))


def unknown(text: str, blueprint: Blueprint, known: Mapping[str, Any]) -> BlueprintError:
    """The message about a word that names no reference."""
    message = f"there is no reference `{text}` of `{blueprint.name}`{did_you_mean(text, [*known, PLAIN])}"
    others = "a factory of your own is `module:function` or `file.py:function`"
    note = f"it has {listing(known)}" if known else f"no plugin has a reference of `{blueprint.name}`"
    return BlueprintError(Diagnostic("BP612", message, notes=(note,), help=(others, elsewhere())))


# --- a factory on the path ---------------------------------------------------------------------------------------


def by_path(text: str, blueprint: Blueprint) -> Rival:
    """The factory that `module:function` or `file.py:function` names."""
    place, _, name = text.rpartition(":")
    factory = attribute(imported(place, text), name, text)
    return Rival(text, lambda: made_by(factory, text, blueprint), in_order)


def imported(place: str, text: str) -> Any:
    """A module by its name or its file."""
    try:
        return from_file(Path(place)) if place.endswith(".py") else from_path(place)
    except ModuleNotFoundError as fault:
        missing = str(fault.name)
        if missing == place or place.startswith(f"{missing}."):
            message = f"`--against {text}`: there is no module `{missing}`"
            help = ("name a module on the path, or a file: `file.py:function`",)
        else:
            message = f"`--against {text}`: `{place}` needs the package `{missing}`, which is not installed"
            help = (f"pip install {missing.partition('.')[0]}",)
        raise BlueprintError(Diagnostic("BP612", message, help=help)) from fault
    except BlueprintError:
        raise
    except Exception as fault:
        raise theirs(f"`--against {text}`: importing `{place}` failed", fault, Path(place).stem) from fault


def from_path(name: str) -> Any:
    """A module by its name; the working directory is on the path too, as for `python -m`."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def from_file(path: Path) -> Any:
    """The module of a file."""
    if not path.is_file():
        raise BlueprintError(Diagnostic("BP612", f"there is no file {path}", help=("check the path",)))
    name = f"composer_rival_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has both"  # noqa: PT018
    sys.modules[name] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def attribute(found: Any, name: str, text: str) -> Callable[..., Any]:
    """The factory in a module."""
    known = [n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n))]
    factory = found
    for word in name.split("."):
        factory = getattr(factory, word, None)
    if callable(factory):
        return factory  # type: ignore[no-any-return]
    problem = "is not callable" if factory is not None else "is not there"
    message = f"`--against {text}`: `{name}` {problem}{did_you_mean(name, known)}"
    raise BlueprintError(Diagnostic("BP612", message, notes=(f"callable there: {listing(known)}",)))


def made_by(factory: Callable[..., Any], text: str, blueprint: Blueprint) -> Any:
    """What a factory makes, called with nothing, or with the blueprint where it asks for one argument."""
    try:
        made = factory(*([blueprint] if asks(factory, text) else []))
    except ModuleNotFoundError as fault:
        message = f"`{text}` needs the package `{fault.name}`, which is not installed"
        raise BlueprintError(Diagnostic("BP612", message, help=(f"pip install {fault.name}",))) from fault
    except Exception as fault:
        raise theirs(f"`{text}` failed", fault, getattr(factory, "__module__", "")) from fault
    return module(made, f"`{text}`")


def asks(factory: Callable[..., Any], text: str) -> bool:
    """Whether a factory has to be given an argument."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C
        return False
    asked = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(asked) > 1 or any(p.kind is p.KEYWORD_ONLY for p in asked):
        message = f"`{text}` asks for {listing(f'`{p.name}`' for p in asked)}"
        help = ("a factory is called with nothing, or with the blueprint: wrap it in a function",)
        raise BlueprintError(Diagnostic("BP612", message, help=help))
    return bool(asked)


def theirs(what: str, fault: Exception, package: str = "") -> BlueprintError:
    """A fault in code that the user named, at the last line of that."""
    said = f"{what}: {type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    return BlueprintError(Diagnostic("BP612", said, notes=(f"at {raised_at(fault, package)}",)))


def module(made: Any, who: str) -> Any:
    """An `nn.Module`, or the message that it is none."""
    from torch import nn

    if not isinstance(made, nn.Module):
        message = f"{who} makes {type(made).__name__}, not an nn.Module"
        raise BlueprintError(Diagnostic("BP612", message))
    return made


def by_name(network: Any, inputs: Mapping[str, Any]) -> Any:
    """A network of ours."""
    return network(**inputs)


def in_order(network: Any, inputs: Mapping[str, Any]) -> Any:
    """A network that takes our inputs in the order of the blueprint."""
    return network(*inputs.values())
