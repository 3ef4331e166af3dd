"""What a block's contract says, one function for each aspect: it runs a case for real, and returns a note or raises.

`Broken` says what was expected and what came; `NotApplicable` why there is nothing to hold here. Whatever else is
raised broke inside the block.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from composer.compose import fed
from composer.module import Network
from composer.sizes import describe, violations
from composer.testing import storages
from composer.testing.examples import Case
from composer.types import Type

BATCH = 2
LARGEST = 20
"""Boundary sizes are tried up to here."""


class Broken(Exception):  # noqa: N818 - it is what it says
    """The contract does not hold."""

    def __init__(self, what: str, expected: object = "", got: object = ""):
        super().__init__(what)
        self.what, self.expected, self.got = what, str(expected), str(got)


class NotApplicable(Exception):  # noqa: N818
    """There is nothing to hold here, and why."""


# ---------------------------------------------------------------- running a case


def network_of(case: Case, seed: int = 0, device: str | None = None) -> Network:
    """A fresh network, its random weights from a seed."""
    torch.manual_seed(seed)
    return case.blueprint.build(device)


def inputs_of(case: Case, seed: int = 1, device: str = "cpu", **axes: int) -> dict[str, Tensor]:
    """Random inputs of the size it is built for, or with some axes of another."""
    torch.manual_seed(seed)
    env = {**case.program.built, **axes}
    known = {i.name: (BATCH, *shape_of(i.type.at(env), BATCH)[1:]) for i in case.program.inputs if not i.optional}
    return {n: torch.randn(s, device=device) for n, s in fed(case.program, known, BATCH).items()}


def outputs_of(case: Case, made: Any) -> list[tuple[Type, Tensor]]:
    """Each tensor with the type that was predicted for it."""
    return list(_paired(case, case.program.outputs[0].ids, made))


def _paired(case: Case, ids: Any, made: Any) -> Iterator[tuple[Type, Tensor]]:
    if isinstance(ids, int):
        if not isinstance(made, Tensor):
            raise Broken("the result is no tensor", case.program.values[ids].type, type(made).__name__)
        yield case.program.values[ids].type, made
        return
    if ids is None:  # an output that is absent here
        return
    items = ids.items() if isinstance(ids, Mapping) else enumerate(ids)
    for key, part in items:
        yield from _paired(case, part, made[key])


def tensors(case: Case, network: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What a network makes, as a flat list."""
    return [y for _, y in outputs_of(case, network(**inputs))]


def shape_of(type_: Type, batch: int) -> tuple[int, ...]:
    """The shape that a type with numbers for sizes stands for, as a network delivers it."""
    if type_.kind == "vector":
        return batch, type_.channels
    if type_.kind == "map":
        return batch, type_.channels, *(int(n) for n in type_.grid)  # type: ignore[arg-type]
    return batch, int(type_.length), type_.channels  # type: ignore[arg-type]


def same(a: list[Tensor], b: list[Tensor], what: str, within: float = 0.0) -> None:
    """Two results are equal, or apart by less than `within` of their size."""
    for one, other in zip(a, b, strict=True):
        if one.shape != other.shape:
            raise Broken(what, f"shape {tuple(one.shape)}", f"shape {tuple(other.shape)}")
        one, other = one.detach().double(), other.detach().double()
        apart, size = (one - other).norm().item(), one.norm().item()
        if not apart <= within * size + (1e-12 if within else 0):
            raise Broken(what, f"a difference of at most {within:g} of the norm", f"{apart / (size or 1):.2g} of it")


def repeats(case: Case) -> bool:
    """Whether two passes in evaluation give the same: without that no two results can be compared."""
    network, inputs = network_of(case).eval(), inputs_of(case)
    once, again = tensors(case, network, inputs), tensors(case, network, inputs)
    return all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


# ---------------------------------------------------------------- aspects


def type_is_real(case: Case) -> str:
    """The predicted type is the real one: shape and dtype, in training and evaluation, on the CPU and on `meta`."""
    for device in ("meta", "cpu"):
        network, inputs = network_of(case, device=device), inputs_of(case, device=device)
        for training in (False, True):
            _check_shapes(case, network.train(training), inputs, case.program.built)
    return ""


def _check_shapes(case: Case, network: nn.Module, inputs: Mapping[str, Tensor], env: Mapping[str, int]) -> None:
    for predicted, y in outputs_of(case, network(**inputs)):
        wanted, got = shape_of(predicted.at(env), BATCH), tuple(y.shape)
        if wanted != got:
            mode = "training" if network.training else "evaluation"
            raise Broken(f"the rule says {predicted}, the module makes another shape in {mode}", wanted, got)
        if y.dtype != torch.float32:
            raise Broken("the dtype of the result is not that of the input", torch.float32, y.dtype)


def sizes_are_exact(case: Case) -> str:
    """Where the rule accepts a size the module runs and makes the predicted shape; where it refuses, that is said."""
    program, built = case.program, case.program.built
    if not built:
        raise NotApplicable("no input has a grid")
    network = network_of(case, device="meta")
    refused: dict[str, list[int]] = {}
    for axes in _boundaries(case):
        env = {**built, **axes}
        if list(violations(program.constraints, env, None)):
            for axis in axes if len(axes) == 1 else ():
                refused.setdefault(axis, []).append(axes[axis])
            continue
        for training in (False, True) if len(axes) > 1 else (False,):
            try:
                _check_shapes(case, network.train(training), inputs_of(case, device="meta", **axes), env)
            except Broken as fault:
                raise Broken(f"{fault.what}, at {_sized(env)}", fault.expected, fault.got) from None
            except Exception as fault:
                raise Broken(
                    f"the rule accepts {_sized(env)}, the module does not run",
                    shape_of(program.values[0].type.at(env), BATCH),
                    _first_line(fault),
                ) from fault
    said = (f"{a}: {describe(program.constraints, a, built)}; refuses {_few(n)}" for a, n in refused.items())
    return "; ".join(said)


def _boundaries(case: Case) -> Iterator[dict[str, int]]:
    """One axis at a time, then all: 1, 2, 3, around each number of the options, and of the rules also its double."""
    asked = {m for c in case.program.constraints for m in (c.number, 2 * c.number)}
    near = {n + d for n in {*_ints(case.example.graph), *asked} if n > 1 for d in (-1, 0, 1)}
    tried = sorted(n for n in {1, 2, 3, *near} if 0 < n <= LARGEST)
    for n in tried:
        yield from ({axis: n} for axis in (list(case.program.built) if case.rank < 3 else list(case.program.built)[:1]))
        if len(case.program.built) > 1:
            yield dict.fromkeys(case.program.built, n)


def _ints(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _ints(part)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def gradients_arrive(case: Case) -> str:
    """The backward pass gives every parameter a gradient, and each is finite."""
    network, inputs = network_of(case).train(), _leaves(inputs_of(case))
    _backward(tensors(case, network, inputs))
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    lost = [n for n, p in trained.items() if p.grad is None]
    if lost:
        raise Broken("a parameter gets no gradient: nothing of the result depends on it", "a gradient", _few(lost))
    _finite({**trained, **inputs}, "in the backward pass of random inputs")
    blind = [n for n, x in inputs.items() if x.grad is None]
    return f"{_few(blind)} gets no gradient" if blind else ""


def _leaves(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: x.requires_grad_() for n, x in inputs.items()}


def _backward(outputs: list[Tensor]) -> None:
    tracked = [y for y in outputs if y.requires_grad]
    if tracked:
        torch.autograd.backward(tracked, [torch.randn_like(y) for y in tracked])


def _finite(values: Mapping[str, Tensor], when: str) -> None:
    for name, value in values.items():
        if value.grad is not None and not value.grad.isfinite().all():
            raise Broken(f"the gradient of `{name}` is not finite {when}", "finite numbers", _odd(value.grad))


def _odd(value: Tensor) -> str:
    kind = "NaN" if value.isnan().any() else "infinity"
    return f"{kind} in {int((~value.isfinite()).sum())} of {value.numel()} numbers"


def numbers_are_finite(case: Case) -> str:
    """No NaN and no infinity, forward or backward, for random, zero, constant and large inputs."""
    network = network_of(case)
    shapes = inputs_of(case)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "random": lambda x: x, "zero": torch.zeros_like, "constant": torch.ones_like, "large": lambda x: x * 1e3,
    }  # fmt: skip
    for kind, of in kinds.items():
        for training in (True, False):
            inputs = _leaves({n: of(x.detach()).clone() for n, x in shapes.items()})
            network.train(training).zero_grad()
            outputs = tensors(case, network, inputs)
            where = f"for {kind} inputs in {'training' if training else 'evaluation'}"
            for y in outputs:
                if not y.isfinite().all():
                    raise Broken(f"the result is not finite {where}", "finite numbers", _odd(y))
            _backward(outputs)
            _finite({**dict(network.named_parameters()), **inputs}, where)
    return ""


def runs_in_bfloat16(case: Case) -> str:
    """All in bfloat16, and in float32 under autocast: the result is near that of float32."""
    network, inputs = network_of(case).eval(), inputs_of(case)
    small = {n: x.bfloat16() for n, x in inputs.items()}
    low = deepcopy(network).bfloat16()
    for parameter, rounded in zip(network.parameters(), low.parameters(), strict=True):
        parameter.data.copy_(rounded.data)
    wanted = tensors(case, network, {n: x.float() for n, x in small.items()})
    with torch.autocast("cpu", torch.bfloat16):
        auto = tensors(case, network, inputs)
    same(wanted, auto, "under autocast to bfloat16 the result is far from float32", 0.05)
    try:
        made = tensors(case, low, small)
    except (NotImplementedError, RuntimeError) as fault:
        if "not implemented for 'BFloat16'" not in str(fault):
            raise
        return f"under autocast only: torch has {fault} on the CPU"
    _of_dtype(made, torch.bfloat16)
    same(wanted, made, "bfloat16 is far from float32", 0.05)
    return ""


def runs_in_float64(case: Case) -> str:
    """All in float64: the result has that dtype and is that of float32, as exact as that is."""
    network, inputs = network_of(case).eval(), inputs_of(case)
    made = tensors(case, deepcopy(network).double(), {n: x.double() for n, x in inputs.items()})
    _of_dtype(made, torch.float64)
    same(made, tensors(case, network, inputs), "float64 is far from float32", 1e-4)
    return ""


def _of_dtype(made: list[Tensor], wanted: torch.dtype) -> None:
    for y in made:
        if y.dtype != wanted:
            raise Broken("the dtype of the result is not that of input and weights", wanted, y.dtype)


def modes_are_kept(case: Case) -> str:
    """Evaluation is deterministic and draws no random number; training repeats with its seed."""
    network, inputs = network_of(case).eval(), inputs_of(case)
    before = torch.get_rng_state()
    first = tensors(case, network, inputs)
    drawn = not torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    same(first, tensors(case, network, inputs), "two passes in evaluation differ")
    if drawn:
        raise Broken("evaluation draws random numbers", "none", "another state of the generator")
    once, again = (_trained(case, network, inputs) for _ in range(2))
    same(once, again, "two passes in training from one seed differ")
    return ""


def _trained(case: Case, network: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(6)
    return tensors(case, deepcopy(network).train(), inputs)


def buffers_are_kept(case: Case) -> str:
    """Evaluation changes no buffer."""
    network, inputs = network_of(case).eval(), inputs_of(case)
    buffers = {n: b.clone() for n, b in network.named_buffers()}
    if not buffers:
        raise NotApplicable("no buffers")
    network(**inputs)
    changed = [n for n, b in network.named_buffers() if not torch.equal(b, buffers[n])]
    if changed:
        raise Broken("evaluation changes a buffer", "buffers as they were", _few(changed))
    return ""


def samples_are_independent(case: Case) -> str:
    """In evaluation the result of a sample is the same alone and in a batch."""
    network = network_of(case).double().eval()
    inputs = {n: x.double() for n, x in inputs_of(case).items()}
    together = tensors(case, network, inputs)
    for k in range(BATCH):
        alone = tensors(case, network, {n: x[k : k + 1] for n, x in inputs.items()})
        same(alone, [y[k : k + 1] for y in together], "a sample's result depends on the other samples", 1e-9)
    return ""


def state_is_whole(case: Case) -> str:
    """What a `state_dict` holds is all that training changes: loaded into another network it gives the same result."""
    network, inputs = network_of(case, 0), inputs_of(case)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.train()(**inputs)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = network_of(case, 99)
    other.load_state_dict(torch.load(file, weights_only=True))
    wanted, made = tensors(case, network.eval(), inputs), tensors(case, other.eval(), inputs)
    same(wanted, made, "the state_dict lacks a part of what the module learned or drew")
    return f"{len(network.state_dict())} tensors"


def copies_are_equal(case: Case) -> str:
    """A deep copy and an unpickled network give the same result."""
    network, inputs = network_of(case).eval(), inputs_of(case)
    wanted = tensors(case, network, inputs)
    same(wanted, tensors(case, deepcopy(network), inputs), "a deep copy gives another result")
    if any("<locals>" in type(m).__qualname__ for m in (*network.modules(), case.example.block.model_construct())):
        return "deep copy only: pickle cannot name a class that is defined inside a function"
    same(wanted, tensors(case, pickle.loads(pickle.dumps(network)), inputs), "an unpickled network differs")
    return ""


def compiles(case: Case) -> str:
    """`torch.compile(fullgraph=True)` captures it whole, in both modes, and gives the same result."""
    network, inputs = network_of(case), inputs_of(case)
    for training in (False, True):
        network.train(training)
        torch._dynamo.reset()
        torch.manual_seed(7)
        wanted = tensors(case, deepcopy(network), inputs)
        torch.manual_seed(7)
        with _quiet():
            made = tensors(case, torch.compile(deepcopy(network), fullgraph=True, backend="eager"), inputs)  # type: ignore[arg-type]
        same(wanted, made, "compiled it gives another result", 1e-5)
    return ""


def exports(case: Case) -> str:
    """`torch.export` captures it for evaluation, and what it captured gives the same result."""
    network, inputs = network_of(case).eval(), inputs_of(case)
    wanted = tensors(case, network, inputs)
    with _quiet():
        program = torch.export.export(network, (), inputs).module()
    same(wanted, tensors(case, program, inputs), "exported it gives another result", 1e-5)
    return ""


def cost_is_real(case: Case) -> str:
    """`composer cost` agrees with a real run: parameters and FLOPs exactly, memory of a step within 1 %."""
    cost = case.blueprint.cost(train=True, batch=BATCH)
    network = network_of(case)
    owned = sum(p.numel() for p in network.parameters())
    if cost.parameters != owned:
        raise Broken("the cost counts other parameters", owned, cost.parameters)
    meta = network_of(case, device="meta")
    with FlopCounterMode(display=False) as counter:
        meta(**inputs_of(case, device="meta"))
    if cost.flops != counter.get_total_flops():
        raise Broken("the cost counts other FLOPs", counter.get_total_flops(), cost.flops)
    real = storages.run(network, inputs_of(case), training=True)
    for name, wanted, got in (("peak", real.peak, cost.peak.bytes), ("saved part", real.saved, cost.saved)):
        if abs(wanted - got) > 0.01 * wanted:
            raise Broken(f"the {name} of memory differs from that of a real step", f"{wanted:,} B", f"{got:,} B")
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's compilers warn about themselves, which is nothing the block's author could mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _sized(env: Mapping[str, int]) -> str:
    return ", ".join(f"{a} = {n}" for a, n in env.items())


def _few(items: Any) -> str:
    items = list(items)
    return ", ".join(map(str, items[:8])) + (f" … ({len(items) - 8} more)" if len(items) > 8 else "")


def _first_line(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {next(iter(str(fault).splitlines()), '')}"


ASPECTS: Mapping[str, Callable[[Case], str]] = {
    "type": type_is_real,
    "sizes": sizes_are_exact,
    "gradients": gradients_arrive,
    "finite": numbers_are_finite,
    "bfloat16": runs_in_bfloat16,
    "float64": runs_in_float64,
    "modes": modes_are_kept,
    "buffers": buffers_are_kept,
    "batch": samples_are_independent,
    "state": state_is_whole,
    "copy": copies_are_equal,
    "cost": cost_is_real,
    "compile": compiles,
    "export": exports,
}
"""The aspects of a contract, by name."""

ONE_RANK = frozenset(("cost", "compile", "export"))
"""Aspects that take long; each example is tried at one rank."""

REPEATED = frozenset(("bfloat16", "float64", "batch", "state", "copy", "compile", "export"))
"""Aspects that compare results of evaluation."""
