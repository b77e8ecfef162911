"""The workspaces of the next round: C(r) <- D(x, S(r)), |C(r)| <= kappa (arXiv 2510.01123, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.operators import distillers
from pdr_dspy.operators.question import Question, Stage
from pdr_dspy.operators.run_calls import RunCalls
from pdr_dspy.operators.workspace import Carried, Draft, candidates
from pdr_dspy.prompts.form import form_of
from pdr_dspy.prompts.roles import Role, derive, signature_of
from pdr_dspy.runtime.raised_by import raised_by
from pdr_dspy.text.quoting import sheltered


async def distill(run: RunCalls, number: int, drafts: Sequence[Draft], next_width: int) -> Carried | None:
    """What the next round reads: a workspace for each of its drafts, and the flaws found in it, if the schedule has a
    critique. None if the budgets do not allow the calls."""
    question, schedule = run.question, run.question.schedule
    usable = tuple(draft for draft in drafts if draft.ok)
    if not await run.affords(_stage(question, number, usable, next_width)):
        return None
    distiller = schedule.distill_by

    async def ask(values: Sequence[Mapping[str, Any]], forms: Sequence[OutputFormat] = ()) -> list[Reply]:
        if distiller.role is None or distiller.phase is None:
            return []
        form = await _first_form(question, distiller.role, forms)
        run.begin([(distiller.role, distiller.phase)] * len(values), number)
        return await run.ask(distiller.role, run.site(distiller.phase, number), values, output_format=form)

    given = distillers.DistillerInput(
        drafts=usable,
        next_width=next_width,
        k=schedule.k,
        kappa=schedule.kappa,
        tally=schedule.tally,
        seed=calls.seed_for(run.seed, question.example, Phase.DISTILL, number),
        ask=ask,
        count=question.count,
        room=await question.room(usable),
        oracle=calls.current().oracle,
        headings=question.headings,
    )
    with raised_by(f"the distiller {schedule.distiller!r}"):
        distilled = await distiller(given)
    run.end(distilled.calls)
    flaws = await _flaws(run, number, distilled.workspaces[0].text) if schedule.critique else ""
    return Carried(distilled.workspaces, flaws)


async def _flaws(run: RunCalls, number: int, workspace: str) -> str:
    """The flaws that a critique finds in a workspace."""
    run.begin([(Role.CRITIQUE, Phase.CRITIQUE)], number)
    (reply,) = await run.ask(Role.CRITIQUE, run.site(Phase.CRITIQUE, number), [{"workspace": workspace}])
    run.end(reply.calls)
    return sheltered(reply.text, run.question.headings)


async def _first_form(question: Question, role: Role, forms: Sequence[OutputFormat]) -> OutputFormat | None:
    """The first format for a role's reply that the server can enforce, best first; None if the predictor writes
    other fields than the formats describe, or a thought needs tokens that a format would not leave."""
    predictor = question.predictors[role]
    if not forms or form_of(signature_of(predictor)).labelled != form_of(derive(question.task, role)).labelled:
        return None
    about = await calls.capabilities(calls.serving(predictor))
    if about.thinking_budget == "continue":  # the format is for the request that follows a thought
        return about.first_of(forms)
    return about.first_of(forms, thinking=question.schedule.thinking_tokens)


def _stage(question: Question, number: int, drafts: Sequence[Draft], next_width: int) -> Stage:
    """The distill calls ahead, with all solutions as their candidates: an upper bound of their inputs."""
    role = question.schedule.distill_role
    if role is None:
        return []
    everything = "\n\n".join(candidates(drafts, question.headings))
    reads = {"workspace" if role is Role.CRITIQUE else "candidates": everything}
    return [(role, reads)] * question.schedule.distill_calls(number - 1, next_width=next_width)
