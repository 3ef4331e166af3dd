"""Hypothesis strategies over whole blueprints, single blocks, their types and valid sizes.

    @given(blueprints())
    def test_what_checks_runs(blueprint):
        blueprint.build(device="meta")

Values are made by forward construction (`composer.testing.composing`), so none is thrown away, and a failing one
shrinks to a blueprint of few nodes whose YAML is what the failure report prints. They draw from a registry: all
installed plugins unless one is given. Hypothesis is asked for only when a strategy is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from composer.block import Block
from composer.compose import Blueprint
from composer.registry import Registry
from composer.sizes import Constraint, coupled, listed, valid
from composer.testing.composing import Composition, Gene, Node, Setting, composed, simplest_first, typed
from composer.testing.reality import shapes_at
from composer.types import Type
from composer.writing import dump

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

MOST_NODES = 8
MOST_SIZES = 512
"""Pairs of sizes that are listed where axes are coupled."""


class Composed(Blueprint):
    """A blueprint that shows itself as its YAML."""

    def __repr__(self) -> str:
        return f"\n{self.to_yaml()}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What the failure report of Hypothesis prints."""
        printer.text(repr(self))


def blueprints(
    registry: Registry | None = None, *, nodes: int = MOST_NODES, rank: int | None = None, valid: bool = True
) -> SearchStrategy[Blueprint]:
    """Blueprints of up to `nodes` nodes that check, 2-D and 3-D unless a `rank` is given. With `valid=False` any part
    may be one that its contract refuses, so many of them do not check (those that do not even load are never drawn).
    """
    st = _hypothesis()
    known = registry or Registry.discover()
    setting = st.integers(0, 71).map(lambda number: Setting.of(number, rank))
    drawn = st.tuples(st.lists(_genes(), min_size=1, max_size=nodes), setting)

    def one(draw: Any) -> Blueprint:
        genes, chosen = draw(drawn)
        return blueprint_of(genes, known, chosen, free=not valid)

    made: SearchStrategy[Blueprint] = st.composite(one)()
    return made


def blueprint_of(
    genes: list[Gene], registry: Registry, setting: Setting | None = None, *, free: bool = False
) -> Blueprint:
    """The blueprint that some genes make, read from its text, so that every mistake has a place."""
    return Composed.parse(dump(composed(genes, registry, setting, free)), registry, name="composed.yaml")


def blocks(registry: Registry | None = None, *, names: tuple[str, ...] = (), rank: int = 2) -> SearchStrategy[Block]:
    """Blocks with options that fit some input: those called `names`, or any. Slots hold what a blueprint writes there.

    Only blocks that can stand by themselves are drawn; others fill the slots of these.
    """
    st = _hypothesis()
    known = registry or Registry.discover()
    able = [b for b in simplest_first(known) if not b.stands_in and not b.of_shapes and (not names or b.name in names)]
    if not able:
        raise ValueError(f"no block of the registry is called {' or '.join(names)}" if names else "no block at all")

    def one(draw: Any) -> Block:
        block = draw(st.sampled_from(able))
        parameter, changes = draw(st.tuples(st.integers(0, 2**16), _changes()))
        node = accepted(block, known, rank, parameter, changes) or accepted(block, known, rank, 0, changes)
        if node is None:
            raise ValueError(f"no value that the contract of `{block.name}` takes was found")
        return configured(node)

    made: SearchStrategy[Block] = st.composite(one)()
    return made


def types_for(block: Block, registry: Registry | None = None, *, rank: int = 2) -> SearchStrategy[dict[str, Type]]:
    """Types of the required ports with which the contract of a block has nothing to complain about, by port."""
    st = _hypothesis()
    known = registry or Registry.discover()
    fits = fitting_types(block, known, rank)
    if not fits:
        raise ValueError(f"no types that the contract of `{block.name}` takes were found: {block!r}")
    made: SearchStrategy[dict[str, Type]] = st.sampled_from(fits)
    return made


def sizes_for(blueprint: Blueprint, limit: int = 64, batch: int = 2) -> SearchStrategy[dict[str, tuple[int, ...]]]:
    """Shapes of the inputs, by name, that a blueprint takes: axes between 1 and `limit`, the size it is built for and
    its smallest ones first. Feed them as `network(**{name: torch.rand(shape) …})`."""
    st = _hypothesis()
    program = blueprint.infer()
    base = built_size(blueprint)
    groups = [_choices(program.constraints, axes, base, limit) for axes in coupled(program.constraints, base)]

    def shapes(drawn: tuple[Mapping[str, int], ...]) -> dict[str, tuple[int, ...]]:
        env = {**base, **{axis: n for group in drawn for axis, n in group.items()}}
        return shapes_at(program, env, batch)

    made: SearchStrategy[dict[str, tuple[int, ...]]] = st.tuples(*(st.sampled_from(g) for g in groups)).map(shapes)
    return made


def built_size(blueprint: Blueprint) -> dict[str, int]:
    """What every axis of the inputs is at the size a blueprint is built for; 24 where it says none."""
    program = blueprint.infer()
    return {a: program.built.get(a, 24) for i in program.inputs for a in i.axes if not a.isdigit()}


def _choices(
    constraints: tuple[Constraint, ...], axes: tuple[str, ...], base: Mapping[str, int], limit: int
) -> list[dict[str, int]]:
    """Sizes that some axes may have together: the one built for, then the others, small ones first."""
    here = {a: base[a] for a in axes}
    own = [c for c in constraints if c.symbols & set(axes)]
    single = {a: valid([c for c in own if c.symbols == {a}], a, base, limit) for a in axes}
    joint = [c for c in own if len(c.symbols) > 1]
    if len(axes) == 1 or not joint:
        rows = [tuple(single[a][k] for a in axes) for k in range(min(map(len, single.values())))]
    else:
        rows = list(listed(single, joint, MOST_SIZES) or ())
    return [here, *(row for row in (dict(zip(axes, r, strict=True)) for r in rows) if row != here)]


# ---- one block ----------------------------------------------------------------------------------------------------


def accepted(
    block: type[Block], registry: Registry, rank: int, parameter: int = 0, changes: list[tuple[int, int]] | None = None
) -> Node | None:
    """A block with options, on the first types that its contract takes."""
    making = Composition(registry, Setting(rank, 8, (8,) * rank))
    making.values |= stock(rank)
    for source in range(len(making.values) ** max(1, len(block.required))):
        if not making.readable(block) or source > TRIED:
            return None
        found = making.accepted(making.plain(block, source, parameter))
        if found is not None:
            made = making.changed(found, changes or ())
            return next((n for n in (made, found) if n.alone), None)
    return None


TRIED = 400
"""Combinations of types that are tried for a block."""


def stock(rank: int) -> dict[str, Type]:
    """Values of every kind that a block may be given."""
    grid = (4, 6, 8)[:rank]
    flat = {
        "tokens": Type("tokens", 8, grid, extra=1),
        "queries": Type("queries", 8, count=5),
        "vector": Type("vector", 8),
        "scales": Type("scales", 8, grids=(grid, tuple(n // 2 for n in grid))),
        "pair": Type("tokens", 8, grid, extra=2),
    }
    maps = {f"map_{c}": Type("map", c, grid) for c in (1, 2, 3, 6, 12, 16)}
    small = {"small": Type("map", 8, (2,) * rank), "place": Type("vector", rank), "map_8": Type("map", 8, grid)}
    return {**maps, **flat, **small}


def configured(node: Node) -> Block:
    """A block instance with its options; its slots hold what a blueprint writes there."""
    slots = {name: None if part is None else part.brief() for name, part in node.slots.items()}
    return node.block(**node.options, **slots)


def fitting_types(block: Block, registry: Registry, rank: int, most: int = 24) -> list[dict[str, Type]]:
    """Some types for the required ports of a block that its contract takes, simple ones first."""
    setting = Setting(rank, 8, (8,) * rank)
    making = Composition(registry, setting)
    making.values = {"image": Type("map", 8, (4, 6, 8)[:rank]), **stock(rank)}
    making.inputs = {}
    kind = type(block)
    options = {n: getattr(block, n) for n in block.model_fields_set if n not in kind.slots}
    slots = {n: getattr(block, n) for n in block.model_fields_set if n in kind.slots}
    found: list[dict[str, Type]] = []
    for source in range(min(TRIED, len(making.values) ** max(1, len(kind.required)))):
        node = making.plain(kind, source, 0)
        node.options, node.slots = options, {}
        spec = {**node.spec(), **slots}
        types = {p: making.values[r] for p, r in node.ports.items()}
        used = {r: making.values[r] for r in node.ports.values()}
        if types not in found and not typed({"node": spec}, {}, registry, used)[1]:
            found.append(types)
        if len(found) >= most:
            break
    return found


# ---- hypothesis ---------------------------------------------------------------------------------------------------


def _genes() -> SearchStrategy[Gene]:
    st = _hypothesis()
    number = st.integers(0, 2**16)
    made: SearchStrategy[Gene] = st.tuples(number, number, number, _changes())
    return made


def _changes() -> SearchStrategy[list[tuple[int, int]]]:
    st = _hypothesis()
    made: SearchStrategy[list[tuple[int, int]]] = st.lists(
        st.tuples(st.integers(0, 2**16), st.integers(0, 63)), max_size=4
    )
    return made


def _hypothesis() -> Any:
    """Hypothesis, which only tests need."""
    try:
        import hypothesis.strategies
    except ImportError:
        raise ModuleNotFoundError(
            "the strategies of composer.testing need Hypothesis, which is not installed: pip install hypothesis"
        ) from None
    return hypothesis.strategies
