"""Instructions that a search requests from a model: once, after its first cohort."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.evaluation.records import Report
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.proposing.failures import failures_of
from pdr_dspy.search.proposing.instructions import Proposals, propose
from pdr_dspy.search.space.spaces import AnySpace

LONGEST = 512
"""Maximum tokens of a text; an eighth of the writer's context if that is less."""


def write(
    student: dspy.Module,
    trainset: Sequence[dspy.Example],
    report: Report,
    *,
    space: AnySpace,
    lm: dspy.LM,
    count: int,
    thinking_tokens: int = 0,
    held_out: Sequence[dspy.Example] = (),
    seed: int = 0,
    store: Rollouts,
) -> Proposals:
    """Up to `count` texts for each role of `roles_of(space)`.

    Args:
        student: the program that ran.
        trainset: the questions that it ran on; the writer is also shown those that are not held out.
        report: the student's runs; the writer is shown their failures.
        space: of the search.
        lm: the writer.
        count: calls for each role.
        thinking_tokens: additional tokens for a thinking writer's thought.
        held_out: questions of the confirmation. They are not shown, unless they are those of the trials.
        seed: of the search.
        store: of the calls; stored calls are not paid for again.

    Raises as `propose`.
    """
    roles = roles_of(space)
    hidden = {calls.identity(inputs_of(student, example)) for example in held_out}
    shown = [example for example in trainset if calls.identity(inputs_of(student, example)) not in hidden]
    context = event_loop.run(lambda: calls.capabilities(lm)).context_length
    store.refresh()
    with calls.session(store=store):
        return propose(
            student,
            shown or trainset,
            failures=failures_of(student, trainset, report, store=store),
            lm=lm,
            roles=roles,
            count=count,
            max_tokens=LONGEST if context is None else max(min(LONGEST, context // 8), 1),
            thinking_tokens=thinking_tokens,
            held_out=held_out if shown else (),
            seed=seed,
        )


def extended(space: AnySpace, proposals: Proposals) -> AnySpace:
    """The space with the proposed texts as additional instructions of every operator."""
    return space.extend(instructions=proposals.instructions) if proposals.proposals else space


def roles_of(space: AnySpace) -> list[str]:
    """The roles that some schedule of a space calls, except those with fixed instructions."""
    spaces = space.spaces.values()
    free = {role for own in spaces for role in own.roles if f"{role}_instructions" not in own.fixed}
    return [role.value for role in space.roles if role in free]


def cost(proposals: Proposals) -> tuple[tuple[str, int], ...]:
    """The address and the tokens of each of the writer's calls."""
    return tuple((call.key or f"prompts/{place}", call.tokens) for place, call in enumerate(proposals.ledger.calls))
