"""Learning from images: a list of cases, a recipe, and a run folder that survives every interruption.

    cases      which images, which labels, which of them are for training (`dataset.json`, a YAML list, pairs)
    recipe     how: optimizer, schedule, augmentation, loss; a blueprint's `source: {training: …}` has its own
    store      images and labels as the network sees them, checked and prepared once, on disk
    patches    random crops of them, changed at random
    objective  the loss over all outputs of a network in training
    engine     Lightning at work, and what it keeps

It stands on top of the walk and of `composer.imaging`, and uses MONAI for transforms, losses and metrics, and Lightning
for devices, precision and loops. `composer.lightning` is the module for loops of one's own.
"""
