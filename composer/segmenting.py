"""What makes a blueprint able to segment an image: one image in, a class for every voxel out. Imports no torch."""

from __future__ import annotations

from typing import Any

from composer.diagnostics import BlueprintError, Diagnostic
from composer.graph import Ref
from composer.inference import Program


def head_of(program: Program) -> str:
    """The node that gives the first output at evaluation; nothing where that is no value of one node."""
    output = next((o for o in program.graph.outputs if not o.training), None)
    return output.value.name if output and isinstance(output.value, Ref) else ""


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
    type_: Any = program.types.get(head_of(program))
    if type_ is None or getattr(type_, "kind", "") != "map":
        text = f"`{name}` gives {type_}, which is not a label for each voxel"
        raise BlueprintError(
            Diagnostic("BP805", text, help=("run a segmentation network, such as `unet` or `swin_unet`",))
        )
    if not program.built:
        text = f"`{name}` does not say the size of its windows"
        raise BlueprintError(Diagnostic("BP402", text, help=("give its input a `size:`",)))
    return images[0].type.channels, type_.channels, tuple(program.built[a] for a in images[0].axes)
