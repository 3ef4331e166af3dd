"""`init:` — the published initialization, as data, so that training starts where the authors' did.

An ordered list; for each parameter the first rule that names it wins:

    init:
      - {at: "**.mlp.*", weight: xavier_uniform, bias: normal(1e-6)}
      - {of: linear, weight: trunc_normal(0.02), bias: zeros}
      - {at: position, table: zeros}

`at` is a glob over the address of the module that owns the parameter, `of` a kind of module; the other keys are names
of parameters. What no rule names keeps PyTorch's default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from composer.addresses import Pattern
from composer.diagnostics import BlueprintError, Diagnostic, Span, did_you_mean, listing
from composer.source import span_of

KINDS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "conv": (nn.modules.conv._ConvNd,),
    "norm": (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase),
}


def _values(tensor: Tensor, *values: float) -> Tensor:
    if tensor.shape != (len(values),):
        text = f"`init` fills {tuple(tensor.shape)} numbers with {len(values)} values"
        raise BlueprintError(Diagnostic("BP201", text))
    return tensor.copy_(torch.tensor(values))


BOUND = 2.0
"""Where published code cuts a normal distribution, as torch does."""


def _trunc_normal(tensor: Tensor, std: float = 1.0) -> Tensor:
    """Cut at ±2. torch draws by 24 random bits, which give nothing beyond 6 standard deviations: where the bound is
    farther than that, as at the usual 0.02, looking for numbers beyond it takes longer than to draw them, for nothing.
    """
    if std * 10 < BOUND:
        return nn.init.normal_(tensor, 0.0, std)
    return nn.init.trunc_normal_(tensor, std=std, a=-BOUND, b=BOUND)


FILLS: Mapping[str, Callable[..., Any]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "constant": nn.init.constant_,
    "values": _values,
    "normal": lambda t, std=1.0, mean=0.0: nn.init.normal_(t, mean, std),
    "trunc_normal": _trunc_normal,
    "uniform": lambda t, low=0.0, high=1.0: nn.init.uniform_(t, low, high),
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_uniform_flat": lambda t: nn.init.xavier_uniform_(t.flatten(1)),  # a patch is one input (MAE)
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_normal": lambda t, slope=0.0: nn.init.kaiming_normal_(t, a=slope),
    "kaiming_uniform": lambda t, slope=0.0: nn.init.kaiming_uniform_(t, a=slope),
    "kaiming_fan_out": lambda t, slope=0.0: nn.init.kaiming_normal_(t, a=slope, mode="fan_out"),
}
_FILL = re.compile(r"(\w+)(?:\(\s*(-?[\d.eE+-]+(?:\s*,\s*-?[\d.eE+-]+)*)\s*\))?$")


class Rule:
    """One entry of `init:`, checked."""

    def __init__(self, spec: Any, span: Span | None):
        if not isinstance(spec, dict) or not ({"at", "of"} & set(spec)):
            raise BlueprintError(Diagnostic("BP201", "an `init` rule needs `at:` (addresses) or `of:` (a kind)", span))
        at = spec.get("at", "**")
        self.patterns = [Pattern(str(a)) for a in (at if isinstance(at, list) else [at])]
        self.kind = spec.get("of")
        if self.kind is not None and self.kind not in KINDS:
            text = f"`init` knows no kind `{self.kind}`{did_you_mean(str(self.kind), KINDS)}"
            raise BlueprintError(Diagnostic("BP201", text, span_of(spec, "of"), notes=(f"kinds: {listing(KINDS)}",)))
        self.fills = {k: _fill(v, span_of(spec, k) or span) for k, v in spec.items() if k not in ("at", "of", "note")}

    def names(self, address: str, module: nn.Module) -> bool:
        fits = self.kind is None or isinstance(module, KINDS[self.kind])
        return fits and any(p.matches(address) or p.text == "**" for p in self.patterns)


def _fill(value: Any, span: Span | None) -> Callable[[Tensor], Any]:
    match = _FILL.match(str(value))
    if not match or match[1] not in FILLS:
        word = str(value).split("(")[0]
        text = f"`init` knows no filling `{value}`{did_you_mean(word, FILLS)}"
        raise BlueprintError(Diagnostic("BP201", text, span, notes=(f"fillings: {listing(FILLS)}",)))
    numbers = [float(n) for n in match[2].split(",")] if match[2] else []
    return lambda tensor: FILLS[match[1]](tensor, *numbers)


def rules_of(init: Iterable[Any]) -> list[Rule]:
    """The checked rules of a blueprint."""
    specs = list(init)
    return [Rule(s, getattr(s, "span", None)) for s in specs]


@torch.no_grad()
def initialize(network: nn.Module, init: Iterable[Any], named: Callable[[Tensor], None] = lambda _: None) -> None:
    """Fill the parameters that the rules name; `named` hears of each before."""
    rules = rules_of(init)
    for address, module in network.named_modules() if rules else ():
        for name, parameter in module.named_parameters(recurse=False):
            rule = rule_for(rules, address, module, name)
            if rule is not None and not parameter.is_meta:
                named(parameter)
                rule.fills[name](parameter)


def rule_for(rules: Iterable[Rule], address: str, module: nn.Module, name: str) -> Rule | None:
    """The first rule that names a parameter of the module at an address."""
    return next((r for r in rules if name in r.fills and r.names(address, module)), None)
