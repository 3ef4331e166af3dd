"""A network on several devices: `composer.parallel(network, mesh)` applies FSDP2, node by node.

Program -> network -> plans -> `fully_shard`. A node of a blueprint is no module that anybody calls: its steps are, and
FSDP gathers the parameters of a module when that is called. So the steps of each unit (a copy of a `repeat`, such as
`blocks.3` or `down.0`, or a node that is asked for) become one call of the module that holds them; names stay as they
are. A unit is gathered before its first step and given up after its last, and what it computes again in the backward
pass is computed inside of it.

What stands outside of units belongs to the whole, whose parameters stay gathered as long as it runs. So does a unit
that does not own its parameters alone: shared and tied weights are gathered once, with the whole. All the work is
`torch.distributed`'s; a sharded network trains, saves and loads as any other of FSDP2's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from composer.addresses import Pattern
from composer.calls import PLAIN, Call, Quick
from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean
from composer.module import Network, _Plan, perform, regroup, uses
from composer.segments import Segment, owners, segments

Choice = Callable[[str], str]
"""The unit of a step by its address, empty for the whole."""


def parallel(
    network: Network,
    mesh: DeviceMesh,
    *,
    units: str | Sequence[str] = (),
    checkpoint: str | Sequence[str] = (),
    **options: Any,
) -> Network:
    """Shard a network over a mesh of one axis (FSDP) or of two (replicas × shards), in place.

    `units` names the nodes that are gathered one at a time, all repeated ones without; `checkpoint` those that training
    computes again instead of keeping (`Network.checkpoint`), each a unit or a part of one. Other options are those of
    `fully_shard`, such as `mp_policy` and `reshard_after_forward`. Every process calls it with equal weights, or with a
    network on `meta`. Buffers, such as the statistics of batch norm, stay each process's own.
    """
    named, again = _patterns(units), _patterns(checkpoint)
    if again:
        network.checkpoint(*(p.text for p in again))
    found = fitting(network, partial(_unit, units=named, again=again))
    _expected(network, named, found)
    regroup(network, partial(_divide, units=found, again=again))
    for module in (*found.values(), network):
        module.register_forward_hook(_owned)
        fully_shard(module, mesh=mesh, **options)
    return network


class Unit(nn.Module):
    """A node that runs as one module, so that hooks on it surround all of its steps."""

    def forward(self, run: Callable[..., Any], *values: Any) -> Any:
        return run(*values)


def _owned(module: nn.Module, given: Any, made: Any) -> Any:
    """What a unit made, with memory of its own. A view of a parameter would lose it when the unit is done, and what is
    written into a view of another value would be lost to the hooks of the backward pass."""
    held = {p.untyped_storage().data_ptr() for p in module.parameters() if not isinstance(p, DTensor)}

    def own(y: Tensor) -> Tensor:
        return y.clone() if y._is_view() or y.untyped_storage().data_ptr() in held else y

    return tree_map_only(Tensor, own, made)


class Run:
    """Neighbouring steps of a unit: what they read -> what they write, by slot."""

    def __init__(self, calls: Sequence[Quick], whole: Segment, inner: Sequence[Segment]):
        self.calls, self.whole, self.inner = calls, whole, inner

    def __call__(self, *values: Any) -> dict[int, Any]:
        slots = dict(zip(self.whole.reads, values, strict=True))
        perform(self.calls, self.inner, slots)
        return {k: slots[k] for k in self.whole.writes}


def _unit(address: str, units: Sequence[Pattern], again: Sequence[Pattern]) -> str:
    """The outermost node around a step that is asked for, or that is computed again; where none is asked for, that is
    a copy of a `repeat`."""
    for owner in owners(address):
        asked = any(p.matches(owner) for p in units) if units else owner.rpartition(".")[2].isdigit()
        if asked or any(p.matches(owner) for p in again):
            return owner
    return ""


def fitting(network: Network, unit: Choice) -> dict[str, nn.Module]:
    """The modules of those units that own their parameters alone."""
    users: dict[nn.Parameter, set[str]] = {}
    called: set[nn.Module] = set()
    for address, call, parameters in uses(network):
        called |= {call} if isinstance(call, nn.Module) else set()
        for parameter in parameters:
            users.setdefault(parameter, set()).add(unit(address))
    holders: dict[nn.Parameter, list[nn.Module]] = {}
    for module in network.modules():
        for held in module._parameters.values():
            if held is not None:
                holders.setdefault(held, []).append(module)
    known = dict(network.named_modules())
    names = dict.fromkeys(u for of in users.values() for u in of if u and u in known)
    return {n: known[n] for n in names if _is_one(known[n], called) and _owns(known[n], n, users, holders)}


def _is_one(module: nn.Module, called: Set[nn.Module]) -> bool:
    """Whether one call can run all that a module holds: nobody calls it, or nobody calls what is in it."""
    return type(module) is nn.Module or not any(m in called for m in module.modules() if m is not module)


def _owns(
    module: nn.Module,
    name: str,
    users: Mapping[nn.Parameter, Set[str]],
    holders: Mapping[nn.Parameter, Sequence[nn.Module]],
) -> bool:
    """Whether nobody else uses or holds the parameters of a unit."""
    inside = set(module.modules())
    return all(users.get(p, {name}) == {name} and inside.issuperset(holders[p]) for p in module.parameters())


def _expected(network: Network, named: Sequence[Pattern], found: Mapping[str, nn.Module]) -> None:
    """Every pattern names a unit (BP106)."""
    for pattern in named:
        if not any(pattern.matches(unit) for unit in found):
            known = list(dict.fromkeys(a for address, *_ in uses(network) for a in owners(address)))
            there = any(pattern.matches(a) for a in known)
            close = did_you_mean(pattern.text, known)
            why = "what it holds is shared with other nodes" if there else f"there is no such node{close}"
            text = f"`{pattern.text}` names no unit that owns its parameters: {why}"
            raise BlueprintError(Diagnostic("BP106", text))


class _Names(Pattern):
    """Matches some addresses as they are."""

    def __init__(self, names: Collection[str]):
        super().__init__("")
        self.names = names

    def matches(self, address: str) -> bool:
        return address in self.names


def _divide(plan: _Plan, units: Mapping[str, nn.Module], again: Sequence[Pattern]) -> None:
    """One call in the place of the steps of each unit that holds several; what is computed again lies inside of it."""
    several = {name: module for name, module in units.items() if type(module) in (nn.Module, Unit)}
    for module in several.values():
        module.__class__ = Unit
    calls: list[Quick] = []
    addresses: list[str] = []
    for part in segments(plan.addresses, plan.calls, plan.wanted, [_Names(several)]) or [Segment(0, len(plan.calls))]:
        mine, places = plan.calls[part.start : part.stop], plan.addresses[part.start : part.stop]
        if not part.again:
            calls += mine
            addresses += places
            continue
        name = next(a for a in owners(places[0]) if a in several)
        run = Run(mine, part, segments(places, mine, part.writes, again))
        targets = tuple((k, k) for k in part.writes)
        home = {"": partial(several[name], run)}
        calls.append(Call(home, "", PLAIN, part.reads, (), targets, part.dead, f"`{name}`").quick())
        addresses.append(name)
    plan.calls, plan.addresses = calls, addresses
    plan.segments = segments(["" if a in several else a for a in addresses], calls, plan.wanted, again)


def _patterns(text: str | Sequence[str]) -> list[Pattern]:
    return [Pattern(t) for t in ((text,) if isinstance(text, str) else text)]
