"""Both pictures of a network: what they say, that nothing overlaps, and that no description breaks them."""

from __future__ import annotations

import io
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from composer.drawing import human, svg, tree

Node = dict[str, Any]
SVG = "{http://www.w3.org/2000/svg}"


# Descriptions as the compiler makes them


def node(
    address: str,
    use: str | None,
    type_: str | dict[str, str],
    parameters: int = 0,
    *,
    kind: str = "block",
    children: Sequence[Node] = (),
    sources: Sequence[Sequence[str]] = (),
    **options: Any,
) -> Node:
    return {
        "address": address,
        "name": address.rpartition(".")[2],
        "kind": kind,
        "use": use,
        "options": options,
        "type": type_,
        "parameters": parameters or sum(child["parameters"] for child in children),
        "from": [list(source) for source in sources],
        "place": "x.yaml:1",
        "children": list(children),
    }


def slot(owner: str, name: str, use: str | None, type_: str, parameters: int = 0, **options: Any) -> Node:
    return node(f"{owner}.{name}", use, type_, parameters, **options) | {"slot": name}


def chained(nodes: Sequence[Node], first: str) -> list[Node]:
    """Each node that names no source continues the one before."""
    for before, after in zip([first, *(n["address"] for n in nodes)], nodes, strict=False):
        after["from"] = after["from"] or [["x", before]]
    return list(nodes)


def document(name: str, nodes: Sequence[Node], **more: Any) -> dict[str, Any]:
    last = nodes[-1] if nodes else {"address": "image", "type": "(B, 1, H, W)"}
    return {
        "name": name,
        "summary": "",
        "source": None,
        "parameters": sum(n["parameters"] for n in nodes),
        "inputs": [{"name": "image", "type": "(B, 1, H, W)"}],
        "outputs": [{"name": "logits", "from": last["address"], "type": last["type"], "training": False}],
        "constraints": [],
        "nodes": list(nodes),
    } | more


def transformer(address: str, type_: str, dim: int, attention: str, **options: Any) -> Node:
    slots = [
        slot(address, "attention", attention, type_, 4 * dim * (dim + 1), **options),
        slot(address, "mlp", "mlp", type_, 8 * dim * dim + 5 * dim, ratio=4),
    ]
    return node(address, "block.transformer", type_, 12 * dim * dim + 13 * dim, children=slots)


def vit() -> dict[str, Any]:
    tokens = "(B, 1 + H/16·W/16, 768) tokens"
    copies = [transformer(f"blocks.{j}", tokens, 768, "attention.multihead", heads=12) for j in range(12)]
    nodes = [
        node("patches", "tokenizer.patch", "(B, 768, H/16, W/16)", 590_592, dim=768, patch=16),
        node("cls", "tokens.prepend", tokens, 768),
        node("position", "position.learned", tokens, 151_296),
        node("blocks", "block.transformer", tokens, kind="repeat", children=copies),
        node("norm", "norm.layer", tokens, 1536, eps=1e-6),
        node("pooled", "tokens.take", "(B, 768)", index=0),
        node("head", "linear", "(B, 1000)", 769_000, out=1000),
    ]
    return document(
        "vit",
        chained(nodes, "image"),
        summary="Plain Vision Transformer (Dosovitskiy et al., 2021)",
        inputs=[{"name": "image", "type": "(B, 3, H, W)"}],
        constraints=["H = W = 224 (position table)"],
    )


UNET_SIZES = [
    "H - 4",
    "H/2 - 6",
    "H/4 - 7",
    "(H + 4)/8 - 8",
    "(H + 4)/16 - 8",
    "2·(H + 4)/16 - 20",
    "4·(H + 4)/16 - 44",
    "8·(H + 4)/16 - 92",
    "16·(H + 4)/16 - 188",
]


def unet_type(width: int, step: int) -> str:
    return f"(B, {width}, {UNET_SIZES[step]}, {UNET_SIZES[step].replace('H', 'W')})"


def convs(address: str, name: str, type_: str, before: int, out: int) -> Node:
    counts = (9 * before * out + out, 9 * out * out + out)
    copies = [
        node(f"{address}.{name}.{j}", "conv", type_, count, out=out, padding=0, act="relu")
        for j, count in enumerate(counts)
    ]
    return node(f"{address}.{name}", "conv", type_, kind="repeat", children=copies)


def down(step: int, widths: Sequence[int]) -> Node:
    address, type_ = f"down.{step}", unet_type(widths[step], step)
    pool = [node(f"{address}.pool", "pool.max", type_, kernel=2)] if step else []
    inner = [*pool, convs(address, "convs", type_, widths[step - 1] if step else 1, widths[step])]
    return node(address, None, type_, kind="graph", children=chained(inner, f"down.{step - 1}" if step else "image"))


def up(step: int, widths: Sequence[int]) -> Node:
    address, out = f"up.{step}", widths[3 - step]
    type_ = unet_type(out, 5 + step)
    slots = [
        slot(address, "upsample", "conv", type_, 8 * out * out + out, transposed=True, kernel=2, stride=2),
        slot(address, "fuse", "fuse.concat", type_, order="skip x", fit="crop_skip"),
        convs(address, "block", type_, 2 * out, out) | {"slot": "block"},
    ]
    sources = [("x", f"up.{step - 1}" if step else "down.4"), ("skip", f"down.{3 - step}")]
    return node(address, "decoder.stage", type_, children=slots, sources=sources)


def unet() -> dict[str, Any]:
    widths = [64, 128, 256, 512, 1024]
    downs = chained([down(i, widths) for i in range(5)], "image")
    ups = [up(i, widths) for i in range(4)]
    nodes = [
        node("down", None, downs[-1]["type"], kind="for", children=downs),
        node("up", "decoder.stage", ups[-1]["type"], kind="for", children=ups, sources=[("x", "down.4")]),
        node("head", "conv", unet_type(2, 8), 130, out=2, kernel=1),
    ]
    return document(
        "unet",
        chained(nodes, "image"),
        summary="U-Net (Ronneberger et al., 2015)",
        constraints=["H and W must be 188 + a multiple of 16"],
    )


def swin_blocks(address: str, dim: int, heads: int, type_: str) -> Node:
    copies = [
        transformer(
            f"{address}.{j}",
            type_,
            dim,
            "attention.window",
            window=7,
            heads=heads,
            shift="half" if j % 2 else 0,
            pad="none",
        )
        for j in range(2)
    ]
    for j, copy in enumerate(copies):
        copy["options"] = {"drop_path": 0.01 * (j + heads)}
    return node(address, "block.transformer", type_, kind="repeat", children=copies)


def swin_type(dim: int, stride: int) -> str:
    return f"(B, {dim}, H/{stride}, W/{stride})" if stride > 1 else f"(B, {dim}, H, W)"


def swin_encoder(i: int) -> Node:
    address, dim = f"encoder.{i}", 96 * 2**i
    out = swin_type(2 * dim, 8 * 2**i)
    inner = [
        swin_blocks(f"{address}.blocks", dim, 3 * 2**i, swin_type(dim, 4 * 2**i)),
        node(f"{address}.merge", "down.merge", out, 8 * dim * dim + 8 * dim, odd="refuse"),
    ]
    return node(address, None, out, kind="graph", children=chained(inner, f"encoder.{i - 1}" if i else "patches"))


def swin_decoder(i: int) -> Node:
    address, dim, stride = f"decoder.{i}", 384 // 2**i, 16 // 2**i
    type_ = swin_type(dim, stride)
    offered = [("x", "x"), ("skip", "skip")]
    join = node(f"{address}.fuse.join", "fuse.concat", swin_type(2 * dim, stride), sources=offered)
    reduce_ = node(f"{address}.fuse.reduce", "linear", type_, 2 * dim * dim + dim, ratio=0.5)
    fuse = node(f"{address}.fuse", None, type_, kind="graph", children=chained([join, reduce_], "x")) | {"slot": "fuse"}
    slots = [
        slot(address, "upsample", "up.expand", type_, 8 * dim * dim + 2 * dim),
        fuse,
        swin_blocks(f"{address}.block", dim, 12 // 2**i, type_) | {"slot": "block"},
    ]
    skip = ("encoder.1", "encoder.0", "patches")[i]
    return node(
        address,
        "decoder.stage",
        type_,
        children=slots,
        sources=[("x", f"decoder.{i - 1}" if i else "norm"), ("skip", skip)],
    )


def swin_unet() -> dict[str, Any]:
    encoders, decoders = chained([swin_encoder(i) for i in range(3)], "patches"), [swin_decoder(i) for i in range(3)]
    nodes = [
        node("rgb", "repeat_channels", "(B, 3, H, W)", to=3),
        node("patches", "tokenizer.patch", swin_type(96, 4), 4896, dim=96, patch=4, norm="layer"),
        node("encoder", None, encoders[-1]["type"], kind="for", children=encoders),
        swin_blocks("bottleneck", 768, 24, swin_type(768, 32)),
        node("norm", "norm.layer", swin_type(768, 32), 1536),
        node("decoder", "decoder.stage", decoders[-1]["type"], kind="for", children=decoders, sources=[("x", "norm")]),
        node("norm_up", "norm.layer", swin_type(96, 4), 192),
        node("full", "up.expand", swin_type(96, 1), 147_648, factor=4, ratio=1),
        node("head", "conv", swin_type(9, 1), 864, out=9, kernel=1, bias=False),
    ]
    return document(
        "swin_unet",
        chained(nodes, "image"),
        summary="Swin-Unet (Cao et al., 2021)",
        constraints=["H and W must be multiples of 224 = 4 (patches) x 2 x 2 x 2 (merges) x 7 (window)"],
    )


# Reading pictures back

Rectangle = tuple[float, float, float, float]
"""left, top, right, bottom"""


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def rectangles(root: ElementTree.Element, kind: str = "node") -> dict[str, Rectangle]:
    found = {}
    for number, rect in enumerate(root.iter(f"{SVG}rect")):
        if rect.get("class") == kind:
            x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
            found[rect.get("data-address", "") + f"#{number}"] = (x, y, x + width, y + height)
    return found


def overlapping(boxes: Sequence[Rectangle]) -> list[tuple[Rectangle, Rectangle]]:
    """Sorted by their left ends, only neighbours can overlap: fast enough for hundreds."""
    boxes, found = sorted(boxes), []
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            if b[0] >= a[2]:
                break
            if a[1] < b[3] and b[1] < a[3]:
                found.append((a, b))
    return found


def edges(root: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [path for path in root.iter(f"{SVG}path") if path.get("class") == f"edge {kind}"]


def corners(path: ElementTree.Element) -> list[tuple[float, float]]:
    """The points of a line; round corners count with their control points, which only makes the check stricter."""
    for letter in "MLQ":
        path.attrib["d"] = path.attrib["d"].replace(letter, " ")
    numbers = list(map(float, path.attrib["d"].split()))
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def crosses(a: tuple[float, float], b: tuple[float, float], box: Rectangle) -> bool:
    """Whether a stretch runs through the inside of a box (by its bounds: lines are level or upright, corners short)."""
    left, right = sorted((a[0], b[0]))
    top, bottom = sorted((a[1], b[1]))
    return left < box[2] - 1 and right > box[0] + 1 and top < box[3] - 1 and bottom > box[1] + 1


def check_figure(text: str) -> ElementTree.Element:
    """What holds for every figure."""
    root = parse(text)
    boxes = list(rectangles(root).values())
    assert overlapping(boxes) == []
    x, y, width, height = map(float, root.attrib["viewBox"].split())
    for kind in ("node", "card", "panel", "badge", "key"):
        for left, top, right, bottom in rectangles(root, kind).values():
            assert x <= left < right <= x + width
            assert y <= top < bottom <= y + height
    for path in [*edges(root, "line"), *edges(root, "skip")]:
        points = corners(path)
        assert all(x <= px <= x + width and y <= py <= y + height for px, py in points)
        stretches = list(pairwise(points))
        assert not [box for box in boxes for a, b in stretches if crosses(a, b, box)]
    return root


def printed(description: Mapping[str, Any], width: int, **options: Any) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(tree(description, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


NETWORKS = {"vit": vit, "unet": unet, "swin_unet": swin_unet}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> dict[str, Any]:
    return NETWORKS[request.param]()


# The figure


def test_figure_is_sound(network: dict[str, Any]) -> None:
    check_figure(svg(network))


def test_figure_names_every_node_and_its_type(network: dict[str, Any]) -> None:
    texts = " ".join(parse(svg(network)).itertext())
    assert all(n["name"] in texts for n in network["nodes"])
    assert human(network["parameters"]) in texts
    assert network["summary"] in texts


def test_figure_gives_channels_and_grid() -> None:
    texts = list(parse(svg(swin_unet())).itertext())
    assert {"96 · H/4×W/4", "768 · H/32×W/32", "9 · H×W"} <= set(texts)


def test_sizes_without_borders_are_approximate() -> None:
    assert "512 · ≈H/8×W/8" in list(parse(svg(unet())).itertext())


@pytest.mark.parametrize(
    ("make", "skips"),
    [
        (vit, []),
        (unet, [("down.3", "up.0"), ("down.2", "up.1"), ("down.1", "up.2"), ("down.0", "up.3")]),
        (swin_unet, [("encoder.1", "decoder.0"), ("encoder.0", "decoder.1"), ("patches", "decoder.2")]),
    ],
)
def test_skips_are_recognized(make: Any, skips: list[tuple[str, str]]) -> None:
    root = parse(svg(make()))
    assert [(path.get("data-from"), path.get("data-to")) for path in edges(root, "skip")] == skips


@pytest.mark.parametrize("make", [unet, swin_unet])
def test_skips_are_level(make: Any) -> None:
    for path in edges(parse(svg(make())), "skip"):
        assert len({y for _, y in corners(path)}) == 1


def test_a_u_goes_down_and_up_again() -> None:
    tops = [box[1] for box in rectangles(parse(svg(unet()))).values()]
    assert tops[:5] == sorted(tops[:5])
    assert tops[4:9] == sorted(tops[4:9], reverse=True)
    assert tops[0] == tops[8]


def test_a_chain_is_one_line() -> None:
    boxes = rectangles(parse(svg(vit()))).values()
    assert len({(top + bottom) / 2 for _, top, _, bottom in boxes}) == 1


def test_every_reader_has_an_arrow() -> None:
    root = parse(svg(swin_unet()))
    reads = {(path.get("data-from"), path.get("data-to")) for kind in ("line", "skip") for path in edges(root, kind)}
    assert {
        ("image", "rgb"),
        ("encoder.0", "encoder.1"),
        ("encoder.2", "bottleneck"),
        ("norm", "decoder.0"),
        ("encoder.1", "decoder.0"),
        ("decoder.2", "norm_up"),
        ("head", "output logits"),
    } <= reads


def test_copies_have_a_badge() -> None:
    assert "×12" in list(parse(svg(vit())).itertext())


def test_figure_escapes_text() -> None:
    nodes = [node("x<&>", "conv", "(B, <, &)", sources=[["x", "image"]])]
    root = check_figure(svg(document("a<b&c>\"'\x00", nodes, summary="<script>")))
    assert "x<&>" in list(root.itertext())
    assert not list(root.iter(f"{SVG}script"))


def test_figure_is_standalone(network: dict[str, Any]) -> None:
    text = svg(network).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not [word for word in ("http", "href", "<script", "@import", "url(h", "<image") if word in text]


def test_figure_is_deterministic(network: dict[str, Any]) -> None:
    assert svg(network) == svg(NETWORKS[network["name"]]())


def test_gray_theme_has_no_colours(network: dict[str, Any]) -> None:
    colours = {word[1:7] for word in svg(network, theme="gray").split('"') if word.startswith("#") and len(word) == 7}
    assert all(max(c) == min(c) for c in ({int(colour[i : i + 2], 16) // 8 for i in (0, 2, 4)} for colour in colours))


def test_unknown_theme_is_refused() -> None:
    with pytest.raises(ValueError, match="no theme `neon`; there are paper, gray"):
        svg(vit(), theme="neon")


def test_nothing_can_be_drawn() -> None:
    check_figure(svg(document("empty", [])))
    check_figure(svg({"name": "bare", "nodes": []}))


def test_long_chains_are_broken_into_lines_quickly() -> None:
    nodes = chained([node(f"n{i}", "conv", "(B, 8, H, W)") for i in range(300)], "image")
    started = time.perf_counter()
    root = parse(svg(document("long", nodes)))
    assert time.perf_counter() - started < 20
    boxes = list(rectangles(root).values())
    assert len(boxes) == 300
    assert overlapping(boxes) == []
    assert max(right for _, _, right, _ in boxes) < 1400


def test_many_skips_are_drawn_quickly() -> None:
    types = [swin_type(8, 2 ** min(i, 59 - i, 5)) for i in range(60)]
    nodes = [node(f"n{i}", "conv", types[i], sources=[["x", f"n{j}"] for j in range(i)]) for i in range(60)]
    started = time.perf_counter()
    svg(document("dense", nodes))
    assert time.perf_counter() - started < 20


# The tree


def test_tree_fits_every_width(network: dict[str, Any]) -> None:
    for width in (20, 40, 60, 80, 100, 140):
        lines = printed(network, width).splitlines()
        assert max(map(cell_len, lines)) <= width


def test_tree_gives_the_exact_total(network: dict[str, Any]) -> None:
    assert f"{network['parameters']:,}" in printed(network, 80)


def test_tree_is_as_deep_as_fits() -> None:
    assert 10 <= len(printed(vit(), 100).splitlines()) <= 18
    assert 30 <= len(printed(swin_unet(), 100).splitlines()) <= 45


def test_depth_and_full() -> None:
    lines = {depth: len(printed(swin_unet(), 120, depth=depth).splitlines()) for depth in (1, 2, 3, 4)}
    assert lines[1] < lines[2] < lines[3] < lines[4]
    assert len(printed(swin_unet(), 120, full=True).splitlines()) == lines[4]


def test_equal_copies_share_a_row() -> None:
    assert sum("blocks ×12" in line for line in printed(vit(), 120).splitlines()) == 1


def test_copies_that_alternate_share_a_row_too() -> None:
    text = printed(swin_unet(), 160, full=True)
    assert "shift 0, half" in text
    assert "bottleneck ×2" in text


def test_copies_that_differ_have_rows_of_their_own() -> None:
    copies = [node(f"blocks.{j}", "conv", "(B, 8, H, W)", 9 if j < 3 else 25) for j in range(4)]
    text = printed(document("x", [node("blocks", "conv", "(B, 8, H, W)", kind="repeat", children=copies)]), 100)
    assert "blocks ×4" in text
    assert "├─ 0–2" in text
    assert "└─ 3" in text


def test_inputs_are_shown_where_they_are_not_the_line_above() -> None:
    text = printed(swin_unet(), 100)
    assert "← skip: encoder.1" in text
    assert text.count("←") == 3


def test_several_outputs_have_a_row_each() -> None:
    maps = node("maps", "split", {"fine": "(B, 8, H, W)", "deep": "(B, 16, H/2, W/2)"}, sources=[["x", "image"]])
    text = printed(document("x", [maps], outputs=[]), 100)
    assert "→ fine" in text
    assert "(B, 16, H/2, W/2)" in text


def test_types_are_never_cut_in_a_word() -> None:
    words = set(printed(swin_unet(), 200, full=True).replace(",", " ").split())
    for width in range(30, 100, 5):
        lines = [line for line in printed(swin_unet(), width).splitlines() if "(B" in line]
        kept = [line[line.index("(B") :].split("…")[0] for line in lines]
        assert {word for text in kept for word in text.replace(",", " ").split()} <= words


def test_header_and_footer() -> None:
    text = printed(swin_unet(), 100)
    assert text.startswith(f"swin_unet  {human(swin_unet()['parameters'])} parameters\nSwin-Unet (Cao et al., 2021)")
    assert "→ image  (B, 1, H, W)" in text
    assert "→ logits  (B, 9, H, W)  from head" in text
    assert "sizes: H and W must be multiples of 224" in text


def test_tree_for_terminals_without_unicode() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(width=80, file=file, color_system=None).print(tree(swin_unet()))
    file.seek(0)
    assert "|- encoder.0" in file.read()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (224_694, "225 k"),
        (999_600, "1.00 M"),
        (1_234_567, "1.23 M"),
        (27_168_900, "27.2 M"),
        (999_400, "999 k"),
        (9_996_000, "10.0 M"),
        (99_960_000, "100 M"),
        (3_000_000_000, "3.00 G"),
    ],
)
def test_human(count: int, text: str) -> None:
    assert human(count) == text


# Any description

NAMES = st.text(min_size=1, max_size=12)
TYPES = st.sampled_from(
    [
        "(B, 8, H, W)",
        "(B, 16, H/2, W/2)",
        "(B, 32, ⌈H/4⌉, ⌈W/4⌉)",
        "(B, 1 + H/4·W/4, 32) tokens",
        "",
        "(B, 64)",
        "(unknown)",
        "(B, 100, 64) queries",
        "(B, 8, 2·(H + 4)/16 - 20, min(W, 7))",
        "(B, 0/0, H/0)",
    ]
)
BLOCKS = st.sampled_from(["conv", "norm.layer", "block.transformer", "decoder.stage", "fuse.add", "glam.x", None])
OPTIONS = st.dictionaries(NAMES, st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()), max_size=3)


@st.composite
def nodes_under(draw: st.DrawFn, owner: str, depth: int, known: list[str]) -> list[Node]:
    made: list[Node] = []
    for number in range(draw(st.integers(0, 9 if depth == 2 else 3))):
        address = f"{owner}{draw(NAMES) if draw(st.booleans()) else number}"
        kind = draw(st.sampled_from(["block", "graph", "repeat", "for", "slot"]))
        inner = draw(nodes_under(f"{address}.", depth - 1, [])) if depth else []
        sources = draw(st.lists(st.tuples(NAMES, st.sampled_from([*known, "image", "nowhere.0"])), max_size=3))
        type_ = draw(st.one_of(TYPES, st.dictionaries(NAMES, TYPES, max_size=2)))
        made.append(
            node(address, draw(BLOCKS), type_, draw(st.integers(0, 10**10)), kind=kind, children=inner, sources=sources)
            | {"options": draw(OPTIONS)}
        )
        known = [*known, address]
    return made


@st.composite
def descriptions(draw: st.DrawFn) -> dict[str, Any]:
    nodes = draw(nodes_under("", 2, []))
    outputs = [
        {
            "name": "y",
            "from": draw(st.sampled_from([n["address"] for n in nodes])),
            "type": draw(TYPES),
            "training": draw(st.booleans()),
        }
        for _ in range(draw(st.integers(0, 2)) if nodes else 0)
    ]
    return document(draw(NAMES), nodes, summary=draw(st.text(max_size=30)), outputs=outputs)


@settings(deadline=None, max_examples=150)
@given(descriptions())
def test_any_description_can_be_drawn(description: dict[str, Any]) -> None:
    check_figure(svg(description))


@settings(deadline=None, max_examples=60)
@given(descriptions(), st.integers(10, 160), st.booleans())
def test_any_description_can_be_printed(description: dict[str, Any], width: int, full: bool) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(tree(description, full=full))
