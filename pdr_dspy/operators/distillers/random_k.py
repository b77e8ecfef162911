"""D^R: each draft of the next round reads its own random k."""

from __future__ import annotations

from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput
from pdr_dspy.operators.workspace import Draft


async def random_k(given: DistillerInput) -> Distilled:
    """D^R: each draft of the next round reads its own random k, those with an answer first; no call."""
    k = min(given.k, len(given.drafts))
    parsed = [draft for draft in given.drafts if draft.outputs]
    others = [draft for draft in given.drafts if not draft.outputs]
    subsets: list[list[Draft]] = []
    for index in range(given.next_width):
        rng = given.rng(f"random {index}")
        first = rng.sample(parsed, k) if len(parsed) >= k else parsed
        subsets.append([*first, *rng.sample(others, k - len(first))])
    return Distilled(tuple([await given.admit(subset) for subset in subsets]))


async def random_any(given: DistillerInput) -> Distilled:
    """D^R to the letter: each draft of the next round reads its own random k, with an answer or not; no call."""
    k = min(given.k, len(given.drafts))
    subsets = [given.rng(f"random {index}").sample(list(given.drafts), k) for index in range(given.next_width)]
    return Distilled(tuple([await given.admit(subset) for subset in subsets]))


RANDOM_K = Distiller("random_k", random_k, uses_k=True)
RANDOM_ANY = Distiller("random_any", random_any, uses_k=True)
