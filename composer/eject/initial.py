"""The published initialization as a function of the file: `init:` of the blueprint, rule by rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from composer.addresses import Pattern
from composer.eject.expressions import written
from composer.eject.layout import Bracketed, laid
from composer.init import _FILL

KINDS = {
    "linear": "nn.Linear",
    "conv": "nn.modules.conv._ConvNd",
    "norm": "(nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)",
}
"""How the kinds of `composer.init` are said."""

FILLS = {
    "zeros": "nn.init.zeros_({t})",
    "ones": "nn.init.ones_({t})",
    "constant": "nn.init.constant_({t}, {0})",
    "values": "{t}.copy_(torch.tensor([{all}]))",
    "normal": "nn.init.normal_({t}, {1:mean=0.0}{0:std=1.0})",
    "trunc_normal": "nn.init.trunc_normal_({t}, {0:std=1.0})",
    "uniform": "nn.init.uniform_({t}, {0:a=0.0}{1:b=1.0})",
    "xavier_uniform": "nn.init.xavier_uniform_({t}, {0:gain=1.0})",
    "xavier_uniform_flat": "nn.init.xavier_uniform_({t}.flatten(1))",
    "xavier_normal": "nn.init.xavier_normal_({t}, {0:gain=1.0})",
    "kaiming_normal": "nn.init.kaiming_normal_({t}, {0:a=0.0})",
    "kaiming_uniform": "nn.init.kaiming_uniform_({t}, {0:a=0.0})",
    "kaiming_fan_out": 'nn.init.kaiming_normal_({t}, {0:a=0.0}mode="fan_out")',
}
"""How the fillings of `composer.init` are said."""


TABLE = '"""Addresses and kinds of modules, and what fills their parameters; the first rule that names one holds."""'
FUNCTION = '''@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """Fill the parameters as the blueprint says."""
    for address, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            for pattern, kind, fills in INITIAL:
                if name in fills and isinstance(module, kind) and re.fullmatch(pattern, address):
                    fills[name](parameter)
                    break'''


def function(init: Sequence[Any]) -> list[str]:
    """The table of rules and the function that follows them; nothing where there are none."""
    if not init:
        return []
    return ["\n".join([*laid("INITIAL = ", Bracketed("[", tuple(rules(init)), "]")), TABLE]), FUNCTION]


def rules(init: Sequence[Any]) -> Iterator[Bracketed]:
    """The items of a table of rules: which addresses, which kind of module, and what fills which parameter."""
    for spec in init:
        at = spec.get("at", "**")
        patterns = [_pattern(str(a)) for a in (at if isinstance(at, list) else [at])]
        kind = KINDS[spec["of"]] if spec.get("of") else "nn.Module"
        fills = [f"{written(k)}: {filled(str(v))}" for k, v in spec.items() if k not in ("at", "of", "note")]
        pattern = "|".join(patterns)
        yield Bracketed("(", (f'{"r" * (chr(92) in pattern)}"{pattern}"', kind, Bracketed("{", tuple(fills), "}")), ")")


def _pattern(glob: str) -> str:
    return ".*" if glob == "**" else Pattern(glob).expression


def filled(value: str) -> str:
    """`trunc_normal(0.02)` as a function of a tensor."""
    match = _FILL.match(value)
    assert match is not None
    numbers = [float(n) for n in match[2].split(",")] if match[2] else []
    text = FILLS[match[1]].replace("{t}", "t").replace("{all}", ", ".join(map(written, numbers)))

    def said(found: re.Match[str]) -> str:
        place, name = int(found[1]), found[2]
        if not name:
            return written(numbers[place])
        return f"{name}={written(numbers[place])}, " if place < len(numbers) else ""

    text = re.sub(r"\{(\d)(?::(\w+)=[^}]*)?\}", said, text)
    text = re.sub(r",? *\)$", ")", text)
    return text[:-3] if text.endswith("_(t)") else f"lambda t: {text}"
