"""The expression language: what it computes, what it refuses, and that nothing in it can hang or crash."""

import copy
import math
import operator
import pickle
import time
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from composer import expressions as module
from composer.expressions import Expression, ExpressionError, is_expression, names_in, parse

ENV = {
    "dim": 96,
    "i": 2,
    "dims": [1, 2, 3, 4],
    "rate": 0.5,
    "kind": "swin",
    "item": {"k": 1},
    "flag": True,
    "none": None,
}


def value(text: str, /, **names):
    return parse(text).evaluate({**ENV, **names})


def error(text: str, /, **names) -> ExpressionError:
    with pytest.raises(ExpressionError) as caught:
        value(text, **names)
    assert str(caught.value) == caught.value.message
    assert 0 <= caught.value.offset <= len(text)
    return caught.value


# ---- what is an expression --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["$dim", "$_a1", "${dim}", "${ dim * 2 }", "${}", "${a} x ${b}", "$true"])
def test_is_expression(text):
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "$original",
        "dim",
        "",
        "$",
        "$1",
        "$a.b",
        "a$b",
        " $a",
        "$a\n",
        "x${a}",
        "${a}x",
        "B $c *S",
        "$é",
        3,
        None,
        ["$a"],
    ],
)
def test_is_no_expression(text):
    assert not is_expression(text)


def test_original_belongs_to_edits():
    assert error("$original").message.startswith("`$original` is what an edit replaces")
    assert value("$originals", originals=3) == 3


# ---- values -----------------------------------------------------------------------------------------------------

VALUES = {
    "$dim": 96,
    "${dim * 2 ** (2 - i)}": 96,
    "${(45 * 10 // 2 ** i) ** 2}": 12544,
    "dim // 7 - dim % 7 + dim / 2": 13 - 5 + 48.0,
    "7 / 7": 1.0,
    "-i ** 2": -4,
    "- -i + +i": 4,
    "'a' + \"b\" * 2": "abb",
    "[i, dim] + dims[1:]": [2, 96, 2, 3, 4],
    "2 * [1, [2]]": [1, [2], 1, [2]],
    "[0] * -1": [],
    "dims[0]": 1,
    "dims[-1]": 4,
    "dims[::2] + dims[::-1] + dims[:1]": [1, 3, 4, 3, 2, 1, 1],
    "kind[1:]": "win",
    "item['k']": 1,
    "1 < i < 3 <= 3 != 4": True,
    "1 < i < 2": False,
    "i in dims and 9 not in dims and 'w' in kind": True,
    "null or none or 0 or 'x' or missing": "x",
    "0 and missing": 0,
    "not dims": False,
    "dim if i > 1 else missing": 96,
    "missing if i > 2 else rate": 0.5,
    "[true, false, null, True, False, None]": [True, False, None, True, False, None],
    "$false": False,
    "min(dims)": 1,
    "max(3, dim, 1)": 96,
    "min([2.5, 1]) + sum(dims) + len(dims) + len(kind) + len([])": 19,
    "[ceil(1.2), floor(-1.2), round(2.6), round(2.567, 2), abs(-3)]": [2, -2, 3, 2.57, 3],
    "ceil(7 / 2)": 4,
    "reversed(dims)": [4, 3, 2, 1],
    "ramp(0, 1, 5)": [0.0, 0.25, 0.5, 0.75, 1.0],
    "ramp(0.3, 9, 1) + ramp(1, 2, 0)": [0.3],
    "ramp(1, 0, 3)[-1]": 0.0,
    "${\n  dim\n  + 1\n}": 97,
    "'${#}' + '\\t'": "${#}\t",
    "1e-5": 1e-5,
    "0x10 + 0o17 + 1_0": 41,
    "flag + 1": 2,
}


@pytest.mark.parametrize(("text", "expected"), VALUES.items())
def test_values(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_ramp(first, last, count):
    found = value("ramp(a, b, n)", a=first, b=last, n=count)
    assert len(found) == count
    assert found[:1] == [first][:count]
    if count > 1:
        assert found[-1] == last
        for k, x in enumerate(found):
            assert math.isclose(x, first * (1 - k / (count - 1)) + last * k / (count - 1), abs_tol=1e-6)


def test_a_name_gives_the_object_itself():
    dims = [1]
    assert value("$dims", dims=dims) is dims
    assert value("dims[:]", dims=dims) is not dims


def test_functions_of_the_caller():
    refs = {"encoder": ["encoder.0", "encoder.1"]}.__getitem__
    assert parse("refs('encoder')[0]").evaluate({}, {"refs": refs}) == "encoder.0"
    assert "`refs('x')`: 'x'" in caught(lambda: parse("1 + refs('x')").evaluate({}, {"refs": refs})).message
    assert error("refs('x')").message == "`refs` cannot be used here"


def caught(action) -> ExpressionError:
    with pytest.raises(ExpressionError) as info:
        action()
    return info.value


def test_errors_of_the_callers_functions_get_a_place():
    def refs(name):
        raise ExpressionError(f"no node `{name}`")

    failure = caught(lambda: parse("${[1] + refs('x')}").evaluate({}, {"refs": refs}))
    assert (failure.message, failure.offset) == ("no node `x`", 8)


def test_a_callers_function_cannot_replace_one_of_the_language():
    assert parse("len([1])").evaluate({}, {"len": lambda _: 9}) == 1


def test_conditions_do_not_evaluate_what_they_do_not_need():
    calls = []
    env, functions = {"a": 1}, {"refs": lambda name: calls.append(name) or 5}
    for text in ("a or refs('x')", "not a and refs('x')", "1 if a else refs('x')", "2 < a < refs('x')"):
        parse(text).evaluate(env, functions)
    assert calls == []
    assert parse("a and refs('x')").evaluate(env, functions) == 5


# ---- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("$dim", {"dim"}),
        ("${min(a, b) + len(c)[d:e]}", {"a", "b", "c", "d", "e"}),
        ("[true, False, null, None, 'x']", set()),
        ("a if b else -c", {"a", "b", "c"}),
        ("max + max(min)", {"max", "min"}),
    ],
)
def test_names(text, names):
    assert parse(text).names == names


def test_names_in_nested_data():
    shared = ["$b", {"k": "${c + 1}"}]
    data = {
        "$no": "$a",
        "x": [shared, shared, ("$d",)],
        "y": "$original",
        "z": "${1 +}",
        "w": "e",
        "v": 3,
        "u": "$original2",
    }
    assert names_in(data) == {"a", "b", "c", "d", "original2"}
    assert names_in("$a") == {"a"}
    assert names_in(None) == set()
    circle = ["$a"]
    circle.append(circle)
    assert names_in(circle) == {"a"}


def test_an_expression_is_a_value():
    expression = parse("${dim + 1}")
    assert parse("${dim + 1}") is expression  # cached
    assert isinstance(expression, Expression)
    for twin in (pickle.loads(pickle.dumps(expression)), copy.deepcopy(expression)):
        assert twin == expression
        assert hash(twin) == hash(expression)
        assert twin.evaluate({"dim": 1}) == 2
    assert expression.text == "${dim + 1}"
    failure = ExpressionError("what", 3)
    twin = pickle.loads(pickle.dumps(failure))
    assert (twin.message, twin.offset) == ("what", 3)


# ---- messages ---------------------------------------------------------------------------------------------------

MISTAKES = [
    (
        "$widht",
        1,
        "unknown name `widht`; did you mean `width`? there are: dim, dims, flag, i, item, kind, none, rate, width",
    ),
    ("${ (dim +\n xyz) }", 11, "unknown name `xyz`; there are: "),
    ("${'é' + xyz}", 8, "unknown name `xyz`"),
    ("${dims[5]}", 7, "list index 5 is out of range: `dims` has 4 items"),
    ("${[7][-2]}", 6, "list index -2 is out of range: `[7]` has 1 item"),
    ("${kind[9]}", 7, "text index 9 is out of range: `kind` has 4 characters"),
    ("${dims[3 / 2]}", 7, "list index 1.5 is not a whole number; `//` divides to a whole number"),
    ("${dims['a']}", 7, "list index 'a' is not a whole number"),
    ("${item['kk']}", 7, "`item` has no key 'kk'; did you mean `k`? there are: k"),
    ("${dim[0]}", 2, "cannot take an item of `dim`: it is a number, 96"),
    ("${dim[1:]}", 2, "cannot take a part of `dim`: it is a number, 96"),
    ("${dims[::0]}", 2, "the step of a slice of `dims` is 0"),
    ("${dims['a':]}", 2, "slice bound 'a' of `dims` is not a whole number"),
    ("${1 + (dims + 3)}", 7, "cannot add a list and a number: [1, 2, 3, 4] + 3"),
    ("${dims - dims}", 2, "cannot subtract a list and a list: [1, 2, 3, 4] - [1, 2, 3, 4]"),
    ("${kind * rate}", 2, "cannot multiply a text and a number: 'swin' * 0.5"),
    ("${none + 1}", 2, "cannot add null and a number: None + 1"),
    ("${item + 1}", 2, "cannot add a mapping and a number: {'k': 1} + 1"),
    ("${1 + dim // 0}", 6, "division by zero: 96 // 0"),
    ("${dim % 0.0}", 2, "division by zero: 96 % 0.0"),
    ("${0 ** -1}", 2, "division by zero: 0 ** -1"),
    ("${(-8) ** 0.5}", 2, "(-8) ** 0.5 is not a real number"),
    ("${-kind}", 2, "cannot negate a text: 'swin'"),
    ("${kind < 1}", 2, "cannot compare a text and a number: 'swin' and 1"),
    ("${1 in dim}", 2, "cannot look for a number in a number: 1 in 96"),
    ("${sum([[1]])}", 2, "`sum` needs a number, not a list: [1]"),
    ("${sum(kind)}", 2, "`sum` needs a list, not a text: 'swin'"),
    ("${min([])}", 2, "`min` of an empty list"),
    ("${max(3)}", 2, "`max` needs a list, not a number: 3"),
    ("${len(3)}", 2, "`len` needs a list, not a number: 3"),
    ("${reversed(kind)}", 2, "`reversed` needs a list, not a text: 'swin'"),
    ("${ceil(1e308 * 10)}", 2, "`ceil` of inf"),
    ("${ramp(0, 1, 2.0)}", 2, "`ramp` needs a whole number, not 2.0"),
    ("${ramp(0, 1, -1)}", 2, "`ramp` of -1 numbers; from 0 to 10,000"),
    ("${min}", 2, "`min` is a function: write `min(…)`"),
    ("${}", 0, "the expression is empty"),
    ("${dim} x ${dim}", 5, "an expression is the whole value"),
    ("${$dim}", 2, "a name inside `${ }` has no `$`"),
    ("${(1}", 2, "cannot read the expression `(1`: '(' was never closed"),
    ("${'?' + (1}", 8, "cannot read the expression `'?' + (1`: '(' was never closed"),
    ("${flag && dim}", 8, "for `&&` write `and`"),
    ("${flag || dim}", 8, "for `||` write `or`"),
    ("${flag ? 1 : 2}", 7, "for `c ? a : b` write `a if c else b`"),
    ("${!flag}", 2, "for `!` write `not`"),
    ("$class", 1, "`class` is a word of Python and cannot be a name"),
    ("${dim # note}", 6, "`#` would hide the rest of the expression"),
    ("${len(dims, 1)}", 2, "`len` takes 1 argument, not 2"),
    ("${round()}", 2, "`round` takes 1 to 2 arguments, not 0"),
    ("${min()}", 2, "`min` takes 1 or more arguments, not 0"),
    ("${min(key=1)}", 2, "`min` takes no arguments by name"),
    (
        "${mim(1)}",
        2,
        "unknown function `mim`; did you mean `min`? there are: min, max, sum, len, ceil, floor, round, abs",
    ),
    ("${dims[0](1)}", 2, "only functions can be called: min, max"),
    ("${größe}", 2, "`größe` is not a name"),
    ("${ﬁ}", 2, "`ﬁ` is not a name"),
]


@pytest.mark.parametrize(("text", "offset", "message"), MISTAKES, ids=[text for text, _, _ in MISTAKES])
def test_messages(text, offset, message):
    failure = error(text, **({"width": 1} if "widht" in text else {}))
    assert message in failure.message
    assert failure.offset == offset


def test_no_names_at_all():
    assert caught(lambda: parse("$a").evaluate({})).message == "unknown name `a`; no names are known here"


REFUSED = [
    "a.b", "().__class__", "[x for x in a]", "(x for x in a)", "{x: 1}", "{1}", "{}", "(1, 2)", "()", "lambda: 1",
    "(x := 1)", "f'{a}'", "b'a'", "1j", "...", "a is b", "a is not b", "1 << 2", "1 >> 2", "1 & 2", "1 | 2",
    "1 ^ 2", "~1", "a @ b", "[*a]", "max(*a)", "min(**a)", "await a", "yield", "a[1, 2]", "a[()]", "eval('1')",
    "print(1)", "__import__('os')", "a()", "(min)(1)()", "a; b", "a = 1", "import os", "1, 2", "*a", "a\\\nb",
    "min.x(1)",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_in_the_language(text):
    """Refused when parsed, not first when evaluated."""
    with pytest.raises(ExpressionError) as info:
        parse(text)
    assert info.value.message


# ---- bounds -----------------------------------------------------------------------------------------------------

BOMBS = [
    "9 ** 9 ** 9 ** 9", "2 ** 64", "2 ** 63 * 2", "-2 ** 64", "10.0 ** 1000", "9" * 900, "2 ** -(10 ** 9) ** 9",
    "'a' * 10001", "10001 * 'a'", "'%99999999999d' % 1", "[0] * 10001", "[0] * 2 ** 63", "[] * 10001",
    "[[0] * 9999] * 9999", "[[[0] * 99] * 99] * 99", "[[0] * 6000, [0] * 6000]", "[0] * 6000 + [0] * 6000",
    "ramp(0, 1, 10001)", "ramp(0, 1, 2 ** 62)", "round(1, -10 ** 9)", "round(1.5, 10 ** 9)",
    "sum([2 ** 63, 2 ** 63])", "ceil(1e300)", "abs(big)", "big", "big ** 60", "-big", "big in [1]", "big > 1",
    "long + long", "text + text", "text * 2", "[long, long]", "reversed(nested)",
]  # fmt: skip


@pytest.mark.parametrize("text", BOMBS)
def test_bounds(text):
    start = time.process_time()
    names = {"big": 10**60, "long": [0] * 6000, "text": "x" * 6000, "nested": [[0] * 6000, [0] * 6000]}
    assert error(text, **names).message
    assert time.process_time() - start < 20


def test_bounds_are_exact():
    assert value("2 ** 63 + (2 ** 63 - 1)") == 2**64 - 1
    assert len(value("[0] * 10000")) == len(value("'a' * 10000")) == len(value("ramp(0, 1, 10000)")) == 10_000
    assert "at most 1000" in error("1" + " " * 1000).message
    assert value("1 " + "+ 1" * 50) == 51


@pytest.mark.parametrize(
    "text", ["-" * 990 + "1", "(" * 499 + ")" * 499, "not " * 249 + "1", "[" * 190 + "]" * 190, "1" + "+1" * 499,
             "a" + "[0]" * 300, "1 if 1 else " * 80 + "1", "2" + "**2" * 300, "-(" * 90 + "1" + ")" * 90]
)  # fmt: skip
def test_deep_nesting(text):
    assert "nested" in error(text).message


def test_the_longest_computations_are_short():
    start = time.process_time()
    assert value(" + ".join(["sum([1] * 9999)"] * 50)) == 50 * 9999
    assert value("[" + ", ".join(["[1] * 90 == [1] * 90"] * 30) + "]") == [True] * 30
    assert time.process_time() - start < 20


# ---- against Python, and against noise --------------------------------------------------------------------------

ATOMS = st.sampled_from(["a", "b", "c", "xs", "ys", "s", "0", "1", "2", "3", "0.5", "true", "'t'", "[1, 2]"])


OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "and", "or", "in"]


def _grown(inner):
    pair = st.tuples(inner, st.sampled_from(OPERATORS), inner)
    return st.one_of(
        pair.map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        pair.map(lambda t: f"{t[0]} {t[1]} {t[2]}"),
        inner.map("-{}".format),
        inner.map("not {}".format),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(inner, inner).map(lambda t: f"[{t[0]}, {t[1]}][{t[1]}]"),
        st.tuples(inner, inner).map(lambda t: f"xs[{t[0]}:{t[1]}]"),
        st.tuples(st.sampled_from(["min", "max", "sum", "len", "ceil", "floor", "round", "abs"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
    )


EXPRESSIONS = st.recursive(ATOMS, _grown, max_leaves=10)
PYTHON = {"true": True, "__builtins__": {}, "min": min, "max": max, "sum": sum, "len": len, "abs": abs, "round": round}
PYTHON |= {"ceil": math.ceil, "floor": math.floor}
SMALL = {"a": 7, "b": -3, "c": 2.5, "xs": [3, 1, 2], "ys": [], "s": "text"}


@given(EXPRESSIONS)
@settings(max_examples=250, deadline=None)
def test_agrees_with_python(text):
    """Where both give a value it is the same; where Python gives none, neither do we."""
    assume(text.count("**") <= 2)
    try:
        found = parse(text).evaluate(SMALL)
    except ExpressionError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of `[1, 2][0.5]`
        expected = eval(text, dict(PYTHON), dict(SMALL))
    assert type(found) is type(expected)
    assert found == expected or found != found


ARITHMETIC = st.recursive(
    st.sampled_from(["a", "b", "c", "1", "2", "3.5"]),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=8,
)


@given(ARITHMETIC)
@settings(max_examples=200, deadline=None)
def test_arithmetic_is_never_refused(text):
    """Of numbers, only a division by zero has no value."""
    try:
        expected = eval(text, {}, dict(SMALL))
    except ZeroDivisionError:
        assert "division by zero" in caught(lambda: parse(text).evaluate(SMALL)).message
    else:
        found = parse(text).evaluate(SMALL)
        assert (type(found), found) == (type(expected), expected)


def total(text: str) -> None:
    names_in([text])
    for written in (text, "${" + text + "}"):
        failure = ExpressionError("none")
        try:
            parse(written).evaluate({**SMALL, "d": {"k": 1}, "f": operator}, {"refs": lambda name: [name]})
        except ExpressionError as found:
            failure = found
        assert failure.message
        assert 0 <= failure.offset <= len(written)


@given(st.text(st.characters(exclude_categories=[]), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text(text):
    total(text)


WORDS = [
    "a", "b", "xs", "s", "d", "f", "0", "1", "9", "2.5", "1e9", "'x'", "[", "]", "(", ")", ",", ":", ".", "+", "-",
    "*", "/", "//", "%", "**", "<", "==", "!=", "in", "not", "and", "or", "if", "else", "min(", "sum(", "ramp(",
    "refs(", "round(", "#", "$", "\\", "\n", "é", '"', "for", "lambda", "len(", "[1, 2]", "'",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join))
@settings(max_examples=250, deadline=None)
def test_any_words(text):
    total(text)


def test_every_function_is_listed_with_its_arity():
    assert set(module._FUNCTIONS) | {"refs"} == set(module._ARITY)
