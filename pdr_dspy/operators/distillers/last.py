"""Sequential Refinement: the previous solution is the state."""

from __future__ import annotations

from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput
from pdr_dspy.operators.workspace import Workspace, fit, shown


async def last(given: DistillerInput) -> Distilled:
    """Sequential Refinement: the previous solution is the state, not a candidate among others."""
    draft = given.drafts[-1]
    text, tokens, cut = await fit([shown(draft, given.headings)], given.kappa, given.count, keep="end")
    workspace = Workspace(text=text, tokens=tokens, sources=(draft.index,), cut=cut)
    return Distilled((workspace,) * given.next_width)


LAST = Distiller("last", last, chain=True)
