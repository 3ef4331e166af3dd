"""The canonical form of a blueprint's text: `composer fmt`.

Only what has no meaning changes: indentation (two spaces a level, lists below their key), spaces inside brackets,
trailing spaces, runs of empty lines, quotes and the spelling of true, false and null. Where a line breaks and what a
mapping looks like stays as it was written, and so do comments. The text is taken apart into YAML's tokens, each of
which keeps its line; what stands between tokens is space and comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from composer import source
from composer.diagnostics import Diagnostic, InternalError, Source

STEP = 2
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OPENING = (yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
_CLOSING = (yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_WORDS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
_WORDS |= dict.fromkeys(["~", "Null", "NULL"], "null")
_COMMENT = re.compile(r"(^|(?<=\s))#[^\n]*", re.MULTILINE)


def formatted(text: str, name: str = "<text>") -> str:
    """The canonical form of a text. A text that cannot be read is a `BlueprintError`; it has no form."""
    before = source.parse(Source(name, text))
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    made = _Layout(text).run()
    again = _Layout(made).run()
    same = repr(source.parse(Source(name, made))) == repr(before) and _comments(made) == _comments(text)
    if not same or made != again:
        why = "would read differently" if not same else "would change when formatted again"
        help = ("please report this with the file",)
        raise InternalError(Diagnostic("BP901", f"`{name}` {why}, so it is left as it is", help=help))
    return made


def _comments(text: str) -> list[str]:
    """What the comments of a text say."""
    end, found = 0, []
    for token in _tokens(text):
        found += [m[0][1:].strip() for m in _COMMENT.finditer(text, end, max(end, token.start_mark.index))]
        end = max(end, token.end_mark.index)
    return found


def _tokens(text: str) -> Iterator[Any]:
    return iter(yaml.scan(text, Loader=_LOADER))


@dataclass
class _Block:
    """An open block collection: its column as written and as it will be."""

    was: int
    column: int
    sequence: bool = False
    indentless: bool = False


@dataclass
class _Flow:
    """An open bracket: where a line inside it begins, and where one that closes it."""

    inside: int
    closing: int


class _Layout:
    """One pass over the tokens of a text, which writes lines."""

    def __init__(self, text: str):
        self.text = text
        self.lines: list[str] = []
        self.line = ""
        self.end = 0
        self.blocks: list[_Block] = []
        self.flows: list[_Flow] = []
        self.last: Any = None
        self.key = False

    def run(self) -> str:
        for token in _tokens(self.text):
            self.token(token)
        self.between(len(self.text), 0)
        self.finish()
        return "\n".join(self.lines).strip("\n") + "\n"

    def finish(self) -> None:
        if self.line.strip():
            self.lines.append(self.line.rstrip())
        self.line = ""

    # --- tokens --------------------------------------------------------------------------------------------------

    def token(self, token: Any) -> None:
        start, column = token.start_mark.index, token.start_mark.column
        if isinstance(token, (yaml.StreamStartToken, yaml.StreamEndToken)):
            return
        self.between(start, column)
        if isinstance(token, yaml.BlockEndToken):
            self.leave_indentless()
            self.blocks.pop()
        elif isinstance(token, (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken)):
            self.open_block(column, isinstance(token, yaml.BlockSequenceStartToken))
        elif isinstance(token, yaml.KeyToken) and token.end_mark.index == start:
            self.leave_indentless(column)
            self.key = True
        else:
            self.write(token, start, column)

    def open_block(self, was: int, sequence: bool) -> None:
        parent = self.blocks[-1].column if self.blocks else -STEP
        self.blocks.append(_Block(was, len(self.line) if self.line.strip() else parent + STEP, sequence))
        if self.line.strip():  # behind a dash
            self.blocks[-1].column = len(self.line.rstrip()) + 1

    def leave_indentless(self, column: int = -1) -> None:
        """A list written at the column of its key ends with the next key."""
        if self.blocks and self.blocks[-1].indentless and not self.flows:
            self.blocks.pop()

    def write(self, token: Any, start: int, column: int) -> None:
        if isinstance(token, yaml.BlockEntryToken) and not (self.blocks and self.blocks[-1].sequence):
            self.blocks.append(_Block(column, (self.blocks[-1].column if self.blocks else -STEP) + STEP, True, True))
        if self.line.strip():
            self.line = self.line.rstrip(" ") + " " * self.gap(token)
        else:
            self.line = " " * self.indent(token)
        if isinstance(token, _CLOSING):
            self.flows.pop()
        place = len(self.line)
        self.put(token, start)
        if isinstance(token, _OPENING):
            hanging = "\n" in self.text[token.end_mark.index : self.next_mark(token.end_mark.index)]
            margin = len(self.line) - len(self.line.lstrip(" -"))
            self.flows.append(_Flow(margin + STEP, margin) if hanging else _Flow(place + 1, place))
        self.end = token.end_mark.index
        self.last, self.key = token, False

    def next_mark(self, index: int) -> int:
        """Where the next token begins: behind spaces and comments."""
        while match := re.compile(r"\s+|#[^\n]*").match(self.text, index):
            index = match.end()
        return index

    def gap(self, token: Any) -> int:
        """Spaces between the last token of a line and this one."""
        if isinstance(self.last, _OPENING) or isinstance(token, (*_CLOSING, yaml.FlowEntryToken)):
            return 0
        if isinstance(token, yaml.ValueToken):
            return int(isinstance(self.last, yaml.AliasToken))
        return 1

    def indent(self, token: Any) -> int:
        """Where a line that begins with this token begins."""
        if self.flows:
            return self.flows[-1].closing if isinstance(token, _CLOSING) else self.flows[-1].inside
        column = self.blocks[-1].column if self.blocks else 0
        leads = self.key or isinstance(token, (yaml.BlockEntryToken, yaml.KeyToken, yaml.ValueToken))
        return column if leads or not self.blocks else column + STEP

    # --- scalars -------------------------------------------------------------------------------------------------

    def put(self, token: Any, start: int) -> None:
        raw = self.text[start : token.end_mark.index]
        style = getattr(token, "style", None)
        if style in ("|", ">"):
            self.put_block(raw)
        elif "\n" in raw:
            first, *rest = raw.rstrip("\n").split("\n")
            self.line += first.rstrip() if not first.endswith("\\ ") else first
            margin = " " * (self.flows[-1].inside if self.flows else self.blocks[-1].column + STEP)
            for line in rest:
                self.lines.append(self.line.rstrip() if not self.line.endswith("\\ ") else self.line)
                self.line = margin + line.lstrip(" \t") if line.strip() else ""
        elif isinstance(token, yaml.ScalarToken):
            self.line += _spelt(raw, style, self.key)
        else:
            self.line += raw.strip()

    def put_block(self, raw: str) -> None:
        """`|` and `>`: the lines below, moved as a whole."""
        head, _, body = raw.partition("\n")
        number = re.search(r"^[|>][-+]?(\d)", head)
        lines = body.split("\n")
        full = [x for x in lines if x.strip(" ")]
        outer = self.blocks[-1] if self.blocks else _Block(-STEP, -STEP)
        was = outer.was + int(number[1]) if number else min((len(x) - len(x.lstrip(" ")) for x in full), default=0)
        margin = " " * (outer.column + (int(number[1]) if number else STEP))
        self.lines.append((self.line + head).rstrip())
        keep = "+" in head.split("#")[0]
        empty = len(lines)
        while lines and not lines[-1].strip(" ") and not keep:
            lines.pop()
        self.lines += [margin + x[was:] if x.strip(" ") else "" for x in (lines[:-1] if keep else lines)]
        self.lines += [""] if empty - len(lines) > 1 else []
        self.line = ""

    # --- between tokens ------------------------------------------------------------------------------------------

    def between(self, start: int, column: int) -> None:
        """Line ends, empty lines and comments before a token at `column`."""
        if start <= self.end:
            return
        blank = 0
        first, *rest = self.text[self.end : start].split("\n")
        if self.last is None or self.text[self.end - 1] == "\n":  # it begins a line
            rest = [first, *rest]
        elif first.strip():
            self.trailing(first)
        for k, line in enumerate(rest, 1):
            self.finish()
            last = k == len(rest)
            if line.strip():
                self.empty_line(blank)
                blank = 0
                self.lines.append(" " * self.comment_column(line, start, column) + _comment(line))
            elif not last or start == len(self.text):
                blank += 1
        if start < len(self.text):
            self.empty_line(blank)
        self.end = start

    def empty_line(self, count: int) -> None:
        if count and not self.flows and self.lines and self.lines[-1]:
            self.lines.append("")

    def trailing(self, text: str) -> None:
        """A comment behind a token stays in its column if it can, two spaces away at least."""
        here = self.end - (self.text.rfind("\n", 0, self.end) + 1) + len(text) - len(text.lstrip())
        self.line = self.line.rstrip()
        self.line = self.line.ljust(here if len(self.line) + 2 <= here else len(self.line) + 2) + _comment(text)

    def comment_column(self, line: str, start: int, following: int) -> int:
        """A comment on a line of its own stands as deep as what it stands beside."""
        if self.flows:
            return self.flows[-1].inside
        was = len(line) - len(line.lstrip())
        item = self.text.startswith(("- ", "-\n"), start)
        known = {b.was: b.column for b in self.blocks if item or not b.indentless}
        deepest = self.blocks[-1].column if self.blocks else -STEP
        known.setdefault(following, deepest + STEP)
        return max((new for old, new in known.items() if old <= was), default=0)


def _comment(text: str) -> str:
    said = text.strip()
    return f"# {said[1:]}" if len(said) > 1 and said[1].isalnum() else said


def _spelt(raw: str, style: str | None, key: bool) -> str:
    """A scalar of one line: double quotes, and the lower-case words of YAML 1.2."""
    if style == "'" and not re.search(r"[\"\\]|''", raw) and raw.isprintable():
        return f'"{raw[1:-1]}"'
    return _WORDS.get(raw, raw) if not style and not key else raw
