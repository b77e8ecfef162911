"""Limits on sequential and total tokens, checked before spending."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from pdr_dspy.calls.ledger import Ledger
from pdr_dspy.settings import Settings


class Budget(Settings):
    """Limits on one call of a program, in tokens. None is no limit.

    A stage is sent only if its worst case (its prompts and all its caps) still fits under both limits. Otherwise the
    program stops, answers from the drafts it has, and reports that in `prediction.stop`.
    """

    sequential: int | None = None
    total: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("sequential", "total"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`Budget({name}={value})` must be at least 1 token, or None for no limit")
        return self

    @property
    def unlimited(self) -> bool:
        """Whether no limit is set."""
        return self.sequential is None and self.total is None

    def allows(self, spent: Ledger, *, sequential: int, total: int) -> bool:
        """Whether a stage of at most `sequential` and `total` tokens still fits after the tokens already `spent`."""
        if self.sequential is not None and spent.sequential + sequential > self.sequential:
            return False
        return self.total is None or spent.total + total <= self.total
