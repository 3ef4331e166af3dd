"""How fast a network is, and how far from another implementation: `composer bench NAME [--against transformers]`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli import arguments, common
from composer.cli.costing import sized
from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean, listing

if TYPE_CHECKING:
    from composer.bench import Case
    from composer.bench.report import Found

ALLOCATORS: Mapping[str, tuple[str, ...]] = {
    "default": ("default",),
    "tuned": ("tuned",),
    "both": ("default", "tuned"),
}
DTYPES = {"float32": "float32", "fp32": "float32", "bf16": "bfloat16", "bfloat16": "bfloat16"}


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(bench)


def bench(
    blueprint: arguments.Name,
    overrides: arguments.Overrides = None,
    against: Annotated[
        str,
        typer.Option(
            help="transformers, monai, torch, plain (itself without passes), module:factory or file.py:factory; "
            "without it the blueprint's own reference."
        ),
    ] = "",
    train: Annotated[bool, typer.Option("--train", help="A step of training: forward and backward.")] = False,
    dtype: Annotated[str, typer.Option(help="Of both networks: float32 or bf16.")] = "float32",
    size: Annotated[
        list[str] | None,
        typer.Option(help="The size of the input, such as 224,224; of another input target=64, repeatable."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Inputs at a time.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="How often each network is timed, in turn.", min=1)] = 7,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 for its own choice.", min=0)] = 0,
    allocator: Annotated[
        str, typer.Option(help="glibc's thresholds: default, tuned (as `composer run` has them) or both.")
    ] = "default",
    memory: Annotated[bool, typer.Option(help="Measure memory too, each network in its own process.")] = True,
    profile: Annotated[bool, typer.Option("--profile", help="Also print where the time of both goes.")] = False,
    without: arguments.Without = None,
    json: Annotated[Path | None, typer.Option(help="Also write what was measured to this file.")] = None,
    plugin: arguments.Plugins = None,
) -> None:
    """Measure a network beside another implementation on equal weights: time in turn, peak memory, difference."""
    from composer.bench import Case
    from composer.bench.comparing import compared
    from composer.bench.rivals import rival

    known("--allocator", allocator, ALLOCATORS)
    known("--dtype", dtype, DTYPES)
    loaded, shapes = sized(blueprint, overrides, plugin, size, batch)
    loaded.check(**shapes)
    chosen = rival(against, loaded)
    said = words(overrides, loaded.values.get("size"), size)
    case = Case(
        blueprint, said, shapes, against, train, DTYPES[dtype], tuple(without or ()), rounds, threads,
        tuple(plugin or ()), common.ONLY.get(),
    )  # fmt: skip
    if chosen.remark:
        print(chosen.remark)
    found: list[Found] = []
    for each in compared(case, ALLOCATORS[allocator], memory):
        show(each, case, loaded.name, first=not found)
        found.append(each)
    if profile:
        from composer.bench.processes import fresh
        from composer.bench.profiling import lines, profiled

        print("\n".join(["one call of each, profiled", *lines(fresh(profiled, case, tuned=allocator == "tuned"))]))
    if json is not None:
        from composer.files import write_text

        write_text(json, text(case, found))
        print(f"wrote {json}")


def known(option: str, word: str, words: Mapping[str, Any]) -> None:
    """Refuse a word that an option does not have."""
    if word not in words:
        message = f"unknown `{option} {word}`{did_you_mean(word, words)}"
        raise BlueprintError(Diagnostic("BP201", message, notes=(f"known: {listing(words)}",)))


def words(overrides: list[str] | None, built: Any, sizes: list[str] | None) -> tuple[str, ...]:
    """The overrides, with the size that `--size` makes the network for."""
    given = tuple(overrides or ())
    if not sizes or built is None or any(w.startswith("size=") for w in given):
        return given
    return (*given, f"size=[{','.join(map(str, built))}]")


def show(found: Found, case: Case, name: str, first: bool) -> None:
    """The figures of one allocator, under what all have in common."""
    from composer.bench.report import difference

    if first:
        inputs = ", ".join(f"{n} {tuple(s)}" for n, s in case.shapes.items())
        mode = "a training step" if case.train else "inference"
        count = found.times.threads
        print(f"{name} against {found.times.label}: {inputs}, {case.dtype}, {mode}, {count} thread{'s' * (count > 1)}")
        print(f"  {difference(found)}")
    print({"default": "the allocator as it is", "tuned": "the allocator's thresholds tuned"}[found.allocator])
    print("\n".join(found.lines()), flush=True)


def text(case: Case, found: list[Found]) -> str:
    """All of it, for machines: also the single rounds, and how loaded the machine was."""
    import json
    import platform
    from dataclasses import asdict
    from importlib import metadata

    setting = {"torch": metadata.version("torch"), "machine": platform.machine(), "load": os.getloadavg()}
    rows = [f.to_json() for f in found]
    return json.dumps({"case": asdict(case), "setting": setting, "found": rows}, indent=2, default=str) + "\n"
