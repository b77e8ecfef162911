"""The position of a call within a program: the coordinates that determine its seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pdr_dspy.calls.context import current
from pdr_dspy.calls.ledger import Phase

SEED_SPACING = 256
"""Siblings have consecutive seeds, so that n of them are one request with n choices; stages' seeds are this far
apart."""


@dataclass(frozen=True)
class CallSite:
    """A stage of calls: its phase, round, question and run.

    Sampling settings (`Sampling`: caps, temperature, format) are not part of it. Seeds depend only on the site, so
    trials with other settings share the same draws, and calls of one stage may differ in their sampling (as drafts with
    and without a workspace do in their caps).
    """

    phase: Phase
    round: int
    """From 1."""
    example: str
    """The question's identity."""
    run_seed: int | None = None
    """The run; None takes the session's run seed."""

    def seed(self, rollout_id: Any = None) -> int:
        """The seed of the first sibling.

        Args:
            rollout_id: the LM's DSPy setting for a further sample of the same request.
        """
        run_seed = current().seed if self.run_seed is None else self.run_seed
        return seed_for(run_seed, f"{self.example}|{rollout_id}", self.phase, self.round)


def seed_for(run_seed: int, example: str, phase: Phase, round_number: int) -> int:
    """The seed of a stage's first sibling: it depends on the question and the site, never on the trial."""
    digest = hashlib.sha256(f"{run_seed}|{example}|{phase}|{round_number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 // SEED_SPACING) * SEED_SPACING
