"""`composer export NAME --netron FILE.onnx`: the network as its blocks, for netron to draw.

A file with every operator of torch is a thousand nodes that nobody wrote. This one has a node for each block that runs:
its type is the name of the block (`norm/batch` for `norm.batch`), its name the address, its attributes are the options,
and every edge has its type. They are of the domain `composer`: the file is for looking at, not for running (`--onnx`
is). It holds no weights, and making it allocates none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from composer.dims import Size, at, symbols_of
from composer.exporters.wanting import wanted
from composer.inference import Program, Step, is_move
from composer.liveness import ids_of, needed
from composer.types import Type

DOMAIN = "composer"


class NetronExporter:
    """Writes an ONNX file with one node per block."""

    structure_only = True

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        wanted("onnx")
        import onnx

        program = network.blueprint.optimized()
        present = frozenset(i.name for i in program.inputs if i.optional and i.name in options["shapes"])
        program = program.alternatives.get(present, program)
        counts = {name: p.numel() for name, p in network.named_parameters()}
        path.write_bytes(_Drawn(program, options["shapes"], counts).model(onnx).SerializeToString())
        return None


class _Drawn:
    """A program as nodes and typed edges. Changes of memory layout are no blocks: their value is their input's."""

    def __init__(self, program: Program, shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]):
        self.program = program
        self.inputs = [i for i in program.inputs if i.name in shapes]
        self.env = dict(program.built)
        for spec in self.inputs:
            self.env |= dict(zip(spec.axes, shapes[spec.name][2:], strict=False))
        self.outputs = [o for o in program.outputs if not o.training]
        live = needed(program.steps, [i for o in self.outputs for i in ids_of(o.ids)])
        self.steps = [s for s in program.steps if live & set(s.outputs) and not s.unused]
        self.owned = _owned({s.module for s in self.steps}, counts)
        self.same = {n: s.reads[0] for s in self.steps if _is_alias(s) for n in s.outputs}
        self.names = {i.id: i.name for i in program.inputs}
        for step in self.steps:
            keys = step.keys or ("",)
            for number, key in zip(step.outputs, keys, strict=True):
                self.names[number] = _unused(f"{step.address}:{key}" if key != "" else step.address, self.names)

    def model(self, onnx: Any) -> Any:
        helper = onnx.helper
        nodes = [helper.make_node(**n) for n in self.nodes()]
        ends = list(self.ends())
        nodes += [helper.make_node("output", [source], [name], name=name, domain=DOMAIN) for name, source, _ in ends]
        given = [self.edge(onnx, i.name, i.type) for i in self.inputs]
        made = [self.edge(onnx, name, type_) for name, _, type_ in ends]
        between = [
            self.edge(onnx, self.names[n], self.program.values[n].type)
            for s in self.steps if not _is_alias(s) for n in s.outputs
        ]  # fmt: skip
        blueprint = self.program.graph.blueprint
        graph = helper.make_graph(nodes, blueprint.name, given, made, doc_string=blueprint.summary, value_info=between)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, producer_name="composer", opset_imports=opsets, ir_version=8)

    def value(self, number: int) -> str:
        """The name of a value, through changes of layout; one that is only a type, which nobody makes, has none."""
        while number in self.same:
            number = self.same[number]
        return self.names.get(number, "")

    def nodes(self) -> Iterator[dict[str, Any]]:
        for step in self.steps:
            if not _is_alias(step):
                yield {
                    "op_type": step.block.name.replace(".", "/"),  # netron shows what is behind the last dot only
                    "inputs": [self.value(n) for n in step.reads],
                    "outputs": [self.names[n] for n in step.outputs],
                    "name": step.address,
                    "domain": DOMAIN,
                    "doc_string": f"{step.span.source.name.rpartition('/')[2]}:{step.span.line}" if step.span else "",
                    **dict(self.attributes(step)),
                }

    def attributes(self, step: Step) -> Iterator[tuple[str, Any]]:
        """Options as ONNX knows them: numbers, texts and lists of one of these; anything else as a text."""
        slots = step.block.slots
        for name in type(step.block).model_fields:
            value = getattr(step.block, name)
            if name not in slots and value is not None:
                yield _free(name), _plain(value)
        if owned := self.owned.pop(step.module, 0):
            yield "parameters", owned

    def ends(self) -> Iterator[tuple[str, str, Type]]:
        """Outputs: their names, the values they are, and their types."""
        for output in self.outputs:
            ids = ids_of(output.ids)
            for k, number in enumerate(ids):
                end = output.name if len(ids) == 1 else f"{output.name}.{k}"
                taken = end in self.names.values()
                yield f"{end} (output)" if taken else end, self.value(number), self.program.values[number].type

    def edge(self, onnx: Any, name: str, type_: Type) -> Any:
        shape = ["B", *map(self.number, axes_of(type_))]
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    def number(self, size: Size) -> int | str:
        known = symbols_of(size) <= set(self.env)
        return int(at(size, self.env)) if known else str(size)


def axes_of(type_: Type) -> tuple[Size, ...]:
    """The axes of a value after the batch: channels first for a map, last for what is a sequence."""
    if type_.kind == "map":
        return (type_.channels, *type_.grid)
    return (type_.channels,) if type_.kind in ("vector", "unknown") else (type_.length, type_.channels)


def _is_alias(step: Step) -> bool:
    """Whether a step only lays out its input in another way, or takes it apart again."""
    return is_move(step.address) and len(step.reads) == 1


def _owned(modules: set[str], counts: Mapping[str, int]) -> Counter[str]:
    """Parameters by the module that holds them; where it runs twice they are shown at the first time."""
    found = Counter[str]()
    for name, count in counts.items():
        at = name
        while at and at not in modules:
            at = at.rpartition(".")[0]
        found[at] += count
    return found


def _unused(name: str, names: Mapping[int, str]) -> str:
    """The name, numbered where its node runs once more: ONNX has a name for every value."""
    taken, made, count = set(names.values()), name, 1
    while made in taken:
        count += 1
        made = f"{name} ({count})"
    return made


def _free(name: str) -> str:
    """`name` and the like are words of ONNX's own maker of nodes."""
    return f"{name}_" if name in ("name", "domain", "inputs", "outputs", "op_type", "doc_string", "overload") else name


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, str)):
        return value
    numbers = isinstance(value, (list, tuple)) and value and all(type(v) is type(value[0]) for v in value)
    return list(value) if numbers and type(value[0]) in (int, float, str) else str(value)
