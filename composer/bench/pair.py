"""Two networks of equal weights, and how far what they compute is apart.

The other network is made first, its vectors and statistics are moved to where training would have moved them (a batch
norm that still has mean 0 and variance 1 hides whether it is folded), and its `state_dict` becomes ours: by equal keys,
or by the blueprint's `weights:`. Gradients go the same way, since a rule moves and cuts tensors and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from composer.bench.case import Case
from composer.bench.rivals import Rival, by_name, rival, theirs
from composer.cost import DTYPES
from composer.diagnostics import BlueprintError, Diagnostic, listing
from composer.weights import convert, load_into

if TYPE_CHECKING:
    from composer.compose import Blueprint

Tensors = Mapping[str, Tensor]


@dataclass
class Runner:
    """One network with what it is fed, in the mode of the case. `wanted` are the outputs that both networks have."""

    label: str
    network: nn.Module
    call: Callable[[Any, Mapping[str, Any]], Any]
    inputs: Mapping[str, Tensor]
    train: bool
    wanted: Sequence[str] | None = None

    def __call__(self) -> dict[str, Tensor]:
        """One forward pass; in training the whole step but the optimizer's, from no gradients to new ones."""
        if not self.train:
            with torch.inference_mode():
                return self.outputs()
        self.network.zero_grad(set_to_none=True)
        found = self.outputs()
        torch.autograd.backward(sum(((o.float() ** 2).mean() for o in found.values()), torch.zeros(())))
        return {n: o.detach() for n, o in found.items()}

    def outputs(self) -> dict[str, Tensor]:
        """The outputs of one call."""
        found = outputs(self.call(self.network, self.inputs))
        return found if self.wanted is None else {n: found[n] for n in self.wanted}

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of every tensor of the `state_dict`, zeros where there is none."""
        state = self.network.state_dict(keep_vars=True)
        return {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in state.items()}


@dataclass
class Pair:
    """Both networks. `unequal` says why their weights are not equal, `moved` takes tensors from their keys to ours."""

    ours: Runner
    theirs: Runner
    unequal: str = ""
    moved: Callable[[Tensors], Tensors] = field(default=dict)


def outputs(found: Any) -> dict[str, Tensor]:
    """The tensors of a result by name, or by number where they have none."""
    named = found.items() if isinstance(found, Mapping) else [("", found)]
    each = ((n, k, t) for n, value in named for k, t in enumerate(tree_leaves(value)) if isinstance(t, Tensor))
    return {f"{n}.{k}" if k or not n else n: t for n, k, t in each}


def pair(case: Case) -> Pair:
    """Both networks of a case."""
    blueprint = case.loaded()
    other = rival(case.against, blueprint)
    torch.manual_seed(0)
    made = other.make()
    age(made)
    network = blueprint.build(without=case.without)
    unequal, moved = equalized(made, network, blueprint, other)
    return Pair(runner(case, "ours", network, by_name), runner(case, other.label, made, other.call), unequal, moved)


def single(case: Case, ours: bool) -> Runner:
    """One of the two."""
    blueprint = case.loaded()
    torch.manual_seed(0)
    if ours:
        return runner(case, "ours", blueprint.build(without=case.without), by_name)
    other = rival(case.against, blueprint)
    return runner(case, other.label, other.make(), other.call)


def runner(case: Case, label: str, network: nn.Module, call: Callable[..., Any]) -> Runner:
    """A network ready to run. Images are the same for every network, and all weights are trained: some libraries freeze
    backbones, and would do less work."""
    at = torch.Generator().manual_seed(1)
    dtype = DTYPES[case.dtype]
    inputs = {n: fill(n, torch.randn(s, generator=at)).to(dtype) for n, s in case.shapes.items()}
    network.to(dtype).requires_grad_(True).train(case.train)
    return Runner(label, network, checked(call, label) if label != "ours" else call, inputs, case.train)


def fill(name: str, values: Tensor) -> Tensor:
    """A mask lets everything be seen; all else is noise."""
    return torch.ones_like(values) if name.endswith("mask") else values


def checked(call: Callable[..., Any], label: str) -> Callable[..., Any]:
    """The same call, whose faults are the other network's."""

    def called(network: Any, inputs: Mapping[str, Tensor]) -> Any:
        try:
            return call(network, inputs)
        except BlueprintError:
            raise
        except Exception as fault:
            shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in inputs.items())
            what = f"`{label}` cannot run on {shapes}"
            raise theirs(what, fault, type(network).__module__) from fault

    return called


@torch.no_grad()
def age(network: nn.Module) -> None:
    """Weights and statistics as after training; matrices stay as they begin."""
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand_like(value))
        elif value.is_floating_point() and value.dim() < 2:
            value.add_(0.2 * torch.randn_like(value))


def equalized(
    made: nn.Module, network: nn.Module, blueprint: Blueprint, other: Rival
) -> tuple[str, Callable[[Tensors], Tensors]]:
    """Gives our network the weights of the other. Why that is not possible, and how keys become ours."""
    wanted, given = network.state_dict(), made.state_dict()
    if {n: t.shape for n, t in wanted.items()} == {n: t.shape for n, t in given.items()}:
        load_into(network, given)
        return "", dict
    why = {}
    for name in [other.rules] if other.rules else blueprint.weights:
        rules = blueprint.weights.get(name, ())
        converted, plan = convert(given, rules, wanted)
        if plan.complete:
            load_into(network, converted)
            return "", partial(moved, rules, wanted)
        strange = [*plan.mismatched, *plan.duplicates, *plan.unknown, *plan.missing]
        why[name] = f"under the rules `{name}` {len(strange)} tensors do not fit, such as {strange[0]}"
    return listing(why.values(), 2) or "its keys are not ours, and the blueprint has no `weights:`", dict


def moved(rules: Iterable[Any], wanted: Tensors, tensors: Tensors) -> Tensors:
    """Tensors under our keys."""
    return convert(tensors, rules, wanted)[0]


# --- differences -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Apart:
    """How far two networks are apart: outputs by the largest number, relative to the largest; gradients of all weights
    by their length. None where it cannot be said, and then `why`."""

    outputs: float | None = None
    gradients: float | None = None
    why: str = ""


def apart(both: Pair) -> Apart:
    """Runs both, which also warms them up. Outputs of other shapes are refused."""
    share(both)
    (ours, random), (other, too) = (drawn(r) for r in (both.ours, both.theirs))
    if both.unequal:
        return Apart(why=f"weights could not be made equal: {both.unequal}")
    if random or too:
        return Apart(why="training draws at random (dropout), so that outputs differ; rates of 0 make them comparable")
    return Apart(furthest(ours, other), lengths(both) if both.ours.train else None)


def drawn(run: Runner) -> tuple[list[Tensor], bool]:
    """The outputs with a seed, and whether those with another one differ."""
    torch.manual_seed(3)
    second = list(run().values()) if run.train else []
    torch.manual_seed(2)
    first = list(run().values())
    return first, any(not torch.equal(a, b) for a, b in zip(first, second, strict=False))


@torch.no_grad()
def share(both: Pair) -> None:
    """Both give just the outputs that both have, by name or in order: networks give some only while training. Where the
    shapes are others, it is another network (BP612)."""
    ours, others = both.ours.outputs(), both.theirs.outputs()
    named = [(n, n) for n in ours if n in others]
    names = named or list(zip(ours, others, strict=False))
    if not names or any(ours[a].shape != others[b].shape for a, b in names):
        said = [listing(tuple(t.shape) for t in each.values()) or "no tensor" for each in (others, ours)]
        text = f"`{both.theirs.label}` gives {said[0]}, the blueprint {said[1]}"
        help = ("make it for the same classes and sizes, and let it return the blueprint's outputs in their order",)
        raise BlueprintError(Diagnostic("BP612", text, help=help))
    both.ours.wanted, both.theirs.wanted = zip(*names, strict=True)


def furthest(ours: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    both = [(a.double(), b.double()) for a, b in zip(ours, others, strict=False)]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in both)


def lengths(both: Pair) -> float:
    """The length of the difference of all gradients, relative to their length."""
    wanted, found = both.moved(both.theirs.gradients()), both.ours.gradients()
    squares = [_squares(found[n].double(), wanted[n].double()) for n in found if n in wanted]
    off, whole = (sum(each) for each in zip(*squares, strict=True))
    return float((off / max(whole, 1e-60)) ** 0.5)


def _squares(a: Tensor, b: Tensor) -> tuple[float, float]:
    return float((a - b).pow(2).sum()), float(b.pow(2).sum())


def turns(count: int) -> Iterator[tuple[int, int]]:
    """Who goes first in each round: the other one next time."""
    yield from ((k % 2, 1 - k % 2) for k in range(count))
