"""What a search asks for, and what it is answered: candidates, instructions, and cells of a program on a question.

The plan yields these; `driver/` answers them with models, `cost_estimate.py` without.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from pdr_dspy.evaluation.drafts import Drafts
from pdr_dspy.search.space.candidate import Candidate


class Stage(StrEnum):
    """The purpose of a measurement; each stage has separate questions or seeds."""

    RACE = "race"
    FINAL = "final"
    CONFIRM = "confirm"


class Pair(NamedTuple):
    """One question under one seed: the unit of work."""

    question: int
    """Its index in the training questions, or in the confirmation's."""
    repeat: int = 0


class Cell(NamedTuple):
    """One program on one pair."""

    score: float
    sequential: float
    """Tokens."""
    total: float
    """Tokens."""
    failed: bool = False
    calls: tuple[tuple[str, int], ...] = ()
    """Address and tokens of every call, in order: a call that was paid for once is not paid for again."""
    cost: float | None = None
    """In the unit of the models' prices; None if a price is unknown."""
    one_pass: str = ""
    """The address of its request without its seed if the program is one pass; "" for any other program."""
    drafts: Drafts | None = None
    """The first-round drafts; None if some are unknown."""


class Proposed(NamedTuple):
    """A candidate and its origin."""

    origin: str
    candidate: Candidate
    free: bool = False
    """Whether it makes no call that a measured candidate has not made: it is no trial."""


class Tried(NamedTuple):
    """The results of a candidate, for proposals of others."""

    candidate: Candidate
    score: float
    """The pooled estimate, a fraction."""
    sequential: float
    total: float
    pairs: int
    cost: float | None = None


class Propose(NamedTuple):
    """Requests up to `wanted` new candidates, and up to `free` of those that cost no tokens. The answer is a sequence
    of `Proposed`, or the reason for which the search ends."""

    cohort: int
    wanted: int
    tried: tuple[Tried, ...]
    free: int = 0


class Write(NamedTuple):
    """Requests instructions that a model writes. The answer is the cost of its calls, as in `Cell.calls`, or the reason
    for which the search ends."""

    each: int
    """Maximum number for each role."""
    round: int
    """From 1."""
    tried: tuple[Tried, ...]
    """By number."""


class Measure(NamedTuple):
    """Requests cells. The answer is a mapping (arm, pair) -> Cell with all of them."""

    stage: Stage
    cohort: int
    arms: Mapping[int, Candidate]
    """By number; 0 is the untouched student."""
    pairs: tuple[Pair, ...]


Request = Propose | Write | Measure
Cells = Mapping[tuple[int, Pair], Cell]
