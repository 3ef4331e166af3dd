"""The page of `composer show --html`: complete, self-contained, safe, and alive in a browser.

The tests in a browser are skipped where there is no Chromium, and say so; `.ci/run` installs it.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

import composer
from composer.cli.main import run
from composer.graph import Call, Group
from composer.notebook import page
from composer.sourcemap import sourcemap

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page is not looked at in a browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
    "--window-size=1400,900",
    "--dump-dom",
]

SMALL = """\
blueprint: 1
name: small
summary: A small network
inputs: {image: {type: B 1 H W, size: [16, 16]}}
graph:
  stem:
    use: conv
    out: 4

  body: {use: conv, repeat: 2}
  join: {use: fuse.concat, from: [stem, body]}
outputs: {y: join}
"""
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u2028'\"&"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def seen(path: Path, tmp_path: Path, fragment: str = "") -> str:
    """The document after its script ran."""
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    url = path.resolve().as_uri() + fragment
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def marked(text: str) -> list[str]:
    return re.findall(r'<span class="line marked" data-at="([\d:]+)"', text)


def chosen(text: str) -> list[str]:
    return [a["data-address"] or "" for t, a in Tags(text).found if t == "li" and "chosen" in (a["class"] or "")]


# ---- the text ---------------------------------------------------------------------------------------------------


def test_the_command_writes_every_node_type_and_cost(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert run(["show", "unet", "--html", str(path)]) == 0
    text = path.read_text()
    boxes = {a["data-address"] for t, a in Tags(text).found if t == "li"}
    program = composer.load("unet").check()

    def parts(bodies):
        for body in bodies:
            if isinstance(body, (Call, Group)) and body.address in program.types:
                yield body.address
                yield from parts(body.members if isinstance(body, Group) else body.parts.values())

    assert boxes - {""} == {"image", *parts(program.graph.members)}
    assert "(B, 256, H/8, W/8)" in text
    assert re.search(r'data-address="head".*?title="parameters">66<.*?title="FLOPs">6.42 M<', text, re.DOTALL)


def test_costs_of_groups_are_sums(tmp_path: Path) -> None:
    blueprint = composer.load("unet")
    text, cost = page(blueprint), blueprint.cost()
    flops = sum(r.flops for r in cost.rows if r.address.startswith("up."))
    assert f'title="FLOPs">{composer_number(flops)}<' in re.search(r'data-address="up".*?</li>', text, re.DOTALL)[0]


def composer_number(count: int) -> str:
    from composer.figures import number

    return number(count)


@pytest.mark.parametrize("name", ["unet", "cotr", "vit"])
def test_nothing_comes_from_outside(name: str) -> None:
    for tag, attributes in Tags(page(composer.load(name))).found:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        assert not {"src", "href", "srcset", "action"} & set(attributes), tag
        assert not [a for a in attributes if a.startswith("on")], tag
        assert "url(" not in (attributes.get("style") or "")
    assert "default-src 'none'" in html.unescape(page(composer.load(name)))
    assert "@import" not in page(composer.load(name))


def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.yaml"
    head = f"name: {json.dumps(HOSTILE, ensure_ascii=False)}\nsummary: {json.dumps(HOSTILE, ensure_ascii=False)}"
    text = SMALL.replace("name: small\nsummary: A small network", head)
    path.write_text(text.replace("repeat: 2}", "repeat: 2, note: '</script><script>alert(1)</script>'} # </pre><b>"))
    return path


def test_a_hostile_text_stays_text(tmp_path: Path) -> None:
    made = page(composer.load(hostile(tmp_path)))
    plain = [tag for tag, _ in Tags(page(composer.load(_written(tmp_path)))).found]
    tags = [tag for tag, _ in Tags(made).found]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert tags.count("b") == plain.count("b")
    assert HOSTILE.split("\u2028")[0] not in made


def _written(tmp_path: Path) -> Path:
    path = tmp_path / "plain.yaml"
    path.write_text(SMALL)
    return path


def test_a_mistake_is_a_message_and_no_page(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_text(SMALL.replace("fuse.concat", "fuse.conct"))
    assert run(["show", str(small), "--html", str(tmp_path / "page.html")]) == 1
    assert "BP102" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_network_that_gives_its_parameters_on_has_costs() -> None:
    """The queries of DETR are a parameter, handed on as it is."""
    text = page(composer.load("detr", size=[64, 64]))
    assert "without costs" not in text
    assert "FLOPs" in text


def test_where_sizes_are_open_the_page_says_why_there_are_no_costs() -> None:
    assert "without costs: the input `source` has no size" in html.unescape(page(composer.load("transformer")))


# ---- lines ------------------------------------------------------------------------------------------------------


def lines(path: Path | str, address: str) -> list[tuple[str, int, int]]:
    found = sourcemap(composer.load(path).check().graph)
    return [(Path(found.files[w.file].name).name, w.first, w.last) for w in found.lines[address]]


@pytest.mark.parametrize(
    ("address", "first", "last"), [("stem", 6, 8), ("body", 10, 10), ("body.1", 10, 10), ("join", 11, 11)]
)
def test_a_node_is_its_whole_mapping_without_the_blank_line_behind(
    address: str, first: int, last: int, small: Path
) -> None:
    assert lines(small, address) == [("small.yaml", first, last)]


def test_an_inherited_node_stands_in_two_files(small: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "blueprint: 1\nextends: small.yaml\nedit:\n  - at: stem\n    set: {out: 6}\n  - {at: body, set: {act: relu}}\n"
    )
    assert lines(own, "stem") == [("small.yaml", 6, 8), ("own.yaml", 4, 5)]
    assert lines(own, "body") == [("small.yaml", 10, 10), ("own.yaml", 6, 6)]
    assert lines(own, "join") == [("small.yaml", 11, 11)]


def test_every_node_of_every_blueprint_has_lines_in_its_files() -> None:
    for path in sorted((ROOT / "blueprints").glob("*.yaml")):
        found = sourcemap(composer.load(path).check().graph)
        for address, places in found.lines.items():
            for place in places:
                assert 1 <= place.first <= place.last <= len(found.files[place.file].lines), (path.stem, address)


# ---- in a browser -----------------------------------------------------------------------------------------------


@browser
@pytest.mark.parametrize(
    ("address", "wanted"),
    [("stem", ["0:6", "0:7", "0:8"]), ("body.1", ["0:10"]), ("join", ["0:11"])],
)
def test_an_address_in_the_link_marks_its_box_and_its_lines(
    address: str, wanted: list[str], small: Path, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(composer.load(small)))
    text = seen(file, tmp_path, f"#node={quote(address)}")
    assert chosen(text) == [address]
    assert marked(text) == wanted
    panel = re.search(r'<div id="chosen".*?</div>\s*<h2>', text, re.DOTALL)
    assert panel is not None
    assert f"<h3>{address}</h3>" in panel[0]


@browser
def test_a_folded_node_opens_and_skips_are_drawn(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(composer.load("swin_unet")))
    text = seen(file, tmp_path, "#node=encoder.2.blocks.1.attention")
    opened = {a["data-address"] for t, a in Tags(text).found if t == "li" and a.get("aria-expanded") == "true"}
    assert {"encoder", "encoder.2", "encoder.2.blocks", "encoder.2.blocks.1"} <= opened
    assert len(re.findall(r'<path class="\w*" d="M', text)) >= 3


DRIVER = """
<script>
addEventListener("load", () => {
  const frame = document.getElementById("page").contentDocument, log = [];
  const state = () => [...frame.querySelectorAll("li.chosen")].map(i => i.dataset.address) + "|" +
    [...frame.querySelectorAll(".line.marked")].map(l => l.dataset.at);
  const key = (node, name) => node.dispatchEvent(new frame.defaultView.KeyboardEvent("keydown", {key: name, bubbles: true}));
  const open = () => frame.querySelector("li[data-address=body]").getAttribute("aria-expanded");
  frame.querySelector("li[data-address=stem] > .row").click(); log.push(state());
  frame.querySelector("[data-at='0:11']").click(); log.push(state());
  frame.getElementById("fold").click(); log.push(open());
  const body = frame.querySelector("li[data-address=body]");
  body.focus(); key(body, "ArrowRight"); log.push(open());
  key(body, "ArrowDown"); log.push(frame.activeElement.dataset.address);
  key(frame.activeElement, "Enter"); log.push(state());
  key(frame.activeElement, "ArrowLeft"); log.push(frame.activeElement.dataset.address);
  key(body, "ArrowLeft"); log.push(open());
  const find = frame.getElementById("find");
  find.value = "fuse"; find.dispatchEvent(new Event("input")); log.push(frame.querySelectorAll("li.match").length);
  key(find, "Enter"); log.push(state());
  document.body.dataset.log = JSON.stringify(log);
});
</script>
"""


@browser
def test_clicks_keys_folding_and_finding(small: Path, tmp_path: Path) -> None:
    """A page around the page presses its buttons; frames of a `srcdoc` have the origin of their owner."""
    inner = page(composer.load(small)).replace("history.replaceState", "void")
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', inner)
    assert policy is not None
    inner = inner.replace(policy[0], "")
    outer = tmp_path / "outer.html"
    outer.write_text(f'<body><iframe id="page" width=1200 height=800 srcdoc="{html.escape(inner)}"></iframe>{DRIVER}')
    found = re.search(r'data-log="([^"]*)"', seen(outer, tmp_path))
    assert found is not None
    assert json.loads(html.unescape(found[1])) == [
        "stem|0:6,0:7,0:8",
        "join|0:11",
        "false",
        "true",
        "body.0",
        "body.0|0:10",
        "body",
        "false",
        1,
        "join|0:11",
    ]


@browser
def test_a_hostile_text_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(composer.load(hostile(tmp_path))))
    text = seen(file, tmp_path, "#node=stem")
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    assert title is not None
    assert html.unescape(title[1]).startswith("</script><script>")
    assert chosen(text) == ["stem"]


# ---- a notebook -------------------------------------------------------------------------------------------------


def test_a_blueprint_draws_itself() -> None:
    import torch  # noqa: F401 - with it the cost is shown

    text = composer.load("unet")._repr_html_()
    assert "<svg" in text
    assert "(B, 2, H, W)" in text
    assert "multiples of 16" in text
    assert "7.77 M" in text
    assert "<script" not in text


def test_a_blueprint_with_a_mistake_shows_the_message(small: Path) -> None:
    small.write_text(SMALL.replace("fuse.concat", "fuse.conct"))
    text = composer.load(small)._repr_html_()
    assert text.startswith("<pre>error[BP102]")
    assert "small.yaml:11" in text


def test_drawing_in_a_notebook_imports_no_torch() -> None:
    import sys

    code = (
        "import sys, composer; t = composer.load('unet')._repr_html_(); "
        "print('torch' in sys.modules, '<svg' in t, 'blueprint.cost()' in t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True True"


def test_a_fault_inside_is_shown_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    from composer import notebook

    monkeypatch.setattr(notebook, "describe", lambda program: 1 / 0)
    assert composer.load("unet")._repr_html_() == "<pre>unet: ZeroDivisionError: division by zero</pre>"
