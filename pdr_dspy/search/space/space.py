"""The schedules, instructions and demonstrations that a search may choose from, as one frozen value.

Every axis is a tuple of candidates. The properties of an axis are in `axes.py`: a parameter exists only if its axis
applies, as kappa does with two or more rounds. LongCoT (one round) and SR (all widths 1) are points of the same space
as PDR.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.schedule import MIN_CANDIDATE_TOKENS, Schedule
from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.axes import CHECK, DISTILLER, FIELDS, FINAL, ROUNDS, TABLE, WIDTHS
from pdr_dspy.search.space.axis import LAST, PLAIN, Axis, width_of
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.canonical import axis_of, canonical, difference
from pdr_dspy.search.space.choosing import Asked, Every, Pick, Suggests, same
from pdr_dspy.search.space.prompt_axes import PROMPTS, DemoSet, fewer, key_of, listed, more, only, shown
from pdr_dspy.search.space.registry import AXES
from pdr_dspy.settings import Settings

OWN = 0
"""The choice of a prompt parameter for the student's own instructions or demonstrations."""
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
        for name in self.names:
            values = self.on(name)
            if not values:
                raise ValueError(f"`Space({name}=())` is empty; give at least one candidate")
            if len(set(values)) != len(values):
                raise ValueError(f"`Space({name}={values})` has a duplicate candidate")
        if min(self.rounds) < 1 or max(self.rounds) > 16:
            raise ValueError(f"`Space(rounds={self.rounds})` must be from 1 to 16")
        self._check_distillers()
        self._check_prompts()
        for axis in TABLE:
            if axis is not ROUNDS:
                self._check_alone(axis)
        if None in self.check and len(self.check) > 1 and all(map(_final_needs_check, self.final)):
            raise ValueError(
                f"`Space(final={self.final})` uses a check, and `check={self.check}` may use none; take None out of "
                '`check`, or add "refine" or "vote" to `final`'
            )
        for name in self.axes:
            self._check_registered(name)
        return self

    def _check_distillers(self) -> None:
        try:
            parts = [DISTILLERS.find(name) for name in self.distiller]
        except ConfigError as error:
            raise ValueError(f"`Space(distiller={self.distiller})`: {error}") from error
        looks = [part.name for part in parts if part.needs_gold]
        if looks:
            raise ValueError(f"`Space(distiller=...)` has {looks[0]!r}, which uses the gold answers; take it out")
        chains = [part.name for part in parts if part.chain]
        if chains and len(self.distiller) > 1:
            raise ValueError(
                f'`Space(distiller=...)` has "{chains[0]}" with others; leave it out: all widths 1 always '
                "hand on the last"
            )
        if chains and max(self.widths) > 1:
            raise ValueError(f'`Space(distiller=("{chains[0]}",))` needs `widths=(1,)`')
        k = max(self.k) if any(part.uses_k for part in parts) else 1
        least = MIN_CANDIDATE_TOKENS * min(k, max(self.widths))
        if max(self.rounds) > 1 and min(self.kappa) < least:
            raise ValueError(f"`Space(kappa={self.kappa})` goes below the {least} tokens that `k={self.k}` needs")

    def _check_alone(self, axis: Axis) -> None:
        """Validate each candidate alone, in a schedule that can have it, and with a check if it uses one."""
        for value in self.on(axis.name):
            beside = {"widths": (256, 1), "distiller": "random_k", "k": 1} if axis.beside is None else axis.beside
            own = {"widths": (value, 1)} if axis is WIDTHS else {axis.name: value}
            try:
                schedule = Schedule(**{**beside, **own})
            except ConfigError as error:
                raise ValueError(f"`Space({axis.name}={self.on(axis.name)})`: {error}") from None
            if schedule.needs_check and not any(self.check):
                raise ValueError(
                    f"`Space({axis.name}=...)` has {value!r}, which uses a check, and `check={self.check}` names "
                    'none; name one of the program\'s, such as `check=("check",)`'
                )

    def _check_registered(self, name: str) -> None:
        """Check that a registered axis can be imported, and accepts each candidate."""
        try:
            axis = AXES.find(name)
        except ConfigError as error:
            raise ValueError(f"`Space({name}=...)`: {error}") from error
        schedule = Schedule(widths=(8, 8, 1), distiller="random_k")
        for value in self.axes[name]:
            where = f"`Space({name}={self.axes[name]})`: {value!r}"
            if not isinstance(value, PLAIN):
                raise ValueError(f"{where} must be a text, a number, a boolean or None")
            try:
                made = axis.changed(schedule, value) if axis.applies(schedule) else schedule
                again = axis.changed(made, value) if axis.applies(made) else made
            except Exception as error:  # any error of the function for an unknown value
                raise ValueError(f"{where} is refused by the axis ({type(error).__name__}: {error})") from error
            if differs := difference(made, again):  # otherwise a candidate's parameters would be ambiguous
                raise ValueError(f"{where} makes {differs} when it is applied again: set fields, do not scale them")

    def _check_prompts(self) -> None:
        for kind in PROMPTS:
            for role, values in getattr(self, kind).items():
                if role not in set(Role):
                    raise ValueError(f"`Space({kind}=...)` names the role {role!r}; the roles are {', '.join(Role)}")
                keys = [key_of(value) for value in values]
                if len(set(keys)) != len(keys):
                    raise ValueError(f"`Space({kind}={{{role!r}: ...}})` has a duplicate candidate")
        blank = [role for role, texts in self.instructions.items() if not all(text.strip() for text in texts)]
        if blank:
            raise ValueError(f"`Space(instructions={{{blank[0]!r}: ...}})` has an empty text; take it out")
        for name in self.fixed:
            role, _, kind = name.partition("_")
            if kind not in PROMPTS or not getattr(self, kind).get(role):
                raise ValueError(f"`Space(fixed=...)` names {name!r}, for which there is no candidate")

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
        made = self._choose(pick)
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
            recorded = _Recorded(self, wanted, dict(zip(named, values, strict=True)))
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
        for made in self._every():
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
        return (made.schedule for made in self._every())

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
        called = {Role.DRAFT}
        if max(self.rounds) > 1:
            called.add(Role.REFINE)
            if max(self.widths) > 1:
                called |= {role for name in self.distiller if (role := DISTILLERS.find(name).role) is not None}
            if True in self.critique and min(self.widths) == 1:
                called.add(Role.CRITIQUE)
        return tuple(role for role in Role if role in called)

    def widest(self) -> Schedule:
        """A schedule that needs at least as much context, and as many concurrent requests, as any in the space."""
        draft = max(self.draft_tokens)
        largest = Schedule(
            widths=(1,),
            draft_tokens=draft,
            refine_tokens=max(cap or draft for cap in self.refine_tokens),
            distill_tokens=max(cap or min(max(self.kappa), draft) for cap in self.distill_tokens),
            thinking_tokens=max(self.thinking_tokens),
            kappa=max(self.kappa),
        )
        width = max(self.widths)
        if max(self.rounds) > 1:
            asks = width > 1 and any(DISTILLERS.find(name).role is not None for name in self.distiller)
            largest = largest.replace(widths=(width, 1), distiller="summary" if asks else "random_k", k=1)
        elif self.final != FINAL.default:
            largest = largest.replace(widths=(width,), final="vote")
        for name, values in self.axes.items():
            axis = AXES.find(name)
            largest = functools.reduce(larger, (axis.changed(largest, value) for value in values), largest)
        return largest

    def _choose(self, pick: Pick) -> _Made:
        """A schedule, chosen axis by axis."""
        schedule = self._choose_shape(pick)
        for axis in FIELDS:
            if axis.applies(schedule):
                value = pick(axis.name, self.on(axis.name), functools.partial(axis.fit, schedule))
                schedule = schedule.model_copy(update={axis.name: value})
        schedule = Schedule(**{name: getattr(schedule, name) for name in schedule.model_fields_set})
        axes: dict[str, Any] = {}
        for name, values in self.axes.items():
            axis = AXES.find(name)
            if axis.applies(schedule):
                axes[name] = pick(name, values)
                schedule = axis.changed(schedule, axes[name])
        return _Made(schedule, axes)

    def _choose_shape(self, pick: Pick) -> Schedule:
        """Rounds, widths, distiller, check and final: they determine which other axes apply. Not validated."""
        rounds = pick("rounds", self.rounds, small_first=True)
        widths: list[int] = []
        for number in range(1, rounds):
            widths.append(pick(width_of(number), self.widths, self._below(widths), small_first=True))
        shape = Schedule.model_construct(widths=(*widths, 1))
        if rounds > 1:
            chain = max(widths) == 1
            distillers = tuple(name for name in self.distiller if DISTILLERS.find(name).chain == chain)
            shape = _with(shape, distiller=pick("distiller", distillers or ("last",)))
        if rounds > 1 or self.final != FINAL.default:
            checks = self.check
            if rounds > 1 and shape.distill_by.needs_check:
                checks = tuple(name for name in checks if name is not None)
            shape = _with(shape, check=pick("check", self.check, _among(checks)))
        if self.final != FINAL.default:
            finals = self.final if shape.check else tuple(name for name in self.final if not _final_needs_check(name))
            shape = _with(shape, final=pick("final", self.final, _among(finals)))
            if shape.final != "refine":
                last = pick(LAST, self.widths, self._below(widths), small_first=True)
                shape = _with(shape, widths=(*widths, last))
        return shape

    def _below(self, widths: Sequence[int]) -> Callable[[int], int]:
        """Limits a width to that of the round before, if no round may be wider."""
        return functools.partial(min, widths[-1]) if self.monotone and widths else same

    def _every(self) -> Iterator[_Made]:
        """All schedules without duplicates; combinations that a registered axis refuses are left out."""
        pick = Every()
        while True:
            try:
                made = self._choose(pick)
            except ConfigError:
                made = None
            if made is not None:
                yield made
            if not pick.advance():
                return

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
        rows = [("axis", "candidates", "applies")]
        for name in self.names:
            axis = AXES.find(name)
            none = axis.none or "as it is"
            values = ", ".join(none if value is None else str(value) for value in self.on(name))
            if axis is WIDTHS:
                values += ", never rising" if self.monotone else ", in any order"
            rows.append((name, values, axis.when))
        for kind in PROMPTS:
            for role, values in getattr(self, kind).items():
                own = [] if f"{role}_{kind}" in self.fixed or not values else ["the student's own"]
                texts = [shown(value) for value in values]
                if values:
                    rows.append((f"{role} {kind}", ", ".join(own + texts), _CALLED[Role(role)]))
        widths = [min(max(len(row[column]) for row in rows), 60) for column in (0, 1)]
        return "\n".join(
            f"{axis:<{widths[0]}}  {values:<{widths[1]}}  {applies}".rstrip() for axis, values, applies in rows
        )

    def __str__(self) -> str:
        return self.describe()


_CALLED = {
    Role.DRAFT: "always",
    Role.REFINE: "from 2 rounds on",
    Role.DISTILL: "distillers that write notes, such as summary",
    Role.SELECT: "distillers that select, such as topk",
    Role.CRITIQUE: "critique",
}


class _Made(NamedTuple):
    """A schedule, and the choices on registered axes for it."""

    schedule: Schedule
    axes: dict[str, Any]


class _Recorded:
    """A trial that answers with the parts of a given candidate, and records its answers."""

    def __init__(self, space: Space, candidate: Candidate, axes: Mapping[str, Any]) -> None:
        self.space = space
        self.candidate = candidate
        self.axes = axes
        self.given: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._value(name)
        axis = axis_of(name)
        if value is None and None not in choices and axis is not None and axis.in_force is not None:
            value = axis.value(self.candidate.schedule)  # None has the same effect
        if name == "k" and value not in choices:  # k is limited to the narrowest round: any larger one gives the same
            value = next((choice for choice in choices if choice >= value), value)
        if value not in choices:
            if not self.axes:
                raise LookupError(name)
            value = choices[0]  # a registered axis may change it again; the final result is compared
        self.given[name] = value
        return value

    def _value(self, name: str) -> Any:
        schedule = self.candidate.schedule
        if name == ROUNDS.name:
            return schedule.rounds
        if name == LAST:
            return schedule.widths[-1]
        if name.startswith("width_"):
            return schedule.widths[int(name.removeprefix("width_")) - 1]
        if name in self.axes:
            return self.axes[name]
        role, _, kind = name.partition("_")
        if kind in PROMPTS:
            value = getattr(self.candidate, kind).get(role)
            keys = [key_of(one) for one in getattr(self.space, kind)[role]]
            return OWN if value is None else 1 + keys.index(key_of(value)) if key_of(value) in keys else None
        return getattr(schedule, name)


def _with(schedule: Schedule, **changes: Any) -> Schedule:
    """A copy that is not validated: the result of all choices is."""
    return schedule.model_copy(update=changes)


def _among(values: Sequence[Any]) -> Callable[[Any], Any]:
    """Replaces an invalid value by the first valid one."""
    return lambda value: value if value in values or not values else values[0]


def _final_needs_check(final: str) -> bool:
    return Schedule(widths=(2,), final=final).needs_check is not None if final != "refine" else False  # type: ignore[arg-type]


def larger(one: Schedule, other: Schedule) -> Schedule:
    """A schedule with the larger of each cap, and the wider of both shapes."""
    caps = {
        name: max(getattr(one, name), getattr(other, name)) for name in ("draft_tokens", "thinking_tokens", "kappa")
    }
    wide = max(one, other, key=lambda schedule: (schedule.rounds > 1, max(schedule.widths)))
    return wide.replace(
        refine_tokens=max(one.refine_cap, other.refine_cap),
        distill_tokens=max(one.distill_cap, other.distill_cap),
        **caps,
    )


def _falls(widths: Sequence[int]) -> bool:
    return all(a >= b for a, b in itertools.pairwise(widths))
