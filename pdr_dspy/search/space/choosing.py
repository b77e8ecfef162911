"""Choices: how a function of choices gets its answers, from a trial or each series of them once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Suggests(Protocol):
    """What a trial must be able to do; `optuna.trial.BaseTrial` can."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of `choices`."""
        ...


def same(value: Any) -> Any:
    """The value itself."""
    return value


class Pick(Protocol):
    """Chooses one of several values."""

    def __call__(
        self, name: str, values: Sequence[Any], fit: Callable[[Any], Any] = same, *, small_first: bool = False
    ) -> Any:
        """The chosen value, as `fit` makes it one that can be."""
        ...


class Asked:
    """Choices that a trial makes. A parameter always has the same choices, as Optuna demands; hence `fit`."""

    def __init__(self, trial: Suggests) -> None:
        self.trial = trial

    def __call__(
        self, name: str, values: Sequence[Any], fit: Callable[[Any], Any] = same, *, small_first: bool = False
    ) -> Any:
        del small_first
        return fit(values[0] if len(values) == 1 else self.trial.suggest_categorical(name, values))


class Every:
    """Each series of choices once: the same function of choices runs again and again, the last choice changing first.

    A series is made again for each candidate, which is cheap beside checking it; in return what a space may choose is
    said once, for suggestions and lists alike.
    """

    def __init__(self) -> None:
        self.left: list[deque[Any]] = []
        """Of each choice of the present series the value, and those that come after it."""
        self.depth = 0

    def __call__(
        self, name: str, values: Sequence[Any], fit: Callable[[Any], Any] = same, *, small_first: bool = False
    ) -> Any:
        del name
        if self.depth == len(self.left):
            self.left.append(deque(dict.fromkeys(fit(value) for value in (sorted(values) if small_first else values))))
        self.depth += 1
        return self.left[self.depth - 1][0]

    def advance(self) -> bool:
        """Go to the next series of choices; False when there is none."""
        self.depth = 0
        while self.left and len(self.left[-1]) == 1:
            self.left.pop()
        if self.left:
            self.left[-1].popleft()
        return bool(self.left)
