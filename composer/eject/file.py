"""The whole file: its head, what it takes along, the classes, the network, the initialization."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath

from composer.eject.classes import Said, Template
from composer.eject.constructors import Constructors
from composer.eject.expressions import Made
from composer.eject.initial import function
from composer.eject.layout import WIDTH, docstring
from composer.eject.names import Speech, class_name
from composer.eject.padding import Padding
from composer.eject.parts import Parts
from composer.eject.places import Places
from composer.eject.sources import Import, Sources, roots_in
from composer.eject.statements import of_network, of_region
from composer.graph import Call, Group
from composer.inference import Program
from composer.liveness import ids_of

WRITTEN = """Written by `composer eject` {} from {}. It needs torch alone, has the parameters and buffers of that
network under the same names, and computes the same numbers. Comments name the nodes of the blueprint, `*` standing for
the number of each copy, and their lines. The sizes of inputs are not checked."""

INITIALIZED = "A new network is initialized as the blueprint says; what it does not name as PyTorch does."
UNTAPPED = "It gives no weights of attention: the `tap:` of the blueprint is for networks of Composer."

LICENCE = """Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in
compliance with the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. It is
distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. What is taken
from other packages than Composer's, each named above its definitions, keeps the licence of its authors."""


class Page:
    """The text of one network."""

    def __init__(
        self,
        program: Program,
        parts: Parts,
        sources: Sources,
        speech: Speech,
        templates: Sequence[Template],
        classes: frozenset[str],
        pads: Padding | None = None,
    ):
        self.program, self.sources, self.speech, self.templates, self.pads = program, sources, speech, templates, pads
        self.blueprint = program.graph.blueprint
        self.places = Places(program)
        self.constructors = Constructors(parts, self.places, Said(speech), classes)

    def text(self) -> str:
        """The file."""
        for template in self.templates:
            template.name = self.speech.fresh(self._named(template))
        chunks = ["\n".join(_section(module, texts)) for module, texts in self.sources.sections()]
        chunks += [self.pads.table()] if self.pads is not None else []
        chunks += ["\n".join(self._written(t)) for t in self.templates]
        chunks += function(self.blueprint.init)
        body = "\n\n\n".join(chunks)
        space = "\n" * (3 if re.match(r"(#.*\n)*(@|class |def )", body) else 2)
        return "\n".join([*docstring(self._head()), "", *self._imports(body)]) + f"{space}{body}\n"

    # --- the head -----------------------------------------------------------------------------------------------

    def _head(self) -> Iterator[str | Sequence[str]]:
        yield f"{(self.blueprint.summary or self.blueprint.name).rstrip('.')}."
        source = [str(self.blueprint.source[k]) for k in ("paper", "code") if self.blueprint.source.get(k)]
        if source:
            yield "; ".join(source)
        yield [f"    {line}" for line in self._signature()]
        yield WRITTEN.format(_version(), ", ".join(dict.fromkeys(PurePath(f).name for f in self.blueprint.files)))
        if self.blueprint.init:
            yield INITIALIZED
        if self.blueprint.tap:
            yield UNTAPPED
        yield LICENCE

    def _signature(self) -> Iterator[str]:
        """`image (B, 3, H, W) -> logits (B, 1000)`."""
        inputs = ", ".join(f"{i.name} {i.type}{' or None' * i.optional}" for i in self.program.inputs)
        found = []
        for output in self.program.outputs:
            types = list(dict.fromkeys(str(self.program.values[i].type) for i in ids_of(output.ids)))
            said = types[0] if len(types) == 1 else f"of {len(types)} types"
            found.append(f"{output.name} {said}{' while training' * output.training}")
        line = f"{inputs} -> {', '.join(found)}"
        yield from [line] if len(line) < WIDTH - 4 else [inputs, *(f"-> {each}" for each in found)]

    def _imports(self, body: str) -> Iterator[str]:
        """Import lines, as isort puts them."""
        every: set[Import] = {*self.sources.imports, *roots_in(body)}
        yield "from __future__ import annotations"
        for torch in (False, True):
            some = sorted(i for i in every if (i[0].partition(".")[0] == "torch") is torch and i[0] != "__future__")
            yield from ["", *_imported(some)] if some else []

    # --- classes ------------------------------------------------------------------------------------------------

    def _named(self, template: Template) -> str:
        """The class of the block whose node it is, or the name of the node."""
        address = template.instances[0].node.address
        body = self.places.bodies.get(address)
        if isinstance(body, Call):
            return class_name(type(body.block).__name__)
        words = [w for w in address.split(".") if not w.isdigit()]
        used = body.use if isinstance(body, Group) and body.use else ""
        return class_name(PurePath(used).stem.partition(":")[0] or words[-1] or self.blueprint.name)

    def _written(self, template: Template) -> Iterator[str]:
        first = template.instances[0]
        base = self.speech.said(first.own.callee) if isinstance(first.own, Made) else "nn.Module"
        yield f"class {template.name}({base}):"
        root = not first.node.address
        about = (
            f"{self.blueprint.name}: {self.blueprint.summary or 'the network'}."
            if root
            else self.places.about(template)
        )
        yield from [*docstring([about], 4), ""]
        yield from self.constructors.text(template)
        yield from ["        initialize(self)"] if root and self.blueprint.init else []
        yield ""
        note = partial(self.places.note, template=template)
        yield from of_network(template.forward, note, self.program) if root else of_region(template.forward, note)


def _section(module: str, texts: Sequence[str]) -> Iterator[str]:
    """What is taken from one file."""
    yield f"# --- from {module} {'-' * max(0, WIDTH - 12 - len(module))}"
    yield "\n\n\n".join(texts)


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
