"""Every shipped blueprint in every format, or a refusal that is listed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from portability import FORMATS, REFUSED, Subject, names, outcome

QUICK = ("state", "copy", "bfloat16", "autocast")
GRAPHS = tuple(f for f in FORMATS if f not in QUICK)
FAST = ("unet",)
"""Blueprints whose graphs are also tried in the fast suite."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks are so small that threads wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def subject(name: str) -> Subject:
    return Subject(name)


def held(name: str, format: str) -> None:
    found = outcome(subject(name), format)
    code, said = REFUSED.get((name, format), ("", ""))
    assert found.code == code, found.said
    assert said in found.said


@pytest.mark.parametrize("name", names())
def test_numbers_and_copies(name: str) -> None:
    for format in QUICK:
        held(name, format)


@pytest.mark.parametrize("format", GRAPHS)
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in names()])
def test_graphs(name: str, format: str) -> None:
    held(name, format)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_inductor() -> None:
    torch._dynamo.reset()
    of = Subject("vit")
    with torch.no_grad():
        made = torch.compile(of.network, fullgraph=True)(**of.inputs)
    torch.testing.assert_close(made, of.wanted[0], atol=1e-4, rtol=1e-4)


def test_what_is_refused_exists() -> None:
    assert {name for name, _ in REFUSED} <= set(names())
    assert {format for _, format in REFUSED} <= set(FORMATS)
