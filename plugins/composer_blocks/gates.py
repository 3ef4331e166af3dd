"""Gates: one map says how much of another passes."""

from composer import Block, Scope, Slot, Value, slot
from composer_blocks.parts import Add
from composer_blocks.resampling import Resize


class AdditiveGate(Block):
    """The attention gate of Oktay et al. (2018, arXiv:1804.03999): by how much of x to multiply,
    squash(score(act(x_project(x) + gate_project(gate)))), where `squash` is a sigmoid; x (B, C, *grid), gate
    (B, G, *coarser) -> (B, 1, *grid), or as many channels as `score` has; `fuse.multiply` lets x through.

    The gating signal is interpolated to the projected x, and the result to x, where their grids differ.
    """

    name = "gate.additive"
    x_project: Slot = slot(role="conv", doc="projects x, perhaps to a coarser grid")
    gate_project: Slot = slot(role="conv", doc="projects the gating signal to the same channels")
    act: Slot = slot("relu", doc="after the sum")
    score: Slot = slot(role="conv", required=True, doc="turns the sum into one channel, or one for each of x")
    squash: Slot = slot("sigmoid", role="act", doc="makes weights of the scores")

    def compose(self, net: Scope, x: Value, gate: Value) -> Value:
        own = net.slot("x_project", x=x)
        signal = self._resized(net, "gate_resize", net.slot("gate_project", x=gate), own)
        score = net.slot("score", x=net.slot("act", x=net.add("sum", Add(), own, signal)))
        return self._resized(net, "score_resize", net.slot("squash", x=score), x)

    def _resized(self, net: Scope, name: str, x: Value, like: Value) -> Value:
        return x if x.type.grid == like.type.grid else net.add(name, Resize(), x, like)
