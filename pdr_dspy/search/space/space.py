"""The schedules, instructions and demonstrations that a search may choose from, as one frozen value.

Every axis is a tuple of candidates. LongCoT (one round) and SR (all widths 1) are points of the same space as PDR. The
properties of an axis are in `axes.py`, `validity.py` checks the candidates, `schedules.py` chooses among them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.axes import CHECK, DISTILLER, FINAL, ROUNDS, TABLE, WIDTHS
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.canonical import canonical
from pdr_dspy.search.space.choosing import Asked, Suggests
from pdr_dspy.search.space.parameters import OWN, Recorded
from pdr_dspy.search.space.prompt_axes import PROMPTS, DemoSet, fewer, listed, more, only
from pdr_dspy.search.space.registry import AXES
from pdr_dspy.search.space.schedules import choose, every, roles_of, widest
from pdr_dspy.search.space.table import table_of
from pdr_dspy.search.space.validity import check_space
from pdr_dspy.settings import Settings

_WHOLE = ("monotone", *PROMPTS, "fixed", "axes")
"""Fields that are a single value rather than an axis of candidates."""
_DEFINED = "axes_from"
"""In the data of a space: where a registered axis is defined, "module:attribute"."""


class Space(Settings):
    """Candidates for each part of a program. Create one around a schedule with `Space.default_for(schedule)`.

    >>> space = Space.default_for(program.schedule).fix(kappa=512).narrow(rounds=(1, 2))
    >>> space = space.extend(instructions={"draft": ("Solve it backwards.",)})

    An axis registered with `@pdr_dspy.axis` is a keyword too: `Space(effort=("low", "high"))`.

    `print(space)` is a table of its axes. Raises ConfigError for an empty axis or a value that no schedule can have.
    """

    rounds: tuple[int, ...] = ROUNDS.default
    """Numbers of rounds, the last one included. 1 is Long CoT."""
    widths: tuple[int, ...] = WIDTHS.default
    """Drafts of each round before the last, and of the last if `final` lets it be wide. All 1 is Sequential
    Refinement."""
    monotone: bool = True
    """Whether no round may be wider than the one before it."""
    kappa: tuple[int, ...] = (2048,)
    """Bounds on the workspace, in tokens."""
    distiller: tuple[str, ...] = DISTILLER.default
    """For rounds wider than 1; chains of single drafts always pass on the last solution."""
    k: tuple[int, ...] = (2,)
    """Numbers of solutions in a workspace; at most the narrowest distilled round."""
    draft_tokens: tuple[int, ...] = (1024,)
    """Caps of first-round drafts, in tokens."""
    refine_tokens: tuple[int | None, ...] = (None,)
    """Caps of later drafts; None is `draft_tokens`."""
    distill_tokens: tuple[int | None, ...] = (None,)
    """Caps of distill, select and critique calls; None is the smaller of `kappa` and `draft_tokens`."""
    thinking_tokens: tuple[int, ...] = (0,)
    temperature: tuple[float, ...] = (1.0,)
    distill_temperature: tuple[float | None, ...] = (None,)
    top_p: tuple[float, ...] = (1.0,)
    tally: tuple[bool, ...] = (False,)
    """For rounds wider than 1."""
    quorum: tuple[float, ...] = (1.0,)
    """For rounds wider than 1: the fraction of a round's drafts that is waited for."""
    agree: tuple[float | None, ...] = (None,)
    """For rounds wider than 1: the required probability of agreement before a round ends early."""
    json_fallback: tuple[bool, ...] = (True,)
    """Whether unreadable outputs of a closed form are requested again."""
    critique: tuple[bool, ...] = (False,)
    """For chains of single drafts."""
    check: tuple[str | None, ...] = CHECK.default
    """Names of the program's checks; None uses none."""
    final: tuple[str, ...] = FINAL.default
    """Which draft of the last round is the answer. All but "refine" let the last round be as wide as `widths`
    allows."""
    keep: tuple[bool, ...] = (False,)
    """With a check: whether the best-checked draft of all rounds is the answer."""
    stop_at: tuple[float | None, ...] = (None,)
    """With a check: the score at which a draft ends the program."""
    first_wave: tuple[int | None, ...] = (None,)
    """With `stop_at` or `agree`: how many drafts of a round are made before the others."""
    next_wave: tuple[int | None, ...] = (None,)
    """With `first_wave`: how many drafts follow at a time."""
    draft_model: tuple[str | None, ...] = (None,)
    """Names of the program's models for first-round drafts; None is its default LM."""
    refine_model: tuple[str | None, ...] = (None,)
    """For later drafts; None is the one that drafts."""
    distill_model: tuple[str | None, ...] = (None,)
    """For distill, select and critique calls; None is the one that drafts."""
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Candidates on registered axes, by name: texts, numbers, booleans, or None, which changes nothing."""
    instructions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Texts for a role (`draft`, `refine`, `distill`, `select`, `critique`), besides the student's own."""
    demos: dict[str, tuple[DemoSet, ...]] = Field(default_factory=dict)
    """Sets of demonstrations for a role, besides the student's own: mappings (or `dspy.Example`s) of plain JSON data,
    from the names of the role's fields to values. Take them from questions other than the trials'; see `demos_of`."""
    fixed: tuple[str, ...] = ()
    """Prompt parameters, such as `draft_instructions`, without the student's own as a candidate. Set by `fix`."""

    def __init__(self, **values: Any) -> None:  # candidates may be lists and ranges too
        defined = values.pop(_DEFINED, {})
        named = {name: value for name, value in values.items() if name not in type(self).model_fields and name in AXES}
        rest = {name: value for name, value in values.items() if name not in named}
        if named:
            rest["axes"] = {**dict(rest.get("axes") or {}), **named}
        missing = [name for name in rest.get("axes") or () if name not in AXES]
        if missing:
            raise ConfigError(f"`Space({missing[0]}=...)`: {AXES.unknown(missing[0], defined.get(missing[0]))}")
        super().__init__(**rest)

    @model_serializer(mode="wrap")
    def _as_data(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit later axes at their defaults. For a registered axis, add where it is defined."""
        data = handler(self)
        for axis in TABLE:
            if axis.later and tuple(data.get(axis.name, ())) == axis.default:
                del data[axis.name]
        if not data.get("axes"):
            data.pop("axes", None)
        elif origins := {name: origin for name in self.axes if (origin := AXES.origin(name)) is not None}:
            data[_DEFINED] = origins
        return data

    @field_validator("axes", mode="before")
    @classmethod
    def _registered(cls, axes: Any) -> Any:
        if not isinstance(axes, Mapping):
            raise ValueError(f"`Space(axes={axes!r})` must map the names of registered axes to candidates")
        return {name: listed(f"Space({name}={values!r})", values) for name, values in axes.items()}

    @field_validator("demos", mode="before")
    @classmethod
    def _plain(cls, demos: Any) -> Any:
        return more("demos", {}, demos, method="Space") if isinstance(demos, Mapping) else demos

    @model_validator(mode="after")
    def _check_all(self) -> Self:
        check_space(self)
        return self

    # --- axes ---

    @property
    def spaces(self) -> dict[str, Space]:
        """Itself, for every operator (""); `Spaces` has one for each."""
        return {"": self}

    def at(self, place: str) -> Space | None:
        """The space of an operator; the same for all."""
        del place
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its axes: the library's in the order in which they are chosen, then registered ones."""
        return (*(axis.name for axis in TABLE), *self.axes)

    def on(self, name: str) -> tuple[Any, ...]:
        """The candidates on an axis, in the given order."""
        return self.axes[name] if name in self.axes else getattr(self, name)

    # --- construction ---

    @classmethod
    def default_for(cls, schedule: Schedule, checks: Iterable[str] = (), models: Iterable[str] = ()) -> Space:
        """A space around a schedule: its caps and temperature, shapes up to three rounds, all distillers, and a vote.

        Args:
            schedule: of the program.
            checks: names of the program's checks (`Operator.checks`). With checks the space includes them, the
                `checked` distiller, the best-checked draft as the answer, `keep`, and an end at the first draft that
                passes.
            models: names of the program's models (`Operator.models`). With models the space drafts and refines with
                each of them, and distills with the one that drafts.
        """
        kept = {axis.name: axis.around(schedule) if axis.around else (getattr(schedule, axis.name),) for axis in TABLE}
        if names := tuple(checks):
            more = {axis.name: axis.checked for axis in TABLE} | {CHECK.name: (None, *names)}
            kept = {name: tuple(dict.fromkeys((*values, *more[name]))) for name, values in kept.items()}
        if names := tuple(models):
            kept |= {"draft_model": names, "refine_model": names, "distill_model": (None,)}
        return cls(monotone=_falls(schedule.widths), **kept)

    def fix(self, **values: Any) -> Space:
        """A copy in which each of the named axes has the one given value.

        For `instructions` and `demos` each named role has the one given text or set, and None is the student's own; for
        all roles at once use `instructions=None`.

        >>> space.fix(kappa=512, temperature=0.7, instructions={"draft": "Solve it backwards.", "refine": None})

        Raises ConfigError for several values in place of one, and as `Space` does.
        """
        self._known(values)
        changed: dict[str, Any] = {}
        fixed = set(self.fixed)
        for name, value in values.items():
            if name in PROMPTS:
                chosen = only(name, getattr(self, name), value)
                changed[name] = {**getattr(self, name), **chosen}
                for role, left in chosen.items():
                    (fixed.add if left else fixed.discard)(f"{role}_{name}")
            elif name not in _WHOLE and isinstance(value, (list, tuple, set, range)):
                raise ConfigError(
                    f"`Space.fix({name}={value!r})` is not one value; use `narrow` or `extend` for several"
                )
            else:
                changed[name] = value if name in _WHOLE else (value,)
        return self._replace({"fixed": tuple(sorted(fixed)), **changed})

    def narrow(self, **values: Any) -> Space:
        """A copy with fewer candidates on the named axes; for `instructions` and `demos`, of the named roles.

        >>> space.narrow(widths=(1, 2), instructions={"draft": ()})

        The student's own instructions and demonstrations stay. Raises ConfigError for a candidate that is not in the
        space.
        """
        self._known(values)
        changed: dict[str, Any] = {}
        for name, kept in values.items():
            if name == "monotone" and self.monotone and not kept:
                raise ConfigError("`Space.narrow(monotone=False)` allows more; use `extend`")
            if name in PROMPTS:
                changed[name] = fewer(name, getattr(self, name), kept)
            elif name in _WHOLE:
                changed[name] = kept
            else:
                changed[name] = listed(f"Space.narrow({name}={kept!r})", kept)
                there = self._there(name)
                new = [value for value in changed[name] if value not in there]
                if new:
                    raise ConfigError(
                        f"`Space.narrow({name}=...)` has {new[0]!r}, which is not in {there}; use `extend`"
                    )
        gone = {f"{role}_{kind}" for kind in PROMPTS for role, left in changed.get(kind, {}).items() if not left}
        return self._replace({"fixed": tuple(name for name in self.fixed if name not in gone), **changed})

    def extend(self, **values: Any) -> Space:
        """A copy with additional candidates on the named axes; for `instructions` and `demos`, of the named roles.

        >>> space.extend(kappa=(4096,), instructions=proposals.instructions)
        """
        self._known(values)
        changed: dict[str, Any] = {}
        for name, added in values.items():
            if name == "monotone" and not self.monotone and added:
                raise ConfigError("`Space.extend(monotone=True)` allows less; use `narrow`")
            if name in PROMPTS:
                changed[name] = more(name, getattr(self, name), added)
            elif name in _WHOLE:
                changed[name] = added
            else:
                added = listed(f"Space.extend({name}={added!r})", added)
                changed[name] = tuple(dict.fromkeys((*self._there(name), *added)))
        return self._replace(changed)

    def _there(self, name: str) -> tuple[Any, ...]:
        """The candidates on an axis; empty for a registered one that the space does not have."""
        return self.on(name) if name in self.names else ()

    def _known(self, values: Mapping[str, Any]) -> None:
        unknown = [name for name in values if name not in type(self).model_fields and name not in AXES]
        if unknown:
            known = (*type(self).model_fields, *self.axes)
            raise ConfigError(f"`Space` has no axis {unknown[0]!r}; it has {', '.join(known)}")

    def _replace(self, changes: Mapping[str, Any]) -> Space:
        return Space(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    # --- choice of candidates ---

    def suggest(self, trial: Suggests) -> Candidate:
        """One candidate, suggested by an Optuna trial parameter by parameter. Axes with one value have no parameter.

        Raises ConfigError if a registered axis cannot change the schedule chosen so far.
        """
        pick = Asked(trial)
        made = choose(self, pick)
        chosen: dict[str, dict[str, Any]] = {kind: {} for kind in PROMPTS}
        for kind, role in self._prompts(made.schedule):
            choice = pick(f"{role}_{kind}", self._choices(kind, role))
            if choice != OWN:
                chosen[kind][role] = getattr(self, kind)[role][choice - 1]
        return Candidate(made.schedule, **chosen, axes=made.axes)

    def params_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """The parameters for which `suggest` gives `candidate`; None if it is not in this space."""
        wanted = candidate._replace(schedule=canonical(candidate.schedule))
        named = {
            name: (candidate.axes[name],) if candidate.axes.get(name, ...) in values else values
            for name, values in self.axes.items()
        }
        for values in itertools.product(*named.values()):
            recorded = Recorded(self, wanted, dict(zip(named, values, strict=True)))
            try:
                found = self.suggest(recorded)
            except (ConfigError, LookupError):
                continue
            if found.key == candidate.key:
                return recorded.given
        return None

    def __contains__(self, item: object) -> bool:
        if isinstance(item, Schedule):
            item = Candidate(item, {})
        return isinstance(item, Candidate) and self.params_of(item) is not None

    def candidates(self) -> Iterator[Candidate]:
        """All candidates without duplicates, small shapes first."""
        seen: set[str] = set()
        for made in every(self):
            prompts = self._prompts(made.schedule)
            for choices in itertools.product(*(self._choices(kind, role) for kind, role in prompts)):
                chosen: dict[str, dict[str, Any]] = {kind: {} for kind in PROMPTS}
                for (kind, role), choice in zip(prompts, choices, strict=True):
                    if choice != OWN:
                        chosen[kind][role] = getattr(self, kind)[role][choice - 1]
                candidate = Candidate(made.schedule, **chosen, axes=made.axes)
                if candidate.key not in seen:
                    seen.add(candidate.key)
                    yield candidate

    def schedules(self) -> Iterator[Schedule]:
        """All schedules without duplicates, small shapes first."""
        return (made.schedule for made in every(self))

    @property
    def size(self) -> int:
        """The number of different candidates."""
        schedules = set(map(canonical, self.schedules()))
        return sum(
            math.prod(len(self._choices(kind, role)) for kind, role in self._prompts(schedule))
            for schedule in schedules
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that some schedule of the space calls."""
        return roles_of(self)

    def widest(self) -> Schedule:
        """A schedule that needs at least as much context, and as many concurrent requests, as any in the space."""
        return widest(self)

    def _prompts(self, schedule: Schedule) -> list[tuple[str, str]]:
        """(kind, role) of the prompt parameters that apply to a schedule."""
        called = [role for role in Role if role in schedule.roles]
        return [(kind, role.value) for kind in PROMPTS for role in called if getattr(self, kind).get(role)]

    def _choices(self, kind: str, role: str) -> tuple[int, ...]:
        first = 1 if f"{role}_{kind}" in self.fixed else OWN
        return tuple(range(first, len(getattr(self, kind)[role]) + 1))

    # --- display ---

    def describe(self) -> str:
        """A table for people: each axis, its candidates, and when it applies."""
        return table_of(self)

    def __str__(self) -> str:
        return self.describe()


def _falls(widths: Sequence[int]) -> bool:
    return all(a >= b for a, b in itertools.pairwise(widths))
