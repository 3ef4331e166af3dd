"""A block's contract, held against reality: `check_block(MyBlock)` is the one test that a block needs to begin with.

What a block says of itself (its rule, its ports, its options) is compared with what its module does, on tiny networks
around it (`composer.testing.examples`), aspect by aspect (`composer.testing.aspects`):

    def test_contract():
        check_block(Gated)

The walk is that of every user: example -> blueprint -> program -> network; nothing here reaches into a block.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from composer.block import Block
from composer.diagnostics import ComposerError, nearest
from composer.registry import Registry
from composer.testing.examples import Case, examples_of, why_none

ASPECTS = (
    "type", "sizes", "gradients", "finite", "bfloat16", "float64", "modes", "buffers", "batch", "state", "copy", "cost",
    "compile", "export",
)  # fmt: skip
"""The aspects of a contract, in the order they are held."""

SHOWN = 3
"""Failing examples of one aspect that a report shows in full, each at the first rank it fails at."""
WIDTH = 160
"""Characters of an example that a report shows."""

Status = Literal["pass", "fail", "n/a"]


@dataclass(frozen=True)
class Failure:
    """One case in which an aspect does not hold."""

    options: str
    types: str
    what: str
    expected: str = ""
    got: str = ""

    def __str__(self) -> str:
        options = self.options if len(self.options) <= WIDTH else f"{self.options[:WIDTH]}…"
        lines = [self.what, f"  with {options}", *([f"  on {self.types}"] if self.types else [])]
        lines += [f"  expected {self.expected}"] if self.expected else []
        return "\n".join([*lines, *([f"  got      {self.got}"] if self.got else [])])


@dataclass(frozen=True)
class Check:
    """What became of one aspect. `cases`: how many networks it held for; `reason`: a note, or why it does not apply."""

    aspect: str
    status: Status
    cases: int = 0
    reason: str = ""
    failures: tuple[Failure, ...] = ()

    def __str__(self) -> str:
        if self.status != "fail":
            many = f"{self.cases} network{'s' * (self.cases != 1)}" if self.cases else ""
            return f"{self.status:<5} {self.aspect:<10} {'; '.join(filter(None, (many, self.reason)))}".rstrip()
        held = (
            f"in {len(self.failures)} of {self.cases + len(self.failures)} networks" if self.failures[0].types else ""
        )
        firsts = list({f.options: f for f in reversed(self.failures)}.values())[::-1]
        more = f"- … and with {len(firsts) - SHOWN} more examples" if len(firsts) > SHOWN else ""
        body = "\n".join([*(f"- {f}" for f in firsts[:SHOWN]), *filter(None, [more])]).replace("\n", "\n      ")
        return f"FAIL  {self.aspect:<10} {held}\n      {body}"


@dataclass(frozen=True)
class Contract:
    """The report on a block."""

    block: type[Block]
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if c.status == "fail")

    @property
    def place(self) -> str:
        return place_of(self.block)

    def __str__(self) -> str:
        broken = f"{len(self.failures)} broken" if self.failures else "holds"
        head = f"contract of `{self.block.name}`, {self.block.__name__} at {self.place}: {broken}"
        return "\n".join([head, *(f"  {c}".replace("\n", "\n  ") for c in self.checks)])


def check_block(
    block: type[Block] | Block,
    registry: Registry | None = None,
    *,
    options: Sequence[Mapping[str, Any]] | None = None,
    aspects: Iterable[str] | None = None,
) -> Contract:
    """Hold a block's contract; returns the report. Raises `AssertionError`, with the report, where it is broken.

    registry  where the blocks of its slots are found: by default among the installed plugins. The block itself need
              not be registered
    options   its examples, in the place of those it declares or those that are made from the types of its options
    aspects   some of `ASPECTS`, by default all
    """
    report = contract_of(block, registry, options=options, aspects=aspects)
    if report.failures:
        raise AssertionError(str(report))
    return report


def contract_of(
    block: type[Block] | Block,
    registry: Registry | None = None,
    *,
    options: Sequence[Mapping[str, Any]] | None = None,
    aspects: Iterable[str] | None = None,
) -> Contract:
    """The report of `check_block`, whatever it says."""
    if isinstance(block, Block):
        options = options if options is not None else [{n: getattr(block, n) for n in block.model_fields_set}]
        block = type(block)
    if not (isinstance(block, type) and issubclass(block, Block) and block.name):
        raise TypeError(f"check_block takes a Block with a name, not {block!r}")
    asked = tuple(ASPECTS if aspects is None else aspects)
    for aspect in asked:
        if aspect not in ASPECTS:
            near = nearest(aspect, ASPECTS)
            said = f"; did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"no aspect `{aspect}`{said} There are {', '.join(ASPECTS)}")
    known = with_block(registry or Registry.discover(), block)
    try:
        cases = cases_of(block, known, options)
    except ComposerError as fault:
        return Contract(block, (_no_example(asked[0], said_of(fault)),))
    if not cases:
        return Contract(block, (_no_example(asked[0], why_none(block, known)),))
    return Contract(block, tuple(held(aspect, block, cases) for aspect in asked))


def _no_example(aspect: str, why: str) -> Check:
    return Check(aspect, "fail", failures=(Failure("small values for its options", "", why),))


def with_block(registry: Registry, block: type[Block]) -> Registry:
    """The registry in which the block's name stands for this very class."""
    if registry.blocks.get(block.name) is block:
        return registry
    clashes = {n: o for n, o in registry.clashes.items() if n != block.name}
    return replace(registry, blocks={**registry.blocks, block.name: block}, clashes=clashes)


def cases_of(
    block: type[Block], registry: Registry, options: Sequence[Mapping[str, Any]] | None = None
) -> tuple[Case, ...]:
    """Every example at every rank it is for."""
    return tuple(e.case(rank, registry) for e in examples_of(block, registry, options) for rank in e.ranks)


def held(aspect: str, block: type[Block], cases: Sequence[Case]) -> Check:
    """One aspect of a block, on all its cases."""
    from composer.testing import aspects as real  # torch, 2 s: nothing before this needs it

    if aspect in block.not_promised:
        return Check(aspect, "n/a", reason=f"not promised: {block.not_promised[aspect]}")
    failures: list[Failure] = []
    notes: dict[str, None] = {}
    reasons: dict[str, None] = {}
    count = 0
    for case in _one_rank(cases) if aspect in real.ONE_RANK else cases:
        if aspect in case.example.not_promised:
            reasons[f"not promised with {case.example.options}: {case.example.not_promised[aspect]}"] = None
            continue
        try:
            note = real.ASPECTS[aspect](case)
        except real.NotApplicable as why:
            reasons[str(why)] = None
        except real.Broken as fault:
            if aspect in real.REPEATED and not real.repeats(case):
                reasons["evaluation is not deterministic, which `modes` says, and nothing else can be compared"] = None
                continue
            failures.append(_failure(case, fault.what, fault.expected, fault.got))
        except Exception as fault:
            failures.append(_failure(case, "it does not run", "a result", said_of(fault)))
        else:
            count += 1
            notes |= {note: None} if note else {}
    if failures:
        return Check(aspect, "fail", count, failures=tuple(failures))
    if not count:
        return Check(aspect, "n/a", reason="; ".join(reasons))
    said = [*list(notes)[:2], *([f"… {len(notes) - 2} more notes"] if len(notes) > 2 else []), *reasons]
    return Check(aspect, "pass", count, "; ".join(said))


def _one_rank(cases: Sequence[Case]) -> list[Case]:
    """Each example once: in 2-D, or in the first it has."""
    chosen: dict[int, Case] = {}
    for case in cases:
        if id(case.example) not in chosen or case.rank == 2:
            chosen[id(case.example)] = case
    return list(chosen.values())


def _failure(case: Case, what: str, expected: str, got: str) -> Failure:
    try:
        types = case.types
    except ComposerError:
        types = f"{case.rank}-D maps of {case.example.channels} channels"
    return Failure(case.example.options, types, what, expected, got)


def said_of(fault: BaseException) -> str:
    """An error in a line or two: its kind, what it says, and the node it came from."""
    if isinstance(fault, ComposerError):
        first = fault.diagnostics[0]
        message = re.sub(r" \(\S+example\.yaml:[\d:]+\)", "", first.message)  # the blueprint was made for the test
        return f"{first.code}: {message}" + "".join(f" ({n})" for n in first.notes[:1])
    trace, place = fault.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "site-packages" not in file and not file.startswith("<") and Path(file).parent != Path(__file__).parent:
            place = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(fault).__name__}: {next((x for x in str(fault).splitlines() if x.strip()), '')}{place}"


def place_of(block: type[Block]) -> str:
    """`file:line` of a block's class."""
    try:
        return f"{inspect.getsourcefile(block)}:{inspect.getsourcelines(block)[1]}"
    except (OSError, TypeError):
        return block.__module__
