"""The main job: `composer run BLUEPRINT IMAGE.nii.gz -o OUT.nii.gz`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli import common
from composer.diagnostics import BlueprintError, Diagnostic
from composer.graph import Ref

if TYPE_CHECKING:
    from composer.compose import Blueprint
    from composer.inference import Program


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(run)


def run(
    blueprint: common.Name,
    image: Annotated[Path, typer.Argument(help="A NIfTI image, .nii or .nii.gz.")],
    overrides: common.Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The label map to write.")] = Path("labels.nii.gz"),
    weights: Annotated[Path | None, typer.Option(help="Weights, .safetensors or .pt.")] = None,
    picture: Annotated[Path | None, typer.Option(help="The PNG; beside the output without it.")] = None,
    axis: Annotated[str, typer.Option(help="The plane of the network: axial, coronal or sagittal.")] = "axial",
    overlap: Annotated[float, typer.Option(help="Overlap of neighbouring windows, 0 to 0.9.", min=0, max=0.9)] = 0.5,
    whole: Annotated[
        bool, typer.Option("--whole", help="One window as large as the volume, or as its slices.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Windows at a time.", min=1)] = 1,
    normalize: Annotated[str, typer.Option(help="zscore, minmax or none.")] = "zscore",
    names: Annotated[str | None, typer.Option(help="Class names for the picture, from class 1: 'grey,white'.")] = None,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "cpu",
    plugin: common.Plugins = None,
) -> None:
    """Segment an image: sliding windows over the volume, or slice by slice for a 2-D network."""
    from composer import imaging

    loaded = common.load(blueprint, overrides, plugin)
    program = loaded.check()
    channels, classes, size = segmentation(program, loaded.name)
    position = len(program.inputs) > 1
    imaging.check_output(output, source=image)
    drawn = picture or output.with_name(output.name.removesuffix(".gz").removesuffix(".nii") + ".png")
    imaging.check_output(drawn, suffixes=(".png",))
    volume = imaging.read_volume(image, channels, rank=len(size), axis=axis)
    volume = imaging.normalize(volume, normalize)
    if whole:
        size = imaging.extent(volume, len(size), axis)
        fits(loaded, size, channels)
    voxels, window = (" × ".join(map(str, n)) for n in (volume.shape, size))
    print(f"{loaded.name} on {image.name}: {voxels} voxels, windows of {window}")
    network = loaded.build(weights=weights).to(usable(device))
    if weights is None:
        print("This network is untrained: no weights were given, so its labels mean nothing. Give them with --weights.")
    with progress() as advance:
        labels = imaging.segment(
            network, volume, size=size, classes=classes, axis=axis, overlap=overlap, batch=batch, position=position,
            progress=advance,
        )  # fmt: skip
    imaging.write_labels(labels, volume, output)
    untrained = "" if weights else " (untrained)"
    legend = dict(enumerate(names.split(","), 1)) if names else None
    imaging.draw_overlay(volume, labels, drawn, title=f"{loaded.name}{untrained} · {image.name}", names=legend)
    print(f"wrote {output}\nwrote {drawn}")


def fits(loaded: Blueprint, size: tuple[int, ...], channels: int) -> None:
    """Whether the network takes an image of this size whole."""
    name = next(iter(loaded.inputs))
    try:
        loaded.check(**{name: (1, channels, *size)})
    except BlueprintError as fault:
        help = f"`{name}.pad=auto` pads to the nearest valid size and crops back; without --whole there are windows"
        raise BlueprintError([d.with_help(*d.help, help) for d in fault.diagnostics]) from None


def segmentation(program: Program, name: str) -> tuple[int, int, tuple[int, ...]]:
    """Channels in, classes out, and the window: what makes a blueprint able to segment an image. A second input
    `position` is fed too: the window's place in the image."""
    images = [i for i in program.inputs if i.type.grid]
    others = [i for i in program.inputs if not i.type.grid]
    known = all(i.name == "position" and i.type.channels == len(images[0].axes) for i in others) if images else False
    if len(images) != 1 or program.inputs[0] is not images[0] or not known:
        text = f"`composer run` feeds one image; `{name}` has the inputs {', '.join(i.name for i in program.inputs)}"
        help = "it also feeds an input `position: B 3`, behind the image: the place of the window"
        raise BlueprintError(Diagnostic("BP805", text, help=(help,)))
    output = next((o for o in program.graph.outputs if not o.training), None)
    type_: Any = program.types.get(output.value.name) if output and isinstance(output.value, Ref) else None
    if type_ is None or getattr(type_, "kind", "") != "map":
        text = f"`{name}` gives {type_}, which is not a label for each voxel"
        raise BlueprintError(
            Diagnostic("BP805", text, help=("run a segmentation network, such as `unet` or `swin_unet`",))
        )
    if not program.built:
        text = f"`{name}` does not say the size of its windows"
        raise BlueprintError(Diagnostic("BP402", text, help=("give its input a `size:`",)))
    return images[0].type.channels, type_.channels, tuple(program.built[a] for a in images[0].axes)


def usable(device: str) -> Any:
    """The device, if this machine has it."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as fault:
        reason = str(fault).splitlines()[0]
        raise BlueprintError(Diagnostic("BP805", f"the device `{device}` cannot be used: {reason}")) from None
    return torch.device(device)


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar over windows, with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("windows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("windows", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
