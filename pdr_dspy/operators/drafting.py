"""The drafts of a round: S(r) = { s_i <- M(x, C(r-1)) }, i = 1..M_r (arXiv 2510.01123, section 3).

A round waits for all its drafts, unless `Schedule.quorum`, `agree` or `stop_at` end it early.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pdr_dspy import calls
from pdr_dspy.calls import early_stop
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.predict import Reply
from pdr_dspy.operators import consensus
from pdr_dspy.operators.question import Question, Stage
from pdr_dspy.operators.run_calls import RunCalls
from pdr_dspy.operators.run_checks import RunChecks
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.workspace import Carried, Draft
from pdr_dspy.prompts.roles import Role

_DRAFTING = ((Role.DRAFT, Phase.DRAFT), (Role.REFINE, Phase.REFINE))

_Part = tuple[Role, Phase, list[int], list[Mapping[str, Any]]]
"""The drafts of a stage with one role: their phase, their positions in the stage, and their inputs."""


def stage_of(schedule: Schedule, carried: Carried, width: int) -> Stage:
    """The drafts of a round: each reads its workspace, or nothing besides the task's inputs if that is empty."""
    return [_reads(schedule, carried, index) for index in range(width)]


def _reads(schedule: Schedule, carried: Carried, index: int) -> tuple[Role, dict[str, Any]]:
    """The role of a draft, and its inputs besides the task's."""
    workspaces = carried.workspaces
    if not workspaces or workspaces[index].empty:
        return Role.DRAFT, {}
    values = {"workspace": workspaces[index].text}
    if schedule.critique:
        values["flaws_found"] = carried.flaws or "(none listed)"
    return Role.REFINE, values


async def sample(run: RunCalls, checks: RunChecks, number: int, stage: Stage) -> tuple[Draft, ...]:
    """Sample the drafts of a round, those with and without a workspace concurrently, and check them.

    Returns the drafts that the round continues with; `failure_of` says whether there are any to continue with.
    """
    schedule = run.question.schedule
    parts = _by_role(stage)
    run.begin([(role, phase) for role, phase, places, _ in parts for _ in places], number)
    if schedule.may_end_early and len(stage) > 1:
        replies = await _until_enough(run, checks, number, stage, parts)
    else:
        replies = await _all_of(run, number, stage, parts)
    run.end(call for reply in replies for call in reply.calls)
    every = [_draft(run.question, number, place, reply) for place, reply in enumerate(replies)]
    taken = [draft for draft, reply in zip(every, replies, strict=True) if reply.call.fate != "left"]
    return await checks.of_round(taken, every)


def failure_of(drafts: Sequence[Draft], schedule: Schedule) -> str | None:
    """Why a round has nothing to continue with, in one sentence: all its drafts failed. None if some have a text."""
    if any(draft.ok for draft in drafts):
        return None
    ((reason, _),) = Counter(draft.failure for draft in drafts).most_common(1)
    cut = str(reason).startswith(calls.CUT_THOUGHT)
    remedy = f"; raise `thinking_tokens={schedule.thinking_tokens}`" if cut else ""
    return f"all {len(drafts)} drafts of round {drafts[0].round} failed, most often with: {reason}{remedy}"


def saved(run: RunCalls, drafts: Sequence[Draft], width: int) -> int:
    """The number of drafts that a round of `width` did not need because the first ones agreed; the next round gets
    them.

    0 under a limit on total tokens: otherwise a run with a larger budget, which has room for them, might end in an
    earlier round.
    """
    agree = run.question.schedule.agree
    if agree is None or run.total_is_bounded or [draft.index for draft in drafts] != list(range(len(drafts))):
        return 0
    votes = [consensus.vote(draft.outputs, run.question.fields) for draft in drafts]
    return width - len(drafts) if consensus.agreed(votes, agree) == len(votes) else 0


def _by_role(stage: Stage) -> list[_Part]:
    """The drafts of a stage by their role."""
    parts = []
    for role, phase in _DRAFTING:
        places = [place for place, (own, _) in enumerate(stage) if own is role]
        if places:
            parts.append((role, phase, places, [stage[place][1] for place in places]))
    return parts


def _draft(question: Question, number: int, place: int, reply: Reply) -> Draft:
    reading, fields = reply.reading, question.task.output_fields
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


async def _all_of(run: RunCalls, number: int, stage: Stage, parts: Sequence[_Part]) -> list[Reply]:
    """The replies of a round that waits for all its drafts."""
    if len(parts) == 1:
        ((role, phase, _, own),) = parts
        return await run.ask(role, run.site(phase, number), own)
    came = await calls.together([run.ask(role, run.site(phase, number), own) for role, phase, _, own in parts])
    replies: dict[int, Reply] = {}
    for (_, _, places, _), own in zip(parts, came, strict=True):
        replies.update(zip(places, own, strict=True))
    return [replies[place] for place in range(len(stage))]


async def _until_enough(
    run: RunCalls, checks: RunChecks, number: int, stage: Stage, parts: Sequence[_Part]
) -> list[Reply]:
    """The replies of a round that may end before all its drafts have finished."""
    question, schedule = run.question, run.question.schedule

    async def examine(place: int, reply: Reply) -> None:
        await checks.result(_draft(question, number, place, reply))

    known: dict[int, consensus.Done] = {}

    async def ends(replies: Sequence[Reply | None]) -> tuple[int, ...] | None:
        for place, reply in enumerate(replies):
            if reply is not None and place not in known:
                vote = consensus.vote(reply.reading.outputs, question.fields)
                passed = False
                if schedule.stop_at is not None:
                    result = await checks.result(_draft(question, number, place, reply))  # already examined
                    passed = result is not None and result.reaches(schedule.stop_at)
                known[place] = consensus.Done(reply.call.failure is None, vote, passed)
        done = [known.get(place) for place in range(len(replies))]
        return consensus.ended(done, quorum=schedule.quorum, agree=schedule.agree)

    stop_at = "" if schedule.stop_at is None else f" stop_at={schedule.stop_at}"
    first = "" if schedule.first_wave is None else f" first_wave={schedule.first_wave}"
    first += "" if schedule.next_wave is None else f" next_wave={schedule.next_wave}"
    replies = await early_stop.ask_until(
        [
            early_stop.Part(
                question.predictors[role],
                run.site(phase, number),
                question.sampling(role),
                [{**question.inputs, **values} for values in own],
                places,
            )
            for role, phase, places, own in parts
        ],
        ends,
        rule=f"quorum={schedule.quorum} agree={schedule.agree}{stop_at}{first}",
        in_order=schedule.quorum == 1.0,
        wave_of=schedule.wave_of,
        examine=None if schedule.stop_at is None else examine,
    )
    return [await run.explained(*asked, reply) for asked, reply in zip(stage, replies, strict=True)]
