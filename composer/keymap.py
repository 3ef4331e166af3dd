"""The `weights:` rules of a blueprint: from the official state_dict keys to our addresses, as data.

A rule is `{from: pattern, to: address or addresses, transform: name}`; the first rule whose pattern matches a key wins.
Rules whose addresses this network does not have (a preset shares a head, or has one more) leave the key to later ones;
where no later one takes it, the first says what is wrong.

In `from`:  `{x}` a segment or a part of one · `{x+1}` a number the official names count from one ·
            `{x:a=b,c=d}` a translation · `{n*unit}` how often `unit` repeats · `*` the rest, one or more segments.
In `to`:    `{x}` what was read · `{x+1}` one more · `-{x}` that many before the last numbered address · `*` the rest.

Everything is decided here on names and shapes, so that a plan can be shown, checked and refused before a single tensor
is touched: this module runs without torch. Only the transforms' `forward` and `backward` see tensors. Rules and keys
both come from strangers: patterns become regular expressions with bounded backtracking (`MOST_OPEN`, `LONGEST_KEY`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isqrt, prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from composer.diagnostics import BlueprintError, Diagnostic, Span, did_you_mean, listing

if TYPE_CHECKING:
    from torch import Tensor

Shape: TypeAlias = tuple[int, ...]
Options: TypeAlias = Mapping[str, Any]

MOST_OPEN = 3
"""Pieces of one pattern whose end only backtracking finds; the work per key is polynomial of this degree."""

LONGEST_KEY = 512
"""No official key is a tenth as long. A longer one matches nothing."""

DERIVED = frozenset({"relative_position_index", "attn_mask", "num_batches_tracked"})
"""Buffers an official network computes from its configuration. Where ours has no such address they carry nothing."""

COUNTER = "num_batches_tracked"
"""BatchNorm's step counter: files older than PyTorch 0.4.1 and JAX archives lack it, so it is never missed."""


# ---------------------------------------------------------------- transforms


@dataclass(frozen=True)
class Transform:
    """How the tensor of one official key becomes the tensors of its addresses.

    `shapes` says what comes out, or raises `ValueError` with the reason why nothing can; `forward` is only called when
    that equals the wanted shapes. `backward` makes the official tensor again; None: information was lost.
    """

    name: str
    about: str
    shapes: Callable[[Shape, Sequence[Shape], Options], Sequence[Shape]]
    forward: Callable[[Tensor, Sequence[Shape], Options], Sequence[Tensor]]
    backward: Callable[[Sequence[Tensor], Shape], Tensor] | None


def _one(shape: Callable[[Shape, Shape], Shape]) -> Callable[[Shape, Sequence[Shape], Options], Sequence[Shape]]:
    """A shape rule for a transform with a single address."""
    return lambda found, wanted, options: [shape(found, wanted[0])]


def _reshaping(name: str, about: str, shape: Callable[[Shape, Shape], Shape]) -> Transform:
    """A transform that keeps every number where it is; a tensor of the wanted shape passes as it is."""
    return Transform(
        name,
        about,
        _one(lambda found, wanted: found if found == wanted else shape(found, wanted)),
        lambda tensor, wanted, options: [tensor.reshape(wanted[0])],
        lambda tensors, official: tensors[0].reshape(official),
    )


def _without_ones(found: Shape, wanted: Shape) -> Shape:
    if any(n != 1 for n in found[2:]):
        raise ValueError(f"a kernel of {found[2:]} is not a linear map; only kernels of 1 are")
    return found[:2]


def _with_ones(found: Shape, wanted: Shape) -> Shape:
    return found if len(found) < 2 else found + (1,) * (len(wanted) - len(found))


_squeeze = _reshaping(
    "squeeze", "drop a leading axis of length 1", lambda found, wanted: found[1:] if found[:1] == (1,) else found
)
_linear = _reshaping("linear", "a convolution with kernel 1 as a linear map", _without_ones)
_conv = _reshaping("conv", "a linear map as a convolution with kernel 1", _with_ones)
_flatten = _reshaping("flatten", "one axis", lambda found, wanted: (prod(found),))
_rows = _reshaping(
    "rows",
    "rows that stand side by side below one another",
    lambda found, wanted: (prod(found) // wanted[-1], wanted[-1]) if wanted[-1:] and wanted[-1] else found,
)
_as_is = _reshaping("as is", "the same tensor", lambda found, wanted: found)


def _hwio_shape(found: Shape, wanted: Shape) -> Shape:
    return found if len(found) < 2 else (found[-1], found[-2], *found[:-2])


def _hwio_forward(tensor: Tensor, wanted: Sequence[Shape], options: Options) -> Sequence[Tensor]:
    return [tensor if tensor.ndim < 2 else tensor.permute(-1, -2, *range(tensor.ndim - 2))]


def _hwio_backward(tensors: Sequence[Tensor], official: Shape) -> Tensor:
    (tensor,) = tensors
    return tensor if tensor.ndim < 2 else tensor.permute(*range(2, tensor.ndim), 1, 0)


_hwio = Transform(
    "hwio", "a JAX convolution kernel (…, in, out) as (out, in, …)", _one(_hwio_shape), _hwio_forward, _hwio_backward
)


def _transpose_shape(found: Shape, wanted: Shape) -> Shape:
    if len(found) > 2:
        raise ValueError(f"`transpose` is for matrices, not {len(found)} axes; `hwio` is for convolutions")
    return found[::-1]


_transpose = Transform(
    "transpose", "a JAX linear kernel (in, out) as (out, in)", _one(_transpose_shape), _hwio_forward, _hwio_backward
)


def _heads_shape(found: Shape, wanted: Shape) -> Shape:
    """(channels, heads, width) or (heads, width, channels): only the wanted shape tells which."""
    if len(found) > 3:
        raise ValueError(f"`heads` is for kernels of 3 axes and biases of 2, not {len(found)} axes")
    if len(found) < 3:
        return (prod(found),)
    a, b, c = found
    outward = (c, a * b)
    return outward if wanted == outward else (b * c, a)


def _heads_forward(tensor: Tensor, wanted: Sequence[Shape], options: Options) -> Sequence[Tensor]:
    (shape,) = wanted
    return [tensor.reshape(shape[::-1]).T if tensor.ndim == 3 else tensor.reshape(shape)]


def _heads_backward(tensors: Sequence[Tensor], official: Shape) -> Tensor:
    (tensor,) = tensors
    return (tensor.T if tensor.ndim == 2 else tensor).reshape(official)


_heads = Transform(
    "heads", "a JAX attention kernel with its heads joined", _one(_heads_shape), _heads_forward, _heads_backward
)


def _split_shapes(found: Shape, wanted: Sequence[Shape], options: Options) -> Sequence[Shape]:
    parts = len(wanted)
    if not found or found[0] % parts:
        raise ValueError(f"{found[0] if found else 'no'} rows do not split into {parts} equal parts")
    return [(found[0] // parts, *found[1:])] * parts


def _split_forward(tensor: Tensor, wanted: Sequence[Shape], options: Options) -> Sequence[Tensor]:
    return tensor.tensor_split(len(wanted))


def _merge(tensors: Sequence[Tensor], official: Shape) -> Tensor:
    import torch

    return torch.cat(list(tensors))


_split = Transform("split", "equal parts along the first axis, one per address", _split_shapes, _split_forward, _merge)


def _columns_shapes(found: Shape, wanted: Sequence[Shape], options: Options) -> Sequence[Shape]:
    parts = len(wanted)
    if not found or found[-1] % parts:
        raise ValueError(f"{found[-1] if found else 'no'} columns do not split into {parts} equal parts")
    return [(*found[:-1], found[-1] // parts)] * parts


def _columns_forward(tensor: Tensor, wanted: Sequence[Shape], options: Options) -> Sequence[Tensor]:
    return tensor.tensor_split(len(wanted), -1)


def _columns_merge(tensors: Sequence[Tensor], official: Shape) -> Tensor:
    import torch

    return torch.cat(list(tensors), -1)


_columns = Transform(
    "columns", "equal parts along the last axis, one per address", _columns_shapes, _columns_forward, _columns_merge
)


def _patches_shape(found: Shape, wanted: Shape) -> Shape:
    """(out, cells · channels): only the wanted shape tells how large a patch is."""
    cells = prod(wanted[2:])
    if found == wanted or len(found) != 2:
        return found
    if not cells or found[1] % cells:
        raise ValueError(f"{found[1]} columns are no patches of {cells} cells")
    return (found[0], found[1] // cells, *wanted[2:])


def _patches_forward(tensor: Tensor, wanted: Sequence[Shape], options: Options) -> Sequence[Tensor]:
    (shape,) = wanted
    if tuple(tensor.shape) == shape:
        return [tensor]
    return [tensor.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)]


def _patches_backward(tensors: Sequence[Tensor], official: Shape) -> Tensor:
    (tensor,) = tensors
    return tensor if tuple(tensor.shape) == official else tensor.movedim(1, -1).reshape(official)


_patches = Transform(
    "patches",
    "a linear map of patches, their channels last, as a convolution",
    _one(_patches_shape),
    _patches_forward,
    _patches_backward,
)


@dataclass(frozen=True)
class _Table:
    """A position table's rows: some leading ones (class tokens), then a grid, and what they should become."""

    extra: int
    grid: Shape
    kept: int
    wanted_grid: Shape

    @classmethod
    def of(cls, found: Shape, wanted: Shape, options: Options) -> _Table:
        if len(found) < 2 or len(wanted) < 2 or any(n != 1 for n in found[:-2] + wanted[:-2]):
            raise ValueError("a position table has the shape (rows, channels) or (1, rows, channels)")
        rows, wanted_rows = found[-2], wanted[-2]
        extra = options.get("extra", 0 if _square(rows) else 1)
        grid = _square(rows - extra)
        if not grid:
            raise ValueError(f"{rows} rows without {extra} leading ones are no square grid; see the option `extra`")
        # without `grid`: the leading rows of the file stay, where our table has room for them
        target = tuple(options.get("grid") or _square(wanted_rows - extra) or _square(wanted_rows))
        kept = wanted_rows - prod(target)
        if not target or kept not in (0, extra):
            raise ValueError(f"{wanted_rows} wanted rows are no square grid; give it as `grid: [rows, columns]`")
        return cls(extra, grid, kept, target)


def _square(rows: int) -> Shape:
    """(side, side), or nothing."""
    side = isqrt(max(rows, 0))
    return (side, side) if rows > 0 and side * side == rows else ()


def _resize_shapes(found: Shape, wanted: Sequence[Shape], options: Options) -> Sequence[Shape]:
    _Table.of(found, wanted[0], options)
    return [(*wanted[0][:-1], found[-1])]


def _resize_forward(tensor: Tensor, wanted: Sequence[Shape], options: Options) -> Sequence[Tensor]:
    """Leading rows are kept or dropped, the grid is resized bilinearly; `corners: true` is what `scipy.zoom` does."""
    import torch
    from torch.nn.functional import interpolate

    table = _Table.of(tuple(tensor.shape), wanted[0], options)
    rows = tensor.reshape(-1, tensor.shape[-1])
    body = rows[table.extra :]
    if table.grid != table.wanted_grid:
        image = body.double().T.reshape(1, -1, *table.grid)
        corners = bool(options.get("corners", False))
        image = interpolate(image, size=table.wanted_grid, mode="bilinear", align_corners=corners)
        body = image.reshape(rows.shape[1], -1).T.to(tensor.dtype)
    return [torch.cat([rows[: table.kept], body]).reshape(wanted[0])]


_resize_table = Transform(
    "resize_table", "a learned position table for another grid", _resize_shapes, _resize_forward, None
)

TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    {
        t.name: t
        for t in (
            _squeeze,
            _split,
            _columns,
            _transpose,
            _hwio,
            _linear,
            _conv,
            _patches,
            _heads,
            _flatten,
            _rows,
            _resize_table,
        )
    }
)
"""What `transform:` may name, besides `drop` (or `ignore`): the key is known and deliberately unused."""

DROPS = ("drop", "ignore")
OPTIONS: Mapping[str, tuple[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "extra": ("a count of rows", lambda value: type(value) is int and value >= 0),
        "grid": ("two counts, [rows, columns]", lambda value: isinstance(value, list) and _two_counts(value)),
        "corners": ("true or false", lambda value: type(value) is bool),
    }
)
"""The options of `resize_table`: how each must look, and the check."""


def _two_counts(values: Sequence[object]) -> bool:
    return len(values) == 2 and all(type(v) is int and v > 0 for v in values)


# ---------------------------------------------------------------- rules


@dataclass(frozen=True)
class Capture:
    """A named piece of a `from` pattern: how to find it, and how to read what was found."""

    name: str
    less: int = 0
    words: Mapping[str, str] | None = None
    unit: str = ""

    def expression(self, numeric: bool) -> str:
        """What it matches, as a regular expression; `numeric`: an address counts with it."""
        if self.words is not None:
            return "|".join(map(re.escape, sorted(self.words, key=len, reverse=True)))
        if self.unit:
            return f"(?:{re.escape(self.unit)})*"
        return "[0-9]+" if numeric or self.less else "[^./]+"

    def read(self, text: str) -> str | None:
        """The value; None when the official count starts later than that."""
        if self.words is not None:
            return self.words[text]
        if self.unit:
            return str(len(text) // len(self.unit))
        if not self.less:
            return text
        number = int(text) - self.less
        return str(number) if number >= 0 else None

    @property
    def is_countable(self) -> bool:
        """Whether every value it reads is a number, or can be asked to be one."""
        return self.words is None or all(map(str.isdecimal, self.words.values()))


@dataclass(frozen=True)
class Slot:
    """A place in a `to` address where a value goes."""

    name: str
    add: int = 0
    from_end: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the value is counted with, not only written."""
        return bool(self.add) or self.from_end


@dataclass(frozen=True)
class Address:
    """A `to` pattern: literal text and slots."""

    text: str
    parts: tuple[str | Slot, ...]

    @property
    def slots(self) -> Iterator[Slot]:
        """The places for values."""
        return (p for p in self.parts if isinstance(p, Slot))

    def fill(self, values: Mapping[str, str], last: Mapping[str, int]) -> str:
        """The address for these values. `last`: the highest number there is below an address."""
        out = ""
        for part in self.parts:
            out += part if isinstance(part, str) else _value(part, values, last.get(out.removesuffix("."), -1))
        return out


def _value(slot: Slot, values: Mapping[str, str], last: int) -> str:
    if not slot.numeric:
        return values[slot.name]
    number = int(values[slot.name]) + slot.add
    if not slot.from_end:
        return str(number)
    return str(last - number) if last >= number else f"-{number}"  # the latter names no address, which is then said


@dataclass(frozen=True)
class Rule:
    """One compiled line of `weights:`."""

    text: str
    pattern: re.Pattern[str] = field(repr=False)
    captures: tuple[Capture, ...]
    to: tuple[Address, ...]
    transform: Transform = field(repr=False)
    drops: bool = False
    options: Options = field(default_factory=dict)
    span: Span | None = field(default=None, repr=False)

    def read(self, key: str) -> dict[str, str] | None:
        """The values in this key; None when the rule is not about it."""
        found = self.pattern.fullmatch(key) if len(key) <= LONGEST_KEY else None
        if found is None:
            return None
        values = {"*": found.groupdict().get(_REST) or ""}
        for capture in self.captures:
            value = capture.read(found[capture.name])
            if value is None:
                return None
            values[capture.name] = value
        return values


_REST = "_rest"  # no capture is called so: their names begin with a letter
_PIECE = re.compile(r"\{(?P<inner>[^{}]*)\}|(?P<star>\*)|(?P<text>[^{}*]+)|(?P<stray>[{}])")
_TARGET = re.compile(
    r"(?P<end>(?:(?<=\.)|^)-(?=\{))?\{(?P<inner>[^{}]*)\}|(?P<star>\*)|(?P<text>[^{}*-]+|-)|(?P<stray>[{}])"
)
_NAME = r"(?P<name>[A-Za-z][A-Za-z0-9_]*)"
_CAPTURE = re.compile(_NAME + r"(?:\+(?P<less>[0-9]{1,6})|:(?P<words>.*)|\*(?P<unit>.+))?", re.DOTALL)
_SLOT = re.compile(_NAME + r"(?:\+(?P<add>[0-9]{1,6}))?")
_KEYS = ("from", "to", "transform", "note", *OPTIONS)


class _RuleError(Exception):
    """A mistake in a rule: the key it sits at, and what it is."""

    def __init__(self, at: str, message: str, *help: str):
        super().__init__(message)
        self.at, self.message, self.help = at, message, help


def sources(weights: object) -> dict[str, list[Any]]:
    """The named rule lists of a `weights:` entry; a plain list is the official implementation's."""
    if weights is None:
        return {}
    named: Mapping[str, Any] = weights if isinstance(weights, Mapping) else {"official": weights}
    wrong = [name for name, rules in named.items() if not isinstance(rules, list)]
    if not wrong:
        return {str(name): rules for name, rules in named.items()}
    message = "`weights:` is a list of rules, or a map from a source's name to its list of rules"
    notes = tuple(f"`{name}` is {type(named[name]).__name__}" for name in wrong)
    raise BlueprintError([Diagnostic("BP701", message, _span(weights, str(wrong[0])), notes=notes)])


def compile_rules(rules: Iterable[object]) -> tuple[Rule, ...]:
    """Every rule checked and compiled once; compiled ones pass. All mistakes are raised together (BP701)."""
    compiled: list[Rule] = []
    mistakes: list[Diagnostic] = []
    for rule in rules:
        try:
            compiled.append(rule if isinstance(rule, Rule) else _compile(rule))
        except _RuleError as wrong:
            mistakes.append(_diagnose(rule, wrong))
    if mistakes:
        raise BlueprintError(mistakes)
    return tuple(compiled)


def _diagnose(rule: object, wrong: _RuleError) -> Diagnostic:
    shown = [f"{k}: {rule[k]}" for k in ("from", "to", "transform") if k in rule] if isinstance(rule, Mapping) else []
    return Diagnostic("BP701", wrong.message, _span(rule, wrong.at), notes=tuple(shown), help=wrong.help)


def _span(container: object, key: str) -> Span | None:
    """The place of a value, where the container remembers places."""
    spans = getattr(container, "value_spans", None) or {}
    span = spans.get(key) or getattr(container, "span", None)
    return span if isinstance(span, Span) else None


def _compile(rule: object) -> Rule:
    if not isinstance(rule, Mapping):
        raise _RuleError("", f"a weights rule is a map with `from` and `to`, not {type(rule).__name__}")
    for key in rule:
        if key not in _KEYS:
            known = f"a rule has {listing(_KEYS)}"
            raise _RuleError(str(key), f"a weights rule has no `{key}`{did_you_mean(str(key), _KEYS)}", known)
    pieces = tuple(_parse_from(_text(rule, "from")))
    name = rule.get("transform")
    drops = name in DROPS
    to = () if drops else tuple(_parse_to(text) for text in _targets(rule))
    transform = _as_is if drops or name is None else _transform(name)
    _check_targets(pieces, to, transform, drops and "to" in rule)
    pattern = _expression(pieces, {slot.name for address in to for slot in address.slots if slot.numeric})
    captures = tuple({p.name: p for p in reversed(pieces) if isinstance(p, Capture) and p is not _STAR}.values())
    return Rule(rule["from"], pattern, captures, to, transform, drops, _options(rule, transform), _span(rule, "from"))


def _text(rule: Mapping[str, Any], key: str) -> str:
    value = rule.get(key)
    if not isinstance(value, str) or not value:
        said = "is missing" if value is None else f"is {value!r}, not a name"
        raise _RuleError(key, f"`{key}` of a weights rule {said}")
    return value


def _targets(rule: Mapping[str, Any]) -> list[str]:
    to = rule.get("to")
    if not isinstance(to, list):
        if to is None:
            raise _RuleError(
                "from", "a weights rule without `to`", "write `transform: drop` for a key that is not needed"
            )
        return [_text(rule, "to")]
    if not to or not all(isinstance(t, str) and t for t in to):
        raise _RuleError("to", "`to` is an address or a list of addresses")
    return to


def _transform(name: object) -> Transform:
    if isinstance(name, str) and name in TRANSFORMS:
        return TRANSFORMS[name]
    if name == "merge":
        raise _RuleError("transform", "`merge` is what the export makes of `split`; in a rule, write `split`")
    known = (*TRANSFORMS, *DROPS)
    raise _RuleError(
        "transform", f"no transform `{name}`{did_you_mean(str(name), known)}", f"there are {listing(known)}"
    )


def _options(rule: Mapping[str, Any], transform: Transform) -> Options:
    given = {key: rule[key] for key in OPTIONS if key in rule}
    for key, value in given.items():
        about, fits = OPTIONS[key]
        if transform is not _resize_table:
            raise _RuleError(key, f"`{key}` is an option of `transform: resize_table` only")
        if not fits(value):
            raise _RuleError(key, f"`{key}` is {about}, not {value!r}")
    return MappingProxyType(given)


Piece: TypeAlias = "str | Capture"
_STAR = Capture("*")


def _parse_from(text: str) -> Iterator[Piece]:
    for found in _PIECE.finditer(text):
        if found["stray"]:
            raise _RuleError("from", f"unbalanced `{found['stray']}` at character {found.start() + 1} of `{text}`")
        if found["text"]:
            yield found["text"]
        else:
            yield _STAR if found["star"] else _parse_capture(found["inner"])


def _parse_capture(inner: str) -> Capture:
    found = _CAPTURE.fullmatch(inner)
    if found is None:
        raise _RuleError("from", f"`{{{inner}}}` is not a pattern", "there are {x}, {x+1}, {x:a=b,c=d}, {n*unit} and *")
    words = None if found["words"] is None else _parse_words(inner, found["words"])
    return Capture(found["name"], int(found["less"] or 0), words, found["unit"] or "")


def _parse_words(inner: str, text: str) -> Mapping[str, str]:
    words: dict[str, str] = {}
    for pair in text.split(","):
        official, _, ours = pair.partition("=")
        if not official or not ours or "=" in ours:
            raise _RuleError("from", f"`{{{inner}}}`: `{pair}` is not `official=ours`")
        if official in words:
            raise _RuleError("from", f"`{{{inner}}}` translates `{official}` twice")
        words[official] = ours
    return MappingProxyType(words)


def _parse_to(text: str) -> Address:
    parts: list[str | Slot] = []
    for found in _TARGET.finditer(text):
        if found["stray"]:
            raise _RuleError("to", f"unbalanced `{found['stray']}` at character {found.start() + 1} of `{text}`")
        if found["text"]:
            parts.append(found["text"])
        else:
            parts.append(Slot("*") if found["star"] else _parse_slot(found["inner"], found["end"] is not None))
    return Address(text, tuple(parts))


def _parse_slot(inner: str, from_end: bool) -> Slot:
    found = _SLOT.fullmatch(inner)
    if found is None:
        raise _RuleError("to", f"`{{{inner}}}` is not a place in an address", "`to` has {x}, {x+1}, -{x} and *")
    return Slot(found["name"], int(found["add"] or 0), from_end)


def _check_targets(pieces: Sequence[Piece], to: Sequence[Address], transform: Transform, dropped: bool) -> None:
    """Every value of `to` is read by `from`, and there are as many addresses as the transform makes."""
    if dropped:
        raise _RuleError("to", "a dropped key goes nowhere, but the rule has a `to`")
    if len(to) > 1 and transform not in (_split, _columns):
        raise _RuleError("to", f"{len(to)} addresses for one tensor need `transform: split` or `columns`")
    if len(to) == 1 and transform in (_split, _columns):
        raise _RuleError("to", f"`{transform.name}` needs a list of addresses, one per part")
    bound = {p.name: p for p in pieces if isinstance(p, Capture)}
    for slot in (slot for address in to for slot in address.slots):
        _check_slot(slot, bound, pieces.count(_STAR))


def _check_slot(slot: Slot, bound: Mapping[str, Capture], stars: int) -> None:
    shown = "*" if slot.name == "*" else f"{{{slot.name}}}"
    if slot.name not in bound:
        names = [n for n in bound if n != "*"]
        help = (f"`from` reads {listing(names)}",) if names else ()
        raise _RuleError("to", f"`{shown}` in `to` is not in `from`{did_you_mean(slot.name, names)}", *help)
    if slot.name == "*" and stars > 1:
        raise _RuleError("to", f"`*` in `to` could be any of the {stars} in `from`", "name the other segments: {x}")
    if slot.numeric and not bound[slot.name].is_countable:
        raise _RuleError("to", f"`to` counts with `{shown}`, which is not always a number")


def _expression(pieces: Sequence[Piece], numeric: set[str]) -> re.Pattern[str]:
    """The regular expression; a name that comes twice must read the same text twice."""
    seen: set[str] = set()
    source = ""
    for piece in pieces:
        if isinstance(piece, str):
            source += re.escape(piece)
        elif piece is _STAR:
            source += ".+" if "*" in seen else f"(?P<{_REST}>.+)"
        elif piece.name not in seen:
            source += f"(?P<{piece.name}>{piece.expression(piece.name in numeric)})"
        elif piece == Capture(piece.name):
            source += f"(?P={piece.name})"
        else:
            raise _RuleError("from", f"`{{{piece.name}}}` is read twice; the second time write `{{{piece.name}}}` only")
        seen |= {piece.name} if isinstance(piece, Capture) else set()
    _check_open(pieces)
    return re.compile(source, re.DOTALL)


def _check_open(pieces: Sequence[Piece]) -> None:
    """Refuse patterns on which a hostile key would keep the regular expression busy."""
    if sum(isinstance(piece, Capture) and _backtracks(piece, after) for piece, after in pairwise(pieces)) > MOST_OPEN:
        raise _RuleError(
            "from", f"more than {MOST_OPEN} pieces of the pattern have no fixed end", "end them with a dot"
        )


def _backtracks(piece: Capture, after: Piece) -> bool:
    """Whether the end of a piece has to be searched for: it is neither the key's, nor a segment's, nor in a list."""
    closed = isinstance(after, str) and after[0] in "./"
    if piece.words is not None:
        words = sorted(piece.words)  # a word comes right before the ones that begin with it
        ambiguous = any(b.startswith(a) for a, b in pairwise(words))
        return ambiguous and not (closed and not any(set(word) & set("./") for word in words))
    return piece is _STAR or bool(piece.unit) or not closed


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Move:
    """An official key that fits: where it goes, and by which rule."""

    key: str
    addresses: tuple[str, ...]
    rule: Rule = field(repr=False)

    @property
    def transform(self) -> str | None:
        """The transform's name, if there is one."""
        return None if self.rule.transform is _as_is else self.rule.transform.name


@dataclass(frozen=True)
class Mismatch:
    """An official key that has a rule and still does not fit. A wanted shape is None where there is no such address."""

    key: str
    shape: Shape
    addresses: tuple[str, ...]
    wanted: tuple[Shape | None, ...]
    reason: str

    def __str__(self) -> str:
        pairs = zip(self.addresses, self.wanted, strict=True)
        goals = ", ".join(address if shape is None else f"{address} {shape}" for address, shape in pairs)
        return f"{self.key} {self.shape} -> {goals}: {self.reason}"


@dataclass(frozen=True)
class Duplicate:
    """An address two official keys claim; the first one keeps it."""

    address: str
    keys: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.address}: {self.keys[0]} and {self.keys[1]}"


@dataclass(frozen=True)
class Plan:
    """What becomes of every official key and every address of ours.

    `missing` are the addresses no key speaks of; one whose key does not fit is in `mismatched` only.
    """

    moves: Mapping[str, Move]
    dropped: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()

    @property
    def complete(self) -> bool:
        """Every official key is used or deliberately not, and every address gets exactly one tensor of its shape."""
        return not (self.unknown or self.missing or self.mismatched or self.duplicates)


def match(rules: Iterable[object], keys: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> Plan:
    """The plan for official `keys` (with their shapes) and all addresses `wanted` (the state_dict, with shapes)."""
    compiled = compile_rules(rules)
    shapes = {address: tuple(shape) for address, shape in wanted.items()}
    last = _last_numbers(shapes)
    fates = {key: _fate(compiled, key, tuple(shape), shapes, last) for key, shape in keys.items()}
    moves, duplicates = _without_rivals([fate for fate in fates.values() if isinstance(fate, Move)])
    mismatched = tuple(fate for fate in fates.values() if isinstance(fate, Mismatch))
    reached = {a for fate in fates.values() if not isinstance(fate, str) for a in fate.addresses}
    return Plan(
        moves,
        dropped=tuple(key for key, fate in fates.items() if fate == "dropped"),
        unknown=tuple(key for key, fate in fates.items() if fate == "unknown"),
        missing=tuple(a for a in shapes if a not in reached and not a.endswith(COUNTER)),
        mismatched=mismatched,
        duplicates=duplicates,
    )


def route(
    rules: Iterable[Rule], key: str, last: Mapping[str, int], wanted: Container[str]
) -> tuple[Rule, tuple[str, ...]] | None:
    """The first rule that is about this key and names addresses that there are; else the first about it."""
    first = None
    for rule in rules:
        values = rule.read(key)
        if values is None:
            continue
        found = rule, tuple(address.fill(values, last) for address in rule.to)
        if all(address in wanted for address in found[1]):
            return found
        first = first or found
    return first


def _last_numbers(addresses: Iterable[str]) -> dict[str, int]:
    """Below which address the numbered ones end where: `decoder` -> 2 for `decoder.0` to `decoder.2`."""
    last: dict[str, int] = {}
    for address in addresses:
        segments = address.split(".")
        for place, segment in enumerate(segments):
            if segment.isdecimal():
                parent = ".".join(segments[:place])
                last[parent] = max(last.get(parent, 0), int(segment))
    return last


def _fate(
    rules: Sequence[Rule], key: str, shape: Shape, wanted: Mapping[str, Shape], last: Mapping[str, int]
) -> Move | Mismatch | str:
    derived = re.split("[./]", key)[-1] in DERIVED
    found = route(rules, key, last, wanted)
    if found is None:
        return "dropped" if derived else "unknown"
    rule, addresses = found
    if rule.drops or (derived and not any(a in wanted for a in addresses)):
        return "dropped"
    reason = _misfit(rule, shape, addresses, wanted)
    if reason is None:
        return Move(key, addresses, rule)
    return Mismatch(key, shape, addresses, tuple(wanted.get(a) for a in addresses), reason)


def _misfit(rule: Rule, shape: Shape, addresses: Sequence[str], wanted: Mapping[str, Shape]) -> str | None:
    """Why a tensor of this shape cannot become its addresses; None when it can."""
    absent = [a for a in addresses if a not in wanted]
    if absent:
        return f"no such address: {listing(absent)}"
    goals = [wanted[a] for a in addresses]
    try:
        made = list(rule.transform.shapes(shape, goals, rule.options))
    except ValueError as error:
        return str(error)
    if made == goals:
        return None
    name = rule.transform.name
    return "another shape" if rule.transform is _as_is else f"`{name}` makes {listing(dict.fromkeys(made))} of it"


def _without_rivals(moves: Iterable[Move]) -> tuple[dict[str, Move], tuple[Duplicate, ...]]:
    owners: dict[str, str] = {}
    kept: dict[str, Move] = {}
    duplicates: list[Duplicate] = []
    for move in moves:
        rivals = [Duplicate(a, (owners[a], move.key)) for a in move.addresses if a in owners]
        duplicates += rivals
        if not rivals:
            kept[move.key] = move
            owners |= dict.fromkeys(move.addresses, move.key)
    return kept, tuple(duplicates)
