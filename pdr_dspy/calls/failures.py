"""Errors of calls; each carries the cost until then."""

from __future__ import annotations

from pdr_dspy.calls.ledger import Call, Ledger
from pdr_dspy.errors import PDRError


class CallError(PDRError):
    """One request failed. It is recorded on the ledger, and raised only if there is nothing left to answer from."""

    def __init__(self, message: str, call: Call | None = None, calls: tuple[Call, ...] = ()) -> None:
        super().__init__(message)
        self.call = call
        """The failed request, as far as it is known, for the ledger."""
        self.calls = calls or (() if call is None else (call,))
        """All requests made until then, if there were several."""


class RoundFailed(PDRError):
    """Every draft of a round failed, and no earlier round has an answer."""

    def __init__(self, message: str, ledger: Ledger) -> None:
        super().__init__(message)
        self.ledger = ledger
        """All calls until then, failed ones included."""


class DeadlinePassed(PDRError):
    """The session's deadline passed before a program had any draft to answer from."""

    def __init__(self, message: str, ledger: Ledger) -> None:
        super().__init__(message)
        self.ledger = ledger
        """All calls until then; the cost of cancelled calls is unknown."""
