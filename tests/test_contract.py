"""`check_block` and `pytest --composer-blocks`: every kind of broken promise is found, by its aspect, and said readably."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import contract_toys as toys
import pytest
import torch  # before pytester, which forgets what a run imported

import composer
from composer.testing import ASPECTS, Contract, check_block, contract_of
from composer.testing import aspects as real
from composer.testing.contract import cases_of, with_block
from composer.testing.examples import examples_of
from composer.testing.pytest_plugin import Blocks

pytest_plugins = ["pytester"]
NONE = composer.Registry()
TOYS = Path(toys.__file__)

BROKEN: dict[type[composer.Block], str] = {
    toys.Good: "",
    toys.Split: "",
    toys.Waived: "",
    toys.Lies: "type sizes",
    toys.Kernel: "sizes",
    toys.Norm: "finite",
    toys.Idle: "gradients",
    toys.Crowd: "batch",
    toys.Dice: "modes",
    toys.Counter: "buffers",
    toys.Hidden: "state cost",  # a tensor that is no buffer is not among those without numbers
    toys.Branch: "batch cost compile export",
    toys.Sealed: "copy",
    toys.Narrow: "bfloat16 float64",
    toys.Clock: "modes compile",
    toys.Refuses: "type",
    toys.Faulty: "type",
}


@pytest.mark.parametrize("block", BROKEN, ids=lambda b: b.name)
def test_what_is_broken_is_found_by_its_aspect(block: type[composer.Block]) -> None:
    report = contract_of(block, NONE)
    assert [c.aspect for c in report.failures] == BROKEN[block].split(), str(report)
    if not report.failures:
        assert check_block(block, NONE) == report


def test_every_aspect_is_broken_once() -> None:
    """A check that nothing fails proves nothing."""
    assert {a for found in BROKEN.values() for a in found.split()} == set(ASPECTS)


def test_every_toy_is_here() -> None:
    found = {b for b in vars(toys).values() if isinstance(b, type) and issubclass(b, composer.Block) and b.name}
    assert found == set(BROKEN)


def test_aspects_are_named_once() -> None:
    assert tuple(real.ASPECTS) == ASPECTS
    assert set(ASPECTS) >= real.ONE_RANK | real.REPEATED


def test_a_broken_contract_is_said_readably() -> None:
    with pytest.raises(AssertionError) as fault:
        check_block(toys.Lies, NONE, aspects=["type", "modes"])
    place = f"{TOYS}:{_line('class Lies')}"
    assert str(fault.value) == (
        f"contract of `toy.lies`, Lies at {place}: 1 broken\n"
        "  FAIL  type       in 3 of 3 networks\n"
        "        - the rule says (B, 8, L), the module makes another shape in evaluation\n"
        "          with {}\n"
        "          on x (B, 4, 4)\n"
        "          expected (2, 8, 4)\n"
        "          got      (2, 4, 4)\n"
        "  pass  modes      3 networks"
    )


def _line(text: str) -> int:
    return next(k for k, line in enumerate(TOYS.read_text().splitlines(), 1) if line.startswith(text))


def test_a_promise_that_is_not_made_has_its_reason() -> None:
    (check,) = check_block(toys.Waived, NONE, aspects=["batch"]).checks
    assert (check.status, check.reason) == ("n/a", "not promised: it centres each batch")


def test_refused_sizes_are_said() -> None:
    (check,) = check_block(composer.Registry.discover().blocks["pool.max"], aspects=["sizes"]).checks
    assert "at least 2; refuses 1" in check.reason


def test_an_instance_is_checked_with_its_options() -> None:
    report = check_block(toys.Good(out=7), NONE, aspects=["type"])
    assert report.checks[0].cases == 3
    assert {c.example.graph["node"]["out"] for c in _cases(toys.Good, {"out": 7})} == {7}


def _cases(block: type[composer.Block], *options: dict[str, object]) -> tuple[real.Case, ...]:
    return cases_of(block, with_block(NONE, block), options or None)


def test_examples_are_made_from_the_types_of_options() -> None:
    """The first values that the rule accepts, then each option changed by itself, then each further port."""
    cases = _cases(toys.Split)
    examples = list(dict.fromkeys(c.example.options for c in cases))
    assert examples[0] == "{groups: 3}"
    assert {"{groups: 3, kind: mean}", "{groups: 3, bias: false}", "{groups: 3, from: skip}"} <= set(examples)
    assert {c.example.channels % 3 for c in cases} == {0}
    assert {c.rank for c in cases} == {1, 2, 3}


def test_declared_examples_are_taken_in_the_place_of_made_ones() -> None:
    class Declared(toys.Split):
        name = "toy.declared"
        examples: ClassVar[Any] = (
            {"groups": 6},
            {"graph": {"twice": {"use": "toy.good", "out": 9}, "node": {"use": "toy.declared", "groups": 9}},
             "ranks": [1], "not_promised": {"modes": "so"}},
        )  # fmt: skip

    registry = with_block(composer.Registry.of(toys.Good), Declared)
    first, second = examples_of(Declared, registry)
    assert (first.ranks, second.ranks) == ((1, 2, 3), (1,))
    (check,) = check_block(Declared, registry, aspects=["modes"]).checks
    assert (check.status, check.cases) == ("pass", 3)
    assert check.reason.startswith("not promised with example 2: {graph:")


def test_what_no_example_fits_says_why() -> None:
    with pytest.raises(AssertionError, match=r"no example was found .* for \{\} it says: nothing fits\. Declare"):
        check_block(toys.Refuses, NONE)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: check_block(toys.Same), "takes a Block with a name"),
        (lambda: check_block(toys.Good, NONE, aspects=["gradient"]), "no aspect `gradient`; did you mean `gradients`?"),
    ],
)
def test_wrong_uses(wrong: object, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said.replace("?", r"\?")):
        wrong()  # type: ignore[operator]


def test_blocks_defined_in_functions_are_checked() -> None:
    class Local(composer.Block):
        name = "toy.local"
        shape = "batch ... dim -> batch ... dim"

        def build(self, dim: int) -> torch.nn.Module:
            return torch.nn.Linear(dim, dim)

    assert isinstance(check_block(Local, NONE, aspects=["type", "copy"]), Contract)


# ---------------------------------------------------------------- the plugin of pytest


def test_pytest_starts_without_composer() -> None:
    code = "import sys, pytest_composer; sys.exit(any(m.split('.')[0] in ('composer', 'torch') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_is_collected_by_block_and_aspect(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="def test_other(): raise AssertionError('not asked for')")
    chosen = "(lies or good or waived) and (type or batch)"
    result = pytester.runpytest("--composer-blocks", TOYS, "-k", chosen, "-rs", "-v", "--continue-on-collection-errors")
    result.assert_outcomes(passed=4, failed=1, skipped=1, errors=2, deselected=(len(BROKEN) - 2) * len(ASPECTS) - 6)
    result.stdout.fnmatch_lines(
        [
            "*toy.good::type PASSED*",
            "`toy.refuses`, Refuses at *contract_toys.py:*: no example was found *nothing fits*",
            "*the rule of `toy.faulty` failed at `node`: KeyError: 'width'*",
            "`toy.lies`, Lies at *contract_toys.py:*, breaks its contract",
            "*expected (2, 8, 4)",
            "SKIPPED * not promised: it centres each batch",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*test_other*")


def test_paths_are_run_beside_the_blocks(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile("def test_own(): pass")
    result = pytester.runpytest(
        path, "--composer-blocks", TOYS, "-k", "own or (good and type)", "--continue-on-collection-errors"
    )
    result.assert_outcomes(passed=2, errors=2, deselected=(len(BROKEN) - 2) * len(ASPECTS) - 1)


PLUGIN = """
import composer

class Linear(composer.Block):
    name = "{name}"
    shape = "batch ... dim -> batch ... dim"

    def build(self, dim):
        from torch import nn
        return nn.Linear(dim, dim)
"""


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three distributions: `my-toys`, one that does not load, and one that claims a name of the first."""
    site = pytester.mkdir("site")
    for name, text in {
        "my_toys": PLUGIN.format(name="toy.linear"),
        "broken_toys": "import nothing_of_this_name",
        "other_toys": PLUGIN.format(name="toy.linear"),
    }.items():
        (site / f"{name}.py").write_text(text)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[composer]\n{name} = {name}\n")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    return site


@pytest.mark.usefixtures("installed")
def test_a_distribution_that_does_not_load_is_an_error_of_collection(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--composer-blocks", "broken-toys", "--composer-blocks", "Other_Toys")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "error[[]BP601]: the plugin `broken_toys` (broken-toys 1.0) does not load: ModuleNotFoundError: *",
            "*at *broken_toys.py:1",
            "error[[]BP602]: two plugins claim the block `toy.linear`: my-toys 1.0 and other-toys 1.0",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.usefixtures("installed")
def test_an_unknown_distribution_is_an_error_of_usage(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--composer-blocks", "my-toy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = (
        "no distribution or plugin `my-toy` has blocks; did you mean `my-toys`?; there are *blueprint-composer*my-toys*"
    )
    result.stderr.fnmatch_lines([f"ERROR: --composer-blocks: {said}"])


def test_a_missing_file_is_an_error_of_usage(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--composer-blocks", "mine.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --composer-blocks: there is no plugin file mine.py"])


def test_without_the_option_nothing_is_registered(pytester: pytest.Pytester) -> None:
    assert not pytester.parseconfigure().pluginmanager.has_plugin("composer-blocks")
    assert isinstance(
        pytester.parseconfigure("--composer-blocks", str(TOYS)).pluginmanager.get_plugin("composer-blocks"), Blocks
    )
