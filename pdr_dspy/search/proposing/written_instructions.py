"""Instructions that a search requests from a model, in rounds: each reflects on the failures of the leading candidates.

A text is written for one role of one candidate, its parent: for the parent's schedule, from the parent's failures, with
the earlier texts and their scores in view. Before other candidates are proposed, it races on that schedule. This is the
reflective mutation of GEPA (arXiv 2507.19457) with the schedule as a further coordinate: since the leading candidates
change their schedules too, the next texts are written for what leads then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.evaluation.records import Report, Row
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.proposing.failures import failures_of
from pdr_dspy.search.proposing.instructions import Proposals, propose
from pdr_dspy.search.proposing.writer import Earlier, Parent
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.requests import Tried
from pdr_dspy.search.space.candidate import Candidate, joint, program_with
from pdr_dspy.search.space.spaces import AnySpace

LONGEST = 512
"""Maximum tokens of a text; an eighth of the writer's context if that is less."""
PARENTS = 2
"""Leading candidates, of different schedules, whose failures are reflected on for each role."""
FAILURES = 12
"""Failures of each parent that prompts draw from; they are replayed from the store."""

RowsOf = Callable[[int], Sequence[Row]]
"""The rows of a trial in the race, by its number."""


def write(
    student: dspy.Module,
    trainset: Sequence[dspy.Example],
    rows_of: RowsOf,
    *,
    space: AnySpace,
    tried: Sequence[Tried],
    lm: dspy.LM,
    count: int,
    round: int = 1,
    last: bool = True,
    limits: Limits = Limits(),  # noqa: B008  (a frozen value)
    mixed: bool = False,
    thinking_tokens: int = 0,
    held_out: Sequence[dspy.Example] = (),
    seed: int = 0,
    store: Rollouts,
    max_in_flight: int = 64,
) -> Proposals:
    """Up to `count` texts for each role of `roles_of(space)` that a leading candidate calls.

    Args:
        student: the program that is tuned.
        trainset: the questions of the trials; the writer is also shown those that are not held out.
        rows_of: the runs of each trial; the writer is shown failures of the parents.
        space: of the search.
        tried: the trials so far, by their numbers.
        lm: the writer.
        count: calls for each role.
        round: of writing, from 1.
        last: whether no round follows: then texts are written for roles, too, that no candidate has called yet, from
            the student's failures.
        limits: of the search; candidates beyond them are no parents.
        mixed: whether no candidate equals the student, whose operators differ.
        thinking_tokens: additional tokens for a thinking writer's thought.
        held_out: questions of the confirmation. They are not shown, unless they are those of the trials.
        seed: of the search.
        store: of the calls; stored calls are not paid for again.
        max_in_flight: maximum requests in flight.

    Raises as `propose`.
    """
    store.refresh()
    parents: dict[int, Parent] = {}

    def parent(number: int) -> Parent:
        if number not in parents:
            program = student if number == 0 else program_with(student, tried[number].candidate)
            report = Report(rows=tuple(rows_of(number)))
            failures = failures_of(program, trainset, report, store=store, limit=FAILURES)
            parents[number] = Parent(program, failures, tried[number].score, tried[number].pairs, number)
        return parents[number]

    numbers = parents_of(space, tried, limits, mixed=mixed, last=last)
    if not numbers:
        return Proposals(model=lm.model, seed=seed)
    own = parent(0)
    roles = list(numbers)
    hidden = {calls.identity(inputs_of(student, example)) for example in held_out}
    shown = [example for example in trainset if calls.identity(inputs_of(student, example)) not in hidden]
    context = event_loop.run(lambda: calls.capabilities(lm)).context_length
    with calls.session(store=store, in_flight=asyncio.Semaphore(max_in_flight)):
        return propose(
            student,
            shown or trainset,
            failures=own.failures,
            lm=lm,
            roles=roles,
            count=count,
            max_tokens=LONGEST if context is None else max(min(LONGEST, context // 8), 1),
            thinking_tokens=thinking_tokens,
            held_out=held_out if shown else (),
            seed=seed,
            parents={role: [parent(number) for number in found] for role, found in numbers.items()},
            earlier={role: earlier_of(tried, role, own.signature(Role(role)).instructions) for role in roles},
            round=round,
        )


def parents_of(
    space: AnySpace, tried: Sequence[Tried], limits: Limits, *, mixed: bool = False, last: bool = True
) -> dict[str, list[int]]:
    """By role that texts are written for, the numbers of the trials that they improve: the best ones of different
    schedules. None for a role that no trial has called, which is written for in the last round only."""
    found: dict[str, list[int]] = {}
    for role in roles_of(space):
        numbers = leaders(tried, role, limits, mixed=mixed)
        distinct = {_schedules(tried[number].candidate): number for number in reversed(numbers)}
        found[role] = [number for number in numbers if number in distinct.values()][:PARENTS]
    return {role: numbers for role, numbers in found.items() if numbers or last}


def leaders(tried: Sequence[Tried], role: str, limits: Limits, *, mixed: bool = False) -> list[int]:
    """The numbers of the trials within the limits that call a role, the best first by the pooled estimate."""
    allowed = [
        number
        for number, one in enumerate(tried)
        if limits.allow(one) and calls_role(one.candidate, role) and not (mixed and number == 0)
    ]
    return sorted(allowed, key=lambda number: (-tried[number].score, tried[number].total, number))


def _schedules(candidate: Candidate) -> tuple[str, ...]:
    return tuple(repr(own.schedule) for own in candidate.by_operator.values())


def calls_role(candidate: Candidate, role: str) -> bool:
    """Whether some operator calls a role under a candidate."""
    return any(role in own.schedule.roles for own in candidate.by_operator.values())


def earlier_of(tried: Sequence[Tried], role: str, own: str) -> list[Earlier]:
    """The texts of a role so far, each with the best trial that called it, the best first; `own` is the student's."""
    best: dict[str, Earlier] = {}
    for one in tried:
        for part in one.candidate.by_operator.values():
            text = part.instructions.get(role, own)
            known = best.get(text)
            if role in part.schedule.roles and (known is None or one.score > known.score):
                best[text] = Earlier(text, one.score, one.pairs, part.schedule)
    return sorted(best.values(), key=lambda each: -each.score)


def children(
    proposals: Proposals | None, tried: Sequence[Tried], space: AnySpace, limits: Limits, *, mixed: bool = False
) -> Iterator[Candidate]:
    """For each text that no trial has used yet: its parent with the text in place of the one that it improves, or the
    leading candidate if that is not in the space. The newest round comes first, and in it the roles take turns.

    Args:
        proposals: all texts so far; None for none.
        tried: the trials so far, by their numbers.
        space: with the texts.
        limits: of the search.
        mixed: as in `write`.
    """
    used = {
        (role, text)
        for one in tried
        for part in one.candidate.by_operator.values()
        for role, text in part.instructions.items()
    }
    turns: dict[tuple[int, str], int] = {}
    waiting = []
    for one in proposals.proposals if proposals is not None else ():
        if (one.role.value, one.text) not in used:
            turn = turns[one.round, one.role.value] = turns.get((one.round, one.role.value), -1) + 1
            waiting.append((-one.round, turn, one))
    for _, _, one in sorted(waiting, key=lambda each: each[:2]):
        own = [] if one.parent is None else [one.parent]
        leading = [n for n in [*own, *leaders(tried, one.role.value, limits, mixed=mixed)] if n < len(tried)]
        for number in dict.fromkeys(leading):
            candidate = with_text(tried[number].candidate, one.role.value, one.text)
            if calls_role(candidate, one.role.value) and candidate in space:
                yield candidate
                break


def with_text(candidate: Candidate, role: str, text: str) -> Candidate:
    """A candidate with an instruction for a role, at every operator that calls it."""
    if candidate.parts:
        return joint({place: with_text(part, role, text) for place, part in candidate.parts.items()})
    if role not in candidate.schedule.roles:
        return candidate
    return candidate._replace(instructions={**candidate.instructions, role: text})


def extended(space: AnySpace, proposals: Proposals) -> AnySpace:
    """The space with the proposed texts as additional instructions of every operator."""
    return space.extend(instructions=proposals.instructions) if proposals.proposals else space


def padded(space: AnySpace, proposals: Proposals | None, most: int) -> AnySpace:
    """A space with `most` texts for each role beside those that it had: placeholders stand for texts that are not
    written. Its parameters have the same choices in every round, which a stored Optuna study demands."""
    written = {} if proposals is None else proposals.instructions
    missing = {
        role: tuple(f"({role} {number}: not written)" for number in range(len(written.get(role, ())) + 1, most + 1))
        for role in roles_of(space)
    }
    return space.extend(instructions=missing)


def roles_of(space: AnySpace) -> list[str]:
    """The roles that some schedule of a space calls, except those with fixed instructions."""
    spaces = space.spaces.values()
    free = {role for own in spaces for role in own.roles if f"{role}_instructions" not in own.fixed}
    return [role.value for role in space.roles if role in free]


def cost(proposals: Proposals, round: int = 1) -> tuple[tuple[str, int], ...]:
    """The address and the tokens of each of the writer's calls in a round."""
    made = enumerate(proposals.ledger.calls)
    return tuple((call.key or f"prompts/{round}/{place}", call.tokens) for place, call in made)


Written = Mapping[int, Proposals]
"""The texts of each round of writing, from 1."""


def together(written: Written) -> Proposals | None:
    """Those of all rounds; None if there are none."""
    found: Proposals | None = None
    for number in sorted(written):
        found = written[number] if found is None else found + written[number]
    return found
