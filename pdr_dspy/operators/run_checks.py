"""The checks of a run: which drafts are checked, what the checks cost, and on how many drafts they failed.

A check scores a draft without the gold answer. Drafts that it cannot distinguish are checked once; its calls are put on
the run's ledger once, in the order of the drafts; a check whose draft is not waited for is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pdr_dspy import calls
from pdr_dspy.calls.failures import CallError
from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.operators.question import Question
from pdr_dspy.operators.workspace import Checked, Draft
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import AsyncCheck as Check
from pdr_dspy.verifiers.checks import checked, checked_together

logger = logging.getLogger("pdr_dspy")

_Result = tuple[Checked, tuple[Call, ...]]
"""The result of a check for a draft, and the calls that it made."""


class RunChecks:
    """The check of one run, and its results so far."""

    def __init__(self, check: Check | None, question: Question, record: Callable[[Sequence[Call]], None]) -> None:
        """
        Args:
            check: scores drafts; None leaves all of them unchecked.
            question: provides the task's inputs and output fields, and the check's name.
            record: puts calls on the run's ledger.
        """
        self._check = check
        self._question = question
        self._record = record
        self._results: dict[str, tuple[Draft, asyncio.Task[_Result]]] = {}
        """By the outputs that they score, with the first draft that has them: equal answers are checked once."""
        self._together: list[asyncio.Task[list[_Result]]] = []
        """Checks of whole rounds, each with the results of several drafts."""
        self._charged: set[str] = set()
        """Results whose calls are on the ledger."""
        self._asked = 0
        """Drafts that were given to the check."""
        self._unchecked: Counter[str] = Counter()
        """Those that it failed on, by the reason, unless the session takes them."""

    async def of_round(self, taken: Sequence[Draft], drafts: Sequence[Draft]) -> tuple[Draft, ...]:
        """The drafts that a round continues with, checked; the checks' calls are recorded.

        Args:
            taken: the drafts that the round continues with.
            drafts: all of its drafts: a check of one that was not waited for may still run, and is cancelled.
        """
        if self._check is None:
            return tuple(taken)
        self._start_together(taken)
        results = await calls.together([self.result(draft) for draft in taken])
        self._record([call for draft in drafts for call in self._calls_for(self._key(draft), draft)])
        self._count_failures(results)
        return tuple(
            draft if result is None else draft.model_copy(update={"check": result})
            for draft, result in zip(taken, results, strict=True)
        )

    async def result(self, draft: Draft) -> Checked | None:
        """The check's result for a draft; None without a check, or without an answer to check.

        Raises ConfigError or StoreError if the check does: they concern all drafts.
        """
        if self._check is None or not draft.complete(self._question.fields):
            return None
        key = self._key(draft)
        if key not in self._results:
            self._results[key] = draft, asyncio.create_task(self._run(self._check, draft))
        _, task = self._results[key]
        result, _ = await asyncio.shield(task)
        return result

    def cancel(self) -> None:
        """Cancel the checks that still run, after the run was cancelled or raised, and record the calls of those that
        no round has waited for."""
        left = [call for key, (draft, _) in list(self._results.items()) for call in self._calls_for(key, draft)]
        for whole in self._together:
            whole.cancel()
        if left:
            self._record(left)

    def close(self) -> None:
        """End the run: `cancel`, and log how often the check failed."""
        self.cancel()
        if self._unchecked:
            self._warn()

    def _shown(self, draft: Draft) -> dict[str, Any]:
        """The check's view of a draft."""
        whole = getattr(self._check, "reads_solution", False)
        return {**draft.outputs, "solution": draft.solution} if whole else draft.outputs

    def _key(self, draft: Draft) -> str:
        """The key of a draft's result: equal for drafts that the check cannot distinguish."""
        compared = getattr(self._check, "relative", False)
        return calls.identity({**self._shown(draft), **({"in round": draft.round} if compared else {})})

    async def _run(self, check: Check, draft: Draft) -> _Result:
        """Check one draft."""
        try:
            score: Score | Exception = await checked(check, self._question.inputs, self._shown(draft))
        except Exception as error:
            score = error
        return _result(score)

    def _start_together(self, drafts: Sequence[Draft]) -> None:
        """Start one check of the drafts that were not checked yet, if the check takes a whole round at a time."""
        if not hasattr(self._check, "acheck_all"):
            return
        fresh: dict[str, Draft] = {}
        for draft in drafts:
            key = self._key(draft)
            if key not in self._results and draft.complete(self._question.fields):
                fresh.setdefault(key, draft)
        if not fresh:
            return
        whole = asyncio.create_task(self._run_together(self._check, list(fresh.values())))
        self._together.append(whole)

        async def one(place: int) -> _Result:
            return (await asyncio.shield(whole))[place]

        for place, (key, draft) in enumerate(fresh.items()):
            self._results[key] = draft, asyncio.create_task(one(place))

    async def _run_together(self, check: Any, drafts: Sequence[Draft]) -> list[_Result]:
        """Check several drafts at once."""
        try:
            shown = [self._shown(draft) for draft in drafts]
            scores = await checked_together(check, self._question.inputs, shown)
        except Exception as error:
            first, *others = [_result(error)] * len(drafts)
            return [first, *((result, ()) for result, _ in others)]  # its calls are recorded once
        return [_result(score) for score in scores]

    def _calls_for(self, key: str, draft: Draft) -> list[Call]:
        """The calls of the check with this key that are not on the ledger yet, as those of a draft; a check that still
        runs is cancelled."""
        if key not in self._results or key in self._charged:
            return []
        _, task = self._results[key]
        place = {"phase": Phase.CHECK, "round": draft.round, "index": draft.index}
        if not task.done():  # no round waits for it
            task.cancel()
            del self._results[key]
            asked = next((call for _, other in self._results.values() for call in _calls_of(other)), None)
            if asked is None:  # the check calls no model
                return []
            return [Call(**place, price=asked.price, model=asked.model, finish="cancelled", fate="left")]
        self._charged.add(key)
        return [call.model_copy(update=place) for call in _calls_of(task)]

    def _count_failures(self, results: Sequence[Checked | None]) -> None:
        """Count the drafts that the check failed on, and report them to the session."""
        on_failed_check = calls.current().on_failed_check
        for result in results:
            self._asked += result is not None
            if result is None or result.failure is None:
                continue
            if on_failed_check is None:
                self._unchecked[result.failure] += 1
            else:
                on_failed_check(self._question.schedule.check or "", result.failure)

    def _warn(self) -> None:
        """Log that the check failed on drafts of this run."""
        name = self._question.schedule.check
        (why, _), *others = self._unchecked.most_common()
        logger.warning(
            "the check %r failed on %d of %d drafts, %s%s. They count as unchecked: it neither scores, picks nor stops "
            "there. Call it on such a draft to see where it fails: "
            "`await program.checks[%r].acheck(inputs, prediction.rounds[0].drafts[0].outputs)`",
            *(name, self._unchecked.total(), self._asked, "most often with " if others else "with ", why, name),
        )


def _result(score: Score | Exception) -> _Result:
    """The result of a check, and the calls it made. A failure (of a user's reward function, or a server) leaves the
    draft unchecked, with the reason. Errors that concern all drafts are raised."""
    if isinstance(score, (ConfigError, StoreError)):
        raise score
    if isinstance(score, Exception):
        made = score.calls if isinstance(score, CallError) else ()
        why = " ".join(f"{type(score).__name__}: {score}".split())[:300]
        return Checked(failure=why), made
    return Checked(value=float(score), detail=score.detail, feedback=score.feedback or ""), score.calls


def _calls_of(task: asyncio.Task[_Result]) -> tuple[Call, ...]:
    """The calls that a finished check has made."""
    return task.result()[1] if task.done() and not task.cancelled() and task.exception() is None else ()
