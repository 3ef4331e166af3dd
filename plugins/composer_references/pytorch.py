"""Networks that torch itself has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer import Reference


def transformer(v: Mapping[str, Any]) -> Any:
    """`nn.Transformer`, which notes whether the target is masked."""
    from torch import nn

    if not v["final_norm"] or v["position"] or v["input_dropout"]:
        raise ValueError(
            "it has a norm at the end of both stacks, adds no positions and drops no input, as the preset `torch`"
        )
    if v["act"] not in ("relu", "gelu"):
        raise ValueError("its activation is relu or gelu")
    made = nn.Transformer(
        v["dim"], v["heads"], v["encoder_layers"], v["decoder_layers"], v["hidden"], v["dropout"], v["act"],
        layer_norm_eps=v["eps"], batch_first=True, norm_first=v["order"] == "pre", bias=v["bias"],
    )  # fmt: skip
    made.causal = v["causal"]
    return made


def translated(network: Any, inputs: Mapping[str, Any]) -> Any:
    """Sequences are (B, length, dim) there."""
    import torch

    source, target = inputs["source"].mT, inputs["target"].mT
    ones = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device)
    return network(source, target, tgt_mask=ones.triu(1) if network.causal else None).mT


REFERENCES = [Reference("transformer", "torch", transformer, translated)]
