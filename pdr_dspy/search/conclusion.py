"""The end of a search: its confirmation, the returned program, and the rows on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.drafts import over_drafts
from pdr_dspy.evaluation.evaluator import describe as describe_evaluation
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.statistics import Interval, Paired, paired
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.search.credit import credits_of
from pdr_dspy.search.driver.measurements import SEEDS, place_of
from pdr_dspy.search.front_members import estimated_front
from pdr_dspy.search.problem import Problem
from pdr_dspy.search.proposing.instructions import Proposals
from pdr_dspy.search.racing.arms import Found
from pdr_dspy.search.racing.confirmation import Confirmation, judge
from pdr_dspy.search.racing.requests import Stage
from pdr_dspy.search.records import TrialRecord, at_the_end
from pdr_dspy.search.result import SearchResult, least_cost, program_of
from pdr_dspy.search.settings import Accept
from pdr_dspy.search.space.prompt_axes import questions_in

logger = logging.getLogger("pdr_dspy.search")

Rows = Callable[[Stage, int], Sequence[Row]]
"""The rows of one trial in one stage, by its number."""
SAME = Paired(0.0, Interval(0.0, 0.0), 1.0)
"""The difference of a program and itself."""


def conclude(
    problem: Problem, found: Found, rows: Rows, *, accept: Accept, margin: float = 0.0, written: Proposals | None
) -> SearchResult:
    """The returned program, and all results.

    Args:
        problem: of the search.
        found: the result of the plan.
        rows: of all measurements.
        accept: when the winner is returned instead of the student.
        margin: a difference in score that does not count, a fraction.
        written: instructions that a model wrote for the search.

    Raises ConfigError if no schedule is within the limits.
    """
    limits = problem.settings.limits
    trials = at_the_end(found, lambda number: rows(Stage.RACE, number), limits)
    if found.chosen is None:
        whole = [trial for trial in trials if trial.state == "measured"]
        raise ConfigError(
            f"no schedule is within `max_sequential={limits.sequential}`, `max_total={limits.total}`"
            f"{'' if limits.cost is None else f', `max_cost={limits.cost}`'}: the least that "
            f"was measured is {min(t.sequential for t in whole):.0f} sequential and "
            f"{min(t.total for t in whole):.0f} total tokens{'' if limits.cost is None else least_cost(whole)} "
            f"({found.stopped}); raise the limit or lower the caps"
        )
    best = trials[found.chosen]
    confirmation = confirm(problem, best, rows, accept=accept, margin=margin, tied=found.tied, written=written)
    logger.info("%s; %s", found.stopped, confirmation.verdict)
    made = {
        trial.number: [row for stage in (Stage.RACE, Stage.FINAL) for row in rows(stage, trial.number)]
        for trial in trials
    }
    return SearchResult(
        program=program_of(problem.student, best) if confirmation.kept == "winner" else problem.student.deepcopy(),
        student=problem.student,
        trials=trials,
        best=best,
        finalists=found.finalists,
        front=tuple(estimated_front(trials)),
        confirmation=confirmation,
        limits=limits,
        stopped=found.stopped,
        tied=found.tied,
        prior_weight=found.prior_weight,
        paid=found.paid,
        saved=found.saved,
        proposals=written,
        credits=credits_of(trials, made, best),
        rows=made,
    )


def confirm(
    problem: Problem,
    best: TrialRecord,
    rows: Rows,
    *,
    accept: Accept,
    margin: float = 0.0,
    tied: Sequence[int] = (),
    written: Proposals | None,
) -> Confirmation:
    """The best trial and the student on the confirmation's questions, and the decision between them; `tied` are the
    numbers of trials that were as good as the best within the margin."""
    student = report(problem, rows, Stage.CONFIRM, None, str(problem.own))
    same = best.number == 0
    winner = student if same else report(problem, rows, Stage.CONFIRM, best, str(best.candidate))
    single = len(student.rows)
    student = over_drafts(student, winner)
    difference = SAME if same else paired(winner.per_question, student.per_question)
    shown = {
        question
        for place, space in problem.space.spaces.items()
        for question in questions_in(problem.operators.get(place, problem.operator).task, space.demos)
    }
    shown |= set() if written is None else set(written.shown)
    kept, verdict = judge(
        winner,
        student,
        difference,
        problem.settings.limits,
        same=same,
        seen=problem.seen,
        prompted=len(shown & problem.confirmed),
        accept=accept,
        margin=margin,
    )
    if tied:
        trials = f"trial{'s' * (len(tied) > 1)} {' and '.join(map(str, tied))}"
        verdict += f"; {trials} tied with trial {best.number}, the cheapest, within `margin={margin:g}`"
    over = len(student.rows) // single
    if over > 1:
        verdict += f"; the student is one pass, and its score the mean of {over} drafts of each question"
    return Confirmation(winner, student, difference, not problem.seen, kept, verdict, over)


def report(problem: Problem, rows: Rows, stage: Stage, trial: TrialRecord | None, name: str) -> Report:
    """The evaluation of one program in one stage; of the student if `trial` is None."""
    own = rows(stage, 0 if trial is None else trial.number)
    config = describe_evaluation(
        problem.student if trial is None else program_of(problem.student, trial),
        [example for _, example in problem.sets[stage]],
        [identity for identity, _ in problem.sets[stage]],
        problem.verifier,
        repeats=max((row.repeat for row in own), default=0) + 1,
        seed=problem.settings.seed + SEEDS[stage],
        budget=None,
        models=problem.description["models"],
    )
    return Report(rows=tuple(sorted(own, key=lambda row: (row.repeat, row.id))), name=name, config=config)


def write_rows(result: SearchResult, problem: Problem, rows: Rows, folder: Path) -> None:
    """Write the rows of every trial, finalist and confirmed program in the format of `evaluate`.

    Raises StoreError if the folder cannot be written.
    """
    student, best, confirmation = result.trials[0], result.best, result.confirmation
    written_of = [(Stage.RACE, trial) for trial in result.trials]
    written_of += [(Stage.FINAL, result.trials[one.number]) for one in result.finalists]
    written_of += [(Stage.CONFIRM, trial) for trial in ((student, best) if best.number else (student,))]
    reports = [
        (place, report(problem, rows, stage, trial if trial.number else None, place))
        for stage, trial in written_of
        for place in (place_of(stage, trial.number, problem.confirmed_in),)
    ]
    if confirmation.over > 1:
        reports.append((f"{problem.confirmed_in}/{confirmation.place}", confirmation.student))
    for place, written in reports:
        try:
            write_whole(folder / place / "config.json", json.dumps(written.config, indent=1))
            write_whole(folder / place / "rows.jsonl", "".join(_line(row) for row in written.rows))
        except OSError as error:
            raise StoreError(f"{folder / place} cannot be written: {error.strerror or error}") from error


def _line(row: Row) -> str:
    return row.model_dump_json(exclude_defaults=True).encode("utf-8", "backslashreplace").decode() + "\n"
