"""The shipped blocks, by role. They enter by the door every plugin uses and import only composer's public names.

Each is imported when a blueprint uses it. That does not import torch: a block's rule stands in `composer_blocks`, its
`nn.Module` in `composer_blocks.modules`, which `build` imports.
"""

from collections.abc import Mapping

import composer

BLOCKS = {
    "norm.layer": "norms:LayerNorm",
    "norm.batch": "norms:BatchNorm",
    "norm.instance": "norms:InstanceNorm",
    "norm.group": "norms:GroupNorm",
    "act.relu": "activations:ReLU",
    "act.gelu": "activations:GELU",
    "act.silu": "activations:SiLU",
    "act.elu": "activations:ELU",
    "act.sigmoid": "activations:Sigmoid",
    "act.tanh": "activations:Tanh",
    "act.softplus": "activations:Softplus",
    "act.softmax": "activations:Softmax",
    "act.leaky_relu": "activations:LeakyReLU",
    "act.prelu": "activations:PReLU",
    "dropout": "activations:Dropout",
    "conv": "convolution:Conv",
    "linear": "convolution:Linear",
    "pool.max": "resampling:MaxPool",
    "pool.average": "resampling:AveragePool",
    "resize": "resampling:Resize",
    "pad": "resampling:Pad",
    "repeat_channels": "resampling:RepeatChannels",
    "merge": "resampling:Merge",
    "tokenizer.patch": "tokenizers:PatchTokenizer",
    "tokens.prepend": "tokens:Prepend",
    "tokens.drop": "tokens:Drop",
    "tokens.take": "tokens:Take",
    "tokens.learned": "tokens:Learned",
    "tokens.mask": "tokens:Mask",
    "tokens.unmask": "tokens:Unmask",
    "position.learned": "positions:LearnedPosition",
    "position.sine": "positions:SinePosition",
    "position.rotary": "positions:RotaryPosition",
    "position.relative": "positions:RelativePosition",
    "scales.flatten": "scales:FlattenScales",
    "attention.multihead": "attention:MultiheadAttention",
    "attention.window": "attention:WindowAttention",
    "memory.global_tokens": "memory:GlobalTokens",
    "memory.volume_tokens": "memory:VolumeTokens",
    "memory.cells": "memory:Cells",
    "attention.deformable": "deformable:DeformableAttention",
    "attention.linear": "linear_attention:LinearAttention",
    "mlp": "stages:MLP",
    "block.transformer": "stages:TransformerBlock",
    "block.residual": "stages:ResidualBlock",
    "decoder.stage": "decoders:DecoderStage",
    "fuse.concat": "fusion:Concat",
    "fuse.add": "fusion:Sum",
    "fuse.multiply": "fusion:Product",
    "head.boxes": "detection:BoxHead",
    "gate.additive": "gates:AdditiveGate",
}
"""By name, the module of its role and the class."""

composer_api = "1"


@composer.hookimpl
def register_blocks() -> Mapping[str, str]:
    """Every block of every role."""
    return {name: f"{__name__}.{path}" for name, path in BLOCKS.items()}
