"""FINE on the MNI152 brain: the sliding window tells it where each crop lies, and it remembers the cells it has seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import composer
from composer import imaging
from composer.module import Network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("nilearn") is None, reason="the brain comes with nilearn"),
]

SIZE = (32, 64, 64)
STRIDE = (24, 48, 48)


@pytest.fixture(scope="module")
def brain() -> imaging.Volume:
    folder = Path(str(find_spec("nilearn").origin)).parent / "datasets" / "data"  # type: ignore[union-attr]
    path = folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return imaging.normalize(imaging.read_volume(path, 1), "zscore")


def fine(brain: imaging.Volume, preset: str = "") -> Network:
    """A narrow FINE whose cells cover the brain as it lies in the file, feet up, front to back, right to left."""
    torch.manual_seed(0)
    shape = [brain.shape[axis] for axis in (2, 1, 0)]
    cells = [-(-n // side) for n, side in zip(shape[1:], SIZE[1:], strict=True)]
    narrow = dict(classes=3, dim=12, depths=[2, 2, 2], heads=[2, 2, 4], windows=[4, 4, 4])
    return composer.load("fine" + preset, size=list(SIZE), cells=cells, volume=shape, **narrow).build().eval()


@contextmanager
def heard(network: Network) -> Iterator[list[Tensor]]:
    """The positions that a network is told, in order."""
    said: list[Tensor] = []
    handle = network.cell.register_forward_pre_hook(lambda _, given: said.append(given[0].clone()))  # type: ignore[operator, union-attr]
    yield said
    handle.remove()


def centres(length: int, size: int, step: int) -> list[int]:
    """Of windows `step` apart, the last one ending where the image does; relative to the image's centre."""
    starts = [min(k * step, length - size) for k in range(-(-(length - size) // step) + 1)]
    return [s + size // 2 - length // 2 for s in starts]


def test_the_brain_goes_through_fine(brain: imaging.Volume) -> None:
    network = fine(brain)
    with heard(network) as said:
        labels = imaging.segment(network, brain, size=SIZE, classes=3, overlap=0.25, position=True)
    assert labels.shape == brain.shape
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert len(np.unique(labels)) > 1
    shape = [brain.shape[axis] for axis in (2, 1, 0)]
    lines = [centres(*line) for line in zip(shape, SIZE, STRIDE, strict=True)]
    wanted = {(z, y, x) for z in lines[0] for y in lines[1] for x in lines[2]}
    told = [tuple(int(n) for n in p) for batch in said[1:] for p in batch]  # the first run learns the output's size
    assert sorted(told) == sorted(wanted)
    visits = network.cell.visits  # type: ignore[union-attr]
    assert (visits >= 1).all(), "every cell of the brain lies in some window"
    assert visits.sum() == 4 * len(told)


def test_the_order_of_the_crops_matters_where_volume_tokens_are_read(brain: imaging.Volume) -> None:
    """As published, the volume's tokens come too late to reach the pixels; `fixed` lets them attend first."""
    slab = np.transpose(brain.data[0], (2, 1, 0))[80 : 80 + SIZE[0], 90 : 90 + SIZE[1], 60 : 60 + SIZE[2]]
    x = torch.from_numpy(np.ascontiguousarray(slab))[None, None]
    for preset, reads in (("", False), (":fixed", True)):
        network = fine(brain, preset)
        with torch.no_grad():
            for part in network.parameters():
                part.normal_(0, 0.1)
            before = network(x, torch.tensor([[0, 0, 0]]))
            network(x, torch.tensor([[0, 48, 48]]))  # other cells have been seen by now
            after = network(x, torch.tensor([[0, 0, 0]]))
        assert torch.equal(before["logits"], after["logits"]) is not reads
