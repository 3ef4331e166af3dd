"""Source text taken along: the definitions that a file needs, from wherever they stand, with the names they use.

A class is taken as its author wrote it, with the functions, constants and base classes that it names, and those that
they name, of its own file and of others. What comes from torch or the standard library is imported. Definitions stand
in the order of their files, a file after those it takes from. Where two files use one name, both are renamed.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import torch

from composer.eject.recording import UnsaidError

ROOTS: tuple[tuple[str, Any], ...] = (
    ("nn", torch.nn),
    ("torch", torch),
    ("functional", torch.nn.functional),
    ("nn.init", torch.nn.init),
    ("torch.Tensor", torch.Tensor),
)
"""Where names of torch are looked for, and how they are said."""

IMPORTS = {
    "nn": ("torch", "nn"),
    "torch": ("torch", ""),
    "functional": ("torch.nn", "functional"),
    "Tensor": ("torch", "Tensor"),
    "Any": ("typing", "Any"),
    "partial": ("functools", "partial"),
    "re": ("re", ""),
}
"""The names that an ejected file uses itself."""
ALLOWED = frozenset(sys.stdlib_module_names | {"torch"})
"""What an ejected file may import."""

Import = tuple[str, str, str]
"""The module, the name in it or nothing, and the name it has in the file."""


@dataclass
class File:
    """A module's source: what is defined at its top, and what it imports."""

    module: ModuleType
    taken: set[str] = field(default_factory=set)

    @cached_property
    def lines(self) -> list[bytes]:
        try:
            return inspect.getsource(self.module).encode().splitlines()
        except (OSError, TypeError) as fault:
            raise UnsaidError(f"the source of `{self.module.__name__}` cannot be read: {fault}") from None

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(b"\n".join(self.lines))

    @cached_property
    def definitions(self) -> dict[str, list[ast.stmt]]:
        """The statements that make each name, in the order of the file."""
        found: dict[str, list[ast.stmt]] = {}
        for statement in self.tree.body:
            for name in _names(statement):
                found.setdefault(name, []).append(statement)
        return found

    @cached_property
    def imports(self) -> dict[str, Import]:
        """What each imported name is."""
        found = {}
        package = self.module.__package__ or ""
        for node in (n for s in self.tree.body if not _defines(s) for n in ast.walk(s)):
            if isinstance(node, ast.Import):
                for a in node.names:
                    name = a.asname or a.name.partition(".")[0]
                    found[name] = (a.name if a.asname else name, "", name)
            elif isinstance(node, ast.ImportFrom):
                origin = package.rsplit(".", node.level - 1)[0] if node.level else ""
                origin = ".".join(filter(None, (origin, node.module)))
                for a in node.names:
                    found[a.asname or a.name] = (origin, a.name, a.asname or a.name)
        return found

    def segment(self, statement: ast.stmt) -> tuple[int, int]:
        """The lines of a statement, with comments right above it and the text right below it: first, one after last."""
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(d.lineno for d in decorators)]) - 1
        while first and self.lines[first - 1].startswith(b"#"):
            first -= 1
        last = statement.end_lineno or statement.lineno
        body = self.tree.body
        after = body[body.index(statement) + 1 :][:1]
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and after and _is_text(after[0]):
            last = after[0].end_lineno or last
        return first, last


class Sources:
    """The definitions that an ejected file takes along, and its imports."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.imports: set[Import] = set()
        self._finals: dict[tuple[str, str], str] = {}

    # --- taking -------------------------------------------------------------------------------------------------

    def take(self, thing: Any) -> None:
        """Take a class or function along, with what it needs. Raises `UnsaidError`."""
        if _of_torch(thing) is not None or isinstance(thing, torch.dtype):
            return  # by a root, which is imported where the text has it
        name, module = getattr(thing, "__qualname__", "?"), getattr(thing, "__module__", None)
        top = name.partition(".")[0]
        if module == "builtins":
            return
        if module is None or "<" in name:
            outer, _, inner = name.partition(".<locals>.")
            what = "a lambda" if inner == "<lambda>" else f"`{inner or name}`"
            raise UnsaidError(f"{what} is defined inside of `{outer or module}`, so its text does not stand by itself")
        if module.partition(".")[0] in ALLOWED:
            self.imports.add((module, top, top))
        else:
            self._define(module, top)

    def _define(self, module: str, name: str) -> None:
        if module not in sys.modules:
            raise UnsaidError(f"the source of `{name}` cannot be found: `{module}` is no module that is loaded")
        file = self.files.setdefault(module, File(sys.modules[module]))
        if name in file.taken:
            return
        if name not in file.definitions:
            raise UnsaidError(f"`{name}` is not defined at the top of `{module}`")
        file.taken.add(name)
        for statement in file.definitions[name]:
            for each in _names(statement):
                file.taken.add(each)
            for node in globals_of(statement):
                self._need(file, node.id)
            self._look_inside(file, statement)

    @staticmethod
    def _look_inside(file: File, statement: ast.stmt) -> None:
        """What a function imports when it runs must be there too."""
        for node in ast.walk(statement):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            for module in named:
                if module.partition(".")[0] not in ALLOWED:
                    what = f"`{file.module.__name__}` imports `{module}` in a function"
                    raise UnsaidError(f"{what}, and an ejected file has torch alone")

    def _need(self, file: File, name: str) -> None:
        if name in file.definitions:
            self._define(file.module.__name__, name)
        elif name in file.imports:
            module, inner, _ = file.imports[name]
            top = module.partition(".")[0]
            if top in ALLOWED:
                self.imports.add(file.imports[name])
            elif inner and top in _distribution(file):
                self._define(module, inner)
            else:
                raise UnsaidError(f"`{file.module.__name__}` needs `{module}`, and an ejected file has torch alone")
        elif not hasattr(builtins, name) and name not in ("__name__", "__file__"):
            raise UnsaidError(f"`{file.module.__name__}` uses `{name}`, which it neither defines nor imports by name")

    # --- names --------------------------------------------------------------------------------------------------

    def settle(self) -> set[str]:
        """Give every definition its name in the file; the names that are taken."""
        names = {i[2] for i in self.imports} | set(IMPORTS)
        self._agree()
        owners: dict[str, list[str]] = {}
        for module, file in self.files.items():
            for name in sorted(file.taken):
                owners.setdefault(name, []).append(module)
        for name, modules in owners.items():
            for module in modules:
                alone = len(modules) == 1 and name not in names
                self._finals[module, name] = name if alone else _qualified(name, module, names | set(owners))
                names.add(self._finals[module, name])
        return names

    def _agree(self) -> None:
        """Two files that import one name must mean one thing; it is imported once."""
        meant: dict[str, tuple[Any, Import]] = {}
        for each in sorted(self.imports):
            found = importlib.import_module(each[0])
            found = getattr(found, each[1]) if each[1] else sys.modules[each[0]]
            if meant.setdefault(each[2], (found, each))[0] is not found:
                raise UnsaidError(f"two of its files import different things as `{each[2]}`")
        self.imports = {each for _, each in meant.values()}

    def said(self, thing: Any) -> str:
        """How a class or function is named in the file."""
        if isinstance(thing, torch.dtype):
            return str(thing)
        known = _of_torch(thing)
        if known is not None:
            return known
        top, dot, rest = str(thing.__qualname__).partition(".")
        return f"{self._finals.get((thing.__module__, top), top)}{dot}{rest}"

    # --- text ---------------------------------------------------------------------------------------------------

    def sections(self) -> Iterator[tuple[str, list[str]]]:
        """The name of each module and the texts of what is taken from it."""
        for module in self._ordered():
            file = self.files[module]
            statements = {s: None for name in file.taken for s in file.definitions[name]}
            yield module, [self._text(file, s) for s in sorted(statements, key=lambda s: s.lineno)]

    def _ordered(self) -> list[str]:
        """Modules, each after those it takes from."""
        done: dict[str, None] = {}

        def visit(module: str) -> None:
            file = self.files[module]
            used = {file.imports[n][0] for s in self._statements(file) for n in _ids(s) if n in file.imports}
            for other in sorted(used & set(self.files) - set(done) - {module}):
                visit(other)
            done.setdefault(module)

        for module in self.files:
            if module not in done:
                visit(module)
        return list(done)

    @staticmethod
    def _statements(file: File) -> list[ast.stmt]:
        return [s for name in file.taken for s in file.definitions[name]]

    def _text(self, file: File, statement: ast.stmt) -> str:
        first, last = file.segment(statement)
        lines = list(file.lines[first:last])
        for line, column, name, final in sorted(self._renamed(file, statement), reverse=True):
            text = lines[line - 1 - first]
            assert text[column:].startswith(name.encode())
            lines[line - 1 - first] = text[:column] + final.encode() + text[column + len(name.encode()) :]
        return re.sub(r"[ \t]*# type: ignore[^\n#]*(# [^\n]*)?$", "", b"\n".join(lines).decode(), flags=re.MULTILINE)

    def _renamed(self, file: File, statement: ast.stmt) -> Iterator[tuple[int, int, str, str]]:
        """Where names stand that are others in this file: line, column in bytes, before, after."""
        for name in _names(statement):
            final = self._finals[file.module.__name__, name]
            if final != name and isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
                text = file.lines[statement.lineno - 1]
                yield statement.lineno, text.index(name.encode(), text.index(b" ")), name, final
        for node in globals_of(statement, stores=True):
            final = self._final_of(file, node.id)
            if final != node.id:
                yield node.lineno, node.col_offset, node.id, final

    def _final_of(self, file: File, name: str) -> str:
        if name in file.definitions:
            return self._finals.get((file.module.__name__, name), name)
        module, inner, _ = file.imports.get(name, ("", "", ""))
        return self._finals.get((module, inner), name)


def _of_torch(thing: Any) -> str | None:
    """The name of what torch has under a common name."""
    name = getattr(thing, "__name__", None)
    found = (root for root, module in ROOTS if isinstance(name, str) and getattr(module, name, None) is thing)
    root = next(found, None)
    return None if root is None else f"{root}.{name}"


def roots_in(text: str) -> Iterator[Import]:
    """The imports of common names that a text uses."""
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    yield from ((*origin, name) for name, origin in IMPORTS.items() if name in used)


def _distribution(file: File) -> set[str]:
    """The top packages from which source is taken along with a file's: its own, and the core."""
    return {file.module.__name__.partition(".")[0], __name__.partition(".")[0]}


def _qualified(name: str, module: str, taken: set[str]) -> str:
    """A name with that of its file: `LearnedPositions`, `corner_fusion`."""
    stem = module.rpartition(".")[2]
    if name.lstrip("_")[:1].isupper() and not name.isupper():
        made = name + "".join(w.title() for w in stem.split("_"))
    else:
        made = f"{name}_{stem.upper() if name.isupper() else stem}"
    number = 2
    while made in taken:
        made, number = f"{made.rstrip('0123456789')}{number}", number + 1
    return made


def _names(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a file defines, or changes."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        targets = [statement.target]
    items = [i for t in targets for i in (t.elts if isinstance(t, (ast.Tuple, ast.List)) else [t])]
    return [i.id for i in map(_base, items) if isinstance(i, ast.Name)]


def _base(target: ast.expr) -> ast.expr:
    """`TABLE` in `TABLE["x"] = …`."""
    while isinstance(target, (ast.Subscript, ast.Attribute)):
        target = target.value
    return target


def _defines(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _ids(statement: ast.stmt) -> set[str]:
    return {node.id for node in globals_of(statement)}


SCOPES = (
    *(ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
"""What has names of its own."""


def globals_of(node: ast.AST, stores: bool = False) -> Iterator[ast.Name]:
    """The names in a statement at the top of a file that mean something outside of it."""
    yield from _free(node, frozenset(), stores)


def _free(node: ast.AST, bound: frozenset[str], stores: bool = False) -> Iterator[ast.Name]:
    if isinstance(node, ast.Name):
        if (stores or not isinstance(node.ctx, ast.Store)) and node.id not in bound:
            yield node
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        yield from _free_in_function(node, bound)
    elif isinstance(node, ast.ClassDef):
        for each in (*node.decorator_list, *node.bases, *node.keywords):
            yield from _free(each, bound)
        own = bound | _stored(node.body)
        for statement in node.body:
            yield from _free(statement, bound if _defines(statement) else own)
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        inner = bound | _stored([g.target for g in node.generators])
        for child in ast.iter_child_nodes(node):
            yield from _free(child, inner)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _free(child, bound, stores)


def _free_in_function(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, bound: frozenset[str]
) -> Iterator[ast.Name]:
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    outer: list[ast.AST | None] = [*a.defaults, *a.kw_defaults, *(p.annotation for p in every)]
    if not isinstance(node, ast.Lambda):
        outer += [*node.decorator_list, node.returns]
    for each in filter(None, outer):
        yield from _free(each, bound)
    body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
    inner = (bound | {p.arg for p in every} | _stored(body)) - _declared_global(body)
    for statement in body:
        yield from _free(statement, frozenset(inner))


def _stored(nodes: list[Any]) -> frozenset[str]:
    """The names that a scope binds, without those of the scopes inside of it."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {a.asname or a.name.partition(".")[0] for a in node.names}
        if not isinstance(node, SCOPES):
            found |= _stored(list(ast.iter_child_nodes(node)))
    return frozenset(found)


def _declared_global(nodes: list[Any]) -> set[str]:
    return {n for node in nodes for g in ast.walk(node) if isinstance(g, ast.Global) for n in g.names}
