"""The contract of a verifier, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import dspy

    from pdr_dspy.calls.ledger import Call


RIGHT = 0.5
"""A score of at least this counts as right, where right and wrong are told apart."""


class Score(float):
    """A verdict in [0, 1] that behaves as a float, so that a verifier is a DSPy metric.

    `detail` is a short reason for people and reports. `calls` are model calls that the verdict cost (a judge's), in
    the order in which they were made; they belong on the ledger. `feedback` is what the next draft may be shown: which
    example failed, what was expected and what came; only a check, which knows no gold answer, has any.
    """

    detail: str
    calls: tuple[Call, ...]
    feedback: str | None

    def __new__(
        cls, value: float, detail: str = "", calls: tuple[Call, ...] = (), feedback: str | None = None
    ) -> Score:
        number = float(value)
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
    """Anything that scores a prediction against an example.

    Verifiers are frozen values: two with the same settings are equal, and `describe()` is enough to rebuild one. One
    that waits for something else, a model or a sandbox, may have `averify(example, prediction)` as well, which is
    awaited in its place; with a class attribute `grades_drafts = True` it says that a verdict costs no tokens, so that
    evaluations grade every draft too.
    """

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        """Return the score of `prediction` (its output fields) for `example` (its gold fields).

        Must be safe to call from several threads at once. A prediction that cannot be read scores 0 and says why in
        `detail`; only a misconfigured verifier or an unreadable gold answer raises.
        """
        ...

    def check_gold(self, example: dspy.Example) -> None:
        """Raise DataError, naming the example and its gold answer, if this verifier cannot grade against it."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the public class name under "kind"."""
        ...
