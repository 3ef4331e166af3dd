"""The modules of a network as a tree of addresses, each with the expression that makes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Literal as One

import torch
from torch import nn

from composer.diagnostics import BlueprintError, Diagnostic
from composer.eject.expressions import Argument, Expression, Literal, Made, Thing
from composer.eject.recording import Recording, UnsaidError
from composer.inference import Program, Step, is_move
from composer.layouts import Held
from composer.module import built
from composer.sizing import Sizes

Kind = One["module", "parameter", "object", "function"]
"""A module, a parameter by itself, an object that is called and has no parameters, or a function."""


@dataclass(frozen=True)
class Part:
    """What a step calls."""

    kind: Kind
    expression: Expression
    signature: type[nn.Module] | None = None


@dataclass
class Node:
    """An address: what stands there, and what stands below it by name."""

    address: str
    part: Part | None = None
    step: Step | None = None
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def numbers(self) -> list[str]:
        return [name for name in self.children if name.isdigit()]

    @property
    def is_list(self) -> bool:
        """Whether its children are counted without a gap."""
        return self.part is None and bool(self.numbers) and all(n == str(k) for n, k in zip(self.numbers, count()))

    @property
    def is_dictionary(self) -> bool:
        """Whether its children are counted, some being left out."""
        return self.part is None and bool(self.numbers) and not self.is_list

    def walk(self) -> Iterator[Node]:
        """This one and all below."""
        yield self
        for child in self.children.values():
            yield from child.walk()


@dataclass(frozen=True)
class Parts:
    """The tree, and what each step's `module` is."""

    root: Node
    by_module: Mapping[str, Part]

    def node(self, address: str) -> Node:
        found = self.root
        for word in filter(None, address.split(".")):
            found = found.children[word]
        return found


def parts(program: Program) -> Parts:
    """Build every block once, by itself, and see how it does so. Raises `BlueprintError` (BP810)."""
    root, known = Node(""), dict[str, Part]()
    with torch.random.fork_rng(devices=()):  # not on `meta`: drawing numbers there imports torch's compiler, 5 s
        for each in (program, *program.alternatives.values()):
            for step in each.steps:
                if is_move(step.module) or step.module in known:
                    continue
                part = known[step.module] = _part(step, each.built)
                if part.kind != "function":
                    _place(root, step, part)
    for node in root.walk():
        if _stands_among_modules(node):
            raise refused(node.step, UnsaidError("it is no module, and stands where only modules can stand"))
    return Parts(root, known)


def _stands_among_modules(node: Node) -> bool:
    """Whether what is called like a function is counted, or has modules below it."""
    if node.part is None or node.part.kind != "object":
        return False
    below = (n.part.kind for n in node.walk() if n.part is not None)
    return node.address.rpartition(".")[2].isdigit() or any(kind != "object" for kind in below)


def _place(root: Node, step: Step, part: Part) -> None:
    node, words = root, step.module.split(".")
    for k, word in enumerate(words):
        node = node.children.setdefault(word, Node(".".join(words[: k + 1])))
    node.part, node.step = part, step


def _part(step: Step, env: Mapping[str, int]) -> Part:
    if isinstance(step.block, Held):
        return Part("parameter", _held(step.block))
    with Recording(step.block.build) as recording:
        made = built(step, Sizes(env))
    try:
        if isinstance(made, nn.Parameter):
            raise UnsaidError("it is a parameter by itself, whose first value no expression says")
        expression = recording.expression(made)
    except UnsaidError as fault:
        raise refused(step, fault) from None
    if isinstance(made, nn.Module):
        return Part("module", expression, type(made))
    plain = isinstance(expression, Thing) or expression.callee.__name__ == "partial"  # type: ignore[union-attr]
    return Part("function" if plain else "object", expression)


def _held(block: Held) -> Expression:
    """`nn.Parameter(nn.init.trunc_normal_(torch.empty(25, 768), std=0.02))`."""
    empty = Made(torch.empty, tuple(Argument("size", Literal(n), open=True) for n in block.dims))
    spread = Argument("std", Literal(block.std), 1.0, named=True)
    filled = Made(nn.init.trunc_normal_, (Argument("tensor", empty, open=True), spread))
    return Made(nn.Parameter, (Argument("data", filled, open=True),))


def refused(step: Step | None, fault: UnsaidError) -> BlueprintError:
    """BP810, at the node."""
    at = f" at `{step.address}`" if step is not None else ""
    what = f"`{step.block.name}`{at} cannot be ejected: {fault}" if step is not None else f"cannot be ejected: {fault}"
    help = ("define what a block is made of at the top of a file, and make it by calling that",)
    return BlueprintError(Diagnostic("BP810", what, step.span if step is not None else None, help=help))
