"""How long a check takes for networks of 1,000, 3,000 and 10,000 nodes, in several shapes: `make scaling`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import composer

HEAD = "blueprint: 1\nname: t\ninputs: {image: {type: B 8 *S, size: [32, 32]}}\ngraph:\n"


def chain(n: int) -> str:
    """Each node continues the one above."""
    return "".join(f"  n{i}: {{use: conv, out: 8}}\n" for i in range(n)) + f"outputs: {{y: n{n - 1}}}\n"


def wide(n: int) -> str:
    """All read the input, one reads all."""
    lines = "".join(f"  n{i}: {{use: conv, from: image, out: 8}}\n" for i in range(n))
    return lines + f"  s: {{use: fuse.add, from: [{', '.join(f'n{i}' for i in range(n))}]}}\noutputs: {{y: s}}\n"


def repeat(n: int) -> str:
    """Copies in a row."""
    return f"  b: {{use: conv, repeat: {n}, out: 8}}\noutputs: {{y: b}}\n"


def loop(n: int) -> str:
    """Instances of a loop."""
    inner = "graph: {c: {use: conv, out: 8}}"
    return f"  b: {{for: {{a: '${{ramp(0, 1, {n})}}'}}, {inner}}}\noutputs: {{y: b}}\n"


def transformer(n: int) -> str:
    """Blocks with ten parts each."""
    block = "attention: {use: attention.multihead, heads: 2}, mlp: mlp"
    patches = "  p: {use: tokenizer.patch, dim: 8, patch: 4}\n"
    return patches + f"  b: {{use: block.transformer, repeat: {n // 10}, {block}}}\noutputs: {{y: b}}\n"


SHAPES = (chain, wide, repeat, loop, transformer)


def seconds(text: str) -> float:
    """Processor time to load and check a blueprint, from its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.yaml"
        path.write_text(HEAD + text)
        start = time.process_time()
        composer.load(path).check()
        return time.process_time() - start


def main() -> int:
    """Prints the table."""
    counts = (1_000, 3_000, 10_000)
    composer.load("vit").check()  # the plugins are loaded
    print("shape          " + "".join(f"{n:>10,}" for n in counts) + "   10,000 : 1,000")
    for shape in SHAPES:
        times = [seconds(shape(n)) for n in counts]
        print(f"{shape.__name__:<15}" + "".join(f"{t:>9.2f}s" for t in times) + f"{times[-1] / times[0]:>17.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
