"""Finds a check's threshold from training questions, and how reliable it is.

A check's scores are in [0, 1] but not probabilities: a reward of 0.8 may be right one time in three. `calibrate`
compares them with a verifier that reads the gold answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import dspy
import numpy as np
from numpy.typing import NDArray

from pdr_dspy import calls
from pdr_dspy.arguments import explained
from pdr_dspy.calls.failures import CallError
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.evaluation.evaluator import ids_of
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.evaluation.statistics import Interval, resamples, wilson
from pdr_dspy.runtime import event_loop
from pdr_dspy.runtime.raised_by import raised_by
from pdr_dspy.settings import is_number, whole_number
from pdr_dspy.verifiers.base import RIGHT, Metric, Verifier, named, verdict
from pdr_dspy.verifiers.checks import AsyncCheck, CalibratedCheck, Calibration, as_check, checked, checked_together
from pdr_dspy.verifiers.function import as_verifier

_DRAWS = 2000
_POINTS = 101
"""Maximum number of stored points of a curve."""
_SIDE_BY_SIDE = 16
"""Questions that run at the same time."""


class Judged(NamedTuple):
    """One answer with its score and verdict."""

    question: str
    """Answers to one question are dependent: they stay together in folds and intervals."""
    score: float | None
    """The check's score; None if it gave none."""
    right: bool


@explained
def calibrate(
    check: AsyncCheck | str | Callable[..., Any],
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    precision: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> CalibratedCheck:
    """Find the threshold of a check on the drafts that a program makes for training questions.

    Args:
        check: a check, a registered name, or a reward function.
        program: makes the answers; all drafts of all its rounds count, so a wide program such as `SelfConsistency` is
            most informative for its tokens. Its calls are made inside the current `calls.session`, and so replayed from
            a store.
        trainset: questions with gold answers, other than the program's test questions; fifty or more.
        verifier: decides which answers are right.
        precision: the required fraction of right answers among the passing ones: the lowest threshold that reaches it
            on the training answers, or comes closest, is chosen. None chooses the threshold that best separates right
            from wrong answers.
        folds: number of folds of the cross-validation, which splits questions.
        seed: of the folds, the intervals and the program.

    Returns:
        The check with its `calibration`, for use in a program in place of the check.

    Raises:
        ConfigError: an argument is invalid.
        DataError: there is nothing to learn from: no right answer, or no wrong one.
    """
    return event_loop.run(
        lambda: acalibrate(check, program, trainset, verifier, precision=precision, folds=folds, seed=seed)
    )


@explained
async def acalibrate(
    check: AsyncCheck | str | Callable[..., Any],
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    precision: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> CalibratedCheck:
    """`calibrate` on the caller's event loop."""
    chosen, grader = as_check(check), as_verifier(verifier)
    _check_arguments(precision, folds)
    places = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def one(name: str, example: dspy.Example) -> list[Judged]:
        async with places:
            return await _judged(chosen, program, name, example, grader)

    with calls.session(seed=seed):
        found = await calls.together([one(*each) for each in zip(ids_of(trainset), trainset, strict=True)])
    return CalibratedCheck(
        chosen, calibration_of([row for rows in found for row in rows], precision=precision, folds=folds, seed=seed)
    )


async def _judged(
    check: Any, program: dspy.Module, name: str, example: dspy.Example, verifier: Verifier
) -> list[Judged]:
    """The drafts of a program for one question; equal ones are checked once, and each counts."""
    prediction = await program.acall(**inputs_of(program, example))
    inputs = inputs_of(program, example)
    drafts = [
        {**draft.outputs, "solution": draft.solution}
        for round_ in prediction.get("rounds") or ()
        for draft in round_.drafts
        if draft.outputs and draft.failure is None
    ]
    if not drafts and not prediction.get("rounds"):  # a program of another kind: its answer
        drafts = [dict(prediction.items())]
    whole = getattr(check, "reads_solution", False)
    fields = [one if whole else {key: value for key, value in one.items() if key != "solution"} for one in drafts]
    distinct = {calls.identity(one): one for one in fields}
    n_questions = list(distinct.values())
    scores: list[Any]
    if not n_questions:
        return []
    if hasattr(check, "acheck_all"):
        scores = await checked_together(check, inputs, n_questions)
    else:
        scores = await calls.together([_scored(check, inputs, one) for one in n_questions])
    known = dict(zip(distinct, scores, strict=True))
    rows = []
    averify: Any = getattr(verifier, "averify", None)
    for draft, shown in zip(drafts, fields, strict=True):
        score = known[calls.identity(shown)]
        if isinstance(score, ConfigError):
            raise score
        value = None if isinstance(score, Exception) else float(score)
        answer = dspy.Prediction(**{key: text for key, text in draft.items() if key != "solution"} or draft)
        if averify is None:
            found = await asyncio.to_thread(verdict, verifier, example, answer)
        else:
            with raised_by(named(verifier)):
                found = await averify(example, answer)
        rows.append(Judged(name, value, bool(found >= RIGHT)))
    return rows


async def _scored(check: AsyncCheck, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    try:
        return await checked(check, inputs, outputs)
    except (CallError, DataError, TimeoutError) as error:
        return error


def calibration_of(
    judged: Iterable[Judged], *, precision: float | None = None, folds: int = 5, seed: int = 0
) -> Calibration:
    """The calibration from existing answers. Raises as `calibrate` does."""
    _check_arguments(precision, folds)
    everything = list(judged)
    rows = [row for row in everything if row.score is not None]
    right = sum(row.right for row in rows)
    if not right or right == len(rows):
        what = "is right" if not right else "is wrong"
        raise DataError(
            f"none of the {len(rows)} answers that the check could score {what}: right and wrong cannot be "
            "compared; give more questions, or others"
        )
    names = sorted({row.question for row in rows})
    random.Random(seed).shuffle(names)
    numbers = {name: place for place, name in enumerate(names)}
    questions = np.array([numbers[row.question] for row in rows])
    scores = np.array([row.score for row in rows], dtype=float)
    truth = np.array([row.right for row in rows])
    parts = min(folds, len(names))
    passes = np.zeros(len(rows), dtype=bool)
    for part in range(parts if parts > 1 else 0):
        held = questions % parts == part
        if truth[~held].any() and not truth[~held].all():
            passes[held] = scores[held] >= _threshold(scores[~held], truth[~held], precision)
    threshold = _threshold(scores, truth, precision)
    found, interval = _precision(truth, passes, questions, len(names), seed)
    return Calibration(
        threshold=threshold,
        target=precision,
        precision=found,
        precision_interval=interval,
        recall=float(truth[scores >= threshold].sum() / truth.sum()),
        auc=_auc(scores, truth),
        auc_interval=_auc_interval(scores, truth, questions, len(names), seed),
        roc=_roc(scores, truth),
        questions=len(names),
        answers=len(rows),
        unchecked=len(everything) - len(rows),
        folds=parts,
        seed=seed,
    )


def calibration_of_rows(
    rows: Iterable[Row], *, precision: float | None = None, folds: int = 5, seed: int = 0
) -> Calibration | None:
    """The calibration from the rows of an evaluation, at no cost: from their drafts that were both checked and scored.

    None without such drafts, or if all of them are right, or all wrong.
    """
    drafts = [(row.id, draft) for row in rows for draft in row.drafts]
    judged = [
        Judged(name, draft.check, draft.score >= RIGHT)
        for name, draft in drafts
        if draft.score is not None and draft.check is not None
    ]
    if len({one.right for one in judged}) < 2:
        return None
    return calibration_of(judged, precision=precision, folds=folds, seed=seed)


def _check_arguments(precision: float | None, folds: int) -> None:
    if precision is not None and not (is_number(precision) and 0 < precision <= 1):
        raise ConfigError(f"`calibrate(precision={precision!r})` must be in (0, 1], or None")
    whole_number("calibrate(", "folds", folds, least=2)


def _passing(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The distinct scores in descending order, and how many right and wrong answers have at least each."""
    levels, places = np.unique(scores, return_inverse=True)
    right, wrong = (np.bincount(places, side, minlength=len(levels))[::-1].cumsum() for side in (truth, ~truth))
    return levels[::-1], right, wrong


def _threshold(scores: NDArray[np.float64], truth: NDArray[np.bool_], target: float | None) -> float:
    """A threshold halfway to the next lower score, so that a score slightly below every observed one passes."""
    levels, right, wrong = _passing(scores, truth)
    if target is None:
        place = int(np.argmax(right / max(truth.sum(), 1) - wrong / max((~truth).sum(), 1)))
    else:
        share = right / (right + wrong)
        reached = np.flatnonzero(share >= target)
        place = int(reached[-1]) if len(reached) else int(np.flatnonzero(share == share.max())[-1])
    below = levels[place + 1] if place + 1 < len(levels) else levels[place]
    return float((levels[place] + below) / 2)


def _precision(
    truth: NDArray[np.bool_], passes: NDArray[np.bool_], questions: NDArray[Any], count: int, seed: int
) -> tuple[float | None, Interval]:
    """The fraction of right answers among the passing ones: a ratio over questions, by the bootstrap of questions."""
    if not passes.any():
        return None, Interval(0.0, 1.0)
    value = float(truth[passes].mean())
    n_questions = len(set(questions[passes].tolist()))
    widest = wilson(value * n_questions, n_questions)
    if value in (0.0, 1.0) or n_questions < 10:  # too few for a bootstrap: each question counts as one answer
        return value, widest
    good = np.bincount(questions, truth & passes, minlength=count)
    all_ = np.bincount(questions, passes, minlength=count)
    drawn = resamples(count, _DRAWS, seed)
    tops, bottoms = good[drawn].sum(axis=1), all_[drawn].sum(axis=1)
    low, high = np.quantile(tops[bottoms > 0] / bottoms[bottoms > 0], [0.025, 0.975])
    return value, Interval(float(low), float(high))


def _auc(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The probability that a right answer scores above a wrong one, ties counting half (Mann and Whitney)."""
    wrong = np.sort(scores[~truth])
    above = np.searchsorted(wrong, scores[truth], side="left") + np.searchsorted(wrong, scores[truth], side="right")
    return float(above.sum() / 2 / (len(wrong) * int(truth.sum())))


def _auc_interval(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], questions: NDArray[Any], count: int, seed: int
) -> Interval:
    """By the bootstrap of questions: each draw weights the pairs of two questions by how often it contains them."""
    if count < 10:
        return Interval(0.0, 1.0)
    wins = np.zeros((count, count))
    wrong, owners = scores[~truth], questions[~truth]
    for number in range(count):
        own = scores[truth & (questions == number), None]
        above = ((own > wrong).sum(axis=0) + (own >= wrong).sum(axis=0)) / 2
        wins[number] = np.bincount(owners, above, minlength=count)
    right, other = (np.bincount(questions[side], minlength=count) for side in (truth, ~truth))
    drawn = resamples(count, _DRAWS, seed) + count * np.arange(_DRAWS)[:, None]
    times = np.bincount(drawn.ravel(), minlength=count * _DRAWS).reshape(_DRAWS, count).astype(float)
    pairs = (times @ right) * (times @ other)
    found = (((times @ wins) * times).sum(axis=1)[pairs > 0]) / pairs[pairs > 0]
    low, high = (float(edge) for edge in np.quantile(found, [0.025, 0.975]))
    return wilson(low * count, count) if low == high else Interval(low, high)  # a few may agree by chance


def _roc(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[tuple[float, float, float], ...]:
    levels, right, wrong = _passing(scores, truth)
    chosen = np.unique(np.linspace(0, len(levels) - 1, min(len(levels), _POINTS)).round().astype(int))
    return tuple(
        (float(wrong[place] / (~truth).sum()), float(right[place] / truth.sum()), float(levels[place]))
        for place in chosen
    )
