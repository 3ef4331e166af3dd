"""`composer export NAME --monai-bundle DIR`: a bundle of MONAI, which its tools verify, load and run.

    DIR/configs/metadata.json    what the network takes and gives, and what it was made with
    DIR/configs/inference.json   how an image is read, segmented and written, as `composer run` does it
    DIR/configs/logging.conf
    DIR/models/model.pt          its weights
    DIR/docs/README.md

The network is `composer.bundles.network` of the flat blueprint, whose lines stand in inference.json: a bundle knows no
path of itself (`bundle_root` is the folder one is in, unless given), and so `monai.bundle.load` finds it from anywhere.
To run a bundle MONAI wants more packages: `pip install 'blueprint-composer[bundle]'`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch

from composer.bundles import first_output
from composer.diagnostics import BlueprintError, Diagnostic
from composer.exporters.opening import Opening, openings
from composer.exporters.verifying import Runner, verified
from composer.imaging import VIEWS, untouched
from composer.inference import Program
from composer.locking import brought
from composer.pretrained import self_contained
from composer.segmenting import segmentation
from composer.shipped import OWN

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
META, INFERENCE, LOGGING, MODEL, README = FILES = (
    "configs/metadata.json",
    "configs/inference.json",
    "configs/logging.conf",
    "models/model.pt",
    "docs/README.md",
)
ABOVE_ZERO = 1.2e-38
"""The least that one logit for two classes says the second one from: MONAI takes its threshold for a yes, and a logit
that is zero, as after a ReLU, says no."""

VERSION = "0.1.0"
"""Of the bundle: the first one that is made of a network."""

Size = tuple[int, ...]


class BundleExporter:
    """Writes the folder of a segmentation network with one image in, of whose outputs the first one counts, a map as
    large as the image. Anything else is BP834."""

    files = FILES
    kept = (README,)

    def __call__(self, network: Any, path: Path, **options: Any) -> str | None:
        program = network.blueprint.check()
        channels, classes, size = segmentation(program, network.blueprint.name)
        first = program.inputs[0].name
        if first in options["shapes"]:
            size = options["shapes"][first][2:]
        with first_alone(network):
            return self.written(network, program, path, (channels, classes, size), options)

    @staticmethod
    def written(network: Any, program: Program, path: Path, view: tuple[int, int, Size], options: Any) -> str | None:
        """The files, and what their run beside the network says."""
        channels, classes, size = view
        check(network, program, channels, size)
        shape = list(size) if options.get("fixed") else spatial_shape(program, size)
        names = labels_of(classes, options.get("labels", ()))
        texts = {
            META: _json(metadata(network, program, channels, names, shape)),
            INFERENCE: _json(inference(network, channels, classes, size)),
            LOGGING: CONF,
            README: readme(network.blueprint, size),
        }
        for name, text in texts.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text, encoding="utf-8")
        (path / MODEL).parent.mkdir()
        torch.save({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, path / MODEL)
        if not options.get("verify", True):
            return None
        return verified(network, [{program.inputs[0].name: (1, channels, *size)}], _runner(path))


@contextmanager
def first_alone(network: Any) -> Iterator[None]:
    """The network gives its first output alone for a while."""
    hook = network.register_forward_hook(first_output)
    try:
        yield
    finally:
        hook.remove()


def check(network: Any, program: Program, channels: int, size: Size) -> None:
    """Refuse (BP834) what MONAI's evaluator and windows cannot run."""
    name = network.blueprint.name
    if len(program.inputs) > 1:
        also = ", ".join(f"`{i.name}`" for i in program.inputs[1:])
        raise _refused(f"`{name}` also takes {also}, and a MONAI bundle feeds one image")
    with torch.no_grad(), untouched(network):
        gives = tuple(network(torch.zeros(1, channels, *size)).shape[2:])
    if gives != size:
        text = f"`{name}` gives {_by(gives)} of a window of {_by(size)}, and a MONAI bundle takes windows of one size"
        raise _refused(text, "pad the convolutions; `composer run` segments with the centres of windows")


def _by(size: Size) -> str:
    return " × ".join(map(str, size))


def _refused(text: str, *help: str) -> BlueprintError:
    return BlueprintError(Diagnostic("BP834", text, help=help))


# --- metadata ---------------------------------------------------------------------------------------------------------


def metadata(network: Any, program: Program, channels: int, names: list[str], shape: list[Any]) -> dict[str, Any]:
    """What the network takes and gives, as MONAI's schema wants it."""
    blueprint, paper = network.blueprint, str(network.blueprint.source.get("paper", ""))
    common = {"type": "image", "spatial_shape": shape, "dtype": "float32", "value_range": [], "is_patch_data": True}
    image = {**common, "format": "magnitude", "modality": "n/a", "num_channels": channels}
    pred = {**common, "format": "labels", "num_channels": len(names)}
    needed = {n: v for n, v in brought(program, blueprint.registry).items() if v} | {OWN: installed(OWN)}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "exported by Composer"},
        "monai_version": installed("monai"),
        "pytorch_version": installed("torch"),
        "numpy_version": installed("numpy"),
        "required_packages_version": {**needed, "nibabel": installed("nibabel"), "pytorch-ignite": "0.5"},
        "name": blueprint.name,
        "task": f"segmentation into {max(2, len(names))} classes",
        "description": blueprint.summary or blueprint.name,
        "authors": f"architecture: {paper}" if paper else "not said",
        "copyright": "not said",
        "intended_use": "not said: whoever trained it should say so here",
        "references": [paper] if paper else [],
        "network_data_format": {
            "inputs": {"image": {**image, "channel_def": {str(k): f"image {k}" for k in range(channels)}}},
            "outputs": {"pred": {**pred, "channel_def": {str(k): n for k, n in enumerate(names)}}},
        },
    }


def labels_of(classes: int, labels: Sequence[str]) -> list[str]:
    """What each channel of the output stands for; of one logit the class that it says yes to."""
    names = list(labels) or ["background", *(f"class {k}" for k in range(1, max(2, classes)))]
    return names if classes > 1 else names[-1:]


def spatial_shape(program: Program, size: Size) -> list[int | str]:
    """The valid sizes of each axis as MONAI writes them, `32*n`, or the size it is made for where they have an end.
    MONAI tries n = 1, so that must be valid too."""
    spec = program.inputs[0]
    env = dict(zip(spec.axes, size, strict=True))
    padded = spec.pad != "error"
    found = {} if padded else openings(program, {a: n for a, n in env.items() if not a.isdigit()})
    return [_pattern(found.get(a), n) for a, n in env.items()]


def _pattern(opening: Opening | None, size: int) -> int | str:
    if opening is None or opening.last is not None:
        return size
    if (opening.step, opening.first) == (1, 1):
        return "*"
    multiple = "n" if opening.step == 1 else f"{opening.step}*n"
    return multiple + (f"+{opening.size(opening.first - 1)}" if opening.first > 1 else "")


# --- inference --------------------------------------------------------------------------------------------------------


def inference(network: Any, channels: int, classes: int, size: Size) -> dict[str, Any]:
    """The workflow, in MONAI's own parts: the same label map as that of `composer run`."""
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "images": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "network_def": {
            "_target_": "composer.bundles.network",
            "blueprint": self_contained(network.blueprint).splitlines(),
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing(channels, size)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': name} for name in @images]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": inferer(size),
        "postprocessing": {"_target_": "Compose", "transforms": postprocessing(classes)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{MODEL}'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def preprocessing(channels: int, size: Size) -> list[dict[str, Any]]:
    """To (C, D, H, W), slices from the feet up, rows to the back, columns to the left, as `imaging` shows an image; the
    foreground to mean 0 and deviation 1; and at least as large as a window."""
    codes = [["L", "R"], ["P", "A"], ["I", "S"]]
    key = {"keys": "image"}
    window = list(size) if len(size) == 3 else [-1, *size]
    return [
        {"_target_": "LoadImaged", **key, "reader": "NibabelReader", "image_only": True},
        {"_target_": "EnsureChannelFirstd", **key, "channel_dim": "no_channel" if channels == 1 else -1},
        {"_target_": "Orientationd", **key, "axcodes": VIEWS["axial"], "labels": codes},
        {"_target_": "Lambdad", **key, "func": {"_target_": "composer.bundles.zscore", "_mode_": "callable"}},
        {"_target_": "SpatialPadd", **key, "spatial_size": window, "mode": "reflect"},
        {"_target_": "EnsureTyped", **key},
    ]


def inferer(size: Size) -> dict[str, Any]:
    """Windows under a Gaussian; of a 2-D network slice by slice."""
    common = {"roi_size": list(size), "sw_batch_size": 1, "overlap": 0.5, "mode": "gaussian"}
    if len(size) == 3:
        return {"_target_": "SlidingWindowInferer", **common}
    return {"_target_": "SliceInferer", **common, "spatial_dim": 0}


def postprocessing(classes: int) -> list[dict[str, Any]]:
    """Labels, turned back to the file's axes, beside its affine."""
    decided = {"argmax": True} if classes > 1 else {"threshold": ABOVE_ZERO}
    labels = "$np.uint8" if classes <= 256 else "$np.uint16"
    return [
        {"_target_": "AsDiscreted", "keys": "pred", **decided},
        {
            "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
            "nearest_interp": True, "to_tensor": True,
        },
        {
            "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "seg",
            "output_dtype": labels, "resample": False, "separate_folder": False,
        },
    ]  # fmt: skip


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _runner(path: Path) -> Runner:
    """The bundle's network as MONAI makes it, with the bundle's weights."""
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(path / INFERENCE))
    made: Any = parser.get_parsed_content("network_def")
    made.load_state_dict(torch.load(path / MODEL, weights_only=True))
    return lambda inputs: [made.eval()(*inputs.values()).detach()]


CONF = """\
[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(message)s
"""


def readme(blueprint: Any, size: Size) -> str:
    """How the bundle is run."""
    summary = blueprint.summary or "A network"
    return README_TEXT.format(name=blueprint.name, summary=summary, window=_by(size), library=OWN)


README_TEXT = """\
# {name}

{summary}. It segments NIfTI images in windows of {window}.

```sh
pip install '{library}[bundle]'
python -m monai.bundle run --config_file DIR/configs/inference.json --bundle_root DIR \\
  --dataset_dir IMAGES --output_dir OUT
```
```python
network = monai.bundle.load("NAME", bundle_dir="FOLDER_OF_DIR", workflow_type="inference")
```
Intensities of the foreground are brought to mean 0 and deviation 1, and the axes are turned as the network sees them.
The blueprint in `configs/inference.json` describes the network; Composer and the plugins that it requires make it.
MONAI's configurations run code: open those that you trust.

Say here what it was trained on, how well it does, and what it is not for.
"""
