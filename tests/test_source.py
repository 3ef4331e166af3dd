"""Reading YAML: places, bounds, the core schema, and what a mistake looks like."""

import copy
import math
import os
import pickle
import random
import re
import string
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from composer import source as module
from composer.diagnostics import BlueprintError, Diagnostic, Source
from composer.source import Map, Seq, parse, read, span_of

LOADERS = [yaml.SafeLoader] + ([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request, monkeypatch):
    """Both parsers of PyYAML: libyaml may be missing."""
    monkeypatch.setattr(module, "_LOADER", request.param)


def load(text: str) -> Map:
    return parse(Source("file.yaml", text))


def mistakes(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(BlueprintError) as caught:
        load(text)
    str(caught.value)  # renders
    return caught.value.diagnostics


def mistake(text: str) -> Diagnostic:
    (diagnostic,) = mistakes(text)
    return diagnostic


def place(diagnostic: Diagnostic) -> tuple[int, int]:
    assert diagnostic.span is not None
    return diagnostic.span.line, diagnostic.span.column


def written(span) -> str:
    """The characters a span covers, from the text alone."""
    lines = span.source.text.splitlines(keepends=True)
    if span.line == span.end_line:
        return lines[span.line - 1][span.column - 1 : span.end_column - 1]
    last = lines[span.end_line - 1][: span.end_column - 1] if span.end_line <= len(lines) else ""
    middle = lines[span.line : span.end_line - 1]
    return "".join([lines[span.line - 1][span.column - 1 :], *middle, last])


# ---- data -------------------------------------------------------------------------------------------------------


def test_reads_nested_data(loader, tmp_path):
    path = tmp_path / "vit.yaml"
    path.write_text("blueprint: 1\nparams: {dim: 768, rate: 1e-5}\ngraph:\n  a: [x, [y, null]]\n  b:\n  - {use: c}\n")
    assert (
        read(path)
        == read(str(path))
        == {
            "blueprint": 1,
            "params": {"dim": 768, "rate": 1e-5},
            "graph": {"a": ["x", ["y", None]], "b": [{"use": "c"}]},
        }
    )
    assert read(path).span.source.name == str(path)


def test_order_of_keys_is_kept():
    keys = random.Random(0).sample(string.ascii_lowercase, 26)
    assert list(load("\n".join(f"k{k}: 1" for k in keys))) == [f"k{k}" for k in keys]


def test_byte_order_mark_and_line_ends(loader):
    data = load("\ufeffa: 1\r\nb: é x\r\n")
    assert data == {"a": 1, "b": "é x"}
    assert (data.value_spans["a"].line, data.value_spans["a"].column) == (1, 4)
    assert (data.value_spans["b"].line, data.value_spans["b"].column) == (2, 4)


def test_one_document_may_be_marked(loader):
    assert load("---\na: 1\n...\n# end\n") == {"a": 1}
    assert load("%YAML 1.1\n---\na: 1\n") == {"a": 1}


CORE = {
    "null": None, "Null": None, "NULL": None, "~": None, "": None, "nUll": "nUll",
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False, "tRue": "tRue",
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "N": "N",
    "0": 0, "-0": 0, "+12": 12, "010": 10, "08": 8, "0o17": 15, "0x1F": 31, "0x1f": 31, "-0x1F": "-0x1F", "0o8": "0o8",
    "0b1": "0b1", "1_000": "1_000", "12:30": "12:30", "1:2:3": "1:2:3", "2001-12-14": "2001-12-14", "0O7": "0O7",
    "1e-5": 1e-5, "1e5": 1e5, "1.": 1.0, ".5": 0.5, "-.5E+3": -500.0, "1.5": 1.5, "1e": "1e", ".": ".", "e5": "e5",
    ".inf": math.inf, "-.Inf": -math.inf, "+.INF": math.inf, "inf": "inf", "nan": "nan", "--1": "--1", "+": "+",
    "1 2": "1 2", "٣": "٣", "=": "=", "$x": "$x", "${x + 1}": "${x + 1}", "B $c *S": "B $c *S",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), CORE.items())
def test_core_schema(text, value):
    found = load(f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number():
    assert all(math.isnan(load(f"a: {text}")["a"]) for text in (".nan", ".NaN", ".NAN"))


@pytest.mark.parametrize("text", [t for t in CORE if t])
def test_quoted_scalars_are_texts(text):
    block = load(f"a: '{text}'\nb: \"{text}\"\nc: |-\n  {text}\nd: >-\n  {text}\n")
    assert block == dict.fromkeys("abcd", text)


REFERENCE = [  # chapter 10.3.2 of the YAML 1.2.2 specification, in its order
    (r"null|Null|NULL|~", lambda t: None),
    (r"true|True|TRUE|false|False|FALSE", lambda t: t.lower() == "true"),
    (r"[-+]?[0-9]+", int),
    (r"0o[0-7]+", lambda t: int(t[2:], 8)),
    (r"0x[0-9a-fA-F]+", lambda t: int(t[2:], 16)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?(\.inf|\.Inf|\.INF)", lambda t: float(t.replace(".", ""))),
    (r"\.nan|\.NaN|\.NAN", lambda t: math.nan),
]


def by_the_book(text: str):
    for pattern, value in REFERENCE:
        if re.fullmatch(pattern, text):
            return value(text)
    return text


@given(st.text("0123456789abcdefxoEeinfINFaltrusTRU~._+", min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_scalars_agree_with_the_specification(text):
    found, expected = load(f"a: {text}")["a"], by_the_book(text)
    assert type(found) is type(expected)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_yaml_1_1_words_are_keys():
    assert load("on: 1\nno: 2\nyes: 3\n12:30: 4\n") == {"on": 1, "no": 2, "yes": 3, "12:30": 4}


# ---- places -----------------------------------------------------------------------------------------------------


def test_every_value_is_where_it_says(loader):
    text = "é: a1\nlist: [b2, {k: c3}, 'd4']\ndeep:\n  - e5\n  -   f6: \"g7\"\n      h8:   i9  # comment\n"
    data = load(text)
    assert written(data.key_spans["é"]) == "é"
    assert written(span_of(data, "é")) == "a1"
    assert [written(s) for s in data["list"].item_spans] == ["b2", "{k: c3}", "'d4'"]
    assert written(span_of(data["list"][1], "k")) == "c3"
    assert written(span_of(data, "list")) == written(data["list"].span) == "[b2, {k: c3}, 'd4']"
    assert written(span_of(data["deep"], 0)) == "e5"
    assert written(span_of(data["deep"], -1)) == 'f6: "g7"\n      h8:   i9'
    assert written(data["deep"][1].key_spans["h8"]) == "h8"
    assert written(span_of(data["deep"][1], "h8")) == "i9"
    assert written(data["deep"].span).startswith("- e5")
    assert (data.span.line, data.span.column) == (1, 1)


def test_place_of_nothing_and_of_block_texts(loader):
    data = load("a:\nb: |\n  text\nc: 1\n")
    assert (data.value_spans["a"].line, data.value_spans["a"].column) == (1, 3)
    assert data.value_spans["b"].line == 2
    assert written(data.value_spans["b"]) == "|\n  text\n"


def test_place_after_an_anchor(loader):
    data = load("a: &one {x: 1}\nb: &two  text\nc: *one\nd: &three\n  k: v\ne: &four\n")
    assert written(span_of(data, "a")) == "{x: 1}"
    assert written(span_of(data, "b")) == "text"
    assert written(span_of(data, "c")) == "*one"
    assert written(data["c"].span) == "{x: 1}"
    assert data["e"] is None


def test_words_have_no_accidental_place(loader):
    """Values are unique words, so each place is checked against a search of the text."""
    words = [f"w{i}é" for i in range(200)]
    rng, lines = random.Random(1), []
    for i in range(0, 200, 4):
        a, b, c, d = words[i : i + 4]
        shape = rng.choice(
            ["{0}: [{1}, {{{2}: {3}}}]", "{0}:\n    {1}:\n    - {2}\n    - '{3}'", '{0}: {{{1}: "{2}",\n  {3}: 1}}']
        )
        lines.append(shape.format(a, b, c, d))
    text = "\n".join(lines)
    found = {}

    def collect(value):
        if isinstance(value, Map):
            found.update(value.key_spans)
            for key, item in value.items():
                found.setdefault(item if isinstance(item, str) else None, span_of(value, key))
                collect(item)
        elif isinstance(value, Seq):
            for item, span in zip(value, value.item_spans, strict=True):
                found.setdefault(item if isinstance(item, str) else None, span)
                collect(item)

    collect(load(text))
    assert set(words) <= set(found)
    for word in words:
        line = next(n for n, row in enumerate(text.split("\n"), 1) if re.search(rf"{word}\b", row))
        column = re.search(rf"['\"]?{word}\b", text.split("\n")[line - 1]).start() + 1
        assert (found[word].line, found[word].column) == (line, column)


def test_span_of_what_has_none():
    data = load("a: [1]\n")
    data["added"] = 2
    data["a"].append(3)
    assert span_of(data, "added") is span_of(data, "missing") is span_of(data, 0) is None
    assert span_of(data["a"], 1) is span_of(data["a"], 7) is span_of(data["a"], "a") is None
    assert span_of({"a": 1}, "a") is span_of([1], 0) is span_of(3, 0) is None
    assert span_of(data["a"], 0) is not None


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v)), lambda v: v.copy()]
)
def test_copies_keep_places(clone):
    data = load("a: [1, {b: 2}]\nc: x\n")
    twin = clone(data)
    assert type(twin) is Map
    assert twin == data
    assert twin.span == data.span
    assert twin.key_spans == data.key_spans
    assert twin.value_spans == data.value_spans
    twin_list = clone(data["a"])
    assert type(twin_list) is Seq
    assert (twin_list, twin_list.span, twin_list.item_spans) == (data["a"], data["a"].span, data["a"].item_spans)
    twin["new"], twin.value_spans["new"] = 1, twin.span
    assert "new" not in data
    assert "new" not in data.value_spans


def test_deep_copies_are_deep_and_keep_sharing():
    data = load("a: &x [1, {b: 2}]\nc: *x\n")
    twin = copy.deepcopy(data)
    assert twin["a"] is twin["c"]
    assert twin["a"] is not data["a"]
    assert span_of(twin["a"][1], "b") == span_of(data["a"][1], "b")
    twin["a"][1]["b"] = 3
    assert data["a"][1]["b"] == 2


# ---- bounds -----------------------------------------------------------------------------------------------------


def refused_fast(text: str, code: str = "BP002", seconds: float = 20.0) -> Diagnostic:
    start = time.process_time()
    diagnostic = mistakes(text)[-1]
    assert time.process_time() - start < seconds
    assert diagnostic.code == code
    return diagnostic


@pytest.mark.parametrize("opening", ["[", "{a: ", "[{a: ", "- ", "? "])
def test_200_000_nested_brackets(opening, tmp_path):
    path = tmp_path / "deep.yaml"
    path.write_text("a:\n  " + opening * (200_000 // len(opening)))
    with pytest.raises(BlueprintError, match="values nested 65 deep; at most 64") as caught:
        read(path)
    assert caught.value.diagnostics[-1].code == "BP002"
    assert len(caught.value.diagnostics) <= 2


def test_nested_brackets_from_the_first_character():
    assert refused_fast("[" * 200_000, "BP006").span is not None
    assert "nested 65 deep" in refused_fast("{a: " * 50_000).message


def test_depth_bound_is_exact(loader):
    assert load("a: " + "[" * 63 + "]" * 63)
    assert "nested 65 deep; at most 64" in refused_fast("a: " + "[" * 64 + "]" * 64).message


def test_depth_counts_what_aliases_repeat(loader):
    deep = "a: &a " + "[" * 40 + "]" * 40 + "\nb: "
    assert load(deep + "[" * 23 + "*a" + "]" * 23)
    diagnostic = refused_fast(deep + "[" * 24 + "*a" + "]" * 24)
    assert diagnostic.message == "values nested 65 deep; at most 64"
    assert place(diagnostic) == (2, 28)


def test_50_megabytes_are_not_read(tmp_path):
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(50 * 2**20)
    start = time.perf_counter()
    with pytest.raises(BlueprintError, match="has 52,428,800 bytes; a blueprint has at most 1,048,576") as caught:
        read(path)
    assert time.perf_counter() - start < 20
    assert caught.value.diagnostics[0].code == "BP002"


def test_byte_bound_counts_bytes():
    assert load("a: " + "é" * (2**19 - 2))
    assert "1,048,577 bytes" in refused_fast("a: " + "é" * (2**19 - 1)).message


def test_alias_bound(loader):
    text = "a: &a 1\nb: [" + "*a, " * 99
    assert load(text + "*a]")["b"] == [1] * 100
    diagnostic = refused_fast(text + "*a, *a]")
    assert diagnostic.message == "more than 100 aliases; `*a` is one too many"
    assert place(diagnostic) == (2, 5 + 4 * 100)


def test_billion_laughs(loader):
    lines = ["l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10)]
    diagnostic = refused_fast("\n".join(lines))
    assert "values up to here, repeated ones counted; at most 100,000" in diagnostic.message
    assert place(diagnostic)[0] == 6  # 9 ** 5 > 50,000 in the fifth line, the sixth is too much


def test_node_count_is_exact(monkeypatch, loader):
    monkeypatch.setattr(module, "MAX_NODES", 12)
    text = "a: &a [x, {k: v}]\nb: *a\n"  # 1 + key 1 + (1 + 1 + 1 + 2) + key 1 + 5 = 13
    assert "13 values up to here" in refused_fast(text).message
    monkeypatch.setattr(module, "MAX_NODES", 13)
    assert load(text)["b"] == ["x", {"k": "v"}]


def test_merge_bomb(loader):
    lines = ["a0: &a0 {k: v}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
    assert [d.code for d in mistakes("\n".join(lines))].count("BP005") >= 1


def test_too_many_nodes():
    assert "100,001 values up to here" in refused_fast("a: [" + "1," * 100_000 + "]").message


def test_a_value_inside_itself(loader):
    diagnostic = refused_fast("a: &a [1, *a]")
    assert diagnostic.message == "`*a` stands inside the value it repeats: that has no end"
    assert place(diagnostic) == (1, 11)


def test_many_tag_directives():
    text = "".join(f"%TAG !{i}! x\n" for i in range(60_000)) + "---\na: 1\n"
    assert "`%TAG` is refused" in refused_fast(text, "BP007").message
    assert refused_fast("a: 1\n...\n" + text, "BP006").span.line == 3


def test_numbers_of_many_digits(loader):
    assert load("a: " + "9" * 64)["a"] == 10**64 - 1
    diagnostic = refused_fast("a: " + "9" * 5000)
    assert diagnostic.message == "the number `9999999999999999999…` has 5000 digits; at most 64 are read"
    assert refused_fast("a: 0x" + "f" * 5000).code == "BP002"


@pytest.mark.parametrize(
    "text",
    [
        " " * 1_048_000 + "a: b: c",
        "a: b" + " " * 1_048_000 + "x: 1",
        "a: " * 349_000,
        '"' + "\n" * 1_048_000,
        ":" * 1_048_000,
    ],
    ids=["spaces", "gap", "colons", "lines", "colon run"],
)
def test_mistakes_in_long_lines_are_explained_fast(text):
    start = time.perf_counter()
    mistakes(text)
    assert time.perf_counter() - start < 20


def test_ten_thousand_lines_do_not_hang():
    text = "\n".join(f"key{i}: {{use: mlp, dim: {i}}}" for i in range(10_000))
    start = time.process_time()
    data = load(text)
    assert time.process_time() - start < 20  # 0.2 s alone; a guard against a hang, not a measurement
    assert data["key9999"]["dim"] == 9999


# ---- what cannot be read ----------------------------------------------------------------------------------------


def unreadable(path) -> Diagnostic:
    with pytest.raises(BlueprintError) as caught:
        read(path)
    (diagnostic,) = caught.value.diagnostics
    str(caught.value)
    assert diagnostic.code == "BP001"
    return diagnostic


def test_missing_file(tmp_path):
    (tmp_path / "swin_unet.yaml").write_text("a: 1")
    (tmp_path / "other.txt").write_text("")
    message = unreadable(tmp_path / "swin_unte.yaml").message
    assert message.endswith("there is no such file; did you mean `swin_unet.yaml`?")
    assert unreadable(tmp_path / "0000").message.endswith("there is no such file")
    assert "there is no folder" in unreadable(tmp_path / "no" / "a.yaml").message
    assert "there is no folder" in unreadable(tmp_path / "other.txt" / "a.yaml").message


def test_folder_pipe_and_bad_name(tmp_path):
    assert "it is a folder, not a file" in unreadable(tmp_path).message
    os.mkfifo(tmp_path / "pipe")
    assert "it is a device or a pipe" in unreadable(tmp_path / "pipe").message
    assert "null byte" in unreadable("a\0b").message
    assert unreadable("x" * 5000 + ".yaml").code == "BP001"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = tmp_path / "secret.yaml"
    path.write_text("a: 1")
    path.chmod(0)
    assert "permission denied" in unreadable(path).message


def test_permission_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("a: 1")

    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    assert unreadable(tmp_path / "a.yaml").message.endswith("a.yaml`: permission denied")


def test_not_a_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xe9\n")
    diagnostic = unreadable(path)
    assert diagnostic.message.endswith("byte 3 (0xe9) is not UTF-8")
    path.write_bytes("a: é\nb: ü".encode() + b"\xff\x1b[31m")
    diagnostic = unreadable(path)
    assert place(diagnostic) == (2, 5)
    assert "\x1b" not in str(BlueprintError(diagnostic))
    path.write_bytes("a: 1".encode("utf-16-le"))
    assert "it is not a text (byte 1 is NUL)" in unreadable(path).message
    assert mistake("a: \0").code == "BP001"


def test_control_characters_do_not_reach_the_terminal():
    diagnostic = mistake("a: 1\nb: é\x1b[31m")
    assert (diagnostic.code, place(diagnostic)) == ("BP003", (2, 5))
    assert "U+001B" in diagnostic.message
    assert "\x1b" not in str(BlueprintError(diagnostic))


# ---- what is refused --------------------------------------------------------------------------------------------


def test_duplicate_key(loader):
    diagnostic = mistake("a: 1\nb:\n  c: 1\n  d: 2\n  'c': 3\n")
    assert (diagnostic.code, diagnostic.message) == ("BP004", "the key `c` stands twice in one mapping")
    assert place(diagnostic) == (5, 3)
    (first,) = diagnostic.others
    assert (first.text, first.span.line, first.span.column) == ("first here", 3, 3)
    assert str(BlueprintError(diagnostic)).splitlines()[3:] == [
        "3 |   c: 1",
        "  |   - first here",
        "5 |   'c': 3",
        "  |   ^^^ again here",
    ]


def test_merge_key(loader):
    diagnostic = mistake("base: &b {x: 1}\na:\n  <<: *b\n")
    assert diagnostic.code == "BP005"
    assert place(diagnostic) == (3, 3)
    assert diagnostic.message == "the merge key `<<` is refused: it hides where a value comes from"
    assert load('"<<": 1\na: <<\n') == {"<<": 1, "a": "<<"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`file.yaml` is empty; a blueprint is a mapping"),
        ("# only\n", "`file.yaml` is empty; a blueprint is a mapping"),
        ("---\n", "the top level of a blueprint is a mapping; this is nothing"),
        ("- a\n", "the top level of a blueprint is a mapping; this is a list"),
        ("text", "the top level of a blueprint is a mapping; this is a text"),
        ("12", "the top level of a blueprint is a mapping; this is a whole number"),
        ("a: 1\n---\nb: 2\n", "a file holds one blueprint; something follows the end of it here"),
        ("{a: 1} x", "a file holds one blueprint; something follows the end of it here"),
    ],
)
def test_not_one_mapping(loader, text, message):
    diagnostic = mistake(text)
    assert (diagnostic.code, diagnostic.message) == ("BP006", message)
    assert (diagnostic.span is None) == ("is empty" in message)


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("a: !!str 1", "the tag `!!str` is refused: a blueprint is data, and a tag asks for more", (1, 4)),
        ("a: &x !!python/object/apply:os.system [ls]", "the tag `!!python/object/apply:os.system` is refused", (1, 7)),
        ("a: ! 1", "the tag `!` is refused", (1, 4)),
        ("!t\na: 1", "the tag `!t` is refused", (1, 1)),
        ("a: 1\n2: b", "the key `2` is a whole number; keys are strings", (2, 1)),
        ("1e-5: b", "the key `1e-5` is a number; keys are strings", (1, 1)),
        ("true: b", "the key `true` is a truth value; keys are strings", (1, 1)),
        ("~: b", "the key `~` is null; keys are strings", (1, 1)),
        ("? \n: b", "a key is missing here; keys are strings", (1, 2)),
        ("[a, b]: c", "a list cannot be a key; keys are strings", (1, 1)),
        ("a:\n  {x}: c", "a mapping cannot be a key; keys are strings", (2, 3)),
        ("a: &x 1\n*x : c", "the key `*x` is a whole number; keys are strings", (2, 1)),
    ],
)
def test_tags_and_odd_keys(loader, text, message, at):
    diagnostic = mistake(text)
    assert diagnostic.code == "BP007"
    assert diagnostic.message.startswith(message)
    assert place(diagnostic) == at


def test_help_for_a_key_that_is_a_number():
    assert mistake("1: a").help == ('quote it: `"1"`',)


def test_alias_of_a_text_may_be_a_key(loader):
    assert load("a: &x name\n*x : 2\n") == {"a": "name", "name": 2}


def test_unknown_alias(loader):
    diagnostic = mistake("a: &stem 1\nb: *stme\n")
    assert diagnostic.message == "`*stme` repeats nothing: no `&stme` stands before it; did you mean `stem`?"
    assert (diagnostic.code, place(diagnostic)) == ("BP003", (2, 4))


def test_all_mistakes_at_once(loader):
    found = mistakes("a: 1\na: 2\nb: !x 1\n<<: {}\n3: 4\nc: *d\n")
    assert [(d.code, place(d)[0]) for d in found] == [
        ("BP004", 2),
        ("BP007", 3),
        ("BP005", 4),
        ("BP007", 5),
        ("BP003", 6),
    ]
    assert [d.code for d in mistakes("a: 1\na: 2\nb: [1\n")] == ["BP004", "BP003"]
    assert len(mistakes("a: 1\n" * 1000)) == module.MAX_MISTAKES


@pytest.mark.parametrize(
    ("text", "at", "message", "help"),
    [
        ("{a: ${x}}", (1, 5), "inside `{ }` and `[ ]` an expression `${…}` must stand in quotes", 'write "${x}"'),
        ("é: [1, ${min(1, 2)}]", (1, 8), "an expression `${…}` must stand in quotes", 'write "${min(1, 2)}"'),
        ('a: {b: ${f("k")}, c: 1}', (1, 8), "must stand in quotes", "write '${f(\"k\")}'"),
        ("a: @foo", (1, 4), "a text cannot begin with `@`", 'quote it: "@foo"'),
        ("a: [`x`]", (1, 5), "a text cannot begin with a backtick", 'quote it: "`x`"'),
        ("a: %x", (1, 4), "a text cannot begin with `%`", 'quote it: "%x"'),
        ("%x: 1", (1, 1), "a text cannot begin with `%`", 'quote it: "%x:"'),
        ("at: *.fuse", (1, 5), "a value that begins with `*` is an alias", 'quote a text: "*.fuse"'),
        ("at: [**.fuse, a]", (1, 6), "a value that begins with `*` is an alias", 'quote a text: "**.fuse"'),
        ("summary: A (2022): b # c", (1, 10), "a text that holds `: ` must stand in quotes", 'write "A (2022): b"'),
        ('a:\n - s: "A": b', (2, 7), "must stand in quotes", "write '\"A\": b'"),
        ("a: {s: A: b}", (1, 9), "a second `:` where `,` or the end is expected", "a text that holds `: `"),
        ("a: 1\n  b: 2", (2, 3), "is indented below a line that already has its value", "give it the"),
        ("a: 1\n: 2", (2, 1), "a key is missing before this `:`", ""),
        ("a:\n\tb: 1", (2, 1), "a tab cannot indent a line", "use spaces"),
        ("a:\n  b: 1\n  \tc: 1", (3, 3), "a tab cannot indent a line", "use spaces"),
        ("a: - b", (1, 4), "a list item `- ` cannot begin here", "put it on a line of its own"),
        ("a: 1\nb: \"x\n\n", (2, 4), 'this `"` is never closed', ""),
        ("a: [1, {b: 2}\n", (1, 4), "this `[` is never closed", ""),
        ("a: [1, 2\nb: 3\n", (1, 4), "this `[` is not closed, and line 2 looks like a new entry", ""),
        ("a: 'x'y", (1, 6), "the value ends with this `'`, and more follows", "a text that begins with a quote"),
        ('a: "\\q"', (1, 5), "`\\q` is no escape that YAML knows", "use 'single quotes'"),
    ],
)  # fmt: skip
def test_syntax_is_explained(loader, text, at, message, help):
    diagnostic = mistake(text)
    assert diagnostic.code == "BP003"
    assert diagnostic.message.startswith("not valid YAML: ")
    assert message in diagnostic.message
    assert place(diagnostic) == at
    assert " ".join(diagnostic.help).startswith(help)


def test_the_advice_is_right():
    """What the help says to write instead is valid, and gives the text."""
    for text, fixed, value in [
        ("a: {b: ${x}}", 'a: {b: "${x}"}', "${x}"),
        ('a: {b: ${f("k")}}', "a: {b: '${f(\"k\")}'}", '${f("k")}'),
    ]:
        advice = mistake(text).help[0].removeprefix("write ")
        assert text.replace("${x}" if "x" in text else '${f("k")}', advice) == fixed
        assert load(fixed)["a"]["b"] == value
    advice = mistake("s: it's A: b").help[0].removeprefix("write ")
    assert load(f"s: {advice}") == {"s": "it's A: b"}


def test_other_syntax_errors_say_where(loader):
    diagnostic = mistake("a:\n - x\n b: 1\n")
    assert place(diagnostic) == (3, 2)
    assert diagnostic.message.startswith("not valid YAML: ")
    assert [(label.span.line, label.span.column) for label in diagnostic.others] == [(2, 2)]


# ---- fuzz -------------------------------------------------------------------------------------------------------

YAMLISH = st.lists(
    st.sampled_from([*"abé 1:,-?#&*!|>%@`'\"[]{}\n\n\t~.$\\<=", ": ", "- ", "\n  ", "a: ",
                     "${", "<<: ", "&a ", "*a", "---\n", "...\n", "%TAG"])
).map("".join)  # fmt: skip


def data_or_mistake(text: str) -> None:
    try:
        data = load(text)
    except BlueprintError as error:
        return sound(error)
    assert type(data) is Map
    assert set(data) == set(data.key_spans) == set(data.value_spans)
    assert pickle.loads(pickle.dumps(data)) == data or "nan" in text.lower()


def sound(error: BlueprintError) -> None:
    """Renders, and names places that exist."""
    assert str(error).startswith("error[BP00")
    for span in [d.span for d in error.diagnostics if d.span]:
        assert 1 <= span.line <= len(span.source.lines) + 1
        assert 1 <= span.column <= len([*span.source.lines, ""][span.line - 1]) + 1


@given(YAMLISH)
@settings(max_examples=200, deadline=None)
def test_any_yaml_like_text(text):
    data_or_mistake(text)


@given(YAMLISH)
@settings(max_examples=80, deadline=None)
def test_any_yaml_like_text_without_libyaml(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LOADER", yaml.SafeLoader)
        data_or_mistake(text)


@given(st.text(st.characters(exclude_categories=[])))
@settings(max_examples=200, deadline=None)
def test_any_text(text):
    data_or_mistake(text)


@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes(tmp_path_factory, data):
    path = Path(tmp_path_factory.getbasetemp()) / "fuzz.yaml"
    path.write_bytes(data)
    try:
        read(path)
    except BlueprintError as error:
        sound(error)


PLAIN = st.text(
    st.characters(
        min_codepoint=32,
        max_codepoint=0x2FFF,
        exclude_characters="\x7f",
        exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"],
    )
)


@given(
    st.dictionaries(
        PLAIN,
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**70), 2**70) | PLAIN,
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4),
            max_leaves=12,
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([True, False]),
)
@settings(max_examples=30, deadline=None)
def test_what_pyyaml_writes_is_read_back(data, flow):
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True, default_style='"', sort_keys=False)
    text = re.sub(r"!!(int|bool|null) \"([^\"]*)\"", r"\2", text)
    assert load(text) == data
