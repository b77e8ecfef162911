"""The loop of the paper, once: `improve`. One pass, voting, best-of-N, SR and PDR are settings of it.

    C(0) = {};  for r = 1..R:  S(r) = { s_i <- M(x, C(r-1)) }, i = 1..M_r;   C(r) <- D(x, S(r)), |C(r)| <= kappa

(arXiv 2510.01123, section 3.) `drafting` makes S(r), `distilling` makes C(r), and `outcome` has the answer. Beyond the
paper, a check may score each draft without the gold answer: its result is shown to the next round, selects the answer,
and ends the loop once a draft passes; a budget, a deadline or a round whose drafts all fail ends it early, and the
answer comes from what is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import dspy

from pdr_dspy import calls
from pdr_dspy.calls import telemetry
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import DeadlinePassed, RoundFailed
from pdr_dspy.operators.distilling import distill
from pdr_dspy.operators.drafting import failure_of, sample, saved, stage_of
from pdr_dspy.operators.outcome import Outcome, Round, Stop
from pdr_dspy.operators.progress import report
from pdr_dspy.operators.question import Question
from pdr_dspy.operators.run_calls import RunCalls
from pdr_dspy.operators.run_checks import RunChecks
from pdr_dspy.operators.schedule import MAX_WIDTH, Schedule
from pdr_dspy.operators.workspace import Carried
from pdr_dspy.prompts.roles import Role
from pdr_dspy.verifiers.checks import AsyncCheck as Check

logger = logging.getLogger("pdr_dspy")


async def improve(
    task: type[dspy.Signature],
    schedule: Schedule,
    predictors: Mapping[Role, dspy.Predict],
    inputs: Mapping[str, Any],
    *,
    budget: Budget,
    seed: int | None = None,
    check: Check | None = None,
) -> Outcome:
    """The read, write, compress loop of the paper, once.

    Args:
        task: the user's signature.
        schedule: widths, kappa, distiller, caps, and the uses of the check.
        predictors: for every role that the schedule calls.
        inputs: the task's input fields.
        budget: limits in tokens, checked before each stage.
        seed: the run seed; None takes the session's.
        check: scores drafts; the schedule determines its use.

    Raises:
        ConfigError: no language model is set, or the caps, kappa and the prompt do not fit the model's context.
        BudgetTooSmall: not even the first round fits the budget.
        RoundFailed: every draft of a round failed, and no earlier round has an answer; `error.ledger` has all calls
            until then.
        DeadlinePassed: the session's deadline passed before there was a draft; `error.ledger` likewise.
    """
    session, question = calls.current(), Question(task, schedule, predictors, inputs)
    share = None if session.account is None else session.account.open()
    run = RunCalls(question, session.seed if seed is None else seed, budget, share)
    checks = RunChecks(check, question, run.record)
    rounds: list[Round] = []
    with telemetry.program(schedule.strategy, schedule, lambda: run.ledger, inputs) as ended:
        outcome = None
        try:
            await run.preflight()
            stop = await _until_deadline(run, checks, rounds)
            outcome = Outcome.of(question, rounds, stop, run.ledger)
            ended(outcome.stop, outcome.solution)
            return outcome
        finally:
            checks.close()
            run.close(outcome)


async def preflight(question: Question, budget: Budget) -> None:
    """Check the parts of a run that are known before its first call: the model's context and the budget.

    Raises ConfigError or BudgetTooSmall, as the run itself would.
    """
    await RunCalls(question, 0, budget).preflight()


async def _rounds(run: RunCalls, checks: RunChecks, rounds: list[Round]) -> Stop:
    """Make the rounds that the schedule and the budgets allow, and add each to `rounds` once its drafts are there.

    Returns why no further one follows.
    """
    question, schedule = run.question, run.question.schedule
    carried = Carried()  # C(0) = {}
    for number, planned in enumerate(schedule.widths, start=1):  # r = 1..R
        width = len(carried.workspaces) or planned  # a round may have additional drafts, saved by the one before it
        with telemetry.round_(number, width, lambda: run.ledger) as ended:
            stage = stage_of(schedule, carried, width)
            if rounds and not await run.affords(stage, waves=schedule.waves(width)):
                return Stop.BUDGET
            report(question, run.ledger, "drafting", number, width)

            drafts = await sample(run, checks, number, stage)  # S(r) = { s_i <- M(x, C(r-1)) }
            failure = failure_of(drafts, schedule)
            if failure is not None and not any(
                draft.complete(question.fields) for one in rounds for draft in one.drafts
            ):
                raise RoundFailed(failure, run.ledger)
            rounds.append(Round(drafts=drafts))
            report(question, run.ledger, "drafted", number, width, drafts)
            if failure is not None:
                _tell_of_failure(failure)
                return Stop.ROUND_FAILED
            if number == schedule.rounds:
                break
            if any(draft.passes(schedule.stop_at) for draft in drafts):
                return Stop.CHECKED

            extra = saved(run, drafts, width) if number + 1 < schedule.rounds else 0
            next_width = min(schedule.widths[number] + extra, MAX_WIDTH)
            distilled = await distill(run, number, drafts, next_width)  # C(r) <- D(x, S(r))
            if distilled is None:
                report(question, run.ledger, "ended", number, width, drafts)
                return Stop.BUDGET
            carried = distilled
            rounds[-1] = Round(drafts=drafts, workspaces=carried.workspaces)
            report(question, run.ledger, "ended", number, width, drafts, carried.workspaces)
            ended([workspace.text for workspace in carried.workspaces])
    return Stop.DONE


def _tell_of_failure(failure: str) -> None:
    """Report to the session that a later round failed, or log it."""
    on_failed_round = calls.current().on_failed_round
    if on_failed_round is None:
        logger.warning(
            "%s. The answer comes from the rounds before that (`prediction.stop` is 'round failed')", failure
        )
    else:
        on_failed_round(failure)


async def _until_deadline(run: RunCalls, checks: RunChecks, rounds: list[Round]) -> Stop:
    """The rounds, as long as the session's deadline allows. Raises DeadlinePassed if it passes before the drafts of the
    first round are there."""
    deadline = calls.current().deadline
    if deadline is None:
        return await _rounds(run, checks, rounds)
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlinePassed("the deadline passed before the first round began", run.ledger)
    clock = asyncio.timeout(left)
    try:
        async with clock:
            return await _rounds(run, checks, rounds)
    except TimeoutError:
        if not clock.expired():
            raise
    run.record_cancelled()
    checks.cancel()
    if not rounds:
        raise DeadlinePassed("the deadline passed before the first round had finished", run.ledger)
    return Stop.DEADLINE
