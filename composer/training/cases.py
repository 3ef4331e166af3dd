"""Which images a network learns from: a `dataset.json` of the Medical Segmentation Decathlon or of nnU-Net, a YAML
list, or pairs of files.

    labels: [background, liver, tumour]        # or {0: background, 1: liver, …}, or nnU-Net's {background: 0, …}
    channels: [CT]                             # what each channel is; decides how intensities are normalized
    cases:
      - {image: a.nii.gz, label: a_labels.nii.gz}
      - {image: [t1.nii.gz, t2.nii.gz], label: b.nii.gz, name: b}
    split: {validation: [b], test: []}         # the others are for training; without it a fifth is for validation
    flip: false                                # where left and right are different classes

Paths are relative to the file. Nothing but the list is read here; `store` looks into the images. Imports no torch.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from composer import imaging, source
from composer.diagnostics import BlueprintError, Diagnostic, Source, Span, did_you_mean, listing
from composer.source import Map, span_of

SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Case:
    """One image of one or several files (a channel each), and its label map; `span` is where the list names it."""

    name: str
    images: tuple[Path, ...]
    label: Path | None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Dataset:
    """The cases by their part (`training`, `validation`, `test`), names of the classes from 0, and of the channels.

    `labels` and `channels` are empty where the list does not say. `flip` is false where mirrored images would be wrong;
    `divided` says that the list itself names the parts.
    """

    name: str
    parts: Mapping[str, tuple[Case, ...]]
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    flip: bool = True
    divided: bool = False
    path: Path | None = None

    @property
    def cases(self) -> tuple[Case, ...]:
        """All of them that have a label map; where none has one, all."""
        listed = [c for part in SPLITS for c in self.parts.get(part, ())]
        return tuple(c for c in listed if c.label) or tuple(listed)

    def unlabelled(self) -> Dataset:
        """All images for training, but those that are kept for tests, without their label maps."""
        cases = [replace(c, label=None) for part in SPLITS[:2] for c in self.parts.get(part, ())]
        return replace(self, parts={"training": tuple(cases)}, labels=(), divided=True)

    def split(self, share: float = 0.2, seed: int = 0) -> Dataset:
        """With a share of the training cases, at least one, drawn for validation where the list names none."""
        training = self.parts["training"]
        if self.divided or len(training) < 2 or not share:
            return self
        drawn = random.Random(seed).sample(range(len(training)), max(1, round(share * len(training))))
        chosen = {k: tuple(c for i, c in enumerate(training) if (i in drawn) == k) for k in (True, False)}
        return replace(self, parts={**self.parts, "training": chosen[False], "validation": chosen[True]})


def read(path: str | os.PathLike[str], labelled: bool = True) -> Dataset:
    """The data that a file, or a folder with a `dataset.json`, lists. Mistakes are BP820, each with its place. Unless
    it must be `labelled`, a case may be an image alone."""
    file = Path(path)
    if file.is_dir():
        file = _in_folder(file)
    document = _document(file)
    by_folder = "numTraining" in document and "training" not in document
    data = _nnunet(document, file, labelled) if by_folder else document
    dataset = _Reader(data, file, labelled).dataset()
    if not dataset.parts["training"]:
        raise refused(f"`{file}` lists no case for training", getattr(document, "span", None))
    return dataset


def of_pairs(pairs: Sequence[tuple[Path, Path]]) -> Dataset:
    """The data of image–label pairs."""
    cases = tuple(Case(imaging.stem(image), (image,), label) for image, label in pairs)
    _check_files(cases)
    return Dataset("pairs", {"training": _named_apart(cases)})


def refused(text: str, span: Span | None = None, *help: str, notes: Iterable[str] = ()) -> BlueprintError:
    """A mistake of a list of cases."""
    return BlueprintError(Diagnostic("BP820", text, span, notes=tuple(notes), help=help))


def _in_folder(folder: Path) -> Path:
    for name in ("dataset.json", "dataset.yaml"):
        if (folder / name).is_file():
            return folder / name
    inside = sorted(p.name for p in folder.iterdir())
    help = "write one: `labels: […]`, `channels: […]`, `cases: [{image: …, label: …}]`"
    raise refused(
        f"the folder `{folder}` has no dataset.json and no dataset.yaml", None, help, notes=(listing(inside),)
    )


def _document(file: Path) -> Map:
    """The mapping in a file, with the places of its values. JSON is YAML whose indents may be tabs."""
    if not file.is_file():
        raise refused(f"there is no file `{file}`", None, "give a dataset.json, a YAML list, its folder, or `demo`")
    if file.name.endswith(imaging.SUFFIXES):
        raise refused(f"`{file}` is one image", None, "give image and label with `--pair IMAGE LABEL`")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise refused(f"`{file}` cannot be read: {fault}") from None
    try:
        return source.parse(Source(str(file), text.replace("\t", " ") if file.suffix == ".json" else text))
    except BlueprintError as fault:
        found = [Diagnostic("BP820", d.plain, d.span, notes=d.notes) for d in fault.diagnostics]
        raise BlueprintError(found) from None


def _nnunet(document: Map, file: Path, labelled: bool) -> Map:
    """The data of nnU-Net's second version in the words of the first: cases follow from the files of two folders."""
    ending, folder = str(document.get("file_ending", ".nii.gz")), file.parent
    count = len(document.get("channel_names") or document.get("modality") or {"0": ""})
    first = "" if labelled else "_0000"  # what the files of a case end in, by which it is known that there is one
    part = "labelsTr" if labelled else "imagesTr"
    names = sorted(f.name.removesuffix(first + ending) for f in (folder / part).glob(f"*{first}{ending}"))
    cases = [
        {"name": name, "image": [f"imagesTr/{name}_{k:04d}{ending}" for k in range(count)]}
        | ({"label": f"labelsTr/{name}{ending}"} if labelled else {})
        for name in names
    ]
    made = document.copy()
    made["cases"] = cases
    if not cases:
        what = "label map" if labelled else "image"
        text = f"no {what} `*{first}{ending}` lies in `{folder / part}`"
        raise refused(text, document.key_spans.get("numTraining"))
    return made


class _Reader:
    """A document on its way to a `Dataset`; mistakes are collected."""

    def __init__(self, document: Map, file: Path, labelled: bool = True):
        self.document, self.file, self.mistakes = document, file, list[Diagnostic]()
        self.labelled = labelled

    def dataset(self) -> Dataset:
        cases = _named_apart(self.cases("training", self.labelled) or self.cases("cases", self.labelled))
        parts = self.parts(cases)
        test = tuple(
            Case(imaging.stem(c.images[0]), c.images, c.label, c.span) for c in self.cases("test", labelled=False)
        )
        if test and not parts["test"]:
            parts["test"] = test
        labels = self.names("labels")
        channels = self.names("channels") or self.names("channel_names") or self.names("modality")
        if self.mistakes:
            raise BlueprintError(self.mistakes)
        _check_files([c for part in parts.values() for c in part])
        name = str(self.document.get("name") or self.file.absolute().parent.name)
        flip, divided = self.document.get("flip", True) is not False, bool(self.document.get("split"))
        return Dataset(name, parts, labels, channels, flip, divided, self.file)

    def wrong(self, text: str, container: Any, key: Any, *help: str) -> None:
        place = span_of(container, key) or getattr(container, "span", None)
        self.mistakes.append(Diagnostic("BP820", text, place, help=help))

    def cases(self, key: str, labelled: bool = True) -> tuple[Case, ...]:
        listed = self.document.get(key) or []
        if not isinstance(listed, list):
            self.wrong(f"`{key}` is a list of cases, not {listed!r:.40}", self.document, key)
            return ()
        return tuple(c for k, each in enumerate(listed) if (c := self.case(each, listed, k, labelled)))

    def case(self, each: Any, listed: Any, k: int, labelled: bool) -> Case | None:
        place = span_of(listed, k)
        each = {"image": each} if isinstance(each, str) and not labelled else each
        if not isinstance(each, Mapping) or "image" not in each or (labelled and "label" not in each):
            self.wrong(f"a case is a mapping with `image` and `label`, not {each!r:.60}", listed, k)
            return None
        names = each["image"] if isinstance(each["image"], list) else [each["image"]]
        images = tuple(self.file.parent / str(n) for n in names)
        label = self.file.parent / str(each["label"]) if each.get("label") else None
        return Case(str(each.get("name") or imaging.stem(images[0])), images, label, place)

    def parts(self, cases: Sequence[Case]) -> dict[str, tuple[Case, ...]]:
        """The cases that each part of `split` names; the rest is for training."""
        given, known = self.document.get("split") or {}, {c.name: c for c in cases}
        named: dict[str, tuple[Case, ...]] = dict.fromkeys(SPLITS, ())
        for part, names in given.items() if isinstance(given, Mapping) else ():
            if part not in SPLITS or not isinstance(names, list):
                self.wrong(f"`split` has lists of names under {listing(SPLITS)}; not `{part}`", given, part)
                continue
            for k, name in enumerate(names):
                if str(name) not in known:
                    self.wrong(f"there is no case `{name}`{did_you_mean(name, known)}", names, k)
            named[part] = tuple(known[str(n)] for n in names if str(n) in known)
        taken = [c.name for part in named.values() for c in part]
        twice = sorted({n for n in taken if taken.count(n) > 1})
        if twice:
            self.wrong(f"`{twice[0]}` is in two parts: what is trained on tests nothing", given, "")
        if not named["training"]:
            named["training"] = tuple(c for c in cases if c.name not in taken)
        return named

    def names(self, key: str) -> tuple[str, ...]:
        """Names by number: from a list, `{0: a, 1: b}`, `{"0": a}` or `{a: 0, b: 1}`."""
        given = self.document.get(key)
        if not given:
            return ()
        if isinstance(given, list):
            return tuple(map(str, given))
        try:
            pairs = (
                {int(k): str(v) for k, v in given.items()}
                if _counted(given)
                else {int(v): str(k) for k, v in given.items()}
            )
        except (TypeError, ValueError, AttributeError):
            pairs = {}
        if sorted(pairs) != list(range(len(given))):
            help = "nnU-Net's regions and ignore labels are not supported: give every class a number"
            self.wrong(
                f"`{key}` numbers its names from 0 without a gap; it says {dict(given)!r:.80}", self.document, key, help
            )
            return ()
        return tuple(pairs[k] for k in range(len(pairs)))


def _counted(given: Mapping[Any, Any]) -> bool:
    """Whether the keys are the numbers."""
    return all(str(k).isdigit() for k in given)


def _named_apart(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Cases with names of their own, since files in different folders may have one name."""
    seen: dict[str, int] = {}
    result = []
    for case in cases:
        seen[case.name] = count = seen.get(case.name, 0) + 1
        result.append(case if count == 1 else replace(case, name=f"{case.name}_{count}"))
    return tuple(result)


def _check_files(cases: Sequence[Case]) -> None:
    """Every file that a list names exists; all that do not are said at once."""
    found = list(_missing(cases))
    if found:
        more = [Diagnostic("BP820", f"and {len(found) - 10} files more are missing")] if len(found) > 10 else []
        raise BlueprintError([*found[:10], *more])


def _missing(cases: Sequence[Case]) -> Iterator[Diagnostic]:
    for case in cases:
        for file in (*case.images, *([case.label] if case.label else [])):
            if not file.is_file():
                near = sorted(p.name for p in file.parent.iterdir()) if file.parent.is_dir() else []
                hint = did_you_mean(file.name, near) if near else f"; there is no folder `{file.parent}`"
                yield Diagnostic("BP820", f"the case `{case.name}` has no file `{file}`{hint}", case.span)
