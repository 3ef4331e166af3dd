"""A region's forward pass, one statement for each of its items.

A value takes the name of its node. What flows straight on is `x`: a value that is read soon, made where no other `x` is
still needed. Copies of a node in a row become a loop.
"""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch

from composer.dims import symbols_of
from composer.eject.expressions import Literal, Made, Thing, written
from composer.eject.flow import TRAINING, Flow
from composer.eject.layout import Bracketed, Text
from composer.eject.names import Speech
from composer.eject.padding import Padding
from composer.eject.parts import Part, Parts
from composer.eject.recording import UnsaidError
from composer.eject.regions import Grid, Key, Region, last_reads, outputs, reads, restored
from composer.eject.sizing import axis_name, python
from composer.inference import Step, is_move
from composer.layouts import Flatten, ToFirst, ToLast
from composer.liveness import ids_of

NEAR = 7
"""A value that is read so many items later still counts as what flows straight on."""


@dataclass(frozen=True)
class Statement:
    """`target = text`, under a condition if there is one. `path` is how it reaches the `module` that it calls."""

    target: str
    text: Text
    test: str = ""
    path: tuple[str, ...] = ()
    module: str = field(default="", compare=False)
    step: Step | None = field(default=None, compare=False)
    body: Statement | None = None
    """What a loop does: then `target` is its variable and `text` what it goes through."""


@dataclass(frozen=True)
class Forward:
    """A forward pass: its arguments, with those that may be None, its statements, and what it returns."""

    arguments: tuple[tuple[str, str], ...]
    statements: tuple[Statement, ...]
    returns: tuple[str, ...]
    types: tuple[str, ...] = ()


class Writer:
    """Writes forward passes of one network."""

    def __init__(
        self, flow: Flow, parts: Parts, speech: Speech, classes: frozenset[str], padding: Padding | None = None
    ):
        self.flow, self.parts, self.speech, self.classes, self.padding = flow, parts, speech, classes, padding

    def forward(self, region: Region, names: Mapping[Key, str] | None = None, root: bool = False) -> Forward:
        """The forward pass of a region; `names` are those of its inputs, if they have names already."""
        return _Body(self, region, dict(names or {}), root).forward()


class _Body:
    """One forward pass while it is written.

    text     how each value is said
    holders  the values that have a name, or had it
    made     the place of the item that made each value; `since` is that of the last `x`
    shaky    values that are items of one which may be None, and when
    """

    def __init__(self, writer: Writer, region: Region, names: dict[Key, str], root: bool):
        self.w, self.region, self.root = writer, region, root
        self.last = last_reads(region.items, region.outputs)
        self.text: dict[Key, str] = {}
        self.holders: dict[str, set[Key]] = {}
        self.statements: list[Statement] = []
        self.arguments: list[tuple[str, str]] = []
        self.made: dict[Key, int] = {}
        self.shaky: dict[int, frozenset[str]] = {}
        self.since = 0
        self.chains = dict(_chains(region.items, self.last))
        for key in region.inputs:
            self._argue(key, names.get(key))
        if root:
            self._fit()
            self._measure()

    def _argue(self, key: Key, name: str | None) -> None:
        taken = {n for n, _ in self.arguments}
        if name is None:
            port, needed = ("x", True) if isinstance(key, Grid) else _port(self.region, key)
            word = key.word if isinstance(key, Grid) else port if taken or not needed else "x"
            name = self._fresh(word, taken)
        self._hold(key, name)
        if isinstance(key, Grid):
            self.arguments.append((name, "list[tuple[int, ...]]" if key.several else "tuple[int, ...]"))
        else:
            absent = self.w.flow.when[key] - self.region.when
            self.arguments.append((name, f"{self.w.flow.type_of(key)}{' | None' * bool(absent)}"))

    def _fit(self) -> None:
        """The inputs brought to sizes that are valid."""
        if self.w.padding is not None:
            for target, text, test in self.w.padding.before([name for name, _ in self.arguments]):
                self.statements.append(Statement(target, text, test))

    def _crop(self) -> None:
        """The outputs brought back."""
        names = {i: o.name for o in self.w.flow.program.outputs for i in ids_of(o.ids)}
        for value in self.region.outputs:
            text = self.w.padding.after(value, self.text[value]) if self.w.padding is not None else None
            if text is not None:
                said, test = self.text[value], "self.training" * bool(self.w.flow.when[value])
                held = said.isidentifier() and sum(t == said for t in self.text.values()) == 1
                name = said if held else self._fresh(plain(names[value]), set(self.text.values()))
                self.statements.append(Statement(name, text, test))
                self.text[value] = name

    def _measure(self) -> None:
        """The grids that are restored later, from the shapes of the inputs."""
        wanted = list(dict.fromkeys(k for item in self.region.items for k in reads(item) if isinstance(k, Grid)))
        needed = {s for grid in wanted for sizes in grid.sizes for n in sizes for s in symbols_of(n)}
        names: dict[str, str] = {}
        for spec in self.w.flow.program.inputs:
            own = {k: a for k, a in enumerate(spec.axes, 2) if a in needed - set(names)} if not spec.optional else {}
            taken = {n for n, _ in self.arguments} | set(names.values())
            names |= {a: self._fresh(axis_name(a), taken) for a in own.values()}
            shape = f"{self.text[spec.id]}.shape"
            if len(own) == len(spec.axes) > 1:
                self.statements.append(Statement(", ".join(names[a] for a in own.values()), f"{shape}[2:]"))
            else:
                self.statements += [Statement(names[a], f"{shape}[{k}]") for k, a in own.items()]
        for grid in wanted:
            taken = {n for n, _ in self.arguments} | set(names.values()) | set(self.text.values())
            name = self._fresh(grid.word, taken)
            items = [Bracketed("(", tuple(python(n, names) for n in g), "," * (len(g) == 1) + ")") for g in grid.sizes]
            text = Bracketed("[", tuple(items), "]") if grid.several else items[0]
            self.statements.append(Statement(name, text))
            self._hold(grid, name)

    def _fresh(self, name: str, taken: Iterable[str]) -> str:
        known, base, number = set(taken) | self.w.speech.reserved, name, 2
        while name in known:
            name, number = f"{base}{number}", number + 1
        return name

    def _hold(self, key: Key, name: str, text: str | None = None) -> None:
        self.text[key] = text or name
        self.holders.setdefault(name, set()).add(key)

    # --- items --------------------------------------------------------------------------------------------------

    def forward(self) -> Forward:
        for place, item in enumerate(self.region.items):
            self.made.update(dict.fromkeys(outputs(item), place))
            if isinstance(item, Region):
                self._called(place, item)
            else:
                self._stepped(place, item)
        if self.root:
            self._crop()
        flow, always = self.w.flow, self.region.when
        types = tuple(f"{flow.type_of(i)}{' | None' * bool(flow.when[i] - always)}" for i in self.region.outputs)
        returned = tuple(self.text[i] for i in self.region.outputs)
        taken = {n for n, _ in self.arguments} | set(self.holders) | self.w.speech.reserved
        statements = tuple(_looped(self.statements, self.w.parts, self.region.module, taken))
        return Forward(tuple(self.arguments), statements, returned, types)

    def _called(self, place: int, item: Region) -> None:
        path = self._path(item.module)
        arguments = tuple(self.text[k] for k in item.inputs)
        test = self._test(item)
        targets = [self._name(place, item, i, first=n == 0) for n, i in enumerate(item.outputs)]
        text = Bracketed(f"{_said(path)}(", arguments, ")")
        self.statements.append(Statement(", ".join(targets), text, test, path, item.module))

    def _stepped(self, place: int, step: Step) -> None:
        part = self.w.parts.by_module.get(step.module)
        if part is not None and part.kind == "parameter":
            self.text[step.outputs[0]] = _said(self._path(step.module))
            return
        text = self._moved(step) if part is None else self._run(step, part)
        path = self._path(step.module) if part is not None and part.kind != "function" else ()
        test = self._test(step)
        used = [i for i in step.outputs if i in self.last]
        target = self._name(place, step, step.outputs[0]) if step.keys is None else self._several(place, step, used)
        shown = None if is_move(step.module) else step
        self.statements.append(Statement(target, text, test, path, step.module if path else "", shown))

    def _several(self, place: int, step: Step, used: Sequence[int]) -> str:
        """A step with several values: one name, and each value as an item of it."""
        always = frozenset.intersection(*(self.w.flow.when[i] for i in step.outputs))
        name = self._chosen(place, step, _word(step.address, self.region.address), used)
        for key, value in zip(step.keys or (), step.outputs, strict=True):
            if always - self.region.when:
                self.shaky[value] = always - self.region.when
            if value in used:
                sure = self.w.flow.when[value] <= always | self.region.when
                self._hold(value, name, f"{name}[{written(key)}]" if sure else f"{name}.get({written(key)})")
        return name

    def _test(self, item: Step | Region) -> str:
        """The condition under which an item runs here."""
        if isinstance(item, Region):
            when = item.when
        else:
            when = frozenset.intersection(*(self.w.flow.when[i] for i in item.outputs))
        return " and ".join(self._tested(c, item) for c in sorted(when - self.region.when))

    def _tested(self, condition: str, item: Step | Region) -> str:
        if condition == TRAINING:
            return "self.training"
        for key in (*reads(item), *self.text):
            if isinstance(key, int) and key in self.text and self.w.flow.when[key] - self.region.when == {condition}:
                return f"{self.text[key]} is not None"
        raise UnsaidError(f"`{item.address}` runs only with the input `{condition}`, which is out of sight there")

    # --- calls --------------------------------------------------------------------------------------------------

    def _moved(self, step: Step) -> Text:
        x = self.text[dict(step.inputs)["x"]]
        if isinstance(step.block, ToLast):
            return f"{x}.movedim(1, -1)"
        if isinstance(step.block, ToFirst):
            return f"{x}.movedim(-1, 1)"
        if isinstance(step.block, Flatten):
            return f"{x}.flatten(1, -2)"
        grid = restored(step)
        assert grid is not None
        if grid.several:
            return Bracketed("parted(", (x, self._sized(grid)), ")")
        inside = written(grid.numbers[0]).strip("(,)") if grid.known else f"*{self.text[grid]}"
        return Bracketed(f"{x}.reshape(", (f"{x}.shape[0]", inside, f"{x}.shape[-1]"), ")")

    def _sized(self, grid: Grid) -> str:
        return written(list(grid.numbers)) if grid.known else self.text[grid]

    def _run(self, step: Step, part: Part) -> Text:
        required, named = self._gathered(step)
        if part.kind == "function":
            return self._function(part, required, named)
        if part.signature is not None:
            required, named = _shortened(part.signature, required, named)
        path = self._path(step.module)
        head = "super().forward(" if not path else f"{_said(path)}("
        return Bracketed(head, (*required, *(f"{k}={v}" for k, v in named.items())), ")")

    def _gathered(self, step: Step) -> tuple[tuple[str, ...], dict[str, str]]:
        """What a step is called with, by position and by name; types without numbers are None."""
        given, when = dict(step.inputs), frozenset.intersection(*(self.w.flow.when[i] for i in step.outputs))
        required = tuple(self._value(given[p], when) for p in step.block.required if p in given)
        return required, {p: self._value(v, when) for p, v in given.items() if p not in step.block.required}

    def _value(self, value: Any, when: frozenset[str]) -> str:
        if not isinstance(value, tuple) and not self.shaky.get(value, frozenset()) <= when:
            raise UnsaidError("it takes one of several values that are not always there")
        if isinstance(value, tuple):
            if any(self.w.flow.when.get(v, frozenset()) - self.region.when for v in value):
                items = ", ".join(self._value(v, when) for v in value)
                return f"[v for v in ({items}{',' * (len(value) == 1)}) if v is not None] or None"
            return f"[{', '.join(self._value(v, when) for v in value)}]"
        return "None" if value is None or value not in self.w.flow.when else self.text[value]

    def _function(self, part: Part, required: tuple[str, ...], named: Mapping[str, str]) -> Text:
        made, options = part.expression, dict(named)
        if isinstance(made, Made):  # a partial
            function, *front = (a.value for a in made.arguments if not a.named)
            required = (*(self._literal(v) for v in front), *required)
            options = {a.name: self._literal(a.value) for a in made.arguments if a.named} | options
        else:
            function = made
        assert isinstance(function, Thing)
        if function.thing is torch.add and len(required) == 2 and not options:
            return f"{required[0]} + {required[1]}"
        name = self.w.speech.said(function.thing)
        if name.startswith("torch.Tensor."):
            name, required = f"{required[0]}.{name.rpartition('.')[2]}", required[1:]
        return Bracketed(f"{name}(", (*required, *(f"{k}={v}" for k, v in options.items())), ")")

    @staticmethod
    def _literal(value: Any) -> str:
        if not isinstance(value, Literal):
            raise UnsaidError("it is a function with arguments that are no literals")
        return written(value.value)

    def _path(self, module: str) -> tuple[str, ...]:
        """The words from this region to a module; none is the region itself."""
        return path(self.w.parts, self.region.module, module, self.w.classes)

    # --- names --------------------------------------------------------------------------------------------------

    def _name(self, place: int, item: Step | Region, value: int, first: bool = True) -> str:
        word = _word(_maker(item, value), self.region.address)
        moved = self.text[dict(item.inputs)["x"]] if isinstance(item, Step) and is_move(item.module) else ""
        word = moved if moved.isidentifier() else word
        name = self._chosen(place, item, word, [value] if value in self.last else [], first)
        self._hold(value, name)
        return name

    def _chosen(self, place: int, item: Step | Region, word: str, values: Sequence[Key], first: bool = True) -> str:
        """`x`, or the word of the node, or that with a number; what held the name is not needed any more."""
        if first and self._flows(place, item, values):
            return self._release("x", place)
        if place in self.chains:
            held = self.text[reads(item)[0]]
            begins = self.chains[place] == place and held in {name for name, _ in self.arguments}
            if held.isidentifier() and self._is_free(held, place) and not begins:
                return self._release(held, place)
        name, number = word, 2
        while not self._is_free(name, place) or name in self.w.speech.reserved:
            name, number = f"{word}{'_' * word[-1].isdigit()}{number}", number + 1
        return self._release(name, place)

    def _flows(self, place: int, item: Step | Region, values: Sequence[Key]) -> bool:
        """Whether what an item makes is all that is left of what was made since the last `x`, and is read soon."""
        last = max((self.last[v] for v in values), default=place)
        plain = isinstance(item, Region) or item.keys is None
        others = (k for k, at in self.made.items() if at >= self.since and k not in values)
        alone = all(self.last.get(k, -1) <= place for k in others)
        return plain and alone and last - place <= NEAR and self._is_free("x", place)

    def _is_free(self, name: str, place: int) -> bool:
        return all(self.last.get(k, -1) <= place for k in self.holders.get(name, ()))

    def _release(self, name: str, place: int) -> str:
        self.holders[name] = set()
        self.since = place if name == "x" else self.since
        return name


def _chains(items: Sequence[Step | Region], last: Mapping[Any, int]) -> Iterator[tuple[int, int]]:
    """The places of copies in a row, each of which reads what the one before it made and nobody else does; with each
    the place of the first."""
    start = 0
    for place, (before, item) in enumerate(pairwise(items), 1):
        if not _follows(before, item) or last[outputs(before)[0]] != place:
            start = place
        else:
            yield from ((start, start), (place, start))


def _follows(item: Step | Region, after: Step | Region) -> bool:
    """Whether two items are neighbours in a list of modules, the second of which continues the first."""
    mine, theirs = _counted(item.module), _counted(after.module)
    if mine is None or theirs is None or theirs != (mine[0], mine[1] + 1):
        return False
    return outputs(item) == reads(after)[:1] and reads(item)[1:] == reads(after)[1:] and len(outputs(after)) == 1


def _counted(module: str) -> tuple[str, int] | None:
    """The list that an address is counted in, and its number."""
    base, _, number = module.rpartition(".")
    return (base, int(number)) if number.isdigit() else None


def path(parts: Parts, start: str, module: str, classes: frozenset[str]) -> tuple[str, ...]:
    """How a module is reached from another around it: `.attention`, `[0]`, `["2"]`."""
    inside = module[len(start) :].strip(".") if start else module
    node, words = parts.node(start), []
    for word in filter(None, inside.split(".")):
        counted = node.part is None and node.address not in classes and word.isdigit()
        if counted and node.is_list:
            words.append(f"[{word}]")
        elif counted:
            words.append(f'["{word}"]')
        elif word.isidentifier() and not keyword.iskeyword(word):
            words.append(f".{word}")
        else:
            words.append(f'.get_submodule("{word}")')
        node = node.children[word]
    return tuple(words)


def _said(words: Sequence[str]) -> str:
    return "self" + "".join(words)


def _port(region: Region, key: Key) -> tuple[str, bool]:
    """The name under which a value is read first, and whether it must be there."""
    for item in region.items:
        if isinstance(item, Region):
            if key in item.inputs:
                return _port(item, key)
        else:
            for port, value in item.inputs:
                if key == value or (isinstance(value, tuple) and key in value):
                    moved = is_move(item.module)
                    return _port(region, item.outputs[0]) if moved else (port, port in item.block.required)
    return "x", True


def _maker(item: Step | Region, value: int) -> str:
    """The address of the step that makes a value, or its name where it makes several."""
    if isinstance(item, Region) and len(item.outputs) > 1:
        inner = next(i for i in item.items if value in outputs(i))
        if isinstance(inner, Step) and inner.keys is not None:
            key = inner.keys[inner.outputs.index(value)]
            return key if isinstance(key, str) else inner.address
        return _maker(inner, value) if isinstance(inner, Region) else inner.address
    return item.address


def _word(address: str, inside: str) -> str:
    """The name of a node as that of a variable: `encoder.0` is `encoder0`."""
    whole = address.partition("+")[0].partition("@")[0]
    rest = whole[len(inside) + 1 :] if inside and whole.startswith(f"{inside}.") else whole
    words = (whole if rest.replace(".", "").isdigit() else rest).split(".")
    end = len(words)
    while end > 1 and words[end - 1].isdigit():
        end -= 1
    word = re.sub(r"\W", "_", words[end - 1].lower()) + "_".join(words[end:])
    word = word if not word[0].isdigit() else f"_{word}"
    return f"{word}_" if hasattr(builtins, word) or word == "l" else plain(word)


def plain(word: str) -> str:
    """A word that Python takes as a name."""
    word = re.sub(r"\W", "_", word)
    return f"{word}_" if keyword.iskeyword(word) or word in ("self", "torch", "nn", "functional") else word


def _shortened(
    module: type[torch.nn.Module], required: tuple[str, ...], named: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Arguments without those that are None anyway."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    usual = {p.name for p in parameters if p.default is None}
    kept = list(required)
    while kept and kept[-1] == "None" and len(kept) <= len(parameters) and parameters[len(kept) - 1].name in usual:
        kept.pop()
    return tuple(kept), {k: v for k, v in named.items() if v != "None" or k not in usual}


def _looped(statements: Sequence[Statement], parts: Parts, module: str, taken: set[str]) -> Iterator[Statement]:
    """Statements, those that run through all of a list as a loop, whose variable has a name that is not `taken`."""
    place = 0
    while place < len(statements):
        count = _copies(statements, place, parts, module)
        if count > 1:
            first = statements[place]
            base, rest = first.path[: first.path.index("[0]")], first.path[first.path.index("[0]") + 1 :]
            name = _singular(re.sub(r"\W|get_submodule", "", base[-1]))
            name = f"{name}_" if name in taken else name
            text = replace(first.text, head=f"{name}{''.join(rest)}(")  # type: ignore[type-var]
            yield Statement(name, _said(base), body=Statement(first.target, text))
            place += count
        else:
            yield statements[place]
            place += 1


def _copies(statements: Sequence[Statement], place: int, parts: Parts, module: str) -> int:
    """How many statements from here on are one for each item of a list."""
    first = statements[place]
    if "[0]" not in first.path or first.test or not isinstance(first.text, Bracketed) or first.path[0] == "[0]":
        return 0
    at = first.path.index("[0]")
    words = first.module[len(module) :].strip(".").split(".")[:at]
    node = parts.node(".".join(filter(None, (module, *words))))
    size = len(node.children)
    if not node.is_list or size != len(node.numbers) or place + size > len(statements):
        return 0
    for k in range(size):
        each = statements[place + k]
        wanted = (*first.path[:at], f"[{k}]", *first.path[at + 1 :])
        if each.path != wanted or each.target != first.target or each.test or not isinstance(each.text, Bracketed):
            return 0
        if each.text.items != first.text.items or each.text.head != f"{_said(wanted)}(":
            return 0
    return size


def _singular(word: str) -> str:
    """One of `blocks` is a `block`, one of `encoder` a `layer`."""
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else "layer"
