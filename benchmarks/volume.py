"""A whole volume through a 3-D U-Net within an amount of memory: `python benchmarks/volume.py --memory 13GB`.

Prints the plan, and what a run in a process of its own really takes: time, and the largest resident memory of the
process, with what Python, torch and the weights take before the pass. With `--plain` the network runs once more without
a plan, and the outputs are compared; at 512 x 512 x 256 that takes 35 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import composer
from composer.figures import size


def resident() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(options: argparse.Namespace) -> None:
    """One pass; its figures as JSON on stdout, the output in a file."""
    torch.set_num_threads(options.threads)
    blueprint = composer.load(options.name, size=options.size)
    torch.manual_seed(0)
    network = blueprint.build(memory=options.memory).eval()
    if options.memory:
        print(network.memory_plan, file=sys.stderr, flush=True)
    image = torch.randn(1, 1, *options.size, generator=torch.Generator().manual_seed(1))
    before, start, worked = resident(), time.perf_counter(), time.process_time()
    with torch.inference_mode():
        logits = network(image)
    took, worked, peak = time.perf_counter() - start, time.process_time() - worked, resident()
    torch.save(logits[:, :, ::4, ::4, ::4].clone(), options.child)
    plan = network.memory_plan
    predicted = plan.after.peak.bytes if plan else blueprint.cost(flops=False).peak.bytes
    flops = plan.after.flops if plan else blueprint.cost().flops
    print(json.dumps(dict(took=took, worked=worked, before=before, peak=peak, predicted=predicted, flops=flops)))


def run(options: argparse.Namespace, memory: str | None, output: Path) -> dict[str, Any]:
    """One pass in a process of its own."""
    words = [sys.executable, __file__, "--child", str(output), "--name", options.name]
    words += ["--size", ",".join(map(str, options.size)), "--threads", str(options.threads)]
    words += ["--memory", memory] if memory else ["--memory", ""]
    found: dict[str, Any] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    said = f"with a plan for {memory}" if memory else "without a plan"
    print(f"\n{options.name} at {' x '.join(map(str, options.size))}, {said}, {options.threads} threads")
    print(f"  predicted peak       {size(found['predicted'])}")
    print(f"  resident memory      {size(found['peak'])} at most, {size(found['before'])} of it before the pass")
    rate = found["flops"] / found["worked"] / 1e9
    print(
        f"  time                 {found['took']:.0f} s, {found['worked']:.0f} s of processors, each {rate:.0f} GFLOP/s"
    )
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="unet3d")
    parser.add_argument("--size", type=lambda text: [int(n) for n in text.split(",")], default=[512, 512, 256])
    parser.add_argument("--memory", default="13GB")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plain", action="store_true", help="run without a plan too, and compare")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        options.memory = options.memory or None
        return child(options)
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder) / "ours.pt", Path(folder) / "plain.pt"
        run(options, options.memory, ours)
        if options.plain:
            run(options, None, plain)
            a, b = torch.load(ours), torch.load(plain)
            print(f"\nlargest difference   {float((a - b).abs().max() / b.abs().max()):.1e} of the largest logit")
            print(f"labels that differ   {float((a.argmax(1) != b.argmax(1)).double().mean()):.1e} of all voxels")
    return None


if __name__ == "__main__":
    main()
