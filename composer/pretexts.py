"""Pretexts: what an encoder can learn from images without labels, and the blueprint that it learns with.

    mae         hide most of the tokens and predict their voxels (He et al., 2022, arXiv:2111.06377)
    rotation    tell how an image was turned: 4 quarter turns in 2-D (Gidaris et al., 2018, arXiv:1803.07728); in 3-D
                the 10 about one axis, by 0, 90, 180 and 270 degrees (Taleb et al., 2020, arXiv:2006.03829), or all 24

The blueprint is made from one that was checked: its flat document, cut behind the encoder, which keeps all addresses
and so all names of weights, and a head. Where to cut follows from types. Tokens are hidden before the first
transformer, and the encoder goes on as long as they keep their type; the mask and the decoder are those of `vit_mae`,
the decoder with two thirds of the encoder's width and depth, as published. Rotation reads the last of the coarsest
maps.

What cannot be masked is refused (BP843): networks whose tokens are told no position, or see more of the image than
their own patch, as behind convolutions, and those that need the grid behind the mask, as windows do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import ceil, prod
from typing import Any

from composer import flat
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean, listing
from composer.dims import at
from composer.graph import Body, Call, Group, Input, Ref, Through
from composer.types import Type
from composer.writing import dump

Spec = dict[str, Any]
Turn = tuple[tuple[int, bool], ...]
"""A rotation: for each axis of the result the axis that it was, and whether that is reversed."""
PRETEXTS: Mapping[str, Mapping[str, Any]] = {
    "mae": {"ratio": 0.75, "normalize": True, "dim": None, "depth": None, "heads": None},
    "rotation": {"rotations": None},
}
"""Each with its options. `ratio` is hidden, `normalize` holds each patch against its own mean and deviation; `dim`,
`depth` and `heads` are the decoder's; `rotations` are 4 in 2-D, 10 or 24 in 3-D."""
TEMPLATE, MASK, DECODER = "vit_mae", "mask", "reconstruct"
"""The shipped blueprint that has them, and its nodes that go behind any encoder."""
OTHER = "`--pretext rotation` is for every encoder"
HEAD, TURNED = "head.classify", "rotation"
TURNS = {2: (4,), 3: (10, 24)}
"""How many rotations there are to tell apart, by the number of axes. A patch of unequal sides has fewer."""


@dataclass(frozen=True)
class Pretext:
    """A blueprint to learn with, and which of its nodes are those of the network that it was made from."""

    kind: str
    blueprint: Blueprint
    encoder: tuple[str, ...]
    options: Mapping[str, Any]
    patch: tuple[int, ...] = ()
    """Voxels of a token along each axis (mae)."""
    turns: tuple[Turn, ...] = ()
    """What is told apart (rotation)."""

    def __str__(self) -> str:
        hidden, count = self.options.get("ratio"), self.options.get("rotations")
        said = {"mae": f"{hidden} of the patches hidden", "rotation": f"{count} rotations"}
        return f"{self.kind} ({said[self.kind]}); the encoder is {listing(f'`{n}`' for n in self.encoder)}"


def pretext(blueprint: Blueprint, kind: str = "mae", **options: Any) -> Pretext:
    """The pretext of a kind for a network. An unknown kind or option is BP845, a network without such a pretext BP843.

    >>> pretext(composer.load("vit"), "mae", ratio=0.6).blueprint.build()
    """
    if kind not in PRETEXTS:
        raise _wrong(f"there is no pretext `{kind}`{did_you_mean(kind, PRETEXTS)}", f"there are {listing(PRETEXTS)}")
    known = PRETEXTS[kind]
    unknown = next((k for k in options if k not in known), None)
    if unknown:
        raise _wrong(f"`{kind}` has no option `{unknown}`{did_you_mean(unknown, known)}", f"it has {listing(known)}")
    chosen = {**known, **{k: v for k, v in options.items() if v is not None}}
    cut = _Cut(blueprint)
    return _masked(cut, chosen) if kind == "mae" else _turned(cut, chosen)


def _wrong(text: str, *notes: str) -> BlueprintError:
    return BlueprintError(Diagnostic("BP845", text, notes=notes))


def _none(text: str, *notes: str, help: str = OTHER) -> BlueprintError:
    return BlueprintError(Diagnostic("BP843", text, notes=notes, help=(help,)))


class _Cut:
    """A checked network, and what can be cut out of it: nodes of the outermost graph, in order."""

    def __init__(self, blueprint: Blueprint):
        self.blueprint, self.program = blueprint, blueprint.check()
        self.document = flat.document(self.program.graph)
        self.nodes: Spec = self.document["graph"]
        self.inputs = {i.name: i for i in self.program.inputs}
        self.image = self.program.inputs[0]
        members = self.program.graph.members
        passed = {m.address: m.result for m in members if isinstance(m, Through)}
        self.reads = {m.address: set(_tops(_refs(m), passed)) - {m.address} for m in members}
        if not self.image.type.grid or not self.program.built:
            raise _none(f"`{blueprint.name}` takes no image of a known size", help="an encoder of images has one")

    @property
    def masked(self) -> bool:
        """Whether the network masks by itself, such as `vit_mae`."""
        return set(self.blueprint.outputs) == {"pixels", "mask"}

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.program.built.get(a) or int(a) for a in self.image.axes)

    def type(self, name: str) -> Type | None:
        """The type of a node; of a loop, that of its last copy."""
        found = self.program.types.get(name)
        while isinstance(found, (list, tuple)) and found:
            found = found[-1]
        return found if isinstance(found, Type) else None

    def grid(self, name: str) -> tuple[int, ...]:
        """The grid of a node at the size the network is built for; none where it has none."""
        type_ = self.type(name)
        ok = type_ is not None and type_.kind in ("map", "tokens")
        return tuple(int(at(n, self.program.built)) for n in type_.grid) if ok and type_ else ()

    def before(self, *names: str) -> list[str]:
        """Nodes and inputs that some nodes depend on, and these, in order."""
        found, todo = set[str](), list(names)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self.reads.get(name, ())
        return [n for n in (*self.inputs, *self.nodes) if n in found]

    def until(self, end: str, more: Mapping[str, Any], outputs: Mapping[str, Any], name: str) -> Blueprint:
        """A blueprint of the nodes up to one, changed and continued by others."""
        kept = [n for n in self.before(end) if n in self.nodes]
        used = set(self.before(end))
        made = {k: v for k, v in self.document.items() if k in ("blueprint", "summary", "source", "requires", "init")}
        made["name"] = name
        made["inputs"] = {k: v for k, v in self.document["inputs"].items() if k in used}
        made["graph"] = {k: v for n in kept for k, v in ({n: self.nodes[n]} | dict(more.get(n, {}))).items()}
        made["graph"] |= {n: changed for n, changed in more.get("", {}).items() if n in made["graph"]}
        made["outputs"] = dict(outputs)
        edits = [e for e in self.document.get("edit", ()) if e["at"].partition(".")[0] in kept]
        made |= {"edit": edits} if edits else {}
        return Blueprint.parse(dump(made), self.blueprint.registry, name=name)

    def free(self, name: str) -> str:
        """A name that no node has."""
        while name in self.nodes or name in self.inputs:
            name += "_"
        return name


def _refs(body: Body | None) -> Iterator[Ref]:
    """Every value that a part mentions."""
    if isinstance(body, Call):
        for value in body.inputs.values():
            yield from _named(value)
        inside: Iterable[Body | None] = (*body.parts.values(), *body.unused)
    elif isinstance(body, Group):
        for value in body.result.values() if isinstance(body.result, Mapping) else (body.result,):
            yield from _named(value)
        inside = (*body.members, *body.unused)
    else:
        yield from _named(body.result) if isinstance(body, Through) else ()
        return
    for part in inside:
        yield from _refs(part)


def _named(value: Input) -> Iterator[Ref]:
    yield from (value,) if isinstance(value, Ref) else value or ()


def _tops(refs: Iterable[Ref], passed: Mapping[str, Any]) -> Iterator[str]:
    """The outermost nodes of values, through nodes that are left out."""
    for ref in refs:
        name = ref.name.partition("@")[0].partition(".")[0]
        yield from _tops(_named(passed[name]), passed) if name in passed else (name,)


# ---- rotation --------------------------------------------------------------------------------------------------------


def turns(size: Sequence[int], whole: bool = False) -> tuple[Turn, ...]:
    """The rotations of a patch that keep its shape, none at all first: those about one axis, or with `whole` all."""
    rank, places = len(size), range(len(size))
    found = [
        tuple(zip(order, flips, strict=True))
        for order in permutations(places)
        for flips in product((False, True), repeat=rank)
        if _parity(order) == sum(flips) % 2
    ]
    about = found if whole or rank == 2 else [t for t in found if any(t[n] == (n, False) for n in places)]
    return tuple(sorted(t for t in about if all(size[a] == size[n] for n, (a, _) in enumerate(t))))


def _parity(order: Sequence[int]) -> int:
    """Whether an odd number of exchanges makes an order."""
    return sum(a > b for k, a in enumerate(order) for b in order[k + 1 :]) % 2


def _turned(cut: _Cut, options: Mapping[str, Any]) -> Pretext:
    if cut.masked:
        raise _none(f"`{cut.blueprint.name}` hides part of its image", help="`--pretext mae` is what it is for")
    rank = len(cut.size)
    asked = options["rotations"]
    if asked not in (None, *TURNS.get(rank, ())):
        known = " or ".join(map(str, TURNS.get(rank, ()))) or "none"
        raise _wrong(f"`rotations` of an image of {rank} axes are {known}, not {asked}")
    ways = turns(cut.size, whole=asked == 24)
    if len(ways) < 2:
        sides = " × ".join(map(str, cut.size))
        raise _none(f"an image of {sides} has no rotation that keeps its shape", help="give it equal sides: `size=[…]`")
    end = _deepest(cut)
    type_ = cut.type(end)
    extra = type_.extra if type_ else 0
    name = cut.free(TURNED)
    head = {name: {"use": HEAD, "from": end, "classes": len(ways)} | ({"extra": extra} if extra else {})}
    made = cut.until(end, {end: head}, {"logits": name}, f"{cut.blueprint.name}_rotation")
    made.check()
    encoder = tuple(n for n in made.graph if n != name)
    return Pretext("rotation", made, encoder, {**options, "rotations": len(ways)}, turns=ways)


def _deepest(cut: _Cut) -> str:
    """The last node with the coarsest grid of those that see the image; an output only where nothing else has one."""
    grids = {n: g for n in cut.nodes if (g := cut.grid(n)) and cut.image.name in cut.before(n)}
    if not grids:
        raise _none(f"no node of `{cut.blueprint.name}` has a grid", help="an encoder of images has one")
    read = {n for reads in cut.reads.values() for n in reads}
    least = min(map(prod, grids.values()))
    coarsest = [n for n, g in grids.items() if prod(g) == least]
    return next((n for n in reversed(coarsest) if n in read), coarsest[-1])


# ---- masking ---------------------------------------------------------------------------------------------------------


def _masked(cut: _Cut, options: Mapping[str, Any]) -> Pretext:
    if not (isinstance(options["ratio"], (int, float)) and 0 < options["ratio"] < 1):
        raise _wrong(f"`ratio` is a share between 0 and 1 of the patches, not {options['ratio']}")
    if cut.masked:
        return _as_it_is(cut, options)
    place = _place(cut)
    cells = prod(cut.grid(place))
    if int(cells * (1 - options["ratio"])) < 1:
        text = f"of {cells} patches {options['ratio']} are hidden, and none of them is left to see"
        raise _wrong(text, f"at most {1 - 1 / cells:.2g}, or smaller patches")
    refused: list[Diagnostic] = []
    for end in reversed(_chain(cut, place)):
        made = _with_decoder(cut, place, end, options)
        program, mistakes = made[0].attempt()
        if program is not None and not mistakes:
            return _checked(cut, place, *made, options)
        refused = mistakes
    text = f"`{cut.blueprint.name}` cannot go without some of its tokens: what follows `{place}` needs all"
    raise _none(text, *(f"{d.address or place}: {d.message}" for d in refused[:2]))


def _as_it_is(cut: _Cut, options: Mapping[str, Any]) -> Pretext:
    """A network that masks by itself, such as `vit_mae`, whose own parameters say how."""
    changed = [k for k, v in PRETEXTS["mae"].items() if k != "normalize" and options[k] != v]
    if changed:
        text = f"`{cut.blueprint.name}` has a mask and a decoder of its own: give `{changed[0]}` as its parameter"
        raise _wrong(text)
    value = next(o.value for o in cut.program.graph.outputs if o.name == "pixels")
    grid = cut.grid(value.name) if isinstance(value, Ref) else ()
    if not grid:
        raise _none(f"`pixels` of `{cut.blueprint.name}` is no map")
    encoder = tuple(n for n in cut.nodes if n not in (MASK, DECODER))
    patch = tuple(n // g for n, g in zip(cut.size, grid, strict=True))
    return Pretext("mae", cut.blueprint, encoder, _normalized(cut, patch, options), patch)


def _place(cut: _Cut) -> str:
    """The node whose tokens the first transformer reads, which know their positions."""
    steps = [s for s in cut.program.steps if s.block.traits().position == "code" and not s.unused]
    told = [s.address.partition(".")[0] for s in steps]
    first = next((n for n in cut.nodes if _depth(cut, n)), "")
    if not first:
        raise _none(f"`{cut.blueprint.name}` has no attention: it has no tokens that could be left out")
    read = cut.reads[first] - {first}
    place = next(iter(read), "")
    before = set(cut.before(place))
    if len(read) != 1 or not before & set(told) or not cut.grid(place):
        text = f"`{cut.blueprint.name}` adds no code of positions to the tokens that `{first}` reads"
        why = f"`{first}` adds one within" if first in told else "a hidden token would be known by nothing"
        raise _none(text, why)
    return place


def _depth(cut: _Cut, *names: str) -> int:
    """How many attentions there are in nodes."""
    return sum(s.block.traits().attends is not None for s in cut.program.steps if s.address.partition(".")[0] in names)


def _chain(cut: _Cut, place: str) -> list[str]:
    """The nodes that each read the one before and keep the type of the tokens, from the first transformer on."""
    wanted, now, chain = cut.type(place), place, []
    for name in cut.nodes:
        if cut.reads[name] == {now} and cut.type(name) == wanted:
            now = name
            chain.append(name)
    first = next((k for k, n in enumerate(chain) if _depth(cut, n)), len(chain))
    return chain[first:] or [next(n for n in cut.nodes if place in cut.reads[n] and _depth(cut, n))]


def _with_decoder(cut: _Cut, place: str, end: str, options: Mapping[str, Any]) -> tuple[Blueprint, tuple[str, ...]]:
    """The blueprint that hides tokens behind `place` and predicts them from what `end` makes of the others; the names
    of its mask and its decoder."""
    mask, decoder = cut.free(MASK), cut.free(DECODER)
    type_ = cut.type(end)
    assert type_ is not None
    parts = _decoder(cut, place, type_, _depth(cut, *cut.before(end)), options)
    parts[MASK]["from"] = place
    parts[DECODER]["from"] = {"x": end, "order": f"{mask}.order"}
    names = list(cut.nodes)
    changed = {n: _rewired(cut.nodes[n], place, f"{mask}.x") for n in names[names.index(place) + 1 :]}
    after = names[names.index(place) + 1] if place != names[-1] else ""
    if after in changed:
        changed[after] = _reading(changed[after], f"{mask}.x")
    more = {place: {mask: parts[MASK]}, end: {decoder: parts[DECODER]}, "": changed}
    outputs = {"pixels": decoder, "mask": f"{mask}.mask"}
    return cut.until(end, more, outputs, f"{cut.blueprint.name}_mae"), (mask, decoder)


def _decoder(cut: _Cut, place: str, tokens: Type, depth: int, options: Mapping[str, Any]) -> Spec:
    """The template's mask and decoder, for these tokens: two thirds of the width and of the depth, heads of 32."""
    patch = [n // g for n, g in zip(cut.size, cut.grid(place), strict=True)]
    asked = {k: v for k, v in options.items() if v is not None}
    dim = asked.get("dim", max(32, round(tokens.channels * 2 / 3 / 32) * 32))
    heads = max(1, dim // 32) if isinstance(dim, int) else 1  # of another type it is refused below
    params = {
        "ratio": options["ratio"], "extra": tokens.extra, "pixels": prod(patch) * cut.image.type.channels,
        "decoder_dim": dim, "decoder_depth": asked.get("depth", max(1, ceil(depth * 2 / 3))),
        "decoder_heads": asked.get("heads", heads),
    }  # fmt: skip
    template = Blueprint.load(TEMPLATE, cut.blueprint.registry, params)
    nodes = flat.document(template.check().graph)["graph"]
    return {MASK: dict(nodes[MASK]), DECODER: dict(nodes[DECODER])}


def _rewired(spec: Any, old: str, new: str, inside: bool = False) -> Any:
    """A part that reads another value wherever it read one; from within, names of the outer graph begin with dots."""
    if isinstance(spec, Mapping):
        return {
            k: _renamed(v, old, new, inside) if k == "from" else _rewired(v, old, new, inside or k == "graph")
            for k, v in spec.items()
        }
    return [_rewired(v, old, new, inside) for v in spec] if isinstance(spec, list) else spec


def _renamed(value: Any, old: str, new: str, inside: bool) -> Any:
    if isinstance(value, Mapping):
        return {k: _renamed(v, old, new, inside) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, old, new, inside) for v in value]
    name = str(value).lstrip(".")
    dots = len(str(value)) - len(name)
    return "." * dots + new if name == old and (dots > 0) == inside else value


def _reading(spec: Any, value: str) -> Any:
    """A part that says from where it reads, where it read the line above."""
    if isinstance(spec, str):
        return {"use": spec, "from": value}
    if "from" in spec or any(isinstance(i, Mapping) and "from" in i for i in spec.get("for") or ()):
        return spec
    if isinstance(spec.get("for"), list):
        first, *rest = spec["for"]
        return {**spec, "for": [{**(first or {}), "from": value}, *rest]}
    return {**spec, "from": value}


def _checked(cut: _Cut, place: str, made: Blueprint, own: Sequence[str], options: Mapping[str, Any]) -> Pretext:
    """The pretext, once it is known that a token sees only its patch."""
    patch = tuple(n // g for n, g in zip(cut.size, cut.grid(place), strict=True))
    encoder = tuple(n for n in made.graph if n not in own)
    seen = _seen(cut, place)
    if any(high - low > side for (low, high), side in zip(seen, patch, strict=True)):
        shown, own_size = (" × ".join(map(str, s)) for s in ([b - a for a, b in seen], patch))
        text = f"the tokens of `{cut.blueprint.name}` see more than their patch of {own_size}: {shown} voxels"
        why = f"convolutions stand before `{place}`, through which hidden patches would show"
        raise _none(text, why, help=f"a tokenizer alone before the tokens; {OTHER}")
    return Pretext("mae", made, encoder, _normalized(cut, patch, options), patch)


def _normalized(cut: _Cut, patch: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, where a patch has a deviation that it could be divided by."""
    if options["normalize"] and prod(patch) * cut.image.type.channels == 1:
        raise _wrong("a patch of one number has no deviation: `normalize=false` predicts the number itself")
    return dict(options)


def _seen(cut: _Cut, place: str) -> list[tuple[int, int]]:
    """What the middle token sees of the image, from where to where along each axis: where its gradient is not zero."""
    import torch

    shown = cut.until(place, {}, {"tokens": place}, f"{cut.blueprint.name}_tokens")
    network = shown.build().eval()
    image = torch.randn(1, cut.image.type.channels, *cut.size, requires_grad=True)
    others = {i.name: torch.zeros(1, i.type.channels) for i in network.inputs[1:] if not i.optional}
    tokens = network(image, **others)
    grid = cut.grid(place)
    tokens = tokens.flatten(2).transpose(1, 2) if tokens.dim() > 3 else tokens[:, -prod(grid) :]
    middle = tokens.unflatten(1, grid)[(0, *(n // 2 for n in grid))]
    (gradient,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), image)
    cells = gradient[0].abs().sum(0).nonzero()
    lows, highs = (cells.amin(0), cells.amax(0) + 1) if len(cells) else (cells.sum(0), cells.sum(0))
    return list(zip(lows.tolist(), highs.tolist(), strict=True))
