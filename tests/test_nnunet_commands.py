"""`docs/nnunet.md` is run, with the real nnU-Net: planned, preprocessed, trained for a few steps, predicted.

nnU-Net gets an environment of its own, from PyPI (`nnunet_requirements.txt`): it asks for timm and so for torchvision,
which would break other tests, and which only networks need that are not used here. In their place stands an empty
module, so that nnU-Net can import its files one by one while it looks for a trainer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from environments import Environment

import composer

HERE = Path(__file__).parent
GUIDE = (HERE.parent / "docs" / "nnunet.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.M | re.S)
MORE = {
    "nnUNetv2_plan_and_preprocess": "-npfp 1 -np 1 --no_pbar",
    "nnUNetv2_train": "-device cpu",
    "nnUNetv2_predict": "-device cpu -npp 1 -nps 1 --disable_tta",
}
"""A machine of few cores, and no graphics card."""

pytestmark = pytest.mark.slow


def data_set(raw: Path) -> None:
    """Five balls to train on and one to find, in voxels of 1 × 1 × 2 mm."""
    folder, rng = raw / "Dataset001_Balls", np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    cells = np.stack(np.meshgrid(*(np.arange(n) for n in (28, 24, 14)), indexing="ij"), -1)
    for k in range(6):
        centre = np.array([14, 12, 7]) + rng.integers(-3, 4, 3)
        label = ((((cells - centre) / [6, 6, 3]) ** 2).sum(-1) < 1).astype("uint8")
        image = (2 * label + rng.normal(5, 0.3, label.shape)).astype("float32")
        part = "Tr" if k < 5 else "Ts"
        nibabel.Nifti1Image(image, np.diag([1, 1, 2, 1])).to_filename(folder / f"images{part}" / f"b{k}_0000.nii.gz")
        if part == "Tr":
            nibabel.Nifti1Image(label, np.diag([1, 1, 2, 1])).to_filename(folder / "labelsTr" / f"b{k}.nii.gz")
    labels = {"background": 0, "ball": 1}
    listed = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(listed))


class Place:
    """An environment with nnU-Net, and a folder with a data set, in which commands are given."""

    def __init__(self, folder: Path):
        self.environment, self.folder = Environment.create(folder / "venv"), folder
        names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
        self.variables = {k: str(folder / v) for k, v in names.items()}
        self.variables |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_extTrainer": str(folder / "own")}
        self.variables |= {"MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def install(self) -> None:
        """nnU-Net from PyPI; without a network the tests are skipped."""
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
        pip = [sys.executable, "-m", "pip", "--python", self.environment.python, "install", *options]
        command = [*pip, "-r", str(HERE / "nnunet_requirements.txt")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        if done.returncode:
            pytest.skip(f"nnU-Net cannot be installed from PyPI here: {done.stderr.strip().splitlines()[-1]}")
        found = self.python("import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        for name in ("timm", "timm/models"):
            (Path(found) / name).mkdir()
        for name in ("timm/__init__.py", "timm/layers.py", "timm/models/__init__.py", "timm/models/eva.py"):
            (Path(found) / name).write_text("def __getattr__(name): return type(name, (), {})\n")

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.environment.run([self.environment.python, "-c", code, *arguments], self.folder, **self.variables)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("nnunet"))
    made.install()
    data_set(made.folder / "raw")
    (made.folder / "imagesTs").symlink_to(made.folder / "raw" / "Dataset001_Balls" / "imagesTs")
    (made.folder / "own").mkdir()
    return made


@pytest.fixture(scope="module")
def guided(place: Place) -> Place:
    """The commands of the guide, given one after another with the short trainer at its end. They run in one process,
    each by its entry point, since nnU-Net takes longer to import than to train these few steps."""
    (own,) = [body for language, body in FENCES if language == "python"]
    (place.folder / "own" / "short.py").write_text(own)
    parts = [p for language, body in FENCES if language == "console" for p in re.split(r"^\$ ", body, flags=re.M)]
    told = [p.partition("\n")[::2] for p in parts if p and not p.startswith("pip ")]
    lines = [f"{command} {MORE.get(command.split()[0], '')}" for command, _ in told]
    done = place.python(COMMANDS, *(n.replace("-tr nnUNetTrainerComposer", "-tr Short") for n in lines))
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for printed, (command, shown) in zip(done.stdout.split(NEXT)[1:], told, strict=True):
        assert [said for said in shown.splitlines() if said not in printed] == [], f"{command}\n{printed[-3000:]}"
    return place


NEXT = "~ next command\n"
COMMANDS = f"""
import os, shlex, sys
from importlib.metadata import entry_points
for line in sys.argv[1:]:
    print({NEXT!r}, end="", flush=True)
    sys.argv = shlex.split(line)
    if sys.argv[0] == "export":
        os.environ.update([sys.argv[1].split("=", 1)])
    elif sys.argv[0] == "composer":
        from composer.cli.main import run
        assert run(sys.argv[1:]) == 0
    else:
        next(e for e in entry_points(group="console_scripts") if e.name == sys.argv[0]).load()()
"""


def test_what_is_planned_and_trained(guided: Place) -> None:
    folder = guided.folder / "results" / "Dataset001_Balls" / "Short__nnUNetPlans_nnunet__3d_fullres"
    plans = json.loads((folder / "plans.json").read_text())
    assert set(plans["configurations"]) == {"2d", "3d_fullres"}
    whole = plans["configurations"]["3d_fullres"]
    assert (whole["patch_size"], whole["batch_size"], whole["spacing"]) == ([14, 24, 28], 2, [2.0, 1.0, 1.0])
    assert whole["data_identifier"] == "nnUNetPlans_3d_fullres"
    log = "".join(p.read_text() for p in (folder / "fold_0").glob("training_log_*.txt"))
    losses = [float(n) for n in re.findall(r"(?:train|val)_loss (\S+)", log)]
    assert len(losses) == 2
    assert all(np.isfinite(losses))
    assert "Mean Validation Dice" in log
    loaded = composer.load(folder / "fold_0" / "blueprint.yaml")
    assert (loaded.values["size"], loaded.values["classes"]) == ([14, 24, 28], 2)
    import torch

    kept: dict[str, Any] = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    loaded.build().load_state_dict(kept["network_weights"])


def test_the_prediction_lies_on_the_image(guided: Place) -> None:
    image = nibabel.load(guided.folder / "imagesTs" / "b5_0000.nii.gz")
    found = nibabel.load(guided.folder / "found" / "b5.nii.gz")
    assert found.shape == image.shape
    assert np.allclose(found.affine, image.affine)
    assert set(np.unique(found.dataobj)) <= {0, 1}


def test_nnunets_own_code_agrees_and_mistakes_are_said(guided: Place) -> None:
    """Strides, kernels and weights of the loss as nnU-Net computes them; what a trainer refuses; and a planner that is
    not told a blueprint, of which nothing is seen but the message."""
    done = guided.python(REFERENCE)
    assert done.stdout.split() == ["agreed", "BP832", "BP832"], done.stdout + done.stderr
    assert done.returncode == 1
    assert "error[BP832]: no blueprint is named" in done.stderr
    assert "Traceback" not in done.stderr


REFERENCE = """
import json, numpy as np, torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
import composer
from composer.nnunet.heads import heads
from composer.nnunet.topology import stages
from composer.nnunet.trainer import nnUNetTrainerComposer
rng = np.random.default_rng(0)
for _ in range(500):
    rank = int(rng.integers(2, 4))
    spacing, patch = rng.choice([0.5, 0.8, 1, 1.2, 3, 5], rank).tolist(), rng.integers(4, 320, rank).tolist()
    _, strides, kernels, *_ = get_pool_and_conv_props(spacing, patch, 4, 999999)
    ours = stages(spacing, patch)
    assert [s for s, _ in ours] == [list(s) for s in strides], (spacing, patch)
    assert [k for _, k in ours] == [list(k) for k in kernels], (spacing, patch)
for count in range(3, 7):  # as many outputs, with a stage more
    weights = np.array([1 / 2**i for i in range(count)]) * ([1] * (count - 1) + [0])
    found = heads(composer.load("nnunet", widths=[4] * (count + 1), size=[128, 128]), (128, 128))
    assert np.allclose([h.weight for h in found], weights / weights.sum())
print("agreed")
plans = PlansManager("preprocessed/Dataset001_Balls/nnUNetPlans_nnunet.json")
def refused(configuration):
    try:
        nnUNetTrainerComposer.build_network_architecture(plans, configuration, 1, 2, False)
    except composer.BlueprintError as fault:
        print(fault.diagnostics[0].code)
configuration = plans.get_configuration("3d_fullres")
configuration.configuration["architecture"]["arch_kwargs"] = {"blueprint": "swin_unet"}
refused(configuration)
configuration.configuration["architecture"]["arch_kwargs"] = {"n_stages": 3}
refused(configuration)
import sys
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_experiment_entry
sys.argv = ["nnUNetv2_plan_experiment", "-d", "1", "-pl", "nnUNetPlannerComposer"]
plan_experiment_entry()
"""
