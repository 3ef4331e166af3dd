"""What a search chooses from: a YAML file -> a `Space`, and a `Space` with answers -> a `Composition`.

    space: 1
    network:                                      # parameters and addresses, as on the command line
      dim: {from: 32, to: 96, step: 16}
      decoder.*.fuse: [fuse.add, fuse.concat]
      encoder.*.attention:
        - {use: attention.window, window: {one_of: [4, 7]}}     # chosen only where this alternative is
        - attention.linear
    training:                                     # of the recipe
      lr: {from: 1e-4, to: 1e-2, log: true}

Behind a key a list holds the alternatives; within an alternative a list is a list, and `{one_of: […]}` chooses.
Everything keeps its line and column, so that what `check` says of a composition has its place in this file. Imports no
torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Any

from composer import source
from composer.diagnostics import BlueprintError, Diagnostic, Source, Span, did_you_mean, listing
from composer.source import Map, Seq, span_of
from composer.writing import flow

VERSION = 1
KEYS = ("space", "summary", "network", "training")
RANGE = ("from", "to", "step", "log")
ENDLESS = math.inf
"""How many values a range of real numbers has."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones, or in steps, or on a logarithmic scale."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 1))

    @property
    def count(self) -> float:
        """How many values there are."""
        step = self.step or (1 if self.whole else None)
        return ENDLESS if step is None else int((_exact(self.high) - _exact(self.low)) / _exact(step)) + 1

    @property
    def last(self) -> float:
        """The largest value that the steps reach."""
        return self.high if self.step is None else self.value(int(self.count) - 1)

    def value(self, k: int) -> float:
        """Number k of its values."""
        exact = _exact(self.low) + k * _exact(self.step or 1)
        return int(exact) if self.whole else float(exact)

    def drawn(self, rng: Random) -> float:
        """Any of its values, each as likely as any other, on its scale."""
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high + (0.5 if self.whole else 0))))
            return min(self.high, max(self.low, round(value))) if self.whole else value
        return rng.uniform(self.low, self.high) if self.count == ENDLESS else self.value(rng.randrange(int(self.count)))

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


@dataclass(frozen=True)
class OneOf:
    """Alternatives, each plain data in which further choices may stand, and what each is called."""

    values: tuple[Any, ...]
    labels: tuple[str, ...]
    places: tuple[Span | None, ...] = field(compare=False, repr=False)

    @property
    def count(self) -> float:
        """How many values there are, with what is chosen within them."""
        return sum(counted(v) for v in self.values)

    def __str__(self) -> str:
        return f"one of {len(self.values)}"


Choice = Range | OneOf
Ask = Callable[[str, Choice], Any]
"""The answer to a choice of a name: a number of a range, or which alternative."""


@dataclass(frozen=True)
class Composition:
    """One network and recipe: overrides with their places in the space, what the recipe is told, and both as words."""

    overrides: Map
    recipe: Map

    @property
    def said(self) -> dict[str, str]:
        """Every key with its value on one line."""
        return {k: _said(v) for k, v in {**self.overrides, **self.recipe}.items()}

    def __str__(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.said.items())


@dataclass(frozen=True)
class Space:
    """Values and choices by key: `network` of parameters and addresses, `training` of the recipe."""

    network: Map
    training: Map
    document: Map = field(compare=False, repr=False)

    @property
    def count(self) -> float:
        """How many compositions there are."""
        return math.prod(counted(v) for part in (self.network, self.training) for v in part.values())

    def composed(self, ask: Ask) -> Composition:
        """The composition of some answers; a choice within an alternative is asked for only where that is taken."""
        return Composition(_answered(self.network, ask), _answered(self.training, ask))

    def every(self) -> Iterator[Composition]:
        """All compositions of a space that ends, the last choice changing fastest."""
        answers: list[tuple[int, int]] | None = []  # of each choice that was met: which value, of how many
        while answers is not None:
            met: list[tuple[int, int]] = []
            yield self.composed(_Counting(met, answers))
            while met and met[-1][0] == met[-1][1] - 1:
                met.pop()
            answers = [*met[:-1], (met[-1][0] + 1, met[-1][1])] if met else None

    def drawn(self, rng: Random) -> Composition:
        """A composition at random."""
        return self.composed(lambda _, c: c.drawn(rng) if isinstance(c, Range) else rng.randrange(len(c.values)))

    def probes(self) -> Iterator[Map]:
        """Each key of `network` alone, with each of its alternatives, inner choices at their first values."""
        for key, value in self.network.items():
            alone = Map({key: value}, span=self.network.span)
            alone.key_spans, alone.value_spans = self.network.key_spans, self.network.value_spans
            for k in range(len(value.values) if isinstance(value, OneOf) else 1):
                yield _answered(alone, _Firsts(key, k))


def _answered(part: Map, ask: Ask) -> Map:
    """Keys with values, every choice answered; the place of each is that of the alternative that was taken."""
    made = Map(span=part.span, key_spans=part.key_spans, value_spans=part.value_spans)
    for key, value in part.items():
        if isinstance(value, OneOf):
            k = ask(key, value)
            made[key] = _resolved(value.values[k], f"{key}/{value.labels[k]}", ask)
            made.value_spans[key] = value.places[k] or part.span
        else:
            made[key] = _resolved(value, key, ask)
    return made


@dataclass(frozen=True)
class _Firsts:
    """Answers: alternative `k` of a key, of all other choices the first value."""

    key: str
    k: int

    def __call__(self, name: str, choice: Choice) -> Any:
        return _value(choice, self.k if name == self.key else 0)


@dataclass(frozen=True)
class _Counting:
    """Answers of one round of counting: those `given`, then the first values; all of them are `met`."""

    met: list[tuple[int, int]]
    given: Sequence[tuple[int, int]]

    def __call__(self, name: str, choice: Choice) -> Any:
        total = int(choice.count) if isinstance(choice, Range) else len(choice.values)
        k = self.given[len(self.met)][0] if len(self.met) < len(self.given) else 0
        self.met.append((k, total))
        return _value(choice, k)


def _value(choice: Choice, k: int) -> Any:
    return choice.value(k) if isinstance(choice, Range) else k


def _resolved(value: Any, name: str, ask: Ask) -> Any:
    """Plain data, every choice in it answered."""
    if isinstance(value, Range):
        return ask(name, value)
    if isinstance(value, OneOf):
        k = ask(name, value)
        return _resolved(value.values[k], f"{name}/{value.labels[k]}", ask)
    if isinstance(value, Map):
        made = value.copy()
        made.update({k: _resolved(v, f"{name}.{k}", ask) for k, v in value.items()})
        return made
    if isinstance(value, Seq):
        return Seq((_resolved(v, f"{name}.{k}", ask) for k, v in enumerate(value)), span=value.span,
                   item_spans=value.item_spans)  # fmt: skip
    return value


def counted(value: Any) -> float:
    """How many values plain data with choices in it can become."""
    if isinstance(value, Range | OneOf):
        return value.count
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return math.prod(counted(v) for v in inner)


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else flow(value)


def _exact(number: float) -> Fraction:
    """The number as it was written: 0.1 is a tenth."""
    return Fraction(str(number))


# ---- reading --------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Space:
    """The space of a file; all mistakes in one error, each with its place (BP846, or what YAML itself says)."""
    return _Reader(source.read(path)).space()


def parse(given: Source) -> Space:
    """The space of a text; see `read`."""
    return _Reader(source.parse(given)).space()


class _Reader:
    """A document on its way to a `Space`; mistakes are collected."""

    def __init__(self, document: Map):
        self.document, self.mistakes = document, list[Diagnostic]()

    def space(self) -> Space:
        self.keys()
        network, training = (self.part(name) for name in ("network", "training"))
        found = Space(network, training, self.document)
        if not self.mistakes and found.count <= 1:
            text = "there is nothing to choose: every key has one value"
            help = "give alternatives, `decoder.*.fuse: [fuse.add, fuse.concat]`, or a range, `dim: {from: 32, to: 96}`"
            self.wrong(text, self.document.value_spans.get("network") or self.document.span, help)
        if self.mistakes:
            raise BlueprintError(self.mistakes)
        return found

    def wrong(self, text: str, span: Span | None, *help: str, notes: tuple[str, ...] = ()) -> None:
        self.mistakes.append(Diagnostic("BP846", text, span, notes=notes, help=help))

    def keys(self) -> None:
        for key in self.document:
            if key not in KEYS:
                text = f"a space has no `{key}`{did_you_mean(key, KEYS)}"
                self.wrong(text, self.document.key_spans[key], notes=(f"keys: {listing(KEYS)}",))
        if self.document.get("space", VERSION) != VERSION:
            said = self.document["space"]
            self.wrong(f"`space: {said!r:.40}`: this Composer reads version {VERSION}", span_of(self.document, "space"))
        elif "space" not in self.document:
            self.wrong(f"this is no space: the key `space: {VERSION}` is missing", self.document.span, "add it")

    def part(self, name: str) -> Map:
        given = self.document.get(name)
        if given is not None and not isinstance(given, Map):
            text = f"`{name}` is a mapping from keys to what they may be, not {given!r:.60}"
            self.wrong(text, span_of(self.document, name), "write for example `dim: {from: 32, to: 96, step: 16}`")
        if not isinstance(given, Map):
            return Map(span=self.document.span)
        made = given.copy()
        made.update({k: self.outer(k, v, span_of(given, k)) for k, v in given.items()})
        return made

    def outer(self, key: str, value: Any, span: Span | None) -> Any:
        """What stands behind a key: a list holds alternatives."""
        if isinstance(value, Seq):
            return self.one_of(key, value, span)
        if isinstance(value, Map) and not {"use", "graph", "one_of"} & set(value):
            return self.range(key, value, span)
        return self.inner(key, value, span)

    def inner(self, key: str, value: Any, span: Span | None) -> Any:
        """A value in which choices may stand."""
        if isinstance(value, Map) and "one_of" in value:
            listed = value["one_of"]
            if len(value) > 1 or not isinstance(listed, Seq):
                self.wrong(f"`{key}`: `one_of` holds a list and stands alone", span, "write `{one_of: [4, 8]}`")
                return value
            return self.one_of(key, listed, span_of(value, "one_of"))
        if isinstance(value, Map) and {"from", "to"} <= set(value) and not {"use", "graph"} & set(value):
            return self.range(key, value, span)
        if isinstance(value, Map):
            made = value.copy()
            made.update({k: self.inner(f"{key}.{k}", v, span_of(value, k)) for k, v in value.items()})
            return made
        if isinstance(value, Seq):
            items = [self.inner(f"{key}.{k}", v, span_of(value, k)) for k, v in enumerate(value)]
            return Seq(items, span=value.span, item_spans=value.item_spans)
        return value

    def one_of(self, key: str, listed: Seq, span: Span | None) -> Any:
        if not listed:
            self.wrong(f"`{key}` has an empty list: there is no alternative", span, "give at least two")
            return listed
        values = tuple(self.inner(key, v, span_of(listed, k)) for k, v in enumerate(listed))
        words = [_label(v) for v in values]
        for k, word in enumerate(words):
            if word in words[:k]:
                self.wrong(f"`{key}` lists `{word}` twice", span_of(listed, k), "leave one out")
        return OneOf(values, _short(values, words), tuple(span_of(listed, k) for k in range(len(listed))))

    def range(self, key: str, given: Map, span: Span | None) -> Any:
        """`{from: 32, to: 96, step: 16}`."""
        before = len(self.mistakes)
        for word in given:
            if word not in RANGE:
                text = f"the range of `{key}` has no `{word}`{did_you_mean(word, RANGE)}"
                help = "a block has `use`; a range `from`, `to`, and `step` or `log: true`"
                self.wrong(text, given.key_spans.get(word), help)
        for word in ("from", "to"):
            if word not in given and len(self.mistakes) == before:
                self.wrong(f"the range of `{key}` has no `{word}`", span, "write `{from: 32, to: 96}`")
        for word in ("from", "to", "step"):
            if word in given and not _is_number(given[word]):
                self.wrong(f"`{word}` of `{key}` is a number, not {given[word]!r:.40}", span_of(given, word))
        if not isinstance(given.get("log", False), bool):
            self.wrong(f"`log` of `{key}` is true or false, not {given['log']!r:.40}", span_of(given, "log"))
        if len(self.mistakes) == before:
            self.numbers(key, given, span)
        if len(self.mistakes) > before:
            return given
        return Range(given["from"], given["to"], given.get("step"), given.get("log", False))

    def numbers(self, key: str, given: Map, span: Span | None) -> None:
        """The numbers of a range make sense together."""
        low, high, step, log = given["from"], given["to"], given.get("step"), given.get("log")
        if low > high:
            text = f"the range of `{key}` goes the wrong way: from {low} to {high}"
            self.wrong(text, span, f"write `from: {high}, to: {low}`")
        elif low == high:
            self.wrong(f"the range of `{key}` has one value, {low}", span, f"write `{key}: {low}`, or widen it")
        elif step is not None and not 0 < step <= high - low:
            text = f"`step: {step}` of `{key}` reaches nothing between {low} and {high}"
            self.wrong(text, span_of(given, "step"), f"give more than 0 and at most {high - low}")
        elif log and step is not None:
            self.wrong(f"`{key}` has `log` and `step`; a logarithmic range has no steps", span, "leave one out")
        elif log and low <= 0:
            text = f"`log` of `{key}` needs a `from` above 0, not {low}"
            self.wrong(text, span_of(given, "from"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _label(value: Any) -> str:
    """An alternative in words, choices in it as `2..8`."""
    if isinstance(value, Range | OneOf):
        return f"{{{value}}}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_label(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(_label, value)) + "]" if isinstance(value, list) else _said(value)


def _short(values: Sequence[Any], words: Sequence[str]) -> tuple[str, ...]:
    """The names of alternatives: their block alone where no other has it."""
    uses = [str(v["use"]) if isinstance(v, Mapping) and "use" in v else w for v, w in zip(values, words, strict=True)]
    return tuple(u if uses.count(u) == 1 else w for u, w in zip(uses, words, strict=True))
