"""What there is to choose from, and what chooses: a trial, or an enumeration of all series of choices.

A function that makes choices is written once, for suggestions and enumeration alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Choices(Protocol):
    """The candidates on each axis; a `Space` has them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its axes."""
        ...

    def on(self, name: str) -> tuple[Any, ...]:
        """The candidates on an axis."""
        ...

    @property
    def monotone(self) -> bool:
        """Whether no round may be wider than the one before it."""
        ...

    @property
    def axes(self) -> Mapping[str, tuple[Any, ...]]:
        """Those on registered axes, by name."""
        ...

    @property
    def instructions(self) -> Mapping[str, tuple[str, ...]]:
        """By role, besides the student's own."""
        ...

    @property
    def demos(self) -> Mapping[str, tuple[Any, ...]]:
        """By role, besides the student's own."""
        ...

    @property
    def fixed(self) -> tuple[str, ...]:
        """Prompt parameters without the student's own as a candidate."""
        ...


class Suggests(Protocol):
    """The interface of a trial; `optuna.trial.BaseTrial` has it."""

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
        """The chosen value; `fit` maps an invalid value to a valid one."""
        ...


class Asked:
    """Choices by a trial. A parameter always has the same choices, as Optuna demands; hence `fit`."""

    def __init__(self, trial: Suggests) -> None:
        self.trial = trial

    def __call__(
        self, name: str, values: Sequence[Any], fit: Callable[[Any], Any] = same, *, small_first: bool = False
    ) -> Any:
        del small_first
        return fit(values[0] if len(values) == 1 else self.trial.suggest_categorical(name, values))


class Every:
    """Enumerates every series of choices once: the function of choices runs again and again, the last choice varying
    fastest.

    Each candidate repeats its series of choices, which is cheap compared with validating it; in return, the choices of
    a space are defined once, for suggestions and enumeration alike.
    """

    def __init__(self) -> None:
        self.left: list[deque[Any]] = []
        """For each choice of the current series its value, and the remaining ones."""
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
        """Advance to the next series of choices; False if there is none."""
        self.depth = 0
        while self.left and len(self.left[-1]) == 1:
            self.left.pop()
        if self.left:
            self.left[-1].popleft()
        return bool(self.left)
