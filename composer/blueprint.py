"""Stage 1: a YAML file -> a `Blueprint`: what was asked, every value with its line and column.

Nothing is resolved against blocks here. `extends` is followed, a preset and overrides are laid over the parameters,
and the parameters are typed and computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from composer import expressions, folders, locks, source
from composer.diagnostics import (
    BlueprintError,
    ComposerError,
    Diagnostic,
    Label,
    Source,
    Span,
    did_you_mean,
    listing,
    nearest,
)
from composer.frozen import dataclass
from composer.names import Names, evaluate, is_var
from composer.shipped import is_hybrid as is_hybrid
from composer.shipped import published as published
from composer.shipped import shipped as shipped
from composer.source import Map, Seq, span_of

VERSION = 1
KEYS: Mapping[str, type | tuple[type, ...]] = {
    "blueprint": int,
    "name": str,
    "summary": str,
    "source": dict,
    "extends": str,
    "requires": list,
    "params": dict,
    "presets": dict,
    "inputs": dict,
    "graph": dict,
    "outputs": dict,
    "edit": list,
    "init": list,
    "weights": (list, dict),
    "tap": list,
}
"""The keys of a document and what each holds."""
KINDS = {dict: "a mapping", list: "a list", int: "a whole number", str: "a text"}

PARAM_KEYS = frozenset(["type", "default", "min", "max", "choices", "multiple_of", "divides", "nullable", "doc"])
PARAM_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "list": (list,),
    "any": (object,),
    "block": (object,),
}
PRESET_KEYS = ("edit", "outputs", "init", "weights", "tap", "source")
"""What a preset may say beside the values of parameters."""

EDITS = ("set", "replace", "wrap", "insert_after", "remove", "add")


@dataclass(frozen=True)
class Param:
    """A typed parameter: its declaration and, after loading, its value."""

    name: str
    type: str
    default: Any
    span: Span | None
    rules: Mapping[str, Any] = field(default_factory=dict)
    doc: str = ""
    value: Any = None
    value_span: Span | None = None


@dataclass(frozen=True)
class Edit:
    """One change by address: `action` is one of `EDITS`.

    `short` ones come from a command line, where segments of an address may be left out. `layer` names the list an edit
    stands in: within one list no edit may undo another, across layers the later one wins.
    """

    at: tuple[str, ...]
    action: str
    change: Any
    span: Span | None
    short: bool = False
    layer: str = ""

    @property
    def where(self) -> str:
        return ", ".join(self.at)


@dataclass(frozen=True)
class Blueprint:
    """A blueprint as asked for: with its preset and overrides laid over it. Immutable."""

    name: str
    path: str
    summary: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Param] = field(default_factory=dict)
    presets: Mapping[str, Any] = field(default_factory=dict)
    inputs: Map = field(default_factory=Map)
    graph: Map = field(default_factory=Map)
    outputs: Map = field(default_factory=Map)
    edits: tuple[Edit, ...] = ()
    init: tuple[Any, ...] = ()
    weights: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    tap: Mapping[str, Span | None] = field(default_factory=dict)
    """Addresses of attentions whose weights the network gives (`composer.taps`), and where each is named."""
    requires: Mapping[str, Span | None] = field(default_factory=dict)
    """Distributions whose blocks it uses (`glam>=1.2`), and where each is named."""
    files: tuple[Path, ...] = ()
    library: Mapping[str, Path] = field(default_factory=dict, repr=False)
    span: Span | None = field(default=None, repr=False)
    bases: tuple[Span, ...] = field(default=(), repr=False)
    """Where each file of the chain says `extends`, the file that was asked for first."""
    lock: locks.Lock | None = field(default=None, repr=False, compare=False)
    """The lock that it was read from; it is compared with what is installed."""
    unread: tuple[Diagnostic, ...] = field(default=(), repr=False, compare=False)
    """Mistakes that stop nothing: parameters that nothing uses. They are said with those of the graph."""
    idle: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Parameters of bases that nothing uses any more."""

    @property
    def values(self) -> dict[str, Any]:
        return {name: p.value for name, p in self.params.items()}

    @property
    def names(self) -> Names:
        """The parameters, as the graph's expressions see them."""
        return Names(self.values, {n: p.value_span or p.span for n, p in self.params.items()})


def load(
    what: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    library: Mapping[str, Path] | None = None,
    near: Path | None = None,
    addresses: bool = True,
) -> Blueprint:
    """A blueprint by shipped name (`vit`), preset (`vit:large`) or path, with `key=value` overrides.

    A key that is no parameter is an address: `decoder.*.fuse=fuse.add` is an edit, unless `addresses` are refused.
    Raises `BlueprintError` with all mistakes.
    """
    library = {**shipped(), **(library or {})}
    path, preset = find(str(what), library, near)
    layers = _Layers.read(path, library, ())
    if preset and preset not in layers.presets:
        asked = str(what)
        raise BlueprintError(layers._no_preset(preset, _word(asked, len(asked) - len(preset), len(asked), "<name>")))
    layers = layers.with_preset(preset) if preset else layers
    layers = layers.with_overrides(overrides or {}, addresses)
    return layers.finish(str(what) if str(what) in library or preset else layers.name, library)


def parse(
    text: str,
    overrides: Mapping[str, Any] | None = None,
    library: Mapping[str, Path] | None = None,
    name: str = "<text>",
) -> Blueprint:
    """A blueprint by its text; `extends` and `use` find shipped names, and files beside the working directory."""
    library = {**shipped(), **(library or {})}
    layers = _Layers.of(source.parse(Source(name, text)), Path(name), library, ()).with_overrides(overrides or {})
    return layers.finish(layers.name, library)


def is_fragment(path: Path) -> bool:
    """Whether a file is a part for other blueprints and no network: its inputs have no sizes of their own."""
    try:
        inputs = source.read(path).get("inputs")
    except ComposerError:
        return False
    specs = inputs.values() if isinstance(inputs, dict) else ()
    types = [s.get("type") if isinstance(s, dict) else s for s in specs]
    return any(t in ("map", "any") for t in types)


def find(what: str, library: Mapping[str, Path], near: Path | None = None) -> tuple[Path, str]:
    """The file a name stands for, and the preset; of a folder the blueprint in it."""
    for name, preset in ((what, ""), tuple(what.rpartition(":")[::2])):
        if not name:
            continue
        if name in library:
            return library[name], preset
        local = (near or Path()) / name
        if _looks_like_a_path(name) and (local.exists() or (not preset and ":" not in what)):
            return folders.blueprint_of(local), preset
    name = what.split(":")[0]
    close = nearest(name, library)
    help = [f"did you mean `{close[0]}`?"] if close else []
    raise BlueprintError(
        Diagnostic(
            "BP105",
            f"there is no blueprint `{name}`, and no such file",
            _word(what, 0, len(name), "<name>"),
            notes=(f"shipped: {listing(library)}",),
            help=(*help, "give a name from `composer list`, or the path of a .yaml file"),
        )
    )


def _looks_like_a_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or os.sep in name or Path(name).exists()


@dataclass(frozen=True)
class _Layers:
    """A document while bases, a preset and overrides are laid over each other."""

    name: str
    path: Path
    top: Map
    params: Mapping[str, tuple[Any, Span | None]]
    given: Mapping[str, tuple[Any, Span | None]]
    presets: Mapping[str, Any]
    inputs: Map
    graph: Map
    outputs: Map
    edits: tuple[Edit, ...]
    init: tuple[Any, ...]
    weights: Mapping[str, tuple[Any, ...]]
    files: tuple[Path, ...]
    requires: Mapping[str, Span | None]
    tap: Mapping[str, Span | None] = field(default_factory=dict)
    bases: tuple[Span, ...] = ()
    lock: locks.Lock | None = None

    @staticmethod
    def read(path: Path, library: Mapping[str, Path], chain: tuple[Path, ...]) -> _Layers:
        return _Layers.of(source.read(path), path, library, chain)

    @staticmethod
    def of(top: Map, path: Path, library: Mapping[str, Path], chain: tuple[Path, ...]) -> _Layers:
        """A document that was read, laid over those it extends. Of a lock, the blueprint in it."""
        lock = locks.read(top) if locks.is_lock(top) else None
        top = top if lock is None else lock.graph
        _check_document(top, path)
        own = _Layers(
            name=str(top.get("name") or path.stem),
            path=path,
            top=top,
            params={k: (v, span_of(top["params"], k)) for k, v in (top.get("params") or {}).items()},
            given={},
            presets=top.get("presets") or {},
            inputs=top.get("inputs") or Map(),
            graph=top.get("graph") or Map(),
            outputs=top.get("outputs") or Map(),
            edits=_edits(top.get("edit"), str(path)),
            init=tuple(top.get("init") or ()),
            weights=_rules(top.get("weights")),
            files=(path,),
            requires=_requires(top),
            tap=_addresses(top),
            lock=lock,
        )
        return own._over_base(library, chain) if top.get("extends") else own

    def _over_base(self, library: Mapping[str, Path], chain: tuple[Path, ...]) -> _Layers:
        span = span_of(self.top, "extends")
        try:
            path, preset = find(self.top["extends"], library, self.path.parent)
        except BlueprintError as fault:
            advice = [f"it may be in `{w}`, which `requires:` names" for w in self.requires]
            raise BlueprintError(replace(fault.diagnostics[0], span=span).with_help(*advice)) from None
        seen = (*chain, self.path.resolve())
        if path.resolve() in seen:
            files = " -> ".join(p.name for p in (*seen, path))
            raise BlueprintError(Diagnostic("BP109", f"`extends` goes in a circle: {files}", span))
        try:
            base = _Layers.read(path, library, seen)
        except BlueprintError as fault:
            raise BlueprintError(_seen_from(d, span) for d in fault.diagnostics) from None
        if preset and preset not in base.presets:
            raise BlueprintError(base._no_preset(preset, span))
        return (base.with_preset(preset) if preset else base)._under(self)

    def _under(self, child: _Layers) -> _Layers:
        """This base with a child laid over it."""
        params, given = dict(self.params), dict(self.given)
        for name, (value, span) in child.params.items():
            long = isinstance(value, dict) and "default" in value and set(value) <= PARAM_KEYS
            if name in params and not long:
                given[name] = (value, span)
            else:
                params[name] = (value, span)
                given.pop(name, None)
        taken = {k for k, v in child.presets.items() if v is None and k in self.presets}  # `preset: null` takes it away
        presets = {k: v for k, v in {**self.presets, **child.presets}.items() if k not in taken}
        sources = [*child.weights, *(s for s in self.weights if s not in child.weights)]
        return replace(
            child,
            params=params,
            given=given,
            presets=presets,
            inputs=joined(self.inputs, child.inputs),
            graph=self.graph,
            outputs=child.outputs or self.outputs,
            edits=self.edits + child.edits,
            init=child.init + self.init,
            weights={s: child.weights.get(s, ()) + self.weights.get(s, ()) for s in sources},
            files=self.files + child.files,
            requires={**self.requires, **child.requires},
            tap=child.tap if "tap" in child.top else self.tap,
            bases=(*filter(None, [span_of(child.top, "extends")]), *self.bases),
            top=self._top_under(child.top),
        )

    def _top_under(self, top: Map) -> Map:
        """What stands at the top of a child's file, over what it inherits of this one's."""
        made = joined(Map({k: v for k, v in self.top.items() if k in ("source", "summary")}), top)
        return _sourced(made, self.top.get("source"), top.get("source"))

    def with_preset(self, preset: str) -> _Layers:
        if preset not in self.presets:
            raise BlueprintError(self._no_preset(preset))
        chosen: Any = self.presets[preset] or Map()
        if not isinstance(chosen, dict):
            raise BlueprintError(
                Diagnostic("BP201", f"the preset `{preset}` must be a mapping", span_of(self.presets, preset))
            )
        values = {k: (v, span_of(chosen, k)) for k, v in chosen.items() if k not in PRESET_KEYS}
        self._check_known(values, f"the preset `{preset}` sets")
        rules = _rules(chosen.get("weights"))
        return replace(
            self,
            given={**self.given, **values},
            edits=self.edits + _edits(chosen.get("edit"), f"{self.path}:{preset}"),
            outputs=joined(self.outputs, _more_outputs(_as_map(chosen), preset)),
            init=tuple(chosen.get("init") or ()) + self.init,
            weights={s: rules.get(s, ()) + self.weights.get(s, ()) for s in {**rules, **self.weights}},
            tap=_addresses(chosen) if "tap" in chosen else self.tap,
            top=_sourced(self.top, self.top.get("source"), chosen.get("source")),
        )

    def _no_preset(self, preset: str, asked: Span | None = None) -> Diagnostic:
        known = f"it has {listing(self.presets, 20)}" if self.presets else "it has none"
        text = f"`{self.name}` has no preset `{preset}`{did_you_mean(preset, self.presets)}"
        there = span_of(self.top, "presets")
        others = (Label(there, "its presets"),) if asked and there else ()
        return Diagnostic("BP105", text, asked or there, others=others, notes=(known,))

    def with_overrides(self, overrides: Mapping[str, Any], addresses: bool = True) -> _Layers:
        """Parameters by name, and where a key is none, parts by address."""
        if self.lock is not None and overrides:
            raise BlueprintError(self._is_fixed(overrides))
        values, edits, nodes = {}, [], self._nodes() if addresses else {}
        for key, value in overrides.items():
            if "." in key or (key not in self.params and key in nodes):
                edits.append(_override(key, value, overrides))
            else:
                values[key] = (value, span_of(overrides, key))
        self._check_known(values, "there is", "no parameter", nodes)
        return replace(self, given={**self.given, **values}, edits=self.edits + tuple(edits))

    def _is_fixed(self, overrides: Mapping[str, Any]) -> Diagnostic:
        key = next(iter(overrides))
        text = f"`{self.path.name}` is a lock, in which nothing can be set: `{key}` is given"
        name = self.lock.of[0] if self.lock is not None else self.name
        help = (f"set it where the lock is made: `composer lock {name} {key}=… -o {self.path.name}`",)
        return Diagnostic("BP657", text, span_of(overrides, key), help=help)

    def _nodes(self) -> dict[str, Any]:
        """The nodes of the outermost graph, with those that edits bring."""
        brought = [e.change for e in self.edits if e.action in ("add", "insert_after")]
        return {name: spec for nodes in (self.graph, *brought) for name, spec in nodes.items()}

    def _check_known(
        self, values: Mapping[str, Any], start: str, what: str = "an unknown parameter", nodes: Iterable[str] = ()
    ) -> None:
        bad = [
            Diagnostic(
                "BP105",
                f"{start} {what} `{key}`{did_you_mean(key, self.params) or did_you_mean(key, nodes)}",
                span,
                notes=(f"parameters: {listing(self.params)}",),
            )
            for key, (_, span) in values.items()
            if key not in self.params
        ]
        if bad:
            raise BlueprintError(bad)

    def finish(self, name: str, library: Mapping[str, Path]) -> Blueprint:
        params = _computed({k: _param(k, *v) for k, v in self.params.items()}, self.given)
        blueprint = Blueprint(
            name=name,
            path=str(self.path),
            summary=str(self.top.get("summary") or ""),
            source=dict(self.top.get("source") or {}),
            params=params,
            presets=self.presets,
            inputs=self.inputs,
            graph=self.graph,
            outputs=self.outputs,
            edits=self.edits,
            init=self.init,
            weights=self.weights,
            tap=self.tap,
            requires=self.requires,
            files=self.files,
            library=library,
            span=self.top.key_spans.get("blueprint"),
            bases=self.bases,
            lock=self.lock,
        )
        _check_complete(blueprint, self)
        weights = {
            source: tuple(_evaluated(r, blueprint.names) for r in rules) for source, rules in self.weights.items()
        }
        init = tuple(_evaluated(r, blueprint.names) for r in self.init)
        return replace(blueprint, weights=weights, init=init, **_unused(blueprint, self))


def _requires(top: Map) -> dict[str, Span | None]:
    """The distributions a file requires, and where it says so."""
    wanted = top.get("requires") or []
    return dict(zip(map(str, wanted), getattr(wanted, "item_spans", None) or [None] * len(wanted), strict=False))


def _addresses(top: Mapping[str, Any]) -> dict[str, Span | None]:
    """The addresses that a document or a preset lists under `tap`, and where."""
    items = top.get("tap") or []
    listed = items if isinstance(items, list) else [items]
    for k, item in enumerate(listed):
        if not isinstance(item, str) or not all(item.split(".")):
            text = f"`tap` lists addresses such as `blocks.*.attention`, not {item!r:.60}"
            raise BlueprintError(Diagnostic("BP201", text, span_of(listed, k) or span_of(top, "tap")))
    return {item: span_of(listed, k) for k, item in enumerate(listed)}


def _seen_from(mistake: Diagnostic, span: Span | None) -> Diagnostic:
    """A mistake in a file that is extended, with the place that extends it."""
    if span is None or mistake.span is None:
        return replace(mistake, span=mistake.span or span)
    return replace(mistake, others=(*mistake.others, Label(span, "extended here")))


def _override(key: str, value: Any, overrides: Mapping[str, Any]) -> Edit:
    """`decoder.*.fuse=fuse.add`: an option, a slot or a node by its address."""
    span = span_of(overrides, key)
    if not all(key.split(".")):
        raise BlueprintError(Diagnostic("BP201", f"`{key}` is no address: a name is missing beside a dot", span))
    at, dot, last = key.rpartition(".")
    place = overrides.key_spans.get(key) if isinstance(overrides, Map) else None
    layer = "<command line>"
    if not dot:
        gone = value is None
        return Edit((last,), "remove" if gone else "replace", gone or value, span, True, layer)
    change = Map({last: value}, key_spans={last: place} if place else {}, value_spans={last: span} if span else {})
    return Edit((at,), "set", change, place or span, True, layer)


def _check_document(top: Map, path: Path) -> None:
    """Keys, their kinds, and the language version."""
    bad = []
    for key, value in top.items():
        if key not in KEYS:
            text = f"unknown key `{key}`{did_you_mean(key, KEYS)}"
            bad.append(Diagnostic("BP101", text, top.key_spans.get(key), notes=(f"keys: {listing(KEYS, 20)}",)))
        elif value is not None and (not isinstance(value, KEYS[key]) or isinstance(value, bool)):
            wanted = KEYS[key]
            kinds = wanted if isinstance(wanted, tuple) else (wanted,)
            names = " or ".join(KINDS[k] for k in kinds)
            bad.append(Diagnostic("BP201", f"`{key}` must be {names}, not {value!r:.60}", span_of(top, key)))
    if "blueprint" not in top:
        bad.append(
            Diagnostic(
                "BP101", "this is not a blueprint: the key `blueprint: 1` is missing", top.span, help=("add it",)
            )
        )
    elif top["blueprint"] != VERSION and not bad:
        text = f"language version {top['blueprint']} is not known; this Composer reads version {VERSION}"
        bad.append(Diagnostic("BP101", text, span_of(top, "blueprint")))
    presets = top.get("presets")
    for name, preset in presets.items() if isinstance(presets, dict) else ():
        if preset is not None and not isinstance(preset, dict):
            bad.append(Diagnostic("BP201", f"the preset `{name}` must be a mapping", span_of(presets, name)))
    if "extends" in top and "graph" in top:
        text = "a blueprint that extends another changes its graph by `edit`"
        bad.append(Diagnostic("BP101", text, top.key_spans.get("graph"), others=(Label(top.key_spans["extends"], ""),)))
    if bad:
        raise BlueprintError(bad)


def _check_complete(blueprint: Blueprint, layers: _Layers) -> None:
    for key in ("inputs", "graph", "outputs"):
        if not getattr(blueprint, key):
            raise BlueprintError(Diagnostic("BP101", f"the key `{key}` is missing", layers.top.span))


def _unused(blueprint: Blueprint, layers: _Layers) -> dict[str, Any]:
    """The parameters that nothing uses. A base answers for its own: an edit may have removed the part that used one."""
    used, bases = _names_used(layers), {str(file) for file in layers.files[:-1]}
    others = [n for n in blueprint.params if n in used]
    unread, idle = [], []
    for name, param in blueprint.params.items():
        if name in used:
            continue
        if param.span and param.span.source.name in bases:
            idle.append(name)
        else:
            text = f"nothing uses the parameter `{name}`{did_you_mean(name, others)}"
            unread.append(Diagnostic("BP108", text, param.span, help=("remove it",)))
    return {"unread": tuple(unread), "idle": tuple(idle)}


def _names_used(layers: _Layers) -> set[str]:
    texts: list[Any] = [layers.inputs, layers.graph, layers.outputs, list(layers.init), list(layers.weights.values())]
    texts += [e.change for e in layers.edits]
    texts += [p.get(k) for p in layers.presets.values() if isinstance(p, dict) for k in ("edit", "outputs")]
    texts += [[v for v, _ in layers.params.values()], [v for v, _ in layers.given.values()]]
    return expressions.names_in(texts) | {n for text in _strings(texts) for n in _type_names(text)}


def _type_names(text: str) -> list[str]:
    """The names in a type such as `B $channels *S`."""
    words = text.split() if text.startswith("B ") else []
    return [w[1:] for w in words if w.startswith("$")]


def _strings(value: Any) -> Iterable[str]:
    """Every text in nested data; what an alias repeats is walked once."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)


def joined(base: Map, child: Map) -> Map:
    """Two mappings as one, the second over the first, with their places."""
    result = Map({**base, **child})
    for part in (base, child):
        result.span = getattr(part, "span", None) or getattr(result, "span", None)  # type: ignore[assignment]
        result.key_spans = {**getattr(result, "key_spans", {}), **getattr(part, "key_spans", {})}
        result.value_spans = {**getattr(result, "value_spans", {}), **getattr(part, "value_spans", {})}
    return result


def _sourced(top: Map, base: Any, child: Any) -> Map:
    """The top of a file whose `source` is that of a child: how it learns (`training`) is said key by key over its base,
    and if that is all it says it comes from where its base comes from."""
    if not isinstance(base, dict) or not isinstance(child, dict):
        return top
    source = joined(_as_map(base if set(child) <= {"training"} else {}), _as_map(child))
    trained = [s["training"] for s in (base, child) if isinstance(s.get("training"), dict)]
    if trained:
        source["training"] = joined(_as_map(trained[0]), _as_map(trained[-1]))
    return joined(top, Map({"source": source}))


def merge_specs(base: Any, change: Any) -> Any:
    """`change` laid over `base`, deeply; a mapping that names another block replaces instead of merging."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if ("use" in change and change["use"] != base.get("use")) or ("graph" in change and "use" in base):
        return change
    result = joined(_as_map(base), _as_map(change))
    for key in change:
        if key in base:
            result[key] = merge_specs(base[key], change[key])
    return result


def _as_map(value: Mapping[str, Any]) -> Map:
    return value if isinstance(value, Map) else Map(value)


def replaced(spec: Mapping[str, Any], **values: Any) -> Map:
    """A mapping with some values set, its places kept."""
    made = joined(_as_map(spec), Map())
    made.update(values)
    return made


def without(spec: Mapping[str, Any], *keys: str) -> Map:
    """A mapping less some keys, its places kept."""
    kept = joined(_as_map(spec), Map())
    for key in keys:
        kept.pop(key, None)
    return kept


def _edits(items: Any, layer: str = "") -> tuple[Edit, ...]:
    result: list[Edit] = []
    bad: list[Diagnostic] = []
    if not isinstance(items or [], list):
        raise BlueprintError(
            Diagnostic("BP201", f"`edit` is a list of edits, not {items!r:.60}", getattr(items, "span", None))
        )
    for index, item in enumerate(items or ()):
        span = span_of(items, index)
        try:
            result.append(_edit(item, span, layer))
        except BlueprintError as fault:
            bad += fault.diagnostics
    if bad:
        raise BlueprintError(bad)
    return tuple(result)


def _edit(item: Any, span: Span | None, layer: str) -> Edit:
    if not isinstance(item, dict):
        raise BlueprintError(Diagnostic("BP201", f"an edit is a mapping, not {item!r:.60}", span))
    for key in item:
        if key not in ("at", "note", *EDITS):
            text = f"an edit has no `{key}`{did_you_mean(key, EDITS)}"
            raise BlueprintError(Diagnostic("BP101", text, item.key_spans.get(key) if isinstance(item, Map) else span))
    actions = [a for a in EDITS if a in item]
    if len(actions) != 1:
        said = listing(actions) if actions else "none"
        raise BlueprintError(Diagnostic("BP201", f"an edit has one of {listing(EDITS)}; this one has {said}", span))
    action = actions[0]
    if (action == "add") == ("at" in item):
        text = "`add` takes no `at`" if action == "add" else "an edit needs `at`: an address or a list of addresses"
        raise BlueprintError(Diagnostic("BP201", text, span))
    kinds = (dict, str) if action == "replace" else (bool,) if action == "remove" else (dict,)
    if not isinstance(item[action], kinds):
        wanted = {"replace": "a block", "remove": "true"}.get(action, "a mapping")
        text = f"`{action}` of an edit is {wanted}, not {item[action]!r:.60}"
        raise BlueprintError(Diagnostic("BP201", text, span_of(item, action) or span))
    if action == "wrap" and "$original" not in _strings(item[action]):
        text = "a `wrap` says by `$original` where the part goes that stood here; this one does not"
        help = ("write for example `wrap: {graph: {before: $original, then: …}}`", "to put something else: `replace`")
        raise BlueprintError(Diagnostic("BP201", text, span_of(item, action) or span, help=help))
    at = item.get("at", [])
    return Edit(tuple(map(str, at if isinstance(at, list) else [at])), action, item[action], span, layer=layer)


def _more_outputs(preset: dict[Any, Any], name: str) -> Map:
    """The outputs that a preset has beside the others."""
    outputs = preset.get("outputs") or Map()
    if not isinstance(outputs, Map):
        text = f"`outputs` of the preset `{name}` must be a mapping from names to references"
        raise BlueprintError(Diagnostic("BP201", text, span_of(preset, "outputs")))
    return outputs


def _evaluated(rule: Any, names: Names) -> Any:
    """A rule of weights or of `init` with its expressions replaced: official names may count on from a parameter."""
    if not isinstance(rule, Map) or not any(map(expressions.is_expression, rule.values())):
        return rule
    return joined(rule, Map(evaluate(dict(rule), names, rule.span)))


def _rules(weights: Any) -> dict[str, tuple[Any, ...]]:
    """`weights:` is a list of rules, or a mapping of such lists by where a checkpoint comes from."""
    if weights is None:
        return {}
    return (
        {str(k): tuple(v) if isinstance(v, list) else (v,) * (v is not None) for k, v in weights.items()}
        if isinstance(weights, dict)
        else {"official": tuple(weights)}
    )


def _param(name: str, spec: Any, span: Span | None) -> Param:
    if not isinstance(spec, dict) or not ("default" in spec or "type" in spec) or set(spec) - PARAM_KEYS:
        if isinstance(spec, dict) and "use" not in spec and "graph" not in spec:
            odd = [k for k in spec if k not in PARAM_KEYS]
            text = f"the parameter `{name}` needs a `default` or a `type`"
            if odd:
                text = f"the parameter `{name}` has an unknown key `{odd[0]}`{did_you_mean(odd[0], PARAM_KEYS)}"
            raise BlueprintError(Diagnostic("BP101", text, span, notes=(f"keys: {listing(sorted(PARAM_KEYS))}",)))
        return Param(name, type_of(spec), spec, span)
    type_ = str(spec.get("type") or type_of(spec.get("default")))
    if type_ not in PARAM_TYPES:
        text = f"the parameter `{name}` has no type `{type_}`{did_you_mean(type_, PARAM_TYPES)}"
        raise BlueprintError(
            Diagnostic("BP201", text, span_of(spec, "type"), notes=(f"types: {listing(PARAM_TYPES)}",))
        )
    rules = {k: v for k, v in spec.items() if k in ("min", "max", "choices", "multiple_of", "divides", "nullable")}
    default = spec.get("default", _MISSING)
    return Param(name, type_, default, span_of(spec, "default") or span, rules, str(spec.get("doc") or ""))


_MISSING = object()


def type_of(default: Any) -> str:
    """The type of a parameter by its default."""
    if default is None or expressions.is_expression(default):
        return "any"
    if isinstance(default, bool):
        return "bool"
    for name, type_ in (("int", int), ("float", float), ("str", str), ("list", list)):
        if isinstance(default, type_):
            return name
    return "block"


def _computed(params: dict[str, Param], given: Mapping[str, tuple[Any, Span | None]]) -> dict[str, Param]:
    """Every parameter with its value; they may be computed from each other in any order."""
    done: dict[str, Param] = {}
    bad: list[Diagnostic] = []
    circular: set[str] = set()

    def value(name: str, asking: tuple[str, ...]) -> Any:
        if name in done:
            return done[name].value
        if name in asking:
            circular.update(asking)
            text = f"parameters are computed in a circle: {' -> '.join((*asking, name))}"
            raise BlueprintError(Diagnostic("BP109", text, params[name].span))
        param = params[name]
        raw, span = given.get(name, (param.default, param.span))
        if raw is _MISSING:
            raise BlueprintError(Diagnostic("BP202", f"the parameter `{name}` needs a value", param.span))
        done[name] = replace(param, value=compute(param, raw, span, (*asking, name)), value_span=span)
        return done[name].value

    def compute(param: Param, raw: Any, span: Span | None, asking: tuple[str, ...]) -> Any:
        if param.type == "block":
            if (other := is_var(raw)) in params:
                value(other, asking)  # it stays a name; but a circle of names has no end
            return raw
        lazy = {n: value(n, asking) for n in expressions.names_in(raw) if n in params}
        rules = {k: _rule_value(k, r, param, params, value, asking) for k, r in param.rules.items()}
        result = evaluate(raw, Names(lazy), span)
        return _checked(param, result, rules, span)

    for name in params:
        if name in circular:  # said once for all of the circle
            continue
        try:
            value(name, ())
        except ComposerError as fault:
            bad += [d for d in fault.diagnostics if d not in bad]
    if bad:
        raise BlueprintError(bad)
    return {name: done[name] for name in params}


def _rule_value(
    key: str, rule: Any, param: Param, params: Mapping[str, Param], value: Any, asking: tuple[str, ...]
) -> Any:
    """What `min`, `choices` … of a parameter stand for, checked to be of a kind that can be compared with."""
    found = evaluate(rule, Names({n: value(n, asking) for n in expressions.names_in(rule) if n in params}), param.span)
    wanted = {"choices": "a list", "nullable": "true or false"}.get(key, "a number")
    whole = key in ("multiple_of", "divides")
    numbers = found if key == "divides" and isinstance(found, list) else [found]
    good = {
        "a list": isinstance(found, list),
        "true or false": isinstance(found, bool),
        "a number": all(_is_of_type(n, "int" if whole else "float") and not isinstance(n, list) for n in numbers),
    }[wanted]
    if not good or (key == "multiple_of" and not found):
        text = f"`{key}` of the parameter `{param.name}` must be {wanted}, not {found!r:.40}"
        raise BlueprintError(Diagnostic("BP201", text, param.span))
    return found


def _checked(param: Param, value: Any, rules: Mapping[str, Any], span: Span | None) -> Any:
    """The value of a parameter, or what is wrong with it."""
    said = f"the parameter `{param.name}` = {value!r}"

    def refuse(why: str) -> BlueprintError:
        notes = (param.doc,) if param.doc else ()
        declared = param.span if span and param.span and param.span.source != span.source else None
        others = (Label(declared, f"`{param.name}` is declared here"),) if declared else ()
        return BlueprintError(Diagnostic("BP201", f"{said} {why}", span, others=others, notes=notes))

    if value is None and (rules.get("nullable") or not param.rules):
        return None
    if not _is_of_type(value, param.type):
        raise refuse(f"must be {param.type}" + (" or null" if rules.get("nullable") else ""))
    items = [v for v in _flat(value) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if "choices" in rules and value not in rules["choices"]:
        raise refuse(f"must be one of {listing(rules['choices'])}")
    for item in items:
        if "min" in rules and item < rules["min"]:
            raise refuse(f"must be at least {rules['min']}")
        if "max" in rules and item > rules["max"]:
            raise refuse(f"must be at most {rules['max']}")
        if "multiple_of" in rules and item % rules["multiple_of"]:
            raise refuse(f"must be a multiple of {rules['multiple_of']}")
        if "divides" in rules and (not item or any(d % item for d in _flat(rules["divides"]))):
            raise refuse(f"must divide {rules['divides']}")
    return value


def _is_of_type(value: Any, name: str) -> bool:
    """Numbers may stand for one axis or, as lists, for each: `patch: 16` and `patch: [2, 4, 4]` are one type."""
    if name == "any":
        return True
    if isinstance(value, list) and name in ("int", "float", "bool"):
        return all(_is_of_type(v, name) for v in value)
    if name == "list" and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return not isinstance(value, str)
    wanted = PARAM_TYPES[name]
    return isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)


def _flat(value: Any) -> Iterable[Any]:
    return [x for v in value for x in _flat(v)] if isinstance(value, list) else [value]


def parse_overrides(pairs: Iterable[str]) -> Map:
    """`key=value` words of a command line; values are YAML, so lists and nulls work and a mistake has a place."""
    result = Map()
    lines: list[tuple[str, str]] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BlueprintError(
                Diagnostic(
                    "BP201",
                    f"`{pair}` is not key=value",
                    _word(pair, 0, len(pair)),
                    help=("write for example `dim=48` or `size=[96,96]`",),
                )
            )
        if key.strip() in (k for k, _ in lines):
            text = f"`{key.strip()}` is given twice"
            raise BlueprintError(Diagnostic("BP201", text, _word(pair, 0, len(key)), help=("give it once",)))
        lines.append((key.strip(), value))
    for key, value in lines:
        parsed = source.parse(Source("<command line>", f'"value": {value}'))
        result[key] = parsed["value"]
        word, split = f"{key}={value}", len(key)
        result.key_spans[key], result.value_spans[key] = _word(word, 0, split), _word(word, split + 1, len(word))
    return result


def arguments(given: Mapping[str, Any]) -> Map:
    """Overrides of a call in Python: the same as on a command line, with values as they are."""
    if isinstance(given, Map):
        return given
    result = Map(given)
    for key, value in given.items():
        word = f"{key}={value!r:.200}"
        result.key_spans[key] = _word(word, 0, len(key), "<arguments>")
        result.value_spans[key] = _word(word, len(key) + 1, len(word), "<arguments>")
    return result


def _word(text: str, start: int, end: int, of: str = "<command line>") -> Span:
    """A part of one word of a command line, or of one argument."""
    return Span(Source(of, text), 1, start + 1, 1, max(start + 2, end + 1))


__all__ = [
    "Blueprint",
    "Edit",
    "Param",
    "Seq",
    "find",
    "is_fragment",
    "load",
    "merge_specs",
    "parse",
    "parse_overrides",
    "shipped",
    "type_of",
    "without",
]
