"""PDROptimizer: tunes the schedule and prompts of the operators in a program, as a DSPy teleprompter.

    optimizer = PDROptimizer(verifier, max_sequential=2000, trials=30, run_dir="runs/mine")
    program = optimizer.compile(student, trainset=train, valset=held_out)

Candidates race each other on growing blocks of (question, seed); the best few run again on fresh seeds; the best of
those and the untouched student run on questions that were not used for any choice. The student is returned unless the
winner is confidently better there, or as good for fewer tokens. `racing/plan.py` implements the method,
`driver/measurements.py` the measurements, and `driver/controller.py` connects the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import dspy

from pdr_dspy.arguments import explained, explained_with, shown
from pdr_dspy.artifact import check_can_be_saved
from pdr_dspy.calls.dspy_bridge import Teleprompter
from pdr_dspy.calls.pricing import Models, Priced
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.display import check_progress
from pdr_dspy.evaluation.executors import Executor
from pdr_dspy.search.cost_estimate import Estimate, estimate
from pdr_dspy.search.display import search_shown
from pdr_dspy.search.driver import controller
from pdr_dspy.search.problem import Problem, prepare
from pdr_dspy.search.progress import Progress
from pdr_dspy.search.result import SearchResult
from pdr_dspy.search.settings import PLACES, Keywords, RunOptions, SearchSettings, from_keywords
from pdr_dspy.verifiers.base import Metric, Verifier
from pdr_dspy.verifiers.function import as_verifier


class PDROptimizer(Teleprompter):
    """Searches the space of schedules and prompts for the best score under limits on tokens, or for the front."""

    @explained_with(lambda: PLACES)
    def __init__(
        self,
        verifier: Verifier | Metric,
        settings: SearchSettings | None = None,
        options: RunOptions | None = None,
        *,
        models: Mapping[str, dspy.LM | Priced] | None = None,
        progress: Progress | bool | None = None,
        executor: Executor | None = None,
        **keywords: Unpack[Keywords],
    ) -> None:
        """
        >>> PDROptimizer(NumberVerifier(), max_total=6000, trials=40, run_dir="runs/mine")
        >>> PDROptimizer(NumberVerifier(), SearchSettings(limits=Limits(total=6000)), RunOptions(trials=40))

        Args:
            verifier: returns a score in [0, 1]: a verifier, or a DSPy metric, see `verifiers.as_verifier`.
            settings: define the search. A resumed search has equal settings.
            options: for this run: the extent of the search, its storage, its concurrency.
            models: LMs by name for the axes `draft_model`, `refine_model` and `distill_model`, in `Priced` if their
                price is known; every operator of the student gets them in addition to its own.
            progress: True shows trials, the best so far, tokens and the time left on stderr: bars on a terminal, lines
                in a notebook and elsewhere. None does so on a terminal and in a notebook, and elsewhere only writes a
                line a minute to stderr. False shows nothing. A function is called at every step instead; its
                exceptions end the search, and finished results are kept.
            executor: where the runs are made; None is this process, a `RayExecutor` the machines of a cluster. The
                results are the same.
            keywords: fields of `settings` and `options` as flat keywords, which take precedence: `space`,
                `max_sequential`, `max_total`, `max_cost`, `pareto`, `seed`, `repeats`, `cohort`, `finalists`,
                `finalist_repeats`, `confirm_repeats`, `sampler`, `prompts`, `prompt_rounds`, `prompt_model`, `prior`,
                `trials`,
                `max_tokens`, `time_limit`, `stop`, `price`, `margin`, `accept`, `storage`, `study`, `run_dir`,
                `max_in_flight`, `max_text_bytes`.
                `search.settings.Keywords` maps them to fields.

        Raises:
            ConfigError: an invalid argument.
            StoreError: a run folder of `prior` has no finished search.
        """
        super().__init__()
        self.verifier = as_verifier(verifier, argument="PDROptimizer(verifier=...)")
        self.settings, self.options = from_keywords(keywords, settings, options)
        self.models = Models(models, called="PDROptimizer(models=...)")
        check_progress(progress, "PDROptimizer")
        self.progress = progress
        if executor is not None and not callable(getattr(executor, "rows", None)):
            raise ConfigError(
                f"`PDROptimizer(executor={shown(executor)})` must be an executor, such as `RayExecutor(...)`, or None"
            )
        self.executor = executor
        self.result: SearchResult | None = None
        """The result of the last `compile`."""

    @explained
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
            student: an operator, or a module that contains some. All of them get the same schedule, unless `space` maps
                their paths to separate spaces. It is not changed.
            trainset: questions that trials are measured on.
            teacher: not used; DSPy's optimizers accept one.
            valset: questions for the confirmation. Without it, a quarter of `trainset` is held out; with fewer than 8
                questions none is, and the confirmation only has fresh seeds, which its verdict states.

        Returns:
            A new program. Its attributes: `score` (on the confirmation, a fraction), `candidate_programs` (dicts with
            "score", "program", "schedule", "sequential", "total", "feasible", and with separate spaces "schedules";
            those within the limits first, in descending order), `trial_logs` (the facts of each trial by its number),
            `confirmation` and `front`. `optimizer.result` has them typed, and `best_for`.

        Raises:
            ConfigError: no operator in the student, no model, or a limit that no schedule can keep.
            DataError: an empty set, or an example that program or verifier cannot use.
            StoreError: the run folder holds another search or another process drives it, or a storage cannot be used.
            EndpointError: the model server no longer answers; the same command resumes.
        """
        del teacher
        if self.options.run_dir is not None and isinstance(student, dspy.Module):
            check_can_be_saved(student)
        problem = self._problem(student, trainset, valset)
        with search_shown(self.progress) as on_step:
            self.result = controller.search(problem, self.options, on_step, self.executor)
        return self.result.program

    def _problem(
        self, student: dspy.Module, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example] | None
    ) -> Problem:
        return prepare(self.settings, self.verifier, student, trainset, valset, models=self.models)

    def rollouts(self) -> Rollouts:
        """The store of the search's calls: in `storage`, else in the run folder."""
        return Rollouts(self.options.rollouts)

    def estimate(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
    ) -> Estimate:
        """The remaining cost of `compile` with the same arguments, in tokens; nothing is sent or written."""
        return estimate(self._problem(student, trainset, valset), self.options)
