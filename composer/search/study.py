"""The folder of a search, in which Optuna keeps what was asked and answered: killed at any moment, it goes on.

    STUDY/search.json      what was asked for: blueprint, space, budget, data, recipe; it goes on only with the same
    STUDY/study.db         Optuna's study in SQLite: every composition that was drawn, and what came of it
    STUDY/trials/N         the run of trial N (`composer.training.runs`)      STUDY/prepared   the data, for all trials
    STUDY/trials.csv, trials.json, front.png, best.yaml     what was found, written anew after every trial

What is drawn for trial N follows from the seed, N and the trials before it. So a trial that was running when its
process was killed is the same one again, its run goes on from its last checkpoint, and the study becomes what it would
have become. Two objectives: Dice upwards, FLOPs downwards. They are followed by TPE for several objectives (Ozaki et
al., 2022), which takes numbers, alternatives, and what only some alternatives have.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from composer.diagnostics import BlueprintError, Diagnostic, listing
from composer.files import refused, write_text
from composer.search.front import Found, Row, counted
from composer.search.space import Choice, Composition, Range, Space
from composer.training.runs import differences

if TYPE_CHECKING:
    from optuna import Study as Kept
    from optuna import Trial as Drawn
    from optuna.trial import FrozenTrial

NAME = "search"
STARTUP = 10
"""Trials that are drawn at random before the sampler begins to learn."""


def needed() -> None:
    """Optuna is an extra (BP846)."""
    if find_spec("optuna") is None:
        help = ("pip install 'blueprint-composer[search]'",)
        raise BlueprintError(Diagnostic("BP846", "searching needs the package `optuna`", help=help))


@dataclass(frozen=True)
class Place:
    """The folder of a search, and the files in it."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "search.json"

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared"

    @property
    def best(self) -> Path:
        return self.folder / "best.yaml"

    @property
    def picture(self) -> Path:
        return self.folder / "front.png"

    def run(self, number: int) -> Path:
        return self.folder / "trials" / str(number)

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Write down what was asked for, or find the same there. BP848 where the folder is something else."""
        said = json.loads(json.dumps(asked))
        if self.settings.is_file():
            return self._check_same(said)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise refused(self.folder, fault) from None
        inside = sorted(p.name for p in self.folder.iterdir() if p.name != ".lock")
        if inside:
            text = f"`{self.folder}` holds other files: {listing(inside, 5)}"
            raise BlueprintError(Diagnostic("BP848", text, help=("name a new folder with `--out`",)))
        write_text(self.settings, json.dumps(said, indent=2) + "\n")

    def read(self) -> dict[str, Any]:
        """What was asked for. BP848 where this is no study."""
        try:
            found = json.loads(self.settings.read_text(encoding="utf-8"))
            assert isinstance(found, dict)
        except (OSError, ValueError, AssertionError):
            text = f"`{self.folder}` is no study of `composer search`: it has no readable search.json"
            raise BlueprintError(Diagnostic("BP848", text)) from None
        return found

    def _check_same(self, asked: Mapping[str, Any]) -> None:
        wrong = list(differences(self.read(), asked))
        if wrong:
            text = f"`{self.folder}` is another study; to go on with it, ask for the same"
            help = ("name a new folder with `--out`, or remove this one",)
            raise BlueprintError(Diagnostic("BP848", text, notes=tuple(wrong[:8]), help=help))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts, no other process works in the folder (BP848); a process that dies leaves nothing behind."""
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115 - closed below
        except OSError as fault:
            raise refused(self.folder, fault) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                text = f"another process searches in `{self.folder}`"
                raise BlueprintError(Diagnostic("BP848", text, help=("wait for it, or stop it",))) from None
            yield


class Trial:
    """A composition that was drawn, and what is to be said of it."""

    def __init__(self, study: Study, drawn: Drawn):
        self.study, self.drawn, self.number = study, drawn, drawn.number
        self.composition: Composition = study.space.composed(self._answer)

    def _answer(self, name: str, choice: Choice) -> Any:
        if not isinstance(choice, Range):
            return choice.labels.index(self.drawn.suggest_categorical(name, choice.labels))
        if choice.whole:
            step = int(choice.step or 1)
            return self.drawn.suggest_int(name, int(choice.low), int(choice.last), step=step, log=choice.log)
        return self.drawn.suggest_float(name, choice.low, choice.last, step=choice.step, log=choice.log)

    def prune(self, why: Diagnostic) -> None:
        """It is not trained."""
        from optuna.trial import TrialState

        self._say(code=why.code, reason=why.plain)
        self.study.kept.tell(self.number, state=TrialState.PRUNED)

    def done(self, dice: float, figures: Mapping[str, int], seconds: float) -> None:
        """It was trained."""
        self._say(chosen=self.composition.said, seconds=seconds, **figures)
        self.study.kept.tell(self.number, (dice, float(figures["flops"])))

    def repeat(self, before: FrozenTrial) -> None:
        """The same composition was drawn before: what came of it counts again, for the sampler alone."""
        from optuna.trial import TrialState

        self._say(again=before.number)
        if before.values is None:
            self.study.kept.tell(self.number, state=TrialState.PRUNED)
        else:
            self.study.kept.tell(self.number, before.values)

    def _say(self, **facts: Any) -> None:
        for key, value in facts.items():
            self.drawn.set_user_attr(key, value)


@dataclass(frozen=True)
class Study:
    """Optuna's study of a space, as the folder keeps it."""

    kept: Kept
    space: Space
    seed: int

    def next(self) -> Trial:
        """The trial that was running when its process ended, or a new one."""
        from optuna import Trial as Drawn
        from optuna.trial import TrialState

        running = self.kept.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        number = running[0].number if running else len(self.kept.get_trials(deepcopy=False))
        self.kept.sampler = sampler(self.seed, number)
        return Trial(self, Drawn(self.kept, running[0]._trial_id) if running else self.kept.ask())

    def known(self, trial: Trial) -> FrozenTrial | None:
        """An earlier trial with the same answers."""
        others = self.kept.get_trials(deepcopy=False)[: trial.number]
        mine = trial.drawn.params
        return next((t for t in others if t.params == mine and "again" not in t.user_attrs), None)

    def composition(self, number: int) -> Composition:
        """That of a trial which was drawn."""
        params = self.kept.get_trials(deepcopy=False)[number].params

        def answer(name: str, choice: Choice) -> Any:
            return params[name] if isinstance(choice, Range) else choice.labels.index(params[name])

        return self.space.composed(answer)

    @property
    def distinct(self) -> int:
        """How many different compositions were drawn."""
        return sum("again" not in t.user_attrs for t in self.kept.get_trials(deepcopy=False))

    @property
    def found(self) -> Found:
        """What came of the trials."""
        trials = self.kept.get_trials(deepcopy=False)
        pruned = [t for t in trials if "code" in t.user_attrs]
        reasons = {t.user_attrs["code"]: t.user_attrs["reason"] for t in reversed(pruned)}
        rows = tuple(_row(t) for t in trials if t.state.name == "COMPLETE" and "again" not in t.user_attrs)
        return Found(rows, counted(t.user_attrs["code"] for t in pruned), reasons)


def _row(trial: FrozenTrial) -> Row:
    said = trial.user_attrs
    dice, flops = trial.values
    return Row(trial.number, dice, flops, said["parameters"], said["memory"], said["seconds"], said["chosen"])


def sampler(seed: int, number: int) -> Any:
    """What draws a trial; its random numbers are those of the seed and the number, whatever was drawn before."""
    from optuna.samplers import TPESampler

    words = np.random.SeedSequence((seed, number)).generate_state(1)
    return TPESampler(seed=int(words[0]), n_startup_trials=STARTUP, multivariate=False)


@contextmanager
def opened(place: Place, space: Space, seed: int) -> Iterator[Study]:
    """The study of a folder, new or as it was left. BP848 where its file is damaged."""
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = URL.create("sqlite", database=str((place.folder / "study.db").absolute()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        try:
            storage = optuna.storages.RDBStorage(url.render_as_string(hide_password=False))
        except (SQLAlchemyError, RuntimeError) as fault:
            raise damaged(place, fault) from None
        try:
            kept = optuna.create_study(
                study_name=NAME, storage=storage, directions=["maximize", "minimize"], load_if_exists=True
            )
            yield Study(kept, space, seed)
        except SQLAlchemyError as fault:
            raise damaged(place, fault) from None
        finally:
            storage.remove_session()
            storage.engine.dispose()


def damaged(place: Place, fault: Exception) -> BlueprintError:
    """A file that Optuna cannot read."""
    text = f"`{place.folder / 'study.db'}` cannot be read ({type(fault).__name__}): the study cannot go on"
    help = ("the trials so far are in trials.csv and trials/; name a new folder with `--out`",)
    return BlueprintError(Diagnostic("BP848", text, help=help))
