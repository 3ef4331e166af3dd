"""Trains the weights of `make demo`: a small 3-D U-Net that tells grey from white matter on one brain.

    python benchmarks/tissue.py --steps 600 -o blueprints/weights/unet_demo.safetensors

Image and labels are the MNI152 template and tissue maps that nilearn ships. One template brain is no evidence about
other brains: this shows that the main job works, not that the network generalises.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.losses import DiceCELoss
from template import template

import composer
from composer import imaging
from composer.weights import save_file

CLASSES = ("background and fluid", "grey matter", "white matter")


def tissue() -> np.ndarray:
    """(X, Y, Z) labels: 1 grey, 2 white matter, 0 elsewhere."""
    grey, white = (np.asarray(nibabel.load(template(n)).dataobj, dtype=np.float32) / 255 for n in ("gm", "wm"))
    labels = np.stack([1 - grey - white, grey, white]).argmax(0)
    return labels.astype(np.int64)


def patches(image: torch.Tensor, labels: torch.Tensor, size: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops, mostly about brain voxels, flipped, with intensities changed: (batch, 1, size³) and labels."""
    brain = torch.nonzero(labels)
    pairs = []
    for _ in range(batch):
        about = brain[torch.randint(len(brain), ())]
        if torch.rand(()) < 0.2:  # now and then anywhere, so that the air around the head is learnt too
            about = torch.tensor([int(torch.randint(n, ())) for n in labels.shape])
        centre = about - size // 2
        corner = [int(min(max(0, int(c)), n - size)) for c, n in zip(centre, labels.shape, strict=True)]
        cut = tuple(slice(c, c + size) for c in corner)
        x, y = image[cut], labels[cut]
        axes = [a for a in range(3) if torch.rand(()) < 0.5]
        x, y = x.flip(axes), y.flip(axes)
        x = x * (1 + 0.2 * torch.randn(())) + 0.2 * torch.randn(()) + 0.1 * torch.rand(()) * torch.randn_like(x)
        pairs.append((x[None], y[None]))
    xs, ys = zip(*pairs, strict=True)
    return torch.stack(xs), torch.stack(ys)


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    volume = imaging.normalize(imaging.read_volume(template("t1"), 1), "zscore")
    # the network sees what `composer run` feeds it: the anatomical order foot-head, front-back, right-left
    image = torch.from_numpy(np.ascontiguousarray(volume.data[0].transpose(2, 1, 0)[:, ::-1, ::-1]))
    labels = torch.from_numpy(np.ascontiguousarray(tissue().transpose(2, 1, 0)[:, ::-1, ::-1]))
    network = composer.load("unet:demo").build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=given.steps)
    loss_of, start = DiceCELoss(to_onehot_y=True, softmax=True), time.monotonic()
    for step in range(given.steps):
        x, y = patches(image, labels, 48, 2)
        loss = loss_of(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == given.steps - 1:
            print(f"step {step}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s", flush=True)
        if time.monotonic() - start > given.seconds:
            break
    given.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), given.output, {"blueprint": "unet:demo", "trained": "MNI152, one brain"})


if __name__ == "__main__":
    main()
