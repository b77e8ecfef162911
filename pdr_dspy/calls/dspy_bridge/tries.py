"""How often a request was sent, and whether siblings share its reply, as an endpoint's client notes it.

The notes are on DSPy's response, or on the error that caused DSPy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dspy.lm15 import Response


class Tries(NamedTuple):
    """How often a request was sent, as the endpoint reports it."""

    tries: int = 1
    unsettled: int = 0
    """Tries, including a failed last one, that the server may have served and counted although its reply was lost:
    connections lost after sending, timeouts, 5xx other than 503."""


def tries_of(outcome: Response | BaseException) -> Tries:
    """The tries behind a response or an error; one try if neither reports any.

    Each response of siblings that shared a request has the tries of that request.
    """
    if isinstance(outcome, Response):
        notes = _notes(outcome)
        return Tries(int(notes.get("tries", 1)), int(notes.get("unsettled", 0)))
    error: BaseException | None = outcome
    while error is not None:
        tally = getattr(error, "tally", None)  # on the lm15 error that caused DSPy's
        if tally is not None:
            return Tries(tally.tries, tally.unsettled)
        error = error.__cause__
    return Tries()


def shared_seed(response: Response) -> int | None:
    """The seed of the sibling whose request also produced this completion, as at temperature 0; None if it has its
    own."""
    seed = _notes(response).get("shared")
    return seed if isinstance(seed, int) else None


def _notes(response: Response) -> Mapping[str, Any]:
    """Notes of an endpoint's client about an exchange, besides the server's reply."""
    notes: Any = (response.provider_data or {}).get("pdr")
    return notes if isinstance(notes, dict) else {}
