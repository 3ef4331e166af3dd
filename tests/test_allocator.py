"""glibc's thresholds: set by the commands that only run networks, never by the library. Each in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import composer
from composer import allocator

GLIBC = platform.libc_ver()[0] == "glibc"

MAPPED = """
import ctypes
{before}
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks hblkhd usm fsm uord ford keep".split()]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.mallinfo.restype = ctypes.c_void_p, Info
before = libc.mallinfo().hblks
blocks = [libc.malloc(64 << 20) for _ in range(4)]
print(libc.mallinfo().hblks - before)
"""
"""How many of four blocks of 64 MiB are mappings of their own, as glibc counts them, and no parts of the heap."""


def mapped(before: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", MAPPED.format(before=before)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="the thresholds are glibc's")
def test_large_blocks_come_from_the_heap() -> None:
    assert mapped("from composer import allocator; assert allocator.tune()") == 0
    assert mapped("") == 4, "where nobody says otherwise"


@pytest.mark.skipif(not GLIBC, reason="the thresholds are glibc's")
def test_the_library_leaves_the_allocator_alone() -> None:
    work = "import composer; composer.load('unet', size=[32, 32], widths=[4, 8]).check()"
    assert mapped(work) == 4


def test_only_commands_and_measurements_tune() -> None:
    root = Path(composer.__file__).parent
    users = {p.relative_to(root).as_posix() for p in root.rglob("*.py") if "allocator.tune(" in p.read_text()}
    assert users == {"cli/common.py", "bench/processes.py"}
    keeping = {p.relative_to(root).as_posix() for p in root.rglob("*.py") if "common.keep_memory()" in p.read_text()}
    verbs = ("running", "training", "predicting", "pretraining", "searching")
    assert keeping == {f"cli/{verb}.py" for verb in verbs}


@pytest.mark.skipif(not GLIBC, reason="the thresholds are glibc's")
@pytest.mark.parametrize(("call", "count"), [("sys.exit(run(sys.argv[1:]))", 4), ("main()", 0)])
def test_a_command_tunes_its_own_process_alone(call: str, count: int) -> None:
    """The command fails after it: there is no such blueprint."""
    words = "import sys; from composer.cli.main import main, run; sys.argv = 'composer run nowhere scan.nii.gz'.split()"
    assert mapped(f"{words}\ntry:\n    {call}\nexcept SystemExit as fault:\n    assert fault.code == 1") == count


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.tune()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """musl has a `mallopt` on some systems, and nothing that says glibc."""

        def mallopt(self, name: int, value: int) -> int:
            raise AssertionError("called")

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Other())
    assert not allocator.tune()
