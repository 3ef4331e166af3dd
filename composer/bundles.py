"""What the configuration of a MONAI bundle calls: its network, and the normalization of `composer run`.

`composer export NAME --monai-bundle DIR` writes such bundles; these names and their arguments stand in published ones,
so they stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from composer import imaging
from composer.compose import Blueprint

if TYPE_CHECKING:
    from composer.module import Network


def network(blueprint: Sequence[str], **overrides: Any) -> Network:
    """The network of a blueprint whose lines stand in the bundle; at evaluation it gives its first output alone, as a
    tensor. Overrides are parameters or addresses."""
    made = Blueprint.parse("\n".join(blueprint), overrides=overrides, name="network_def.blueprint").build()
    made.register_forward_hook(first_output)
    return made


def first_output(network: Any, inputs: Any, output: Any) -> Any:
    """A hook for what calls a network and wants one tensor; in training all outputs stay."""
    return output if network.training else imaging.logits_of(output)


def zscore(image: Tensor) -> Tensor:
    """An image (C, *grid) with mean 0 and deviation 1 over each channel's foreground; what else it carries stays."""
    scaled = [imaging.standardized(np.asarray(channel, np.float32)) for channel in image]
    made = image.clone().float()
    made[:] = torch.from_numpy(np.stack(scaled))
    return made
