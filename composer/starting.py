"""What `composer new` writes: files from templates, which are files of this package too.

    templates/plugin/PACKAGE/__init__.py.in   ->   my_attention/my_attention/__init__.py

A name of a template says PACKAGE where the plugin's stands; in its text `${package}` and the like are filled in.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import sys
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from textwrap import fill
from typing import Any

from composer.block import RESERVED
from composer.blueprint import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic
from composer.expressions import is_expression
from composer.files import write_folder, write_text
from composer.registry import Registry
from composer.writing import flow

SUFFIX = ".in"
MOST = 60


def plugin(name: str, folder: Path, registry: Registry) -> list[str]:
    """Write a distribution with one block into a folder that does not exist; the names of its files."""
    check_free(folder)
    check_plugin_name(name, registry)
    names = {
        "package": name,
        "distribution": name.replace("_", "-"),
        "block": f"{name}.attention",
        "class_name": "".join(word.capitalize() for word in name.split("_")),
    }
    files = {path.replace("PACKAGE", name): text for path, text in rendered("plugin", names).items()}
    write_folder(folder, files)
    return sorted(files)


def blueprint(name: str, path: Path, registry: Registry, base: Blueprint | None = None, extends: str = "") -> None:
    """Write a blueprint to start from: a small network, or one that extends `base`, which `extends` names."""
    check_free(path)
    check_blueprint_name(name, registry)
    names = {"name": name, "file": path.name}
    if base is None:
        return write_text(path, template("blueprint/minimal.yaml", names), fresh=True)
    names |= {"base": extends, "extends": flow(reachable(extends, path, registry))}
    names |= {"params": params_of(base), "nodes": fill(", ".join(base.graph), 110, subsequent_indent="#   ")}
    write_text(path, template("blueprint/extending.yaml", names), fresh=True)


def params_of(base: Blueprint) -> str:
    """The parameters of a blueprint as comments; those that are computed, or no plain values, are left out."""
    plain = (bool, int, float, str, list, type(None))
    rows = [(n, p) for n, p in base.params.items() if isinstance(p.value, plain) and not is_expression(p.default)]
    return "\n".join(f"#   {name}: {flow(p.value)}" + (f"    # {p.doc}" if p.doc else "") for name, p in rows)


def reachable(name: str, path: Path, registry: Registry) -> str:
    """A blueprint's name, or its path as seen from the folder of another."""
    from composer.blueprint import find, shipped

    found, preset = find(name, {**registry.blueprints, **shipped()})
    if name.partition(":")[0] in {**registry.blueprints, **shipped()}:
        return name
    way = os.path.relpath(found.resolve(), path.resolve().parent)
    return f"{way}:{preset}" if preset else way


# --- names -------------------------------------------------------------------------------------------------------


def check_free(path: Path) -> None:
    """Refuse what exists: nothing is overwritten."""
    if path.exists() or path.is_symlink():
        text = f"{path} exists already, and nothing is overwritten"
        raise BlueprintError(Diagnostic("BP806", text, help=("give another place with `-o`, or another name",)))


def check_plugin_name(name: str, registry: Registry) -> None:
    """A plugin's name is that of its Python package and the first word of its blocks."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > MOST or keyword.iskeyword(name):
        near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")[:MOST]
        help = (f"for example `{near}`",) if near and near != name and not keyword.iskeyword(near) else ()
        rule = "small letters and digits in words joined by underscores, a letter first, and no word of Python"
        raise refused(f"`{name:.80}` cannot name a plugin, which is a Python package: {rule}", *help)
    taken = sorted(n for n in registry.blocks if n.split(".")[0] == name)
    if taken:
        raise refused(f"`{name}` is the first word of blocks that are there, such as `{taken[0]}`", f"`my_{name}`?")
    if name in RESERVED or name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise refused(f"`{name}` is the name of a module that is installed; yours could not be imported beside it")


def check_blueprint_name(name: str, registry: Registry) -> None:
    """A blueprint's name is that of its file; one that is taken means the other one."""
    from composer.blueprint import shipped

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or len(name) > MOST:
        raise refused(f"`{name:.80}` cannot name a blueprint: letters, digits, `_` and `-`, a letter first")
    if name in {**registry.blueprints, **shipped()}:
        raise refused(f"`{name}` is a blueprint that is there; the name would mean that one", f"`my_{name}`?")


def refused(text: str, *help: str) -> BlueprintError:
    """A name that cannot be taken."""
    return BlueprintError(Diagnostic("BP107", text, help=help))


# --- templates ---------------------------------------------------------------------------------------------------


def rendered(folder: str, names: Mapping[str, Any]) -> dict[str, str]:
    """The templates of a folder by the path that each is written to, filled in."""
    paths = _paths(resources.files("composer") / "templates" / folder)
    return {path: template(f"{folder}/{path}", names) for path in sorted(paths)}


def template(path: str, names: Mapping[str, Any]) -> str:
    """One template, filled in."""
    text = (resources.files("composer") / "templates" / f"{path}{SUFFIX}").read_text(encoding="utf-8")
    return Template(text).substitute(names)


def _paths(folder: Traversable, prefix: str = "") -> list[str]:
    found: list[str] = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _paths(item, f"{prefix}{item.name}/")
        elif item.name.endswith(SUFFIX):
            found.append(prefix + item.name.removesuffix(SUFFIX))
    return found
