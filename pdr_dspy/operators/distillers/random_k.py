"""D^R: each draft of the next round reads its own random k."""

from __future__ import annotations

from pdr_dspy.operators.distillers.base import Distilled, Distiller, DistillerInput


async def random_k(given: DistillerInput) -> Distilled:
    """D^R: each draft of the next round reads its own random k; no call."""
    k = min(given.k, len(given.drafts))
    subsets = [given.rng(f"random {index}").sample(list(given.drafts), k) for index in range(given.next_width)]
    return Distilled(tuple([await given.admit(subset) for subset in subsets]))


RANDOM_K = Distiller("random_k", random_k, uses_k=True)
