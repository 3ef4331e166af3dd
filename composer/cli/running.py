"""The main job: `composer run BLUEPRINT IMAGE.nii.gz -o OUT.nii.gz`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer import folders
from composer.cli import arguments, common
from composer.compose import Blueprint, fed
from composer.diagnostics import BlueprintError, Diagnostic, PluginError
from composer.segmenting import segmentation

if TYPE_CHECKING:
    from composer.attention import Taps
    from composer.attention_maps import Sight
    from composer.figures import Cost
    from composer.imaging import Volume
    from composer.inference import Program
    from composer.plans import MemoryPlan
    from composer.remedies import Request


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(run)


def run(
    blueprint: arguments.Name,
    image: Annotated[Path, typer.Argument(help="A NIfTI image, .nii or .nii.gz.")],
    overrides: arguments.Overrides = None,
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
    dtype: Annotated[str, typer.Option(help="Of the network: fp32, bf16 or fp16.")] = "fp32",
    without: arguments.Without = None,
    memory: Annotated[str | None, typer.Option(help="Plan how it runs within so much memory, such as 8GB.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what will not fit into the memory.")] = False,
    tap: Annotated[
        list[str] | None, typer.Option("--tap", help="Also draw attention: of a node, such as 'blocks.*.attention'.")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", help="A voxel whose attention is drawn: X,Y,Z of the file.")
    ] = None,
    plugin: arguments.Plugins = None,
) -> None:
    """Segment an image: sliding windows over the volume, or slice by slice for a 2-D network."""
    from composer import imaging

    common.keep_memory()
    loaded = common.load(blueprint, overrides, plugin)
    weights, named = weights or folders.weights_of(blueprint), folders.labels_of(blueprint)
    program = loaded.check()
    check_tap(program, tap, query)
    channels, classes, size = segmentation(program, loaded.name)
    position = len(program.inputs) > 1
    imaging.check_output(output, source=image)
    drawn = picture or output.with_name(f"{imaging.stem(output)}.png")
    imaging.check_output(drawn, suffixes=(".png",))
    home = usable(device)
    shape = imaging.shape_of(image, channels)

    def room(window: tuple[int, ...]) -> Room:
        buffers = imaging.buffers(shape, channels, classes, window, batch)
        return Room(loaded, home, window, buffers, batch, dtype, tuple(without or ()), memory)

    if not force and not whole:
        room(size).check(lambda more: common.load(blueprint, [*(overrides or ()), *more], plugin))
    volume = imaging.read_volume(image, channels, rank=len(size), axis=axis)
    voxels = queried(volume, query, axis)
    volume = imaging.normalize(volume, normalize)
    if whole:
        extent = imaging.extent(volume, len(size), axis)
        fits(loaded, extent, channels)
        if not force:
            room(extent).check(windows=room(size))
        if tap:
            unpadded(program, extent)
        size = extent
    said, window = (" × ".join(map(str, n)) for n in (volume.shape, size))
    print(f"{loaded.name} on {image.name}: {said} voxels, windows of {window}")
    plan = room(size).plan
    left_out = (*(without or ()), *(plan.without if plan else ()))
    network = loaded.build(weights=weights, without=left_out, force=force).to(home, torch_dtype(dtype))
    if plan:
        print(f"{plan}\n")
        network.planned(plan)
    if weights is None:
        print("This network is untrained: no weights were given, so its labels mean nothing. Give them with --weights.")
    with progress() as advance:
        labels = imaging.segment(
            network, volume, size=size, classes=classes, axis=axis, overlap=overlap, batch=batch, position=position,
            progress=advance,
        )  # fmt: skip
    imaging.write_labels(labels, volume, output)
    untrained = "" if weights else " (untrained)"
    legend = dict(enumerate(names.split(","), 1) if names else enumerate(named))
    imaging.draw_overlay(volume, labels, drawn, title=f"{loaded.name}{untrained} · {image.name}", names=legend)
    print(f"wrote {output}\nwrote {drawn}")
    if tap:
        from composer.attention_maps import Sight

        sight = Sight(network, volume, size, axis, position)
        draw_attention(sight, network.tap(*tap), voxels, output, f"{loaded.name}{untrained}")


def check_tap(program: Program, patterns: list[str] | None, queries: list[str] | None) -> None:
    """Refuse what `--tap` cannot name, before anything is built."""
    from composer.taps import attentions, chosen

    if queries and not patterns:
        text = "`--query` says from where attention is drawn, and no `--tap` says of which node"
        raise BlueprintError(Diagnostic("BP201", text, help=("add for example `--tap '**'`",)))
    chosen(attentions(program), dict.fromkeys(patterns or ()), program.types)


def unpadded(program: Program, size: tuple[int, ...]) -> None:
    """Refuse an image that the network pads: where its cells lie in the image cannot be told then."""
    from composer.sizes import violations

    if list(violations(program.constraints, dict(zip(program.inputs[0].axes, size, strict=True)), None)):
        text = f"the network pads an image of {' × '.join(map(str, size))}, and attention is placed in windows only"
        raise BlueprintError(Diagnostic("BP841", text, help=("leave out `--whole`",)))


def queried(volume: Volume, queries: list[str] | None, axis: str) -> list[tuple[int, ...]]:
    """The voxels that `--query` names, as the network sees the image."""
    from composer.attention_maps import as_seen

    return [as_seen(volume, parse_voxel(q), axis) for q in queries or ()]


def draw_attention(sight: Sight, taps: Taps, voxels: list[tuple[int, ...]], output: Path, title: str) -> None:
    """A picture for each tapped node, one of all of them, and their numbers, beside the output."""
    from composer import attention_figure, attention_maps, imaging

    taps.close()  # it has said which nodes there are; what is asked of them depends on the window
    voxels = voxels or attention_maps.chosen_voxels(sight.volume, len(sight.size), sight.axis)
    stem = imaging.stem(output)
    found, placed = [], []
    for gazes in sight.gazes(list(taps.nodes.values()), voxels):
        found += gazes
        if gazes[0].times is None:
            print(f"{gazes[0].address}: its keys have no place in the image, so there are only numbers of it")
            continue
        placed.append(gazes[0])
        path = output.with_name(f"{stem}.{gazes[0].address}.png")
        attention_figure.draw_node(sight, gazes, path, f"{title} · {gazes[0].address}")
        print(f"wrote {path}")
    if len(placed) > 1:
        path = output.with_name(f"{stem}.taps.png")
        attention_figure.draw_nodes(sight, placed, path, f"{title} · from voxel {', '.join(map(str, placed[0].voxel))}")
        more = len(placed) - attention_figure.MOST
        print(f"wrote {path}" + (f" (without the last {more} nodes)" if more > 0 else ""))
    attention_maps.save(found, output.with_name(f"{stem}.taps.npz"))
    print(f"wrote {output.with_name(f'{stem}.taps.npz')}")
    print("These maps show where weights of attention lie. They do not explain what the network decided.")


def parse_voxel(text: str) -> tuple[int, ...]:
    """`90,100,80` as numbers."""
    words = [w.strip() for w in text.split(",")]
    if len(words) != 3 or not all(w.isdigit() for w in words):
        text = f"`--query {text}` is no voxel"
        raise BlueprintError(Diagnostic("BP201", text, help=("write its numbers in the file: --query 90,100,80",)))
    return tuple(map(int, words))


def fits(loaded: Blueprint, size: tuple[int, ...], channels: int) -> None:
    """Whether the network takes an image of this size whole."""
    name = next(iter(loaded.inputs))
    try:
        loaded.check(**{name: (1, channels, *size)})
    except BlueprintError as fault:
        help = f"`{name}.pad=auto` pads to the nearest valid size and crops back; without --whole there are windows"
        raise BlueprintError([d.with_help(*d.help, help) for d in fault.diagnostics]) from None


def torch_dtype(name: str) -> Any:
    """The dtype of torch that a name stands for."""
    from composer.cost import DTYPES, dtype_of

    return DTYPES[dtype_of(name)]


@dataclass(frozen=True)
class Room:
    """What a run takes: windows through the network on `device`, around it `buffers` on the processor, in bytes, while
    the image is read and while windows run."""

    loaded: Blueprint
    device: Any
    window: tuple[int, ...]
    buffers: tuple[int, int]
    batch: int
    dtype: str
    without: tuple[str, ...] = ()
    memory: str | None = None

    @property
    def here(self) -> bool:
        """Whether the network is on the processor too."""
        return bool(self.device.type == "cpu")

    @cached_property
    def request(self) -> Request:
        program = self.loaded.check()
        first = program.inputs[0]
        given = (self.batch, first.type.channels, *self.window)
        from composer.remedies import Request

        return Request(self.loaded, fed(program, {first.name: given}), {"dtype": self.dtype, "without": self.without})

    @cached_property
    def plan(self) -> MemoryPlan | None:
        """How a window fits into the memory that was asked for, less what is around it on the processor."""
        if self.memory is None:
            return None
        from composer.memory import amount

        budget = max(1, amount(self.memory) - (self.buffers[1] if self.here else 0))
        shapes: Any = self.request.shapes
        return self.loaded.plan(budget, **self.request.options, **shapes)

    @cached_property
    def cost(self) -> Cost | None:
        """None for a plugin's block that cannot be counted, which is no reason not to run it."""
        try:
            return self.plan.after if self.plan else self.request.cost(flops=False)
        except PluginError:
            return None

    def host(self, cost: Cost) -> int:
        """Bytes on the processor."""
        prepared, sums = self.buffers
        return max(prepared, sums + (cost.peak.bytes if self.here else 0))

    def enough(self, cost: Cost) -> bool:
        from composer.memory import available

        host, device = available(), available(str(self.device))
        on_host = host is None or self.host(cost) <= host
        return on_host and (self.here or device is None or cost.peak.bytes <= device)

    def check(self, reload: Callable[[list[str]], Blueprint] | None = None, windows: Room | None = None) -> None:
        """Refuse what does not fit (BP706), before anything is built. `reload` makes the blueprint with another size;
        `windows` is the run in windows instead of the whole image."""
        from composer import figures, memory, remedies

        found = self.cost
        if self.plan and not self.plan.fits:
            raise self._unplanned(self.plan, reload)
        if found is None or self.enough(found):
            return
        device = memory.available(str(self.device)) or 0
        on_gpu = not self.here and found.peak.bytes > device
        needs: Callable[[Cost], int] = (lambda c: c.peak.bytes) if on_gpu else self.host
        resized = ("size=[{}]", lambda to: reload([f"size=[{','.join(map(str, to))}]"])) if reload else None
        help = remedies.ways(self.request, needs, self.enough, resized)
        if windows and windows.cost and windows.enough(windows.cost):
            help = [f"without `--whole` it needs {figures.size(windows.host(windows.cost))}", *help]
        worst = figures.largest(found.by("node"), "at_peak") if self.here or on_gpu else []
        image = f"the image and the sums of its windows   {figures.size(max(self.buffers))}"
        what = f"running `{self.loaded.name}` on {'the GPU' if on_gpu else 'this image'}"
        free = device if on_gpu else memory.available() or 0
        raise memory.refusal(
            what, needs(found), free, [*([] if on_gpu else [image]), *worst], help, "or go on: `--force`"
        )

    def _unplanned(self, plan: MemoryPlan, reload: Callable[[list[str]], Blueprint] | None = None) -> BlueprintError:
        """The memory that was asked for is too little for any plan."""
        from composer import figures, planning, remedies

        resized = ("size=[{}]", lambda to: reload([f"size=[{','.join(map(str, to))}]"])) if reload else None
        help = remedies.ways(self.request, lambda c: c.peak.bytes, lambda c: c.peak.bytes <= plan.budget, resized)
        around = figures.size(self.buffers[1])
        note = f"`--memory {self.memory}` less {around} for the image and the sums of its windows" if self.here else ""
        return planning.refused(plan, help, "or run by the best plan: `--force`", *filter(None, [note]))


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
