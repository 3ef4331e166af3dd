"""An environment of its own for a plugin: it sees the packages of this one, and what is installed into it stays there.

Nothing is downloaded: a `.pth` file shows it this environment's packages (and hatchling among them, which builds the
plugin without isolation), and the plugin brings no dependencies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder."""

    folder: Path

    @staticmethod
    def create(folder: Path) -> Environment:
        venv.create(folder, with_pip=False, symlinks=True)
        made = Environment(folder)
        inside = made.run(
            [made.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], Path.cwd()
        ).stdout.strip()
        here = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        shown = "; ".join(f"site.addsitedir({path!r})" for path in dict.fromkeys(here))
        (Path(inside) / "outer.pth").write_text(f"import site; {shown}\n")
        return made

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def python(self) -> str:
        return str(self.bin / "python")

    def install(self, *what: str, at: Path) -> None:
        """`pip install`, of what is here."""
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        done = self.run([sys.executable, "-m", "pip", "--python", self.python, "install", *options, *what], at)
        assert done.returncode == 0, done.stdout + done.stderr

    def composer(self, *arguments: str, at: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run([self.python, "-m", "composer.cli.main", *arguments], at, **variables)

    def run(self, command: list[str], at: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command with a terminal of 100 columns and one core."""
        own = {"COLUMNS": "100", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COMPOSER_PLUGINS", "COMPOSER_DEBUG")}
        return subprocess.run(command, capture_output=True, text=True, cwd=at, env={**kept, **own, **variables})
