"""Prints the path of the MNI152 T1 image inside the installed nilearn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def template(name: str = "t1") -> Path:
    """A map of the template (t1, gm, wm); found without importing nilearn, which takes seconds."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise SystemExit("nilearn is not installed: pip install 'blueprint-composer[demo]'")
    return Path(spec.origin).parent / "datasets" / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"


if __name__ == "__main__":
    print(template())
