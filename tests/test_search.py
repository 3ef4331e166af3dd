"""Searching: spaces and budgets are read and refused with their places, compositions pruned without torch, the front is
the one of the definition, and a study that is killed becomes what it would have become."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import composer
from composer.blueprint import parse_overrides
from composer.cli.main import run
from composer.diagnostics import BlueprintError, Source
from composer.search import composing, limits, space
from composer.search.composing import Origin
from composer.search.front import Row, front
from composer.search.study import Place
from composer.source import Map

pytest.importorskip("optuna")
pytest.importorskip("lightning")

NET = """\
blueprint: 1
name: net
params: {width: 4, act: relu}
inputs: {image: {type: B 1 H W, size: [8, 8]}}
graph:
  stem: {use: conv, out: $width, kernel: 3, padding: same, act: $act}
  more: {use: conv, out: $width, kernel: 3, padding: same, norm: instance}
  head: {use: conv, out: 2, kernel: 1}
outputs: {logits: head}
"""
SPACE = """\
space: 1
network:
  width: {from: 2, to: 8, step: 2}
  more.norm: [instance, {use: norm.group, groups: {one_of: [1, 3]}}]
training:
  lr: {from: 1e-3, to: 1e-1, log: true}
"""


def parsed(text: str) -> space.Space:
    return space.parse(Source("space.yaml", text))


def mistakes(text: str) -> str:
    with pytest.raises(BlueprintError) as caught:
        parsed(text)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network, a space, and four flat images with a bright disc."""
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NET)
    Path("space.yaml").write_text(SPACE)
    rows = []
    for k in range(3):
        rng = np.random.default_rng(k)
        x, y, _ = np.meshgrid(np.arange(12), np.arange(12), np.arange(2), indexing="ij")
        inside = (x - rng.integers(4, 8)) ** 2 + (y - rng.integers(4, 8)) ** 2 < 9
        for name, array in (("image", rng.normal(0, 0.5, inside.shape) + 3 * inside), ("label", inside)):
            nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)).to_filename(f"{name}{k}.nii.gz")
        rows.append({"image": f"image{k}.nii.gz", "label": f"label{k}.nii.gz", "name": f"c{k}"})
    listed = {"labels": ["background", "disc"], "cases": rows, "split": {"validation": ["c2"]}}
    Path("list.yaml").write_text(json.dumps(listed))
    return tmp_path


def asked(out: str, *more: str, trials: int = 3) -> list[str]:
    words = ["--data", "list.yaml", "--out", out, "--trials", str(trials), "--steps", "2", "--device", "cpu"]
    return ["search", "net.yaml", "--space", "space.yaml", "--budget", "parameters<700", *words, *more]


# ---- spaces --------------------------------------------------------------------------------------------------------


def test_every_composition_is_met_once() -> None:
    found = parsed(
        "space: 1\nnetwork:\n  a: {from: 1, to: 2}\n  b: [x, {use: z, m: {one_of: [5, 6]}, k: {from: 1, to: 3, step: 2}}]"
    )
    every = [str(c) for c in found.every()]
    inner = ["x", *(f"{{use: z, m: {n}, k: {k}}}" for n in (5, 6) for k in (1, 3))]
    assert every == [f"a={a}, b={b}" for a in (1, 2) for b in inner]
    assert found.count == 10


def test_a_choice_within_an_alternative_is_asked_for_only_there() -> None:
    found, names = parsed(SPACE), []

    def answer(name: str, choice: space.Choice) -> object:
        names.append(name)
        return 0 if isinstance(choice, space.OneOf) else choice.low

    assert found.composed(answer).overrides == {"width": 2, "more.norm": "instance"}
    assert names == ["width", "more.norm", "lr"]


@given(low=st.integers(-50, 50), more=st.integers(1, 60), step=st.integers(1, 60), part=st.sampled_from([1, 10, 100]))
def test_a_range_in_steps_has_the_values_that_one_counts(low: int, more: int, step: int, part: int) -> None:
    """Also with decimal fractions, where adding up would miss the last."""
    step = min(step, more)
    ends = [n / part if part > 1 else n for n in (low, low + more, step)]
    made = space.Range(*ends)
    values = [made.value(k) for k in range(int(made.count))]
    assert values == [n / part if part > 1 else n for n in range(low, low + more + 1, step)]
    assert made.last == values[-1]
    assert made.drawn(Random(more)) in values


@given(seed=st.integers(0, 2**16), log=st.booleans())
def test_what_is_drawn_lies_in_the_range(seed: int, log: bool) -> None:
    rng = Random(seed)
    assert 1e-4 <= space.Range(1e-4, 1.0, None, log).drawn(rng) <= 1.0
    whole = space.Range(1, 7, None, log).drawn(rng)
    assert isinstance(whole, int)
    assert 1 <= whole <= 7


WRONG = {
    "network:\n  a: {from: 5, to: 1}": "the range of `a` goes the wrong way: from 5 to 1\n  --> space.yaml:3:6",
    "network:\n  a: {form: 5, to: 1}": "the range of `a` has no `form`; did you mean `from`?\n  --> space.yaml:3:7",
    "network:\n  a: {from: 5, to: 5}": "has one value, 5",
    "network:\n  a: {from: 1, to: 5, step: 9}": "`step: 9` of `a` reaches nothing between 1 and 5\n  --> space.yaml:3:29",
    "network:\n  a: {from: 0, to: 5, log: true}": "`log` of `a` needs a `from` above 0, not 0",
    "network:\n  a: {from: 1, to: 5, step: 1, log: true}": "a logarithmic range has no steps",
    "network:\n  a: {from: x, to: 5}": "`from` of `a` is a number, not 'x'",
    "network:\n  a: []": "`a` has an empty list",
    "network:\n  a: [x, y, x]": "`a` lists `x` twice\n  --> space.yaml:3:13",
    "network:\n  a: [{use: x, b: {one_of: 3}}]": "`one_of` holds a list",
    "network: [a]": "`network` is a mapping",
    "netwrk: {a: [x, y]}": "a space has no `netwrk`; did you mean `network`?\n  --> space.yaml:2:1",
    "network: {a: [x]}\ntraining: {lr: 0.1}": "there is nothing to choose",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_space_says_what_and_where(text: str) -> None:
    said = mistakes(f"space: 1\n{text}")
    assert WRONG[text] in said
    assert "error[BP846]" in said


def test_names_that_fit_nowhere_are_refused_with_what_was_tried() -> None:
    text = (
        "space: 1\nnetwork:\n  wdth: [2, 4]\n  more.nrm: [instance, batch]\n  head.act: [relu, {use: act.relo}]\n"
        "  stm.kernel: [1, 3]\ntraining: {lrr: [0.1, 0.2], optimizer: [adamw, sdg], epochs: [1, 2]}\n"
    )
    here = Path(__file__).parent / "net.yaml"
    with pytest.raises(BlueprintError) as caught, composer.source.standing_in({str(here): NET}):
        composing.verify(parsed(text), Origin(str(here), Map(), composer.Registry.discover()), {"epochs": 3})
    found = [(d.code, d.span.line, d.span.column) for d in caught.value.diagnostics]
    names = [("BP105", 3, 3), ("BP204", 4, 3), ("BP102", 5, 26), ("BP106", 6, 3)]
    assert found == [*names, ("BP826", 7, 12), ("BP826", 7, 48), ("BP846", 7, 54)]
    said = str(caught.value)
    for word in ("width", "norm", "act.relu", "stem.kernel", "lr"):
        assert f"did you mean `{word}`" in said


# ---- budgets ---------------------------------------------------------------------------------------------------------


def test_budgets_are_read() -> None:
    assert limits.parse("flops<50G, memory <= 1.5GiB,parameters<5m").most == {
        "flops": 50e9, "memory": 1.5 * 2**30, "parameters": 5e6,
    }  # fmt: skip
    assert limits.parse("flops<2MFLOPs, memory<500 kB").most == {"flops": 2e6, "memory": 5e5}
    assert limits.parse(None).most == {}
    over = limits.parse("flops<1k, memory<1kB").exceeded({"flops": 1001, "memory": 10})
    assert (over.code, over.message) == ("BP849", "over the budget: flops 1.00 k, at most 1.00 k")
    assert limits.parse("flops<1k").exceeded({"flops": 1000}) is None


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("flops<3, memory<5X", 17, "`memory` has no unit `X`"),
        ("memroy<5GB", 1, "did you mean `memory`?"),
        ("flops>3", 1, "`flops>3` is no limit"),
        ("flops<1G,", 10, "a limit is missing"),
        ("memory<5", 8, "`memory` needs a unit"),
        ("flops<1G, flops<2G", 11, "limited twice"),
    ],
)
def test_a_wrong_budget_underlines_the_part(text: str, column: int, words: str) -> None:
    with pytest.raises(BlueprintError) as caught:
        limits.parse(text)
    (found,) = caught.value.diagnostics
    assert (found.code, found.span.column) == ("BP847", column)
    assert words in found.message


# ---- the front -------------------------------------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14)


@given(POINTS)
@settings(max_examples=300)
def test_the_front_is_that_of_the_definition(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    assert front(points) == [k for k, p in enumerate(points) if not any(beats(q, p) for q in points)]


# ---- studies ---------------------------------------------------------------------------------------------------------

DRY = """
import sys
from composer.cli.main import run
status = run(sys.argv[1:])
print("torch" in sys.modules, "optuna" in sys.modules, status)
"""


def test_compositions_are_pruned_without_torch(folder: Path) -> None:
    Path("space.yaml").write_text(SPACE.partition("training")[0])
    words = ["search", "net.yaml", "--space", "space.yaml", "--dry", "--data", "list.yaml"]
    done = subprocess.run([sys.executable, "-c", DRY, *words], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0] == "12 compositions, all there are: 9 valid", done.stdout + done.stderr
    assert "BP401   3" in done.stdout  # 2, 4 and 8 channels in three groups
    assert lines[-1] == "False False 0"


KILLED = """
import os, signal, sys
from composer.cli.main import run
from composer.training import engine

kept = engine.Keeper.on_train_batch_end
def dies(self, trainer, module, outputs, batch, number):
    kept(self, trainer, module, outputs, batch, number)
    if (trainer.current_epoch, number) == (1, 0) and len(os.listdir("cut/trials")) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
engine.Keeper.on_train_batch_end = dies
from composer.cli import searching
searching.EPOCH = 1
sys.exit(run(sys.argv[1:]))
"""


def told(out: str) -> list[dict[str, object]]:
    """The trials of a study, less their times."""
    rows = json.loads(Path(out, "trials.json").read_text())["trials"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_killed_study_becomes_what_it_would_have_become(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the second epoch of the second trial that is trained; and everything that a study leaves behind."""
    monkeypatch.setattr("composer.cli.searching.EPOCH", 1)
    assert run(asked("whole", trials=2)) == 0
    died = subprocess.run(
        [sys.executable, "-c", KILLED, *asked("cut", trials=2)], capture_output=True, text=True, timeout=120
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(told("cut")) == 1
    epochs = sorted(len(p.read_text().splitlines()) for p in Path("cut", "trials").glob("*/metrics.csv"))
    assert epochs == [2, 3]  # the head and one epoch, and both
    capsys.readouterr()
    assert run(asked("cut", trials=2)) == 0
    assert told("cut") == told("whole")
    assert len(told("whole")) == 2

    said = capsys.readouterr().out
    assert "BP849" in said or "BP401" in said
    table = Path("whole", "trials.csv").read_text().splitlines()
    assert table[0] == "trial,front,dice,flops,parameters,memory,seconds,width,more.norm,lr"
    assert len(table) == 3
    assert Path("whole", "front.png").read_bytes().startswith(b"\x89PNG")
    best = max(told("whole"), key=lambda r: (r["dice"], -r["flops"]))
    mine, its = (composer.load(p) for p in ("whole/best.yaml", f"whole/trials/{best['number']}/blueprint.yaml"))
    assert composing._nodes(mine) == composing._nodes(its)
    assert "lr" in mine.source["training"]
    assert run(["check", "whole/best.yaml"]) == 0
    capsys.readouterr()

    assert run(asked("whole", "--recipe", "rotate=3")) == 1  # another question
    said = capsys.readouterr().err
    assert "error[BP848]" in said
    assert "recipe.rotate: it has null, asked for is 3" in said
    assert run(["search", "--list", "--out", "whole", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["best"] == best["number"]
    assert shown["front"]
    shutil.copy("whole/search.json", "cut/study.db")
    assert run(asked("cut")) == 1
    assert "`cut/study.db` cannot be read" in capsys.readouterr().err


def test_interrupted_it_shows_the_table_so_far(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from composer.cli import training

    taught = training.taught

    def interrupted(*given: object) -> object:
        if len(os.listdir("study/trials")) == 2:
            raise KeyboardInterrupt
        return taught(*given)

    monkeypatch.setattr(training, "taught", interrupted)
    assert run(asked("study")) == 130
    assert len(told("study")) == 1
    assert "wrote study/trials.csv" in capsys.readouterr().out


def test_what_a_search_needs_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = Path("list.yaml").read_text()
    Path("list.yaml").write_text(listed.replace('["c2"]', "[]").replace("validation", "test"))
    assert run(asked("study", "--validation", "0")) == 1
    assert "no case is for validation" in capsys.readouterr().err
    Path("list.yaml").write_text(listed)
    assert run(asked("study", "--recipe", "shedule=poly")) == 1
    assert "error[BP826]: a recipe has no `shedule`; did you mean `schedule`?" in capsys.readouterr().err
    with Place(Path("busy")).locked():
        assert run(asked("busy")) == 1
    assert "error[BP848]: another process searches in `busy`" in capsys.readouterr().err
    monkeypatch.setattr("composer.search.study.find_spec", lambda name: None)
    assert run(asked("study")) == 1
    assert "pip install 'blueprint-composer[search]'" in capsys.readouterr().err
    assert not Path("study").exists()


def test_a_composition_is_written_as_short_as_it_stays_the_same(tmp_path: Path) -> None:
    """Addresses of a command line may leave names out, those of a file may not."""
    registry = composer.Registry.discover()
    origin = Origin("swin_unet", parse_overrides(["classes=3"]), registry)
    made = origin.blueprint(parse_overrides(["decoder.*.fuse=fuse.add", "encoder.0.window=7", "dim=48"]))
    text = composing.as_text(origin, made, composing.recipe({"lr": 0.1}), tmp_path, "found")
    assert "extends: swin_unet" in text
    (tmp_path / "best.yaml").write_text(text)
    assert composing._nodes(composer.load(tmp_path / "best.yaml")) == composing._nodes(made)


def test_rows_say_their_figures() -> None:
    assert Row(1, 0.5, 2.0, 3, 4, 1.0, {}).figures == {"flops": 2.0, "memory": 4, "parameters": 3}
