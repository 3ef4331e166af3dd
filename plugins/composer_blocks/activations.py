"""Activations: they fill the slots called `act`. And dropout, which stands where they do."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

from composer import Block, Number, Rate, Rule, Traits, Type


class Activation(Block):
    """A function of each number by itself."""

    layout: ClassVar[str] = "any"
    weightless: ClassVar[bool] = True
    module: ClassVar[str] = ""
    switchable: ClassVar[bool] = False
    """Whether the module can write over its input."""
    function: ClassVar[Literal["", "relu", "leaky_relu", "gelu"]] = ""
    """What passes know it as."""

    def traits(self) -> Traits:
        switchable, function = self.switchable, self.function
        return Traits(
            in_place=switchable, from_result=switchable, function=function, tokenwise=True, pure=True, local="cells"
        )

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def build(self, x: Type) -> Any:
        from torch import nn

        return getattr(nn, self.module)()


class ReLU(Activation):
    """max(x, 0)."""

    name = "act.relu"
    function = "relu"
    module: ClassVar[str] = "ReLU"
    switchable: ClassVar[bool] = True


class GELU(Activation):
    """x·Φ(x) (Hendrycks and Gimpel, 2016, arXiv:1606.08415), with the exact error function, or with that of the paper,
    `approximate`, which is made of a hyperbolic tangent.
    """

    name = "act.gelu"
    function = "gelu"
    approximate: bool = False

    def build(self, x: Type) -> Any:
        from torch import nn

        return nn.GELU("tanh" if self.approximate else "none")


class SiLU(Activation):
    """x times its sigmoid, also known as swish (Elfwing et al., 2017, arXiv:1702.03118)."""

    name = "act.silu"
    module: ClassVar[str] = "SiLU"


class ELU(Activation):
    """x where positive, exp(x) - 1 elsewhere (Clevert et al., 2016, arXiv:1511.07289)."""

    name = "act.elu"
    module: ClassVar[str] = "ELU"
    switchable: ClassVar[bool] = True


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    name = "act.sigmoid"
    module: ClassVar[str] = "Sigmoid"


class Tanh(Activation):
    """The hyperbolic tangent."""

    name = "act.tanh"
    module: ClassVar[str] = "Tanh"


class Softplus(Activation):
    """log(1 + exp(x)) (Dugas et al., 2001)."""

    name = "act.softplus"
    module: ClassVar[str] = "Softplus"


class Softmax(Activation):
    """exp(x) over its sum along the channels, so that they add to 1; `over: grid` along the cells of each channel."""

    name = "act.softmax"
    over: Literal["channels", "grid"] = "channels"

    def wanted_layout(self, port: str) -> str:
        return "features" if self.over == "channels" else "map"

    def build(self, x: Type) -> Any:
        from torch import nn

        from composer_blocks.modules.activations import GridSoftmax

        return nn.Softmax(-1) if self.over == "channels" else GridSoftmax()


class LeakyReLU(Activation):
    """x where positive, slope · x elsewhere."""

    name = "act.leaky_relu"
    function = "leaky_relu"
    switchable: ClassVar[bool] = True
    slope: Number = 0.01

    def traits(self) -> Traits:
        """Where the slope is negative a result does not say from which side it came."""
        return replace(super().traits(), from_result=self.slope >= 0)

    def build(self, x: Type) -> Any:
        from torch import nn

        return nn.LeakyReLU(self.slope)


class PReLU(Activation):
    """Leaky ReLU with a learned slope, `shared` by all channels or one for each (He et al., 2015, arXiv:1502.01852)."""

    name = "act.prelu"
    layout: ClassVar[str] = "map"
    weightless: ClassVar[bool] = False
    shared: bool = True

    def traits(self) -> Traits:
        return Traits(local="cells", pure=True)

    def build(self, x: Type) -> Any:
        from torch import nn

        return nn.PReLU(1 if self.shared else x.channels)


class Dropout(Block):
    """Zeroes numbers (or whole `channels`) with probability `rate` while training (Srivastava et al., 2014)."""

    name = "dropout"
    weightless: ClassVar[bool] = True
    rate: Rate = 0.1
    channels: bool = False

    def wanted_layout(self, port: str) -> str:
        return "map" if self.channels else "any"

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def traits(self) -> Traits:
        return Traits(tokenwise=not self.channels, local="cells")

    def build(self, rank: int) -> Any:
        from torch import nn

        whole = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}
        return whole[rank](self.rate) if self.channels else nn.Dropout(self.rate)
