"""Writing a network as a folder: `network.save_pretrained(FOLDER)`, and what `composer export NAME --hub` writes.

The blueprint goes in as it was resolved, so that neither a shipped blueprint that changes nor a file that is not there
makes another network of it; what comes from plugins is required by name and version. `PyTorchModelHubMixin` of
huggingface_hub is not used: it keeps the arguments of a constructor and calls the class again, and a network here is
made of a blueprint.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from composer.diagnostics import BlueprintError, Diagnostic
from composer.files import whole_folder
from composer.flat import document
from composer.folders import BLUEPRINT, CARD, CONFIG, FILES, FORMAT, WEIGHTS
from composer.liveness import ids_of
from composer.locking import brought, plain_params, version
from composer.registry import canonical
from composer.shipped import OWN
from composer.strides import multiples, readable
from composer.weights import save_file
from composer.writing import dump


def save(network: Any, folder: str | os.PathLike[str], labels: Sequence[str] = ()) -> None:
    """A network as a folder, whole or not at all. One that `save` wrote is replaced, but for its README.md; any other
    folder with something in it is refused (BP806)."""
    with whole_folder(Path(folder), FILES, kept=(CARD,)) as new:
        write(network, new, labels)


def write(network: Any, folder: Path, labels: Sequence[str] = ()) -> None:
    """The four files, into a folder that exists. `labels` are the classes' names, from background on (BP834 where they
    are more or fewer)."""
    config = described(network, labels)
    (folder / BLUEPRINT).write_text(self_contained(network.blueprint), encoding="utf-8")
    save_file(network.state_dict(), folder / WEIGHTS, {"format": "pt"})  # of two words the order would be drawn
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card(network.blueprint, config), encoding="utf-8")


def self_contained(blueprint: Any) -> str:
    """The text of a blueprint that needs no other file, and says which plugins it needs."""
    program = blueprint.infer()
    made = document(program.graph)
    plugins = {n: v for n, v in brought(program, blueprint.registry).items() if v and n != OWN}
    named = [str(r) for r in made.get("requires", ())]
    known = {canonical(re.split(r"[^\w.-]", r)[0]) for r in named}
    named += [f"{n}>={v}" for n, v in plugins.items() if canonical(n) not in known]
    requires = {"requires": named} if named else {}
    head = [k for k in ("blueprint", "name", "summary", "source") if k in made]
    rest = [k for k in made if k not in {*head, "requires"}]
    return dump({k: made[k] for k in head} | requires | {k: made[k] for k in rest})


def described(network: Any, labels: Sequence[str] = ()) -> dict[str, Any]:
    """What config.json says."""
    blueprint, program = network.blueprint, network.blueprint.check()
    strides = multiples(program.constraints)
    ends = {o.name: [program.values[i].type for i in ids_of(o.ids)] for o in program.outputs if not o.training}
    classes = next((e[0].channels for e in ends.values() if e), 0)
    if labels and len(labels) != classes and (classes, len(labels)) != (1, 2):
        text = f"{len(labels)} labels do not name the {classes} classes of `{blueprint.name}`"
        raise BlueprintError(Diagnostic("BP834", text, help=("name all of them, the background first",)))
    return {
        "library_name": OWN,
        "format": FORMAT,
        "name": blueprint.name,
        "composer": version(),
        "distributions": brought(program, blueprint.registry),
        "params": plain_params(blueprint),
        "parameters": sum(p.numel() for p in network.parameters()),
        "inputs": {i.name: readable(i.type, strides) for i in program.inputs},
        "outputs": {n: ", ".join(readable(t, strides) for t in e) for n, e in ends.items()},
        "size": {i.name: [program.built[a] for a in i.axes if a in program.built] for i in program.inputs},
        **({"id2label": {str(k): n for k, n in enumerate(labels)}} if labels else {}),
        **({"label2id": {n: k for k, n in enumerate(labels)}} if labels else {}),
    }


def card(blueprint: Any, config: Mapping[str, Any]) -> str:
    """A README.md with the metadata that the hub reads."""
    paper = blueprint.source.get("paper")
    ports = [f"{n} {t}" for side in ("inputs", "outputs") for n, t in config[side].items()]
    made = ", ".join(f"{n} {v}".strip() for n, v in config["distributions"].items())
    named = config.get("id2label") or {}
    facts = {
        "architecture": f"{blueprint.summary or blueprint.name}" + (f" ({paper})" if paper else ""),
        "parameters": f"{config['parameters']:,}",
        "types": ", ".join(f"`{p}`" for p in ports),
        "classes": ", ".join(f"{k} {n}" for k, n in named.items()),
        "blocks of": made,
    }
    return CARD_TEXT.format(
        library=OWN, name=blueprint.name, facts="\n".join(f"- {k}: {v}" for k, v in facts.items() if v)
    )


CARD_TEXT = """\
---
library_name: {library}
tags: [medical-imaging, composer]
---
# {name}

{facts}

```python
import composer

network = composer.from_pretrained("FOLDER")  # a folder, or the name of this repository; in evaluation
```
`composer run FOLDER image.nii.gz -o labels.nii.gz` segments an image, `composer show FOLDER` draws the network. The
network is described by `blueprint.yaml`; opening this folder runs no code (`pip install '{library}[hub]'`).

Say here what it was trained on, how well it does, and what it is not for.
"""
