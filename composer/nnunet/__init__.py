"""nnU-Net v2 with any blueprint: its planner and its trainer, in Composer's place of the network.

nnU-Net looks for planners and trainers by class name among the files of its own package, so `composer nnunet install`
puts two files of one line there, which import the classes of this package; everything else stays nnU-Net's: the
fingerprint, preprocessing, augmentation, folds, sliding windows, ensembles.

    nnUNet_blueprint="unet3d widths=[16,32,64]"   what the planner reads: a blueprint and its parameters
      → planning        spacing, shapes and memory -> patch, batch and parameters, by `sizes` and the cost model
      → plans.json      `architecture` of each configuration: the blueprint's text and the parameters set (architecture)
      → heads           which outputs are maps of classes, on which grids, and what they weigh (deep supervision)
      → trainer         the network, an ordinary `Network`; the loss holds every output against the labels on its grid

`architecture`, `planning` and `heads` are pure and know nothing of nnU-Net; `planner` and `trainer` import it. The
plans hold the text of the blueprint, so that a trained folder predicts on any machine with Composer on it.

It needs nnU-Net: `pip install 'blueprint-composer[nnunet]'`.
"""
