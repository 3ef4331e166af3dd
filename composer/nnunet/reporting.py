"""Mistakes in nnU-Net's commands: the message, and no traceback. In Python they stay exceptions."""

from __future__ import annotations

import sys
from types import TracebackType

from composer.diagnostics import ComposerError


def without_traceback() -> None:
    """Once for a process: an uncaught mistake is said as by `composer`; everything else as before."""
    usual = sys.excepthook
    if getattr(usual, "of_composer", False):
        return

    def hook(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
        if isinstance(fault, ComposerError):
            print(fault, file=sys.stderr)
        else:
            usual(kind, fault, trace)

    hook.of_composer = True  # type: ignore[attr-defined]
    sys.excepthook = hook
