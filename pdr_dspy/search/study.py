"""The ask/tell loop over an Optuna study: what is tried next, what was tried, and going on after a kill.

A study is its stored trials and nothing else. The sampler is made anew for each trial from the search's seed and the
trial's number, and a trial that a dead process left running is taken up under its own number, so that a study that was
interrupted and one that was not are the same list of trials.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from pdr_dspy.errors import StoreError
from pdr_dspy.schedule import Schedule
from pdr_dspy.search.objective import SLACK, TrialRecord, describe_candidate, merged, predict
from pdr_dspy.search.pareto import Limits
from pdr_dspy.search.space import Candidate, Space

if TYPE_CHECKING:
    import optuna

NAME = "pdr"
"""The study's name in its storage."""
JOURNAL = "study.journal"
PATIENCE = 3
"""Repeated or rejected suggestions in a row before a candidate that is still new is drawn at random."""
ENUMERABLE = 5_000
"""Spaces up to this size are searched to their end."""
DRAWS = 2_000
"""Candidates drawn from a larger one in search of a new one."""

SamplerName = Literal["tpe", "nsga2", "random"]
logger = logging.getLogger("pdr_dspy.search")


class Trials:
    """A study and its records. Use it inside `open_study`."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        limits: Limits,
        costs: Sequence[str],
        seed: int,
        sampler: optuna.samplers.BaseSampler | SamplerName | None,
    ) -> None:
        self.study = study
        self.space = space
        self.limits = limits
        self.costs = costs
        self.seed = seed
        self.sampler = sampler
        self.pool = list(itertools.islice(space.candidates(), ENUMERABLE + 1))
        self.enumerable = len(self.pool) <= ENUMERABLE

    @property
    def records(self) -> list[TrialRecord]:
        """The finished trials, in the order of their numbers."""
        import optuna

        done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        return [read_record(trial) for trial in self.study.get_trials(deepcopy=False, states=done)]

    def enqueue(self, baselines: Mapping[str, Candidate]) -> None:
        """Put candidates in front, by the name of their origin; those that the study already has are left out."""
        there = {trial.user_attrs.get("origin") for trial in self.study.get_trials(deepcopy=False)}
        for origin, candidate in baselines.items():
            if origin not in there:
                attrs = {"origin": origin, "candidate": describe_candidate(candidate)}
                self.study.enqueue_trial(self.space.params_of(candidate) or {}, user_attrs=attrs)

    def ask(self) -> tuple[optuna.Trial, str, Candidate] | None:
        """The next trial with its origin and candidate; None when every candidate was tried or is too dear."""
        import optuna

        states = optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        left = [trial for trial in trials if trial.state == states.RUNNING]
        if not left and not any(trial.state == states.WAITING for trial in trials):
            records = self.records
            idle = 0
            for record in reversed(records):
                if record.state == "measured":
                    break
                idle += 1
            if (idle and idle % PATIENCE == 0) or (self.enumerable and self._nothing_new(records)):
                fresh = self._unseen(records, len(trials))
                if fresh is None:
                    return None
                attrs = {"origin": "search", "candidate": describe_candidate(fresh)}
                self.study.enqueue_trial(self.space.params_of(fresh) or {}, user_attrs=attrs)
        number = left[0].number if left else sum(trial.state != states.WAITING for trial in trials)
        self.study.sampler = self._sampler(number)
        trial = optuna.Trial(self.study, left[0]._trial_id) if left else self.study.ask()
        given = trial.user_attrs.get("candidate")
        if given is not None:
            candidate = Candidate(Schedule(**given["schedule"]), dict(given["instructions"]))
            if self.space.params_of(candidate) is not None:
                self.space.suggest(trial)
        else:
            candidate = self.space.suggest(trial)
        return trial, trial.user_attrs.get("origin", "search"), candidate

    def known(self, candidate: Candidate) -> TrialRecord | None:
        """The trial that measured an equal candidate, if there is one."""
        for record in self.records:
            if record.state == "measured" and record.candidate.key == candidate.key:
                return record
        return None

    def too_dear(self, candidate: Candidate) -> tuple[float, float] | None:
        """The predicted (sequential, total) of a candidate that is surely over a limit; None for any other."""
        cost = predict(candidate.schedule, merged(self.records))
        if cost is None or all(value <= SLACK - 1 for value in self.limits.excess(*cost).values()):
            return None
        return float(cost.sequential), float(cost.total)

    def tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        """Store the facts of a trial and end it."""
        import optuna

        trial.set_user_attr("record", json.loads(record.model_dump_json()))  # nan becomes null
        seen = {"program": str(record.candidate), "reused": round(record.reused, 3), "calls": record.calls}
        for key, value in seen.items():  # for people who look at the study with optuna-dashboard
            if value == value:
                trial.set_user_attr(key, value)
        for name, excess in self.limits.excess(record.sequential, record.total).items():
            if excess == excess:  # unknown for a trial that could not run
                trial.set_constraint(name, excess)
        if record.state == "rejected":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, [record.score, *(getattr(record, cost) for cost in self.costs)])

    def _nothing_new(self, records: Sequence[TrialRecord]) -> bool:
        return len({record.candidate.key for record in records if record.candidate in self.space}) >= len(self.pool)

    def _unseen(self, records: Sequence[TrialRecord], number: int) -> Candidate | None:
        """A candidate that was not tried and is not too dear, drawn by the seed; None when none is left or found."""
        seen = {record.candidate.key for record in records}
        profile = merged(records)

        def fits(candidate: Candidate) -> bool:
            cost = predict(candidate.schedule, profile)
            return cost is None or all(value <= SLACK - 1 for value in self.limits.excess(*cost).values())

        draw = random.Random(f"{self.seed}|{number}")
        if not self.enumerable:  # the pool would be the small shapes only
            drawn = (self.space.suggest(_Drawn(draw)) for _ in range(DRAWS))
            return next((c for c in drawn if c.key not in seen and fits(c)), None)
        new = [c for c in self.pool if c.key not in seen and fits(c)]
        return draw.choice(new) if new else None

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        import optuna

        if self.sampler is not None and not isinstance(self.sampler, str):
            return self.sampler
        seed = random.Random(f"{self.seed}|sampler|{number}").randrange(2**31)
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        single = not self.costs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group: for conditional axes
            return optuna.samplers.TPESampler(seed=seed, multivariate=single, group=single, constant_liar=True)


class _Drawn:
    """A trial that answers at random."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        del name
        return self.draw.choice(choices)


def read_record(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    """The facts of a finished trial. Raises StoreError for a trial that no search of ours wrote."""
    fields = trial.user_attrs.get("record") or {}
    try:
        return TrialRecord(**{key: value for key, value in fields.items() if value is not None})
    except ValueError as error:
        raise StoreError(f"trial {trial.number} of the study was not written by this library ({error})") from error


@contextmanager
def open_study(
    *,
    storage: Any,
    run_dir: Path | None,
    minimized: int,
    config: Mapping[str, Any],
) -> Iterator[optuna.Study]:
    """Open or make the study, alone: a second process that opens the same folder is told so.

    Its first objective, the score, is maximized; `minimized` costs follow.

    Raises:
        StoreError: the folder or storage cannot be used, is in use, or holds another study; the message names the
            first thing that differs.
    """
    import optuna

    kept_in = _folder(storage, run_dir)
    with _quiet(), ExitStack() as alone:
        for folder in dict.fromkeys(Path(os.path.abspath(place)) for place in (run_dir, kept_in) if place is not None):
            alone.enter_context(_alone(folder))
        try:
            backend = storage if kept_in is None else _journal(kept_in)
            study = optuna.create_study(
                study_name=NAME,
                storage=backend,
                directions=["maximize", *(["minimize"] * minimized)],  # type: ignore[arg-type]
                load_if_exists=True,
            )
            before = study.user_attrs.get("config")
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AssertionError, optuna.exceptions.OptunaError) as error:
            raise StoreError(f"the study in {_named(storage, run_dir)} cannot be opened: {error}") from error
        now = json.loads(json.dumps(config, default=str))
        if before is None:
            study.set_user_attr("config", now)
        elif changed := [key for key in now if before.get(key) != now[key]]:
            key = changed[0]
            raise StoreError(
                f"{_named(storage, run_dir)} holds another study: `{key}` was {_short(before.get(key))} and is now "
                f"{_short(now[key])}; use another `{'run_dir' if storage is None else 'storage'}`, or the same "
                "arguments to go on"
            )
        yield study


def _folder(storage: Any, run_dir: Path | None) -> Path | None:
    """Where our own journal is; None for memory, a URL, or a storage object."""
    if storage is None:
        return run_dir
    return Path(storage) if isinstance(storage, (str, Path)) and "://" not in str(storage) else None


def _journal(folder: Path) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / JOURNAL
    _repair(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _repair(path: Path) -> None:
    """Drop a torn last line and the lock that a killed process left; nobody else has the folder."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}.lock")
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
        path.write_bytes(data)
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "op_code" not in entry:
            raise StoreError(f"{path}, line {number}, is not of a study; use another `run_dir`")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "search.lock").open("a")
    except OSError as error:
        raise StoreError(f"the folder {str(folder)!r} cannot be used: {error.strerror or error}") from error
    with file:
        if not _lock(file):
            raise StoreError(f"the folder {str(folder)!r} is in use by another process; wait for it or use another")
        yield


def _lock(file: IO[str]) -> bool:
    """Take the file for this process; the system gives it back when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: trust the user
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own line for each trial says less than ours; its warnings stay."""
    library = logging.getLogger("optuna")
    level = library.level
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.setLevel(level)


def _named(storage: Any, run_dir: Path | None) -> str:
    if isinstance(storage, str) and "@" in storage:
        return f"`storage=...@{storage.rsplit('@', 1)[1]}`"  # never a password
    return f"`run_dir={str(run_dir)!r}`" if storage is None else f"`storage={storage!r}`"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
