"""Comments that name nodes: `blocks.*.norm1 (vit.yaml:19)`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import PurePath

from composer.addresses import is_prefix
from composer.eject.classes import Template
from composer.eject.layout import WIDTH
from composer.graph import Call
from composer.inference import Program
from composer.usage import walk

MOST = 3
"""Places shown of one class."""


class Places:
    """The nodes of a network and where they are written."""

    def __init__(self, program: Program):
        self.blueprint = program.graph.blueprint
        self.bodies = {b.address: b for m in program.graph.members for b in walk(m)}
        self.spans = {s.address: s.span for s in program.steps}

    def of(self, address: str) -> str:
        """The file and line of a node: its own, or that of the step there."""
        span = getattr(self.bodies.get(address), "span", None) or self.spans.get(address)
        return f"{PurePath(span.source.name).name.strip('<>')}:{span.line}" if span is not None else ""

    def note(self, address: str, template: Template, over: int = 1) -> str:
        """What stands at an address in the first instance of a class, in all instances, or `over` so many items of a
        list. A class of several places names them itself."""
        start = template.instances[0].node.address
        if start and not is_prefix(start, address):
            return address + self._lines([address])
        rest = address[len(start) :]
        rests = [f"{rest.rpartition('.')[0]}.{k}" for k in range(over)] if over > 1 else [rest]
        nodes = [(t.node.address + r).strip(".") for t in template.instances for r in rests]
        shown = pattern(nodes)
        shown = shown if "," not in shown else f"….{rest.strip('.')}".rstrip(".")
        return f"{shown}{self._lines(nodes)}"

    def about(self, template: Template) -> str:
        """What a class is: its nodes, and what their block says of itself."""
        nodes = [i.node.address for i in template.instances]
        if nodes == [""]:
            return f"{self.blueprint.name}: {(self.blueprint.summary or 'the network').rstrip('.')}."
        body = self.bodies.get(nodes[0])
        said = pattern(nodes) + self._lines(nodes)
        doc = inspect.getdoc(type(body.block)) if isinstance(body, Call) else None
        plain = re.sub(r"\s+\([^()]*\)", "", " ".join((doc or "").split("\n\n")[0].split()))
        sentence = re.split(r"[.:;](?:\s|$)", plain)[0]
        whole = f"{said}: {sentence}." if sentence else f"{said}."
        return whole if len(whole) < WIDTH - 10 else f"{said}."

    def _lines(self, nodes: Iterable[str]) -> str:
        """` (swin_unet.yaml:25, 40)`."""
        files: dict[str, list[str]] = {}
        for place in dict.fromkeys(filter(None, map(self.of, nodes))):
            name, _, line = place.rpartition(":")
            files.setdefault(name, []).append(line)
        said = "; ".join(f"{name}:{', '.join(lines)}" for name, lines in files.items())
        return f" ({said})" if said else ""


def pattern(addresses: Iterable[str]) -> str:
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
