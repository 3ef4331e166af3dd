"""The command `composer`: what can only be said before the first import and after the last word, so that a check feels
instant.

* What is imported lives until the end, so nobody looks for garbage in it meanwhile: a tenth of the time of a check.
* pydantic looks through all that is installed for plugins that watch what is validated. Nobody watches a command.
  Where the environment says which are wanted, it is as it says.
* Python takes apart all that was imported before it ends: see `leave`.

This package stands beside `composer` because importing anything inside it imports it first.
"""

import atexit
import gc
import os
import sys
import threading
from typing import Any


def main() -> None:
    """Import the command and run it."""
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from composer.cli.main import main

    try:
        main()
    except SystemExit as end:
        leave(end.code)


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
