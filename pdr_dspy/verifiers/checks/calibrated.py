"""A check together with the threshold that was found for it, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdr_dspy.settings import Settings
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks.base import AsyncCheck, Checking
from pdr_dspy.verifiers.checks.served import apart


class Calibration(Settings):
    """What the training questions say of a check. Fractions, with 95 % intervals clustered by question.

    The precision is that of answers on questions which had no part in choosing their threshold (cross-validation);
    `threshold` is chosen on all of them.
    """

    threshold: float
    """An answer with at least this score passes."""
    target: float | None
    """The precision that was asked for; None: the threshold that tells right from wrong best (Youden's J)."""
    precision: float | None
    """How many of the answers that pass are right; None where none passed."""
    precision_interval: tuple[float, float]
    recall: float
    """How many of the right answers pass."""
    auc: float
    """How often a right answer scores above a wrong one; 0.5 is chance."""
    auc_interval: tuple[float, float]
    roc: tuple[tuple[float, float, float], ...]
    """From the highest threshold down: false positives, true positives (both as fractions), and the threshold."""
    questions: int
    answers: int
    unchecked: int = 0
    """Answers that the check gave no score; they are in none of the figures."""
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


@dataclass(frozen=True)
class CalibratedCheck(Checking):
    """A check that scores as it did, with what is known of its threshold.

    `Schedule(stop_at=check.threshold)` ends a program where an answer passes. It is saved with a program.
    """

    base: AsyncCheck
    calibration: Calibration

    @property
    def threshold(self) -> float:
        """An answer with at least this score passes; for `Schedule.stop_at`, which is above 0."""
        return max(self.calibration.threshold, 1e-9)

    @property
    def reads_solution(self) -> bool:
        """As of the check itself."""
        return bool(getattr(self.base, "reads_solution", False))

    @property
    def relative(self) -> bool:
        """As of the check itself."""
        return bool(getattr(self.base, "relative", False))

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score of the check itself, with whether it passes in its detail."""
        return self._told(await self.base.acheck(inputs, outputs))

    async def acheck_all(
        self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
    ) -> list[Score | Exception]:
        """The same of several answers, together where the check itself can."""
        together: Any = getattr(self.base, "acheck_all", None)
        found = await apart(self.base, inputs, outputs) if together is None else await together(inputs, outputs)
        return [self._told(one) if isinstance(one, Score) else one for one in found]

    def _told(self, score: Score) -> Score:
        passes = "passes" if score >= self.calibration.threshold else "does not pass"
        detail = f"{score.detail}; {passes} {self.calibration.threshold:.3g}"
        return Score(float(score), detail, score.calls, score.feedback)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings of the check, and the calibration."""
        describe: Any = getattr(self.base, "describe", None)
        inner = {"kind": type(self.base).__name__} if describe is None else describe()
        return {**inner, "calibration": self.calibration.model_dump(mode="json")}
