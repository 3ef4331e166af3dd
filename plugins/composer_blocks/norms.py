"""Normalizations: they fill the slots called `norm`."""

from typing import Any, ClassVar, Literal

from composer import Block, Number, Positive, Rate, Rule, Traits, Type, product


class LayerNorm(Block):
    """Layer normalization over the channels of each token (Ba et al., 2016, arXiv:1607.06450); `bias: false` leaves
    out what `affine` adds after the scale."""

    name = "norm.layer"
    layout: ClassVar[str] = "features"
    eps: Number = 1e-5
    affine: bool = True
    bias: bool = True

    def infer(self, rule: Rule, x: Type) -> Type:
        return x

    def traits(self) -> Traits:
        return Traits(fresh=True, tokenwise=True, pure=True, local="cells")

    def build(self, x: Type) -> Any:
        from torch import nn

        from composer import make

        return make(nn.LayerNorm, x.channels, eps=self.eps, elementwise_affine=self.affine, bias=self.bias)


class BatchNorm(Block):
    """Batch normalization per channel (Ioffe and Szegedy, 2015, arXiv:1502.03167). `frozen`: statistics and scale are
    constants, as in detection backbones."""

    name = "norm.batch"
    eps: Number = 1e-5
    momentum: Rate = 0.1
    affine: bool = True
    frozen: bool = False

    def infer(self, rule: Rule, x: Type) -> Type:
        rule.need(self.eps > 0, f"`eps` of a batch norm is more than 0, not {self.eps}", "BP201")
        return x

    def traits(self) -> Traits:
        return Traits(scales=True)

    def build(self, x: Type, rank: int) -> Any:
        from composer_blocks.modules.norms import batch_norm

        return batch_norm(rank, x.channels, self.eps, self.momentum, self.affine, self.frozen)


class InstanceNorm(Block):
    """Instance normalization: each channel of each sample over its grid (Ulyanov et al., 2016, arXiv:1607.08022)."""

    name = "norm.instance"
    eps: Number = 1e-5
    affine: bool = True

    def infer(self, rule: Rule, x: Type) -> Type:
        rule.at_least(product(x.grid), 2, "instance norm needs more than one voxel")
        return x

    def traits(self) -> Traits:
        return Traits(standardizes=True, fresh=True, pure=True, statistics="channel")

    def build(self, x: Type, rank: int) -> Any:
        from composer import make
        from composer_blocks.modules.norms import INSTANCE

        return make(INSTANCE[rank], x.channels, eps=self.eps, affine=self.affine)


class GroupNorm(Block):
    """Group normalization (Wu and He, 2018, arXiv:1803.08494). `groups: channels` is one group per channel."""

    name = "norm.group"
    groups: Positive | Literal["channels"] = 32
    eps: Number = 1e-5
    affine: bool = True

    def infer(self, rule: Rule, x: Type) -> Type:
        groups = self._groups(x)
        rule.need(x.channels % groups == 0, f"{x.channels} channels do not split into {groups} groups", "BP401")
        return x

    def _groups(self, x: Type) -> int:
        return x.channels if self.groups == "channels" else int(self.groups)

    def traits(self) -> Traits:
        return Traits(standardizes=self.groups == "channels", fresh=True, pure=True, statistics="group")

    def build(self, x: Type) -> Any:
        from torch import nn

        from composer import make

        return make(nn.GroupNorm, self._groups(x), x.channels, eps=self.eps, affine=self.affine)
