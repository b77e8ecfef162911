"""A check with its calibrated threshold, and the uncertainty of that threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pdr_dspy.arguments import explained
from pdr_dspy.settings import Settings
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks.base import AsyncCheck, SyncForm, checked, checked_together
from pdr_dspy.verifiers.checks.served import apart


class Calibration(Settings):
    """The figures of a check on the training questions. Fractions, with 95 % intervals clustered by question.

    The precision is cross-validated: it is that of answers on questions that were not used to choose their threshold;
    `threshold` is chosen on all questions.
    """

    threshold: float
    """The lowest score that passes."""
    target: float | None
    """The requested precision; None for the threshold that separates right and wrong best (Youden's J)."""
    precision: float | None
    """Fraction of the passing answers that are right; None if no answer passed."""
    precision_interval: tuple[float, float]
    recall: float
    """Fraction of the right answers that pass."""
    auc: float
    """Probability that a right answer scores above a wrong one; 0.5 is chance."""
    auc_interval: tuple[float, float]
    roc: tuple[tuple[float, float, float], ...]
    """(false positive rate, true positive rate, threshold), from the highest threshold down."""
    questions: int
    answers: int
    unchecked: int = 0
    """Number of answers without a score; no figure includes them."""
    folds: int
    seed: int

    def __str__(self) -> str:
        low, high = self.precision_interval
        precision = "no answer passes" if self.precision is None else f"{self.precision:.2f} ({low:.2f} to {high:.2f})"
        area = f"{self.auc:.2f} ({self.auc_interval[0]:.2f} to {self.auc_interval[1]:.2f})"
        return (
            f"threshold {self.threshold:.3g}: precision {precision}, recall {self.recall:.2f}; AUC {area}, on "
            f"{self.answers} answers to {self.questions} questions"
        )


@explained
@dataclass(frozen=True)
class CalibratedCheck(SyncForm):
    """A check with a calibration; its scores are unchanged.

    `Schedule(stop_at=check.threshold)` ends a program as soon as an answer passes. It is saved with a program.
    """

    time_limit: ClassVar[float | None] = None  # each call of the underlying check has its own
    base: AsyncCheck
    calibration: Calibration

    @property
    def threshold(self) -> float:
        """The lowest score that passes, for `Schedule.stop_at`, which must be above 0."""
        return max(self.calibration.threshold, 1e-9)

    @property
    def reads_solution(self) -> bool:
        """The underlying check's attribute."""
        return bool(getattr(self.base, "reads_solution", False))

    @property
    def relative(self) -> bool:
        """The underlying check's attribute."""
        return bool(getattr(self.base, "relative", False))

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The underlying check's score; its detail states whether it passes."""
        return self._with_verdict(await checked(self.base, inputs, outputs))

    async def acheck_all(
        self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
    ) -> list[Score | Exception]:
        """The scores of several answers, in one call if the underlying check supports it."""
        each = checked_together if hasattr(self.base, "acheck_all") else apart
        found = await each(self.base, inputs, outputs)
        return [self._with_verdict(one) if isinstance(one, Score) else one for one in found]

    def _with_verdict(self, score: Score) -> Score:
        passes = "passes" if score >= self.calibration.threshold else "does not pass"
        detail = f"{score.detail}; {passes} {self.calibration.threshold:.3g}"
        return Score(float(score), detail, score.calls, score.feedback)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings of the check, and the calibration."""
        describe: Any = getattr(self.base, "describe", None)
        inner = {"kind": type(self.base).__name__} if describe is None else describe()
        return {**inner, "calibration": self.calibration.model_dump(mode="json")}
