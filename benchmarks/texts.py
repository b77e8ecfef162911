"""Instructions of a simulated writer, for `benchmarks.levers`: what a text is worth depends on the schedule.

An assumption, and no measurement of real writers: a text raises its role by some logits (see `reasoner.effect`) under
the schedule for which it is written, and by less the more doublings of width and k another schedule is away. A text
that improves another keeps most of its effect; what is added is drawn around 0, so that half of all texts make things
worse.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import NamedTuple

from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.proposing import written_instructions
from pdr_dspy.search.proposing.instructions import Proposal, Proposals
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.racing.requests import Propose, Proposed, Write
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.spaces import AnySpace

TOKENS = 1500
"""Tokens of one call of the writer."""
KEEPS = 0.9
"""Share of its parent's effect that a text keeps."""
SPREAD = 0.25
"""Standard deviation of what it adds, in logits."""
MOST = 0.6
"""Largest effect, in logits."""
_TEXT = re.compile(r"Text \d+ for (\d+) drafts and k (\d+), fit ([\d.]+|inf): ([+-][\d.]+)\.")


class Text(NamedTuple):
    """What a written instruction says of itself."""

    width: int
    k: int
    fit: float
    """Doublings of width or k over which its effect falls to 0.61; infinite if it does not depend on the schedule."""
    gain: float
    """Its effect under the schedule for which it is written, in logits."""

    def effect(self, schedule: Schedule | None) -> float:
        """Its effect under a schedule; None is its own."""
        if schedule is None:
            return self.gain
        gaps = math.log2(schedule.widths[0] / self.width), math.log2(_k(schedule) / self.k)
        return self.gain * math.exp(-0.5 * sum((gap / self.fit) ** 2 for gap in gaps))


def read_text(instruction: str) -> Text | None:
    """What a text of this writer says; None for any other."""
    found = _TEXT.fullmatch(instruction)
    return None if found is None else Text(int(found[1]), int(found[2]), float(found[3]), float(found[4]))


def _k(schedule: Schedule) -> int:
    return schedule.k if schedule.rounds > 1 and schedule.distill_by.uses_k else 1


@dataclass
class Writer:
    """Writes texts for the parents that the library chooses, and races them as it does."""

    seed: int
    fit: float = 1.5
    """See `Text.fit`."""
    proposals: Proposals = field(default_factory=Proposals)
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draw = random.Random(f"texts|{self.seed}")

    def write(
        self, request: Write, space: AnySpace, limits: Limits, rounds: int
    ) -> tuple[Proposals, tuple[tuple[str, int], ...]]:
        """The texts of a round, and the cost of their calls."""
        last = request.round == rounds
        made = []
        for role, numbers in written_instructions.parents_of(space, request.tried, limits, last=last).items():
            for place, number in enumerate(islice(cycle(numbers or [0]), request.each)):
                parent = request.tried[number].candidate
                schedule = parent.schedule
                before = read_text(parent.instructions.get(role, ""))
                gain = KEEPS * (0.0 if before is None else before.gain) + self.draw.gauss(0.0, SPREAD)
                gain = max(-MOST, min(MOST, gain))
                text = (
                    f"Text {len(self.proposals.proposals) + len(made)} for {schedule.widths[0]} drafts and "
                    f"k {_k(schedule)}, fit {self.fit:g}: {gain:+.4f}."
                )
                own = number if numbers else None
                made.append(
                    Proposal(role=role, text=text, tokens=20, tip=str(place), round=request.round, parent=own)  # type: ignore[arg-type]
                )
        written = Proposals(proposals=tuple(made))
        self.proposals += written
        return written, tuple((f"text/{request.round}/{place}", TOKENS) for place in range(len(made)))

    def waiting(
        self, request: Propose, space: AnySpace, limits: Limits, too_expensive: Callable[[Candidate], bool]
    ) -> Iterator[Proposed]:
        """Texts that no trial has used, each on its schedule, for at most half of a cohort."""
        ready = written_instructions.children(self.proposals, request.tried, space, limits)
        there = (Proposed("reflection", candidate) for candidate in ready if not too_expensive(candidate))
        return islice(there, request.wanted // 2)
