"""Agreement of drafts: answers as votes, and the probability that the leading answer stays ahead.

Pure functions. Stopping when a Beta posterior says that the majority is settled is Adaptive-Consistency (Aggarwal et
al., 2023, "Let's Sample Step by Step", arXiv 2305.11860).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pdr_dspy.text.wrapping import tidy


class Done(NamedTuple):
    """The properties of a finished draft that determine when its round ends."""

    ok: bool
    """Whether it has text."""
    vote: str | None
    """Its answer; None if it could not be read."""
    passed: bool = False
    """Whether its check reached `Schedule.stop_at`."""


def vote(outputs: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    """The output fields as one text that is equal for equal answers, ignoring case and the wrapping of a text (bold
    type, `$`, a full stop); None if one is missing."""
    if any(name not in outputs for name in fields):
        return None
    values = [tidy(value) if isinstance(value, str) else value for value in (outputs[name] for name in fields)]
    return json.dumps(values, default=plain, sort_keys=True).casefold()


def plain(value: Any) -> Any:
    """A value that JSON does not know as one that it does; a set in an order that is its own."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def stays(leader: int, runner_up: int) -> float:
    """The probability that the leading answer is the more frequent of the two in the long run.

    With `leader` votes against `runner_up` and a uniform prior, Beta(1, 1), on the leader's share of the two, the
    posterior is Beta(leader + 1, runner_up + 1), and the probability that the share is above one half is
    1 - I_0.5(leader + 1, runner_up + 1), with I the regularized incomplete beta function. For whole numbers that is
    exactly the sum of C(n, j) for j = 0 .. leader over 2^n, where n = leader + runner_up + 1.
    """
    n = leader + runner_up + 1
    return sum(math.comb(n, j) for j in range(leader + 1)) / 2**n


def agreed(votes: Sequence[str | None], probability: float) -> int | None:
    """How many of the first votes suffice: the smallest number, with at least two answers, after which the leader
    `stays` ahead of the runner-up with at least this probability. None if all of them do not suffice."""
    counts: Counter[str] = Counter()
    for number, answer in enumerate(votes, start=1):
        if answer is None:
            continue
        counts[answer] += 1
        ranked = [count for _, count in counts.most_common(2)]
        leader, runner_up = ranked[0], ranked[1] if len(ranked) > 1 else 0
        if leader + runner_up >= 2 and stays(leader, runner_up) >= probability:
            return number
    return None


def fewest(probability: float) -> int:
    """The smallest number of drafts that can agree with this probability: all of them with one answer."""
    number = 2
    while stays(number, 0) < probability:
        number += 1
    return number


def needed(width: int, quorum: float) -> int:
    """The number of drafts that a quorum of `width` requires: rounded up, at least one."""
    return max(1, math.ceil(round(quorum * width, 9)))


def ended(done: Sequence[Done | None], *, quorum: float = 1.0, agree: float | None = None) -> tuple[int, ...] | None:
    """The indices of the drafts that a round continues with; None while it must wait for more.

    Args:
        done: each draft of the round in the order of the indices, None for one that still runs.
        quorum: as `Schedule.quorum`.
        agree: as `Schedule.agree`.
    """
    first = done.index(None) if None in done else len(done)
    passed = next((place for place, one in enumerate(done[:first]) if one is not None and one.passed), None)
    if passed is not None:
        return tuple(range(passed + 1))
    if agree is not None:
        number = agreed([one.vote for one in done[:first] if one is not None], agree)
        if number is not None:
            return tuple(range(number))
    there = tuple(place for place, one in enumerate(done) if one is not None)
    usable = sum(one is not None and one.ok for one in done)
    return there if len(there) == len(done) or usable >= needed(len(done), quorum) else None
