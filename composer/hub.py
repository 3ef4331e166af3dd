"""Networks from folders and from Hugging Face's hub, and to it.

    network = composer.from_pretrained("heart")                    a folder that `save_pretrained` wrote
    network = composer.from_pretrained("lab/heart", revision="v2")    a repository, kept in huggingface_hub's cache
    composer.hub.push_to_hub(network, "lab/heart")

A blueprint and safetensors are data: nothing of what is opened runs. Only a repository that a call names is downloaded,
and no command does. The hub needs huggingface_hub: `pip install 'blueprint-composer[hub]'`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import folders, pretrained
from composer.compose import load
from composer.diagnostics import BlueprintError, Diagnostic

if TYPE_CHECKING:
    from composer.module import Network
    from composer.registry import Registry


def from_pretrained(
    source: str | os.PathLike[str],
    registry: Registry | None = None,
    /,
    *,
    revision: str | None = None,
    offline: bool = False,
    **overrides: Any,
) -> Network:
    """The network of a folder, or of a repository `owner/name` at a `revision`, with its weights, in evaluation.

    `offline` takes only what was downloaded before. Overrides are addresses: `**{"image.pad": "auto"}`. Raises
    `BlueprintError` where it is no such folder (BP835), where the hub does not give it (BP836), where the weights do
    not fit, with their names (BP703), and for what is wrong with the blueprint: a plugin that is missing (BP103).
    """
    folder = Path(source) if Path(source).exists() else fetched(str(source), revision, offline)
    folders.read(folder)
    blueprint = load(folder / folders.BLUEPRINT, registry, **overrides)
    return blueprint.build(weights=folder / folders.WEIGHTS).eval()


def fetched(repository: str, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a repository in huggingface_hub's cache; only the files of a saved network are downloaded."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        text = f"there is no folder `{repository}`, and no repository has such a name"
        raise BlueprintError(Diagnostic("BP835", text, help=("name a folder, or a repository as `owner/name`",)))
    hub = _hub()
    try:
        found = hub.snapshot_download(
            repository, revision=revision, local_files_only=offline, allow_patterns=[*folders.FILES]
        )
    except Exception as fault:  # its own errors, those of its transport, of the disk
        raise _refused(f"there is no folder `{repository}`, and the hub does not give it", fault) from fault
    return Path(found)


def push_to_hub(
    network: Network, repository: str, *, labels: Sequence[str] = (), private: bool = False, message: str = ""
) -> str:
    """Write a network into a repository of the hub, which is made where it is not there; the address of the commit.

    It goes by the token of `hf auth login`. BP836 where the hub refuses.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "network"
        pretrained.save(network, folder, labels)
        try:
            api = hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=message or network.blueprint.name
            )
        except Exception as fault:
            raise _refused(f"the hub did not take `{repository}`", fault) from fault
    return str(done)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        help = ("pip install 'blueprint-composer[hub]'",)
        raise BlueprintError(Diagnostic("BP836", "the hub needs the package huggingface_hub", help=help)) from None
    return huggingface_hub


def _refused(what: str, fault: Exception) -> BlueprintError:
    said = " ".join(str(fault).split())
    note = f"{type(fault).__name__}: {said[:200]}{'…' * (len(said) > 200)}"
    help = ("is the name right, and the network there? private ones need `hf auth login`",)
    return BlueprintError(Diagnostic("BP836", what, notes=(note,), help=help))
