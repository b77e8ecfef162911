"""The contract of a check, and what checks share: text for the next draft, and reward functions as checks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.event_loop import run as run_async
from pdr_dspy.runtime.registry import Registry, origin_of
from pdr_dspy.text.quoting import sheltered
from pdr_dspy.text.token_estimate import estimate_tokens
from pdr_dspy.verifiers.base import Score

SOLUTION = "solution"
"""Among the outputs that a check is given: the draft's whole text, for checks that ask for it (`reads_solution`)."""
FEEDBACK_TOKENS = 256
"""Tokens of a feedback, as `estimate_tokens` counts them, unless a check is told otherwise."""


@runtime_checkable
class AsyncCheck(Protocol):
    """Scores an answer without knowing the gold answer: all that a program needs of a check.

    Checks are frozen values: two with the same settings are equal. What the program is asked is in `inputs`, what it
    answered in `outputs`, both by field. One whose attribute `reads_solution` is true is given the draft's whole text
    among the outputs, as "solution".
    """

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score of `outputs` for `inputs`, with `feedback` for the next draft where it is below 1.

        An answer that cannot be read scores 0. What says nothing about the answer raises: the draft is unchecked then.
        Many may be awaited at once, and one that is cancelled ends what it runs.
        """
        ...


@runtime_checkable
class Check(AsyncCheck, Protocol):
    """One that code without an event loop may ask, too, as all of the library's."""

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The same."""
        ...


@runtime_checkable
class RoundCheck(AsyncCheck, Protocol):
    """A check that looks at the drafts of a round together: where that is cheaper, or where it compares them.

    One whose attribute `relative` is true only compares: its scores cannot be held against those of another round, so
    that a program can neither stop at one nor keep by it.
    """

    async def acheck_all(
        self, inputs: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
    ) -> Sequence[Score | Exception]:
        """The score of each of several answers to one question, in their order; an exception where there is none.

        What it raises itself leaves them all unchecked.
        """
        ...


class Checking:
    """A check that awaits: gives it its synchronous form."""

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The same as `acheck`, from synchronous code."""
        return run_async(lambda: self.acheck(inputs, outputs))

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score of `outputs` for `inputs`."""
        raise NotImplementedError


def one_line(text: str, limit: int = 300) -> str:
    """A text that a program or a model wrote, as data: on one line, its line breaks spelled, cut in the middle."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text[: 8 * limit]
    )
    return shown if len(shown) <= limit else f"{shown[: limit // 2]} ... {shown[-limit // 3 :]}"


def bounded(lines: list[str], tokens: int = FEEDBACK_TOKENS) -> str:
    """Feedback of at most `tokens` tokens: the first lines that fit, quoted so that none passes for a prompt's own."""
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


@dataclass(frozen=True)
class RewardCheck(Checking):
    """A DSPy reward function, `reward_fn(args, pred) -> float`, as a check.

    `args` are the inputs, `pred` a dspy.Prediction of the outputs. It may be async, return a Score, or a
    dspy.Prediction with `score` and `feedback`. Rewards run from `low` to `high`, which become 0 and 1.
    """

    function: Callable[..., Any]
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"`RewardCheck(function={self.function!r})` must be a function of (args, pred)")
        if not self.low < self.high:
            raise ConfigError(f"`RewardCheck(low={self.low!r}, high={self.high!r})`: `low` must be below `high`")

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The reward. A function that is not async runs in a thread. Raises what it raises, and ValueError for a
        reward outside of `low` and `high`."""
        import dspy

        prediction = dspy.Prediction(**outputs)
        if inspect.iscoroutinefunction(self.function):
            found = await self.function(dict(inputs), prediction)
        else:
            found = await asyncio.to_thread(self.function, dict(inputs), prediction)
            if inspect.isawaitable(found):
                found = await found
        if isinstance(found, Score):
            return found
        feedback = None
        found: Any = found
        if isinstance(found, dspy.Prediction):
            feedback, found = found.get("feedback"), found.get("score")
        value = float(cast(Any, found))  # of a prediction without a score it raises
        if not self.low <= value <= self.high:
            name = getattr(self.function, "__name__", "the reward function")
            raise ValueError(
                f"`{name}` returned {value!r}, outside of [{self.low:g}, {self.high:g}]; give its range: "
                "`RewardCheck(function, low=..., high=...)`"
            )
        told = bounded([one_line(line, 1000) for line in str(feedback).splitlines()]) if feedback else None
        return Score((value - self.low) / (self.high - self.low), f"reward {value:g}", feedback=told)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings; of the function, where it is defined."""
        return {"kind": type(self).__name__, "function": origin_of(self.function), "low": self.low, "high": self.high}


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


def register_check(name: str, check: Check) -> Check:
    """Give a check a name, under which `as_check` finds it. Raises ConfigError for a name that is taken."""
    return CHECKS.add(name, _is_check(name, check), origin=origin_of(check))


def as_check(value: Any) -> Check:
    """A check, from a check, a registered name, or a DSPy reward function as it is.

    Raises ConfigError for anything else.
    """
    if isinstance(value, str):
        return CHECKS.find(value)
    if not isinstance(value, type) and hasattr(value, "acheck"):
        return value
    if callable(value) and not isinstance(value, type):
        return RewardCheck(value)
    raise ConfigError(
        f"`{value!r}` is no check: give one of `pdr_dspy.verifiers.checks`, a registered name, or a reward function "
        "`reward_fn(args, pred) -> float`"
    )
