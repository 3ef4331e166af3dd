"""Symbolic sizes agree with plain arithmetic, and valid sizes with brute force."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.dims import Dim, at, ceil_div, maximum, minimum, product, symbols_of
from composer.sizes import Constraint, describe, nearest, nearest_valid, summary, valid, violations

H, W = Dim.symbol("H"), Dim.symbol("W")
LEAVES = st.one_of(st.integers(-6, 12).map(lambda n: lambda h, w: n), st.sampled_from([lambda h, w: h, lambda h, w: w]))


def _grow(parts: Any) -> Any:
    number = st.integers(1, 9)
    pair = st.tuples(parts, parts)
    return st.one_of(
        pair.map(lambda p: lambda h, w: p[0](h, w) + p[1](h, w)),
        pair.map(lambda p: lambda h, w: p[0](h, w) - p[1](h, w)),
        pair.map(lambda p: lambda h, w: p[0](h, w) * p[1](h, w)),
        st.tuples(parts, number).map(lambda p: lambda h, w: p[0](h, w) // p[1]),
        st.tuples(parts, number).map(lambda p: lambda h, w: p[0](h, w) % p[1]),
        st.tuples(parts, number).map(lambda p: lambda h, w: ceil_div(p[0](h, w), p[1])),
        pair.map(lambda p: lambda h, w: minimum(p[0](h, w), p[1](h, w))),
        pair.map(lambda p: lambda h, w: maximum(p[0](h, w), p[1](h, w))),
    )


EXPRESSIONS = st.recursive(LEAVES, _grow, max_leaves=7)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, st.integers(1, 300), st.integers(1, 300))
def test_symbols_agree_with_numbers(expression: Any, h: int, w: int) -> None:
    assert at(expression(H, W), {"H": h, "W": w}) == expression(h, w)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS)
def test_symbols_agree_with_arrays(expression: Any) -> None:
    sizes = numpy.arange(1, 40)
    made = at(expression(H, 7), {"H": sizes})
    assert numpy.broadcast_to(made, sizes.shape).tolist() == [expression(int(n), 7) for n in sizes]


@settings(max_examples=100, deadline=None)
@given(EXPRESSIONS)
def test_equal_expressions_are_equal_and_print_alike(expression: Any) -> None:
    assert expression(H, W) == expression(H, W)
    assert str(expression(H, W)) == str(expression(H, W))
    assert expression(H, W) - expression(H, W) == 0


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 500))
def test_floors_of_floors_are_one(a: int, b: int, n: int) -> None:
    twice = (H // a) // b
    assert twice == H // (a * b)
    assert at(twice, {"H": n}) == n // a // b


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (H // 16, "H/16"),
        (ceil_div(H, 2), "⌈H/2⌉"),
        (H * W, "H·W"),
        (H * 2 + 1, "2·H + 1"),
        ((H * 2) // 4, "(2·H)/4"),
        (H - W, "H - W"),
        (minimum(H, 7), "min(H, 7)"),
        (H * 0, "0"),
        ((H + 3) % 1, "0"),
    ],
)
def test_sizes_read_well(size: Any, text: str) -> None:
    assert str(size) == text


def test_small_things() -> None:
    assert product([]) == 1
    assert product([H, 2]) == H * 2
    assert symbols_of(minimum(H, W * 2)) == {"H", "W"}
    assert maximum(3, 5) == 5
    assert minimum(H, H) == H
    with pytest.raises(ZeroDivisionError):
        H // 0


# ---- valid sizes -----------------------------------------------------------------------------------------------


def constraint(kind: str, size: Any, number: int, why: str = "why") -> Constraint:
    return Constraint(kind, size, number, why, "node", "block", None)


KINDS = st.tuples(st.sampled_from(["equal", "multiple", "least"]), EXPRESSIONS, st.integers(1, 8))


def holds(kind: str, value: int, number: int) -> bool:
    return {"equal": value == 0, "multiple": value % number == 0, "least": value >= number}[kind]


@settings(max_examples=100, deadline=None)
@given(st.lists(KINDS, max_size=3), st.integers(1, 40))
def test_valid_sizes_are_those_of_brute_force(wanted: Any, w: int) -> None:
    made = [constraint(k, e(H, W), n) for k, e, n in wanted if "H" in symbols_of(e(H, W))]
    kept = [(k, e, n) for k, e, n in wanted if "H" in symbols_of(e(H, W))]
    brute = [h for h in range(1, 61) if all(holds(k, e(h, w), n) for k, e, n in kept)]
    assert valid(made, "H", {"H": 5, "W": w}, 60) == brute


def test_sizes_in_words() -> None:
    env = {"H": 240, "W": 224}
    window = [
        constraint("multiple", H // 32, 7, "window"),
        constraint("multiple", H, 32, "patch"),
        constraint("least", W, 9),
    ]
    assert describe(window, "H", env) == "multiples of 224"
    assert nearest(window, "H", env) == [224, 448]
    assert summary(window, env) == ["H: multiples of 224", "W: at least 9"]
    (mistake,) = violations(window, env, None)
    assert (mistake.code, mistake.message) == ("BP501", "the size 240 × 224 is not valid: H = 240 does not fit")
    assert mistake.help == ("H: multiples of 224; nearest: 224 or 448",)
    assert mistake.notes == (
        "node: H/32 must be a multiple of 7 (window), and is 7", "node: H must be a multiple of 32 (patch), and is 240",
    )[1:]  # fmt: skip


def test_a_size_of_two_axes_is_mended_together() -> None:
    env = {"H": 20, "W": 20}
    rows = [constraint("equal", (H // 16) * (W // 16) - 196, 0, "196 tokens")]
    (mistake,) = violations(rows, env, None)
    assert mistake.help[-1] == "nearest: 224 for H and W"


def test_nothing_is_said_of_a_valid_size_or_an_unknown_axis() -> None:
    assert list(violations([constraint("multiple", H, 2)], {"H": 4}, None)) == []
    assert list(violations([constraint("multiple", H, 2)], {"W": 3}, None)) == []


# ---- the nearest valid size of all axes ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(KINDS, max_size=3), st.integers(1, 14), st.integers(1, 14), st.sampled_from([True, False, None]))
def test_the_nearest_valid_size_is_that_of_brute_force(wanted: Any, h: int, w: int, up: bool | None) -> None:
    made = [constraint(k, e(H, W), n) for k, e, n in wanted if symbols_of(e(H, W))]
    kept = [(k, e, n) for k, e, n in wanted if symbols_of(e(H, W))]
    inside = {True: lambda new, old: new >= old, False: lambda new, old: new <= old, None: lambda new, old: True}[up]
    brute = [
        (abs(a - h) + abs(b - w), max(a, b))
        for a in range(1, 46)
        for b in range(1, 46)
        if inside(a, h) and inside(b, w) and all(holds(k, e(a, b), n) for k, e, n in kept)
    ]
    found = nearest_valid(made, {"H": h, "W": w}, up)
    assert found is None or all(c.holds(found) for c in made)
    assert found is None or (inside(found["H"], h) and inside(found["W"], w))
    if brute and min(brute)[0] <= 30:  # nothing outside the square is nearer
        assert found is not None
        assert (abs(found["H"] - h) + abs(found["W"] - w), max(found.values())) == min(brute)


def test_axes_that_belong_together_are_made_valid_together() -> None:
    rows = [constraint("multiple", H, 16), constraint("multiple", W, 16)]
    rows.append(constraint("equal", (H // 16) * (W // 16) - 196, 0))
    assert nearest_valid(rows, {"H": 220, "W": 200}) == {"H": 224, "W": 224}
    assert nearest_valid(rows, {"H": 240, "W": 240}) is None, "225 patches and more are too many"
    assert nearest_valid(rows, {"H": 240, "W": 240}, up=False) == {"H": 224, "W": 224}
    assert nearest_valid(rows, {"H": 120, "W": 400}, up=None) == {"H": 112, "W": 448}
    assert nearest_valid([], {"D": 5, "H": 7}) == {"D": 5, "H": 7}
    deep = [constraint("multiple", H, 16), constraint("least", (H // 16) * (W // 16), 2)]
    assert nearest_valid(deep, {"D": 3, "H": 5, "W": 17}) == {"D": 3, "H": 16, "W": 32}
