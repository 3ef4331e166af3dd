"""Comments that name nodes: `blocks.*.norm1 (vit.yaml:19)`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import PurePath

from composer.diagnostics import Span
from composer.eject.classes import Template
from composer.eject.layout import WIDTH
from composer.eject.parts import Node, Parts
from composer.graph import Call, Graph
from composer.inference import Step
from composer.usage import walk

MOST = 3
"""Places shown of one class."""


class Places:
    """The nodes of a network and where they are written."""

    def __init__(self, graph: Graph, parts: Parts):
        self.parts, self.blueprint = parts, graph.blueprint
        self.bodies = {b.address: b for m in graph.members for b in walk(m)}

    def of(self, address: str) -> str:
        """The file and line of a node: its own, or that of the module there."""
        span = getattr(self.bodies.get(address), "span", None)
        if span is not None:
            return _line(span)
        try:
            step = self.parts.node(address).step
        except KeyError:
            return ""
        return _line(step.span) if step is not None and step.span is not None else ""

    def note(self, node: Node, template: Template, over: int = 1) -> str:
        """A module in all instances of a class, or `over` so many items of a list; a class of several places names
        them itself."""
        rest = node.address[len(template.instances[0].node.address) :]
        rests = [f"{rest.rpartition('.')[0]}.{k}" for k in range(over)] if over > 1 else [rest]
        nodes = [(t.node.address + r).strip(".") for t in template.instances for r in rests]
        shown = pattern(nodes)
        shown = shown if "," not in shown else f"….{rest.strip('.')}"
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


def step_note(step: Step) -> str:
    """A step that has no module, such as a sum."""
    place = f" ({_line(step.span)})" if step.span is not None else ""
    return ".".join("*" if w.isdigit() else w for w in step.address.split(".")) + place


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


def _line(span: Span) -> str:
    return f"{PurePath(span.source.name).name.strip('<>')}:{span.line}"
