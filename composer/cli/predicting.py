"""`composer predict RUN… IMAGE` and `composer evaluate RUN…`: what runs learned, on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli import common
from composer.diagnostics import BlueprintError, Diagnostic

if TYPE_CHECKING:
    from composer.training.scoring import Score

Runs = Annotated[list[Path], typer.Option("--run", help="A folder of `composer train`; several vote.")]
Weights = Annotated[str, typer.Option(help="best or last.")]
Flips = Annotated[bool, typer.Option("--flips", help="Also on mirrored images, averaged.")]
Device = Annotated[str, typer.Option(help="Such as cpu or cuda.")]
Overlap = Annotated[float, typer.Option(help="Overlap of neighbouring windows, 0 to 0.9.", min=0, max=0.9)]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command()(predict)
    app.command()(evaluate)


def predict(
    images: Annotated[list[Path], typer.Argument(help="An image, or one file for each channel.")],
    run: Runs,
    output: Annotated[Path, typer.Option("-o", "--output", help="The label map to write.")] = Path("labels.nii.gz"),
    weights: Weights = "best",
    flips: Flips = False,
    overlap: Overlap = 0.5,
    device: Device = "cpu",
) -> None:
    """Segment an image with what runs learned; scaled and turned as in training."""
    common.keep_memory()
    from composer import imaging
    from composer.cli.running import progress, usable
    from composer.training.cases import Case
    from composer.training.predicting import learned

    imaging.check_output(output, source=images[0])
    known = learned(run, _known(weights), flips, usable(device))
    volume = known.seen(Case(images[0].name, tuple(images), None))
    with progress() as advance:
        labels = known.segment(volume, overlap, advance)
    imaging.write_labels(labels, volume, output)
    drawn = output.with_name(f"{imaging.stem(output)}.png")
    imaging.draw_overlay(volume, labels, drawn, title=f"{known.name} · {images[0].name}", names=known.labels)
    print(f"wrote {output}\nwrote {drawn}")


def evaluate(
    run: Runs,
    data: Annotated[str | None, typer.Option(help="A list of cases; that of the first run without it.")] = None,
    part: Annotated[str, typer.Option(help="training, validation or test.")] = "test",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A .csv or .json to write.")] = None,
    weights: Weights = "best",
    flips: Flips = False,
    overlap: Overlap = 0.5,
    device: Device = "cpu",
) -> None:
    """Dice and HD95 of every class, on the cases of a list."""
    common.keep_memory()
    from composer.cli.running import usable
    from composer.cli.training import bar
    from composer.training import cases, scoring, store
    from composer.training.predicting import learned
    from composer.training.runs import Run

    asked = Run(run[0]).read()
    dataset = cases.read(data or asked["data"]["path"] or _unlisted(run[0]))
    chosen = _chosen(dataset.cases, asked["data"].get(part) if data is None else None, part, dataset)
    known = learned(run, _known(weights), flips, usable(device))
    scored: list[Score] = []
    with bar("segmenting") as advance:
        for done, case in enumerate(chosen):
            volume = known.seen(case)
            truth = store.classes_of(case, volume, known.view.classes)
            scored += scoring.scores(case.name, known.segment(volume, overlap), truth, known.labels, volume.spacing)
            advance(done + 1, len(chosen))
    show(scored, f"{known.name}: {len(chosen)} {part} case{'s' * (len(chosen) != 1)}")
    if output:
        scoring.write(scored, output)
        print(f"wrote {output}")


def _known(weights: str) -> str:
    if weights in ("best", "last"):
        return weights
    raise BlueprintError(Diagnostic("BP201", f"`--weights {weights}` of a run: best or last"))


def _unlisted(run: Path) -> str:
    text = f"`{run}` was trained on pairs of the command line: give a list with `--data`"
    raise BlueprintError(Diagnostic("BP820", text))


def _chosen(found: Any, names: list[str] | None, part: str, dataset: Any) -> list[Any]:
    """The labelled cases of a part; those that the run left out of training, where it drew them itself."""
    chosen = [c for c in found if c.name in names] if names else [c for c in dataset.parts.get(part, ()) if c.label]
    if not chosen:
        counts = ", ".join(f"{len(v)} {k}" for k, v in dataset.parts.items() if v)
        text = f"`{dataset.name}` has no labelled case for `{part}`"
        raise BlueprintError(Diagnostic("BP820", text, notes=(counts,), help=("choose with `--part`",)))
    return chosen


def show(scored: list[Score], title: str) -> None:
    """A table of the means."""
    from rich.console import Console
    from rich.table import Table

    from composer.training.scoring import means

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, side in (("class", "left"), ("Dice", "right"), ("HD95 mm", "right"), ("voxels", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in means(scored).values():
        table.add_row(row.label, f"{row.dice:.3f}", f"{row.hd95:.2f}", f"{row.voxels:,}")
    Console(highlight=False).print(table)
