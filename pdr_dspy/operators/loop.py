"""The loop of the paper, once: `improve`. One pass, voting, best-of-N, SR and PDR are settings of it.

    C(0) = {};  for r = 1..R:  S(r) = { s_i <- M(x, C(r-1)) }, i = 1..M_r;   C(r) <- D(x, S(r)), |C(r)| <= kappa

(arXiv 2510.01123, section 3.) Beyond the paper, a check may score each draft without the gold answer: its result is
shown to the next round, selects the answer, and ends the loop once a draft passes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import dspy
from pydantic import BaseModel, ConfigDict

from pdr_dspy import calls
from pdr_dspy.calls import early_stop, telemetry
from pdr_dspy.calls.account import Share
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import CallError, DeadlinePassed, RoundFailed
from pdr_dspy.calls.ledger import Call, Ledger, Phase
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.errors import BudgetTooSmall, ConfigError, StoreError
from pdr_dspy.operators import consensus, distillers, final
from pdr_dspy.operators.listening import how_streamed
from pdr_dspy.operators.question import Question, Stage
from pdr_dspy.operators.schedule import MAX_WIDTH, Schedule
from pdr_dspy.operators.workspace import Checked, Draft, Workspace, candidates
from pdr_dspy.prompts.form import form_of
from pdr_dspy.prompts.roles import Role, derive, signature_of
from pdr_dspy.runtime.raised_by import raised_by
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import AsyncCheck as Check

logger = logging.getLogger("pdr_dspy")

_DRAFTING = ((Role.DRAFT, Phase.DRAFT), (Role.REFINE, Phase.REFINE))
_STATED_CONTEXT = re.compile(r"context (?:length|size|window)\D{0,40}(\d[\d,]*)", re.IGNORECASE)
"""The context length in a server's refusal, as vLLM, llama.cpp and OpenAI write it."""


class Stop(StrEnum):
    """The reason why a program stopped."""

    DONE = "done"
    """The last round has finished, and the answer is its draft, or the one that `Schedule.final` selects."""
    CHECKED = "checked"
    """A draft reached `Schedule.stop_at` before the last round; it is the answer."""
    BUDGET = "budget"
    """The next stage did not fit the budget; the answer comes from the last finished round."""
    DEADLINE = "deadline"
    """The session's deadline passed, and pending calls were cancelled; the answer comes from the finished drafts."""
    FELL_BACK = "fell back"
    """No answer could be read from the last round; it comes from the latest round that has one."""
    NO_ANSWER = "no answer"
    """No draft of any round has a readable answer; the output fields are None."""


_CUT_SHORT = (Stop.BUDGET, Stop.DEADLINE)


class Round(BaseModel):
    """One finished round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: tuple[Draft, ...]
    """The drafts that the round continued with: all of them, unless it ended early (`Schedule.quorum`,
    `Schedule.agree`, `Schedule.stop_at`)."""
    workspaces: tuple[Workspace, ...] = ()
    """The workspace of each draft of the next round; empty for the last round."""


class Progress(NamedTuple):
    """The progress of a run; `calls.session(on_progress=...)` receives it."""

    step: Literal["drafting", "drafted", "ended"]
    """The drafts of a round are being sent, or have finished (and were checked), or the round has ended with
    workspaces."""
    round: int
    """From 1."""
    rounds: int
    """The planned number of rounds; a run may end earlier."""
    width: int
    """The number of drafts that the round requested."""
    drafts: tuple[Draft, ...]
    """The drafts that the round continues with; empty while it is drafting."""
    workspaces: tuple[Workspace, ...]
    ledger: Ledger
    """All calls so far."""
    outputs: tuple[str, ...] = ()
    """The names of the task's output fields."""


class Outcome(NamedTuple):
    """The result of the loop."""

    outputs: dict[str, Any]
    """All of the task's output fields; None for one that could not be read."""
    solution: str
    ledger: Ledger
    rounds: tuple[Round, ...]
    stop: Stop


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
        RoundFailed: every draft of a round failed; `error.ledger` has all calls until then.
        DeadlinePassed: the session's deadline passed before there was a draft; `error.ledger` likewise.
    """
    run_seed = calls.current().seed if seed is None else seed
    run = _Run(Question(task, schedule, predictors, inputs), run_seed, budget, check)
    account = calls.current().account
    run.share = None if account is None else account.open()
    with telemetry.program(schedule.strategy, schedule, lambda: run.ledger, inputs) as ended:
        try:
            await run.preflight()
            outcome = await _rounds(run)
        except BaseException:
            run.close(None)
            raise
        run.close(outcome)
        ended(outcome.stop, outcome.solution)
    return outcome


async def preflight(question: Question, budget: Budget) -> None:
    """Check the parts of a run that are known before its first call: the model's context and the budget.

    Raises ConfigError or BudgetTooSmall, as the run itself would.
    """
    await _Run(question, 0, budget, None).preflight()


async def _rounds(run: _Run) -> Outcome:
    """Run the rounds, until the session's deadline."""
    rounds: list[Round] = []
    deadline = calls.current().deadline
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise DeadlinePassed("the deadline passed before the first round began", run.ledger)
    if left is None:
        return await _made(run, rounds)
    clock = asyncio.timeout(left)
    try:
        async with clock:
            return await _made(run, rounds)
    except TimeoutError:
        if not clock.expired():
            raise
    run.record_cancelled()
    if run.drafted:  # its workspaces were being made
        rounds.append(Round(drafts=run.drafted))
    if not rounds:
        raise DeadlinePassed("the deadline passed before the first round had finished", run.ledger)
    return run.stopped(rounds, Stop.DEADLINE)


async def _made(run: _Run, rounds: list[Round]) -> Outcome:
    """Make the rounds that the schedule and the budget allow; finished ones are added to `rounds`."""
    schedule = run.schedule
    workspaces: tuple[Workspace, ...] = ()
    for number, planned in enumerate(schedule.widths, start=1):
        width = len(workspaces) or planned  # a round may have additional drafts, saved by the one before it
        with telemetry.round_(number, width, lambda: run.ledger) as made:
            stage = [run.reads(workspaces, index) for index in range(width)]
            if rounds and not await run.affords(stage, waves=schedule.waves(width)):
                return run.stopped(rounds, Stop.BUDGET)
            run.report("drafting", number, width)
            drafts = await run.drafts(number, stage)
            if all(not draft.ok for draft in drafts):
                ((reason, _),) = Counter(draft.failure for draft in drafts).most_common(1)
                cut = str(reason).startswith(calls.CUT_THOUGHT)
                remedy = f"; raise `thinking_tokens={schedule.thinking_tokens}`" if cut else ""
                raise RoundFailed(
                    f"all {len(drafts)} drafts of round {number} failed, most often with: {reason}{remedy}", run.ledger
                )
            run.drafted = drafts
            run.report("drafted", number, width, drafts)
            last = number == schedule.rounds
            passed = run.passed(drafts)
            if last or passed is not None:
                run.drafted = ()
                rounds.append(Round(drafts=drafts))
                if passed is not None:
                    return run.outcome(passed, rounds, Stop.DONE if last else Stop.CHECKED)
                break
            saved = run.saved(drafts, len(stage)) if number + 1 < schedule.rounds else 0
            distilled = await run.distill(number, drafts, min(schedule.widths[number] + saved, MAX_WIDTH))
            run.drafted = ()
            rounds.append(Round(drafts=drafts, workspaces=distilled or ()))
            run.report("ended", number, width, drafts, distilled or ())
            if distilled is None:
                return run.stopped(rounds, Stop.BUDGET)
            workspaces = distilled
            made([workspace.text for workspace in workspaces])
    return run.stopped(rounds, Stop.DONE)


def _checked(score: Score | Exception) -> tuple[Checked, tuple[Call, ...]]:
    """The result of a check, and the calls it made. A failure (of a user's reward function, or a server) leaves the
    draft unchecked, with the reason. Errors that concern all drafts are raised."""
    if isinstance(score, (ConfigError, StoreError)):
        raise score
    if isinstance(score, Exception):
        made = score.calls if isinstance(score, CallError) else ()
        why = " ".join(f"{type(score).__name__}: {score}".split())[:300]
        return Checked(failure=why), made
    return Checked(value=float(score), detail=score.detail, feedback=score.feedback or ""), score.calls


def _calls_of(task: asyncio.Task[tuple[Checked, tuple[Call, ...]]]) -> tuple[Call, ...]:
    """The calls that a finished check has made."""
    return task.result()[1] if task.done() and not task.cancelled() and task.exception() is None else ()


_Part = tuple[Role, Phase, list[int], list[Mapping[str, Any]]]
"""The drafts of a stage with one role: their phase, their positions in the stage, and their inputs."""


def _by_role(stage: Stage) -> list[_Part]:
    """The drafts of a stage by their role: their positions in the stage, and their inputs."""
    parts = []
    for role, phase in _DRAFTING:
        places = [place for place, (own, _) in enumerate(stage) if own is role]
        if places:
            parts.append((role, phase, places, [stage[place][1] for place in places]))
    return parts


class _UnderWay:
    """See `_Run.sent`. After an error the calls stay: the deadline may have cancelled them."""

    __slots__ = ("before", "run")

    def __init__(self, run: _Run, asked: Sequence[tuple[Role, Phase]], number: int) -> None:
        self.run, self.before = run, run.under_way
        run.under_way = [*self.before, (asked, number)]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.run.under_way = self.before


class _Run:
    """The state of one run of the loop: the calls so far, and how to make further ones."""

    def __init__(self, question: Question, run_seed: int, budget: Budget, check: Check | None) -> None:
        self.question = question
        self.schedule = question.schedule
        self.run_seed = run_seed
        self.budget = budget
        self.check = check
        self.ledger = Ledger()
        self.share: Share | None = None
        """The run's share of the session's account."""
        self.flaws = ""
        self.worst = 0
        self.results: dict[str, asyncio.Task[tuple[Checked, tuple[Call, ...]]]] = {}
        """Checks by the outputs that they score: equal answers are checked once."""
        self.charged: set[str] = set()
        """Checks whose calls are on the ledger."""
        self.rounds_checked: list[asyncio.Task[list[tuple[Checked, tuple[Call, ...]]]]] = []
        """Checks of whole rounds, each with the results of several drafts."""
        self.asked = 0
        """Drafts that were given to the check."""
        self.unchecked: dict[str, int] = {}
        """Those that it failed on, by the reason, unless the session takes them."""
        self.drafted: tuple[Draft, ...] = ()
        """Drafts of the round whose workspaces are being made."""
        self.under_way: list[tuple[Sequence[tuple[Role, Phase]], int]] = []
        """Role and phase of the calls that are not on the ledger yet, with their round: recorded in case the deadline
        cancels them; their cost is then unknown."""

    def close(self, outcome: Outcome | None) -> None:
        """Cancel checks that still run, for a run that was cancelled or raised, and settle the session's account."""
        for task in [*self.results.values(), *self.rounds_checked]:
            task.cancel()
        self.record_cancelled()
        if self.unchecked:
            self.warn_of_check()
        if self.share is not None:
            self.share.close(self.ledger, outcome)

    def warn_of_check(self) -> None:
        """Log that the check failed on drafts of this run."""
        (why, _), *others = Counter(self.unchecked).most_common()
        logger.warning(
            "the check %r failed on %d of %d drafts, %s%s. They count as unchecked: it neither scores, picks nor stops "
            "there. Call it on such a draft to see where it fails: "
            "`await program.checks[%r].acheck(inputs, prediction.rounds[0].drafts[0].outputs)`",
            *(self.schedule.check, sum(self.unchecked.values()), self.asked, "most often with " if others else "with "),
            *(why, self.schedule.check),
        )

    def record_cancelled(self) -> None:
        """Put the cancelled pending calls on the ledger."""
        if not self.under_way:
            return
        cancelled: list[Call] = []
        for asked, number in self.under_way:
            index: Counter[Phase] = Counter()
            for role, phase in asked:
                lm, cap = calls.serving(self.question.predictors[role]), self.question.sampling(role).cap
                place = {"phase": phase, "round": number, "index": index[phase], "price": calls.price_of(lm)}
                cancelled.append(Call(**place, model=lm.model, cap=cap, finish="cancelled", fate="left"))
                index[phase] += 1
        self.ledger += cancelled
        self.under_way = []

    def report(
        self,
        step: Literal["drafting", "drafted", "ended"],
        number: int,
        width: int,
        drafts: tuple[Draft, ...] = (),
        workspaces: tuple[Workspace, ...] = (),
    ) -> None:
        """Report the run's progress."""
        listener = calls.current().on_progress
        if listener is not None:
            fields = tuple(self.question.fields)
            listener(Progress(step, number, self.schedule.rounds, width, drafts, workspaces, self.ledger, fields))

    def sent(self, asked: Sequence[tuple[Role, Phase]], number: int) -> _UnderWay:
        """Around concurrent calls: `under_way` holds them until they are on the ledger or have failed."""
        return _UnderWay(self, asked, number)

    def site(self, phase: Phase, number: int) -> calls.CallSite:
        """The site of the calls of a phase of a round."""
        return calls.CallSite(phase, number, self.question.example, self.run_seed)

    def reads(self, workspaces: Sequence[Workspace], index: int) -> tuple[Role, dict[str, Any]]:
        """The role of a draft, and its inputs besides the task's: none if its workspace is empty."""
        if not workspaces or workspaces[index].empty:
            return Role.DRAFT, {}
        values = {"workspace": workspaces[index].text}
        if self.schedule.critique:
            values["flaws_found"] = self.flaws or "(none listed)"
        return Role.REFINE, values

    async def ask(
        self,
        role: Role,
        site: calls.CallSite,
        values: Sequence[Mapping[str, Any]],
        *,
        output_format: OutputFormat | None = None,
    ) -> list[Reply]:
        inputs, sampling = self.question.inputs, self.question.sampling(role)
        replies = await calls.ask(
            self.question.predictors[role],
            [{**inputs, **own} for own in values],
            site=site,
            sampling=sampling if output_format is None else sampling._replace(output_format=output_format),
            streamed="" if dspy.settings.send_stream is None else how_streamed(self.schedule, role, site.round),
        )
        if all(reply.call.failure is None for reply in replies):
            return replies
        return [await self.explained(role, own, reply) for own, reply in zip(values, replies, strict=True)]

    async def explained(self, role: Role, values: Mapping[str, Any], reply: Reply) -> Reply:
        """A call that the server refused for its length, with an explanation and a remedy."""
        failure = reply.call.failure
        if failure is None or not failure.startswith(dspy.ContextWindowExceededError.__name__):
            return reply
        (prompt,) = await self.question.prompt_sizes([(role, values)])
        stated = _STATED_CONTEXT.search(failure)
        context = stated[1].replace(",", "") if stated else await self.question.context()
        beyond = f"the model's context{'' if context is None else f' of {context} tokens'} is too small"
        holds = {Role.DRAFT: "", Role.REFINE: f", its workspace up to `kappa={self.schedule.kappa}`"}
        reads = holds.get(role, ", the solutions of the round in it")
        remedy = {Role.DRAFT: "the caps", Role.REFINE: "`kappa` or the caps"}.get(role, "the caps or the widths")
        cap = self.question.sampling(role).cap
        why = (
            f"{beyond} for a {role} prompt of about {prompt} tokens{reads}, and {cap} for the "
            f"answer; lower {remedy}, or serve the model with a longer context ({failure})"
        )
        return reply._replace(call=reply.call.model_copy(update={"failure": why}))

    async def affords(self, stage: Stage, *, waves: int = 1) -> bool:
        """Reserve tokens: whether the worst case of a stage fits on top of those spent."""
        shared = None if self.share is None or self.share.account.budget.unlimited else self.share
        if (self.budget.unlimited and shared is None) or not stage:
            return True
        bounds = await self.question.most(stage)
        self.worst = sum(bounds)
        most = {"sequential": waves * max(bounds), "total": sum(bounds)}
        return self.budget.allows(self.ledger, **most) and (shared is None or shared.allows(self.ledger, **most))

    async def preflight(self) -> None:
        """Check the context and the worst case of the first round, before anything is spent."""
        await self.question.check_context()
        width = self.schedule.widths[0]
        if not await self.affords([(Role.DRAFT, {})] * width, waves=self.schedule.waves(width)):
            asked_again = " or set `json_fallback=False`," if await self.question.fallback(Role.DRAFT) else ""
            raise BudgetTooSmall(
                f"{self.limits()} is below the worst case of the first round of {self.schedule}: {self.worst} "
                f"tokens; raise it,{asked_again} or lower `draft_tokens` or the first width"
            )

    @property
    def total_is_bounded(self) -> bool:
        """Whether this run has a limit on total tokens."""
        shared = None if self.share is None else self.share.account.budget.total
        return self.budget.total is not None or shared is not None

    def limits(self) -> str:
        """The budgets of this run, as code."""
        own = [] if self.budget.unlimited else [f"`{self.budget!r}`"]
        if self.share is not None and not self.share.account.budget.unlimited:
            others = len(self.share.account.runs) > 1
            own.append(f"{'what is left of ' if others else ''}`{self.share.account.budget!r}`")
        return " or ".join(own)

    async def drafts(self, number: int, stage: Sequence[tuple[Role, dict[str, Any]]]) -> tuple[Draft, ...]:
        """Sample the drafts of a round, those with and without a workspace concurrently."""
        early = self.schedule.may_end_early and len(stage) > 1
        parts = _by_role(stage)
        with self.sent([(role, phase) for role, phase, places, _ in parts for _ in places], number):
            replies = await (self.until_enough(number, stage) if early else self.all_of(number, stage, parts))
        self.ledger += [call for reply in replies for call in reply.calls]
        taken = [(place, reply) for place, reply in enumerate(replies) if reply.call.fate != "left"]
        drafts = [self.draft(number, place, reply) for place, reply in taken]
        if self.check is None:
            return tuple(drafts)
        self.check_together(drafts)
        results = await calls.together([self.checked(draft) for draft in drafts])
        self.ledger += self.check_calls(number, [self.draft(number, *each) for each in enumerate(replies)])
        self.count_failures(results)
        return tuple(
            draft if result is None else draft.model_copy(update={"check": result})
            for draft, result in zip(drafts, results, strict=True)
        )

    def draft(self, number: int, place: int, reply: Reply) -> Draft:
        reading, fields = reply.reading, self.question.task.output_fields
        return Draft(
            round=number,
            index=place,
            solution=reply.text,
            outputs={name: value for name, value in reading.outputs.items() if name in fields},
            how=reading.how,
            unclear=reading.unclear,
            broken=dict(reading.broken),
            truncated=reply.call.truncated,
            failure=reply.call.failure,
        )

    async def checked(self, draft: Draft) -> Checked | None:
        """The check's result for a draft; None without a check, or without an answer to check."""
        if self.check is None or not self.complete(draft):
            return None
        key = self.checked_as(draft)
        if key not in self.results:
            self.results[key] = asyncio.create_task(self.run_check(draft))
        result, _ = await asyncio.shield(self.results[key])
        return result

    def count_failures(self, results: Sequence[Checked | None]) -> None:
        """Count the drafts that the check failed on, and report them to the session."""
        on_failed_check = calls.current().on_failed_check
        for result in results:
            self.asked += result is not None
            if result is None or result.failure is None:
                continue
            if on_failed_check is None:
                self.unchecked[result.failure] = self.unchecked.get(result.failure, 0) + 1
            else:
                on_failed_check(self.schedule.check or "", result.failure)

    def check_together(self, drafts: Sequence[Draft]) -> None:
        """Start one check of the drafts that were not checked yet, if the check takes a whole round at a time."""
        if not hasattr(self.check, "acheck_all"):
            return
        fresh: dict[str, Draft] = {}
        for draft in drafts:
            key = self.checked_as(draft)
            if key not in self.results and self.complete(draft):
                fresh.setdefault(key, draft)
        if not fresh:
            return
        whole = asyncio.create_task(self.run_check_all(list(fresh.values())))
        self.rounds_checked.append(whole)

        async def one(place: int) -> tuple[Checked, tuple[Call, ...]]:
            return (await asyncio.shield(whole))[place]

        self.results.update({key: asyncio.create_task(one(place)) for place, key in enumerate(fresh)})

    def shown(self, draft: Draft) -> dict[str, Any]:
        """The check's view of a draft."""
        whole = getattr(self.check, "reads_solution", False)
        return {**draft.outputs, "solution": draft.solution} if whole else draft.outputs

    def checked_as(self, draft: Draft) -> str:
        """The key of a draft's result: equal for drafts that the check cannot distinguish."""
        compared = getattr(self.check, "relative", False)
        return calls.identity({**self.shown(draft), **({"in round": draft.round} if compared else {})})

    def check_calls(self, number: int, drafts: Sequence[Draft]) -> list[Call]:
        """The calls made by the checks of a round, in the order of its drafts."""
        made: list[Call] = []
        for draft in drafts:
            key = self.checked_as(draft)
            task = self.results.get(key)
            if task is not None and not task.done():  # the round did not wait for this draft
                task.cancel()
                del self.results[key]
                asked = next((call for other in self.results.values() for call in _calls_of(other)), None)
                if asked is not None:  # the check calls a model: its cost until then is unknown
                    place = {"phase": Phase.CHECK, "round": number, "index": draft.index, "price": asked.price}
                    made.append(Call(**place, model=asked.model, finish="cancelled", fate="left"))
                continue
            if task is None or key in self.charged or task.cancelled() or task.exception():
                continue
            self.charged.add(key)
            place = {"phase": Phase.CHECK, "round": number, "index": draft.index}
            made += [call.model_copy(update=place) for call in task.result()[1]]
        return made

    async def run_check(self, draft: Draft) -> tuple[Checked, tuple[Call, ...]]:
        """The check's result and the calls it made. Its errors are recorded, except those that concern all drafts."""
        assert self.check is not None
        try:
            score: Score | Exception = await self.check.acheck(self.question.inputs, self.shown(draft))
        except Exception as error:
            score = error
        return _checked(score)

    async def run_check_all(self, drafts: Sequence[Draft]) -> list[tuple[Checked, tuple[Call, ...]]]:
        """The results of several drafts at once."""
        check: Any = self.check
        try:
            scores = list(await check.acheck_all(self.question.inputs, [self.shown(draft) for draft in drafts]))
            if len(scores) != len(drafts):
                raise ValueError(f"`acheck_all` gave {len(scores)} scores for {len(drafts)} drafts")
        except Exception as error:
            first, *others = [_checked(error)] * len(drafts)
            return [first, *((result, ()) for result, _ in others)]  # its calls are recorded once
        return [_checked(score) for score in scores]

    def passed(self, drafts: Sequence[Draft]) -> Draft | None:
        """The best-checked draft, if it reaches `stop_at`."""
        if self.schedule.stop_at is None:
            return None
        there = [draft for draft in drafts if draft.score is not None and draft.score >= self.schedule.stop_at]
        return final.best(there, self.question.fields) if there else None

    async def all_of(self, number: int, stage: Stage, parts: Sequence[_Part]) -> list[Reply]:
        """The replies of a round that waits for all its drafts."""
        if len(parts) == 1:
            ((role, phase, _, own),) = parts
            return await self.ask(role, self.site(phase, number), own)
        came = await calls.together([self.ask(role, self.site(phase, number), own) for role, phase, _, own in parts])
        replies: dict[int, Reply] = {}
        for (_, _, places, _), own in zip(parts, came, strict=True):
            replies.update(zip(places, own, strict=True))
        return [replies[place] for place in range(len(stage))]

    async def until_enough(self, number: int, stage: Stage) -> list[Reply]:
        """The replies of a round that may end before all its drafts have finished."""
        schedule = self.schedule
        parts = []
        for role, phase, places, own in _by_role(stage):
            inputs = [{**self.question.inputs, **values} for values in own]
            sampling = self.question.sampling(role)
            site = self.site(phase, number)
            parts.append(early_stop.Part(self.question.predictors[role], site, sampling, inputs, places))

        async def examine(place: int, reply: Reply) -> None:
            await self.checked(self.draft(number, place, reply))

        known: dict[int, consensus.Done] = {}

        async def ends(replies: Sequence[Reply | None]) -> tuple[int, ...] | None:
            for place, reply in enumerate(replies):
                if reply is not None and place not in known:
                    vote = consensus.vote(reply.reading.outputs, self.question.fields)
                    passed = False
                    if schedule.stop_at is not None:
                        result = await self.checked(self.draft(number, place, reply))  # already examined
                        passed = result is not None and (result.value or 0.0) >= schedule.stop_at
                    known[place] = consensus.Done(reply.call.failure is None, vote, passed)
            done = [known.get(place) for place in range(len(replies))]
            return consensus.ended(done, quorum=schedule.quorum, agree=schedule.agree)

        stop_at = "" if schedule.stop_at is None else f" stop_at={schedule.stop_at}"
        first = "" if schedule.first_wave is None else f" first_wave={schedule.first_wave}"
        first += "" if schedule.next_wave is None else f" next_wave={schedule.next_wave}"
        replies = await early_stop.ask_until(
            parts,
            ends,
            rule=f"quorum={schedule.quorum} agree={schedule.agree}{stop_at}{first}",
            in_order=schedule.quorum == 1.0,
            wave_of=schedule.wave_of,
            examine=None if schedule.stop_at is None else examine,
        )
        return [await self.explained(*asked, reply) for asked, reply in zip(stage, replies, strict=True)]

    def saved(self, drafts: Sequence[Draft], width: int) -> int:
        """The number of drafts that a round of `width` did not need because the first ones agreed; the next round gets
        them.

        0 under a limit on total tokens: otherwise a run with a larger budget, which has room for them, might end in an
        earlier round.
        """
        if (
            self.schedule.agree is None
            or self.total_is_bounded
            or [draft.index for draft in drafts] != list(range(len(drafts)))
        ):
            return 0
        votes = [consensus.vote(draft.outputs, self.question.fields) for draft in drafts]
        enough = consensus.agreed(votes, self.schedule.agree) == len(votes)
        return width - len(drafts) if enough else 0

    async def distill(self, number: int, drafts: tuple[Draft, ...], next_width: int) -> tuple[Workspace, ...] | None:
        """The workspaces of the next round; None if the budget does not allow the distill calls."""
        usable = tuple(draft for draft in drafts if draft.ok)
        if not await self.affords(self.distill_stage(number, usable, next_width)):
            return None
        distiller = self.schedule.distill_by

        async def ask(values: Sequence[Mapping[str, Any]], forms: Sequence[OutputFormat] = ()) -> list[Reply]:
            if distiller.role is None or distiller.phase is None:
                return []
            form = await self.first_form(distiller.role, forms)
            with self.sent([(distiller.role, distiller.phase)] * len(values), number):
                return await self.ask(distiller.role, self.site(distiller.phase, number), values, output_format=form)

        given = distillers.DistillerInput(
            drafts=usable,
            next_width=next_width,
            k=self.schedule.k,
            kappa=self.schedule.kappa,
            tally=self.schedule.tally,
            seed=calls.seed_for(self.run_seed, self.question.example, Phase.DISTILL, number),
            ask=ask,
            count=self.question.count,
            room=await self.question.room(usable),
            oracle=calls.current().oracle,
            headings=self.question.headings,
        )
        with raised_by(f"the distiller {self.schedule.distiller!r}"):
            distilled = await distiller(given)
        self.ledger += distilled.calls
        if self.schedule.critique:
            values = [{"workspace": distilled.workspaces[0].text}]
            with self.sent([(Role.CRITIQUE, Phase.CRITIQUE)], number):
                (reply,) = await self.ask(Role.CRITIQUE, self.site(Phase.CRITIQUE, number), values)
            self.ledger += reply.calls
            self.flaws = sheltered(reply.text, self.question.headings)
        return distilled.workspaces

    async def first_form(self, role: Role, forms: Sequence[OutputFormat]) -> OutputFormat | None:
        """The first format for a role's reply that the server can enforce, best first; None if the predictor writes
        other fields than the formats describe, or a thought needs tokens that a format would not leave."""
        predictor = self.question.predictors[role]
        if not forms or form_of(signature_of(predictor)).labelled != form_of(derive(self.question.task, role)).labelled:
            return None
        about = await calls.capabilities(calls.serving(predictor))
        if about.thinking_budget == "continue":  # the format is for the request that follows a thought
            return about.first_of(forms)
        return about.first_of(forms, thinking=self.schedule.thinking_tokens)

    def distill_stage(self, number: int, drafts: Sequence[Draft], next_width: int) -> Stage:
        """The distill calls ahead, with all solutions as their candidates: an upper bound of their inputs."""
        role = self.schedule.distill_role
        if role is None:
            return []
        everything = "\n\n".join(candidates(drafts, self.question.headings))
        reads = {"workspace" if role is Role.CRITIQUE else "candidates": everything}
        return [(role, reads)] * self.schedule.distill_calls(number - 1, next_width=next_width)

    def stopped(self, rounds: Sequence[Round], stop: Stop) -> Outcome:
        """Answer from the finished rounds: the selection from the latest round with a readable answer, or the
        best-checked draft of all rounds if the schedule keeps it."""
        readable = [[draft for draft in round_.drafts if self.complete(draft)] for round_ in rounds]
        latest = next((drafts for drafts in reversed(readable) if drafts), None)
        if latest is None:
            return self.outcome(rounds[-1].drafts[0], rounds, stop if stop in _CUT_SHORT else Stop.NO_ANSWER)
        if stop is Stop.DONE and not readable[-1]:
            stop = Stop.FELL_BACK
        pick = final.BY_NAME.get(self.schedule.final, final.plurality)
        answer = pick(latest, self.question.fields)
        if self.schedule.keep:
            best = final.best([draft for drafts in reversed(readable) for draft in drafts], self.question.fields)
            if (best.score or 0.0) > (answer.score or 0.0):
                answer = best
        return self.outcome(answer, rounds, stop)

    def complete(self, draft: Draft) -> bool:
        """Whether all of the task's outputs could be read from a draft."""
        return all(name in draft.outputs for name in self.question.fields)

    def outcome(self, draft: Draft, rounds: Sequence[Round], stop: Stop) -> Outcome:
        outputs = {name: draft.outputs.get(name) for name in self.question.fields}
        return Outcome(outputs, draft.solution, self.ledger, tuple(rounds), stop)
