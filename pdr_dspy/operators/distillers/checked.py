"""The best candidates by the check, with what the check found."""

from __future__ import annotations

from pdr_dspy.operators import consensus
from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput


async def checked(given: DistillerInput) -> Distilled:
    """The k different candidates that their check scored highest, each with its result, for all next drafts; no call.

    Candidates with equal answers are one. Not in the paper: if answers can be verified without the gold answer, this is
    the oracle of its figure 6, as far as the check is right.
    """
    order = given.shuffled("checked")
    order.sort(key=lambda draft: -1.0 if draft.score is None else draft.score, reverse=True)
    chosen = {}
    for draft in order:
        answer = consensus.vote(draft.outputs, tuple(draft.outputs)) if draft.outputs else draft.solution
        chosen.setdefault(answer, draft)
    return Distilled((await given.admit(list(chosen.values())[: given.k]),) * given.next_width)


CHECKED = Distiller("checked", checked, uses_k=True, needs_check=True)
