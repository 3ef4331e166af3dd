"""The expression language of blueprints: `$name` and `${dim * 2 ** i}`.

It is total and tiny. Python's own parser reads it, so that precedence and spelling are what everyone expects, and
every node it returns must be on the list below: no attributes, no calls but the functions named here, no loops. The
tree is then walked by us, never compiled. Every step is bounded (whole numbers below 2**64, lists and strings of at
most 10,000 items), so an expression of an untrusted file can neither hang nor eat the memory; and everything that
can go wrong is an `ExpressionError` with the values at hand and the column.
"""

from __future__ import annotations

import ast
import io
import keyword
import math
import operator
import re
import reprlib
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from typing import Any

from composer.diagnostics import did_you_mean, listing
from composer.frozen import dataclass

MAX_TEXT = 1000
MAX_DEPTH = 60
MAX_NUMBER = 2**64
MAX_ITEMS = 10_000

RESERVED = "$original"  # of edits: what was there before

_NAME = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_LITERALS: dict[str, Any] = {"true": True, "false": False, "null": None}

Function = Callable[..., Any]


class ExpressionError(Exception):
    """What is wrong with an expression; `offset` counts from zero inside the text that was parsed."""

    def __init__(self, message: str, offset: int = 0):
        super().__init__(message)
        self.message = message
        self.offset = offset

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.offset)


def is_expression(value: object) -> bool:
    """Whether a value of a file is an expression as a whole. `$original` is not, nor is `stage.$i`."""
    if not isinstance(value, str) or value == RESERVED:
        return False
    return bool(_NAME.fullmatch(value)) or (value.startswith("${") and value.endswith("}"))


@dataclass(frozen=True)
class Expression:
    """A parsed expression: its text as written, the names it needs, and a way to its value."""

    text: str
    names: frozenset[str]
    _tree: ast.expr = field(repr=False, compare=False)
    _places: _Places = field(repr=False, compare=False)

    def evaluate(self, env: Mapping[str, Any], functions: Mapping[str, Function] | None = None) -> Any:
        """The value with these names. `functions` adds those that need the graph (`refs`); ExpressionError if none."""
        return _Evaluation(env, functions or {}, self._places).value(self._tree)


def parse(text: str) -> Expression:
    """`$name`, `${…}`, or what stands between the braces, checked as far as it can be without values."""
    return _parse(text)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Expression:
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"the expression has {len(text)} characters; at most {MAX_TEXT}")
    if text == RESERVED:
        raise ExpressionError(f"`{RESERVED}` is what an edit replaces, and has no value in an expression")
    inner, start = _inside(text)
    places = _Places(inner, start)
    tree = _tree(inner, places)
    _check(tree, places)
    return Expression(text, frozenset(_names(tree)), tree, places)


def names_in(value: Any) -> set[str]:
    """The names that the expressions anywhere in nested data need; what cannot be parsed is skipped."""
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            names |= _names_of(item)
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))  # aliases share their value
            waiting.extend(item.values() if isinstance(item, Mapping) else item)
    return names


def _names_of(text: str) -> frozenset[str]:
    try:
        return parse(text).names if is_expression(text) else frozenset()
    except ExpressionError:
        return frozenset()


# ---- from a text to a checked tree ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Places:
    """Translates the parser's columns (UTF-8 bytes of the inner text) to columns of the text as written."""

    inner: str
    start: int

    def of(self, node: ast.AST) -> int:
        column = getattr(node, "col_offset", 0)
        return self.start + len(self.inner.encode()[:column].decode(errors="ignore"))

    def written(self, node: ast.expr) -> str:
        end = node.end_col_offset or 0
        return self.inner.encode()[node.col_offset : end].decode(errors="ignore")


def _inside(text: str) -> tuple[str, int]:
    """What stands between the braces on one line, and where it starts."""
    if text.startswith("${") and text.endswith("}"):
        inner, start = text[2:-1], 2
    elif _NAME.fullmatch(text):
        inner, start = text[1:], 1
    else:
        inner, start = text, 0
    start += len(inner) - len(inner.lstrip())
    inner = re.sub(r"[\t\n\r\f\v]", " ", inner.strip())
    if not inner:
        raise ExpressionError("the expression is empty")
    return inner, start


def _tree(inner: str, places: _Places) -> ast.expr:
    try:
        inner.encode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" and `1if`: Python's advice to programmers
            tree = ast.parse(inner, mode="eval").body
    except SyntaxError as error:
        column = max(0, min((error.offset or 1) - 1, len(inner)))
        raise ExpressionError(_unreadable(inner, error.msg), places.start + column) from None
    except UnicodeEncodeError as error:
        raise ExpressionError("the expression holds half a character", places.start + error.start) from None
    except (ValueError, MemoryError, RecursionError):  # a NUL; thousands of signs or brackets
        raise ExpressionError("the expression cannot be read: it is nested too deeply or not a text") from None
    _refuse_comment(inner, places)
    return tree


_KEYWORDS = {"and", "or", "not", "in", "if", "else", "True", "False", "None"}
_FOREIGN = {
    "&&": "for `&&` write `and`",
    "||": "for `||` write `or`",
    "?": "for `c ? a : b` write `a if c else b`",
    "!": "for `!` write `not`",
    "$": "a name inside `${ }` has no `$`, and an expression is the whole value",
}


def _unreadable(inner: str, reason: str) -> str:
    outside = re.sub(r"'[^']*'|\"[^\"]*\"|!=", "", inner)
    hints = [hint for written, hint in _FOREIGN.items() if written in outside]
    taken = [word for word in re.findall(r"[A-Za-z]+", outside) if keyword.iskeyword(word) and word not in _KEYWORDS]
    hints += [f"`{word}` is a word of Python and cannot be a name" for word in taken]
    return f"cannot read the expression `{_short(inner)}`: {hints[0] if hints else reason}"


def _refuse_comment(inner: str, places: _Places) -> None:
    """Python would silently ignore what follows a `#`."""
    if "#" not in inner:
        return
    for token in tokenize.generate_tokens(io.StringIO(inner).readline):  # ast.parse has accepted it
        if token.type == tokenize.COMMENT:
            raise ExpressionError("`#` would hide the rest of the expression", places.start + token.start[1])


_BINARY: dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_NODES = (
    ast.Constant,
    ast.Name,
    ast.List,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Subscript,
    ast.Slice,
    ast.Call,
)
_OPERATORS = (*_BINARY, *_COMPARE, ast.UAdd, ast.USub, ast.Not, ast.And, ast.Or, ast.Load)
_WORDS = {
    ast.Attribute: "attributes (`a.b`)",
    ast.Lambda: "`lambda`",
    ast.ListComp: "comprehensions",
    ast.GeneratorExp: "comprehensions",
    ast.SetComp: "comprehensions",
    ast.DictComp: "comprehensions",
    ast.NamedExpr: "assignments",
    ast.JoinedStr: "f-strings",
    ast.Tuple: "tuples; write a list `[a, b]`",
    ast.Dict: "mappings",
    ast.Set: "sets",
    ast.Starred: "`*` in a list or call",
    ast.Is: "`is`; write `==`",
    ast.IsNot: "`is not`; write `!=`",
    ast.LShift: "`<<`; write `* 2 ** n`",
    ast.RShift: "`>>`; write `// 2 ** n`",
    ast.BitAnd: "`&`; write `and`",
    ast.BitOr: "`|`; write `or`",
    ast.BitXor: "`^`; write `**` for a power",
    ast.Invert: "`~`",
    ast.MatMult: "`@`",
}


def _check(tree: ast.expr, places: _Places) -> None:
    """Refuses what is not in the language. Iterative: the depth is part of what is checked."""
    waiting: list[tuple[ast.AST, int, int]] = [(tree, 1, places.start)]
    while waiting:
        node, depth, above = waiting.pop()
        offset = places.of(node) if hasattr(node, "col_offset") else above
        if depth > MAX_DEPTH:
            raise ExpressionError(f"the expression is nested more than {MAX_DEPTH} deep", offset)
        if not isinstance(node, _NODES + _OPERATORS):
            what = _WORDS.get(type(node), f"`{type(node).__name__.lower()}`")
            raise ExpressionError(f"the expression language has no {what}", offset)
        _check_one(node, places, offset)
        children = [*node.args] if isinstance(node, ast.Call) else [*ast.iter_child_nodes(node)]
        waiting.extend((child, depth + 1, offset) for child in reversed(children))


def _check_one(node: ast.AST, places: _Places, offset: int) -> None:
    if isinstance(node, ast.Constant):
        _check_constant(node.value, offset)
    elif isinstance(node, ast.Name) and places.written(node) != node.id:  # Python folds `ﬁ` to `fi`
        raise ExpressionError(f"`{places.written(node)}` is not a name: names are of the letters a to z", offset)
    elif isinstance(node, ast.Name) and not node.id.isascii():
        raise ExpressionError(f"`{node.id}` is not a name: names are of the letters a to z", offset)
    elif isinstance(node, ast.Call):
        _check_call(node, places, offset)


def _check_constant(value: Any, offset: int) -> None:
    if not isinstance(value, bool | int | float | str | None):
        kind = {bytes: "byte strings", complex: "imaginary numbers"}.get(type(value), f"`{value}`")
        raise ExpressionError(f"the expression language has no {kind}", offset)
    if isinstance(value, int) and value >= MAX_NUMBER:
        raise ExpressionError("a whole number of 2**64 or more is too large", offset)


def _check_call(node: ast.Call, places: _Places, offset: int) -> None:
    if not isinstance(node.func, ast.Name):
        raise ExpressionError(f"only functions can be called: {listing(_ARITY)}", offset)
    name = node.func.id
    if name not in _ARITY or places.written(node.func) != name:
        close = did_you_mean(name, _ARITY) or ";"
        raise ExpressionError(f"unknown function `{name}`{close} there are: {listing(_ARITY)}", offset)
    if node.keywords:
        raise ExpressionError(f"`{name}` takes no arguments by name", offset)
    least, most = _ARITY[name]
    if not least <= len(node.args) <= most:
        raise ExpressionError(f"`{name}` takes {_arguments(least, most)}, not {len(node.args)}", offset)


def _arguments(least: int, most: int) -> str:
    if most == least:
        return f"{least} argument" + "s" * (least != 1)
    return f"{least} or more arguments" if most >= MAX_TEXT else f"{least} to {most} arguments"


def _names(tree: ast.expr) -> Iterator[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in called and node.id not in _LITERALS:
            yield node.id


# ---- from a tree to a value -------------------------------------------------------------------------------------

_COMPUTED = (ast.List, ast.BinOp, ast.Call)  # others hand on what is there, which the file's bounds allow
_MISTAKES = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class _Evaluation:
    """One walk over a tree. It recurses, at most MAX_DEPTH deep."""

    env: Mapping[str, Any]
    functions: Mapping[str, Function]
    places: _Places

    def value(self, node: ast.expr) -> Any:
        """The value of a node; whatever goes wrong below is reported at the innermost node that could not go on."""
        try:
            value = _STEPS[type(node)](self, node)
            return _bounded(value) if isinstance(node, _COMPUTED) or isinstance(value, int) else value
        except _StepError as wrong:
            raise ExpressionError(str(wrong), self.places.of(wrong.node or node)) from None
        except _MISTAKES as error:
            raise ExpressionError(f"`{_short(self.places.written(node))}`: {error}", self.places.of(node)) from None

    def name(self, node: ast.Name) -> Any:
        if node.id in _LITERALS:
            return _LITERALS[node.id]
        if node.id in self.env:
            return self.env[node.id]
        if node.id in _ARITY:
            raise _StepError(f"`{node.id}` is a function: write `{node.id}(…)`")
        known = f"there are: {listing(sorted(self.env, key=str))}" if self.env else "no names are known here"
        raise _StepError(f"unknown name `{node.id}`{did_you_mean(node.id, self.env) or ';'} {known}")

    def constant(self, node: ast.Constant) -> Any:
        return node.value

    def items(self, node: ast.List) -> list[Any]:
        return [self.value(item) for item in node.elts]

    def binary(self, node: ast.BinOp) -> Any:
        return _binary(_BINARY[type(node.op)], self.value(node.left), self.value(node.right))

    def unary(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return not value
        if not _is_number(value):
            raise _StepError(f"cannot negate {_kind(value)}: {_show(value)}")
        return -value if isinstance(node.op, ast.USub) else +value

    def boolean(self, node: ast.BoolOp) -> Any:
        """`and`, `or` give the operand that decided, as in Python, and look no further."""
        stop_at = isinstance(node.op, ast.Or)
        value: Any = None
        for operand in node.values:
            value = self.value(operand)
            if bool(value) is stop_at:
                break
        return value

    def compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for sign, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            if not _compared(sign, left, right):
                return False
            left = right
        return True

    def choice(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def subscript(self, node: ast.Subscript) -> Any:
        container = self.value(node.value)
        name = _short(self.places.written(node.value))
        if isinstance(node.slice, ast.Slice):
            bounds = [self.value(b) if b else None for b in (node.slice.lower, node.slice.upper, node.slice.step)]
            return _sliced(name, container, bounds)
        return _indexed(name, container, self.value(node.slice), node.slice)

    def call(self, node: ast.Call) -> Any:
        assert isinstance(node.func, ast.Name)  # _check_call
        name = node.func.id
        function = _FUNCTIONS.get(name) or self.functions.get(name)
        if function is None:
            raise _StepError(f"`{name}` cannot be used here")
        arguments = [self.value(argument) for argument in node.args]
        try:
            return function(*arguments)
        except ExpressionError as error:  # of `refs`, which knows no columns
            raise _StepError(error.message) from None


class _StepError(Exception):
    """A mistake whose place is the node being evaluated, or `node`."""

    def __init__(self, message: str, node: ast.expr | None = None):
        super().__init__(message)
        self.node = node


_STEPS: dict[type, Callable[[_Evaluation, Any], Any]] = {
    ast.Name: _Evaluation.name,
    ast.Constant: _Evaluation.constant,
    ast.List: _Evaluation.items,
    ast.BinOp: _Evaluation.binary,
    ast.UnaryOp: _Evaluation.unary,
    ast.BoolOp: _Evaluation.boolean,
    ast.Compare: _Evaluation.compare,
    ast.IfExp: _Evaluation.choice,
    ast.Subscript: _Evaluation.subscript,
    ast.Call: _Evaluation.call,
}


# ---- what the operators and functions do ------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _kind(value: Any) -> str:
    kinds = {list: "a list", tuple: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    if value is None:
        return "null"
    found = [kind for base, kind in kinds.items() if isinstance(value, base)]
    return found[0] if found else "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"


_REPR = reprlib.Repr()
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 6
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = 40


def _show(value: Any) -> str:
    return _REPR.repr(value)


def _short(text: str) -> str:
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 60 else text[:59] + "…"


def _bounded(value: Any) -> Any:
    """The value, if it is of a size that any blueprint could need."""
    if isinstance(value, int) and abs(value) >= MAX_NUMBER:
        raise _StepError(f"the result has {value.bit_length()} bits; whole numbers have at most 64")
    if isinstance(value, str | list | tuple) and _size(value) > MAX_ITEMS:
        raise _StepError(
            f"the result has more than {MAX_ITEMS:,} {'characters' if isinstance(value, str) else 'items'}"
        )
    return value


def _size(value: Any) -> int:
    """Characters of a text, or items of a list with the items of its lists; counting ends above MAX_ITEMS.

    `[[0] * 9999] * 9999` would be two small objects and a hundred million items to whoever walks them.
    """
    if isinstance(value, str):
        return len(value)
    count, waiting = 0, [value]
    while waiting and count <= MAX_ITEMS:
        items = waiting.pop()
        count += len(items)
        waiting.extend(item for item in items[: MAX_ITEMS + 1] if _is_list(item))
    return count


_VERBS = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "//": "divide",
    "%": "take the remainder of",
    "**": "take the power of",
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def _binary(sign: str, a: Any, b: Any) -> Any:
    if _is_number(a) and _is_number(b):
        return _arithmetic(sign, a, b)
    if sign == "+" and isinstance(a, str) and isinstance(b, str):
        return a + b
    if sign == "+" and _is_list(a) and _is_list(b):
        return [*a, *b]
    if sign == "*" and isinstance(b, int) and (_is_list(a) or isinstance(a, str)):
        return _repeated(a, b)
    if sign == "*" and isinstance(a, int) and (_is_list(b) or isinstance(b, str)):
        return _repeated(b, a)
    raise _StepError(f"cannot {_VERBS[sign]} {_kind(a)} and {_kind(b)}: {_show(a)} {sign} {_show(b)}")


def _arithmetic(sign: str, a: Any, b: Any) -> Any:
    try:
        result = _power(a, b) if sign == "**" else _ARITHMETIC[sign](a, b)
    except ZeroDivisionError:
        raise _StepError(f"division by zero: {a} {sign} {b}") from None
    except OverflowError:
        raise _StepError(f"the result of {a} {sign} {b} is too large") from None
    if isinstance(result, complex):
        raise _StepError(f"({a}) {sign} {b} is not a real number")
    return result


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and exponent > 64:
        raise OverflowError
    return base**exponent


def _repeated(items: Any, times: int) -> Any:
    if _size(items) * times > MAX_ITEMS or times > MAX_ITEMS:
        raise _StepError(f"{_show(items)} repeated {times} times has more than {MAX_ITEMS:,} items")
    return items * times if isinstance(items, str) else [*items] * times


def _compared(sign: ast.cmpop, a: Any, b: Any) -> bool:
    try:
        return bool(_COMPARE[type(sign)](a, b))
    except TypeError:
        pass
    if isinstance(sign, ast.In | ast.NotIn):
        raise _StepError(f"cannot look for {_kind(a)} in {_kind(b)}: {_show(a)} in {_show(b)}")
    raise _StepError(f"cannot compare {_kind(a)} and {_kind(b)}: {_show(a)} and {_show(b)}")


def _indexed(name: str, container: Any, index: Any, node: ast.expr) -> Any:
    if isinstance(container, Mapping):
        if isinstance(index, str) and index in container:
            return container[index]
        known = f"there are: {listing(container)}"
        raise _StepError(
            f"`{name}` has no key {_show(index)}{did_you_mean(str(index), container) or ';'} {known}", node
        )
    if not isinstance(container, list | tuple | str):
        raise _StepError(f"cannot take an item of `{name}`: it is {_kind(container)}, {_show(container)}")
    what, unit = ("text", "characters") if isinstance(container, str) else ("list", "items")
    if not isinstance(index, int):
        hint = "; `//` divides to a whole number" if isinstance(index, float) else ""
        raise _StepError(f"{what} index {_show(index)} is not a whole number{hint}", node)
    if not -len(container) <= index < len(container):
        count = f"{len(container)} {unit if len(container) != 1 else unit[:-1]}"
        raise _StepError(f"{what} index {index} is out of range: `{name}` has {count}", node)
    return container[index]


def _sliced(name: str, container: Any, bounds: Sequence[Any]) -> Any:
    if not isinstance(container, list | tuple | str):
        raise _StepError(f"cannot take a part of `{name}`: it is {_kind(container)}, {_show(container)}")
    for bound in bounds:
        if bound is not None and not isinstance(bound, int):
            raise _StepError(f"slice bound {_show(bound)} of `{name}` is not a whole number")
    if bounds[2] == 0:
        raise _StepError(f"the step of a slice of `{name}` is 0")
    part = container[slice(*bounds)]
    return part if isinstance(part, str) else list(part)


def _number(name: str, value: Any) -> Any:
    if not _is_number(value):
        raise _StepError(f"`{name}` needs a number, not {_kind(value)}: {_show(value)}")
    return value


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int):
        raise _StepError(f"`{name}` needs a whole number, not {_show(value)}")
    return value


def _numbers(name: str, values: Any) -> list[Any]:
    if not _is_list(values):
        raise _StepError(f"`{name}` needs a list, not {_kind(values)}: {_show(values)}")
    return [_number(name, value) for value in values]


def _extreme(name: str, choose: Callable[[list[Any]], Any]) -> Function:
    """`min` and `max`, of one list or of several numbers."""

    def chosen(*values: Any) -> Any:
        numbers = _numbers(name, values[0] if len(values) == 1 else values)
        if not numbers:
            raise _StepError(f"`{name}` of an empty list")
        return choose(numbers)

    return chosen


def _rounding(name: str, function: Callable[[Any], int]) -> Function:
    def rounded(value: Any) -> int:
        if isinstance(_number(name, value), float) and not math.isfinite(value):
            raise _StepError(f"`{name}` of {value}")
        return function(value)

    return rounded


def _round(value: Any, digits: Any = None) -> Any:
    if digits is None:
        return _rounding("round", round)(value)
    if abs(_whole("round", digits)) > 20:  # 10 ** digits is computed
        raise _StepError(f"`round` to {digits} digits; at most 20")
    return round(_number("round", value), digits)


def _length(value: Any) -> int:
    if not isinstance(value, list | tuple | str | Mapping):
        raise _StepError(f"`len` needs a list, not {_kind(value)}: {_show(value)}")
    return len(value)


def _reversed(value: Any) -> list[Any]:
    if not _is_list(value):
        raise _StepError(f"`reversed` needs a list, not {_kind(value)}: {_show(value)}")
    return list(value[::-1])


def _ramp(first: Any, last: Any, count: Any) -> list[float]:
    """`count` evenly spaced numbers from `first` to `last`, both exact: the drop rates of stochastic depth."""
    a, b = float(_number("ramp", first)), float(_number("ramp", last))
    if not 0 <= _whole("ramp", count) <= MAX_ITEMS:
        raise _StepError(f"`ramp` of {count} numbers; from 0 to {MAX_ITEMS:,}")
    if count < 2:
        return [a] * count
    return [a + (b - a) * i / (count - 1) for i in range(count - 1)] + [b]


_MANY = MAX_TEXT
_ARITY = {
    "min": (1, _MANY),
    "max": (1, _MANY),
    "sum": (1, 1),
    "len": (1, 1),
    "ceil": (1, 1),
    "floor": (1, 1),
    "round": (1, 2),
    "abs": (1, 1),
    "reversed": (1, 1),
    "ramp": (3, 3),
    "refs": (1, 2),
}
_FUNCTIONS: dict[str, Function] = {
    "min": _extreme("min", min),
    "max": _extreme("max", max),
    "sum": lambda values: sum(_numbers("sum", values)),
    "len": _length,
    "ceil": _rounding("ceil", math.ceil),
    "floor": _rounding("floor", math.floor),
    "round": _round,
    "abs": lambda value: abs(_number("abs", value)),
    "reversed": _reversed,
    "ramp": _ramp,
}
