"""Whether a search goes on: the expected gain of more tokens against the price that the user set for them.

The gains are estimated in `worth.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdr_dspy.search.racing import worth
from pdr_dspy.search.racing.arms import Arm
from pdr_dspy.search.racing.requests import Proposed
from pdr_dspy.search.racing.standing import Standing
from pdr_dspy.search.settings import Stop


class StoppingRule:
    """Whether another cohort, or another run of the finalists, is worth its tokens."""

    def __init__(
        self,
        standing: Standing,
        *,
        stop: Stop,
        price: float,
        trials: int,
        max_tokens: int | None,
        questions: int,
    ) -> None:
        """
        Args:
            standing: of the arms so far.
            stop, price: as in `RunOptions`; with any `stop` but "worth" the rule never ends a search.
            trials, max_tokens, questions: as in `Plan`.
        """
        self.standing = standing
        self.stop = stop
        self.price = price
        self.trials = trials
        self.max_tokens = max_tokens
        self.questions = questions
        self._expected: float | None = None
        """The expected gain of the cohort before."""

    def not_worth(self, proposed: Sequence[Proposed]) -> str | None:
        """Why a cohort is not raced; None if it is."""
        trials = sum(not one.free for one in proposed)
        if self.stop != "worth" or not trials:
            return None
        allowed = [arm.number for arm in self.standing.arms if self.standing.allowed(arm)]
        scores, candidates = self.standing.all_scores()
        new = [one.candidate for one in proposed]
        gain = worth.of_cohort(scores, candidates, new, allowed, self.standing.expected_of([*candidates, *new]))
        # A proposal may be poor by chance: the one before counts, too.
        before, self._expected = self._expected, gain
        expected = gain if before is None else (gain + before) / 2
        price = self._price(trials * self._paid_each())
        return None if expected >= price else self._below(f"the next {_count(trials, 'trial')}", expected, price)

    def enough(self, finalists: Sequence[Arm], done: int) -> str | None:
        """Why finalists, which ran `done` times again, do not run once more; None if they do."""
        if self.stop != "worth" or not done:  # without any fresh run the reported score would be the luckiest of many
            return None
        again = [arm.number for arm in finalists]
        allowed = [arm.number for arm in finalists if self.standing.allowed(arm)]
        tokens = self.questions * sum(arm.total for arm in finalists)
        left, gain = self.standing.settings.final.repeats - done, 0.0
        scores, candidates = self.standing.all_scores()
        gains = worth.of_repeats(scores, candidates, again, allowed, left, self.standing.expected_of(candidates))
        for times, expected in enumerate(gains, start=1):  # several may be worth it where one is not
            if expected is None or expected >= self._price(times * tokens):
                return None
            gain = expected
        what = f"more runs of the finalists after {_count(done, 'time')}"
        return self._below(what, gain, self._price(left * tokens))

    def _price(self, tokens: float) -> float:
        """The gain in score for which these tokens would be paid."""
        budget = self.trials * self._paid_each()
        if self.max_tokens is not None:
            budget = min(budget, self.max_tokens)
        return self.price * tokens / max(budget, 1.0)

    @staticmethod
    def _below(what: str, gain: float, price: float) -> str:
        return f"{what} would gain an expected {gain:.5f} in score, below the price of {price:.5f}"

    def _paid_each(self) -> float:
        """Mean tokens that a trial's race paid."""
        return sum(arm.paid for arm in self.standing.arms) / max(self.standing.trials_begun, 1)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
