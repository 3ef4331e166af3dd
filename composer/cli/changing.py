"""Verbs about changes: `diff`, `fmt`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli import arguments, common
from composer.compose import Blueprint
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic

if TYPE_CHECKING:
    from composer.diff import Network


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command()(diff)
    app.command()(fmt)


def diff(
    blueprint: arguments.Name,
    other: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BLUEPRINT] [KEY=VALUE]...",
            help="The second blueprint, the first again if it is left out, and its overrides.",
            autocompletion=arguments.complete_blueprint,
        ),
    ] = None,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """What changed from one network to another, node by node."""
    from composer.diff import difference

    words = list(other or ())
    named = words and "=" not in words[0]
    second, overrides = (words[0], words[1:]) if named else (blueprint, words)
    if not words:
        text = f"`composer diff {blueprint}` needs something to compare with"
        help = ("give a second blueprint, or overrides: `composer diff vit blocks.*.mlp.ratio=2`",)
        raise BlueprintError(Diagnostic("BP201", text, help=help))
    sides = [network(common.load(blueprint, None, plugin)), network(common.load(second, overrides, plugin))]
    found = difference(*sides)
    if json:
        return common.print_json(found.to_json())
    print(found.text())


def network(loaded: Blueprint) -> Network:
    """A blueprint with its parameters counted."""
    from composer.diff import Network

    program = loaded.check()
    counts = {name: p.numel() for name, p in loaded.build(device="meta").named_parameters()}
    return Network(program, counts, flops(loaded))


def fmt(
    files: Annotated[list[Path], typer.Argument(help="Files, or folders with .yaml files.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
) -> None:
    """Bring files into their canonical form: indentation, spaces, quotes. Comments and line breaks stay."""
    changed: list[Path] = []
    mistakes: list[Diagnostic] = []
    count = 0
    for count, path in enumerate(texts(files), 1):  # noqa: B007 - counted for the summary
        try:
            before, after = canonical(path)
        except ComposerError as fault:
            mistakes += fault.diagnostics
            continue
        if before != after:
            changed.append(path)
            rewrite(path, before, after, check, diff)
    verb = "would change" if check or diff else "formatted"
    print(f"{verb} {len(changed)} of {count} file{'s' * (count != 1)}")
    if mistakes:
        raise BlueprintError(mistakes)
    if changed and check:
        raise typer.Exit(1)


def texts(files: Iterable[Path]) -> Iterator[Path]:
    """The files that were named, and those in folders."""
    for path in files:
        yield from sorted(p for p in path.rglob("*.yaml") if p.is_file()) if path.is_dir() else [path]


def canonical(path: Path) -> tuple[str, str]:
    """A file's text as it is and as it should be."""
    from composer import source
    from composer.formatting import formatted

    source.read(path)  # says what is wrong with a file that is none, too large or not a text
    before = path.read_bytes().decode("utf-8")
    return before, formatted(before, str(path))


def rewrite(path: Path, before: str, after: str, check: bool, show: bool) -> None:
    """Write a file's canonical form, or say that it is another."""
    from difflib import unified_diff

    from composer.files import write_text

    if show:
        was, will = (text.splitlines(keepends=True) for text in (before, after))
        print("".join(unified_diff(was, will, f"{path}", f"{path} (formatted)")), end="")
    elif check:
        print(f"would change {path}")
    else:
        write_text(path.resolve(), after)  # a link stays a link
        print(f"formatted {path}")


def flops(loaded: Blueprint) -> dict[str, int]:
    """FLOPs by address, of one image of the size that the network is built for; none where that is open."""
    try:
        cost = loaded.cost() if hasattr(loaded, "cost") else None
    except ComposerError:
        return {}
    return {row.address: row.flops for row in cost.rows} if cost else {}
