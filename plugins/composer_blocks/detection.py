"""Detection: boxes, and what carries them from layer to layer."""

from typing import Any, ClassVar

from composer import Block, Number, Rule, Scope, Slot, Type, Value, slot


class Boxes(Block):
    """sigmoid(x + inverse sigmoid of the reference): (B, N, 2·rank) -> (B, N, 2·rank)."""

    name = "part.boxes"
    layout: ClassVar[str] = "tokens"
    weightless: ClassVar[bool] = True
    eps: Number

    def infer(self, rule: Rule, x: Type, reference: Type | None = None) -> Type:
        rule.need(x.channels % 2 == 0, f"a box has a centre and a size, an even number of channels; not {x}", "BP301")
        if reference is not None:
            text = f"the reference of {x} is a box, or its centre; not {reference}"
            rule.need(reference.channels in (x.channels, x.channels // 2), text, "BP301")
            rule.equal(x.length, reference.length, text)
        return x

    def build(self) -> Any:
        from composer_blocks.modules.detection import Boxes as Module

        return Module(self.eps)


class Constant(Block):
    """x of any shape, through which no gradient flows back."""

    name = "part.constant"
    layout: ClassVar[str] = "any"
    weightless: ClassVar[bool] = True

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def build(self) -> Any:
        import torch

        return torch.Tensor.detach


class BoxHead(Block):
    """A box for each query, (B, N, C) -> (B, N, 2·rank): centre, then size, as parts of the image from 0 to 1 (Carion
    et al., 2020, arXiv:2005.12872). The slot `mlp` makes its numbers; with `reference`, a box or its centre, they say
    how it differs from that (Zhu et al., 2021, arXiv:2010.04159). Its outputs: `boxes`, and the same as constants,
    `reference`, from which a next layer may start.

    eps       how far from 0 and 1 the numbers of the reference are held. With 0 those that are 0 or 1 stay so, whatever
              the slot says: such as the boxes of `scales.flatten` that leave the image
    """

    name = "head.boxes"
    many: ClassVar[bool] = True
    eps: Number = 1e-5
    mlp: Slot = slot(required=True, doc="makes the numbers of the box")

    def compose(self, net: Scope, x: Value, reference: Value | None = None) -> Any:
        y = net.add("boxes", Boxes(eps=self.eps), net.slot("mlp", x=x), reference=reference)
        return {"boxes": y, "reference": net.add("reference", Constant(), y)}
