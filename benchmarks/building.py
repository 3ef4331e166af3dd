"""What comes before the first image: building against the reference's constructor, and a cold `composer check`.

    python benchmarks/building.py --rounds 5

Printed are milliseconds of processor time of one thread, the least of the rounds, in turn: what other programs do
meanwhile is not in them. `build` is from a blueprint that was checked, `whole` also loads and checks it. Memory stays
with the process from round to round: which of two networks is given pages that are there already, and is a quarter
faster for it, would be chance.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from composer.allocator import tune
from composer.bench import Case
from composer.bench.rivals import rival

NETWORKS: dict[str, tuple[str, ...]] = {
    "vit": (),
    "swin": (),
    "segformer:b2": (),
    "detr": (),
    "deformable_detr": (),
    "transformer:torch": (),
    "unetr": (),
    "swin_unetr:f24": (),
    "vnet": (),
    "attention_unet_monai": (),
    "unet": ("widths=[32,32,64,128,256]",),
}
"""Blueprints that have a reference, with the parameters that it has."""

ROW = "{:<22}{:>9}{:>9}{:>9}{:>12}{:>8}".format


def spent(work: Callable[[], Any]) -> float:
    """Milliseconds of this process."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def building(name: str, rounds: int) -> str:
    """A row of the table."""
    case = Case(name, overrides=NETWORKS[name])
    blueprint = case.loaded()
    works = {
        "build": blueprint.build,
        "whole": lambda: case.loaded().build(),
        "meta": lambda: blueprint.build("meta"),
        "theirs": rival("", blueprint).make,
    }
    turns = [{k: spent(work) for k, work in works.items()} for _ in range(rounds + 1)][1:]
    least = {k: min(turn[k] for turn in turns) for k in works}
    return ROW(name, *(f"{least[k]:.0f}" for k in works), f"{least['build'] / least['theirs']:.2f}")


def cold(*programs: Sequence[str], rounds: int = 15) -> list[float]:
    """Milliseconds of processor time that new processes take, in turn, with bytecode where Python keeps it."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    found = [[_cold(words, kept) for words in programs] for _ in range(rounds + 1)][1:]
    return [1e3 * min(times) for times in zip(*found, strict=True)]


def _cold(words: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NETWORKS, help="one network, repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune()
    check = "import sys; from composer_command import main; sys.argv = ['composer', 'check', 'vit']; main()"
    python, checked = cold(["-c", "pass"], ["-c", check])
    print(f"composer check vit: {checked - python:.0f} ms beyond Python's own start of {python:.0f}; at most 150\n")
    print(ROW("milliseconds", "build", "whole", "meta", "reference", "ratio"))
    for name in options.only or NETWORKS:
        print(building(name, options.rounds), flush=True)


if __name__ == "__main__":
    main()
