"""The command's own start: what a check does not import, and what stands for pydantic's search for plugins."""

from __future__ import annotations

import os
import subprocess
import sys


def ran(code: str, **environment: str) -> list[str]:
    """The last line that a new process says, in words."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYDANTIC_DISABLE_PLUGINS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=inherited | environment
    )
    return done.stdout.splitlines()[-1].split()


def test_a_check_imports_little() -> None:
    """Each of these takes a hundredth of a cold check or more, typer and importlib.metadata a tenth."""
    code = """
import sys, composer_command
needless = "typer importlib.metadata email csv zipfile socket json shlex difflib subprocess tempfile rich torch"
composer_command.leave = lambda status: print(status, *sorted(set(needless.split()) & set(sys.modules)))
sys.argv = ["composer", "check", "vit"]
composer_command.main()
"""
    assert ran(code) == ["0"]


LOOK = """
import sys, composer_command
composer_command.unwatched()
from pydantic import BaseModel
class Model(BaseModel):
    x: int
print(Model(x="3").x, "importlib.metadata" in sys.modules, end=" ")
from pydantic.plugin import _loader
print(_loader.PYDANTIC_ENTRY_POINT_GROUP, [*_loader.get_plugins()], "importlib.metadata" in sys.modules)
"""


def test_nobody_looks_for_plugins_of_pydantic() -> None:
    """Whatever else is asked of the module that would look is what it says itself."""
    assert ran(LOOK) == ["3", "False", "pydantic", "[]", "True"]


def test_where_the_environment_says_which_plugins_are_not_wanted_pydantic_looks() -> None:
    assert ran(LOOK, PYDANTIC_DISABLE_PLUGINS="logfire") == ["3", "True", "pydantic", "[]", "True"]
