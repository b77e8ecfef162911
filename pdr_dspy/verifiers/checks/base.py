"""The contract of a check, feedback for the next draft, and reward functions as checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.event_loop import run as run_async
from pdr_dspy.runtime.registry import Registry, origin_of
from pdr_dspy.settings import is_number
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.token_estimate import estimate_tokens
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks.limited import TIME_LIMIT, check_time_limit, in_thread, within

SOLUTION = "solution"
"""Key of the draft's full text among the outputs, for checks whose `reads_solution` is true."""
FEEDBACK_TOKENS = 256
"""Default limit of a feedback in tokens, as `estimate_tokens` counts them."""


@runtime_checkable
class AsyncCheck(Protocol):
    """Scores an answer without the gold answer: the interface that a program needs.

    Checks are frozen values: two with the same settings are equal. `inputs` are the program's inputs and `outputs` its
    answer, both by field. A check whose attribute `reads_solution` is true also gets the draft's full text, as the
    output "solution".

    A check may have the attribute `time_limit`: the seconds that one call may take, or None if every call ends by
    itself; without the attribute it is `TIME_LIMIT`. A call that takes longer is cancelled, and its draft is unchecked.
    Code that blocks the event loop cannot be cancelled: a slow synchronous check belongs into a thread, as that of a
    `RewardCheck`.
    """

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score of `outputs` for `inputs`, with `feedback` for the next draft if it is below 1.

        An unreadable answer scores 0. A failure that does not depend on the answer raises; the draft is then unchecked.
        Calls may be concurrent, and a cancelled call ends its work.
        """
        ...


@runtime_checkable
class Check(AsyncCheck, Protocol):
    """A check that synchronous code can call, too; all built-in checks are."""

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The same."""
        ...


@runtime_checkable
class RoundCheck(AsyncCheck, Protocol):
    """A check that scores the drafts of a round together, because that is cheaper or because it compares them.

    If its attribute `relative` is true, it only compares: scores of different rounds are not comparable, so a program
    can neither stop at a score nor keep a draft because of it.
    """

    async def acheck_all(
        self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
    ) -> Sequence[Score | Exception]:
        """The score of each of several answers to one question, in order, or the exception that it failed with.

        If the call itself raises, all of them are unchecked.
        """
        ...


class SyncForm:
    """Base class that adds the synchronous `check` to an async check."""

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """`acheck` for synchronous code."""
        return run_async(lambda: self.acheck(inputs, outputs))

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score of `outputs` for `inputs`."""
        raise NotImplementedError


def one_line(text: str, limit: int = 300) -> str:
    """A text of a program or a model as data: on one line, with escaped line breaks, shortened in the middle."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text[: 8 * limit]
    )
    return shown if len(shown) <= limit else f"{shown[: limit // 2]} ... {shown[-limit // 3 :]}"


def bounded(lines: list[str], tokens: int = FEEDBACK_TOKENS) -> str:
    """Feedback of at most `tokens` tokens: the first lines that fit, quoted so that none looks like a prompt's own."""
    kept: list[str] = []
    left = tokens
    for line in lines:
        line = sheltered(line, among=True)
        need = estimate_tokens(line) + 1
        while need > left and len(line) > 40:
            line = f"{line[: len(line) * 2 // 3]} ..."
            need = estimate_tokens(line) + 1
        if need > left:
            break
        kept.append(line)
        left -= need
    return "\n".join(kept)


# ---------------------------------------------------------------------------------------------------- reward functions


@explained
@dataclass(frozen=True)
class RewardCheck(SyncForm):
    """A DSPy reward function, `reward_fn(args, pred) -> float`, as a check.

    `args` are the inputs, `pred` a dspy.Prediction of the outputs. The function may be async, and may return a Score or
    a dspy.Prediction with `score` and `feedback`. Rewards from `low` to `high` are scaled to 0 to 1.

    A call that takes longer than `time_limit` seconds raises TimeoutError, which leaves the draft unchecked; None is no
    limit. An async function is cancelled. A synchronous one runs in a thread, which Python cannot interrupt: it is left
    running, and the program goes on without it.
    """

    function: Callable[..., Any]
    low: float = 0.0
    high: float = 1.0
    time_limit: float | None = TIME_LIMIT

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"`RewardCheck(function={self.function!r})` must be a function of (args, pred)")
        for name in ("low", "high"):
            value = getattr(self, name)
            if not is_number(value) or value != value:
                raise ConfigError(f"`RewardCheck({name}={value!r})` must be a number: an end of the range of rewards")
        if not self.low < self.high:
            raise ConfigError(f"`RewardCheck(low={self.low!r}, high={self.high!r})`: `low` must be below `high`")
        check_time_limit("RewardCheck(", self.time_limit)

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The scaled reward. A synchronous function runs in a thread. Raises the function's errors (RuntimeError for a
        SystemExit), TimeoutError at the time limit, and ValueError for a reward outside of `low` and `high`."""
        import dspy

        prediction = dspy.Prediction(**outputs)

        def call() -> Any:
            return self.function(dict(inputs), prediction)

        found: Any
        if inspect.iscoroutinefunction(self.function):
            found = await within(self.time_limit, call)
        else:
            found = await in_thread(self.time_limit, call)
            if inspect.isawaitable(found):
                awaitable = found
                found = await within(self.time_limit, lambda: awaitable)
        if isinstance(found, Score):
            return found
        feedback = None
        if isinstance(found, dspy.Prediction):
            feedback, found = found.get("feedback"), found.get("score")
        value = float(cast(Any, found))  # raises for a prediction without a score
        if not self.low <= value <= self.high:
            name = getattr(self.function, "__name__", "the reward function")
            raise ValueError(
                f"`{name}` returned {value!r}, outside of [{self.low:g}, {self.high:g}]; give its range: "
                "`RewardCheck(function, low=..., high=...)`"
            )
        told = bounded([one_line(line, 1000) for line in str(feedback).splitlines()]) if feedback else None
        return Score((value - self.low) / (self.high - self.low), f"reward {value:g}", feedback=told)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the function's origin in place of the function."""
        limit = {} if self.time_limit == TIME_LIMIT else {"time_limit": self.time_limit}  # a later field
        own = {"function": origin_of(self.function), "low": self.low, "high": self.high}
        return {"kind": type(self).__name__, **own, **limit}


def time_limit_of(check: Any) -> float | None:
    """The seconds that one call of a check may take; None if it keeps its limit itself, or has none."""
    return None if isinstance(check, RewardCheck) else getattr(check, "time_limit", TIME_LIMIT)


async def checked(check: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
    """The score of one answer, within the check's time limit.

    Raises the check's errors (RuntimeError for one that would end more than the check), TimeoutError at the limit, and
    TypeError for a result that is no Score.
    """
    return _scored(await within(time_limit_of(check), lambda: check.acheck(inputs, outputs)))


async def checked_together(
    check: Any, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
) -> list[Score | Exception]:
    """The scores of several answers in one call of a `RoundCheck`, likewise. Raises ValueError for another number."""
    scores = list(await within(time_limit_of(check), lambda: check.acheck_all(inputs, outputs)))
    if len(scores) != len(outputs):
        raise ValueError(f"`acheck_all` gave {len(scores)} scores for {len(outputs)} drafts")
    return [one if isinstance(one, Exception) else _scored(one) for one in scores]


def _scored(found: Any) -> Score:
    if not isinstance(found, Score):
        raise TypeError(f"the check gave {one_line(repr(found), 100)}, which is no `pdr_dspy.Score(value, detail)`")
    return found


def _is_check(name: str, part: Any) -> Check:
    found = part() if isinstance(part, type) else part
    if not hasattr(found, "acheck"):
        raise ConfigError(f"{part!r} has no `acheck(inputs, outputs)`")
    return found


CHECKS: Registry[Check] = Registry(
    "check",
    group="pdr_dspy.verifiers.checks",
    built_in={},
    check=_is_check,
    hint='Register one with `register_check("name", check)`',
)


@explained
def register_check(name: str, check: Check) -> Check:
    """Register a check under a name for `as_check`. Raises ConfigError for a name that is taken."""
    return CHECKS.add(name, _is_check(name, check), origin=origin_of(check))


@explained
def as_check(value: Any) -> Check:
    """Return a check, given a check, a registered name, or a DSPy reward function. Raises ConfigError otherwise."""
    if isinstance(value, str):
        return CHECKS.find(value)
    if not isinstance(value, type) and hasattr(value, "acheck"):
        check_time_limit(f"{type(value).__name__}(", time_limit_of(value))
        return value
    if callable(value) and not isinstance(value, type):
        return RewardCheck(value)
    raise ConfigError(
        f"`{value!r}` is no check: give one of `pdr_dspy.verifiers.checks`, a registered name, or a reward function "
        "`reward_fn(args, pred) -> float`"
    )
