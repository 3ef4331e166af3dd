"""Program + shapes -> Cost, without allocating: the network runs on tensors that have sizes and no numbers.

FLOPs are counted on the `meta` device, where attention is matrix products and every product is seen; memory on fake
tensors of the CPU, where the same kernels are chosen as in a real run, with a log of storages that live. Both runs are
the network's own forward pass, and in training autograd's backward pass, so that cost and run cannot drift apart.

Not in the figures: what kernels allocate inside themselves, the loss (the backward pass starts from one gradient per
output), and the fragmentation of an allocator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, PluginError, did_you_mean, listing
from composer.figures import Cost, Peak, Row
from composer.inference import Program
from composer.module import Network, build, watch
from composer.storages import Storage, Storages, Walk
from composer.sweeps import Streams

Shapes = Mapping[str, Sequence[int]]

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
SHORT: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
OPTIMIZERS: Mapping[str, int] = {"none": 0, "sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""Numbers that an optimizer of torch keeps for each parameter, in the parameter's dtype."""
GRADIENTS = ("new", "kept", "none")
"""Gradients of parameters: made by the backward pass, there from the beginning (accumulated), or not counted."""


def measure(
    program: Program,
    shapes: Shapes,
    *,
    training: bool = False,
    dtype: str = "float32",
    checkpoint: Sequence[str] = (),
    optimizer: str = "none",
    gradients: str = "new",
    flops: bool = True,
    streams: Streams | None = None,
) -> Cost:
    """What one pass costs on inputs of these shapes, batch included; with `training` forward and backward.

    dtype       of the whole network and its inputs
    checkpoint  nodes that the backward pass computes again (`Network.checkpoint`)
    optimizer   whose state is there all the time (`OPTIMIZERS`)
    gradients   of the parameters: one of `GRADIENTS`
    flops       whether to count them, which takes half of the time
    streams     sweeps in which large maps are computed at evaluation (`Network.stream`)

    A node whose module asks for numbers, which there are none, is a `PluginError` (BP605).
    """
    kind = dtype_of(dtype)
    _known("optimizer", optimizer, OPTIMIZERS)
    _known("gradients", gradients, GRADIENTS)
    network = build(program, "meta").to(DTYPES[kind]).checkpoint(*checkpoint).stream(streams).train(training)
    counts = _flops(deepcopy(network), shapes, DTYPES[kind]) if flops else (Counter[str](), Counter[str]())
    memory = _Memory(network, shapes, DTYPES[kind], OPTIMIZERS[optimizer], gradients)
    blueprint, given = program.graph.blueprint, {n: tuple(s) for n, s in shapes.items()}
    rows = tuple(_rows(program, given, _owned(program, network), counts, memory))
    chosen = (tuple(checkpoint), optimizer, gradients) if training else ((), "none", "none")
    return Cost(blueprint.name, given, training, kind, *chosen, rows, memory.peak)


def with_flops(found: Cost, program: Program, streams: Streams | None = None) -> Cost:
    """The same cost with FLOPs, which were left out when it was measured."""
    kind = DTYPES[found.dtype]
    network = build(program, "meta").to(kind).checkpoint(*found.checkpoint).stream(streams).train(found.training)
    forward, backward = _flops(network, found.shapes, kind)
    rows = (replace(r, flops=forward[r.address], backward_flops=backward[r.address]) for r in found.rows)
    return replace(found, rows=tuple(rows))


def dtype_of(name: str) -> str:
    """The full name of a dtype: `bf16` is `bfloat16`."""
    full = SHORT.get(name, name)
    _known("dtype", full, DTYPES)
    return full


def _known(what: str, word: str, words: Any) -> None:
    if word not in words:
        text = f"unknown {what} `{word}`{did_you_mean(word, words)}"
        raise BlueprintError(Diagnostic("BP201", text, notes=(f"known: {listing(words)}",)))


# ---------------------------------------------------------------- running


def _leaves(value: Any) -> list[Tensor]:
    return [v for v in tree_leaves(value) if isinstance(v, Tensor)]


def _trained(value: Any) -> list[Tensor]:
    """Outputs that a backward pass can start from: none, where nothing has a parameter."""
    return [v for v in _leaves(value) if v.requires_grad]


@contextmanager
def _blaming(network: Network) -> Iterator[None]:
    """What fails without numbers is the fault of the module that asked for them."""
    try:
        yield
    except ComposerError:
        raise
    except Exception as fault:
        at = "; ".join(getattr(fault, "__notes__", ()))
        text = f"the cost of `{network.blueprint.name}` cannot be counted {at}: {type(fault).__name__}"
        notes, help = (" ".join(str(fault).split())[:200],), ("tell the author of the block",)
        raise PluginError(Diagnostic("BP605", text, notes=notes, help=help)) from fault


class _Counting(TorchDispatchMode):
    """Reads a counter of FLOPs before and after each operation, and credits the node at work."""

    def __init__(self, walk: Walk, counter: FlopCounterMode):
        super().__init__()  # type: ignore[no-untyped-call]
        self.walk, self.counter = walk, counter
        self.forward, self.backward = Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.get_total_flops()
        made = func(*args, **(kwargs or {}))
        if more := self.counter.get_total_flops() - before:
            address, phase = self.walk.where()
            (self.forward if phase == "forward" else self.backward)[address] += more
        return made


def _flops(network: Network, shapes: Shapes, dtype: torch.dtype) -> tuple[Counter[str], Counter[str]]:
    """FLOPs by node, forward and backward, of a network on `meta`."""
    walk = Walk()
    if not network.training:  # torch's counter asks a gradient of every output that requires one
        network.requires_grad_(False)
    watch(network, lambda address, call: walk.watch(address, call, lambda *_: None))
    inputs = {n: torch.empty(*s, device="meta", dtype=dtype) for n, s in shapes.items()}
    if not network.training:
        network.prepare()  # once, not at every pass
    with _blaming(network), FlopCounterMode(display=False) as counter, _Counting(walk, counter) as counting:
        with torch.set_grad_enabled(network.training):
            outputs = _trained(network(**inputs))
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    return counting.forward, counting.backward


class _Memory:
    """The bytes of a pass: `outputs`, `saved` and `live` by node, and the peak."""

    def __init__(self, network: Network, shapes: Shapes, dtype: torch.dtype, states: int, gradients: str):
        self.outputs, self.saved, self.live = Counter[str](), Counter[str](), Counter[str]()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.counted: set[Storage] = set()
        self.walk = Walk()
        self.storages = Storages(self.walk)
        mode = FakeTensorMode()
        _fake(network, mode)
        watch(network, lambda address, call: self.walk.watch(address, call, self.done))
        with _blaming(network), mode, self.storages:
            self._stock(network, states if network.training else 0, gradients if network.training else "none")
            inputs = {n: torch.empty(*s, dtype=dtype) for n, s in shapes.items()}
            for value in inputs.values():
                self.storages.keep(value).kind = "inputs"
            left_out = self._train(network, inputs, gradients) if network.training else self._infer(network, inputs)
        self.peak = _peak(*self.storages.peak(left_out))

    def done(self, address: str, made: Any) -> None:
        """A node has returned."""
        self.storages.claim(address)
        for value in _leaves(made):
            storage = self.storages.keep(value)
            if storage.address == address and storage.phase == "forward" and storage not in self.counted:
                self.counted.add(storage)
                self.outputs[address] += storage.bytes
            self.shapes.setdefault(address, tuple(value.shape))
        if self.walk.where()[1] == "forward":
            self.live[address] = max(self.live[address], self.storages.total)

    def _stock(self, network: Network, states: int, gradients: str) -> None:
        """What is there before the pass."""
        for parameter in network.parameters():
            self.storages.keep(parameter, "parameters", "")
            if gradients == "kept" and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                self.storages.keep(parameter.grad).kind = "gradients"
        for buffer in network.buffers():
            self.storages.keep(buffer, "buffers", "")
        for tensor in () if network.training else network.prepare():
            derived = self.storages.keep(tensor)
            if derived.kind == "activations":  # else it is a parameter as it is
                derived.kind, derived.address = "prepared", ""
        trained = sum(p.nbytes for p in network.parameters() if p.requires_grad)
        self.storages.add(Storage(states * trained, "", "forward", "optimizer"))

    def _infer(self, network: Network, inputs: Mapping[str, Tensor]) -> list[Storage]:
        with torch.no_grad():
            network(**inputs)
        return []

    def _train(self, network: Network, inputs: Mapping[str, Tensor], gradients: str) -> list[Storage]:
        """Forward and backward, from one gradient for each output; returns what is not to be counted."""
        with torch.autograd.graph.saved_tensors_hooks(self.storages.pack, lambda tensor: tensor):
            outputs = _trained(network(**inputs))
        for storage in self.storages.saved():
            self.saved[str(storage.saved_by)] += storage.bytes
        ones = [torch.ones_like(o) for o in outputs]
        for output, one in zip(outputs, ones, strict=True):
            mine = self.storages.keep(one)
            mine.kind, mine.address = "activation gradients", self.storages.keep(output).address
        if outputs:
            torch.autograd.backward(outputs, ones)
        made = [self.storages.keep(p.grad) for p in network.parameters() if p.grad is not None]
        for storage in made:
            storage.kind = "gradients"
        return made if gradients == "none" else []


def _peak(total: int, at: tuple[str, str], alive: Sequence[Storage]) -> Peak:
    kinds, owners = Counter[str](), Counter[str]()
    for storage in alive:
        kinds[storage.kind] += storage.bytes
        owners[storage.address] += storage.bytes
    live = tuple((a, n) for a, n in owners.most_common() if a and n)
    return Peak(total, *at, {k: n for k, n in kinds.items() if n}, live)


def _fake(network: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors of the CPU in the place of those on `meta`; shared ones stay shared."""
    known: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            made: Any = FakeTensor(mode, tensor.detach(), torch.device("cpu"))
            trained = tensor.requires_grad
            known[id(tensor)] = nn.Parameter(made, trained) if isinstance(tensor, nn.Parameter) else made
        return known[id(tensor)]

    for module in network.modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in holders:
            held.update({n: fake(t) for n, t in held.items() if t is not None})


# ---------------------------------------------------------------- rows


def _owned(program: Program, network: Network) -> Counter[str]:
    """Parameters by address: of the step whose module holds them, at its first run."""
    first: dict[str, str] = {}
    for step in _steps(program):
        first.setdefault(step.module, step.address)
    owned = Counter[str]()
    for name, parameter in network.named_parameters():
        at = name
        while at not in first:
            at = at.rpartition(".")[0]
        owned[first[at]] += parameter.numel()
    return owned


def _steps(program: Program) -> Iterator[Any]:
    yield from program.steps
    for other in program.alternatives.values():
        yield from other.steps


def _rows(
    program: Program, given: Shapes, owned: Counter[str], flops: Sequence[Counter[str]], memory: _Memory
) -> Iterator[Row]:
    optional = frozenset(i.name for i in program.inputs if i.optional and i.name in given)
    at_peak = dict(memory.peak.live)
    blocks = {s.address: s.block.name for s in (*program.alternatives.get(optional, program).steps, *_steps(program))}
    for at, block in blocks.items():
        bytes_of = (memory.outputs[at], memory.saved[at], memory.live[at], at_peak.get(at, 0))
        yield Row(at, block, memory.shapes.get(at, ()), owned[at], flops[0][at], flops[1][at], *bytes_of)
