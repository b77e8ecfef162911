"""PDROptimizer: tunes the schedule and prompts of the operators in a program, as a DSPy teleprompter.

    optimizer = PDROptimizer(verifier, max_sequential=2000, trials=30, run_dir="runs/mine")
    program = optimizer.compile(student, trainset=train, valset=held_out)

Candidates race each other on growing blocks of (question, seed); the best few run again on fresh seeds; the best of
those and the untouched student run on questions that nothing was chosen on. The student is returned unless the winner
is confidently better there, or as good for fewer tokens. `plan.py` is the method, `worker.py` does what it asks, and
`course.py` runs the one with the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from pdr_dspy.artifact import check_can_be_saved
from pdr_dspy.calls.dspy_bridge import Teleprompter
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime import postgres
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.search.controller import Course
from pdr_dspy.search.cost_estimate import Estimate, estimate
from pdr_dspy.search.problem import ends_of
from pdr_dspy.search.proposing.samplers import SAMPLERS, SamplerName
from pdr_dspy.search.racing.confirmation import Accept
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.result import SearchProgress, SearchResult
from pdr_dspy.search.space.space import Space
from pdr_dspy.search.workers.coordination import open_board
from pdr_dspy.settings import whole_number
from pdr_dspy.verifiers.base import Metric, Verifier
from pdr_dspy.verifiers.function import as_verifier

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class PDROptimizer(Teleprompter):
    """Searches the space of schedules and prompts for the best score under limits on tokens, or for the front."""

    def __init__(
        self,
        verifier: Verifier | Metric,
        *,
        space: Space | None = None,
        max_sequential: int | None = None,
        max_total: int | None = None,
        pareto: bool = False,
        trials: int = 30,
        repeats: int = 1,
        finalists: int = 4,
        finalist_repeats: int = 4,
        confirm_repeats: int = 4,
        accept: Accept = "confident",
        storage: str | Path | None = None,
        study: str = "pdr",
        run_dir: str | Path | None = None,
        seed: int = 0,
        sampler: SamplerName | Callable[[int], BaseSampler] = "tpe",
        prompts: int = 0,
        prompt_model: dspy.LM | None = None,
        cohort: int = 8,
        max_in_flight: int = 64,
        max_tokens: int | None = None,
        time_limit: float | None = None,
        progress: Callable[[SearchProgress], None] | None = None,
    ) -> None:
        """
        Args:
            verifier: gives a score in [0, 1]: a verifier, or a DSPy metric, see `verifiers.as_verifier`.
            space: what to choose from; None is `Space.default_for` the student's schedule.
            max_sequential: limit on the mean B_seq of a run, in tokens.
            max_total: limit on the mean B_total of a run, in tokens.
            pareto: search for the front of score against both costs instead of for the best score. The program that is
                returned is the best within the limits either way; `result.best_for(...)` gives the others.
            trials: candidates to measure, the student and the baselines included.
            repeats: runs of each question in the race, at most.
            finalists: programs, besides the student, that run again on fresh seeds.
            finalist_repeats: runs of each question for them.
            confirm_repeats: runs of each question in the confirmation.
            accept: "confident" returns the winner only if it is confidently better on the confirmation, or as good for
                fewer tokens; "better" whenever it did better there.
            storage: where workers meet: a folder of this machine, or a `postgresql://` URL for many machines; None is
                `run_dir`, or memory without one.
            study: the search's name in `storage`.
            run_dir: keeps calls, rows and results. The same command goes on from what is there.
            seed: of the search, its samples and the split of `trainset` when there is no `valset`.
            sampler: "tpe", "nsga2", "random", or a function from a seed to an Optuna sampler: all see pooled estimates.
                "pooled" draws candidates from the posterior over all scores itself.
            cohort: candidates that race each other.
            max_in_flight: most requests on the wire at one time, of each worker.
            max_tokens: no new cohort is started after this many paid tokens.
            time_limit: no new cohort is started after this many seconds of this call of `compile`.
            progress: told of every step. What it raises ends the search; what is finished is kept.

        Raises:
            ConfigError: an argument that cannot work.
        """
        super().__init__()
        self.verifier = as_verifier(verifier, argument="PDROptimizer(verifier=...)")
        owner = "PDROptimizer("
        trials = whole_number(owner, "trials", trials)
        repeats = whole_number(owner, "repeats", repeats)
        finalists = whole_number(owner, "finalists", finalists)
        finalist_repeats = whole_number(owner, "finalist_repeats", finalist_repeats)
        confirm_repeats = whole_number(owner, "confirm_repeats", confirm_repeats)
        cohort = whole_number(owner, "cohort", cohort)
        max_in_flight = whole_number(owner, "max_in_flight", max_in_flight)
        prompts = whole_number(owner, "prompts", prompts, least=0)
        seed = whole_number(owner, "seed", seed, least=None)
        limits = Limits(*(_limit(*one) for one in (("max_sequential", max_sequential), ("max_total", max_total))))
        max_tokens = _limit("max_tokens", max_tokens)
        if space is not None and not isinstance(space, Space):
            raise ConfigError(f"`PDROptimizer(space={space!r})` must be a `Space(...)`, or None for the default")
        if not isinstance(study, str):
            raise ConfigError(f"`PDROptimizer(study={study!r})` must be a name")
        if prompt_model is not None and not isinstance(prompt_model, dspy.BaseLM):
            raise ConfigError(f"`PDROptimizer(prompt_model={prompt_model!r})` must be a dspy.LM")
        if time_limit is not None and not (isinstance(time_limit, (int, float)) and time_limit > 0):
            raise ConfigError(f"`PDROptimizer(time_limit={time_limit!r})` must be above 0 seconds")
        if not callable(sampler) and sampler not in SAMPLERS:
            raise ConfigError(
                f"`PDROptimizer(sampler={sampler!r})` must be {', '.join(map(repr, SAMPLERS))} or a function from a "
                "seed to an Optuna sampler"
            )
        if accept not in ("confident", "better"):
            raise ConfigError(f'`PDROptimizer(accept={accept!r})` must be "confident" or "better"')
        self.space = space
        self.limits = limits
        self.pareto = pareto
        self.trials = trials
        self.repeats = repeats
        self.finalists = finalists
        self.finalist_repeats = finalist_repeats
        self.confirm_repeats = confirm_repeats
        self.accept: Accept = accept
        self.storage = storage if storage is None or "://" in str(storage) else local_path(storage)
        self.study = study
        self.run_dir = None if run_dir is None else local_path(run_dir)
        self.seed = seed
        self.sampler: SamplerName | Callable[[int], BaseSampler] = sampler
        self.prompts = prompts
        self.prompt_model = prompt_model
        self.cohort = cohort
        self.max_in_flight = max_in_flight
        self.max_tokens = max_tokens
        self.time_limit = time_limit
        self.progress = progress
        self.result: SearchResult | None = None
        """Of the last `compile`."""

    def compile(  # type: ignore[override]
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> dspy.Module:
        """Search, confirm, and return a program.

        Args:
            student: an operator, or a module that contains some (all of them get the same schedule). It is not changed.
            trainset: questions that trials are measured on.
            teacher: not used; it is there because DSPy's optimizers may be given one.
            valset: questions for the confirmation. Without one, a quarter of `trainset` is held out for it; from fewer
                than 8 questions none is, and the confirmation has fresh seeds only, which its verdict says.

        Returns:
            A new program. Its attributes: `score` (on the confirmation, a fraction), `candidate_programs` (dicts with
            "score", "program", "schedule", "sequential", "total", "feasible"; those within the limits first, the best
            of them ahead), `trial_logs` (the facts of each trial by its number), `confirmation` and `front`.
            `optimizer.result` has them typed, and `best_for`.

        Raises:
            ConfigError: no operator in the student, no model, or a limit that no schedule can keep.
            DataError: an empty set, or an example that program or verifier cannot use.
            StoreError: run folder or storage hold another search, or cannot be used.
            EndpointError: the model server went away; the same command goes on from there.
        """
        del teacher
        if self.run_dir is not None and isinstance(student, dspy.Module):
            check_can_be_saved(student)
        self.result = Course(self, student, trainset, valset).run()
        return self.result.program

    def work(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
    ) -> int:
        """Help with a search that is under way in `storage`, until it has ended; returns the runs that were made here.

        Arguments and exceptions as for `compile`; the settings are those of the search that is joined, whose questions
        and program must be the same. Raises StoreError when there is none.
        """
        return Course(self, student, trainset, valset).help()

    def questions(self) -> tuple[int, int]:
        """How many training and held-out questions the search in `storage` or `run_dir` has.

        Raises StoreError when there is none.
        """
        where = self.storage if self.storage is not None or self.run_dir is None else self.run_dir / "board"
        with open_board(where, study=self.study) as board:
            ends = ends_of(board)
        if ends is None:
            raise StoreError(f"there is no search {self.study!r} here; start it with `pdr optimize` or `compile`")
        if "train" not in ends or "held_out" not in ends:
            raise StoreError(f"the search {self.study!r} here is not of this version")
        return ends["train"], ends["held_out"]

    @classmethod
    def join(cls, verifier: Verifier | Metric, storage: str | Path, *, study: str = "pdr", **own: Any) -> PDROptimizer:
        """An optimizer with the settings of a search that is under way, to `work` for it.

        Args:
            verifier: as it has it.
            storage: where its workers meet: its run folder, the folder of its `storage`, or a `postgresql://` URL.
            study: its name there.
            own: settings of this worker alone, such as `max_in_flight` or `progress`.

        Raises StoreError when there is no such search.
        """
        folder = None if postgres.is_url(storage) else local_path(storage)
        inner = folder is not None and (folder / "board").is_dir()
        place = storage if folder is None else folder / "board" if inner else folder
        if folder is not None and not folder.is_dir():
            raise StoreError(f"there is no search in {str(storage)!r}; start it with `pdr optimize` or `compile`")
        with open_board(place, study=study) as board:
            text, ends = board.get("config"), ends_of(board)
        if text is None or ends is None:
            raise StoreError(
                f"there is no search {study!r} in `{postgres.shown(str(storage))}`; start it with `pdr optimize` or "
                "`compile`"
            )
        try:
            facts = json.loads(text)
            names = (
                "pareto",
                "sampler",
                "repeats",
                "finalists",
                "finalist_repeats",
                "confirm_repeats",
                "cohort",
                "seed",
            )
            settings = {name: facts[name] for name in names}
            settings |= {name: ends[name] for name in ("trials", "max_tokens")}
            settings["prompts"] = facts.get("prompts", 0)
            space, limits = Space(**facts["space"]), Limits(**facts["limits"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"`{postgres.shown(str(storage))}` holds no search of this version ({error})") from error
        where: dict[str, Any] = {"run_dir": folder} if inner else {"storage": storage}
        return cls(
            verifier,
            space=space,
            max_sequential=limits.sequential,
            max_total=limits.total,
            study=study,
            **{**settings, **where, **own},
        )

    def rollouts(self) -> Rollouts:
        """The store of the search's calls, where its workers find it: in `storage`, else in the run folder."""
        if postgres.is_url(self.storage):
            return Rollouts(str(self.storage))
        folder = self.storage if self.storage is not None else self.run_dir  # where workers find it
        return Rollouts(None if folder is None else Path(folder) / "rollouts")

    def estimate(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
    ) -> Estimate:
        """What `compile` with the same arguments would still cost, in tokens; nothing is sent or written."""
        return estimate(Course(self, student, trainset, valset))


def _limit(name: str, value: int | None) -> int | None:
    return None if value is None else whole_number("PDROptimizer(", name, value)
