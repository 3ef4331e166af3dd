"""`pytest --composer-blocks my_dist`: one test for each block of a distribution and each aspect of its contract.

The walk of pytest: names are checked at the start, a plugin is loaded when its tests are collected (one that does not
load is an error of collection, with its diagnostic), and a failure is the report of one aspect, without a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from composer.block import Block
from composer.diagnostics import ComposerError, did_you_mean
from composer.plugins import GROUP, Plugin
from composer.registry import Registry, clash
from composer.testing.contract import ASPECTS, Check, cases_of, held, place_of, said_of
from composer.testing.examples import Case, why_none


class Blocks:
    """The hooks, registered where the option is given."""

    def __init__(self, config: pytest.Config):
        self.names = [_known(name) for name in dict.fromkeys(config.getoption("--composer-blocks"))]
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = []  # the blocks alone, not also the tests of this folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        for name in self.names:
            items += session.genitems(Distribution.from_parent(session, name=name, nodeid=name))


class Distribution(pytest.Collector):
    """The blocks of one distribution, plugin or file."""

    def collect(self) -> Iterator[BlockContract]:
        registry, plugins = self._loaded()
        faults = [p.fault.render() for p in plugins if p.fault] + [
            clash(n, registry.clashes[n]).render() for p in plugins for n in p.blocks if n in registry.clashes
        ]
        if faults:
            raise self.CollectError("\n\n".join(faults))
        for name in (n for p in plugins for n in p.blocks):
            made = BlockContract.from_parent(self, name=name, nodeid=f"{self.nodeid}::{name}")
            made.block, made.registry = registry.blocks[name], registry
            yield made

    def _loaded(self) -> tuple[Registry, Sequence[Plugin]]:
        if not self.name.endswith(".py"):
            registry = Registry.discover()
            return registry, [p for p in registry.plugins if _same(self.name, p.distribution, p.name)]
        try:
            registry = Registry.discover([self.name])
        except ComposerError as fault:
            raise self.CollectError(str(fault)) from None
        return registry, registry.plugins[-1:]


class BlockContract(pytest.Collector):
    """One block; its examples are made once."""

    block: type[Block]
    registry: Registry

    def collect(self) -> Iterator[Aspect]:
        try:
            cases = self.cases
        except ComposerError as fault:
            raise self._broken(said_of(fault)) from None
        if not cases:
            raise self._broken(why_none(self.block, self.registry))
        return (Aspect.from_parent(self, name=a, nodeid=f"{self.nodeid}::{a}") for a in ASPECTS)

    def _broken(self, why: str) -> Exception:
        return self.CollectError(f"`{self.name}`, {self.block.__name__} at {place_of(self.block)}: {why}")

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        return cases_of(self.block, self.registry)


class Aspect(pytest.Item):
    """One aspect of one block's contract."""

    parent: BlockContract

    def runtest(self) -> None:
        check = held(self.name, self.parent.block, self.parent.cases)
        if check.status == "n/a":
            raise pytest.skip.Exception(check.reason, _use_item_location=True)
        if check.status == "fail":
            raise ContractError(self.parent.block, check)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, (ContractError, ComposerError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        file, _, line = place_of(self.parent.block).rpartition(":")
        return Path(file or "."), int(line) - 1 if line.isdigit() else None, f"{self.parent.name} {self.name}"


class ContractError(AssertionError):
    """An aspect of a block's contract is broken."""

    def __init__(self, block: type[Block], check: Check):
        super().__init__(f"`{block.name}`, {block.__name__} at {place_of(block)}, breaks its contract\n{check}")


def _known(name: str) -> str:
    """A name that pytest can collect, or the error of usage that says which there are."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise pytest.UsageError(f"--composer-blocks: there is no plugin file {name}")
        return name
    points = {(p.dist.name if p.dist else p.value, p.name) for p in entry_points(group=GROUP)}
    if any(_same(name, *names) for names in points):
        return name
    names = sorted({n for names in points for n in names})
    said = f"no distribution or plugin `{name}` has blocks{did_you_mean(name, names)}"
    raise pytest.UsageError(f"--composer-blocks: {said}; there are {', '.join(names) or 'none'}, or a .py file")


def _same(name: str, *others: str) -> bool:
    """Names of distributions are equal whatever their case and separators."""
    return _normal(name) in map(_normal, others)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
