"""Where in a program a call stands: the coordinates that its seed is made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pdr_dspy.calls.context import current
from pdr_dspy.calls.ledger import Phase

SEED_SPACING = 256
"""Siblings take consecutive seeds, so that n of them are one request with n choices; bases are this far apart."""


@dataclass(frozen=True)
class CallSite:
    """A stage of calls: what they are for, in which round of which question, and of which run.

    How they are sampled (`Sampling`: caps, temperature, form) is no part of it. Seeds depend on the site alone, so that
    trials that sample otherwise meet the same draws; and calls of one stage may differ in their sampling, as those that
    read a workspace and those that start afresh do in their caps.
    """

    phase: Phase
    round: int
    """From 1."""
    example: str
    """The question's identity."""
    run_seed: int | None = None
    """None takes the session's."""

    def seed(self, rollout_id: Any = None) -> int:
        """The seed of the first sibling.

        Args:
            rollout_id: DSPy's number for a further sample of the same, as the LM has it.
        """
        run_seed = current().seed if self.run_seed is None else self.run_seed
        return seed_for(run_seed, f"{self.example}|{rollout_id}", self.phase, self.round)


def seed_for(run_seed: int, example: str, phase: Phase, round_number: int) -> int:
    """The seed of the first sibling of a stage: it depends on the question and the place, never on the trial."""
    digest = hashlib.sha256(f"{run_seed}|{example}|{phase}|{round_number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 // SEED_SPACING) * SEED_SPACING
