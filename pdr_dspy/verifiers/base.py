"""The contract of a verifier, and its score."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from pdr_dspy.runtime.raised_by import raised_by

if TYPE_CHECKING:
    import dspy

    from pdr_dspy.calls.ledger import Call


RIGHT = 0.5
"""The lowest score that counts as right, if scores are divided into right and wrong."""


class Score(float):
    """A verdict in [0, 1] that behaves as a float, so that a verifier is a DSPy metric.

    `detail` is a short reason for people and reports. `calls` are the model calls of the verdict (a judge's), in the
    order in which they were made, for the ledger. `feedback` is a text that the next draft may read: the failing
    example, its expected and its actual result; only checks, which do not know the gold answer, set it.
    """

    detail: str
    calls: tuple[Call, ...]
    feedback: str | None

    def __new__(
        cls, value: float, detail: str = "", calls: tuple[Call, ...] = (), feedback: str | None = None
    ) -> Score:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"`Score(value={value!r})` must be a number in [0, 1]") from None
        if not 0.0 <= number <= 1.0:  # also refuses nan
            raise ValueError(f"`Score(value=...)` must be in [0, 1], got {value!r}")
        self = super().__new__(cls, number)
        self.detail = detail
        self.calls = calls
        self.feedback = feedback
        return self

    def __getnewargs__(self) -> tuple[float, str, tuple[Call, ...], str | None]:  # type: ignore[override]
        return (float(self), self.detail, self.calls, self.feedback)

    def __repr__(self) -> str:
        return f"Score({float(self):g}, {self.detail!r})"


Metric: TypeAlias = "Callable[..., Any]"
"""A plain function as a verifier, see `as_verifier`."""


@runtime_checkable
class Verifier(Protocol):
    """An object that scores a prediction against an example.

    Verifiers are frozen values: two with the same settings are equal, and `describe()` is enough to rebuild one. A
    verifier that waits for a model or a sandbox may also have `averify(example, prediction)`, which async code awaits
    instead; its class attribute `grades_drafts = True` states that a verdict costs no tokens, so that evaluations grade
    every draft. A verifier that only compares short texts may have `instant = True`: async code then calls it without a
    thread. Subclasses do not inherit that, since they may be slow.
    """

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        """Return the score of `prediction` (its output fields) for `example` (its gold fields).

        Must be thread-safe. An unreadable prediction scores 0, with the reason in `detail`; only a misconfigured
        verifier or an unreadable gold answer raises.
        """
        ...

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError, naming the example and its gold answer, if this verifier cannot grade against it."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the public class name under "kind"."""
        ...


def named(verifier: Verifier) -> str:
    """A verifier in messages. Evaluations compute it once: the text of some verifiers is long."""
    return f"the verifier {verifier!r}"


def verdict(
    verifier: Verifier, example: dspy.Example, prediction: dspy.Prediction, *, part: str | None = None
) -> Score:
    """The score by a verifier, which may be a user's code, called synchronously.

    Args:
        verifier: the verifier.
        example: with the gold fields.
        prediction: with the output fields.
        part: `named(verifier)`, where it is known.

    Raises the verifier's errors with a note that names it; RuntimeError for a SystemExit and the like, which would end
    more than the verdict.
    """
    try:
        found = verifier(example, prediction)
        return found if isinstance(found, Score) else Score(float(found))
    except BaseException:
        with raised_by(part or named(verifier)):
            raise
