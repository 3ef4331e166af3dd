"""What `composer export` can write. A format is a (name, factory) pair of the hook `register_exporters`; those below
enter by the same hook, as an entry point of this distribution.

Graph -> passes -> module -> file: an exporter is handed the built network, in evaluation, and the shapes it is to be
fed. The factory imports what a format needs (torch, onnx), so that naming a format costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from composer.hookspecs import hookimpl

composer_api = "1"

Shapes = Mapping[str, tuple[int, ...]]


class Exporter(Protocol):
    """Writes a network to a file in one format.

    The path is new and private; it is moved to its place when the exporter returns. `options` holds `shapes`, those of
    the inputs, batch included, whether the sizes shall be `fixed` and the file be run to `verify` it, and `labels` of
    the classes where a folder names them. What is returned is a remark for the user, if any.

    An exporter with an attribute `structure_only = True` is handed a network on `meta`, which has shapes and no
    numbers. One with `files` writes a folder: the path is that of a new one, and `files` are the names in it; a folder
    that has others is not replaced, and `kept` stay as they are in one that is.
    """

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None: ...


@hookimpl
def register_exporters() -> Iterable[tuple[str, Callable[[], Exporter]]]:
    """The shipped formats."""
    return (("onnx", _onnx), ("torch", _torch), ("netron", _netron), ("monai-bundle", _bundle), ("hub", _hub))


def _onnx() -> Exporter:
    from composer.exporters.onnx import OnnxExporter

    return OnnxExporter()


def _torch() -> Exporter:
    from composer.exporters.torch import TorchExporter

    return TorchExporter()


def _netron() -> Exporter:
    from composer.exporters.netron import NetronExporter

    return NetronExporter()


def _bundle() -> Exporter:
    from composer.exporters.bundle import BundleExporter

    return BundleExporter()


def _hub() -> Exporter:
    from composer.exporters.hub import HubExporter

    return HubExporter()
