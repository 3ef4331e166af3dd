"""What each pass is worth: a network with it against the same network with none, at evaluation.

    python benchmarks/passes.py --rounds 7 segformer:b2 attention_unet=96,96,96

All networks of a row have equal weights, far from those of a fresh network, and run interleaved in one process. Printed
are the median of the rounds' ratios with the lowest and highest, the largest difference of the outputs relative to the
largest output, and the peak of the tensors alive, beside that of the network without passes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import composer
from composer.passes import SHIPPED
from composer.prepared import fired
from composer.storages import Storages, Walk

NETWORKS = ("segformer:b2=512,512", "attention_unet=96,96,96", "transunet", "swin_unet")
CLOCK = [time.perf_counter]
NAMES = [p.name for p in SHIPPED if p.prepares]


@torch.no_grad()
def scramble(network: nn.Module) -> None:
    """Weights and statistics as after training."""
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand_like(value))
        elif value.is_floating_point() and value.dim() < 2:
            value.add_(0.2 * torch.randn_like(value))


def variants(what: str) -> Iterator[tuple[str, nn.Module]]:
    """The network without passes, with each pass that fires, and with all of them, on equal weights."""
    name, _, size = what.partition("=")
    blueprint = composer.load(name, **({"size": [int(n) for n in size.split(",")]} if size else {}))
    fires = list(dict.fromkeys(n for n, _ in fired(blueprint.optimized())))
    plain = blueprint.build(without="all").eval()
    scramble(plain)
    yield "none", plain
    for label in [*fires, "all"]:
        without = () if label == "all" else [n for n in NAMES if n != label]
        network = blueprint.build(without=without).eval()
        network.load_state_dict(plain.state_dict())
        yield label, network


def image(network: Any) -> Tensor:
    """One image of the size that a network is built for."""
    program = network.blueprint.check()
    type_ = program.inputs[0].type.at(program.built)
    return torch.randn(1, type_.channels, *type_.grid)


def timed(network: nn.Module, x: Tensor) -> float:
    """Seconds of one call."""
    start = CLOCK[0]()
    network(x)
    return CLOCK[0]() - start


def peak(network: nn.Module, x: Tensor) -> float:
    """MiB of the tensors that one call makes, at most."""
    with Storages(Walk()) as storages:
        network(x)
    return storages.peak()[0] / 2**20


def difference(a: Any, b: Any) -> float:
    """The largest, relative to the largest number."""
    both = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in both)


def rows(what: str, rounds: int) -> Iterator[tuple[str, ...]]:
    """A row for each pass and for all."""
    networks: Mapping[str, nn.Module] = dict(variants(what))
    x = image(networks["none"])
    with torch.inference_mode():
        yield from compared(what, networks, x, rounds)


def compared(what: str, networks: Mapping[str, nn.Module], x: Tensor, rounds: int) -> Iterator[tuple[str, ...]]:
    """The rows of networks on one image."""
    wanted = networks["none"](x)
    differences = {label: difference(n(x), wanted) for label, n in networks.items()}
    peaks = {label: peak(n, x) for label, n in networks.items()}
    times = [{label: timed(n, x) for label, n in networks.items()} for _ in range(rounds)]
    for label in list(networks)[1:]:
        ratios = sorted(t["none"] / t[label] for t in times)
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        least = f"{min(t['none'] for t in times) * 1e3:.0f} -> {min(t[label] for t in times) * 1e3:.0f}"
        memory = f"{peaks['none']:.0f} -> {peaks[label]:.0f}"
        yield label, what, f"{median(ratios):.2f}", spread, least, f"{differences[label]:.1e}", memory


def table(lines: Iterable[tuple[str, ...]]) -> None:
    """Print rows as they come."""
    head = ("pass", "network", "ratio", "spread", "fastest, ms", "difference", "peak, MiB")
    for line in chain([head], lines):
        print("{:<10} {:<24} {:>6} {:>11} {:>14} {:>11} {:>14}".format(*line), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="time of the CPU, where others use it too; of one thread")
    options = parser.parse_args()
    if options.cpu:
        CLOCK[0], options.threads = time.process_time, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    table(row for what in options.networks for row in rows(what, options.rounds))


if __name__ == "__main__":
    main()
