"""A lock as it is read: a resolved network, and what it was made with; every value with its line and column.

    lock: 1                    the version of this format
    content: {graph: 3f0c…}    a hash of each section, so that a change by hand and a cut-off file are seen
    composer: 0.1.0
    of: {blueprint: unet, overrides: {classes: 4}}
    distributions: {blueprint-composer: {version: 0.1.0, blocks: [conv, norm.batch]}}
    blocks: {conv: {hash: bdf38fe2104daee9, ports: …, options: …, slots: …}}
    params: {classes: 4}       the parameters, resolved
    sizes: […]                 what it asks of the sizes of its inputs
    types: {stem: "(B, 32, H, W)"}
    graph: {blueprint: 1, …}   the blueprint in full (`composer.flat`), which loads like any other

Reading checks the file against itself only; `composer.locking` compares it with what is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from composer.diagnostics import BlueprintError, Diagnostic, Span, listing
from composer.frozen import dataclass
from composer.source import Map, span_of

FORMAT = 1
SECTIONS: Mapping[str, type] = {
    "composer": str, "of": dict, "distributions": dict, "blocks": dict, "params": dict, "sizes": list,
    "types": dict, "graph": dict,
}  # fmt: skip
"""What a lock has beside its format and the hashes, and what each section holds."""
WORDS: Mapping[type, str] = {dict: "a mapping", list: "a list", str: "a text"}
AGAIN = "make it again: `composer lock {} -o {}`"


@dataclass(frozen=True)
class Lock:
    """A lock whose content is as it was written. `top` is the whole document, with places."""

    top: Map

    @property
    def composer(self) -> str:
        return str(self.top["composer"])

    @property
    def of(self) -> tuple[str, Map]:
        """The blueprint it was made of, and the overrides."""
        asked = self.top["of"]
        return str(asked["blueprint"]), asked.get("overrides") or Map()

    @property
    def distributions(self) -> Map:
        return self._section("distributions")

    @property
    def blocks(self) -> Map:
        return self._section("blocks")

    @property
    def params(self) -> Map:
        return self._section("params")

    @property
    def types(self) -> Map:
        return self._section("types")

    @property
    def graph(self) -> Map:
        return self._section("graph")

    @property
    def sizes(self) -> list[str]:
        return list(map(str, self.top["sizes"]))

    def _section(self, name: str) -> Map:
        section: Map = self.top[name]
        return section

    def span(self, *keys: str) -> Span | None:
        """Where the key at the end of this path stands, or the last one there is."""
        found: Span | None = None
        here: Any = self.top
        for key in keys:
            if not isinstance(here, Map) or key not in here:
                break
            found, here = here.key_spans.get(key, found), here[key]
        return found

    def again(self) -> str:
        """How to make the lock again."""
        import json
        import shlex

        name, overrides = self.of
        given = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in overrides.items()]
        words = " ".join(map(shlex.quote, [name, *given]))
        return AGAIN.format(words, self.top.span.source.name.rpartition("/")[2] or "FILE.lock.yaml")

    def summary(self) -> str:
        """What was compared, in a line."""
        counts = {"distribution": self.distributions, "block": self.blocks, "type": self.types}
        words = [f"{len(c)} {what}{'s' * (len(c) != 1)}" for what, c in counts.items()]
        return f"{', '.join(words)}, written by Composer {self.composer}"

    def type_at(self, address: str) -> Any:
        """The type at an address, also of one of several outputs (`maps.fine`); None where there is none."""
        if address in self.types:
            return self.types[address]
        owner, dot, last = address.rpartition(".")
        above = self.type_at(owner) if dot else None
        return above.get(last) if isinstance(above, dict) else None


def is_lock(top: Map) -> bool:
    """Whether a document is a lock: it says so by its first key."""
    return "lock" in top


def read(top: Map) -> Lock:
    """A lock. Raises `BlueprintError` where it is of another format (BP655) or changed since it was written (BP656)."""
    if type(top["lock"]) is not int or top["lock"] != FORMAT:
        text = f"this is a lock of format {top['lock']!r:.40}; this Composer reads format {FORMAT}"
        help = ("read it with the Composer that wrote it", AGAIN.format("NAME", "FILE.lock.yaml"))
        raise BlueprintError(Diagnostic("BP655", text, span_of(top, "lock"), help=help))
    for look in (_missing, _changed, _odd):  # each may rely on what those before it found
        faults = list(look(top))
        if faults:
            raise BlueprintError(faults)
    return Lock(top)


def hashes(document: Mapping[str, Any]) -> dict[str, str]:
    """The hash of each section; of the graph in the order it is written in, which names the order of its nodes."""
    from composer.interfaces import digest

    return {key: digest(_ordered(document[key]) if key == "graph" else document[key]) for key in SECTIONS}


def _ordered(value: Any) -> Any:
    """Data whose mappings are lists of pairs, so that their order counts."""
    if isinstance(value, Mapping):
        return [[key, _ordered(item)] for key, item in value.items()]
    return [_ordered(item) for item in value] if isinstance(value, (list, tuple)) else value


def _missing(top: Map) -> Iterator[Diagnostic]:
    """Sections that are not there, or hold something else."""
    help = ("it may be cut off; " + AGAIN.format("NAME", "FILE.lock.yaml"),)
    for key, kind in {"content": dict, **SECTIONS}.items():
        if key not in top:
            yield Diagnostic("BP655", f"this lock has no `{key}`", top.key_spans.get("lock"), help=help)
        elif not isinstance(top[key], kind):
            text = f"`{key}` of a lock is {WORDS[kind]}, not {top[key]!r:.40}"
            yield Diagnostic("BP655", text, span_of(top, key), help=help)
    for key in (k for k in top if k not in ("lock", "content", *SECTIONS)):
        text = f"a lock has no `{key}`; it has {listing(SECTIONS)}"
        yield Diagnostic("BP655", text, top.key_spans.get(key))


def _changed(top: Map) -> Iterator[Diagnostic]:
    """Sections that are not those that were written."""
    for key, now in hashes(top).items():
        if top["content"].get(key) != now:
            text = f"`{key}` is not as it was written: its content has the hash {now}"
            said = top["content"].get(key)
            notes = (f"`content` says {said!r}" if said else "`content` has none for it",)
            help = ("a lock is not edited, and may be cut off; " + AGAIN.format("NAME", "FILE.lock.yaml"),)
            yield Diagnostic("BP656", text, top.key_spans.get(key), notes=notes, help=help)


def _odd(top: Map) -> Iterator[Diagnostic]:
    """Values that no lock that Composer wrote has."""
    if not isinstance(top["of"].get("blueprint"), str) or not isinstance(top["of"].get("overrides") or {}, dict):
        yield _not(top, "of", "{blueprint: NAME, overrides: {…}}")
    for name, made in top["distributions"].items():
        blocks = made.get("blocks") if isinstance(made, dict) else None
        if not isinstance(blocks, list) or not isinstance(made.get("version"), str):
            yield _not(top["distributions"], name, "{version: …, blocks: […]}")
    for name, made in top["blocks"].items():
        if not isinstance(made, dict) or not all(_is_part(made, p) for p in ("ports", "options", "slots")):
            yield _not(top["blocks"], name, "{hash: …, ports: {…}, options: {…}, slots: {…}}")
    if is_lock(top["graph"]):
        yield _not(top, "graph", "a blueprint, which is no lock")


def _is_part(made: Mapping[str, Any], part: str) -> bool:
    values = made.get(part) or {}
    return isinstance(values, dict) and (part == "ports" or all(isinstance(v, dict) for v in values.values()))


def _not(container: Map, key: str, wanted: str) -> Diagnostic:
    return Diagnostic("BP655", f"`{key}` of this lock is {wanted}, not {container[key]!r:.40}", span_of(container, key))


__all__ = ["FORMAT", "SECTIONS", "Lock", "hashes", "is_lock", "read"]
