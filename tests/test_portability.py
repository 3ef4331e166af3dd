"""Every shipped blueprint in every format, or a refusal that is listed."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from portability import FORMATS, REFUSED, Subject, names, outcome

from composer.exporters.onnx import OnnxExporter
from composer.exporters.tracing import trace
from composer.exporters.verifying import verified

QUICK = ("state", "copy", "bfloat16", "autocast")
GRAPHS = ("compile", "export")
FAST = ("cotr", "detr", "fine", "segformer", "swin_unet", "transformer", "unet", "vit")
"""Blueprints that are also tried in the fast suite, but for graphs."""
ONNX = (
    "attention_unet", "cotr", "detr", "fine", "nnunet_fine", "segformer", "setr", "swin_unet",
    "transformer", "transunet", "u_transformer", "vit",
)  # fmt: skip
"""Blueprints that have all kinds of blocks among them, and those that are refused. ONNX takes torch seconds for the
smallest network; `make portability` tries the others too."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks are so small that threads wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def subject(name: str) -> Subject:
    return Subject(name)


def held(name: str, format: str) -> None:
    found = outcome(subject(name), format)
    code, said = REFUSED.get((name, format), ("", ""))
    assert found.code == code, found.said
    assert said in found.said


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in names()])
def test_numbers_and_copies(name: str) -> None:
    for format in QUICK:
        held(name, format)


HYBRIDS = ("cotr_glam", "segformer_attention_unet", "swin_unet_hybrid", "vit_vnet")
"""Made of the parts of networks that are tried themselves."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in names() if n not in HYBRIDS])
def test_graphs(name: str) -> None:
    for format in (*GRAPHS, *(["onnx"] if name in ONNX else [])):
        held(name, format)
    subject.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_inductor() -> None:
    torch._dynamo.reset()
    of = Subject("vit")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's remarks on itself
        made = torch.compile(of.network, fullgraph=True)(**of.inputs)
    torch.testing.assert_close(made, of.wanted[0], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_open_sizes_of_windows() -> None:
    """Shifted windows, the hardest for torch to follow: the ONNX file runs on sizes that it was not traced at."""
    of = Subject("swin_unet")
    traced = trace(of.network, of.shapes)
    assert len(traced.openings) == 2
    with tempfile.TemporaryDirectory() as folder:
        run = OnnxExporter.written(of.network, traced, Path(folder) / "net.onnx")
        h, w = traced.openings.values()
        sizes = [(1, h.size(h.first), w.size(w.first + 1)), (3, h.size(h.first + 3), w.size(w.first))]
        verified(of.network, [{"image": (b, of.shapes["image"][1], m, n)} for b, m, n in sizes], run)


def test_what_is_refused_exists() -> None:
    assert {name for name, _ in REFUSED} <= set(names())
    assert {format for _, format in REFUSED} <= set(FORMATS) == {*QUICK, *GRAPHS, "onnx"}
    assert {name for name, format in REFUSED if format == "onnx"} <= set(ONNX) <= set(names())
