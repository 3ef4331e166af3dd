"""Fusion: how a decoder joins what comes up with what comes across. They fill the slots called `fuse`."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

from composer import Block, Rule, Traits, Type

Fit = Literal["none", "pad_skip", "crop_skip", "crop_x"]


class Fusion(Block):
    """What the fusions share: a list of values, or `x` and `skip`, whose grids agree or are made to.

    `fit: pad_skip` pads the skip with zeros at the far side, `crop_skip` cuts its centre, `crop_x` cuts the far side
    of x.
    """

    lists: ClassVar[bool] = True
    weightless: ClassVar[bool] = True
    fit: Fit = "none"

    def wanted_layout(self, port: str) -> str:
        return "any" if self.fit == "none" else "map"

    def traits(self) -> Traits:
        return Traits(local="cells" if self.fit == "none" else "")

    def joined(self, rule: Rule, x: Any, skip: Type | None) -> list[Type]:
        """The types to join, their grids checked."""
        items = [*(x if isinstance(x, list) else [x]), *([skip] if skip is not None else [])]
        first = items[0]
        for other in items[1:]:
            self._same_grid(rule, first, other)
        return items

    def _same_grid(self, rule: Rule, x: Type, y: Type) -> None:
        same = x.kind == y.kind and x.rank == y.rank and x.extra == y.extra
        if not rule.need(same, f"`{self.name}` cannot join {x} and {y}", "BP301"):
            return
        for a, b in zip(x.grid, y.grid, strict=True):
            if self.fit != "none":
                rule.at_least(b - a if self.fit == "crop_skip" else a - b, 0, f"`fit: {self.fit}`")
                continue
            text = f"`{self.name}` joins only equal grids, not {_grid(x)} and {_grid(y)}"
            if not rule.equal(a, b, text):
                return

    def result(self, items: list[Type], channels: int) -> Type:
        base = items[1] if self.fit == "crop_x" and len(items) > 1 else items[0]
        return base.with_(channels=channels)


def _grid(x: Type) -> str:
    return " × ".join(map(str, x.grid))


class Concat(Fusion):
    """Concatenates channels; `order: skip x` puts the skip first."""

    name = "fuse.concat"
    order: Literal["x skip", "skip x"] = "x skip"

    def infer(self, rule: Rule, x: Any, skip: Type | None = None) -> Type:
        items = self.joined(rule, x, skip)
        return self.result(items, sum(t.channels for t in items))

    def traits(self) -> Traits:
        joins: Literal["read", "turned"] = "turned" if self.order == "skip x" else "read"
        return replace(super().traits(), pure=True, concatenates=joins if self.fit == "none" else "")

    def build(self, layout: str) -> Any:
        from composer_blocks.modules.fusion import Concat as Module

        return Module(self.fit, self.order == "skip x", layout)


class Sum(Fusion):
    """Adds; channels must be equal."""

    name = "fuse.add"

    def infer(self, rule: Rule, x: Any, skip: Type | None = None) -> Type:
        items = self.joined(rule, x, skip)
        widths = list(dict.fromkeys(t.channels for t in items))
        rule.need(
            len(widths) == 1, f"`fuse.add` cannot add different channels: {' and '.join(map(str, widths))}", "BP301"
        )
        return self.result(items, items[0].channels)

    def traits(self) -> Traits:
        return replace(super().traits(), adds=self.fit == "none", pure=True)

    def build(self) -> Any:
        from composer_blocks.modules.fusion import Sum as Module

        return Module(self.fit)


class Product(Fusion):
    """Multiplies; a map of one channel weights all channels of the other."""

    name = "fuse.multiply"

    def infer(self, rule: Rule, x: Any, skip: Type | None = None) -> Type:
        items = self.joined(rule, x, skip)
        widths = {t.channels for t in items}
        said = " and ".join(str(t.channels) for t in items)
        rule.need(len(widths - {1}) <= 1, f"`fuse.multiply` cannot multiply {said} channels", "BP301")
        return self.result(items, max(widths))

    def traits(self) -> Traits:
        return replace(super().traits(), pure=True)

    def build(self, layout: str) -> Any:
        from composer_blocks.modules.fusion import Product as Module

        return Module(self.fit, layout)
