"""D^S: one call writes a summary of all solutions, shared by all drafts of the next round."""

from __future__ import annotations

from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput, one_call
from pdr_dspy.prompts.roles import Role
from pdr_dspy.text.quoting import sheltered


async def summary(given: DistillerInput) -> Distilled:
    """D^S: one call writes a summary of all solutions, shared by all drafts of the next round.

    If the model could not write a summary, the solutions themselves are used, cut to kappa.
    """
    order = given.shuffled("summary")
    (reply,) = await given.ask([{"candidates": await given.shown(order)}])
    if reply.call.failure is not None:
        workspace = await given.admit(order)
    else:
        notes = sheltered(reply.text, given.headings)
        workspace = await given.workspace([notes], order, keep="start")
        workspace = workspace.model_copy(update={"cut": workspace.cut or reply.call.truncated})
    return Distilled((workspace,) * given.next_width)


SUMMARY = Distiller("summary", summary, role=Role.DISTILL, calls=one_call)
