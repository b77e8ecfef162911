"""Errors of calls, which carry what was spent until then."""

from __future__ import annotations

from pdr_dspy.calls.ledger import Call, Ledger
from pdr_dspy.errors import PDRError


class CallError(PDRError):
    """One request failed. It is recorded on the ledger; it is raised only where nothing else is left to answer from."""

    def __init__(self, message: str, call: Call | None = None, calls: tuple[Call, ...] = ()) -> None:
        super().__init__(message)
        self.call = call
        """What is known of the request, for the ledger."""
        self.calls = calls or (() if call is None else (call,))
        """All requests that were made until then, where there were several."""


class RoundFailed(PDRError):
    """Every draft of a round failed."""

    def __init__(self, message: str, ledger: Ledger) -> None:
        super().__init__(message)
        self.ledger = ledger
        """What was spent until then, failed calls included."""


class DeadlinePassed(PDRError):
    """The session's deadline passed before a program had anything to answer from."""

    def __init__(self, message: str, ledger: Ledger) -> None:
        super().__init__(message)
        self.ledger = ledger
        """What was spent until then; of calls that were cancelled that is not known."""
