"""Several operators with a space each, as one frozen value: what is chosen for them is chosen together.

    PDROptimizer(verifier, space={"solve": Space(...), "extract": Space(...)})

A candidate of it has a part for each operator (`Candidate.parts`), and a parameter of it is named after its operator,
such as `solve.kappa`. All else that a search knows of a space it asks of the spaces in it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import field_validator, model_validator

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.candidate import Candidate, joint, under
from pdr_dspy.search.space.choosing import Suggests
from pdr_dspy.search.space.space import Space, larger
from pdr_dspy.settings import Settings


class Spaces(Settings):
    """A space for each operator of a program. Raises ConfigError where there is none, or what is there is no space."""

    operators: dict[str, Space | None]
    """By the path of the operator in its program, as `named_sub_modules()` of DSPy has it ("solve", "steps[0]"; the
    "self." in front may be left out). None leaves an operator as it is: its schedule, its prompts, its demonstrations.
    """

    @field_validator("operators", mode="before")
    @classmethod
    def _by_path(cls, operators: Any) -> Any:
        if not isinstance(operators, Mapping) or not all(isinstance(place, str) for place in operators):
            raise ValueError(f'`space={operators!r}` must map paths of operators to spaces: {{"solve": Space(...)}}')
        wrong = next((p for p, s in operators.items() if not (s is None or isinstance(s, (Space, Mapping)))), None)
        if wrong is not None:
            raise ValueError(
                f"`space={{{wrong!r}: {operators[wrong]!r}}}` must be a `Space(...)`, or None to leave it as it is"
            )
        named = [(_path(place), space) for place, space in operators.items()]
        twice = next((place for place, _ in named if [p for p, _ in named].count(place) > 1), None)
        if twice is not None:
            raise ValueError(f"`space={{...}}` names the operator {twice!r} twice")
        return {place: Space(**space) if isinstance(space, Mapping) else space for place, space in named}

    @model_validator(mode="after")
    def _has_some(self) -> Self:
        if not self.spaces:
            raise ValueError(
                f"`space={self.operators!r}` has no space: there is nothing to choose; give at least one operator a "
                "`Space(...)`"
            )
        return self

    # --- which operators ---

    @property
    def spaces(self) -> dict[str, Space]:
        """The spaces, by path; operators that stay as they are left out."""
        return {place: space for place, space in self.operators.items() if space is not None}

    def at(self, place: str) -> Space | None:
        """What an operator's schedule is chosen from; None for one that stays as it is."""
        return self.operators[place]

    def suited(self, operators: Mapping[str, Operator]) -> Space | Spaces:
        """The same for the operators of a program, in their order; the space itself where there is only one.

        Raises ConfigError, naming it, for a path that is no operator of the program, and for an operator without one.
        """
        there = ", ".join(repr(place) if place else "'' (the program itself)" for place in operators)
        unknown = next((place for place in self.operators if place not in operators), None)
        if unknown is not None:
            raise ConfigError(
                f"`space={{{unknown!r}: ...}}` is no operator of the program; its operators are {there} (paths as in "
                "`program.named_sub_modules()`)"
            )
        missing = next((place for place in operators if place not in self.operators), None)
        if missing is not None:
            raise ConfigError(
                f"`space={{...}}` says nothing of the operator {missing!r}; give it a space, "
                f"`{{{missing!r}: Space.default_for(program.{missing}.schedule)}}`, or None to leave it as it is"
            )
        if len(operators) == 1:
            return next(iter(self.spaces.values()))
        return Spaces(operators={place: self.operators[place] for place in operators})

    # --- choosing ---

    def suggest(self, trial: Suggests) -> Candidate:
        """One candidate, asked of an Optuna trial parameter by parameter; raises as `Space.suggest`."""
        return joint({place: space.suggest(_Under(trial, place)) for place, space in self.spaces.items()})

    def params_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """The parameters for which `suggest` gives `candidate`, or None when it is not in this space."""
        if candidate.parts.keys() != self.spaces.keys():
            return None
        found: dict[str, Any] = {}
        for place, space in self.spaces.items():
            own = space.params_of(candidate.parts[place])
            if own is None:
                return None
            found |= {under(place, name): value for name, value in own.items()}
        return found

    def __contains__(self, item: object) -> bool:
        return isinstance(item, Candidate) and self.params_of(item) is not None

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate once, small shapes of all operators first."""
        places = list(self.spaces)
        for parts in _together([space.candidates() for space in self.spaces.values()]):
            yield joint(dict(zip(places, parts, strict=True)))

    @property
    def size(self) -> int:
        """How many different candidates there are."""
        return math.prod(space.size for space in self.spaces.values())

    def extend(self, **values: Any) -> Spaces:
        """A copy with more candidates on the named axes of every space in it; see `Space.extend`."""
        return Spaces(
            operators={p: None if space is None else space.extend(**values) for p, space in self.operators.items()}
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that some schedule of it calls."""
        called = {role for space in self.spaces.values() for role in space.roles}
        return tuple(role for role in Role if role in called)

    def widest(self) -> Schedule:
        """A schedule that needs as much context of a model, and as many requests at once, as any of it."""
        return functools.reduce(larger, (space.widest() for space in self.spaces.values()))

    def describe(self) -> str:
        """A table for people of each operator's space."""
        return "\n\n".join(
            f"{place}:\n{'stays as it is' if space is None else space.describe()}"
            for place, space in self.operators.items()
        )

    def __str__(self) -> str:
        return self.describe()


AnySpace = Space | Spaces
"""One space for all operators, or one for each."""


def read_space(given: Any) -> AnySpace:
    """A space as it is given or stored: a `Space` or `Spaces`, the data of either, or spaces by their operators' paths.

    Raises ConfigError for what is none, and as `Space` does.
    """
    if isinstance(given, (Space, Spaces)):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"`SearchSettings(space={given!r})` must be a `Space(...)`, spaces by the paths of their operators "
            '(`{"solve": Space(...)}`), or None for the default'
        )
    if set(given) == {"operators"} and not isinstance(given["operators"], Space):
        return Spaces(**given)
    by_path = not given or any(isinstance(value, Space) or value is None for value in given.values())
    return Spaces(operators=dict(given)) if by_path else Space(**given)


def _path(place: str) -> str:
    """A path without DSPy's name for the program itself."""
    return "" if place == "self" else place.removeprefix("self.")


class _Under:
    """A trial that is asked for the parameters of one operator."""

    def __init__(self, trial: Suggests, place: str) -> None:
        self.trial = trial
        self.place = place

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.trial.suggest_categorical(under(self.place, name), choices)


def _together(series: Sequence[Iterator[Candidate]]) -> Iterator[tuple[Candidate, ...]]:
    """Every combination of one of each series, by the sum of their places: no series need come to its end first."""
    drawn: list[list[Candidate]] = [[] for _ in series]
    ended = [False] * len(series)

    def reaches(which: int, place: int) -> bool:
        while len(drawn[which]) <= place and not ended[which]:
            more = next(series[which], None)
            if more is None:
                ended[which] = True
            else:
                drawn[which].append(more)
        return place < len(drawn[which])

    def summing(which: int, left: int) -> Iterator[tuple[Candidate, ...]]:
        if which == len(series) - 1:
            if reaches(which, left):
                yield (drawn[which][left],)
            return
        for place in range(left + 1):
            if not reaches(which, place):
                return
            for rest in summing(which + 1, left - place):
                yield (drawn[which][place], *rest)

    for total in itertools.count():
        if all(ended) and total > sum(len(own) - 1 for own in drawn):
            return
        yield from summing(0, total)
