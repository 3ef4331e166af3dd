"""Verbs that list: `list`, `blocks`, `explain`, `schema`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from composer.block import Block
from composer.cli import arguments, common
from composer.diagnostics import BlueprintError, ComposerError, Diagnostic, did_you_mean
from composer.registry import Registry


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command("list")(list_)
    app.command()(blocks)
    app.command()(explain)
    app.command()(schema)


def list_(plugin: arguments.Plugins = None, json: arguments.Json = False) -> None:
    """The blueprints that can be named."""
    from composer.blueprint import is_fragment, is_hybrid, load, shipped

    known = common.registry(plugin)
    files = {**known.blueprints, **shipped()}
    fragments = [name for name in sorted(files) if is_fragment(files[name])]
    rows: list[dict[str, Any]] = []
    for name in sorted(set(files) - set(fragments), key=lambda n: (is_hybrid(files[n]), n)):
        try:
            found = load(name, library=known.blueprints)
            rows.append(
                {
                    "name": name,
                    "summary": found.summary,
                    "presets": list(found.presets),
                    "source": dict(found.source),
                    "hybrid": is_hybrid(files[name]),
                }
            )
        except ComposerError as fault:  # one broken file of a plugin does not hide the others
            rows.append(
                {
                    "name": name,
                    "summary": f"cannot be read: {fault.diagnostics[0].message}",
                    "presets": [],
                    "source": {},
                    "hybrid": is_hybrid(files[name]),
                }
            )
    if json:
        return common.print_json(rows)
    for head in ("blueprint", "hybrid"):
        some = [r for r in rows if r["hybrid"] == (head == "hybrid")]
        if some:
            table((head, "what it is", "presets"), [(r["name"], r["summary"], " ".join(r["presets"])) for r in some])
    print(f"parts for other blueprints: {', '.join(fragments)}" if fragments else "")


def blocks(
    name: Annotated[
        str | None, typer.Argument(help="One block in full.", autocompletion=arguments.complete_block)
    ] = None,
    used_by: Annotated[bool, typer.Option("--used-by", help="Which blueprints each block stands in.")] = False,
    matrix: Annotated[bool, typer.Option("--matrix", help="Try every swap in every architecture.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="These tables for a document.")] = False,
    plugin: arguments.Plugins = None,
    json: arguments.Json = False,
) -> None:
    """The blocks a blueprint can use."""
    known = common.registry(plugin)
    if used_by or matrix:
        from composer.cli import tables

        form = "json" if json else "markdown" if markdown else "text"
        return tables.used_by(known, form) if used_by else tables.matrix(known, form)
    if name is not None and name not in known.blocks:
        raise BlueprintError(Diagnostic("BP102", f"unknown block `{name}`{did_you_mean(name, known.blocks)}"))
    chosen = [known.blocks[name]] if name else [known.blocks[n] for n in sorted(known.blocks)]
    facts = [block_facts(b, known) for b in chosen]
    if json:
        return common.print_json(facts)
    if name:
        return block_page(facts[0])
    rows = [
        (
            f["name"],
            " ".join(f["inputs"]),
            " ".join([*f["options"], *f["slots"]]),
            " ".join(f["doc"].split()).split(". ")[0],
        )
        for f in facts
    ]
    table(("block", "inputs", "options and slots", "what it does"), rows)


def block_facts(block: type[Block], known: Registry) -> dict[str, Any]:
    """A block as data."""
    owner = known.owners.get(block.name)
    options = {n: f for n, f in block.model_fields.items() if n not in block.slots}
    return {
        "name": block.name,
        "plugin": owner.label if owner else "",
        "inputs": [*block.required, *(f"{p}?" for p in block.optional), *(["…"] if block.open_ports else [])],
        "options": {n: None if f.is_required() else f.default for n, f in options.items()},
        "required": [n for n, f in options.items() if f.is_required()],
        "slots": {n: {"default": s.default, "offers": list(s.offers)} for n, s in block.slots.items()},
        "doc": paragraphs(block.__doc__ or ""),
    }


def paragraphs(doc: str) -> str:
    """A docstring whose paragraphs are a line each, for any width; tables (words apart by spaces) stay as they are."""
    parts = inspect.cleandoc(doc).split("\n\n")
    return "\n\n".join(part if re.search(r"\S {2,}\S", part) else " ".join(part.split()) for part in parts)


def block_page(facts: dict[str, Any]) -> None:
    """One block in full."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=False)
    console.print(f"[bold]{facts['name']}[/bold]   {escape(facts['plugin'])}\n\n{escape(facts['doc'])}\n")
    console.print(f"inputs   {escape(', '.join(facts['inputs']) or 'none')}")
    for name, default in facts["options"].items():
        console.print(f"option   {name}: {'required' if name in facts['required'] else escape(repr(default))}")
    for name, spec in facts["slots"].items():
        console.print(f"slot     {name}: {spec['default'] or 'empty'} (offered {', '.join(spec['offers'])})")


def explain(
    code: Annotated[
        str | None, typer.Argument(help="Such as BP301; all titles without it.", autocompletion=arguments.complete_code)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every code in full.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a document.")] = False,
) -> None:
    """The rule behind an error, with a broken example, what is said of it, and its mended form."""
    from composer import catalogue

    if code is not None:
        print(catalogue.explain(code, markdown))
    elif markdown:
        print(catalogue.page(), end="")
    else:
        print(catalogue.everything() if all_ else catalogue.contents())


def schema(
    blueprint: Annotated[
        str | None,
        typer.Argument(help="A blueprint whose nodes it names, too.", autocompletion=arguments.complete_blueprint),
    ] = None,
    overrides: arguments.Overrides = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file; stdout without it.")] = None,
    plugin: arguments.Plugins = None,
) -> None:
    """The JSON schema of the language with all installed blocks, for editors; of one blueprint, with its nodes.

    Begin a blueprint with `# yaml-language-server: $schema=composer.schema.json`.
    """
    from composer.schema import schema as make
    from composer.schema import text

    made = make(common.registry(plugin))
    if blueprint is not None:
        from composer.completion import completed

        made = completed(made, common.load(blueprint, overrides, plugin).check())
    if output is None:
        return print(text(made), end="")
    from composer.files import write_text

    write_text(output, text(made))
    print(f"wrote {output}")


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A table that fits the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    made.columns[0].no_wrap = True
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    Console().print(made)
