"""nnU-Net's trainer with the network of a blueprint: `nnUNetv2_train … -tr nnUNetTrainerComposer -p PLANS`.

Loss, optimizer, schedule, augmentation and validation are nnU-Net's. A trainer of one's own derives from this one as
from `nnUNetTrainer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from composer.compose import Blueprint
from composer.files import write_text
from composer.nnunet.architecture import TRAINER, Architecture, ranked
from composer.nnunet.heads import heads
from composer.nnunet.reporting import without_traceback
from composer.nnunet.supervision import Maps, Supervised

without_traceback()


class nnUNetTrainerComposer(nnUNetTrainer):  # noqa: N801 - nnU-Net finds it by this name
    """Trains the blueprint that stands in the plans (see `architecture`)."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - as nnU-Net's, which reads the signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False  # nnU-Net's own: of labels that its data make coarser, see `supervision`

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        """The network, which gives maps of classes alone; also what `nnUNetv2_predict` calls."""
        made = blueprint_of(configuration_manager.configuration, num_input_channels, num_output_channels)
        network = made.build()
        network.register_forward_hook(Maps(heads(made, configuration_manager.patch_size)))
        return network

    def _build_loss(self) -> nn.Module:
        """nnU-Net's loss, of every head."""
        made, patch = self._blueprint(), self.configuration_manager.patch_size
        least = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0  # DDP wants a gradient of every weight
        return Supervised(super()._build_loss(), heads(made, patch, least))

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing to switch: in training the network gives every head, at evaluation the main one."""

    def plot_network_architecture(self) -> None:
        """The blueprint beside the checkpoints, in the place of nnU-Net's drawing."""
        if self.local_rank == 0:
            write_text(Path(self.output_folder) / "blueprint.yaml", self._blueprint().to_yaml())

    def _blueprint(self) -> Blueprint:
        counts = self.num_input_channels, self.label_manager.num_segmentation_heads
        return blueprint_of(self.configuration_manager.configuration, *counts)


def blueprint_of(configuration: dict[str, Any], channels: int, classes: int) -> Blueprint:
    """The blueprint of a configuration of the plans, checked against its patch."""
    made = Architecture.of_plans(configuration, TRAINER).made(channels, classes)
    ranked(made, len(configuration["patch_size"]))
    first = made.check().inputs[0]
    made.check(**{first.name: (1, channels, *configuration["patch_size"])})
    return made
