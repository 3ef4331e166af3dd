"""Weights between files, official names and networks.

Reading never runs code: `.safetensors` and `.npz` cannot hold any, and pickles are read with torch's restricted
unpickler, which refuses whatever is not a tensor or a plain container. What a file lacks or has too much is said before
anything is changed, so that a network is either loaded or untouched.

    tensors = load_file("official.pth")
    ours, plan = convert(tensors, sources(blueprint.weights)["official"], network.state_dict())
    load_into(network, ours)
"""

from __future__ import annotations

import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from composer.diagnostics import BlueprintError, Diagnostic, did_you_mean, listing, nearest
from composer.files import publish
from composer.folders import weights_of
from composer.keymap import COUNTER, Mismatch, Plan, Shape, compile_rules, match

_T = TypeVar("_T")

NESTS = ("state_dict", "model_state_dict", "model", "network_weights")
"""Where training programs keep the weights inside of their checkpoints."""

MOST_NAMED = 6
"""Names that one line of a message shows."""

CONVERT = "where you trust the file, `composer weights convert` or `safetensors.torch.save_file` rewrites it safely"


# ---------------------------------------------------------------- files


def load_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU; of a folder that `save_pretrained` wrote, those in it.
    Anything else is a BlueprintError (BP702)."""
    path = weights_of(path) or Path(path)
    read = _reader(path)
    try:
        content = read(path)
    except Exception as error:  # a damaged file makes its reader fail in any way at all
        raise _refused(path, error) from error
    return _named(path, _unwrapped(content))


def _reader(path: Path) -> Callable[[Path], object]:
    if not path.exists():
        raise _unreadable(path, "there is no such file", *_neighbours(path))
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in READERS)
        raise _unreadable(
            path, "it is a directory", f"name a file in it; there are {listing(inside, MOST_NAMED) or 'none'}"
        )
    if path.suffix.lower() not in READERS:
        raise _unreadable(path, f"files ending in `{path.suffix}` are unknown", f"weights end in {listing(READERS)}")
    if path.stat().st_size == 0:
        raise _unreadable(path, "it is empty", "download or save it again")
    return READERS[path.suffix.lower()]


def _neighbours(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return [f"`{path.parent}` is no directory"]
    close = nearest(path.name, (p.name for p in path.parent.iterdir()))
    return [f"did you mean `{path.with_name(name)}`?" for name in close] or ["check the path"]


def _read_safetensors(path: Path) -> object:
    return safetensors.torch.load_file(path)


def _read_pickle(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on old pickles; what matters is an error
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_npz(path: Path) -> object:
    if not zipfile.is_zipfile(path):
        raise ValueError("not a zip archive")  # numpy would guess, and guess a pickle
    with np.load(path, allow_pickle=False) as archive:
        return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}


READERS: Mapping[str, Callable[[Path], object]] = {
    ".safetensors": _read_safetensors,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _read_pickle),
    ".npz": _read_npz,
}
"""How a file is read, by its ending."""


def _unreadable(path: Path, why: str, *help: str) -> BlueprintError:
    return BlueprintError(Diagnostic("BP702", f"cannot read weights from `{path}`: {why}", help=help))


def _refused(path: Path, error: Exception) -> BlueprintError:
    """A file that wants code is refused, and what it wants is named; the rest are damaged files."""
    said = str(error)
    wanted = _wanted(path, said)
    if not wanted:
        why = f"it is damaged or not what its name says ({type(error).__name__}: {_core(said)})"
        return _unreadable(path, why, "download or save it again")
    why = "refused: it is a pickle with more than tensors, and reading one of those can run any code"
    problem = Diagnostic("BP702", f"cannot read weights from `{path}`: {why}", notes=(f"it wants {wanted}",))
    return BlueprintError(problem.with_help("nothing was run", CONVERT))


def _wanted(path: Path, said: str) -> str:
    """What a pickle that was not run asks for; nothing when the file is no pickle."""
    if "Object arrays cannot be loaded" in said:
        return "Python objects in an array"
    if found := _GLOBAL.search(said):
        return f"`{found[1]}`"
    with path.open("rb") as file:
        start = file.read(2)
    return "opcodes that weights do not need" if "operand" in said and start in _PROTOCOLS else ""


_GLOBAL = re.compile(r"GLOBAL (\S+)")  # torch's word for a function or class that is not on its list
_PROTOCOLS = (b"\x80\x03", b"\x80\x04", b"\x80\x05")  # of Python's own pickles; torch writes the second


def _core(said: str) -> str:
    """The sentence of a library's message that is about the file."""
    about = re.search(r"WeightsUnpickler error:\s*(.+)", said)
    lines = about[1] if about else said.strip()
    return lines.split("\n")[0][:120]


def _unwrapped(content: object) -> object:
    """The state_dict inside of a training program's checkpoint."""
    for name in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return _unwrapped(content[name])
    return content


def _named(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise _unreadable(path, f"it holds {_a(content)}, not tensors with names", "save `network.state_dict()`")
    strange = [f"{name} ({type(value).__name__})" for name, value in content.items() if not _is_weight(name, value)]
    if strange or not content:
        some = f"these are no tensors with names: {listing(strange, MOST_NAMED)}" if strange else "it holds no tensor"
        raise _unreadable(path, some, "save `network.state_dict()` and nothing else")
    return _without_prefix({str(name): value for name, value in content.items()})


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} `{name}`"


def _without_prefix(tensors: dict[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """`module.` is what DataParallel puts before every name."""
    if all(name.startswith(prefix) and name != prefix for name in tensors):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def save_file(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `.safetensors`; the file appears whole or not at all. BlueprintError (BP704) when it cannot be written."""
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise _unwritable(
            path, "weights are written as `.safetensors`", f"name it `{path.with_suffix('.safetensors')}`"
        )
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        safetensors.torch.save_file(_separate(tensors), partial, None if metadata is None else dict(metadata))
        publish(partial, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unwritable(path, str(error).splitlines()[0]) from error
    finally:
        partial.unlink(missing_ok=True)


def _unwritable(path: Path, why: str, *help: str) -> BlueprintError:
    return BlueprintError(Diagnostic("BP704", f"cannot write weights to `{path}`: {why}", help=help))


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor contiguous and with a storage of its own, as safetensors demands; copied only where it is not."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        own[name] = plain
    return own


# ---------------------------------------------------------------- networks


@dataclass(frozen=True)
class Leftover:
    """Names that did not meet: `missing` in the file, `unexpected` by the network. Both empty unless `strict=False`."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def load_into(
    network: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True, name: str = "file"
) -> Leftover:
    """Put tensors into a network by name, all or nothing: on a BlueprintError (BP703) the network is untouched.

    Without `strict` names may be missing or too many, but what meets must have the same shape, and something must meet.
    """
    state = {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    left = Leftover(
        tuple(key for key in state if key not in tensors and not key.endswith(COUNTER)),
        tuple(key for key in tensors if key not in state),
    )
    misshapen = [key for key in state if key in tensors and tensors[key].shape != state[key].shape]
    nothing = bool(state) and not any(key in state for key in tensors)
    if misshapen or nothing or (strict and (left.missing or left.unexpected)):
        raise _misfit(name, state, tensors, left, misshapen)
    network.load_state_dict({key: tensors[key] for key in state if key in tensors}, strict=False)
    return left


def _misfit(
    name: str, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], left: Leftover, misshapen: Sequence[str]
) -> BlueprintError:
    counts = {"missing": len(left.missing), "unexpected": len(left.unexpected), "of another shape": len(misshapen)}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    notes = (
        *_lines("missing", left.missing, lambda key: f"`{key}`"),
        *_lines("unexpected", left.unexpected, lambda key: f"`{key}`{did_you_mean(key, left.missing)}"),
        *_lines(
            "another shape", misshapen, lambda k: f"`{k}` {_shape(tensors[k])}, the network has {_shape(state[k])}"
        ),
    )
    help = "official names are mapped by the blueprint's `weights:` rules: `composer weights convert`"
    message = f"`{name}` does not fit this network of {len(state)} tensors: {said}; nothing was loaded"
    return BlueprintError(Diagnostic("BP703", message, notes=notes, help=(help,) if left.unexpected else ()))


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)


# ---------------------------------------------------------------- official names


def convert(
    tensors: Mapping[str, Tensor], rules: Iterable[object], wanted_state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Plan]:
    """Official tensors under our addresses, as far as they fit, and the plan that says how far that is.

    The tensors may be views of the official ones; `save_file` and `load_into` copy.
    """
    wanted = _shapes(wanted_state)
    plan = match(rules, _shapes(tensors), wanted)
    ours: dict[str, Tensor] = {}
    for key, move in plan.moves.items():
        goals = [wanted[address] for address in move.addresses]
        made = move.rule.transform.forward(tensors[key], goals, move.rule.options)
        ours.update(zip(move.addresses, made, strict=True))
    return ours, plan


def export(
    state: Mapping[str, Tensor], rules: Iterable[object], official: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Our tensors under the official keys, given with their shapes: what `convert` did, undone.

    Dropped keys are left out. BlueprintError (BP705) when an address or a key would get lost, or a transform has no way
    back.
    """
    plan = match(compile_rules(rules), official, _shapes(state))
    if not plan.complete:
        notes = tuple(report(plan).splitlines()[:-1])
        raise BlueprintError(Diagnostic("BP705", "these weights have no complete set of official names", notes=notes))
    oneway = [f"{m.key} ({m.transform})" for m in plan.moves.values() if m.rule.transform.backward is None]
    if oneway:
        why = f"some transforms cannot be undone: {listing(oneway, MOST_NAMED)}"
        raise BlueprintError(Diagnostic("BP705", f"cannot give the weights their official names; {why}"))
    return {
        key: backward([state[a] for a in move.addresses], tuple(official[key]))
        for key, move in plan.moves.items()
        if (backward := move.rule.transform.backward)
    }


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: _shape(tensor) for name, tensor in tensors.items()}


def report(plan: Plan) -> str:
    """What a plan does, for people: how much fits, and everything that does not, in bounded lists."""
    rivals = {duplicate.keys[1] for duplicate in plan.duplicates}
    total = len(plan.moves) + len(plan.dropped) + len(plan.unknown) + len(plan.mismatched) + len(rivals)
    reached = sum(len(move.addresses) for move in plan.moves.values())
    lines = [
        f"mapped {len(plan.moves)} of {total} keys to {reached} addresses",
        *([f"dropped {len(plan.dropped)}: {listing(plan.dropped, MOST_NAMED)}"] if plan.dropped else []),
        *_lines("missing, no key for", plan.missing),
        *_lines("unknown, no rule for", plan.unknown),
        *_lines("does not fit", plan.mismatched, lambda m: f"{m}{_meant(m, plan.missing)}"),
        *_lines("two keys for", plan.duplicates),
    ]
    return "\n".join([*lines, "complete" if plan.complete else "incomplete"])


def _meant(mismatch: Mismatch, missing: Sequence[str]) -> str:
    absent = [a for a, shape in zip(mismatch.addresses, mismatch.wanted, strict=True) if shape is None]
    return did_you_mean(absent[0], missing) if absent else ""


def _lines(title: str, items: Sequence[_T], show: Callable[[_T], str] = str) -> list[str]:
    """One line per item, and how many more there are."""
    rest = [f"{title}: … ({len(items) - MOST_NAMED} more)"] if len(items) > MOST_NAMED else []
    return [f"{title}: {show(item)}" for item in items[:MOST_NAMED]] + rest
