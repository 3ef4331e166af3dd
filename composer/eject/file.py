"""The whole file: its head, what it takes along, the classes, the network, the initialization."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

from composer.diagnostics import Span
from composer.eject import initial
from composer.eject.classes import Instance, Item, Said, Template
from composer.eject.expressions import holes, kind, written
from composer.eject.forward import Forward, Statement, path
from composer.eject.layout import WIDTH, Bracketed, Repeated, Text, docstring, laid, noted
from composer.eject.names import Speech, class_name
from composer.eject.parts import Node, Parts
from composer.eject.sources import Import, Sources, roots_in
from composer.graph import Call, Graph, Group
from composer.inference import Program, Step
from composer.liveness import ids_of
from composer.usage import walk

LICENCE = (
    'Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with '
    "the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. It is distributed "
    'on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.'
)


@dataclass(frozen=True)
class _Lines:
    """What an `__init__` is written from: the address of its class, and what is made at each address below."""

    start: str
    texts: Mapping[str, Text]
    template: Template


class Page:
    """The text of one network."""

    def __init__(
        self, program: Program, parts: Parts, sources: Sources, speech: Speech, templates: Sequence[Template],
        classes: frozenset[str],
    ):  # fmt: skip
        self.program, self.parts, self.sources, self.speech = program, parts, sources, speech
        self.templates, self.classes = templates, classes
        self.graph: Graph = program.graph
        self.bodies = {b.address: b for m in self.graph.members for b in walk(m)}
        self.said = Said(speech)

    def text(self) -> str:
        """The file."""
        for template in self.templates:
            template.name = self.speech.fresh(self.named(template))
        chunks = ["\n".join(self.section(m, t)) for m, texts in self.sources.sections() for t in [texts]]
        chunks += ["\n".join(self.written(t)) for t in self.templates]
        if self.graph.blueprint.init:
            chunks.append("\n".join(self.initialization()))
        body = "\n\n\n".join(chunks)
        imports = "\n".join(self.imports(body))
        space = "\n" * (3 if re.match(r"(#.*\n)*(@|class |def )", body) else 2)
        return "\n".join(docstring(self.head())) + f"\n\n{imports}{space}{body}\n"

    # --- the head -----------------------------------------------------------------------------------------------

    def head(self) -> Iterator[str | Sequence[str]]:
        blueprint = self.graph.blueprint
        yield f"{blueprint.summary or blueprint.name}.".replace("..", ".")
        source = [str(blueprint.source[k]) for k in ("paper", "code") if blueprint.source.get(k)]
        if source:
            yield "; ".join(source)
        yield [f"    {line}" for line in self.signature()]
        files = ", ".join(dict.fromkeys(PurePath(f).name for f in blueprint.files))
        yield (
            f"Written by `composer eject` {_version()} from {files}. It needs torch alone, has the parameters and buffers "
            "of that network under the same names, and computes the same numbers. A comment names a node of the "
            "blueprint, `*` standing for each of several, and its line. Sizes of inputs are not checked."
        )
        if blueprint.init:
            yield "A new network is initialized as the blueprint says; PyTorch's defaults hold for the rest."
        yield LICENCE

    def signature(self) -> Iterator[str]:
        """`image (B, 3, H, W) -> logits (B, 1000)`, and the sizes."""
        inputs = [f"{i.name} {i.type}{' or None' * i.optional}" for i in self.program.inputs]
        found = []
        for output in self.program.outputs:
            ids = ids_of(output.ids)
            types = list(dict.fromkeys(str(self.program.values[i].type) for i in ids))
            when = " while training" * output.training
            found.append(f"{output.name} {types[0] if len(types) == 1 else '…'}{f' × {len(ids)}' * (len(ids) > 1)}{when}")
        line = f"{', '.join(inputs)} -> {', '.join(found)}"
        yield from [line] if len(line) < WIDTH - 4 else [", ".join(inputs), *(f"-> {each}" for each in found)]

    def imports(self, body: str) -> Iterator[str]:
        """Import lines, as isort puts them."""
        every: set[Import] = {*self.sources.imports, *roots_in(body)}
        if re.search(r"\bpartial\(", body):
            every.add(("functools", "partial", "partial"))
        if self.graph.blueprint.init:
            every.add(("re", "", "re"))
        yield "from __future__ import annotations"
        for torch in (False, True):
            some = sorted(i for i in every if (i[0].partition(".")[0] == "torch") is torch and i[0] != "__future__")
            if some:
                yield ""
                yield from _imported(some)

    def section(self, module: str, texts: Sequence[str]) -> Iterator[str]:
        """What is taken from one file."""
        yield f"# --- from {module} {'-' * max(0, WIDTH - 12 - len(module))}"
        yield "\n\n\n".join(texts)

    # --- classes ------------------------------------------------------------------------------------------------

    def named(self, template: Template) -> str:
        """The class of the block whose node it is, or the name of the node."""
        address = template.instances[0].node.address
        if not address:
            return class_name(self.graph.blueprint.name)
        body = self.bodies.get(address)
        if isinstance(body, Call):
            return class_name(type(body.block).__name__)
        words = [w for w in address.split(".") if not w.isdigit()]
        word = (body.use.rpartition("/")[2] if isinstance(body, Group) and body.use else "") or words[-1]
        return class_name(word.removesuffix(".yaml"))

    def written(self, template: Template) -> Iterator[str]:
        first = template.instances[0]
        base = "nn.Module" if first.own is None else self.speech.said(first.own.callee)  # type: ignore[union-attr]
        yield f"class {template.name}({base}):"
        yield from docstring([self.about(template)], 4)
        yield ""
        yield from self.constructor(template)
        yield ""
        yield from self.forward(template.forward, first.node)

    def about(self, template: Template) -> str:
        """What a class is: its node, and what its block says of itself."""
        node = template.instances[0].node
        if not node.address:
            return f"{self.graph.blueprint.name}: {self.graph.blueprint.summary or 'the network'}."
        body = self.bodies.get(node.address)
        nodes = [i.node.address for i in template.instances]
        places = _places(p for n in nodes if (p := self.place_of(n)))
        said = _pattern(nodes) + (f" ({places})" if places else "")
        doc = inspect.getdoc(type(body.block)) if isinstance(body, Call) else None
        plain = re.sub(r"\s*\([^)]*\)", "", " ".join((doc or "").split("\n\n")[0].split()))
        sentence = re.split(r"[.:;](?:\s|$)", plain)[0]
        more = f": {sentence}" if sentence else ""
        text = f"{said}{more}."
        return text if len(text) < WIDTH - 10 else f"{said}."

    def constructor(self, template: Template) -> Iterator[str]:
        values = {n: [i.holes[p].value for i in template.instances] for n, p in template.arguments.items()}
        arguments = tuple(f"{n}: {k}" if (k := kind(v)) else n for n, v in values.items())
        yield from laid("", Bracketed("def __init__(", ("self", *arguments), ") -> None:"), "", 4)
        first, columns = template.instances[0], iter(template.columns)
        own: tuple[Text, ...] = ()
        if first.own is not None:
            own = tuple(self.said.arguments(first.own, _taken(columns, first.own)))  # type: ignore[arg-type]
        yield from laid("", Bracketed("super().__init__(", own, ")"), "", 8)
        yield from self.modules(template, first, columns)
        if not first.node.address and self.graph.blueprint.init:
            yield " " * 8 + "initialize(self)"

    def modules(self, template: Template, first: Instance, columns: Iterator[str | None]) -> Iterator[str]:
        """The lines that put modules to their places."""
        texts = {item.node.address: self.made(item, columns) for item in first.items}
        for child in first.node.children.values():
            yield from self._put(child, _Lines(first.node.address, texts, template))

    def made(self, item: Item, columns: Iterator[str | None]) -> Text:
        if isinstance(item.made, Instance):
            own = [next(columns) for _ in item.made.holes]
            return self.said.instance(item.made, own)
        return self.said.expression(item.made, columns)

    def _put(self, node: Node, lines: _Lines) -> Iterator[str]:
        """A module in its place, and then those below it."""
        target = path(self.parts, lines.start, node.address, self.classes)
        text, note = self._whole(node, lines)
        yield from self._line(target, text, note)
        yield from self._below(node, lines)

    def _whole(self, node: Node, lines: _Lines) -> tuple[Text, str]:
        """What makes a module, a list with all that it counts, and the comment."""
        if node.address in lines.texts:
            return lines.texts[node.address], self.note(node, lines)
        if not node.is_list:
            return "nn.ModuleDict()" if node.is_dictionary else "nn.Module()", ""
        counted = [node.children[n] for n in node.numbers]
        items = [self._whole(c, lines) for c in counted]
        note = self.note(counted[0], lines, over=len(counted)) if items[0][1] else ""
        if len(items) > 1 and len({str(text) for text, _ in items}) == 1 and " for _ in " not in str(items[0][0]):
            return Bracketed("nn.ModuleList(", (Repeated(items[0][0], len(items)),), ")"), note
        inside = Bracketed("[", tuple(text for text, _ in items), "]")
        return Bracketed("nn.ModuleList(", (inside,), ")"), note

    def _below(self, node: Node, lines: _Lines) -> Iterator[str]:
        """What a module does not make itself."""
        if node.address in self.classes:
            return
        for name, child in node.children.items():
            if node.is_list and name.isdigit():
                yield from self._below(child, lines)
            else:
                yield from self._put(child, lines)

    @staticmethod
    def _line(target: Sequence[str], text: Text, note: str) -> Iterator[str]:
        last = target[-1]
        before = "self" + "".join(target[:-1])
        name = re.match(r'\.get_submodule\("(.*)"\)$', last)
        if name:
            yield from laid(f'{before}.add_module("{name[1]}", ', text, ")", 8)
        else:
            yield from noted(laid(f"{before}{last} = ", text, "", 8), note, 8)

    def note(self, node: Node, lines: _Lines, over: int = 1) -> str:
        """`blocks.*.norm1 (vit.yaml:19)`; `over` so many items of a list."""
        rest = node.address[len(lines.start) :]
        rests = [f"{rest.rpartition('.')[0]}.{k}" for k in range(over)] if over > 1 else [rest]
        nodes = [(t.node.address + r).strip(".") for t in lines.template.instances for r in rests]
        places = _places(p for n in nodes if (p := self.place_of(n)))
        pattern = _pattern(nodes)
        pattern = pattern if "," not in pattern else f"….{rest.strip('.')}"
        return f"{pattern} ({places})" if places else pattern

    def place_of(self, address: str) -> str:
        """The line of a node: its own, or that of the module there."""
        body = self.bodies.get(address)
        if body is not None and getattr(body, "span", None) is not None:
            return _place(body.span)  # type: ignore[union-attr]
        try:
            step = self.parts.node(address).step
        except KeyError:
            return ""
        return _place(step.span) if step is not None and step.span is not None else ""

    # --- forward ------------------------------------------------------------------------------------------------

    def forward(self, forward: Forward, node: Node) -> Iterator[str]:
        root = not node.address
        arguments = ["self", *(f"{n}: {k}" for n, k in forward.arguments)]
        if root:
            arguments = ["self", *self.inputs()]
        result = self.result() if root else _type(forward)
        yield from laid("", Bracketed("def forward(", tuple(arguments), f") -> {result}:"), "", 4)
        statements = list(forward.statements)
        if root and len(self.program.outputs) > 1:
            yield from self.body(statements)
            yield from self.delivered(forward)
            return
        returned: Text = ", ".join(forward.returns)
        if root:
            returned = self.single(forward)
        last = statements[-1] if statements else None
        if last is not None and last.target == returned and not last.test and last.body is None:
            yield from self.body(statements[:-1])
            note = self.step_note(last.step) if not last.path and last.step is not None else ""
            yield from noted(laid("return ", last.text, "", 8), note, 8)
        else:
            yield from self.body(statements)
            yield from laid("return ", returned, "", 8)

    def single(self, forward: Forward) -> Text:
        """The one output of a network."""
        output = self.program.outputs[0]
        texts = dict(zip(dict.fromkeys(ids_of(output.ids)), forward.returns, strict=True))
        text = _structure(output.ids, texts)
        return f"{text} if self.training else None" if output.training else text

    def body(self, statements: Sequence[Statement], indent: int = 8) -> Iterator[str]:
        for statement in statements:
            yield from self.statement(statement, indent)

    def statement(self, s: Statement, indent: int) -> Iterator[str]:
        if s.body is not None:
            yield f"{' ' * indent}for {s.target} in {s.text}:"
            yield from self.statement(s.body, indent + 4)
            return
        note = self.step_note(s.step) if not s.path and s.step is not None else ""
        if not s.test:
            yield from noted(laid(f"{s.target} = ", s.text, "", indent), note, indent)
            return
        nothing = "None" if "," not in s.target else f"({', '.join('None' for _ in s.target.split(','))})"
        line = f"{' ' * indent}{s.target} = {s.text} if {s.test} else {nothing}"
        if len(line) <= WIDTH:
            yield from noted([line], note, indent)
            return
        yield f"{' ' * indent}{s.target} = {nothing}"
        yield f"{' ' * indent}if {s.test}:"
        yield from laid(f"{s.target} = ", s.text, "", indent + 4)

    @staticmethod
    def step_note(step: Step) -> str:
        place = f" ({_place(step.span)})" if step.span is not None else ""
        words = step.address.split(".")
        return ".".join("*" if w.isdigit() else w for w in words) + place

    def inputs(self) -> Iterator[str]:
        optional = False
        for spec in self.program.inputs:
            optional = optional or spec.optional
            yield f"{spec.name}: Tensor | None = None" if optional else f"{spec.name}: Tensor"

    def result(self) -> str:
        if len(self.program.outputs) == 1:
            single = isinstance(self.program.outputs[0].ids, int) and not self.program.outputs[0].training
            return "Tensor" if single else "Any"
        return "dict[str, Tensor]" if all(isinstance(o.ids, int) for o in self.program.outputs) else "dict[str, Any]"

    def delivered(self, forward: Forward) -> Iterator[str]:
        delivered = dict.fromkeys(i for o in self.program.outputs for i in ids_of(o.ids))
        texts = dict(zip(delivered, forward.returns, strict=True))
        outputs = [(o.name, _structure(o.ids, texts), o.training) for o in self.program.outputs]
        pairs = tuple(_pair(name, text) for name, text, training in outputs if not training)
        later = [(name, text) for name, text, training in outputs if training]
        if not later:
            yield from laid("return ", Bracketed("{", pairs, "}"), "", 8)
            return
        yield from laid("results = ", Bracketed("{", pairs, "}"), "", 8)
        yield "        if self.training:"
        for name, text in later:
            yield from laid(f"results[{written(name)}] = ", text, "", 12)
        yield "        return results"

    # --- initialization -----------------------------------------------------------------------------------------

    def initialization(self) -> Iterator[str]:
        yield from laid("INITIAL = ", Bracketed("[", tuple(initial.rules(self.graph.blueprint.init)), "]"))
        yield '"""Which modules, by address and kind, and what fills their parameters; the first rule that names one holds."""'
        yield INITIALIZE


INITIALIZE = '''

@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """Fill the parameters as the blueprint says."""
    for address, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            for pattern, kind, fills in INITIAL:
                if name in fills and isinstance(module, kind) and re.fullmatch(pattern, address):
                    fills[name](parameter)
                    break'''


def _pair(name: str, text: Text) -> Text:
    if isinstance(text, Bracketed):
        return Bracketed(f"{written(name)}: {text.head}", text.items, text.tail)
    return f"{written(name)}: {text}"


def _structure(ids: Any, texts: Mapping[int, str]) -> Text:
    if isinstance(ids, dict):
        return Bracketed("{", tuple(_pair(str(k), _structure(v, texts)) for k, v in ids.items()), "}")
    if isinstance(ids, (list, tuple)):
        return Bracketed("[", tuple(_structure(v, texts) for v in ids), "]")
    return "None" if ids is None else texts[ids]


def _type(forward: Forward) -> str:
    return forward.types[0] if len(forward.types) == 1 else f"tuple[{', '.join(forward.types)}]"


def _taken(columns: Iterator[str | None], expression: Any) -> Iterator[str | None]:
    return iter([next(columns) for _ in holes(expression)])


def _place(span: Span) -> str:
    name = PurePath(span.source.name).name.strip("<>")
    return f"{name}:{span.line}"


def _pattern(addresses: Iterable[str]) -> str:
    """Globs for some addresses: one for those that differ in numbers alone."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for address in dict.fromkeys(addresses):
        words = address.split(".")
        alike.setdefault(tuple("" if w.isdigit() else w for w in words), []).append(words)
    globs = [
        ".".join(words[0] if len(set(words)) == 1 else "*" for words in zip(*group, strict=True))
        for group in alike.values()
    ]
    return ", ".join(globs[:MOST]) + (f" and {len(globs) - MOST} more" if len(globs) > MOST else "")


MOST = 3
"""Places shown of one class."""


def _places(spans: Iterable[str]) -> str:
    """`vit.yaml:19`, `swin_unet.yaml:25, 40`."""
    files: dict[str, list[str]] = {}
    for name, _, line in (s.rpartition(":") for s in dict.fromkeys(spans)):
        files.setdefault(name, []).append(line)
    return "; ".join(f"{name}:{', '.join(lines)}" for name, lines in files.items())


def _imported(some: Iterable[Import]) -> Iterator[str]:
    plain = sorted({(m, a) for m, n, a in some if not n})
    yield from (f"import {m}" if m == a else f"import {m} as {a}" for m, a in plain)
    modules: dict[str, set[str]] = {}
    for module, name, final in some:
        if name:
            modules.setdefault(module, set()).add(name if name == final else f"{name} as {final}")
    for module in sorted(modules):
        names = sorted(modules[module], key=lambda n: (0 if n.isupper() else 1 if n[:1].isupper() else 2, n))
        yield f"from {module} import {', '.join(names)}"


def _version() -> str:
    try:
        return version("blueprint-composer")
    except PackageNotFoundError:
        return ""
