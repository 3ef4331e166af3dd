"""The command line: `composer VERB`. Exit status 0, 1 (a mistake of the user's) or 2 (usage).

torch, rich and the registry are imported by the verbs that need them, and of the verbs' own modules only that of the
verb that is asked for (`MODULES`), so that `composer check` feels instant; typer where there are options to parse.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from composer.cli import common, verdict
from composer.diagnostics import ComposerError

if TYPE_CHECKING:
    import typer

MODULES = {
    "listing": ("list", "blocks", "explain", "schema"),
    "plugins": ("plugins",),
    "starting": ("new",),
    "checking": ("check", "sizes", "show"),
    "costing": ("cost",),
    "building": ("weights",),
    "running": ("run",),
    "benching": ("bench",),
    "training": ("train",),
    "pretraining": ("pretrain",),
    "predicting": ("predict", "evaluate"),
    "searching": ("search",),
    "changing": ("diff", "fmt"),
    "locking": ("lock",),
    "exporting": ("export",),
    "ejecting": ("eject",),
    "nnunet": ("nnunet",),
}
"""The modules of `composer.cli` and the verbs that each adds, in the order of the help."""


def application(modules: Iterable[str] = MODULES) -> typer.Typer:
    """The command with the verbs of these modules, which are imported now."""
    import typer

    from composer.cli.arguments import version

    app = typer.Typer(
        name="composer",
        no_args_is_help=True,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(version)
    for module in modules:
        import_module(f"composer.cli.{module}").add_to(app)
    return app


def main() -> None:
    """Run a command; every mistake becomes a message and an exit status.

    What was imported lives until the end, so that looking for garbage in it is for nothing: at exit, where Python looks
    several times, it would take a third of the time of a check.
    """
    gc.freeze()
    gc.enable()
    common.OWN.set(True)
    status = run(sys.argv[1:])
    gc.freeze()
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """The exit status of a command."""
    try:
        return unparsed(*arguments[1:]) if verdict.plain(arguments) else parsed(arguments)
    except ComposerError as fault:
        report(fault, "--json" in arguments)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as fault:
        if os.environ.get("COMPOSER_DEBUG"):
            raise
        from composer.faults import internal

        report(internal(fault), "--json" in arguments)
        return 1


def unparsed(blueprint: str, *overrides: str) -> int:
    """The exit status of a check that has no options; see `verdict.plain`."""
    common.ONLY.set(None)
    verdict.verdict(blueprint, [*overrides] or None)
    return 0


def parsed(arguments: list[str]) -> int:
    """The exit status of a command that typer takes apart."""
    import typer

    usage: Any = typer.BadParameter.__mro__[2]  # the root of its complaints, which lives elsewhere in each version
    try:
        result = narrowed(arguments)(args=arguments, prog_name="composer", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as fault:
        return int(fault.exit_code)
    except usage as fault:
        fault.show()
        return 2
    except typer.Abort:
        raise KeyboardInterrupt from None


def narrowed(arguments: list[str]) -> typer.Typer:
    """The command with just the verb that is asked for: the others would take as long to import, and typer as long to
    read, as a check takes. Where it is none of them, the command with all."""
    word = next((a for a in arguments if not a.startswith("-")), "")
    modules = [module for module, verbs in MODULES.items() if word in verbs]
    app = application(modules or MODULES)
    if modules:
        app.registered_commands = [c for c in app.registered_commands if named(c) == word]
    return app


def named(command: typer.models.CommandInfo) -> str:
    """The verb: the name that it was given, or that of its function."""
    return command.name or str(getattr(command.callback, "__name__", ""))


def report(fault: ComposerError, as_json: bool) -> None:
    """All mistakes, for people on stderr, for machines on stdout."""
    if as_json:
        import json

        print(json.dumps({"errors": [d.to_json() for d in fault.diagnostics]}, indent=2))
        return
    print(coloured(str(fault)) if sys.stderr.isatty() else str(fault), file=sys.stderr)
    files = {d.span.source.name for d in fault.diagnostics if d.span}
    count, codes = len(fault.diagnostics), sorted({d.code for d in fault.diagnostics})
    where = f" in {min(files)}" if len(files) == 1 else ""
    tail = f"{count} error{'s' * (count != 1)}{where}. `composer explain {codes[0]}` for the rule."
    print(f"\n{tail}", file=sys.stderr)


def coloured(text: str) -> str:
    """The heads of messages in red, ways out in green."""
    lines = []
    for line in text.splitlines():
        if line.startswith("error["):
            line = f"\033[1;31m{line}\033[0m"
        elif line.lstrip().startswith("= help:"):
            line = f"\033[32m{line}\033[0m"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
