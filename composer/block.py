"""What a plugin author writes: a block is its own configuration, plus one rule and one `build`.

The fields of the (frozen pydantic) model are the YAML keys. A block is one of two kinds:

* a **leaf** owns an ordinary `nn.Module`, which knows nothing of composer. Its rule is data (`shape`, see
  `composer.notation`) or a method `infer(self, rule, x, ...)` in plain arithmetic on sizes; `build` makes the module
  and asks, by name, for the axes or port types it needs, as numbers.
* a **compound** has slots and `compose(self, net, x, ...)`: it wires leaves and the blocks in its slots. It exists only
  while a network is compiled, so any attention fits any stage and nothing is left of it at run time but its address.

Mistakes in a declaration are reported when the class is defined, not when it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from composer import notation
from composer.dims import Size
from composer.frozen import dataclass
from composer.traits import Traits
from composer.types import Type

RESERVED = frozenset(
    (
        "use",
        "graph",
        "outputs",
        "from",
        "repeat",
        "for",
        "carry",
        "first",
        "last",
        "share",
        "when",
        "unused",
        "tap",
        "note",
    )
)
"""Words of the language; no block may have an option of this name."""

ALL_PORTS = "more"
"""A rule with `**more` takes any further port and offers it to its slots."""

LAYOUTS = ("map", "grid", "tokens", "features", "any")
"""How a leaf wants a port: map (B, C, *grid) · grid (B, *grid, C) · tokens (B, N, C) · features: channels in the last
axis, whatever stands between · any: it does not matter."""

Int = Annotated[int, Field(strict=True)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=False)]
Rate = Annotated[float, Field(ge=0, le=1)]
PerAxis = Positive | tuple[Positive, ...]
"""One number for every axis, or one per axis."""
PerAxisNatural = Natural | tuple[Natural, ...]
Slot = Any
"""The type of a field that holds a block not yet connected; declare it with `slot()`."""


class DeclarationError(TypeError):
    """A block class breaks the rules for blocks."""


@dataclass(frozen=True)
class SlotSpec:
    """What a slot offers and where its block stands.

    at      addresses below the owner at which the slot's block comes into being (`norm` → norm1, norm2)
    role    the prefix of short names: `norm: layer` is `norm.layer`
    offers  names the owner hands in; the first flows through
    """

    name: str
    default: Any
    at: tuple[str, ...]
    role: str
    offers: tuple[str, ...]
    required: bool


def slot(
    default: Any = None,
    *,
    at: Iterable[str] = (),
    role: str = "",
    offers: Iterable[str] = ("x",),
    required: bool = False,
    doc: str = "",
) -> Any:
    """Declare a slot; see `SlotSpec`."""
    spec: Any = {"at": list(at), "role": role, "offers": list(offers), "required": required}
    return Field(default=default, description=doc or None, json_schema_extra={"slot": spec}, validate_default=False)


class Rule(Protocol):
    """What a rule may ask and say. Sizes are ints or symbols; the answers are recorded with the node's place."""

    rank: int
    address: str

    def need(self, ok: bool, message: str, code: str = "BP400") -> bool:
        """Report `message` unless `ok`; the rule goes on, so that one run finds every mistake."""
        ...

    def equal(self, left: Size, right: Size, message: str, code: str = "BP301") -> bool:
        """Two sizes must agree: checked now, or recorded as a constraint on the input's size."""
        ...

    def multiple(self, size: Size, of: int, why: str) -> None:
        """`size` must be a multiple of `of`; `why` names the cause, such as "window"."""
        ...

    def at_least(self, size: Size, least: int, why: str) -> None:
        """`size` must be `least` or more."""
        ...

    def built(self, size: Size) -> int:
        """The number that a size has at the size the network is built for."""
        ...

    def per_axis(self, value: Any, name: str = "value") -> tuple[Any, ...]:
        """One value per axis, from one for all or one for each."""
        ...


class Value(Protocol):
    """A value while a compound is composed; it has a type and nothing else."""

    @property
    def type(self) -> Type: ...


class Scope(Rule, Protocol):
    """What a compound composes with."""

    def has(self, slot: str) -> bool:
        """Whether the slot is filled."""
        ...

    def slot(self, at: str, **offers: Any) -> Value:
        """Run the block of a slot on the values offered to it."""
        ...

    def add(self, name: str, block: Block, *values: Any, **ports: Any) -> Value:
        """Add a block of one's own under `name`, below this address ("" is this address itself)."""
        ...

    def maps(self, x: Any) -> list[Any]:
        """The maps that a value of several scales was made of; a map is its own only one."""
        ...

    def shape(self, type_: Type) -> Any:
        """A value that is only a type: for parts that need to know a size and no numbers."""
        ...

    def state(self, name: str, shape: tuple[int, ...], std: float = 0.02) -> Any:
        """A value that lives beside the main one: it starts as a parameter of the nearest enclosing `repeat`."""
        ...

    def keep(self, name: str, value: Any) -> None:
        """Hand a state on to the next copy of the nearest enclosing `repeat`."""
        ...


class Block(BaseModel):
    """A registered part of a network. Subclasses with a `name` are blocks; those without one are shared ancestors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), defer_build=True
    )

    name: ClassVar[str] = ""
    shape: ClassVar[str] = ""
    layout: ClassVar[str | Mapping[str, str]] = "map"
    gives: ClassVar[str] = ""
    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    open_ports: ClassVar[bool] = False
    lists: ClassVar[bool | tuple[str, ...]] = False
    """Whether the first port takes a list of values (`from: [a, b]`), or the names of the ports that do."""
    many: ClassVar[bool] = False
    """Whether the block has several outputs (a dict or a list of types)."""
    weightless: ClassVar[bool] = False
    """Whether the block never owns a parameter, so that it may vanish where nothing reads it."""
    of_shapes: ClassVar[bool] = False
    """Whether the block reads no numbers but only the shapes that a slot offers (`Scope.shape`), and no others."""
    stands_in: ClassVar[tuple[str, ...]] = ()
    """The only slots in which the block may stand, by name; anywhere if there are none."""
    divides: ClassVar[str] = ""
    """What people call the block where it divides a grid, such as "pool" for 32 = 2 × 2 (pools) × 8 (window)."""
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Tiny uses of the block, as data (`composer.testing.examples`), on which `composer.testing.check_block` holds its
    contract against reality. Without any they are made from the types of the options."""
    not_promised: ClassVar[Mapping[str, str]] = {}
    """Aspects of the contract (`composer.testing.ASPECTS`) that the block does not keep, each with the reason. All
    others it promises, among them: in evaluation a sample's result is the same alone and in any batch (`batch`),
    and passes neither draw a random number (`modes`) nor change a buffer (`buffers`). Mixing samples in training, as
    a batch norm does, breaks no promise."""
    signature: ClassVar[notation.Signature | None] = None
    slots: ClassVar[Mapping[str, SlotSpec]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "name" in cls.__dict__ and cls.name:
            _declare(cls)

    @property
    def compound(self) -> bool:
        return hasattr(self, "compose")

    def infer(self, *args: Any, **ports: Any) -> Any:
        """The type of the result, `infer(self, rule, x, ...)`. The default reads `shape`."""
        assert self.signature is not None
        (rule,) = args
        axes = notation.bind(self.signature, rule, ports)
        return notation.result(self.signature, self, axes, ports)

    @classmethod
    def takes_list(cls, port: str) -> bool:
        if isinstance(cls.lists, tuple):
            return port in cls.lists
        return cls.lists and port == (*cls.required, *cls.optional)[0]

    def wanted_layout(self, port: str) -> str:
        if self.signature is not None:
            pattern = self.signature.ports[port]
            return "any" if pattern.layout == "vector" else pattern.layout
        return self.layout if isinstance(self.layout, str) else self.layout.get(port, "any")

    def build_arguments(self, rule: Rule, types: Mapping[str, Type], layout: str = "flat") -> dict[str, Any]:
        """What `build` asked for, by name: axes of the notation, types of ports, `rank`, `layout` of the first port. No
        other types are looked at."""
        axes: dict[str, Any] = {} if self.signature is None else notation.bind(self.signature, rule, types)
        axes["rank"] = rule.rank
        names, others = _asked(type(self).build), {"layout": layout}
        return {n: axes[n] if n in axes else types[n] if n in types else others.get(n) for n in names}

    def traits(self) -> Traits:
        """What passes may rely on; see `composer.traits`. Nothing, unless a block says so."""
        return Traits()

    def build(self, *args: Any, **wanted: Any) -> Any:
        """The module, or for a block without parameters any picklable callable."""
        raise NotImplementedError(type(self).__name__)


Block.__annotations__.clear()
# pydantic knows by now that these are class variables, and would evaluate all of them again for every block that is
# declared: half of the time in which the shipped blocks are imported


@cache
def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """What a function takes; looking at a signature takes as long as making a small module."""
    return tuple(inspect.signature(function).parameters.values())


@cache
def _asked(build: Callable[..., Any]) -> tuple[str, ...]:
    """The names of what a `build` asks for."""
    return tuple(p.name for p in _parameters(build)[1:])


def _declare(cls: type[Block]) -> None:
    """Complete a block class and check what can be checked of it now."""
    cls.slots = dict(_slots(cls))
    clash = RESERVED & {*cls.model_fields, *(str(f.alias) for f in cls.model_fields.values() if f.alias)}
    if clash:
        raise DeclarationError(
            f"block `{cls.name}`: `{min(clash)}` is a word of the language, not a name for an option"
        )
    compose = cls.__dict__.get("compose") or getattr(cls, "compose", None)
    if cls.shape and compose is None:
        cls.signature = notation.parse(cls.shape)
        cls.required, cls.optional = tuple(cls.signature.ports), ()
        _check_options_exist(cls, cls.signature)
    else:
        _ports_from(cls, compose or cls.infer)
    _check_layouts(cls)
    if compose is None:
        _check_build(cls)


def _slots(cls: type[Block]) -> Iterable[tuple[str, SlotSpec]]:
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and isinstance(extra.get("slot"), dict):
            spec: Any = extra["slot"]
            at = tuple(spec["at"]) or (name,)
            offers = tuple(spec["offers"])
            yield name, SlotSpec(name, field.default, at, spec["role"] or name, offers, spec["required"])


def _ports_from(cls: type[Block], rule: Callable[..., Any]) -> None:
    """Ports are the parameters of the rule after `self` and the scope."""
    parameters = _parameters(rule)[2:]
    if rule is Block.infer:
        raise DeclarationError(f"block `{cls.name}` needs a `shape`, an `infer` or a `compose`")
    cls.open_ports = any(p.kind is p.VAR_KEYWORD for p in parameters)
    plain = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    cls.required = tuple(p.name for p in plain if p.default is p.empty)
    cls.optional = tuple(p.name for p in plain if p.default is not p.empty)


def _check_options_exist(cls: type[Block], signature: notation.Signature) -> None:
    for item in signature.result.items:
        for option in filter(None, (item.option, item.by)):
            if option not in cls.model_fields:
                raise DeclarationError(f"block `{cls.name}`: its shape names `{{{option}}}`, which is not an option")


def _check_layouts(cls: type[Block]) -> None:
    wanted = [cls.layout] if isinstance(cls.layout, str) else list(cls.layout.values())
    for layout in filter(None, [*wanted, cls.gives]):
        if layout not in LAYOUTS:
            raise DeclarationError(f"block `{cls.name}`: no layout `{layout}`; there are {', '.join(LAYOUTS)}")


def _check_build(cls: type[Block]) -> None:
    known = set(cls.required) | set(cls.optional) | {"rank", "layout"}
    if cls.signature is not None:
        known |= cls.signature.axes
    if cls.build is Block.build:
        raise DeclarationError(f"block `{cls.name}` has no `build`")
    for parameter in _parameters(cls.build)[1:]:
        name = parameter.name
        if name not in known and parameter.kind is not parameter.VAR_KEYWORD:
            raise DeclarationError(
                f"block `{cls.name}`: `build` asks for `{name}`, which its rule does not name; there are "
                + ", ".join(sorted(known))
            )
