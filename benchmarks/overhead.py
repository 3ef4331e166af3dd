"""What a blueprint costs at run time: a network of Composer against the same modules called by hand.

    python benchmarks/overhead.py --steps 200 --rounds 600

Both run the same modules on a tensor of one number, so that the time is that of the calls. Printed are the medians of
processor time of interleaved rounds, their ratio, and the nanoseconds that a node costs more: those of a call of the
network as a whole, which looks at its input, are in them.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor, nn

import composer


def ours(steps: int) -> nn.Module:
    """A chain of `steps` activations as a blueprint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.yaml"
        path.write_text(
            "blueprint: 1\nname: chain\ninputs: {image: B 1 H W}\n"
            f"graph:\n  chain: {{use: act.relu, repeat: {steps}}}\noutputs: {{y: chain}}\n"
        )
        return composer.load(path).build().eval()


class Handwritten(nn.Module):
    """The same chain as one would write it."""

    def __init__(self, steps: int):
        super().__init__()
        self.chain = nn.ModuleList(nn.ReLU() for _ in range(steps))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.chain:
            x = module(x)
        return x


def timed(network: nn.Module, x: Tensor) -> float:
    """Seconds of this thread in one call: what other programs do meanwhile is not in them."""
    start = time.thread_time()
    network(x)
    return time.thread_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, networks = torch.ones(1, 1, 1, 1), (Handwritten(options.steps).eval(), ours(options.steps))
    gc.disable()
    with torch.inference_mode():
        rounds = [[timed(network, x) for network in networks] for _ in range(options.rounds + 10)][10:]
    more = [(made - hand) / options.steps * 1e9 for hand, made in rounds]
    hand, made = (median(times) * 1e6 for times in zip(*rounds, strict=True))
    low, middle, high = quantiles(more, n=4)
    print(f"by hand {hand:.0f} µs, blueprint {made:.0f} µs, ratio {made / hand:.3f}")
    said = f"median of {options.rounds} pairs (middle half {low:.0f} to {high:.0f}); at most 150"
    print(f"node overhead: {middle:.0f} ns, {said}")


if __name__ == "__main__":
    main()
