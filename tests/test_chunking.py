"""What runs chunk by chunk is what runs as a whole: windows of any kind, tokens of any number, changed weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_passes import blueprint, difference, inputs_of, kept, scrambled
from torch import nn

import composer
from composer import chunking
from composer.module import Network
from composer.prepared import fired

BLOCK = """
blueprint: 1
name: windowed
inputs: {{image: {{type: B 4 *S, size: {size}}}}}
graph:
  {before}
  blocks:
    use: block.transformer
    {more}
    attention: {{use: attention.window, heads: 2, shrink: none, {attention}}}
    mlp: {{use: mlp, ratio: 2, dropout: 0.1}}
    drop_path: 0.1
outputs: {{y: blocks}}
"""
WINDOWS: dict[str, tuple[list[int], str, str]] = {
    "no shift": ([4, 6], "window: 2", ""),
    "shift": ([4, 6], "window: 2, shift: 1", ""),
    "uneven": ([4, 9], "window: [2, 3], shift: [1, 2]", ""),
    "one axis": ([4, 6], "window: 2, shift: [0, 1]", ""),
    "1-D": ([12], "window: 4, shift: 2", ""),
    "3-D": ([4, 4, 2], "window: 2, shift: half", ""),
    "padded": ([5, 4], "window: 3, pad: high", ""),
    "padded, shifted": ([5, 4], "window: 3, pad: high, shift: 1", ""),
    "padded, shifted, 3-D": ([3, 5, 2], "window: 2, pad: high, shift: 1", ""),
    "shifted, padded": ([5, 4], "window: 3, pad: high, shift: 1, pad_order: roll pad", ""),
    "window larger than the grid": ([2, 3], "window: 4, pad: high", ""),
    "one window": ([4, 4], "window: 4", ""),
    "one shifted window": ([4, 4], "window: 4, shift: 2", ""),
    "long windows": ([20, 10], "window: [10, 10], shift: 5, pad: high", ""),
    "no mask": ([5, 4], "window: 3, pad: high, shift: 1, mask: null", ""),
    "no bias": ([5, 4], "window: 3, pad: high, shift: 1, bias: null", ""),
    "nothing added": ([4, 6], "window: 2, bias: null", ""),
    "no bias of queries": ([5, 4], "window: 3, pad: high, shift: 1, qkv_bias: false", ""),
    "own scale": ([5, 4], "window: 3, pad: high, scale: 0.3, out_dropout: 0.1", ""),
    "context": ([5, 4], "window: 3, pad: high, shift: 1", "from: {x: image, context: other}"),
    "narrow context": ([5, 4], "window: 3, pad: high, shift: 1", "order: post, from: {x: image, context: narrow}"),
    "query as it is": ([5, 4], "window: 3, pad: high, project_query: false", "from: {x: image, context: other}"),
    "post-norm": ([5, 4], "window: 3, pad: high, shift: 1", "order: post"),
    "tokens": ([5, 4], "window: 3, pad: high, shift: 1", "memory: {use: memory.global_tokens, count: 2}, repeat: 3"),
    "tokens that stay": ([4, 4], "window: 2", "memory: {use: memory.global_tokens, attention: {use: attention.multihead, heads: 2}}, tokens: residual, repeat: 2"),
}  # fmt: skip
BEFORE = {"other": "other: {use: conv, out: 4}", "narrow": "narrow: {use: conv, out: 3}"}


def written(folder: Path, case: str) -> composer.Blueprint:
    size, attention, more = WINDOWS[case]
    before = next((text for word, text in BEFORE.items() if word in more), "")
    lines = "\n    ".join(part.strip() for part in _parts(more))
    text = BLOCK.format(size=size, attention=attention, more=lines or "repeat: 1", before=before)
    path = folder / "windowed.yaml"
    path.write_text(text if before else text.replace("  \n", ""))
    return composer.load(path)


def _parts(more: str) -> list[str]:
    """A line for each option; commas inside of braces do not count."""
    parts, depth = [""], 0
    for letter in more:
        depth += (letter == "{") - (letter == "}")
        parts = [*parts, ""] if letter == "," and not depth else [*parts[:-1], parts[-1] + letter]
    return [p for p in parts if p.strip()]


def both(loaded: composer.Blueprint) -> tuple[Network, Network]:
    """With all passes and with none, at evaluation, on equal weights."""
    ours, plain = loaded.build().eval(), loaded.build(without="all").eval()
    scrambled(plain)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


@pytest.mark.parametrize("case", WINDOWS)
@torch.no_grad()
def test_windows_equal_those_of_the_whole_map(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = written(tmp_path, case)
    ours, plain = both(loaded)
    assert "windows" in {name for name, _ in fired(loaded.optimized())}
    for tokens in (10**6, 15, 1):  # chunks of all windows, of some, of one
        monkeypatch.setattr(chunking, "BYTES", tokens * 4 * 12)
        ours.eval()
        for batch in (1, 3, 0):
            values = inputs_of(ours, batch)
            found, wanted = ours(*values), plain(*values)
            assert found.shape == wanted.shape
            assert batch == 0 or difference(found, wanted) <= 1e-5
    ours, plain = ours.double(), plain.double()
    values = [v.double() for v in inputs_of(ours)]
    assert difference(ours(*values), plain(*values)) <= 1e-12
