"""A YAML file as plain data that remembers where every value stood.

We read libyaml's *event stream* and build the data ourselves, rather than calling `yaml.load`, because PyYAML's
constructors know YAML 1.1 (`no` is False, `12:30` is 750, `1e-5` is a string), let the last of two equal keys win,
and only look at the size of a document after building it. Reading events with an own stack lets every bound be
checked before the memory is spent, and nothing here recurses, so nothing a file says can exhaust the C stack.

What is accepted is YAML with the scalars of the 1.2 core schema, string keys, no tags and no `<<`. Line and column
count characters from one.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from composer.diagnostics import BlueprintError, Diagnostic, Label, Source, Span, did_you_mean
from composer.frozen import dataclass

MAX_BYTES = 2**20
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_NODES = 100_000
MAX_DIGITS = 64
MAX_MISTAKES = 20  # of one file; beyond that it is not a blueprint

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may come without libyaml
_Event = Any  # the stubs say that an event may have no marks; those of a parsed text always have


NOWHERE = Span(Source("<made>", ""), 1, 1, 1, 1)
"""The place of data that was made and not read."""


class Map(dict[str, Any]):
    """A mapping of a file: a dict that knows where it, its keys and its values stood.

    `value_spans` says where the value of a key is *written here*: for `k: *a` the place of `*a`, while the value's
    own `span` (when it is a `Map` or `Seq`) is where the anchor stands. Copies share spans, which are frozen.
    """

    def __init__(
        self,
        items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        span: Span = NOWHERE,
        key_spans: Mapping[str, Span] | None = None,
        value_spans: Mapping[str, Span] | None = None,
    ):
        super().__init__(items)
        self.span = span
        self.key_spans = dict(key_spans or {})
        self.value_spans = dict(value_spans or {})

    def copy(self) -> Map:
        """A map of the same values; spans too are looked up in an own dict."""
        return type(self)(self, span=self.span, key_spans=self.key_spans, value_spans=self.value_spans)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Map:
        twin = memo[id(self)] = self.copy()
        for key, value in self.items():
            twin[key] = copy.deepcopy(value, memo)
        return twin


class Seq(list[Any]):
    """A list of a file that knows where it and its items stood; `item_spans` is parallel to the items as read."""

    def __init__(self, items: Iterable[Any] = (), *, span: Span, item_spans: Iterable[Span] = ()):
        super().__init__(items)
        self.span = span
        self.item_spans = list(item_spans)

    def copy(self) -> Seq:
        """A list of the same items, with an own list of spans."""
        return type(self)(self, span=self.span, item_spans=self.item_spans)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Seq:
        twin = memo[id(self)] = self.copy()
        twin[:] = [copy.deepcopy(item, memo) for item in self]
        return twin


def span_of(container: object, key: object) -> Span | None:
    """Where `container[key]` was written; None for plain data, for a missing key and for what was added later."""
    if isinstance(container, Map) and isinstance(key, str):
        return container.value_spans.get(key)
    if isinstance(container, Seq) and isinstance(key, int) and -len(container) <= key < len(container):
        index = key % len(container)
        return container.item_spans[index] if index < len(container.item_spans) else None
    return None


def read(path: str | os.PathLike[str]) -> Map:
    """The mapping that the file at `path` holds, or a BlueprintError with every mistake that could be told."""
    name = os.fsdecode(os.fspath(path))
    other = _STAND_INS.get().get(name)
    return parse(Source(name, _decoded(name, _content(name)) if other is None else other))


_STAND_INS: ContextVar[Mapping[str, str]] = ContextVar("stand-ins", default=MappingProxyType({}))


@contextmanager
def standing_in(texts: Mapping[str, str]) -> Iterator[None]:
    """While it lasts, files of these names have these texts: a change can be tried before anything is written."""
    token = _STAND_INS.set(texts)
    try:
        yield
    finally:
        _STAND_INS.reset(token)


def parse(source: Source) -> Map:
    """The mapping that a text holds; see `read`."""
    source = _checked(source)
    return _Reader(source).run()


# ---- from a path to a text --------------------------------------------------------------------------------------


def _refuse(code: str, message: str, span: Span | None = None, *help: str) -> BlueprintError:
    return BlueprintError(Diagnostic(code, message, span, help=help))


def _content(name: str) -> bytes:
    """The bytes of a regular file, whose size is looked at before a byte is read."""
    try:
        status = os.stat(name)
        if stat.S_ISDIR(status.st_mode):
            why = "it is a folder, not a file, with no blueprint.yaml in it"
            raise _refuse("BP001", f"cannot read `{_shown(name, 200)}`: {why}")
        if not stat.S_ISREG(status.st_mode):
            raise _refuse("BP001", f"cannot read `{_shown(name, 200)}`: it is a device or a pipe, not a file")
        if status.st_size > MAX_BYTES:
            raise _too_large(name, status.st_size)
        with open(name, "rb") as file:
            return file.read(MAX_BYTES + 1)  # one more than allowed: it may have grown since
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None


def _too_large(name: str, size: int) -> BlueprintError:
    return _refuse("BP002", f"`{_shown(name, 200)}` has {size:,} bytes; a blueprint has at most {MAX_BYTES:,}")


def _unreadable(name: str, error: OSError | ValueError) -> BlueprintError:
    if not isinstance(error, OSError):
        reason = str(error)  # a NUL in the path
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        reason = _missing(name)
    else:
        reason = (error.strerror or str(error)).lower()
    return _refuse("BP001", f"cannot read `{_shown(name, 200)}`: {reason}")


def _missing(name: str) -> str:
    """Which part of a path is missing, and what stands beside it."""
    folder = Path(name).parent
    if not folder.is_dir():
        return f"there is no folder `{_shown(str(folder), 200)}`"
    try:
        with os.scandir(folder) as entries:
            siblings = [entry.name for entry in itertools.islice(entries, 1000) if entry.is_file()]
    except OSError:
        siblings = []
    return f"there is no such file{did_you_mean(Path(name).name, sorted(siblings))}"


def _decoded(name: str, data: bytes) -> str:
    if b"\0" in data:
        raise _refuse("BP001", f"cannot read `{_shown(name, 200)}`: it is not a text (byte {data.index(0)} is NUL)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        head = _printable(data[: error.start].decode("utf-8"))
        text = head + _printable(data[error.start :].decode("utf-8", "replace"))
        span = _span_at(Source(name, text), len(head), len(head) + 1)
        message = f"cannot read `{_shown(name, 200)}`: byte {error.start} ({data[error.start]:#04x}) is not UTF-8"
        raise _refuse("BP001", message, span, "save the file as UTF-8") from None


# ---- what is refused before libyaml sees the text ---------------------------------------------------------------

_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _printable(text: str) -> str:
    """The text without what a terminal would obey; same length, so that columns hold."""
    return _NOT_PRINTABLE.sub("\ufffd", text)


def _shown(text: str, limit: int = 60) -> str:
    """A piece of a file as it may stand in a message: one line, printable, short."""
    line = text if text.isprintable() else repr(text)[1:-1]
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _checked(source: Source) -> Source:
    """The source without byte order mark, if it is small, printable and without `%TAG`.

    libyaml compares each `%TAG` with all before it: 60,000 of them take six seconds.
    """
    text = source.text
    size = len(text) if len(text) > MAX_BYTES else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise _too_large(source.name, size)
    if text.startswith("\ufeff"):
        source = Source(source.name, text[1:])
    if match := _NOT_PRINTABLE.search(source.text):
        raise _unprintable(source, match.start())
    for number, line in enumerate(source.lines, 1):
        if line.startswith("%TAG"):
            raise _refuse("BP007", "`%TAG` is refused: a blueprint is data and has no tags", _line(source, number))
        if line.strip() and line[0] not in "#%":
            break
    return source


def _unprintable(source: Source, index: int) -> BlueprintError:
    character = source.text[index]
    span = _span_at(Source(source.name, _printable(source.text)), index, index + 1)
    if character == "\0":
        return _refuse("BP001", f"cannot read `{_shown(source.name, 200)}`: it is not a text (it has a NUL)", span)
    message = f"not valid YAML: the character U+{ord(character):04X} cannot stand in a text"
    return _refuse("BP003", message, span, 'remove it, or write it as an escape in "double quotes"')


def _line(source: Source, number: int) -> Span:
    return Span(source, number, 1, number, len(source.lines[number - 1]) + 1)


def _span_at(source: Source, start: int, end: int) -> Span:
    """The place of `text[start:end]`."""
    first, last = _position(source.text, start), _position(source.text, end)
    return Span(source, *first, *last)


def _position(text: str, index: int) -> tuple[int, int]:
    before = (text[:index] + ".").splitlines()
    return len(before), len(before[-1])


# ---- scalars of the YAML 1.2 core schema ------------------------------------------------------------------------

_CONSTANTS: dict[str, Any] = dict.fromkeys(["", "~", "null", "Null", "NULL"])
_CONSTANTS |= dict.fromkeys(["true", "True", "TRUE"], True) | dict.fromkeys(["false", "False", "FALSE"], False)
_CONSTANTS |= {sign + dot: float(sign + "inf") for sign in ("", "+", "-") for dot in (".inf", ".Inf", ".INF")}
_CONSTANTS |= dict.fromkeys([".nan", ".NaN", ".NAN"], float("nan"))

_INTEGER = re.compile(r"(?P<decimal>[-+]?[0-9]+)|0o(?P<octal>[0-7]+)|0x(?P<hexadecimal>[0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BASES = {"decimal": 10, "octal": 8, "hexadecimal": 16}


def _plain(text: str) -> Any:
    """The value of an unquoted scalar. An integer of more than MAX_DIGITS digits raises ValueError."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "+-.0123456789":
        return text
    if match := _INTEGER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"the number `{_shown(text, 20)}` has {len(text)} digits; at most {MAX_DIGITS} are read")
        kind = match.lastgroup or "decimal"
        return int(match[kind], _BASES[kind])
    return float(text) if _FLOAT.fullmatch(text) else text


# ---- from events to data ----------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True, eq=False, repr=False, match_args=False)
class _Open:
    """A collection that has begun and not ended."""

    target: Map | Seq
    anchor: str | None
    as_key: bool
    first_node: int
    height: int = 1
    end: tuple[int, int] = (0, 0)
    key: str | None = None
    awaits_value: bool = False


@dataclass(frozen=True)
class _Anchored:
    """What an alias repeats, and what repeating it costs."""

    value: Any
    nodes: int
    height: int


class _Reader:
    """One pass over the events of one text. State: the collections that are open, the anchors, the counts."""

    def __init__(self, source: Source):
        self.source = source
        self.mistakes: list[Diagnostic] = []
        self.open: list[_Open] = []
        self.anchors: dict[str, _Anchored | None] = {}  # None while the anchored collection is open
        self.nodes = 0
        self.aliases = 0
        self.root: Map | None = None

    def run(self) -> Map:
        try:
            self._events()
        except yaml.YAMLError as error:
            self._mistake(_syntax_mistake(self.source, error))
        if self.mistakes:
            raise BlueprintError(self.mistakes)
        if self.root is None:
            raise _refuse("BP006", f"`{_shown(self.source.name, 200)}` is empty; a blueprint is a mapping")
        return self.root

    def _events(self) -> None:
        handlers: dict[type, Any] = {
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
            yaml.MappingStartEvent: self._begin,
            yaml.SequenceStartEvent: self._begin,
            yaml.MappingEndEvent: self._finish,
            yaml.SequenceEndEvent: self._finish,
        }
        for event in yaml.parse(self.source.text, Loader=_LOADER):
            if handler := handlers.get(type(event)):
                handler(event)
            elif isinstance(event, yaml.DocumentEndEvent):  # ask for no more: directives may follow
                return self._after_document(event)

    def _after_document(self, event: _Event) -> None:
        text = self.source.text
        gap = _GAP.match(text, event.end_mark.index)
        if gap and gap.end() < len(text):
            span = _span_at(self.source, gap.end(), gap.end() + len(_word(text, gap.end())))
            self._mistake(Diagnostic("BP006", "a file holds one blueprint; something follows the end of it here", span))

    # -- events

    def _scalar(self, event: _Event) -> None:
        span = self._value_span(event)
        value: Any = event.value
        self._count(1, span)
        if event.tag is not None:
            self._tag(event)
        elif not event.style:
            try:
                value = _plain(value)
            except ValueError as error:
                self._mistake(Diagnostic("BP002", str(error), span, help=("quote it if it is a text",)))
        if event.anchor:
            self.anchors[event.anchor] = _Anchored(value, 1, 0)
        if not self.open:
            raise self._no_mapping(span, _kind(value))
        if value == "<<" and not event.style and self._at_key():
            self._skip_key(_merge_key(span))
        else:
            self._put(value, span, 0, event.value)

    def _alias(self, event: _Event) -> None:
        name, span = event.anchor, self._value_span(event)
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self._bound(f"more than {MAX_ALIASES} aliases; `*{_shown(name)}` is one too many", span)
        if not self.open or name not in self.anchors:
            message = f"`*{_shown(name)}` repeats nothing: no `&{_shown(name)}` stands before it"
            help = (f'write "*{_shown(name)}" with quotes if it is a text',)
            self._mistake(Diagnostic("BP003", message + did_you_mean(name, self.anchors), span, help=help))
            return self._put(None, span, 0, f"*{name}", known=False)
        anchored = self.anchors[name]
        if anchored is None:
            raise self._bound(f"`*{_shown(name)}` stands inside the value it repeats: that has no end", span)
        self._count(anchored.nodes, span)
        self._check_depth(len(self.open) + anchored.height, span)
        self._put(anchored.value, span, anchored.height, f"*{name}")

    def _begin(self, event: _Event) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        span = self._value_span(event)
        if not self.open and not is_map:
            raise self._no_mapping(span, "a list")
        self._count(1, span)
        self._check_depth(len(self.open) + 1, span)
        if event.tag is not None:
            self._tag(event)
        if event.anchor:
            self.anchors[event.anchor] = None
        as_key = self._at_key()
        if as_key:
            self._collection_key("a mapping" if is_map else "a list", span)
        target = Map(span=span) if is_map else Seq(span=span)
        frame = _Open(target, event.anchor, as_key, self.nodes)
        frame.end = (span.end_line, span.end_column)
        self.open.append(frame)

    def _finish(self, event: _Event) -> None:
        frame = self.open.pop()
        start, mark = frame.target.span, event.end_mark
        if mark.index > event.start_mark.index:  # `]` or `}`; a block ends without a character of its own
            frame.end = (mark.line + 1, mark.column + 1)
        span = frame.target.span = Span(self.source, start.line, start.column, *frame.end)
        if frame.anchor:
            self.anchors[frame.anchor] = _Anchored(frame.target, self.nodes - frame.first_node + 1, frame.height)
        if self.open and not frame.as_key:
            self._put(frame.target, span, frame.height, "")
        elif not self.open and isinstance(frame.target, Map):
            self.root = frame.target

    # -- where a value goes

    def _at_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].target, Map) and not self.open[-1].awaits_value

    def _put(self, value: Any, span: Span, height: int, written: str, known: bool = True) -> None:
        """Hands a value to the innermost open collection, as key, value or item."""
        if not self.open:
            return
        frame = self.open[-1]
        target = frame.target
        frame.end = (span.end_line, span.end_column)
        frame.height = max(frame.height, height + 1)
        if isinstance(target, Seq):
            target.append(value)
            target.item_spans.append(span)
        elif not frame.awaits_value:
            self._key(frame, target, value, span, written, known)
        else:
            frame.awaits_value = False
            if frame.key is not None:
                target[frame.key] = value
                target.value_spans[frame.key] = span

    def _key(self, frame: _Open, target: Map, value: Any, span: Span, written: str, known: bool) -> None:
        frame.awaits_value, frame.key = True, None
        if not known:
            return
        if not isinstance(value, str):
            self._mistake(_odd_key(value, written, span))
        elif value in target.key_spans:
            self._mistake(_duplicate(value, target.key_spans[value], span))
        else:
            frame.key = value
            target.key_spans[value] = span

    def _collection_key(self, what: str, span: Span) -> None:
        """Reported once, not again for every key inside it: `? ? ? a`."""
        if any(frame.as_key for frame in self.open):
            self.open[-1].awaits_value, self.open[-1].key = True, None
            return
        message = f"{what} cannot be a key; keys are strings"
        self._skip_key(Diagnostic("BP007", message, span, help=("quote it if it is a text",)))

    def _skip_key(self, mistake: Diagnostic) -> None:
        """The value of a refused key is still read, for the mistakes in it, and dropped."""
        self._mistake(mistake)
        self.open[-1].awaits_value, self.open[-1].key = True, None

    # -- bounds and mistakes

    def _count(self, nodes: int, span: Span) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self._bound(f"{self.nodes:,} values up to here, repeated ones counted; at most {MAX_NODES:,}", span)

    def _check_depth(self, depth: int, span: Span) -> None:
        if depth > MAX_DEPTH:
            raise self._bound(f"values nested {depth} deep; at most {MAX_DEPTH}", span)

    def _bound(self, message: str, span: Span) -> BlueprintError:
        return BlueprintError([*self.mistakes, Diagnostic("BP002", message, span)])

    def _no_mapping(self, span: Span, what: str) -> BlueprintError:
        message = f"the top level of a blueprint is a mapping; this is {what}"
        return BlueprintError([*self.mistakes, Diagnostic("BP006", message, span, help=("begin with `blueprint: 1`",))])

    def _mistake(self, diagnostic: Diagnostic) -> None:
        self.mistakes.append(diagnostic)
        if len(self.mistakes) >= MAX_MISTAKES:
            raise BlueprintError(self.mistakes)

    def _tag(self, event: _Event) -> None:
        written = re.compile(r"!\S*").search(self.source.text, event.start_mark.index)
        if written is None:  # pragma: no cover - a tag is written with `!`
            return
        start, end = written.span()
        place = _span_at(self.source, start, end)
        message = f"the tag `{_shown(written[0])}` is refused: a blueprint is data, and a tag asks for more"
        self._mistake(Diagnostic("BP007", message, place, help=("remove it; quote a value to make it a text",)))

    # -- places

    def _value_span(self, event: _Event) -> Span:
        """The place of a value, after its anchor where that is on the same line."""
        start, end = event.start_mark, event.end_mark
        span = Span(self.source, start.line + 1, start.column + 1, end.line + 1, end.column + 1)
        if not event.anchor:
            return span
        match = _ANCHOR.match(self.source.text, event.start_mark.index)
        if match is None:
            return span
        column = span.column + len(match[0])
        last = max((span.end_line, span.end_column), (span.line, column))
        return Span(self.source, span.line, column, *last)


_GAP = re.compile(r"(?:\s|#[^\r\n]*)*+")
_ANCHOR = re.compile(r"&[\w-]+[ \t]+(?=[^\s#])")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {bool: "a truth value", int: "a whole number", float: "a number", str: "a text"}
    return names.get(type(value), "a collection")


def _merge_key(span: Span) -> Diagnostic:
    help = "write the keys out, or use `extends:` for a whole blueprint"
    return Diagnostic("BP005", "the merge key `<<` is refused: it hides where a value comes from", span, help=(help,))


def _odd_key(value: Any, written: str, span: Span) -> Diagnostic:
    if written == "":
        return Diagnostic("BP007", "a key is missing here; keys are strings", span)
    text = _shown(written)
    message = f"the key `{text}` is {_kind(value) if value is not None else 'null'}; keys are strings"
    return Diagnostic("BP007", message, span, help=(f'quote it: `"{text}"`',))


def _duplicate(key: str, first: Span, second: Span) -> Diagnostic:
    message = f"the key `{_shown(key)}` stands twice in one mapping"
    return Diagnostic("BP004", message, second, "again here", others=(Label(first, "first here"),))


# ---- what libyaml says, in words a reader of blueprints knows ---------------------------------------------------


@dataclass(frozen=True)
class _Fault:
    """A syntax error as libyaml reports it: its words, where it stopped, and where what it was reading began."""

    text: str
    problem: str
    index: int
    context: str
    begin: int | None

    @property
    def character(self) -> str:
        return self.text[self.index : self.index + 1]

    @property
    def before(self) -> str:
        """The line up to the fault."""
        lines = (self.text[: self.index] + ".").splitlines()
        return lines[-1][:-1]

    @property
    def after(self) -> str:
        """The line from the fault on."""
        return (self.text[self.index : self.index + 400].splitlines() or [""])[0]


@dataclass(frozen=True)
class _Reading:
    """A fault explained: message, way out, and the part of the text it is about."""

    message: str
    help: str
    start: int
    end: int


def _syntax_mistake(source: Source, error: yaml.YAMLError) -> Diagnostic:
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # pragma: no cover - a ReaderError: `_checked` refuses what libyaml's reader would
        return Diagnostic("BP003", f"not valid YAML: {_shown(str(error))}")
    begin = getattr(error, "context_mark", None)
    context, problem = (str(getattr(error, a, None) or "") for a in ("context", "problem"))
    fault = _Fault(source.text, problem, mark.index, context, begin.index if begin else None)
    for explain in _EXPLANATIONS:
        if reading := explain(fault):
            span = _span_at(source, reading.start, reading.end)
            help = (reading.help,) if reading.help else ()
            return Diagnostic("BP003", f"not valid YAML: {reading.message}", span, help=help)
    others: tuple[Label, ...] = ()
    if fault.begin is not None and fault.begin < fault.index:
        others = (Label(_span_at(source, fault.begin, fault.begin + 1), context),)
    span = _span_at(source, fault.index, fault.index + 1)
    return Diagnostic("BP003", f"not valid YAML: {_shown(problem, 100)}", span, others=others)


def _quoted(text: str) -> str:
    """A text as a YAML string: double quotes, or single ones where it has double quotes or backslashes."""
    text = text.strip()
    plain = not ('"' in text or "\\" in text)
    return f'"{text}"' if plain else "'" + text.replace("'", "''") + "'"


def _expression_in_flow(fault: _Fault) -> _Reading | None:
    """`{a: ${x}}`: YAML ends the scalar at `$` and sees a new mapping."""
    if fault.character != "{" or not fault.before.endswith("$"):
        return None
    start = fault.index - 1
    written = "$" + _balanced(fault.after)
    message = "inside `{ }` and `[ ]` an expression `${…}` must stand in quotes"
    return _Reading(message, f"write {_quoted(written)}", start, start + len(written))


def _balanced(text: str) -> str:
    """The head of a text that starts with `{`, up to the brace that closes it."""
    depth = 0
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[: index + 1]
    return text


def _glob(fault: _Fault) -> _Reading | None:
    """`at: *.fuse`: YAML reads `*` as an alias and `&` as an anchor."""
    if fault.begin is None or not any(word in fault.context for word in ("alias", "anchor")):
        return None
    word = _word(fault.text, fault.begin)
    what = "an alias (a repeated value)" if word[0] == "*" else "an anchor"
    message = f"a value that begins with `{word[0]}` is {what}, and this is not the name of one"
    return _Reading(message, f"quote a text: {_quoted(word)}", fault.begin, fault.begin + len(word))


def _word(text: str, index: int) -> str:
    match = re.compile(r"[^\s,\]}]+").match(text, index)
    return match[0] if match else text[index : index + 1]


def _reserved_start(fault: _Fault) -> _Reading | None:
    """A plain scalar may not begin with `@`, a backtick or `%`."""
    index = fault.begin if "directive" in fault.context and fault.begin is not None else fault.index
    if fault.text[index : index + 1] not in ("@", "`", "%"):
        return None
    word = _word(fault.text, index)
    message = f"a text cannot begin with `{word[0]}`" if word[0] != "`" else "a text cannot begin with a backtick"
    return _Reading(message, f"quote it: {_quoted(word)}", index, index + len(word))


def _tab(fault: _Fault) -> _Reading | None:
    indent = re.match(r" *\t", fault.before + fault.after)
    if indent is None or fault.before.strip():
        return None
    start = fault.index - len(fault.before) + indent.end() - 1
    return _Reading("a tab cannot indent a line", "use spaces", start, start + 1)


def _second_colon(fault: _Fault) -> _Reading | None:
    """`summary: A (2022): b` (quote it), or a line indented below one that already has its value."""
    if fault.character != ":" or _not_closed_on_its_line(fault):
        return None
    _, colon, value = (fault.before + fault.after).partition(": ")
    in_flow = "flow" in fault.context
    if colon and ": " in fault.before and not in_flow:
        value = re.split(r"\s#", value.lstrip(), maxsplit=1)[0].rstrip()
        start = fault.text.index(value, fault.text.index(": ", fault.index - len(fault.before)))
        message = "a text that holds `: ` must stand in quotes"
        return _Reading(message, f"write {_quoted(value)}", start, start + len(value))
    if in_flow:
        message = "a second `:` where `,` or the end is expected"
        return _Reading(message, 'a text that holds `: ` must stand in "quotes"', fault.index, fault.index + 1)
    if not fault.before.strip():
        return _Reading("a key is missing before this `:`", "", fault.index, fault.index + 1)
    start = fault.index - len(fault.before.lstrip())
    message = "this `key: value` is indented below a line that already has its value"
    return _Reading(message, "give it the indentation of the keys it belongs to", start, fault.index + 1)


def _list_item_here(fault: _Fault) -> _Reading | None:
    if "sequence entries" not in fault.problem:
        return None
    message = "a list item `- ` cannot begin here"
    return _Reading(message, "put it on a line of its own, below its key", fault.index, fault.index + 1)


def _not_closed_on_its_line(fault: _Fault) -> _Reading | None:
    """`a: [1, 2` and on the next line `b: 3`: the bracket is the mistake, not the colon."""
    if fault.begin is None or "flow" not in fault.context or fault.character not in (":", "-"):
        return None
    if len(fault.text[fault.begin : fault.index].splitlines()) < 2:
        return None
    line, _ = _position(fault.text, fault.index)
    message = f"this `{fault.text[fault.begin]}` is not closed, and line {line} looks like a new entry"
    return _Reading(message, "", fault.begin, fault.begin + 1)


def _never_closed(fault: _Fault) -> _Reading | None:
    """At the end of the text the useful place is where the quote or bracket was opened."""
    if fault.begin is None or fault.index < len(fault.text.rstrip()):
        return None
    if not any(word in fault.context for word in ("flow", "quoted")):
        return None
    opening = fault.text[fault.begin : fault.begin + 1]
    return _Reading(f"this `{opening}` is never closed", "", fault.begin, fault.begin + 1)


def _text_after_closing(fault: _Fault) -> _Reading | None:
    """`a: [x]y`, `a: "b" c`, `{x}.weight: y`: the value ended at the bracket or quote."""
    closed = fault.before.rstrip()
    if "flow" in fault.context or not closed.endswith(("]", "}", '"', "'")) or not fault.after.strip():
        return None
    message = f"the value ends with this `{closed[-1]}`, and more follows"
    place = fault.index - (len(fault.before) - len(closed)) - 1
    help = "a text that begins with a quote or bracket must stand in quotes as a whole"
    return _Reading(message, help, place, place + 1)


def _escape(fault: _Fault) -> _Reading | None:
    if "escape" not in fault.problem:
        return None
    start = fault.text.rfind("\\", 0, fault.index + 1)
    written = fault.text[start : start + 2]
    message = f"`{_shown(written)}` is no escape that YAML knows"
    return _Reading(message, "use 'single quotes', where a backslash is a backslash", start, start + 2)


_EXPLANATIONS = (
    _expression_in_flow,
    _glob,
    _tab,
    _reserved_start,
    _second_colon,
    _list_item_here,
    _not_closed_on_its_line,
    _never_closed,
    _escape,
    _text_after_closing,
)
