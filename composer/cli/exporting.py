"""What a network becomes outside of Composer: `composer export NAME --onnx FILE | --torch FILE | --netron FILE |
--monai-bundle DIR | --hub DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer import folders
from composer.cli import arguments, common
from composer.cli.costing import sized
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, PluginError, did_you_mean, listing

if TYPE_CHECKING:
    from composer.compose import Blueprint
    from composer.exporters import Exporter, Shapes
    from composer.registry import Registry


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(export)


def export(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    onnx: Annotated[Path | None, typer.Option(help="ONNX with weights, for onnxruntime and others.")] = None,
    torch: Annotated[Path | None, typer.Option(help="A torch.export program (.pt2); it runs without Composer.")] = None,
    netron: Annotated[Path | None, typer.Option(help="The graph of blocks (.onnx) for netron; no weights.")] = None,
    monai_bundle: Annotated[Path | None, typer.Option(help="A bundle of MONAI: a folder, with weights.")] = None,
    hub: Annotated[Path | None, typer.Option(help="A folder for Hugging Face: blueprint, weights, model card.")] = None,
    format: Annotated[str | None, typer.Option(help="A format by name, a plugin's too; goes with -o.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file of --format.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights, .safetensors or .pt.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="The size it is made for, such as 224,224; another input's: target=64.")
    ] = None,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Fix the sizes; without, those of the rules stay open.")
    ] = False,
    verify: Annotated[bool, typer.Option(help="Run the file once beside the network.")] = True,
    plugin: arguments.Plugins = None,
) -> None:
    """Write the network in the format of other programs. Batch and sizes stay open as far as the rules allow it."""
    given = {"onnx": onnx, "torch": torch, "netron": netron, "monai-bundle": monai_bundle, "hub": hub}
    targets = {name: path for name, path in given.items() if path is not None} | named(format, output)
    known = common.registry(plugin)
    exporters = {name: exporter(name, known) for name in targets}
    if not exporters:
        help = (f"say which: {listing(f'--{n} FILE' for n in given)}, or --format NAME -o FILE",)
        raise BlueprintError(Diagnostic("BP201", "`composer export` was given no format", help=help))
    loaded, shapes = sized(blueprint, overrides, plugin, size, 1)
    loaded.check(**shapes)
    weights = weights or folders.weights_of(blueprint)
    options = {"fixed": fixed, "verify": verify, "labels": folders.labels_of(blueprint)}
    for name, path in targets.items():
        write(loaded, shapes, name, exporters[name], path, weights, **options)


def named(format: str | None, output: Path | None) -> dict[str, Path]:
    """`--format NAME -o FILE`, which need each other."""
    if (format is None) != (output is None):
        raise BlueprintError(Diagnostic("BP201", "`--format NAME` and `-o FILE` go together"))
    return {format: output} if format is not None and output is not None else {}


def exporter(name: str, known: Registry) -> Exporter:
    """The exporter of a format. Where a plugin's does not even start, it is its fault."""
    if name not in known.exporters:
        text = f"there is no format `{name}`{did_you_mean(name, known.exporters)}"
        raise BlueprintError(Diagnostic("BP201", text, notes=(f"formats: {listing(known.exporters)}",)))
    try:
        made: Exporter = known.exporters[name]()
    except Exception as fault:
        raise failed(name, fault) from fault
    return made


def write(
    loaded: Blueprint,
    shapes: Shapes,
    name: str,
    exporter: Exporter,
    path: Path,
    weights: Path | None = None,
    **options: Any,
) -> None:
    """Write one file or folder, whole or not at all; that it can be written is known before anything is built."""
    from composer.files import whole, whole_folder

    names = getattr(exporter, "files", None)
    with whole(path) if names is None else whole_folder(path, names, getattr(exporter, "kept", ())) as temporary:
        bare = getattr(exporter, "structure_only", False)
        network = loaded.build("meta") if bare else loaded.build(weights=weights)
        try:
            remark = exporter(network.eval(), temporary, shapes=shapes, **options)
        except ComposerError:
            raise
        except Exception as fault:
            raise failed(name, fault) from fault
    sizes = ", ".join(f"{n} (B, {', '.join(map(str, s[1:]))})" for n, s in shapes.items())
    print(f"wrote {path}: {loaded.name} on {sizes}")
    if not bare and weights is None:
        print("its weights are random: none were given with --weights")
    if remark:
        print(remark)


def failed(name: str, fault: Exception) -> PluginError:
    """An exporter that broke."""
    text = f"the exporter of `{name}` failed: {type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
    return PluginError(Diagnostic("BP809", text, help=("this is its author's to mend",)))
