"""Untrusted files: whatever is written in one, `check` says so in less than a second and little memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import composer

HEAD = "blueprint: 1\nname: t\ninputs: {image: {type: B 4 *S, size: [32, 32]}}\n"


def graph(body: str, name: str = "t") -> str:
    return HEAD.replace("name: t", f"name: {name}") + f"graph:\n{body}\noutputs: {{y: a}}\n"


def nested(open_: str, inside: str, close: str, times: int) -> str:
    return open_ * times + inside + close * times


CONV = "{use: conv, out: 4}"
ALIASES = "".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else '*a'] * 9)}]\n" for i in range(12))

REFUSED = {
    "repeat": graph("  a: {use: conv, out: 4, repeat: 1000000000}"),
    "repeats in repeats": graph(
        "  a: {repeat: 1000, graph: {b: {repeat: 1000, graph: {c: {repeat: 1000, use: conv, out: 4}}}}}"
    ),
    "loops in loops": graph(
        "  a: {for: {k: '${ramp(0, 1, 9000)}'}, graph: {b: {for: {l: '${ramp(0, 1, 9000)}'}, use: conv, out: 4}}}"
    ),
    "power": graph("  a: {use: conv, out: '${10**10**10}'}"),
    "text times": graph("  a: {use: conv, out: \"${'a'*1000000000}\"}"),
    "list times": graph("  a: {for: {k: '${[1]*1000000000}'}, use: conv, out: 4}"),
    "ramp": graph("  a: {for: {k: '${ramp(0,1,1000000000)}'}, use: conv, out: 4}"),
    "long list": graph("  a: {for: {k: [" + ",".join(["1"] * 200_000) + "]}, use: conv, out: 4}"),
    "deep graph": graph("  a: " + nested("{graph: {b: ", CONV, "}}", 400)),
    "deep list": graph("  a: {use: conv, out: " + nested("[", "", "]", 50_000) + "}"),
    "only brackets": "[" * 100_000,
    "aliases": HEAD + f"graph:\n  a: &a [1,1,1,1,1,1,1,1,1]\n{ALIASES}outputs: {{y: a}}\n",
    "digits": graph("  a: {use: conv, out: 1" + "0" * 5000 + "}"),
    "long comment": graph("  # " + "x" * 10_000_000),
    "long key": graph("  a: {use: conv, " + "k" * 500_000 + ": 4}"),
    "many nodes": graph("".join(f"  n{i}: {CONV}\n" for i in range(150_000)) + f"  a: {CONV}"),
    "heads": graph("  a: {use: attention.multihead, heads: 1000000007, inner: 1000000000}"),
    "layers": graph("  a: {use: mlp, layers: 1000000000}"),
    "deep expression": graph("  a: {use: conv, out: '${" + nested("(", "4", ")", 2000) + "}'}"),
    "long expression": graph("  a: {use: conv, out: '${" + "+".join(["1"] * 50_000) + "}'}"),
}
"""Texts of which each must be an error."""

ACCEPTED = {
    "wide": graph("  a: {use: conv, out: 1000000000000000000}"),
    "large": HEAD.replace("[32, 32]", "[1000000000000, 1000000000000]") + f"graph: {{a: {CONV}}}\noutputs: {{y: a}}\n",
    "doubled": graph("".join(f"  c{i}: {{use: fuse.concat, from: [{p}, {p}]}}\n" for i in range(60) for p in (f"c{i - 1}" if i else "image",)) + f"  a: {CONV}"),
    "window": graph("  a: {use: attention.window, window: 1000000000, heads: 2}"),
    "strides": graph("  a: {use: conv, repeat: 60, out: 4, stride: 3, padding: 1}"),
}  # fmt: skip
"""Texts that are no mistake until something is built; or one, but soon said."""


def bounded(work: Callable[[], object], seconds: float = 1.0, mebibytes: int = 200) -> list[composer.Diagnostic]:
    """The mistakes that some work finds within its bounds, in processor time and additional memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        work()
        found = []
    except composer.ComposerError as fault:
        found = list(fault.diagnostics)
    assert time.process_time() - start < seconds
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < mebibytes * 2**20
    return found


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    composer.load("vit").check()


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(REFUSED[name])
    found = bounded(lambda: composer.load(path).check())
    assert found
    assert all(len(d.message) < 500 for d in found)


@pytest.mark.parametrize("name", ACCEPTED)
def test_large_numbers_cost_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(ACCEPTED[name])
    bounded(lambda: composer.load(path).check())


FILES: dict[str, dict[str, str]] = {
    "itself as a block": {"t": graph("  a: {use: ./t.yaml}")},
    "itself extended": {"t": "blueprint: 1\nname: t\nextends: t.yaml\n"},
    "each other": {"t": graph("  a: {use: ./u.yaml}"), "u": graph("  a: {use: ./t.yaml}", "u")},
    "twice the next": {
        **{f"u{i}": graph(f"  x: {{use: ./u{i + 1}.yaml}}\n  a: {{use: ./u{i + 1}.yaml}}", f"u{i}") for i in range(40)},
        "u40": graph(f"  a: {CONV}", "u40"),
        "t": graph("  a: {use: ./u0.yaml}"),
    },
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_use_each_other_end(tmp_path: Path, name: str) -> None:
    for file, text in FILES[name].items():
        (tmp_path / f"{file}.yaml").write_text(text)
    found = bounded(lambda: composer.load(tmp_path / "t.yaml").check(), seconds=1.5)
    assert {d.code for d in found} <= {"BP002", "BP109"}
    assert found


def test_a_long_chain_of_extensions_is_no_mistake(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"e{i}.yaml").write_text(f"blueprint: 1\nname: e{i}\nextends: e{i + 1}.yaml\n")
    (tmp_path / "e200.yaml").write_text(graph(f"  a: {CONV}"))
    assert not bounded(lambda: composer.load(tmp_path / "e0.yaml").check())


@pytest.mark.parametrize("shape", ["chain", "wide", "repeat", "loop", "transformer"])
def test_time_grows_with_the_nodes(shape: str) -> None:
    """Four times the nodes, about four times the time; quadratic would be sixteen."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import scaling

    make = getattr(scaling, shape)
    small = min(scaling.seconds(make(500)) for _ in range(3))
    large = min(scaling.seconds(make(2000)) for _ in range(2))
    assert large < 8 * small


def test_too_many_blueprints_end_the_loop_that_asks_for_them(tmp_path: Path) -> None:
    """Found by mutated files: it was said once for each copy of a long loop."""
    text = "blueprint: 1\ninputs: {image: {type: B 4 H W, size: [8, 8]}}\ngraph:\n"
    text += "  a: {use: residual.double, from: image, out: 4, repeat: 3000}\noutputs: {a: a}\n"
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load(tmp_path / "t.yaml").check()
    assert [d.code for d in caught.value.diagnostics] == ["BP002"]
