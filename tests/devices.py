"""What two processes do in tests/test_sharding.py: the same networks as in one process, on halves of its batch.

Run as a program: `python devices.py RANK FOLDER`. The processes meet in a file of the folder, and leave there what they
computed; a process that waits for another one for more than a minute fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

import composer

PATIENCE = timedelta(seconds=60)
WORLD = 2
SHARED = """\
blueprint: 1
name: shared
inputs: {image: {type: B 3 H W, size: [8, 8]}}
graph:
  stem: {use: conv, out: 4}
  rounds: {use: conv, repeat: 3, share: true}
  blocks: {repeat: 2, graph: {mix: {use: conv, norm: layer, act: gelu}, more: {use: conv, norm: instance}}}
  head: {use: conv, out: 2, kernel: 1}
outputs: {y: head}
"""
VIT = dict(size=[16, 16], patch=4, dim=16, depth=3, heads=2, hidden=32, classes=3)
SWIN = dict(size=[32, 32], channels=1, dim=8, depths=[2, 1], heads=[2, 2], window=2, classes=3, drop_path=0)
DETR = dict(
    size=[64, 64], depths=[1, 1, 1, 1], stem=4, widths=[4, 8, 8, 8], dim=16, queries=4, layers=2, heads=2, hidden=16,
    classes=3, dropout=0,
)  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("vit", VIT, {}),
    "vit, computed again": ("vit", VIT, {"checkpoint": "blocks.*"}),
    "vit, by names": ("vit", VIT, {"units": ("blocks.0", "head"), "checkpoint": ("blocks.*.mlp",)}),
    "windows": ("swin_unet", SWIN, {"checkpoint": ("encoder.*", "decoder.*")}),
    "shared weights": (SHARED, {}, {"checkpoint": ("rounds.*", "blocks.*")}),
    "queries": ("detr", DETR, {}),
}
"""A blueprint, its parameters, and how it is divided."""


def network(case: str) -> nn.Module:
    """The same in every process."""
    name, params, _ = CASES[case]
    torch.manual_seed(0)
    blueprint = composer.Blueprint.parse(name) if "\n" in name else composer.load(name, **params)
    made = blueprint.build()
    for parameter in made.parameters():  # so that nothing is zero
        nn.init.normal_(parameter, std=0.2)
    return made.train()


def batch(case: str) -> list[Tensor]:
    """Four inputs."""
    spec = network(case).inputs[0]
    generator = torch.Generator().manual_seed(1)
    _, params, _ = CASES[case]
    size = params.get("size", [8, 8])
    return [torch.randn(4, spec.type.channels, *size, generator=generator)]


def stepped(made: Callable[..., Any], x: list[Tensor]) -> Tensor:
    """A loss that is the mean of those of the samples, after its backward pass."""
    loss = sum((y.float() ** 2).mean() for y in tree_leaves(made(*x)))
    loss.backward()
    return loss.detach()


def gradients(made: nn.Module) -> dict[str, Tensor]:
    """By name, whole."""
    return {n: _whole(p.grad) for n, p in made.named_parameters() if p.grad is not None}


def _whole(value: Tensor) -> Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def mean(loss: Tensor) -> Tensor:
    dist.all_reduce(loss)
    return loss / WORLD


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=WORLD, rank=rank, timeout=PATIENCE)
    done: dict[str, Any] = {}

    def part(case: str) -> list[Tensor]:
        return [x.chunk(WORLD)[rank] for x in batch(case)]

    plain = DistributedDataParallel(network("vit"))
    done["ddp"] = mean(stepped(plain, part("vit"))), gradients(plain.module)
    mesh = init_device_mesh("cpu", (WORLD,))
    for case, (_, _, how) in CASES.items():
        made = composer.parallel(network(case), mesh, **how)
        done[case] = mean(stepped(made, part(case))), gradients(made)
        made.zero_grad()
        again = mean(stepped(made, part(case))), gradients(made)  # a second step begins as the first one did
        done[f"{case}, again"] = again
        done[f"{case}, divided"] = [n for n, m in made.named_modules() if isinstance(m, FSDPModule)]
        done[f"{case}, held"] = sum(p.to_local().numel() for p in made.parameters())
        with torch.no_grad():
            done[f"{case}, evaluated"] = made.eval()(*part(case))
    for shape in ((1, 2), (2, 1)):
        made = composer.parallel(
            network("vit"), init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")), checkpoint="blocks.*"
        )
        done[f"replicas {shape}"] = mean(stepped(made, part("vit"))), gradients(made)

    made = composer.parallel(network("vit"), mesh)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    state = get_model_state_dict(made)
    dcp.load(state, checkpoint_id=folder / "of_one")
    set_model_state_dict(made, state)
    done["loaded"] = {n: _whole(p) for n, p in made.state_dict().items()}
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    dcp.save(get_model_state_dict(made), checkpoint_id=folder / "of_two")
    torch.save(done, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
