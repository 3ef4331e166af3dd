"""nnU-Net's planner for a blueprint: `nnUNet_blueprint=unet3d nnUNetv2_plan_experiment -d 1 -pl nnUNetPlannerComposer`.

Target spacing, resampling, normalization and the decision about a low-resolution configuration are nnU-Net's; patch,
batch and network are `planning`'s. A configuration whose images have more or fewer axes than the blueprint was written
for is left out where it cannot be made for them, and one of that name which is in the plans already stays: two runs
with two blueprints and one `-overwrite_plans_name` plan 2-D and 3-D.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from composer.diagnostics import BlueprintError
from composer.nnunet.architecture import TRAINER, Architecture, OtherRankError, asked, given
from composer.nnunet.planning import Data, Planned, plan
from composer.nnunet.reporting import without_traceback

without_traceback()


class nnUNetPlannerComposer(ExperimentPlanner):  # noqa: N801 - nnU-Net finds it by this name
    """Plans for the blueprint that the environment variable `nnUNet_blueprint` names."""

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str | None = None,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
    ):
        self.asked = asked()
        self.rank = len(self.asked.check().inputs[0].axes)
        plans_name = plans_name or f"nnUNetPlans_{re.sub('[^A-Za-z0-9]+', '_', self.asked.name)}"
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.found: dict[str, Planned] = {}
        self.left_out: dict[str, BlueprintError] = {}

    def plan_experiment(self) -> dict[str, Any]:
        """The plans, which are written, and shown in a few lines."""
        with redirect_stdout(io.StringIO()):  # it calls every network a U-Net, and prints what is left out
            plans: dict[str, Any] = super().plan_experiment()
        for name in self.found:
            if name in plans["configurations"]:  # else nnU-Net looked at it and dropped it
                print(f"{name}: {self.found[name]}")
        for name, fault in self.left_out.items():
            print(f"{name}: left out; {fault.diagnostics[0].message}")
        first, plans_name = next(iter(self.found)), self.plans_identifier
        print(f"wrote the plans `{plans_name}`, for the trainer {TRAINER}:")
        print(f"  nnUNetv2_preprocess -d {self.dataset_name[7:10]} -plans_name {plans_name} -c {first}")
        print(f"  nnUNetv2_train {self.dataset_name[7:10]} {first} 0 -p {plans_name} -tr {TRAINER}")
        return plans

    def get_plans_for_configuration(
        self,
        spacing: Any,
        median_shape: Any,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[Any, Any],
    ) -> dict[str, Any]:
        """A configuration; one that the blueprint does not suit is hollow, and is left out of the file."""
        name = next(n for n in ("2d", "3d_fullres", "3d_lowres") if data_identifier.endswith(n))
        data = self._data(spacing, median_shape, approximate_n_voxels_dataset)
        try:
            planned = self._planned(data, _cache)
        except BlueprintError as fault:
            if data.rank == self.rank and not isinstance(fault, OtherRankError):
                raise
            self.left_out[name] = fault
            return {"patch_size": [int(n) for n in data.shape], "spacing": np.array(spacing)}
        self.found[name] = planned
        return self._configuration(planned, spacing, median_shape, data_identifier)

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Without what the blueprint does not suit."""
        if not self.found:
            raise BlueprintError([d for fault in self.left_out.values() for d in fault.diagnostics])
        for name in self.left_out:
            plans["configurations"].pop(name, None)
        super().save_plans(plans)

    def generate_data_identifier(self, configuration_name: str) -> str:
        """The preprocessed data are the default planner's, unless it was asked for others."""
        usual = self.overwrite_target_spacing is None and self.preprocessor_name == "DefaultPreprocessor"
        own = configuration_name == "3d_lowres" or not usual
        return f"{self.plans_identifier if own else 'nnUNetPlans'}_{configuration_name}"

    def _data(self, spacing: Any, shape: Any, voxels: float) -> Data:
        names = self.dataset_json.get("channel_names", self.dataset_json.get("modality", {}))
        axes = len(spacing)
        return Data(
            tuple(float(s) for s in spacing), tuple(round(float(n)) for n in list(shape)[:axes]),
            len(names), self._classes(), voxels,
        )  # fmt: skip

    def _classes(self) -> int:
        """Maps that the network gives: classes, or regions that may overlap."""
        labels = LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        count: int = labels.num_segmentation_heads
        return count

    def _planned(self, data: Data, cache: dict[Any, Any]) -> Planned:
        """Found once for each question: nnU-Net asks again and again while it looks for a lower resolution."""
        if data not in cache:
            load = Architecture(self.asked.to_yaml()).load
            cache[data] = plan(load, data, self.UNet_vram_target_GB, given(self.asked))
        found: Planned = cache[data]
        return found

    def _configuration(self, planned: Planned, spacing: Any, shape: Any, identifier: str) -> dict[str, Any]:
        normalization, masked = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        data, data_options, labels, label_options = self.determine_resampling()
        probabilities, probability_options = self.determine_segmentation_softmax_export_fn()
        return {
            "data_identifier": identifier,
            "preprocessor_name": self.preprocessor_name,
            "batch_size": planned.batch,
            "patch_size": list(planned.patch),
            "median_image_size_in_voxels": shape,
            "spacing": spacing,
            "normalization_schemes": normalization,
            "use_mask_for_norm": masked,
            "resampling_fn_data": data.__name__,
            "resampling_fn_seg": labels.__name__,
            "resampling_fn_data_kwargs": data_options,
            "resampling_fn_seg_kwargs": label_options,
            "resampling_fn_probabilities": probabilities.__name__,
            "resampling_fn_probabilities_kwargs": probability_options,
            "architecture": Architecture(self.asked.to_yaml(), planned.params).to_plans(),
        }
