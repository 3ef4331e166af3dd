"""The command `composer`: what can only be said before the first import and after the last word, so that a check feels
instant.

* What is imported lives until the end, so nobody looks for garbage in it meanwhile: a tenth of the time of a check.
* pydantic looks through all that is installed for plugins that watch what is validated. Nobody watches a command: see
  `unwatched`.
* Python takes apart all that was imported before it ends: see `leave`.

This package stands beside `composer` because importing anything inside it imports it first.
"""

import atexit
import gc
import os
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import Any


def main() -> None:
    """Import the command and run it."""
    gc.disable()
    unwatched()
    from composer.cli.main import main

    try:
        main()
    except SystemExit as end:
        leave(end.code)


class _NoPlugins(ModuleType):
    """Stands for the module of pydantic that finds its plugins; whatever else is asked of it, the real one answers."""

    get_plugins = staticmethod(tuple)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def unwatched() -> None:
    """Tell pydantic that no plugin is wanted. The environment says so, where it does not say itself which are; but the
    module that reads it imports first what could find them, which takes a twelfth of a check, so it has a stand-in."""
    if os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__") == "__all__":
        sys.modules.setdefault("pydantic.plugin._loader", _NoPlugins("pydantic.plugin._loader"))


def leave(status: Any) -> None:
    """End the process. The system takes its memory back at once; for Python to free it value by value is a thirtieth of
    a check. What is registered for the end is called and what was said is written. Networks and threads end as ever.
    """
    if "torch" in sys.modules or threading.active_count() > 1 or not isinstance(status, int):
        sys.exit(status)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # nobody listens: Python knows what to say
        sys.exit(status)
    os._exit(status)
