"""`composer fmt`: one form for every blueprint, comments and meaning kept, idempotent; a broken file is left alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import composer
from composer import source
from composer.blueprint import shipped
from composer.cli.main import run
from composer.diagnostics import Source
from composer.formatting import formatted

FILES = sorted(shipped().items())


@pytest.mark.parametrize(("name", "path"), FILES)
def test_shipped_blueprints_have_the_form(name: str, path: Path) -> None:
    text = path.read_text()
    assert formatted(text, name) == text


MESSY = """

# head
blueprint:    1   # version
name: 'x'
summary: >
    folded text
    more

      indented


source: {  paper :  "a, b" ,code: ~ , ok: True, 'q"': 'it''s' }
params:
- a
# in the list
-   b:   1
    c: 2
-  - x
   - y


# about graph
graph:
      stem:
         use:   conv
         # deep comment
         out: [1,2 ,3]   # trailing
         note: |+
           keep

      # before next
      next: {a: 1,
         b: 2, # in flow
         # own line in flow
         c: [ 1,
           2 ]
      }
      hang: [
          a, b,
            c ]
      k:
           {x: 1,
         y: {  } }
      long: plain text
          over lines
      q: "quoted
          over \\
          lines"
      anchor:   &a {x: 1}
      alias: { *a : *a }
      ? explicit
      :   value
      digit: |2
           two
      empty:
      #end comment of graph
  # between
#left
outputs: {}   \t


"""

CLEAN = """# head
blueprint: 1      # version
name: "x"
summary: >
  folded text
  more

    indented

source: {paper: "a, b", code: null, ok: true, 'q"': 'it''s'}
params:
  - a
  # in the list
  - b: 1
    c: 2
  - - x
    - y

# about graph
graph:
  stem:
    use: conv
    # deep comment
    out: [1, 2, 3]       # trailing
    note: |+
      keep

  # before next
  next: {a: 1,
         b: 2,  # in flow
         # own line in flow
         c: [1,
             2]
        }
  hang: [
    a, b,
    c]
  k:
    {x: 1,
     y: {}}
  long: plain text
    over lines
  q: "quoted
    over \\
    lines"
  anchor: &a {x: 1}
  alias: {*a : *a}
  ? explicit
  : value
  digit: |2
       two
  empty:
  # end comment of graph
# between
# left
outputs: {}
"""


def test_the_form() -> None:
    assert formatted(MESSY.replace("{ *a : *a }", "{ a : *a }")) == CLEAN.replace("{*a : *a}", "{a: *a}")


def test_line_ends_and_marks_of_other_systems() -> None:
    assert formatted("\ufeffblueprint: 1\r\nname:  a\r\n") == "blueprint: 1\nname: a\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n", "a:\n  - 1\n  - {b: 2}\n", "a: {b: [1, 2]}  # c\n", "---\na: 1\n", "# only\na: 1\n# end\n", "a: |\n  x\n\nb: 1\n",
        "a: >-\n  x\n\n  y\nb:\n", "a: 'don''t'\n", 'a: "\\""\n', "a: [\n  1,\n  2\n]\n", "a:\n  b:\n    c:\n      - d: 1\n        e: 2\n",
        "a: [1, 2,  # two\n    3]\n", "a: 'a # b'\n", "? a\n: b\n",
    ],
)  # fmt: skip
def test_what_has_the_form_stays(text: str) -> None:
    assert formatted(text) in (text, text.replace("'a # b'", '"a # b"'))


@pytest.mark.parametrize(("name", "path"), FILES[::6])
def test_any_indentation_comes_to_the_same(name: str, path: Path) -> None:
    """Twice the indentation, more spaces in brackets, trailing spaces, more empty lines."""
    text = path.read_text()
    wide = re.sub(r"^ +", lambda m: 2 * m[0], text, flags=re.MULTILINE)
    wide = re.sub(r"(?m)^( *)- (?=\S)", r"\1-   ", wide)
    changed = "\n\n" + re.sub(r"(?m)$", "  ", wide)
    alike = [re.sub(r" {2,}#", "  #", t) for t in (formatted(changed, name), text)]  # their columns are the author's
    assert alike[0] == alike[1]


def test_lists_at_the_column_of_their_key() -> None:
    assert formatted("a:\n- 1\n-  b: 2\n   c: 3\nd:\n- e\n") == "a:\n  - 1\n  - b: 2\n    c: 3\nd:\n  - e\n"


NAMES = st.sampled_from(["a", "b1", "'q r'", '"s: t"', "u v"])
SCALARS = st.sampled_from(["1", "1.5e-3", "true", "~", "x", "'it''s'", '"a\\tb"', "$x", '"${a + b}"', "B 3 *S", ""])


@st.composite
def texts(draw: st.DrawFn, indent: int = 0, depth: int = 0) -> str:
    """A block mapping with any spaces, comments and empty lines that YAML allows."""
    lines, used = [], set()
    step = draw(st.integers(1, 5))
    for _ in range(draw(st.integers(1, 4))):
        name = draw(NAMES)
        if name in used:
            continue
        used.add(name)
        for _ in range(draw(st.integers(0, 2))):
            lines.append(draw(st.sampled_from(["", " " * indent + "# note", "#left", "   "])))
        space, kind = " " * draw(st.integers(1, 3)), draw(st.integers(0, 4 if depth < 3 else 1))
        head = " " * indent + name + ":"
        if kind == 0:
            lines.append(head + space + draw(SCALARS) + draw(st.sampled_from(["", "  # t", "    "])))
        elif kind == 1:
            inner = f",{space}".join(x for x in draw(st.lists(SCALARS, max_size=3)) if x)
            lines.append(f"{head}{space}[{inner} ]")
        elif kind == 2:
            lines += [head, draw(texts(indent=indent + step, depth=depth + 1))]
        elif kind == 3:
            dash = " " * (indent + draw(st.integers(0, 3)))
            lines += [head, *(f"{dash}-{space}{draw(SCALARS) or 'z'}" for _ in range(draw(st.integers(1, 3))))]
        else:
            margin = " " * (indent + 1 + draw(st.integers(0, 4)))
            lines.append(f"{head} {{k:{space}1,\n{margin}l: [2,\n{margin}3] }}")
    return "\n".join(lines)


@settings(max_examples=150, deadline=None)
@given(texts())
def test_any_text_keeps_its_meaning_and_has_one_form(text: str) -> None:
    made = formatted(text)  # which compares both readings, and formats again
    assert repr(source.parse(Source("", made))) == repr(source.parse(Source("", text)))
    assert all(line == line.rstrip() for line in made.splitlines())
    assert made.count("#") == text.count("#")


# ---- the command ------------------------------------------------------------------------------------------------

NET = """blueprint: 1
name: tiny
inputs:   {image: {type: B 1 H W}}
graph:
    # the only node
    y: {use: conv,out: 4}
outputs: {y: y}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(NET)
    return path


def test_a_file_is_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = composer.load(file)
    assert run(["fmt", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"formatted {file}", "formatted 1 of 1 file"]
    assert "  y: {use: conv, out: 4}\n" in file.read_text()
    assert composer.load(file).graph == before.graph
    assert run(["fmt", str(file), "--check"]) == 0
    assert sorted(p.name for p in file.parent.iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize("option", ["--check", "--diff"])
def test_asking_writes_nothing(option: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fmt", str(file), option]) == (1 if option == "--check" else 0)
    assert file.read_text() == NET
    out = capsys.readouterr().out
    assert "would change 1 of 1 file" in out
    assert ("+inputs: {image: {type: B 1 H W}}" in out) == (option == "--diff")


def test_a_broken_file_is_left_and_the_others_are_formatted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = file.with_name("broken.yaml")
    broken.write_text("blueprint: 1\nname:   a\nname: b\n")
    assert run(["fmt", str(file.parent)]) == 1
    captured = capsys.readouterr()
    assert "formatted 1 of 2 files" in captured.out
    assert f"--> {broken}:3:1" in captured.err
    assert broken.read_text() == "blueprint: 1\nname:   a\nname: b\n"


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fmt", str(tmp_path / "none.yaml")]) == 1
    assert "BP001" in capsys.readouterr().err


def test_a_link_stays_a_link(file: Path) -> None:
    link = file.with_name("link.yaml")
    os.symlink(file, link)
    assert run(["fmt", str(link)]) == 0
    assert link.is_symlink()
    assert "out: 4}" in file.read_text()
