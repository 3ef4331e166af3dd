"""Which sizes an exported network takes: every member of a progression is valid, with every member of the others."""

from __future__ import annotations

import random

import pytest

import composer
from composer.exporters.opening import openings
from composer.registry import Registry
from composer.swaps import smallest, swaps_of

REGISTRY = Registry.discover()
TINY = [n for n, tiny in swaps_of(REGISTRY)["tiny"].items() if tiny["sizes"]]


@pytest.mark.parametrize("name", TINY)
def test_members_are_valid(name: str) -> None:
    program = smallest(REGISTRY, name).infer()
    env = dict(program.built)
    found = openings(program, env)
    r = random.Random(0)
    for axis, opening in found.items():
        assert env[axis] % opening.step == 0
        assert opening.first <= env[axis] // opening.step <= (opening.last or 10**9)
    for _ in range(50 if found else 0):
        tried = {**env, **{a: o.size(r.randint(o.first, min(o.last or 99, o.first + 60))) for a, o in found.items()}}
        assert all(c.holds(tried) for c in program.constraints), tried


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unet", "H = 16·k from 32, W = 16·k from 32"),
        ("segformer", "H = 32·k from 64, W = 32·k from 64"),
        ("swin_unet", "H = 224·k from 224, W = 224·k from 224"),
        ("vit", ""),  # its position table
        ("swin_unetr", "D = 32·k from 64, H = 32·k from 64, W = 32·k from 64"),
    ],
)
def test_published_ones(name: str, said: str) -> None:
    program = composer.load(name).infer()
    assert ", ".join(map(str, openings(program, dict(program.built)).values())) == said


def test_a_table_limits_all_axes_together() -> None:
    program = smallest(REGISTRY, "glam_unet").infer()
    found = openings(program, dict(program.built))
    assert {str(o) for o in found.values()} == {"H = 8·k from 16 to 120", "W = 8·k from 16 to 120"}


def test_a_size_between_the_steps_stays_fixed() -> None:
    program = composer.load("segformer").infer()
    found = openings(program, {"H": 64, "W": 70})
    assert list(found) == ["H"]
