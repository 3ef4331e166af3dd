"""The shipped blocks, by role. They enter by the door every plugin uses and import only composer's public names.

Importing this package does not import torch: a block's rule stands in `composer_blocks`, its `nn.Module` in
`composer_blocks.modules`, which `build` imports.
"""

from collections.abc import Iterable

import composer
from composer_blocks import (
    activations,
    attention,
    convolution,
    decoders,
    deformable,
    detection,
    fusion,
    gates,
    linear_attention,
    memory,
    norms,
    positions,
    resampling,
    scales,
    stages,
    tokenizers,
    tokens,
)

ROLES = (
    norms,
    activations,
    convolution,
    resampling,
    tokenizers,
    tokens,
    positions,
    scales,
    attention,
    memory,
    deformable,
    linear_attention,
    stages,
    decoders,
    fusion,
    detection,
    gates,
)

composer_api = "1"


@composer.hookimpl
def register_blocks() -> Iterable[type[composer.Block]]:
    """Every block of every role."""
    return [block for role in ROLES for block in role.BLOCKS]
